//! The README's example is the crate's, which the compiler checks.

#[test]
fn the_readmes_example_is_the_front_pages() {
    let read =
        |path: &str| std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let (readme, front_page) = (read("../../README.md"), read("src/lib.rs"));
    let example = readme.split_once("```rust\n").unwrap().1.split_once("```").unwrap().0;
    let documented: Vec<&str> = front_page.lines().filter_map(|line| line.strip_prefix("//!")).map(str::trim).collect();
    let lines: Vec<&str> = example.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert!(lines.len() > 5, "{example}");
    for line in lines {
        assert!(documented.contains(&line), "`{line}` is not in the documentation of the crate");
    }
}
