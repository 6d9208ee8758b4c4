//! Every format returns the bytes that were written.

use crate::common::*;
use ddpm_data::{Error, ReadOptions, Summary, open, write_npz_images};
use image::{ExtendedColorType, ImageFormat};
use std::fs::File;
use tempfile::tempdir;

#[test]
fn reads_idx_plain_and_gzipped() {
    let folder = tempdir().unwrap();
    let (train, test) = (noise(3 * 4 * 5), noise(4 * 5));
    put(&folder.path().join("train-images-idx3-ubyte.gz"), &gzip(&idx(&[3, 4, 5], &train)));
    put(&folder.path().join("train-labels-idx1-ubyte.gz"), &gzip(&idx(&[3], &[2, 0, 2])));
    put(&folder.path().join("t10k-images-idx3-ubyte"), &idx(&[1, 4, 5], &test));

    let set = opened(folder.path(), &ReadOptions::default());
    assert_eq!((shape(&set), all(&set)), ([3, 4, 5, 1], train.clone()));
    assert_eq!(set.labels(), Some(&[2, 0, 2][..]));
    assert_eq!(set.class_names(), ["0", "1", "2"]);

    let set = opened(folder.path(), &test_split());
    assert_eq!((shape(&set), all(&set), set.labels()), ([1, 4, 5, 1], test, None));

    // A file that is there both plain and compressed is one set. The path can be that of a file.
    put(&folder.path().join("train-images-idx3-ubyte"), &idx(&[3, 4, 5], &train));
    assert_eq!(all(&opened(folder.path(), &ReadOptions::default())), train);
    let file = folder.path().join("train-images-idx3-ubyte.gz");
    assert_eq!(opened(&file, &ReadOptions::default()).labels(), Some(&[2, 0, 2][..]));

    // The nested folders of torchvision, and file names with a dot.
    let nested = tempdir().unwrap();
    put(&nested.path().join("MNIST/raw/train-images.idx3-ubyte"), &idx(&[3, 4, 5], &train));
    put(&nested.path().join("MNIST/raw/train-labels.idx1-ubyte"), &idx(&[3], &[1, 1, 0]));
    let set = opened(nested.path(), &ReadOptions::default());
    assert_eq!((all(&set), set.labels()), (train, Some(&[1, 1, 0][..])));
}

/// CIFAR-10 as `(name, bytes)`: five batches of two images and a test batch of one.
fn cifar10() -> (Vec<(String, Vec<u8>)>, Vec<u8>) {
    let mut pixels = Vec::new();
    let record = |label: u8, shift: u8| {
        let planes: Vec<u8> = noise(3072).iter().map(|v| v.wrapping_add(shift)).collect();
        ([vec![label], planes.clone()].concat(), planes)
    };
    let mut files = Vec::new();
    for batch in 0..5u8 {
        let (a, a_pixels) = record(batch, 2 * batch);
        let (b, b_pixels) = record(9 - batch, 2 * batch + 1);
        for planes in [a_pixels, b_pixels] {
            pixels.extend((0..1024).flat_map(|i| [planes[i], planes[1024 + i], planes[2048 + i]]));
        }
        files.push((format!("data_batch_{}.bin", batch + 1), [a, b].concat()));
    }
    files.push(("test_batch.bin".to_owned(), record(7, 99).0));
    files.push((
        "batches.meta.txt".to_owned(),
        b"airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n".to_vec(),
    ));
    (files, pixels)
}

#[test]
fn reads_cifar10_folders_and_archives() {
    let folder = tempdir().unwrap();
    let (files, pixels) = cifar10();
    for (name, bytes) in &files {
        put(&folder.path().join("unpacked/cifar-10-batches-bin").join(name), bytes);
    }
    let names: Vec<_> = files.iter().map(|(name, _)| format!("cifar-10-batches-bin/{name}")).collect();
    let members: Vec<_> =
        names.iter().zip(&files).map(|(name, (_, bytes))| (name.as_str(), bytes.as_slice())).collect();
    let archive = tar(&members);
    // In the same folder, as after unpacking the archive.
    let gz = put(&folder.path().join("unpacked/cifar-10-binary.tar.gz"), &gzip(&archive));
    let plain = put(&folder.path().join("cifar.tar"), &archive);

    for path in [folder.path().join("unpacked"), folder.path().join("unpacked/cifar-10-batches-bin"), gz, plain] {
        let set = opened(&path, &ReadOptions::default());
        assert_eq!((shape(&set), all(&set) == pixels), ([10, 32, 32, 3], true), "{}", path.display());
        assert_eq!(set.labels(), Some(&[0, 9, 1, 8, 2, 7, 3, 6, 4, 5][..]));
        assert_eq!((set.class_names().len(), set.class_names()[9].as_str()), (10, "truck"));
        let test = opened(&path, &test_split());
        assert_eq!((test.len(), test.labels()), (1, Some(&[7][..])));
    }
}

