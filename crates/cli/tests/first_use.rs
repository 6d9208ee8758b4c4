//! What people type and have on their disks: each is done, or refused in words that say what to do.

mod common;

use common::*;

#[test]
fn numbers_out_of_range_are_explained() {
    let place = Place::new();
    let wrong = |flag: &str, value: &str, words: &[&str]| {
        mistaken(place.ddpm(&["sample", "run", flag, value]), &[&[flag, value], words].concat());
    };
    wrong("--n", "-1", &["whole number of at least 1"]);
    wrong("--n", "0", &["at least 1"]);
    wrong("--seed", "-1", &["whole number of at least 0"]);
    wrong("--seed", "18446744073709551616", &["too large"]);
    wrong("--eta", "x", &["expected 0 to 1"]);
    wrong("--timesteps", "abc", &["whole timesteps"]);
    let object = json_error(place.ddpm(&["sample", "run", "--seed", "-1", "--json"]));
    assert_eq!(object, "invalid value '-1' for '--seed <N>': expected a whole number of at least 0");
}

/// The error of a command with `--json`, which is its one object on standard output.
fn json_error(mut command: assert_cmd::Command) -> String {
    let output = command.output().unwrap();
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    object["error"].as_str().unwrap().to_owned()
}

#[test]
fn foreign_names_do_not_reach_the_terminal_as_they_are() {
    let place = Place::new();
    std::fs::create_dir(place.path("photos")).unwrap();
    for name in ["a\u{1b}[2J.png", "b\nc.png"] {
        std::fs::write(place.path("photos").join(name), "no image").unwrap();
    }
    let output = place.ddpm(&["inspect", "photos"]).output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(text.contains("\\u001b[2J.png") && !text.contains('\u{1b}'), "{text}");
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
}
