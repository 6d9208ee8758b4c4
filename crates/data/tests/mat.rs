//! MATLAB's MAT-files, among them SVHN's.

use crate::common::*;
use ddpm_data::{Error, ReadOptions, open};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::tempdir;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

/// The images of `mat_golden.py`, N,H,W,C.
fn images(height: usize, width: usize, channels: usize, count: usize) -> Vec<u8> {
    let value = |n: usize, y: usize, x: usize, c: usize| (y * 37 + x * 101 + c * 53 + n * 11 + (y * x) % 7 * 29) as u8;
    let pixel = |i: usize| {
        let (c, x, y) = (i % channels, i / channels % width, i / channels / width % height);
        value(i / channels / width / height, y, x, c)
    };
    (0..count * height * width * channels).map(pixel).collect()
}

#[test]
fn reads_what_scipy_writes() {
    let set = opened(&golden("packed.mat"), &ReadOptions::default());
    assert_eq!((shape(&set), all(&set)), ([3, 32, 32, 3], images(32, 32, 3, 3)));
    // SVHN's 10 is the digit 0, and all digits are classes.
    assert_eq!(set.labels(), Some(&[0, 1, 9][..]));
    assert_eq!(set.class_names(), ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    assert!(set.describe().contains("SVHN"), "{}", set.describe());

    // Beside a text, a struct, complex numbers and a cell array.
    let set = opened(&golden("plain.mat"), &ReadOptions::default());
    assert_eq!((shape(&set), all(&set)), ([2, 4, 5, 1], images(4, 5, 1, 2)));
    assert_eq!((set.labels(), set.class_names().len()), (Some(&[0, 7][..]), 8));
    assert!(open(&golden("plain.mat"), &streamed(&ReadOptions::default())).unwrap().is_streamed());
    let error = open(&golden("packed.mat"), &streamed(&ReadOptions::default())).err().unwrap();
    assert!(matches!(error, Error::TooLarge { .. }) && error.to_string().contains("save -v6"), "{error}");
}

#[test]
fn reads_the_parts_of_svhn() {
    let folder = tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    put(&at("train_32x32.mat"), &mat_set([32, 32, 3, 2], &[10, 2], true));
    let missing = open(folder.path(), &test_split()).err().unwrap();
    assert!(matches!(missing, Error::NoHeldOut { .. }) && missing.to_string().contains("test_32x32.mat"), "{missing}");
    put(&at("test_32x32.mat"), &mat_set([32, 32, 3, 1], &[5], true));
    let (train, test) = (opened(folder.path(), &ReadOptions::default()), opened(folder.path(), &test_split()));
    assert_eq!((train.labels(), test.labels()), (Some(&[0, 2][..]), Some(&[5][..])));
    assert_eq!(train.class_names(), test.class_names());
    assert!(train.report().warnings.is_empty());
    // A file alone, whose name says whether it is held out.
    assert_eq!(opened(&at("test_32x32.mat"), &test_split()).labels(), Some(&[5][..]));
    assert!(matches!(open(&at("train_32x32.mat"), &test_split()), Err(Error::NoHeldOut { .. })));
    // The extra images are not added silently.
    put(&at("extra_32x32.mat"), &mat_set([32, 32, 3, 4], &[1, 1, 1, 1], true));
    let set = opened(folder.path(), &ReadOptions::default());
    assert_eq!(set.len(), 2);
    assert!(set.report().warnings[0].contains("extra_32x32.mat is not read"), "{:?}", set.report());
    assert!(opened(folder.path(), &test_split()).report().warnings.is_empty());
    assert_eq!(opened(&at("extra_32x32.mat"), &ReadOptions::default()).len(), 4);
    fs::remove_file(at("train_32x32.mat")).unwrap();
    assert!(refused(folder.path(), &ReadOptions::default()).contains("has no train_32x32.mat"));
}

#[test]
fn labels_are_numbers_of_any_type() {
    let folder = tempdir().unwrap();
    let pixels = noise(2 * 2 * 3 * 2);
    let read = |class: u32, kind: u32, bytes: &[u8], shape: &[i32]| {
        let x = MatVariable { name: "X", class: 9, kind: 2, shape: &[2, 2, 3, 2], bytes: &pixels };
        let y = MatVariable { name: "y", class, kind, shape, bytes };
        let file = put(&folder.path().join("a.mat"), &mat(&[x, y], true));
        open(&file, &ReadOptions::default()).map(|set| set.labels().unwrap().to_vec()).map_err(|e| e.to_string())
    };
    let words = |values: [i16; 2]| values.map(i16::to_le_bytes).concat();
    // Other images than SVHN's keep their labels.
    assert_eq!(read(6, 2, &[10, 1], &[2, 1]), Ok(vec![10, 1]));
    assert_eq!(read(10, 3, &words([300, 0]), &[1, 2]), Ok(vec![300, 0]));
    assert_eq!(read(6, 9, &[1.0f64, 3.0].map(f64::to_le_bytes).concat(), &[1, 2]), Ok(vec![1, 3]));
    assert_eq!(read(7, 7, &[2.0f32, 3.0].map(f32::to_le_bytes).concat(), &[1, 2]), Ok(vec![2, 3]));
    assert_eq!(read(14, 12, &[5i64, 6].map(i64::to_le_bytes).concat(), &[1, 2]), Ok(vec![5, 6]));
    for (class, kind, bytes, shape, word) in [
        (10, 3, words([-1, 0]), &[2, 1][..], "the label -1"),
        (6, 9, [0.5f64, f64::NAN].map(f64::to_le_bytes).concat(), &[2, 1], "the label 0.5"),
        (6, 9, [1e9f64, 0.0].map(f64::to_le_bytes).concat(), &[2, 1], "from 0 to 65535"),
        (6, 2, vec![1, 2, 3], &[3, 1], "one label for each of 2 images"),
        (6, 9, vec![1, 2], &[2, 1], "its shape [2, 1] takes 16"),
        (4, 4, vec![1, 0, 2, 0], &[2, 1], "of class char, expected numbers"),
        (6, 14, vec![1, 2], &[2, 1], "of type 14"),
    ] {
        let message = read(class, kind, &bytes, shape).unwrap_err();
        assert!(message.contains(word) && message.contains("a.mat: "), "{message}");
    }
}

#[test]
fn invalid_mat_is_an_error() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("x.mat");
    let refuses = |bytes: &[u8], words: &[&str]| {
        let message = refused(&put(&path, bytes), &ReadOptions::default());
        assert!(words.iter().all(|word| message.contains(word)), "{words:?}: {message}");
    };
    fn one(name: &str, class: u32, shape: &[i32], bytes: &[u8], packed: bool) -> Vec<u8> {
        mat(&[MatVariable { name, class, kind: 2, shape, bytes }], packed)
    }
    let header = |text: &str, end: &[u8]| [format!("{text:124}").as_bytes(), end, &[0; 400]].concat();
    refuses(&header("MATLAB 7.3 MAT-file, Platform: GLNXA64", b"\0\x02IM"), &["7.3", "save -v7", "scipy.io.savemat"]);
    refuses(&header("", b"\x02\0MI"), &["7.3"]);
    refuses(&[&[0, 0, 0, 0, 3, 0, 0, 0][..], &[1; 200]].concat(), &["level 4", "save -v7"]);
    refuses(&header("no file of MATLAB", b"\0\x01  "), &["not a MAT-file of level 5"]);
    refuses(&header("MATLAB 5.0", b"\0\x01IM"), &["byte 128 begins an element of type 0"]);
    refuses(&[&[0, 0, 0, 0, 1, 0, 0, 0][..], &[1; 20]].concat(), &["level 4"]);
    refuses(b"MATLAB 5.0", &["not a MAT-file of level 5"]);
    refuses(b"<html>404</html>", &["is a web page"]);
    refuses(b"", &["is an empty file"]);
    for packed in [false, true] {
        refuses(&one("digitStruct", 9, &[2, 2, 1, 1], &[0; 4], packed), &["no variable X", "it has digitStruct"]);
        refuses(&one("X", 6, &[2, 2, 1, 1], &[0; 4], packed), &["X is of class double", "uint8(X)"]);
        refuses(&one("X", 9 | 0x200, &[2, 2, 1, 1], &[0; 4], packed), &["X is of class logical"]);
        refuses(&one("X", 9 | 0x800, &[2, 2, 1, 1], &[0; 4], packed), &["X is of class complex"]);
        refuses(&one("X", 9, &[2, 2, 2, 1], &[0; 8], packed), &["[2, 2, 2, 1]", "C = 1 or 3"]);
        refuses(&one("X", 9, &[2, 2, 3], &[0; 12], packed), &["[2, 2, 3]", "H,W,C,N"]);
        refuses(&one("X", 9, &[0, 2, 3, 1], &[], packed), &["images of 0x2"]);
        refuses(&one("X", 9, &[2, 2, 3, 0], &[], packed), &["contains no images"]);
        refuses(&one("X", 9, &[2, -2, 3, 1], &[0; 12], packed), &["a dimension is negative"]);
        refuses(&one("X", 9, &[2, 2, 3, 2], &[0; 23], packed), &["X has 23 bytes", "takes 24"]);
        refuses(&one("X", 9, &[60_000, 60_000, 3, 100_000], &[0; 8], packed), &["X has 8 bytes"]);
        refuses(&one("X", 9, &[60_000, 60_000, 3, i32::MAX], &[0; 8], packed), &["more than can exist"]);
        refuses(&one(&"n".repeat(256), 9, &[2, 2, 1, 1], &[0; 4], packed), &["expected a name, at most 255 bytes"]);
        refuses(&one("X", 9, &[1; 33], &[0], packed), &["expected dimensions"]);
        refuses(&mat(&[], packed), &["it has none"]);

        // Cut anywhere; and a bit is flipped where zlib's checksum covers it.
        let whole = mat_set([5, 4, 3, 2], &[1, 2], packed);
        for end in 0..whole.len() {
            put(&path, &whole[..end]);
            if let Ok(set) = open(&path, &ReadOptions::default()) {
                // Without the last variable, the labels.
                assert!(set.labels().is_none() && all(&set).len() == 120, "{end}");
            }
        }
        if packed {
            for at in 136..whole.len() {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << (at % 8);
                let opened = open(&put(&path, &bytes), &ReadOptions::default());
                assert!(opened.is_err() || opened.unwrap().labels().is_none(), "{at}");
            }
        }
    }
    // Big-endian, as on old machines.
    let word = |value: u32| value.to_be_bytes();
    let element = |kind: u32, bytes: &[u8]| [&word(kind), &word(bytes.len() as u32), bytes].concat();
    let shape = [2, 2, 1, 2].map(word).concat();
    let (flags, name) = ([word(9), word(0)].concat(), [&word(1 << 16 | 1)[..], b"X\0\0\0"].concat());
    let matrix = [element(6, &flags), element(5, &shape), name, element(2, &[1, 2, 3, 4, 5, 6, 7, 8])].concat();
    let bytes = [format!("{:124}", "MATLAB 5.0").as_bytes(), b"\x01\0MI", &element(14, &matrix)].concat();
    assert_eq!(all(&opened(&put(&path, &bytes), &ReadOptions::default())), [1, 3, 2, 4, 5, 7, 6, 8]);
}