#[test]
fn cifar100_has_the_fine_labels() {
    let folder = tempdir().unwrap();
    put(&folder.path().join("train.bin"), &[[3, 41].as_slice(), &noise(3072)].concat());
    put(&folder.path().join("test.bin"), &[[4, 42].as_slice(), &noise(3072)].concat());
    assert_eq!(opened(folder.path(), &ReadOptions::default()).labels(), Some(&[41][..]));
    assert_eq!(opened(folder.path(), &test_split()).labels(), Some(&[42][..]));
}

#[test]
fn reads_npz_that_it_writes() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("samples.npz");
    let pixels = noise(3 * 4 * 5 * 3);
    write_npz_images(File::create(&path).unwrap(), &pixels, [3, 4, 5, 3], Some(&[1, 0, 300])).unwrap();
    let set = opened(&path, &ReadOptions::default());
    assert_eq!((shape(&set), all(&set)), ([3, 4, 5, 3], pixels.clone()));
    assert_eq!((set.labels(), set.class_names().len()), (Some(&[1, 0, 300][..]), 301));
    assert!(matches!(open(&path, &test_split()), Err(Error::NoHeldOut { .. })));

    let mut out = std::io::Cursor::new(Vec::new());
    assert!(write_npz_images(&mut out, &pixels, [3, 4, 5, 1], None).is_err());
    assert!(write_npz_images(&mut out, &pixels, [3, 4, 5, 3], Some(&[1])).is_err());
}

#[test]
fn reads_npz_compressed_planar_grey_and_of_keras() {
    let folder = tempdir().unwrap();
    let pixels = noise(2 * 3 * 4 * 5);
    let interleaved: Vec<u8> = (0..pixels.len()).map(|i| pixels[i / 60 * 60 + i % 3 * 20 + i % 60 / 3]).collect();
    for compress in [false, true] {
        let path = put(&folder.path().join("p.npz"), &npz_of("arr_0", "|u1", "(2, 3, 4, 5)", false, &pixels, compress));
        let set = opened(&path, &ReadOptions::default());
        assert_eq!((shape(&set), all(&set)), ([2, 4, 5, 3], interleaved.clone()));
        let path = put(&folder.path().join("k.npz"), &npz_of("x_test", "|u1", "(6, 4, 5)", false, &pixels, compress));
        let set = opened(&path, &test_split());
        assert_eq!((shape(&set), all(&set), set.labels()), ([6, 4, 5, 1], pixels.clone(), None));
    }
}

#[test]
fn reads_image_folders_of_every_format() {
    let folder = tempdir().unwrap();
    let rgb = noise(8 * 8 * 3);
    let size = (8, 8);
    put(&folder.path().join("cats/1.PNG"), &png(&rgb, size, ExtendedColorType::Rgb8));
    put(&folder.path().join("cats/deep/er/2.webp"), &encode(ImageFormat::WebP, &rgb, size, ExtendedColorType::Rgb8));
    // A JPEG with the extension of PNG.
    put(&folder.path().join("dogs/3.png"), &encode(ImageFormat::Jpeg, &[200; 192], size, ExtendedColorType::Rgb8));
    put(&folder.path().join("dogs/4.gif"), &encode(ImageFormat::Gif, &[90; 192], size, ExtendedColorType::Rgb8));
    put(&folder.path().join("dogs/.DS_Store.png"), b"hidden");
    put(&folder.path().join("dogs/list.txt"), b"ignored, but counted");

    let set = opened(folder.path(), &ReadOptions::default());
    assert_eq!(shape(&set), [4, 8, 8, 3]);
    assert_eq!(
        (set.labels(), set.class_names()),
        (Some(&[0, 0, 1, 1][..]), &["cats".to_owned(), "dogs".to_owned()][..])
    );
    let pixels = all(&set);
    assert_eq!(pixels[..192], rgb);
    assert_eq!(pixels[192..384], rgb);
    assert!(pixels[384..576].iter().all(|v| v.abs_diff(200) <= 1));
    assert!(pixels[576..].iter().all(|&v| v == 90));
    let report = set.report();
    assert_eq!((report.files, report.other_files, report.bad.len()), (4, 1, 0));
    assert_eq!(report.sizes.iter().collect::<Vec<_>>(), [(&(8, 8), &4)]);

    // In any order, and repeatedly.
    let out = set.read([3, 0, 3]).unwrap();
    assert_eq!((&out[..192], &out[192..384], &out[384..]), (&pixels[576..], &pixels[..192], &pixels[576..]));
}

