//! Label files in image folders.

mod common;
use common::*;
use ddpm_data::{ReadOptions, open};
use std::fs;
use tempfile::tempdir;

#[test]
fn reads_label_files_of_every_format() {
    let folder = tempdir().unwrap();
    for (name, value) in [("train/a/1", 1), ("train/2", 2), ("train/3", 3), ("test/4", 4)] {
        put(&folder.path().join(format!("{name}.png")), &dot(value));
    }
    let labels = |files: &[(&str, &str)]| {
        for (name, text) in files {
            put(&folder.path().join(name), text.as_bytes());
        }
        let set = opened(folder.path(), &ReadOptions::default());
        files.iter().for_each(|(name, _)| fs::remove_file(folder.path().join(name)).unwrap());
        assert_eq!(dots(&set), [2, 3, 1]);
        (set.labels().map(<[u32]>::to_vec), set.class_names().join(" "))
    };
    let numbers = (Some(vec![1, 0, 2]), "0 1 2".to_owned());
    let names = (Some(vec![1, 0, 1]), "cat dog".to_owned());

    let csv = "file_name,text,label\na/1.png,\"one, the first\",2\n2.png,,1\n./3.png,x,0\n";
    assert_eq!(labels(&[("train/metadata.csv", csv)]), numbers);
    assert_eq!(labels(&[("train/metadata.csv", &format!("\u{feff}{}", csv.replace('\n', "\r\n")))]), numbers);
    let csv = "label,file_name\ndog,train/a/1.png\ndog,train/2.png\ncat,train/3.png\ncat,test/4.png\n";
    assert_eq!(labels(&[("metadata.csv", csv)]), names);
    let jsonl = r#"{"file_name": "2.png", "label": 1}

{"file_name": "3.png", "label": 0, "objects": {"bbox": [[1, 2]]}}
{"file_name": "a/1.png", "label": "2"}"#;
    assert_eq!(labels(&[("train/metadata.jsonl", jsonl)]), numbers);
    // The label file of the split takes precedence over that of the set.
    assert_eq!(labels(&[("train/metadata.jsonl", jsonl), ("metadata.csv", csv)]), numbers);
    let json = r#"{"labels": [["2.png", "dog"], ["3.png", "cat"], ["a/1.png", "dog"], ["gone.png", 9]]}"#;
    assert_eq!(labels(&[("train/dataset.json", json)]), names);
    // Label files without labels, and other files of the same name.
    assert_eq!(labels(&[("metadata.csv", "file_name,text\ntrain/2.png,x\n")]), (None, String::new()));
    assert_eq!(labels(&[("train/metadata.jsonl", "{\"file_name\": \"2.png\"}\n")]), (None, String::new()));
    assert_eq!(labels(&[("metadata.csv", "date,place\n2026,x\n")]), (None, String::new()));
}

#[test]
fn label_files_take_precedence_over_folders() {
    let folder = tempdir().unwrap();
    put(&folder.path().join("b/1.png"), &dot(1));
    put(&folder.path().join("c/2.png"), &dot(2));
    assert_eq!(opened(folder.path(), &ReadOptions::default()).labels(), Some(&[0, 1][..]));
    put(&folder.path().join("metadata.csv"), b"date\n2026\n");
    let set = opened(folder.path(), &ReadOptions::default());
    assert_eq!((set.labels(), set.report().other_files), (Some(&[0, 1][..]), 1));
    put(&folder.path().join("dataset.json"), br#"{"labels": [["b/1.png", 5], ["c/2.png", 3]]}"#);
    let set = opened(folder.path(), &ReadOptions::default());
    assert_eq!((set.labels(), set.report().other_files), (Some(&[5, 3][..]), 1));
}

#[test]
fn invalid_label_files_are_errors() {
    let folder = tempdir().unwrap();
    put(&folder.path().join("1.png"), &dot(1));
    put(&folder.path().join("2.png"), &dot(2));
    let refuses = |name: &str, text: &str, words: &[&str]| {
        let file = put(&folder.path().join(name), text.as_bytes());
        let message = open(folder.path(), &ReadOptions::default()).err().unwrap().to_string();
        fs::remove_file(&file).unwrap();
        assert!(message.starts_with(&*file.to_string_lossy()) && !message.contains('\n'), "{message}");
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    };
    refuses("metadata.csv", "file_name,label\n1.png,0\n", &["no label for 1 of 2", "2.png"]);
    refuses("metadata.csv", "file_name,label\n1.png,0,7\n", &["table"]);
    refuses("metadata.csv", "file_name,label\n1.png,-3\n2.png,0\n", &["\"-3\""]);
    refuses("metadata.csv", "file_name,label\n../1.png,3\n/etc/passwd,0\n", &["no label for 2 of 2"]);
    refuses("metadata.jsonl", "{\"file_name\": \"1.png\", \"label\": 0}\n[1]\n", &["line 2"]);
    refuses("metadata.jsonl", "{\"file_name\": \"1.png\", \"label\": {}}\n", &["1.png", "{}"]);
    refuses("dataset.json", &"[".repeat(100_000), &["expected"]);
    refuses("dataset.json", &format!("{{\"labels\": [[\"a\", {}", "[".repeat(100_000)), &["expected"]);
}
