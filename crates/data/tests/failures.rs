//! Every way in which input can be broken, each with one line that names the file and says what was expected.

mod common;
use common::*;
use ddpm_data::{Error, Options, builtin, open};
use image::ExtendedColorType;
use std::fs;
use std::path::Path;
use tempfile::tempdir;

fn refuses(path: &Path, bytes: &[u8], words: &[&str]) {
    put(path, bytes);
    let message = refused(path, &Options::default());
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
}

#[test]
fn broken_idx() {
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
    refuses(&path, &idx(&[0, 4, 5], &[]), &["holds no images"]);
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
    // A bomb: much more inside than the header promises. It is not unpacked.
    refuses(&path, &gzip(&[idx(&[3, 4, 5], &noise(60)), vec![0; 50_000_000]].concat()), &["more than the 60 bytes"]);
    // And one whose header promises it.
    refuses(&path, &gzip(&idx(&[u32::MAX, 1000, 1000], &[])), &["memory limit", "gunzip"]);
    refuses(&path, &gzip(&idx(&[4000, 1000, 1000], &[1; 100])), &["truncated", "4000000000"]);
}

#[test]
fn idx_labels_that_do_not_fit() {
    let folder = tempdir().unwrap();
    put(&folder.path().join("train-images-idx3-ubyte"), &idx(&[3, 4, 5], &noise(60)));
    let labels = put(&folder.path().join("train-labels-idx1-ubyte"), &idx(&[2], &[0, 1]));
    let message = open(folder.path(), &Options::default()).err().unwrap().to_string();
    assert!(message.starts_with(&*labels.to_string_lossy()) && message.contains("2 labels"), "{message}");
    assert!(message.contains("3 images"), "{message}");
    assert!(matches!(open(folder.path(), &test_split()), Err(Error::NoHeldOut { .. })));
    put(&folder.path().join("extra-train-images-idx3-ubyte"), &idx(&[3, 4, 5], &noise(60)));
    assert!(refused(folder.path(), &Options::default()).contains("several sets"));
}

#[test]
fn broken_cifar() {
    let folder = tempdir().unwrap();
    let batch = folder.path().join("data_batch_1.bin");
    put(&batch, &[0; 3073]);
    assert!(refused(folder.path(), &Options::default()).contains("data_batch_2.bin is missing"));
    assert!(refused(folder.path(), &test_split()).contains("test_batch.bin is missing"));
    (2..6).for_each(|i| drop(put(&folder.path().join(format!("data_batch_{i}.bin")), &[0; 3073])));
    assert_eq!(open(folder.path(), &Options::default()).unwrap().len(), 5);
    put(&batch, &[0; 3072]);
    let message = open(folder.path(), &Options::default()).err().unwrap().to_string();
    assert!(message.starts_with(&*batch.to_string_lossy()) && message.contains("3073-byte"), "{message}");
    put(&batch, &[10; 3073]);
    put(&folder.path().join("batches.meta.txt"), b"a\nb\n");
    assert!(refused(folder.path(), &Options::default()).contains("label 10"));
    assert!(matches!(open(folder.path(), &streamed(&Options::default())), Err(Error::TooLarge { .. })));

    let archive = gzip(&tar(&[("cifar-10-batches-py/data_batch_1", b"pickle")]));
    refuses(&folder.path().join("cifar-10-python.tar.gz"), &archive, &["Python version", "binary version"]);
    refuses(&folder.path().join("other.tgz"), &gzip(&tar(&[("a.txt", b"a")])), &["holds no image files"]);
    let whole = gzip(&tar(&[("data_batch_1.bin", &noise(3073))]));
    refuses(&folder.path().join("half.tar.gz"), &whole[..whole.len() / 2], &["half.tar.gz"]);
    refuses(&folder.path().join("junk.tar.gz"), &noise(2000), &["junk.tar.gz"]);
}

