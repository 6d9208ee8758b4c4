//! Randomly corrupted files must result in an error or an image, never in a panic.

mod common;
use common::*;
use ddpm_data::{ReadOptions, Summary, open, write_npz_images};
use image::{ExtendedColorType, ImageFormat};
use proptest::prelude::*;
use std::io::Cursor;
use tempfile::tempdir;

/// A valid file of every format, with a name by which it is detected.
fn valid_files() -> Vec<(&'static str, Vec<u8>)> {
    let rgb = noise(16 * 16 * 3);
    let picture = |format| encode(format, &rgb, (16, 16), ExtendedColorType::Rgb8);
    let mut npz = Cursor::new(Vec::new());
    write_npz_images(&mut npz, &rgb, [1, 16, 16, 3], Some(&[3])).unwrap();
    let images = idx(&[3, 16, 16], &rgb);
    let batches: Vec<_> = (1..6).map(|i| format!("cifar-10-batches-bin/data_batch_{i}.bin")).collect();
    let batch = noise(3073);
    let members: Vec<_> = batches.iter().map(|name| (name.as_str(), batch.as_slice())).collect();
    let (png, jpeg) = (picture(ImageFormat::Png), picture(ImageFormat::Jpeg));
    let labelled: [(&str, &[u8]); 5] = [
        ("0/1.png", &png),
        ("0/1.cls", b"3"),
        ("1/2.jpg", &jpeg),
        ("1/2.json", br#"{"label": 4}"#),
        ("dataset.json", br#"{"labels": [["0/1.png", 3], ["1/2.jpg", 4]]}"#),
    ];
    vec![
        ("stored.zip", zip(&labelled, zip::CompressionMethod::Stored)),
        ("deflated.zip", zip(&labelled, zip::CompressionMethod::Deflated)),
        ("images.tar", tar(&labelled)),
        ("images.tar.gz", gzip(&tar(&labelled[..4]))),
        ("train-images-idx3-ubyte", images.clone()),
        ("train-images-idx3-ubyte.gz", gzip(&images)),
        ("cifar.tar", tar(&members)),
        ("cifar.tar.gz", gzip(&tar(&members))),
        ("stored.npz", npz.into_inner()),
        ("deflated.npz", npz_of("arr_0", "|u1", "(1, 16, 16, 3)", false, &rgb, true)),
        ("folder/1.png", picture(ImageFormat::Png)),
        ("folder/1.jpg", picture(ImageFormat::Jpeg)),
        ("folder/1.webp", picture(ImageFormat::WebP)),
        ("folder/1.gif", picture(ImageFormat::Gif)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn never_panics(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 0..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        for (name, mut bytes) in valid_files() {
            for (at, value, in_head) in &damage {
                // Half of the damage is in the first bytes, which contain the headers.
                let end = if *in_head { bytes.len().min(128) } else { bytes.len() };
                bytes[at.index(end)] = *value;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            let folder = tempdir().unwrap();
            let file = put(&folder.path().join(name), &bytes);
            let path = if name.starts_with("folder") { file.parent().unwrap() } else { &file };
            for memory_limit_bytes in [1 << 20, 0] {
                let options = ReadOptions { resolution: Some((8, 8)), memory_limit_bytes, ..ReadOptions::default() };
                match open(path, &options) {
                    Ok(set) => prop_assert!(Summary::new(&set).images <= set.len()),
                    Err(error) => prop_assert!(!error.to_string().contains('\n'), "{error}"),
                }
            }
        }
    }
}

#[test]
fn valid_files_are_read() {
    for (name, bytes) in valid_files() {
        let folder = tempdir().unwrap();
        let file = put(&folder.path().join(name), &bytes);
        let path = if name.starts_with("folder") { file.parent().unwrap() } else { &file };
        let set = opened(path, &ReadOptions { resolution: Some((8, 8)), ..ReadOptions::default() });
        assert!(set.report().bad.is_empty(), "{:?}", set.report());
    }
}
