//! Duplicates and leaks, in memory and streamed.

use crate::common::*;
use ddpm_data::{DuplicateReport, Error, ReadOptions, duplicates, leaks, open};
use image::ExtendedColorType;
use std::path::Path;
use tempfile::tempdir;

fn write_splits(folder: &Path) {
    for (name, value) in [
        ("train/a/1", 1),
        ("train/a/2", 2),
        ("train/b/3", 1),
        ("train/b/4", 4),
        ("train/b/5", 4),
        ("test/a/6", 2),
        ("test/b/7", 7),
    ] {
        put(&folder.join(format!("{name}.png")), &dot(value));
    }
    // The same pixels in another file format.
    put(&folder.join("test/b/8.webp"), &encode(image::ImageFormat::WebP, &[4; 12], (2, 2), ExtendedColorType::Rgb8));
}

#[test]
fn finds_duplicates_and_leaks() {
    let folder = tempdir().unwrap();
    write_splits(folder.path());
    let rgb = ReadOptions { channels: Some(3), ..ReadOptions::default() };
    for options in [rgb.clone(), streamed(&rgb)] {
        let train = open(folder.path(), &options).unwrap();
        let test = open(folder.path(), &ReadOptions { split: ddpm_data::Split::Test, ..options.clone() }).unwrap();
        assert_eq!(duplicates(&train), [vec![0, 2], vec![3, 4]]);
        assert!(duplicates(&test).is_empty());
        assert_eq!(leaks(&train, &test).unwrap(), [(0, 1), (2, 3)]);

        let report = DuplicateReport::new(&train, Some((&train, &test))).unwrap();
        assert_eq!((report.copies, report.labels_differ, report.groups.len()), (2, 1, 2));
        let leaked = report.leaked.as_ref().unwrap();
        assert!(leaked[1].held_out.ends_with("8.webp") && leaked[1].train.ends_with("4.png"), "{leaked:?}");
        let text = report.to_string();
        for part in ["2 in 2 groups", "1 with several labels", "1.png = ", "(labels differ)", "2 held-out images"] {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
    }
    let (train, grey) =
        (open(folder.path(), &rgb).unwrap(), open(&folder.path().join("test/a"), &ReadOptions::default()).unwrap());
    assert!(matches!(leaks(&train, &grey), Err(Error::Argument(_))));
    assert!(DuplicateReport::new(&grey, None).unwrap().to_string().contains("no held-out split"));
}

#[test]
fn image_paths_name_file_or_index() {
    let folder = tempdir().unwrap();
    let path = put(
        &folder.path().join("a.zip"),
        &zip(&[("x/1.png", &dot(1)), ("x/2.png", b"bad"), ("x/3.png", &dot(1))], zip::CompressionMethod::Stored),
    );
    for options in [ReadOptions::default(), streamed(&ReadOptions::default())] {
        let set = open(&path, &options).unwrap();
        assert_eq!([set.image_path(0), set.image_path(1)], [path.join("x/1.png"), path.join("x/3.png")]);
        assert_eq!(duplicates(&set), [[0, 1]]);
    }
    let path = put(&folder.path().join("train-images-idx3-ubyte"), &idx(&[3, 1, 2], &[1, 2, 3, 4, 1, 2]));
    let set = open(&path, &ReadOptions::default()).unwrap();
    assert_eq!((duplicates(&set), set.image_path(2)), (vec![vec![0, 2]], path.join("2")));
}
