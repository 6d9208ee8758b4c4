//! NumPy arrays of u8 and of other numbers, in `.npy` and `.npz`.

use crate::common::*;
use ddpm_data::{Error, ReadOptions, open};
use std::path::{Path, PathBuf};
use tempfile::tempdir;

fn npy(dtype: &str, shape: &str, bytes: &[u8]) -> Vec<u8> {
    let text = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n");
    [b"\x93NUMPY\x01\x00", &(text.len() as u16).to_le_bytes()[..], text.as_bytes(), bytes].concat()
}

fn ranged(low: f64, high: f64) -> ReadOptions {
    ReadOptions { range: Some([low, high]), ..ReadOptions::default() }
}

/// The same array as `.npy`, `.npz` and compressed `.npz`.
fn files(folder: &Path, dtype: &str, shape: &str, bytes: &[u8]) -> [PathBuf; 3] {
    [
        put(&folder.join("a.npy"), &npy(dtype, shape, bytes)),
        put(&folder.join("a.npz"), &npz_of("arr_0", dtype, shape, false, bytes, false)),
        put(&folder.join("b.npz"), &npz_of("arr_0", dtype, shape, false, bytes, true)),
    ]
}

#[test]
fn reads_npy_of_u8() {
    let folder = tempdir().unwrap();
    let pixels = noise(3 * 5 * 6);
    for (dims, shape) in [("(5, 3, 6)", [3, 6, 1]), ("(1, 5, 6, 3)", [5, 6, 3])] {
        let path = put(&folder.path().join("x.npy"), &npy("|u1", dims, &pixels));
        let set = opened(&path, &ReadOptions::default());
        assert_eq!((set.shape(), all(&set)), (shape, pixels.clone()));
        assert!(matches!(open(&path, &test_split()), Err(Error::NoHeldOut { .. })));
    }
    let planar =
        opened(&put(&folder.path().join("p.npy"), &npy("|u1", "(1, 3, 5, 6)", &pixels)), &ReadOptions::default());
    assert_eq!((planar.shape(), all(&planar)[1]), ([5, 6, 3], pixels[30]));

    let refuses = |bytes: &[u8], words: &[&str]| {
        let path = put(&folder.path().join("bad.npy"), bytes);
        let message = refused(&path, &ReadOptions::default());
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    };
    refuses(&npy("|u1", "(3, 6, 5)", &pixels), &["one image"]);
    refuses(&npy("|u1", "(5, 6, 3)", &pixels), &["one image", "array[None]"]);
    refuses(&npy("|u1", "(10, 3, 1, 3)", &pixels), &["N,C,H,W", "transpose"]);
    refuses(&npy("|u1", "(5, 3, 6)", &pixels[1..]), &["truncated", "90 bytes", "89"]);
    refuses(&npy("|O", "(5, 3, 6)", &pixels), &["dtype |O"]);
    refuses(b"?", &["truncated"]);
    refuses(&npy("|u1", "(18446744073709551615, 5, 6)", &pixels), &["more than can exist"]);
}