#[test]
fn broken_npz() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("x.npz");
    let npz = |dtype: &str, shape: &str, bytes: usize| npz_of("arr_0", dtype, shape, false, &noise(bytes), false);
    refuses(&path, &npz("<f4", "(1, 2, 2, 3)", 48), &["arr_0", "<f4", "u8", "astype"]);
    refuses(&path, &npz("|u1", "(12,)", 12), &["[12]", "N,H,W,C"]);
    refuses(&path, &npz("|u1", "(1, 2, 2, 2)", 8), &["N,H,W,C"]);
    refuses(&path, &npz("|u1", "(1, 0, 2, 3)", 0), &["N,H,W,C"]);
    refuses(&path, &npz("|u1", "(2, 2, 2, 3)", 23), &["truncated", "24 bytes", "23"]);
    refuses(&path, &npz("|u1", "(18446744073709551615, 2, 2, 3)", 12), &["more than can exist"]);
    refuses(&path, &npz("|u1", "(18446744073709551616, 2, 2, 3)", 12), &["shape"]);
    refuses(&path, &npz("|u1", "(0, 2, 2, 3)", 0), &["holds no images"]);
    refuses(&path, &npz_of("arr_0", "|u1", "(1, 2, 2, 3)", true, &noise(12), false), &["Fortran"]);
    refuses(&path, &npz_of("mu", "<f8", "(2,)", false, &[0; 16], false), &["arr_0", "mu.npy"]);
    refuses(&path, b"PK\x03\x04 but no zip", &["zip"]);
    refuses(&path, b"", &["zip"]);
    let whole = npz("|u1", "(1, 2, 2, 3)", 12);
    refuses(&path, &whole[..whole.len() - 30], &["zip"]);
    let message = open(
        &put(&path, &npz_of("arr_0", "|u1", "(1, 2, 2, 3)", false, &noise(12), true)),
        &streamed(&Options::default()),
    );
    assert!(message.err().unwrap().to_string().contains("numpy.savez"));
}

/// One good image, and what is wrong with the others.
#[test]
fn bad_files_are_named_counted_and_left_out() {
    let folder = tempdir().unwrap();
    let good = grey_png(&noise(400), (20, 20));
    let jpeg = common::encode(image::ImageFormat::Jpeg, &noise(400), (20, 20), ExtendedColorType::L8);
    let mut corrupt = good.clone();
    corrupt[60] ^= 0x55;
    // A PNG of a few bytes that claims 60000x60000: the header's checksum is right.
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
        ("b/photo.TIFF", good.clone(), "TIFF files are not read"),
        ("b/text.png", b"<html>404</html>".to_vec(), "not an image"),
    ];
    bad.iter().for_each(|(name, bytes, _)| drop(put(&folder.path().join(name), bytes)));

    let set = open(folder.path(), &Options::default()).unwrap();
    assert_eq!((set.len(), set.report().files, all(&set)), (1, 8, noise(400)));
    assert_eq!(set.labels(), Some(&[0][..]));
    assert_eq!(set.report().sizes.iter().collect::<Vec<_>>(), [(&(20, 20), &1)]);
    let mut found = set.report().bad.clone();
    found.sort();
    assert_eq!(found.len(), bad.len(), "{found:?}");
    for ((path, reason), (name, _, word)) in found.iter().zip(&bad) {
        assert!(path.ends_with(name) && reason.contains(word) && !reason.is_empty(), "{path:?}: {reason}");
    }
    assert!(set.describe().contains("7 bad left out"), "{}", set.describe());

    // Streamed, the pixels are not decoded on opening: the read fails, by name, and the summary finds them all.
    let set = open(folder.path(), &streamed(&Options::default())).unwrap();
    assert_eq!((set.len(), set.report().bad.len()), (4, 4));
    let error = set.read(&[2], &mut [0; 400]).unwrap_err().to_string();
    assert!(error.contains("corrupt.png: "), "{error}");
    let summary = ddpm_data::inspect::summary(&set);
    assert_eq!((summary.images, summary.bad.len()), (1, 7));
    assert!(summary.bad.iter().zip(&bad).all(|(found, (name, ..))| found.path.ends_with(name)));

    fs::remove_file(folder.path().join("a/good.png")).unwrap();
    assert!(refused(folder.path(), &Options::default()).contains("not one of 7 image files can be read"));
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