#[test]
fn image_folders_have_splits_and_classes() {
    let folder = tempdir().unwrap();
    for (name, value) in [("train/a/1", 1), ("train/b/2", 2), ("val/a/3", 3), ("val/b/4", 4)] {
        put(&folder.path().join(format!("{name}.png")), &grey_png(&[value; 4], (2, 2)));
    }
    let set = opened(folder.path(), &ReadOptions::default());
    assert_eq!((all(&set), set.labels()), ([[1; 4], [2; 4]].concat(), Some(&[0, 1][..])));
    let set = opened(folder.path(), &test_split());
    assert_eq!((all(&set), set.labels()), ([[3; 4], [4; 4]].concat(), Some(&[0, 1][..])));

    // A single subfolder is not a class. If there are images outside of subfolders, the subfolders are not classes.
    let set = opened(&folder.path().join("val/a"), &ReadOptions::default());
    assert_eq!((set.labels(), set.class_names().len()), (None, 0));
    assert!(matches!(open(&folder.path().join("val/a"), &test_split()), Err(Error::NoHeldOut { .. })));
    put(&folder.path().join("val/0.png"), &grey_png(&[5; 4], (2, 2)));
    assert_eq!(opened(&folder.path().join("val"), &ReadOptions::default()).labels(), None);
}

#[test]
fn exif_orientation_is_applied() {
    // A JPEG of 8x16, dark above and light below, with EXIF orientation 6: rotate it by 90° clockwise.
    let pixels: Vec<u8> = (0..8 * 16).map(|i| if i < 64 { 20 } else { 220 }).collect();
    let jpeg = encode(ImageFormat::Jpeg, &pixels, (8, 16), ExtendedColorType::L8);
    let tiff = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let segment = [&[0xff, 0xe1][..], &(tiff.len() as u16 + 2).to_be_bytes(), tiff].concat();
    let folder = tempdir().unwrap();
    put(&folder.path().join("1.jpg"), &[&jpeg[..2], &segment, &jpeg[2..]].concat());
    let set = opened(folder.path(), &ReadOptions::default());
    assert_eq!(shape(&set), [1, 16, 8, 1]);
    let (upright, at) = (all(&set), |y: usize, x: usize| y * 8 + x);
    assert!(upright[at(8, 0)].abs_diff(220) < 8 && upright[at(8, 7)].abs_diff(20) < 8, "{upright:?}");
}

#[test]
fn reads_from_many_threads() {
    fn shared<T: Send + Sync>(_: &T) {}
    let folder = tempdir().unwrap();
    for i in 0..20u8 {
        put(&folder.path().join(format!("{i:02}.png")), &grey_png(&[i; 16], (4, 4)));
    }
    let set = open(folder.path(), &streamed(&ReadOptions::default())).unwrap();
    shared(&set);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..20).for_each(|_| assert_eq!(all(&set)[19 * 16], 19)));
        }
    });
}

#[test]
fn summary_has_counts_and_moments() {
    let folder = tempdir().unwrap();
    put(&folder.path().join("a/1.png"), &png(&[[255, 0, 51]; 4].concat(), (2, 2), ExtendedColorType::Rgb8));
    put(&folder.path().join("b/2.png"), &png(&[[0, 0, 51]; 6].concat(), (2, 3), ExtendedColorType::Rgb8));
    put(&folder.path().join("b/3.png"), b"not an image");
    let set = opened(folder.path(), &ReadOptions { resolution: Some((2, 2)), ..ReadOptions::default() });
    let summary = Summary::new(&set);
    assert_eq!((summary.images, summary.files, summary.channels), (2, 3, 3));
    let close = |a: &[f64], b: [f64; 3]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12);
    assert!(close(&summary.mean, [0.5, 0.0, 0.2]), "{:?}", summary.mean);
    assert!(close(&summary.std, [0.5, 0.0, 0.0]), "{:?}", summary.std);
    assert_eq!(summary.classes.iter().map(|class| class.images).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(summary.sizes.len(), 2);
    assert!(summary.bad[0].path.ends_with("3.png"));
    let text = summary.to_string();
    for part in ["1 of 2x3", "a 1, b 1", "0.5000, 0.0000, 0.2000", "1 bad", "3.png: "] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}
