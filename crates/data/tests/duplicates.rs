//! Copies and leaks are found wherever the images are, and nothing else is.

mod common;
use common::*;
use ddpm_data::{Error, Options, duplicates, leaks, open};
use image::ExtendedColorType;
use std::path::Path;
use tempfile::tempdir;

fn divided(folder: &Path) {
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
fn copies_and_leaks() {
    let folder = tempdir().unwrap();
    divided(folder.path());
    let rgb = Options { channels: Some(3), ..Options::default() };
    for options in [rgb.clone(), streamed(&rgb)] {
        let train = open(folder.path(), &options).unwrap();
        let test = open(folder.path(), &Options { split: ddpm_data::Split::Test, ..options.clone() }).unwrap();
        assert_eq!(duplicates(&train), [vec![0, 2], vec![3, 4]]);
        assert!(duplicates(&test).is_empty());
        assert_eq!(leaks(&train, &test).unwrap(), [(0, 1), (2, 3)]);

        let summary = duplicates::summary(&train, Some((&train, &test))).unwrap();
        assert_eq!((summary.copies, summary.labels_differ, summary.groups.len()), (2, 1, 2));
        let leaked = summary.leaked.as_ref().unwrap();
        assert!(leaked[1].held_out.ends_with("8.webp") && leaked[1].train.ends_with("4.png"), "{leaked:?}");
        let text = summary.to_string();
        for part in ["2 in 2 groups", "1 with several labels", "1.png = ", "(labels differ)", "2 held-out images"] {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
    }
    let (train, grey) =
        (open(folder.path(), &rgb).unwrap(), open(&folder.path().join("test/a"), &Options::default()).unwrap());
    assert!(matches!(leaks(&train, &grey), Err(Error::Argument(_))));
    assert!(duplicates::summary(&grey, None).unwrap().to_string().contains("no held-out part"));
}

#[test]
fn places_name_the_image() {
    let folder = tempdir().unwrap();
    let path = put(
        &folder.path().join("a.zip"),
        &zip(&[("x/1.png", &dot(1)), ("x/2.png", b"bad"), ("x/3.png", &dot(1))], zip::CompressionMethod::Stored),
    );
    for options in [Options::default(), streamed(&Options::default())] {
        let set = open(&path, &options).unwrap();
        assert_eq!([set.place(0), set.place(1)], [path.join("x/1.png"), path.join("x/3.png")]);
        assert_eq!(duplicates(&set), [[0, 1]]);
    }
    let path = put(&folder.path().join("train-images-idx3-ubyte"), &idx(&[3, 1, 2], &[1, 2, 3, 4, 1, 2]));
    let set = open(&path, &Options::default()).unwrap();
    assert_eq!((duplicates(&set), set.place(2)), (vec![vec![0, 2]], path.join("2")));
}
