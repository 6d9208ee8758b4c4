//! Every kind of image file is either decoded right or refused.

use crate::common::*;
use ddpm_data::{Background, Fit, ReadOptions, open};
use image::{ExtendedColorType, ImageFormat};
use std::path::Path;
use tempfile::tempdir;

/// The pixels of a single file.
fn read(name: &str, bytes: &[u8]) -> Result<Vec<u8>, String> {
    let folder = tempdir().unwrap();
    let path = put(&folder.path().join(name), bytes);
    open(&path, &ReadOptions::default()).map(|set| all(&set)).map_err(|error| error.to_string())
}

#[test]
fn reads_bmp_tiff_and_pnm() {
    let rgb = noise(6 * 4 * 3);
    for (format, name) in [(ImageFormat::Bmp, "a.bmp"), (ImageFormat::Tiff, "a.TIF"), (ImageFormat::Pnm, "a.ppm")] {
        assert_eq!(read(name, &encode(format, &rgb, (6, 4), ExtendedColorType::Rgb8)).unwrap(), rgb, "{name}");
    }
    assert_eq!(read("a.pgm", b"P5 2 1 255\n\x05\xff").unwrap(), [5, 255]);
    // In a bitmap, 1 is black.
    assert_eq!(read("a.pbm", b"P4 2 1\n\x40").unwrap(), [255, 0]);
    // Other greatest values are scaled to 255.
    assert_eq!(read("a.pgm", b"P5 3 1 100\n\x00\x32\x64").unwrap(), [0, 128, 255]);
    assert_eq!(read("a.pgm", b"P2 3 1 15\n0 3 15\n").unwrap(), [0, 51, 255]);
    assert_eq!(read("a.pgm", b"P5 2 1 4095\n\x00\x00\x0f\xff").unwrap(), [0, 255]);
}

#[test]
fn sixteen_bits_are_rounded_to_eight() {
    let values = [0u16, 257, 385, 386, 32768, 65535];
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
    let expected: Vec<u8> = values.iter().map(|&value| (f64::from(value) / 257.0).round() as u8).collect();
    for (format, name) in [(ImageFormat::Png, "a.png"), (ImageFormat::Tiff, "a.tiff")] {
        let file = encode(format, &bytes, (2, 3), ExtendedColorType::L16);
        assert_eq!(read(name, &file).unwrap(), expected, "{name}");
    }
}

/// Numbers without a known range.
#[test]
fn floating_point_tiff_is_refused() {
    let bytes: Vec<u8> = [0.0f32, 100.0, 255.0].iter().flat_map(|value| value.to_ne_bytes()).collect();
    let file = encode(ImageFormat::Tiff, &bytes, (1, 1), ExtendedColorType::Rgb32F);
    assert!(read("a.tif", &file).unwrap_err().contains("floating-point"));
}

/// JPEG files of the ink amounts C, M, Y, K = 200, 40, 20, 30 of 255, made with the crate jpeg-encoder 0.6, `Cmyk` and
/// `CmykAsYcck`.
const CMYK: &[u8] = include_bytes!("goldens/cmyk.jpg");
const YCCK: &[u8] = include_bytes!("goldens/ycck.jpg");

#[test]
fn cmyk_jpeg_is_right_or_refused() {
    let expected = [200u32, 40, 20].map(|ink| ((255 - ink) * (255 - 30) / 255) as u8);
    for (name, file) in [("cmyk", CMYK), ("ycck", YCCK)] {
        let pixels = read("a.jpg", file).unwrap();
        for pixel in pixels.chunks(3) {
            assert!(pixel.iter().zip(expected).all(|(a, b)| a.abs_diff(b) <= 4), "{name}: {pixel:?}, not {expected:?}");
        }
    }
    // Without Adobe's marker it is not known whether 0 is white or black.
    let at = CMYK.windows(5).position(|word| word == b"Adobe").unwrap();
    let unknown = [&CMYK[..at - 4], &CMYK[at + 12..]].concat();
    assert!(read("a.jpg", &unknown).unwrap_err().contains("CMYK"), "{:?}", read("a.jpg", &unknown));
}

#[test]
fn palettes_are_their_colours() {
    // A PNG of 2x1 pixels with a palette of two colours, 1 bit per pixel.
    let mut png = Vec::new();
    let mut encoder = png::Encoder::new(&mut png, 2, 1);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::One);
    encoder.set_palette(vec![10, 20, 30, 200, 210, 220]);
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&[0b0100_0000]).unwrap();
    drop(writer);
    assert_eq!(read("a.png", &png).unwrap(), [10, 20, 30, 200, 210, 220]);
}

