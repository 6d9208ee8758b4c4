//! Invalid input of every kind. Each error is one line that names the file and what was expected.

use crate::common::*;
use ddpm_data::{BadFile, Error, ReadOptions, Summary, builtin, open};
use image::ExtendedColorType;
use std::fs;
use std::path::Path;
use tempfile::tempdir;

fn refuses(path: &Path, bytes: &[u8], words: &[&str]) {
    put(path, bytes);
    let message = refused(path, &ReadOptions::default());
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
}

#[test]
fn invalid_idx_is_an_error() {
    let folder = tempdir().unwrap();
    let whole = idx(&[3, 4, 5], &noise(60));
    let path = folder.path().join("train-images-idx3-ubyte");
    refuses(&path, &whole[..50], &["truncated", "60 bytes", "34"]);
    refuses(&path, &whole[..7], &["truncated"]);
    refuses(&path, b"", &["truncated"]);
    refuses(&path, &[&whole[..], b"x"].concat(), &["more than the 60 bytes"]);
    refuses(&path, &idx(&[60], &noise(60)), &["images", "08, 01", "08, 03"]);
    refuses(&path, b"<html>404 not found, and so on</html>", &["not an IDX file"]);
    refuses(&path, &idx(&[3, 0, 5], &[]), &["3 images of 0x5"]);
    refuses(&path, &idx(&[0, 4, 5], &[]), &["contains no images"]);
    refuses(&path, &idx(&[u32::MAX; 3], &[0; 10]), &["4294967295", "65535"]);
    refuses(&path, &idx(&[u32::MAX, 60_000, 60_000], &[0; 10]), &["truncated"]);

    let path = folder.path().join("gz/train-images-idx3-ubyte.gz");
    let gz = gzip(&whole);
    refuses(&path, &gz[..gz.len() / 2], &["truncated"]);
    refuses(&path, &gz[..gz.len() - 6], &["truncated"]);
    refuses(&path, &gzip(&whole[..50]), &["truncated"]);
    let mut wrong_sum = gz.clone();
    let end = wrong_sum.len() - 8;
    wrong_sum[end] ^= 1;
    refuses(&path, &wrong_sum, &["corrupt"]);
    // A decompression bomb, with much more data than its header claims, is not unpacked.
    refuses(&path, &gzip(&[idx(&[3, 4, 5], &noise(60)), vec![0; 50_000_000]].concat()), &["more than the 60 bytes"]);
    // A header that claims more data than there is.
    refuses(&path, &gzip(&idx(&[u32::MAX, 1000, 1000], &[])), &["memory limit", "gunzip"]);
    refuses(&path, &gzip(&idx(&[4000, 1000, 1000], &[1; 100])), &["truncated", "4000000000"]);
}

#[test]
fn number_of_idx_labels_must_match() {
    let folder = tempdir().unwrap();
    put(&folder.path().join("train-images-idx3-ubyte"), &idx(&[3, 4, 5], &noise(60)));
    let labels = put(&folder.path().join("train-labels-idx1-ubyte"), &idx(&[2], &[0, 1]));
    let message = open(folder.path(), &ReadOptions::default()).err().unwrap().to_string();
    assert!(message.starts_with(&*labels.to_string_lossy()) && message.contains("2 labels"), "{message}");
    assert!(message.contains("3 images"), "{message}");
    assert!(matches!(open(folder.path(), &test_split()), Err(Error::NoHeldOut { .. })));
    put(&folder.path().join("extra-train-images-idx3-ubyte"), &idx(&[3, 4, 5], &noise(60)));
    assert!(refused(folder.path(), &ReadOptions::default()).contains("several sets"));
}

#[test]
fn invalid_cifar_is_an_error() {
    let folder = tempdir().unwrap();
    let batch = folder.path().join("data_batch_1.bin");
    put(&batch, &[0; 3073]);
    assert!(refused(folder.path(), &ReadOptions::default()).contains("data_batch_2.bin is missing"));
    assert!(refused(folder.path(), &test_split()).contains("test_batch.bin is missing"));
    (2..6).for_each(|i| drop(put(&folder.path().join(format!("data_batch_{i}.bin")), &[0; 3073])));
    assert_eq!(open(folder.path(), &ReadOptions::default()).unwrap().len(), 5);
    put(&batch, &[0; 3072]);
    let message = open(folder.path(), &ReadOptions::default()).err().unwrap().to_string();
    assert!(message.starts_with(&*batch.to_string_lossy()) && message.contains("3073-byte"), "{message}");
    put(&batch, &[10; 3073]);
    put(&folder.path().join("batches.meta.txt"), b"a\nb\n");
    assert!(refused(folder.path(), &ReadOptions::default()).contains("label 10"));
    assert!(matches!(open(folder.path(), &streamed(&ReadOptions::default())), Err(Error::TooLarge { .. })));

    let archive = gzip(&tar(&[("cifar-10-batches-py/data_batch_1", b"pickle")]));
    refuses(&folder.path().join("cifar-10-python.tar.gz"), &archive, &["Python version", "binary version"]);
    refuses(&folder.path().join("other.tgz"), &gzip(&tar(&[("a.txt", b"a")])), &["contains no image files"]);
    let whole = gzip(&tar(&[("data_batch_1.bin", &noise(3073))]));
    refuses(&folder.path().join("half.tar.gz"), &whole[..whole.len() / 2], &["half.tar.gz"]);
    refuses(&folder.path().join("junk.tar.gz"), &noise(2000), &["junk.tar.gz"]);
}

