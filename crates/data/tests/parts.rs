//! Held-out images stay out of the training part, whatever else lies next to it, and where that cannot be known, a
//! warning says so.

use crate::common::*;
use ddpm_data::{Error, ImageSet, ReadOptions, open};
use std::path::Path;
use tempfile::tempdir;
use zip::CompressionMethod::Stored;

/// The same files in a folder, a zip and two tar archives: all must be read alike.
fn in_every_container(files: &[(&str, u8)], check: impl Fn(&Path)) {
    let folder = tempdir().unwrap();
    let images: Vec<Vec<u8>> = files.iter().map(|(_, value)| dot(*value)).collect();
    let content = |at: usize| if files[at].0.ends_with(".png") { &images[at][..] } else { b"{}" };
    let members: Vec<(&str, &[u8])> = files.iter().enumerate().map(|(at, (name, _))| (*name, content(at))).collect();
    for (name, bytes) in &members {
        put(&folder.path().join("folder/set").join(name), bytes);
    }
    check(&folder.path().join("folder"));
    check(&put(&folder.path().join("set.zip"), &zip(&members, Stored)));
    check(&put(&folder.path().join("set.tar"), &tar(&members)));
    check(&put(&folder.path().join("set.tar.gz"), &gzip(&tar(&members))));
}

fn sorted_dots(set: &ImageSet) -> Vec<u8> {
    let mut dots = dots(set);
    dots.sort_unstable();
    dots
}

#[track_caller]
fn divided(files: &[(&str, u8)], train: &[u8], test: &[u8]) {
    in_every_container(files, |path| {
        let set = opened(path, &ReadOptions::default());
        assert_eq!(sorted_dots(&set), train, "{}", path.display());
        assert_eq!(set.report().warnings, [""; 0], "{}", path.display());
        assert_eq!(sorted_dots(&opened(path, &test_split())), test, "{}", path.display());
    });
}

#[test]
fn folders_without_images_do_not_join_the_parts() {
    let plain = [("train/a/1.png", 1), ("train/b/2.png", 2), ("test/a/3.png", 3)];
    divided(&plain, &[1, 2], &[3]);
    divided(&[&plain[..], &[("annotations/train.json", 0), ("README.md", 0)]].concat(), &[1, 2], &[3]);
    divided(&[&plain[..], &[("labels/train/1.txt", 0), ("labels/test/3.txt", 0)]].concat(), &[1, 2], &[3]);
    // The classes are those of the part.
    in_every_container(&[&plain[..], &[("docs/index.html", 0)]].concat(), |path| {
        assert_eq!(opened(path, &ReadOptions::default()).class_names(), ["a", "b"]);
    });
}

#[test]
fn parts_may_be_nested_and_named_in_any_way() {
    let nested = [("images/train/1.png", 1), ("images/test/2.png", 2), ("labels/train/1.txt", 0)];
    divided(&nested, &[1], &[2]);
    divided(&[("Train/1.png", 1), ("VAL/2.png", 2)], &[1], &[2]);
    divided(&[("train2017/1.png", 1), ("val2017/2.png", 2), ("annotations/x.json", 0)], &[1], &[2]);
    divided(&[("training_set/1.png", 1), ("test_set/2.png", 2)], &[1], &[2]);
    // The test part precedes the validation part.
    divided(&[("train/1.png", 1), ("val/2.png", 2), ("test/3.png", 3)], &[1], &[3]);
}

#[test]
fn parts_that_become_classes_are_named() {
    let files = [("train/1.png", 1), ("test/2.png", 2), ("extra/3.png", 3)];
    in_every_container(&files, |path| {
        let set = opened(path, &ReadOptions::default());
        assert_eq!((set.len(), set.class_names().len()), (3, 3));
        let [warning] = &set.report().warnings[..] else { panic!("{:?}", set.report().warnings) };
        for word in ["test, train", "extra", "as the data"] {
            assert!(warning.contains(word), "{warning}");
        }
        assert!(matches!(open(path, &test_split()), Err(Error::NoHeldOut { .. })));
    });
    in_every_container(&[("cats/train/1.png", 1), ("cats/test/2.png", 2), ("dogs/train/3.png", 3)], |path| {
        let set = opened(path, &ReadOptions::default());
        let warnings = &set.report().warnings;
        assert!(warnings.len() == 1 && warnings[0].contains("cats/test"), "{warnings:?}");
    });
}

#[test]
fn an_image_next_to_class_folders_is_named() {
    in_every_container(&[("cats/1.png", 1), ("dogs/2.png", 2), ("cover.png", 3)], |path| {
        let set = opened(path, &ReadOptions::default());
        assert_eq!((set.len(), set.labels()), (3, None));
        let [warning] = &set.report().warnings[..] else { panic!("{:?}", set.report().warnings) };
        assert!(warning.contains("cover.png lies") && warning.contains("cats, dogs"), "{warning}");
    });
    let warnings = |files: &[(&str, u8)]| {
        let folder = tempdir().unwrap();
        files.iter().for_each(|(name, value)| drop(put(&folder.path().join(name), &dot(*value))));
        opened(folder.path(), &ReadOptions::default()).report().warnings.clone()
    };
    assert!(warnings(&[("a/1.png", 1), ("b/2.png", 2), ("3.png", 3), ("4.png", 4)])[0].contains("1 more"));
    // A single folder would be no class anyway.
    assert_eq!(warnings(&[("a/1.png", 1), ("2.png", 2)]), [""; 0]);
}

#[test]
fn shards_next_to_images_are_named_and_folders_of_parts_are_found() {
    let folder = tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    put(&at("mixed/1.png"), &dot(1));
    put(&at("mixed/train.tar"), &tar(&[("2.png", &dot(2))]));
    let set = opened(&at("mixed"), &ReadOptions::default());
    assert_eq!(dots(&set), [1]);
    assert!(set.report().warnings[0].contains("train.tar"), "{:?}", set.report().warnings);

    put(&at("shards/Train/0.tar"), &tar(&[("2.png", &dot(2))]));
    put(&at("shards/Val/0.tar"), &tar(&[("3.png", &dot(3))]));
    put(&at("shards/annotations/all.json"), b"{}");
    assert_eq!(dots(&opened(&at("shards"), &ReadOptions::default())), [2]);
    assert_eq!(dots(&opened(&at("shards"), &test_split())), [3]);
}

/// A label file is found in any folder above the images.
#[test]
fn label_files_above_the_images_count() {
    let folder = tempdir().unwrap();
    put(&folder.path().join("images/train/1.png"), &dot(1));
    put(&folder.path().join("images/train/2.png"), &dot(2));
    put(&folder.path().join("images/test/3.png"), &dot(3));
    let table = "file_name,label\nimages/train/1.png,dog\nimages/train/2.png,cat\nimages/test/3.png,cat\n";
    put(&folder.path().join("metadata.csv"), table.as_bytes());
    let set = opened(folder.path(), &ReadOptions::default());
    assert_eq!(
        (dots(&set), set.labels(), set.class_names().join(" ")),
        (vec![1, 2], Some(&[1, 0][..]), "cat dog".into())
    );
}
