//! Label files in image folders.

use crate::common::*;
use ddpm_data::{LabelFrom, ReadOptions, open};
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
    // Spaces after commas, and the integers of pandas.
    assert_eq!(labels(&[("train/metadata.csv", "file_name, label\na/1.png, 2.0\n2.png, 1.0\n3.png, 0.0\n")]), numbers);
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
    refuses(
        "metadata.csv",
        "file_name,label\n1.png,0\n2.png,1\n./1.png,2\n",
        &["\"0\" and \"2\"", "\"1.png\"", "one row"],
    );
    refuses("metadata.jsonl", "{\"file_name\": \"1.png\", \"label\": 0}\n[1]\n", &["line 2"]);
    refuses("metadata.jsonl", "{\"file_name\": \"1.png\", \"label\": {}}\n", &["1.png", "{}"]);
    refuses("dataset.json", &"[".repeat(100_000), &["expected"]);
    refuses("dataset.json", &format!("{{\"labels\": [[\"a\", {}", "[".repeat(100_000)), &["expected"]);
}

fn from(source: &str) -> ReadOptions {
    ReadOptions { label_from: source.parse().unwrap(), ..ReadOptions::default() }
}

/// Folders 0 to 11 have the labels 0 to 11, and not those of their order as text.
#[test]
fn classes_are_in_natural_order() {
    let folder = tempdir().unwrap();
    (0..12).for_each(|class| drop(put(&folder.path().join(format!("{class}/x.png")), &dot(class))));
    let set = opened(folder.path(), &ReadOptions::default());
    let labels: Vec<u8> = set.labels().unwrap().iter().map(|&label| label as u8).collect();
    assert_eq!(labels, dots(&set));
    assert_eq!(set.class_names()[10], "10");

    put(
        &folder.path().join("metadata.csv"),
        (0..12).map(|i| format!("{i}/x.png,c{i}\n")).fold("file_name,label\n".into(), |a: String, b| a + &b).as_bytes(),
    );
    let set = opened(folder.path(), &ReadOptions::default());
    assert_eq!(set.class_names()[9..], ["c9", "c10", "c11"]);
}

#[test]
fn labels_come_from_file_names() {
    let folder = tempdir().unwrap();
    for (name, value) in [("a/dog_001.png", 1), ("a/cat_002.png", 2), ("b/dog_big_3.png", 3)] {
        put(&folder.path().join(name), &dot(value));
    }
    let set = opened(folder.path(), &from("filename"));
    assert_eq!(
        (dots(&set), set.labels(), set.class_names().join(" ")),
        (vec![2, 1, 3], Some(&[0, 1, 1][..]), "cat dog".into())
    );
    assert_eq!(opened(folder.path(), &ReadOptions::default()).class_names(), ["a", "b"]);
    put(&folder.path().join("b/plain.png"), &dot(4));
    assert!(refused(folder.path(), &from("filename")).contains("b/plain.png"));
}

#[test]
fn labels_come_from_a_chosen_column() {
    let folder = tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    put(&at("birds/train/1.png"), &dot(1));
    put(&at("birds/train/2.png"), &dot(2));
    // The layout of the datasets library, with more columns than it knows.
    let table = put(&at("birds/train/metadata.csv"), b"file_name,label,breed\n1.png,0,owl\n2.png,0,jay\n");
    let labels = |source: &str| {
        let set = opened(&at("birds"), &from(source));
        (set.labels().unwrap().to_vec(), set.class_names().join(" "))
    };
    assert_eq!(labels("column:breed"), (vec![1, 0], "jay owl".to_owned()));
    assert_eq!(labels("folder").0, [0, 0]);
    let message = open(&at("birds"), &from("column:bred")).err().unwrap().to_string();
    assert!(message.contains("\"bred\"") && message.contains("file_name, label, breed"), "{message}");
    fs::remove_file(table).unwrap();
    put(
        &at("birds/train/metadata.jsonl"),
        b"{\"file_name\": \"1.png\", \"breed\": 4}\n{\"file_name\": \"2.png\", \"breed\": 7}\n",
    );
    assert_eq!(labels("column:breed").0, [4, 7]);
    fs::remove_file(at("birds/train/metadata.jsonl")).unwrap();
    assert!(open(&at("birds"), &from("column:breed")).err().unwrap().to_string().contains("metadata.csv"));
    // Any other table, whose names lack folder and extension.
    put(&at("birds/labels.csv"), b"id,breed\n1,owl\n2,jay\n");
    put(&at("birds/note.txt"), b"");
    assert_eq!(labels("column:breed"), (vec![1, 0], "jay owl".to_owned()));
    // Two images with the same file name cannot be told apart by it.
    put(&at("birds/more/1.png"), &dot(3));
    let message = open(&at("birds"), &from("column:breed")).err().unwrap().to_string();
    assert!(message.contains("no label for 2 of 3"), "{message}");
}