#[test]
fn invalid_npz_is_an_error() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("x.npz");
    let npz = |dtype: &str, shape: &str, bytes: usize| npz_of("arr_0", dtype, shape, false, &noise(bytes), false);
    refuses(&path, &npz("<f4", "(1, 2, 2, 3)", 48), &["arr_0", "<f4", "u8", "data.range"]);
    refuses(&path, &npz("|u1", "(12,)", 12), &["[12]", "N,H,W,C"]);
    refuses(&path, &npz("|u1", "(1, 2, 2, 2)", 8), &["N,H,W,C"]);
    refuses(&path, &npz("|u1", "(1, 0, 2, 3)", 0), &["N,H,W,C"]);
    refuses(&path, &npz("|u1", "(2, 2, 2, 3)", 23), &["truncated", "24 bytes", "23"]);
    refuses(&path, &npz("|u1", "(18446744073709551615, 2, 2, 3)", 12), &["more than can exist"]);
    refuses(&path, &npz("|u1", "(18446744073709551616, 2, 2, 3)", 12), &["shape"]);
    refuses(&path, &npz("|u1", "(0, 2, 2, 3)", 0), &["contains no images"]);
    refuses(&path, &npz_of("arr_0", "|u1", "(1, 2, 2, 3)", true, &noise(12), false), &["Fortran"]);
    refuses(&path, &npz_of("mu", "<f8", "(2,)", false, &[0; 16], false), &["arr_0", "mu.npy"]);
    refuses(&path, b"PK\x03\x04 but no zip", &["zip"]);
    refuses(&path, b"", &["zip"]);
    let whole = npz("|u1", "(1, 2, 2, 3)", 12);
    refuses(&path, &whole[..whole.len() - 30], &["zip"]);
    let message = open(
        &put(&path, &npz_of("arr_0", "|u1", "(1, 2, 2, 3)", false, &noise(12), true)),
        &streamed(&ReadOptions::default()),
    );
    assert!(message.err().unwrap().to_string().contains("numpy.savez"));
}