#[test]
fn numbers_of_other_types_need_a_range() {
    let folder = tempdir().unwrap();
    let floats: Vec<u8> = [0.0f32, 0.25, 0.5, 1.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    for path in files(folder.path(), "<f4", "(2, 1, 2)", &floats) {
        let message = refused(&path, &ReadOptions::default());
        for word in ["from 0.0 to 1.0", "data.range=[0, 1]", "--range"] {
            assert!(message.contains(word), "{message}");
        }
        assert!(!message.contains("astype"), "{message}");
        assert_eq!(all(&open(&path, &ranged(0.0, 1.0)).unwrap()), [0, 64, 128, 255]);
        assert_eq!(all(&open(&path, &ranged(-1.0, 1.0)).unwrap()), [128, 159, 191, 255]);
        let message = refused(&path, &ranged(0.0, 0.5));
        assert!(message.contains("outside of the range [0, 0.5]"), "{message}");
        // What is not in memory as u8 is not read.
        assert!(matches!(open(&path, &streamed(&ranged(0.0, 1.0))), Err(Error::TooLarge { .. })));
    }
    let whole: Vec<u8> = [-5i16, 0, 100, 250].iter().flat_map(|value| value.to_be_bytes()).collect();
    for path in files(folder.path(), ">i2", "(2, 1, 2)", &whole) {
        assert!(refused(&path, &ReadOptions::default()).contains("from -5.0 to 250.0"));
        assert_eq!(all(&open(&path, &ranged(-5.0, 250.0)).unwrap()), [0, 5, 105, 255]);
    }
    // Masks of 0 and 1 in u8.
    for path in files(folder.path(), "|u1", "(2, 1, 2)", &[0, 1, 1, 0]) {
        assert_eq!(all(&open(&path, &ranged(0.0, 1.0)).unwrap()), [0, 255, 255, 0]);
    }
    let nan: Vec<u8> = [0.0f32, f32::NAN, 1.0, 1.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    for path in files(folder.path(), "<f4", "(2, 1, 2)", &nan) {
        assert!(refused(&path, &ranged(0.0, 1.0)).contains("NaN"));
    }
}

#[test]
fn the_range_is_checked_and_ignored_aloud() {
    let folder = tempdir().unwrap();
    put(&folder.path().join("1.png"), &dot(7));
    let set = opened(folder.path(), &ranged(0.0, 1.0));
    assert!(set.report().warnings[0].contains("range is ignored"), "{:?}", set.report());
    for [low, high] in [[1.0, 0.0], [0.0, 0.0], [f64::NAN, 1.0], [0.0, f64::INFINITY]] {
        assert!(matches!(open(folder.path(), &ranged(low, high)), Err(Error::Argument(_))));
    }
}

/// A stored array is read from the file, but its checksum is compared first, as NumPy does.
#[test]
fn a_flipped_bit_of_an_npz_is_an_error() {
    let folder = tempdir().unwrap();
    for compress in [false, true] {
        let mut bytes = npz_of("arr_0", "|u1", "(40, 8, 8, 3)", false, &noise(40 * 192), compress);
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
        let message = refused(&put(&folder.path().join("a.npz"), &bytes), &ReadOptions::default());
        assert!(message.contains("is truncated or corrupt"), "{message}");
    }
}

/// A streamed set is read while it is used.
#[test]
fn a_file_that_changes_while_it_is_read_is_an_error() {
    let folder = tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let image = dot(1);
    let members: [(&str, &[u8]); 2] = [("1.png", &image), ("2.png", &image)];
    put(&at("folder/1.png"), &image);
    put(&at("folder/2.png"), &image);
    put(&at("a.npy"), &npy("|u1", "(2, 2, 2, 3)", &noise(24)));
    put(&at("a.npz"), &npz_of("arr_0", "|u1", "(2, 2, 2, 3)", false, &noise(24), false));
    put(&at("a.mat"), &mat_set([2, 2, 3, 2], &[0, 1], false));
    put(&at("train-images-idx3-ubyte"), &idx(&[2, 2, 2], &noise(8)));
    put(&at("a.tar"), &tar(&members));
    put(&at("a.zip"), &zip(&members, zip::CompressionMethod::Stored));
    for (set, file) in [
        ("folder", "folder/2.png"),
        ("a.npy", "a.npy"),
        ("a.npz", "a.npz"),
        ("a.mat", "a.mat"),
        ("train-images-idx3-ubyte", "train-images-idx3-ubyte"),
        ("a.tar", "a.tar"),
        ("a.zip", "a.zip"),
    ] {
        let set = open(&at(set), &streamed(&ReadOptions::default())).unwrap();
        assert!(set.is_streamed());
        let before = set.read([1]).unwrap();
        let opened = std::fs::File::options().append(true).open(at(file)).unwrap();
        let later = opened.metadata().unwrap().modified().unwrap() + std::time::Duration::from_secs(1);
        opened.set_modified(later).unwrap();
        let message = set.read([1]).unwrap_err().to_string();
        assert!(message.contains("has changed since it was opened"), "{file}: {message}");
        assert_eq!(before.len(), set.shape().iter().product::<usize>());
    }
}