#[test]
fn label_sources_suit_the_format() {
    for (text, expected) in [("folder", LabelFrom::Folder), ("column:a:b", LabelFrom::Column("a:b".into()))] {
        assert_eq!((text.parse::<LabelFrom>().unwrap(), expected.to_string()), (expected, text.to_owned()));
    }
    for wrong in ["", "file", "column", "column:", "Folder"] {
        assert!(wrong.parse::<LabelFrom>().unwrap_err().contains("expected folder, filename"), "{wrong}");
    }
    let folder = tempdir().unwrap();
    let idx = put(&folder.path().join("train-images-idx3-ubyte"), &idx(&[1, 2, 2], &[0; 4]));
    assert!(refused(&idx, &from("filename")).contains("no file names"));
    // The keys of webdataset.
    let shard = tar(&[
        ("1.png", &dot(1)),
        ("1.json", br#"{"label": 0, "kind": "b"}"#),
        ("2.png", &dot(2)),
        ("2.json", br#"{"label": 0, "kind": "a"}"#),
    ]);
    let shard = put(&folder.path().join("s.tar"), &shard);
    assert_eq!(opened(&shard, &from("column:kind")).class_names(), ["a", "b"]);
    assert_eq!(opened(&shard, &ReadOptions::default()).class_names(), ["0"]);
    assert!(refused(&shard, &from("column:none")).contains("\"none\""));
}

/// A part that lacks a class keeps the labels of the others.
#[test]
fn labels_follow_the_names_of_another_set() {
    let folder = tempdir().unwrap();
    for name in ["train/a", "train/b", "train/c", "test/a", "test/c"] {
        put(&folder.path().join(format!("{name}/x.png")), &dot(1));
    }
    let train = opened(folder.path(), &ReadOptions::default());
    let test = || opened(folder.path(), &test_split());
    assert_eq!(test().labels(), Some(&[0, 1][..]));
    let same = test().with_class_names(train.class_names()).unwrap();
    assert_eq!((same.labels(), same.class_names()), (Some(&[0, 2][..]), train.class_names()));
    let error = test().with_class_names(&["a".to_owned(), "b".to_owned()]).err().unwrap().to_string();
    assert!(error.contains("class c") && error.contains("a, b"), "{error}");
    // Numbers are labels.
    let numbers = ddpm_data::builtin(&test_split()).unwrap();
    let names: Vec<String> = numbers.class_names().to_vec();
    assert_eq!(numbers.with_class_names(&names).unwrap().class_names(), names);
}

/// Names that differ only in bytes that are not UTF-8, and names with a backslash, which separates nothing on Linux.
#[cfg(target_os = "linux")]
#[test]
fn names_that_are_not_text_stay_apart() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let folder = tempdir().unwrap();
    for (class, value) in [(&b"a\xff"[..], 1), (b"a\xfe", 2), (b"b\\c", 3)] {
        put(&folder.path().join(OsStr::from_bytes(class)).join("1.png"), &dot(value));
    }
    let set = opened(folder.path(), &ReadOptions::default());
    assert_eq!(set.class_names(), ["a\\xfe", "a\\xff", "b\\c"]);
    assert_eq!((dots(&set), set.labels()), (vec![2, 1, 3], Some(&[0, 1, 2][..])));
    // In an archive too; there a backslash separates, as Windows' tools write it.
    let mut archive = tar::Builder::new(Vec::new());
    for (name, value) in [(&b"a\xff/1.png"[..], 1), (b"a\xfe/1.png", 2)] {
        let picture = dot(value);
        let mut header = tar::Header::new_old();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_size(picture.len() as u64);
        header.set_cksum();
        archive.append(&header, &picture[..]).unwrap();
    }
    let set = opened(&put(&folder.path().join("a.tar"), &archive.into_inner().unwrap()), &ReadOptions::default());
    assert_eq!(set.class_names(), ["a\\xfe", "a\\xff"]);
    // A table of such a folder has the names as they are.
    put(&folder.path().join("table/b\\1.png"), &dot(1));
    put(&folder.path().join("table/metadata.csv"), b"file_name,label\nb\\1.png,7\n");
    assert_eq!(opened(&folder.path().join("table"), &ReadOptions::default()).labels(), Some(&[7][..]));
}