#[test]
fn sizes_that_differ_need_a_resolution() {
    let folder = tempdir().unwrap();
    for (name, size) in [("1", (4, 6)), ("2", (4, 6)), ("3", (5, 5))] {
        put(&folder.path().join(format!("{name}.png")), &grey_png(&[9; 36][..(size.0 * size.1) as usize], size));
    }
    let message = refused(folder.path(), &Options::default());
    for word in ["4x6", "1 of 3", "[4, 6]"] {
        assert!(message.contains(word), "{message}");
    }
    let set = open(folder.path(), &Options { resolution: Some((3, 2)), ..Options::default() }).unwrap();
    assert_eq!((shape(&set), all(&set)), ([3, 3, 2, 1], vec![9; 18]));
}

#[test]
fn a_line_is_not_blown_up_to_a_square() {
    let folder = tempdir().unwrap();
    put(&folder.path().join("line.png"), &grey_png(&[1; 60_000], (1, 60_000)));
    put(&folder.path().join("square.png"), &grey_png(&[1; 4], (2, 2)));
    let set = open(folder.path(), &Options { resolution: Some((4000, 4000)), ..Options::default() }).unwrap();
    assert_eq!((set.len(), set.report().bad.len()), (1, 1));
    assert!(set.report().bad[0].1.contains("is 1x60000"), "{:?}", set.report().bad);
}

#[test]
fn nothing_there() {
    let folder = tempdir().unwrap();
    assert!(refused(folder.path(), &Options::default()).contains("holds no image files"));
    assert!(refused(&folder.path().join("nowhere"), &Options::default()).contains("nowhere"));
    let text = put(&folder.path().join("notes.txt"), b"a text");
    let message = refused(&text, &Options::default());
    for word in ["IDX", "CIFAR-10", ".npz", "folder"] {
        assert!(message.contains(word), "{message}");
    }
}

#[test]
fn arguments_that_cannot_be_meant() {
    let wrong = |options: Options| matches!(builtin(&options), Err(Error::Argument(_)));
    assert!(wrong(Options { channels: Some(2), ..Options::default() }));
    assert!(wrong(Options { resolution: Some((0, 28)), ..Options::default() }));
    assert!(wrong(Options { resolution: Some((28, usize::MAX)), ..Options::default() }));
    let set = builtin(&test_split()).unwrap();
    assert!(matches!(set.read(&[1000], &mut [0; 784]), Err(Error::Argument(_))));
    assert!(matches!(set.read(&[0], &mut [0; 783]), Err(Error::Argument(_))));
}

#[cfg(unix)]
#[test]
fn a_circle_of_links_ends() {
    let folder = tempdir().unwrap();
    put(&folder.path().join("a/1.png"), &grey_png(&[1; 4], (2, 2)));
    put(&folder.path().join("b/2.png"), &grey_png(&[2; 4], (2, 2)));
    std::os::unix::fs::symlink(folder.path(), folder.path().join("a/up")).unwrap();
    assert_eq!(open(folder.path(), &Options::default()).unwrap().len(), 2);
}

#[test]
fn known_but_unread() {
    let folder = tempdir().unwrap();
    let database = put(&folder.path().join("church_outdoor_val_lmdb/data.mdb"), b"lmdb");
    put(&folder.path().join("church_outdoor_val_lmdb/lock.mdb"), b"lock");
    for path in [database.parent().unwrap(), &database] {
        assert!(refused(path, &Options::default()).contains("export it to a folder"));
    }
    for (name, word) in [("a.tfrecord", "zip"), ("b.arrow", "Parquet"), ("c.npy", "savez"), ("d.tar.xz", "unxz")] {
        assert!(refused(&put(&folder.path().join(name), b"?"), &Options::default()).contains(word));
    }
}
