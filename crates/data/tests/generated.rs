//! Outputs of the program are not training data.

use crate::common::*;
use ddpm_data::{ReadOptions, mark_png, open};
use tempfile::tempdir;

#[test]
fn marked_images_and_runs_are_skipped_in_folders_with_other_images() {
    let folder = tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    put(&at("cats/1.png"), &dot(1));
    put(&at("dogs/2.png"), &dot(2));
    put(&at("contact-sheet.png"), &mark_png(dot(3)));
    put(&at("samples/000000.png"), &mark_png(dot(4)));
    put(&at("runs/x/config.toml"), b"");
    put(&at("runs/x/checkpoints/latest"), b"");
    // An unmarked image, as programs before the mark wrote it.
    put(&at("runs/x/samples/000001.png"), &dot(5));
    let set = opened(folder.path(), &ReadOptions::default());
    assert_eq!((dots(&set), set.class_names().join(" ")), (vec![1, 2], "cats dogs".to_owned()));
    assert_eq!((set.report().generated, set.report().files), (0, 2));
    let warnings = &set.report().warnings;
    assert!(warnings.iter().any(|w| w.contains("skipped 2 of 4") && w.contains("contact-sheet.png")), "{warnings:?}");
    assert!(warnings.iter().any(|w| w.contains("runs/x")), "{warnings:?}");

    // A folder of samples only is meant as such.
    put(&at("samples/000001.png"), &mark_png(dot(6)));
    let set = opened(&at("samples"), &ReadOptions::default());
    assert_eq!((dots(&set), set.report().generated, set.report().warnings.len()), (vec![4, 6], 2, 0));
    assert_eq!(dots(&opened(&at("contact-sheet.png"), &ReadOptions::default())), [3]);
    // A run is no set of images.
    assert!(refused(&at("runs/x"), &ReadOptions::default()).contains("training run"));
    let message = open(&at("runs"), &ReadOptions::default()).err().unwrap().to_string();
    assert!(message.contains("training run"), "{message}");
}

#[test]
fn a_contact_sheet_does_not_hide_shards() {
    let folder = tempdir().unwrap();
    put(&folder.path().join("train.tar"), &tar(&[("1.png", &dot(1))]));
    put(&folder.path().join("contact-sheet.png"), &mark_png(dot(9)));
    assert_eq!(dots(&opened(folder.path(), &ReadOptions::default())), [1]);
    // Nor the only folder of an archive.
    let folder = tempdir().unwrap();
    put(&folder.path().join("raw/train-images-idx3-ubyte"), &idx(&[1, 1, 2], &[5, 6]));
    put(&folder.path().join("contact-sheet.png"), &mark_png(dot(9)));
    assert_eq!(all(&opened(folder.path(), &ReadOptions::default())), [5, 6]);
}