/// One valid image among invalid files of every kind.
#[test]
fn bad_files_are_reported_and_skipped() {
    let folder = tempdir().unwrap();
    let good = grey_png(&noise(400), (20, 20));
    let jpeg = encode(image::ImageFormat::Jpeg, &noise(400), (20, 20), ExtendedColorType::L8);
    let mut corrupt = good.clone();
    corrupt[60] ^= 0x55;
    // A PNG of a few bytes that claims 60000x60000 pixels and has a correct checksum.
    let mut bomb = good.clone();
    bomb[16..24].copy_from_slice(&[60_000u32.to_be_bytes(), 60_000u32.to_be_bytes()].concat());
    let sum = crc32(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&sum.to_be_bytes());

    put(&folder.path().join("a/good.png"), &good);
    let bad = [
        ("a/bomb.png", bomb, "60000x60000"),
        ("a/cut.jpg", jpeg[..jpeg.len() - 20].to_vec(), "truncated"),
        ("b/corrupt.png", corrupt, ""),
        ("b/cut.png", good[..good.len() / 2].to_vec(), ""),
        ("b/empty.png", Vec::new(), "not an image"),
        ("b/photo.AVIF", good.clone(), "AVIF files are not supported"),
        ("b/text.png", b"<html>404</html>".to_vec(), "not an image"),
    ];
    bad.iter().for_each(|(name, bytes, _)| drop(put(&folder.path().join(name), bytes)));

    let set = open(folder.path(), &ReadOptions::default()).unwrap();
    assert_eq!((set.len(), set.report().files, all(&set)), (1, 8, noise(400)));
    assert_eq!(set.labels(), Some(&[0][..]));
    assert_eq!(set.report().sizes.iter().collect::<Vec<_>>(), [(&(20, 20), &1)]);
    let mut found = set.report().bad.clone();
    found.sort();
    assert_eq!(found.len(), bad.len(), "{found:?}");
    for (BadFile { path, reason }, (name, _, word)) in found.iter().zip(&bad) {
        assert!(path.ends_with(name) && reason.contains(word) && !reason.is_empty(), "{path:?}: {reason}");
    }
    assert!(set.describe().contains("7 bad files skipped"), "{}", set.describe());

    // When streamed, pixels are not decoded on opening. Reading a bad file fails, and the summary lists all of them.
    let set = open(folder.path(), &streamed(&ReadOptions::default())).unwrap();
    assert_eq!((set.len(), set.report().bad.len()), (4, 4));
    let error = set.read([2]).unwrap_err().to_string();
    assert!(error.contains("corrupt.png: "), "{error}");
    let summary = Summary::new(&set);
    assert_eq!((summary.images, summary.bad.len()), (1, 7));
    assert!(summary.bad.iter().zip(&bad).all(|(found, (name, ..))| found.path.ends_with(name)));

    fs::remove_file(folder.path().join("a/good.png")).unwrap();
    assert!(refused(folder.path(), &ReadOptions::default()).contains("none of 7 image files can be read"));
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

#[test]
fn images_of_different_sizes_need_a_resolution() {
    let folder = tempdir().unwrap();
    for (name, size) in [("1", (4, 6)), ("2", (4, 6)), ("3", (5, 5))] {
        put(&folder.path().join(format!("{name}.png")), &grey_png(&[9; 36][..(size.0 * size.1) as usize], size));
    }
    let message = refused(folder.path(), &ReadOptions::default());
    for word in ["4x6", "1 of 3", "[4, 6]"] {
        assert!(message.contains(word), "{message}");
    }
    let set = open(folder.path(), &ReadOptions { resolution: Some((3, 2)), ..ReadOptions::default() }).unwrap();
    assert_eq!((shape(&set), all(&set)), ([3, 3, 2, 1], vec![9; 18]));
}

#[test]
fn elongated_images_are_not_enlarged_without_limit() {
    let folder = tempdir().unwrap();
    put(&folder.path().join("line.png"), &grey_png(&[1; 60_000], (1, 60_000)));
    put(&folder.path().join("square.png"), &grey_png(&[1; 4], (2, 2)));
    let set = open(folder.path(), &ReadOptions { resolution: Some((4000, 4000)), ..ReadOptions::default() }).unwrap();
    assert_eq!((set.len(), set.report().bad.len()), (1, 1));
    assert!(set.report().bad[0].reason.contains("is 1x60000"), "{:?}", set.report().bad);
}

#[test]
fn folders_without_images_are_errors() {
    let folder = tempdir().unwrap();
    assert!(refused(folder.path(), &ReadOptions::default()).contains("contains no image files"));
    assert!(refused(&folder.path().join("nowhere"), &ReadOptions::default()).contains("nowhere"));
    let text = put(&folder.path().join("notes.txt"), b"a text");
    let message = refused(&text, &ReadOptions::default());
    for word in ["IDX", "CIFAR-10", ".npz", "folder"] {
        assert!(message.contains(word), "{message}");
    }
}

#[test]
fn invalid_arguments_are_errors() {
    let wrong = |options: ReadOptions| matches!(builtin(&options), Err(Error::Argument(_)));
    assert!(wrong(ReadOptions { channels: Some(2), ..ReadOptions::default() }));
    assert!(wrong(ReadOptions { resolution: Some((0, 28)), ..ReadOptions::default() }));
    assert!(wrong(ReadOptions { resolution: Some((28, usize::MAX)), ..ReadOptions::default() }));
    let set = builtin(&test_split()).unwrap();
    assert!(matches!(set.read([1000]), Err(Error::Argument(_))));
    assert!(matches!(set.read_into(&[0], &mut [0; 783]), Err(Error::Argument(_))));
}

#[cfg(unix)]
#[test]
fn cycles_of_symbolic_links_end() {
    let folder = tempdir().unwrap();
    put(&folder.path().join("a/1.png"), &grey_png(&[1; 4], (2, 2)));
    put(&folder.path().join("b/2.png"), &grey_png(&[2; 4], (2, 2)));
    std::os::unix::fs::symlink(folder.path(), folder.path().join("a/up")).unwrap();
    assert_eq!(open(folder.path(), &ReadOptions::default()).unwrap().len(), 2);
}

#[test]
fn unsupported_formats_are_named_with_a_conversion() {
    let folder = tempdir().unwrap();
    let database = put(&folder.path().join("church_outdoor_val_lmdb/data.mdb"), b"lmdb");
    put(&folder.path().join("church_outdoor_val_lmdb/lock.mdb"), b"lock");
    for path in [database.parent().unwrap(), &database] {
        assert!(refused(path, &ReadOptions::default()).contains("export it to a folder"));
    }
    for (name, word) in [("a.tfrecord", "zip"), ("b.arrow", "Parquet"), ("d.tar.xz", "unxz")] {
        assert!(refused(&put(&folder.path().join(name), b"?"), &ReadOptions::default()).contains(word));
    }
}

#[cfg(not(feature = "parquet"))]
#[test]
fn parquet_without_its_feature_is_an_error_that_names_the_feature() {
    let folder = tempdir().unwrap();
    let file = put(&folder.path().join("train-00000-of-00001.parquet"), b"PAR1");
    for path in [file.as_path(), folder.path()] {
        let error = open(path, &ReadOptions::default()).err().unwrap();
        assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
        assert!(refused(path, &ReadOptions::default()).contains("cargo feature `parquet`"), "{error}");
    }
}