#[test]
fn what_was_not_downloaded_is_named() {
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
    let page = b"<!DOCTYPE html><html><body>Sign in</body></html>";
    let kinds: [(&[u8], &[&str]); 3] =
        [(pointer, &["Git LFS pointer", "git lfs pull"]), (page, &["web page (HTML)"]), (b"", &["empty file"])];
    for (bytes, words) in kinds {
        for name in
            ["a.png", "a.zip", "a.tar", "a.tar.gz", "a.npz", "a.npy", "a.parquet", "train-images-idx3-ubyte", "a.bin"]
        {
            let folder = tempdir().unwrap();
            let path = put(&folder.path().join(name), bytes);
            let message = open(&path, &ReadOptions::default()).err().unwrap().to_string();
            assert!(words.iter().all(|word| message.contains(word)), "{name}: {message}");
        }
        // Among other images, and in an archive.
        let folder = tempdir().unwrap();
        put(&folder.path().join("1.png"), &dot(1));
        put(&folder.path().join("2.png"), bytes);
        let archive = zip(&[("1.png", &dot(1)), ("2.png", bytes)], zip::CompressionMethod::Stored);
        let archive = put(&folder.path().join("z/a.zip"), &archive);
        for path in [folder.path(), &archive] {
            let set = open(path, &ReadOptions::default()).unwrap();
            assert_eq!(set.len(), 1);
            let reason = &set.report().bad[0].reason;
            assert!(words.iter().all(|word| reason.contains(word)), "{reason}");
        }
    }
}

/// Opening a named pipe would wait for a writer.
#[cfg(unix)]
#[test]
fn pipes_and_devices_are_never_opened() {
    let folder = tempdir().unwrap();
    let pipe = |name: &str| {
        let path = folder.path().join(name);
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        path
    };
    assert!(refused(&pipe("pipe"), &ReadOptions::default()).contains("named pipe"));
    assert!(refused(Path::new("/dev/null"), &ReadOptions::default()).contains("device"));
    let socket = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    assert!(refused(&socket, &ReadOptions::default()).contains("socket"));

    // In a folder, whatever they are called.
    put(&folder.path().join("1.png"), &dot(1));
    let names = ["2.png", "metadata.csv", "data_batch_1.bin", "t.tar", "p.parquet", "train-images-idx3-ubyte"];
    names.iter().for_each(|name| drop(pipe(name)));
    std::os::unix::fs::symlink(folder.path().join("pipe"), folder.path().join("link.png")).unwrap();
    let set = open(folder.path(), &ReadOptions::default()).unwrap();
    assert_eq!(dots(&set), [1]);
    let bad: Vec<_> = set.report().bad.iter().map(|bad| bad.path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(bad, ["2.png", "link.png"]);
}

#[test]
fn transparency_goes_over_the_background() {
    let folder = tempdir().unwrap();
    let path = put(&folder.path().join("1.png"), &png(&[0, 0, 0, 0], (1, 1), ExtendedColorType::Rgba8));
    let options = |background: &str| {
        let Background(background) = background.parse().unwrap();
        ReadOptions { background, channels: Some(3), ..ReadOptions::default() }
    };
    assert_eq!(all(&opened(&path, &options("#00ff80"))), [0, 255, 128]);
    assert_eq!(all(&opened(&path, &ReadOptions { channels: Some(3), ..ReadOptions::default() })), [255; 3]);
    for wrong in ["white", "#fff", "#00ff8", "#00gg00", "#ééé", ""] {
        assert!(wrong.parse::<Background>().unwrap_err().contains("#ffffff"), "{wrong}");
    }
    let json = |text: &str| serde_json::from_str::<Background>(text);
    assert_eq!(json("[1, 2, 3]").unwrap(), Background([1, 2, 3]));
    assert_eq!(json("\"#010203\"").unwrap(), Background([1, 2, 3]));
    assert!(
        json("[1, 2]").is_err() && json("[1, 2, 300]").is_err() && json("[1, 2, 3, 4]").is_err() && json("7").is_err()
    );
}

#[test]
fn crops_are_at_the_given_positions() {
    let folder = tempdir().unwrap();
    // One row of eight pixels, and a corrupt file.
    let row: Vec<u8> = (0..8).flat_map(|x| [x * 10; 4]).collect();
    let pixels: Vec<u8> = (0..4).flat_map(|y| row.chunks(4).map(move |v| v[0] + y)).collect();
    put(&folder.path().join("1.png"), &grey_png(&pixels, (4, 8)));
    let whole = grey_png(&pixels, (4, 8));
    put(&folder.path().join("2.png"), &whole[..whole.len() / 2]);
    let options = |fit| ReadOptions { resolution: Some((4, 4)), fit, ..ReadOptions::default() };
    let memory = open(folder.path(), &options(Fit::RandomCrop)).unwrap();
    assert_eq!((memory.len(), memory.report().bad.len(), memory.is_streamed()), (1, 1, false));
    let stream = open(folder.path(), &streamed(&options(Fit::RandomCrop))).unwrap();
    let center = open(folder.path(), &options(Fit::Crop)).unwrap();
    for set in [&memory, &stream] {
        // Offsets 0 to 4, each with a fifth of the interval.
        for (position, left) in [(0.0, 0), (0.19, 0), (0.21, 1), (0.5, 2), (0.79, 3), (0.999, 4)] {
            let crop = set.read_crops(&[0], &[[0.3, position]]).unwrap();
            assert_eq!(crop[..4], [0, 10, 20, 30].map(|x| x + 10 * left), "{position}");
        }
        assert_eq!(set.read([0]).unwrap(), center.read([0]).unwrap());
        assert!(set.read_crops(&[0], &[]).is_err() && set.read_crops(&[9], &[[0.0; 2]]).is_err());
    }
    assert!(center.read_crops(&[0], &[[0.0; 2]]).unwrap_err().to_string().contains("random-crop"));
}
