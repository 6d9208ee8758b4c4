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

/// Returns the documentation: its files, by path from the root of the repository, with their texts.
fn pages() -> Vec<(std::path::PathBuf, String)> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let docs = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let docs = docs.filter(|path| path.extension().is_some_and(|end| end == "md"));
    let others = ["README.md", "CONTRIBUTING.md", "bench/README.md", "tools/README.md"].map(|name| root.join(name));
    docs.chain(others).map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn links_of_the_documentation_lead_somewhere() {
    let pages = pages();
    // As GitHub and mdBook name headings.
    let anchor = |heading: &str| -> String {
        let kept = heading.to_lowercase().replace(' ', "-");
        kept.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
    };
    let mut count = 0;
    for (page, text) in &pages {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            let (file, heading) = link.split_once('#').map_or((link, None), |(file, heading)| (file, Some(heading)));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: {link}", page.display());
            let leaves_the_book = page.parent().unwrap().ends_with("docs") && file.starts_with("..");
            assert!(!leaves_the_book, "{}: a page of the book cannot link to {link}; name the file", page.display());
            if let Some(heading) = heading {
                let headings = std::fs::read_to_string(&target).unwrap();
                let mut headings =
                    headings.lines().filter_map(|line| Some(anchor(line.trim_start_matches('#').strip_prefix(' ')?)));
                assert!(headings.any(|found| found == heading), "{}: {link}", page.display());
            }
            count += 1;
        }
    }
    assert!(count > 50, "{count}");
}

#[test]
fn the_book_has_every_page() {
    let summary = include_str!("../../../docs/SUMMARY.md");
    for (page, _) in pages() {
        let name = page.file_name().unwrap().to_str().unwrap();
        let is_chapter = page.parent().unwrap().ends_with("docs") && name != "SUMMARY.md";
        assert!(!is_chapter || summary.contains(&format!("({name})")), "{name}");
    }
}
