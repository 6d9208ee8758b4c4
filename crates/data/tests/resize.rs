//! Resizing and color conversion, compared with Pillow, with an independent resampler in f64, and by properties.

use crate::common::*;
use ddpm_data::{Fit, ReadOptions, write_npz_images};
use image::ExtendedColorType;
use proptest::prelude::*;
use std::fs::File;
use tempfile::tempdir;

/// Writes an image `[H,W,C]` to a file and reads it with `options`.
fn convert(image: &[u8], [h, w, c]: [usize; 3], options: &ReadOptions) -> Vec<u8> {
    let folder = tempdir().unwrap();
    let path = folder.path().join("one.npz");
    write_npz_images(File::create(&path).unwrap(), image, [1, h, w, c], None).unwrap();
    all(&opened(&path, &ReadOptions { channels: Some(options.channels.unwrap_or(c)), ..options.clone() }))
}

fn to(height: usize, width: usize, fit: Fit) -> ReadOptions {
    ReadOptions { resolution: Some((height, width)), fit, ..ReadOptions::default() }
}

/// The image of `resize_golden.py`.
fn picture([h, w, c]: [usize; 3]) -> Vec<u8> {
    let value = |i: usize| {
        let (y, x, c) = (i / c / w, i / c % w, i % c);
        ((y * 37 + x * 101 + c * 53 + (y * x) % 7 * 29) % 256) as u8
    };
    (0..h * w * c).map(value).collect()
}

/// Made with Pillow 13.0.0 by `resize_golden.py`:
/// `Image.fromarray(pixels).resize((w, h), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))`,
/// with the sizes and corners of torchvision's `Resize(size)` and `CenterCrop(size)`.
#[rustfmt::skip]
const PILLOW: [([usize; 3], usize, &[u8]); 3] = [
    ([13, 22, 3], 5, &[126, 129, 121, 158, 118, 135, 157, 128, 130, 142, 124, 116, 109, 157, 115, 92, 126, 160, 124, 143, 103, 121, 105, 122, 122, 99, 119, 120, 121, 132, 119, 150, 133, 153, 147, 126, 139, 115, 125, 110, 130, 152, 116, 148, 128, 117, 129, 123, 157, 128, 122, 151, 125, 132, 145, 121, 116, 108, 153, 124, 92, 132, 174, 117, 135, 112, 89, 95, 118, 107, 96, 130, 137, 121, 137]),
    ([22, 13, 1], 5, &[142, 127, 120, 155, 165, 126, 142, 108, 142, 137, 155, 128, 101, 136, 136, 127, 121, 124, 160, 166, 140, 117, 91, 130, 117]),
    ([3, 4, 3], 6, &[25, 78, 131, 76, 129, 182, 126, 179, 168, 177, 230, 91, 163, 216, 77, 86, 139, 128, 36, 89, 126, 91, 144, 149, 129, 182, 139, 151, 204, 97, 141, 194, 87, 99, 152, 109, 59, 112, 117, 120, 173, 82, 134, 187, 80, 99, 152, 109, 96, 149, 106, 126, 179, 72, 81, 118, 123, 150, 155, 64, 154, 159, 68, 95, 132, 137, 84, 137, 142, 120, 173, 82, 103, 108, 145, 179, 88, 93, 191, 100, 105, 138, 143, 180, 103, 156, 193, 82, 135, 140, 114, 103, 156, 193, 54, 107, 209, 70, 123, 160, 149, 202, 112, 165, 218, 63, 116, 169]),
];

/// Differs by at most one grey level, because both round twice, once for each direction.
#[test]
fn resizes_and_crops_like_pillow() {
    for (shape, size, expected) in PILLOW {
        let found = convert(&picture(shape), shape, &to(size, size, Fit::Crop));
        let worst = found.iter().zip(expected).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(found.len() == expected.len() && worst <= Some(1), "{shape:?}: off by {worst:?}\n{found:?}");
    }
}

/// Resamples with a triangle filter as wide as the reduction, in f64, straight from the definition.
fn resample(image: &[u8], [h, w, c]: [usize; 3], height: usize, width: usize) -> Vec<f64> {
    let weights = |from: usize, to: usize, at: usize| {
        let scale = from as f64 / to as f64;
        let centre = (at as f64 + 0.5) * scale;
        let weight = move |i: usize| (1.0 - ((i as f64 + 0.5 - centre) / scale.max(1.0)).abs()).max(0.0);
        let total: f64 = (0..from).map(weight).sum();
        (0..from).map(|i| weight(i) / total).collect::<Vec<_>>()
    };
    let mut out = Vec::new();
    for y in 0..height {
        let rows = weights(h, height, y);
        for x in 0..width {
            let columns = weights(w, width, x);
            for k in 0..c {
                let sum = |j: usize| (0..w).map(|i| columns[i] * f64::from(image[(j * w + i) * c + k])).sum::<f64>();
                out.push((0..h).map(|j| rows[j] * sum(j)).sum());
            }
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn resizes_like_the_definition(h in 1usize..20, factor in 1usize..40, target in 1usize..24, c in 0usize..2, seed in 0u8..) {
        // The aspect ratios match, so nothing is cropped.
        let (c, w, width) = ([1, 3][c], h * factor.div_ceil(8), target * factor.div_ceil(8));
        let image: Vec<u8> = noise(h * w * c).iter().map(|v| v.wrapping_mul(seed | 1)).collect();
        let found = convert(&image, [h, w, c], &to(target, width, Fit::Crop));
        for (found, expected) in found.iter().zip(resample(&image, [h, w, c], target, width)) {
            prop_assert!((f64::from(*found) - expected).abs() < 1.01, "{found} is not {expected}");
        }
    }

    #[test]
    fn constant_images_stay_constant(
        (h, w) in (1usize..40, 1usize..40), (height, width) in (1usize..40, 1usize..40), value: u8, c in 0usize..3,
    ) {
        let c = [1, 3, 4][c];
        // Opaque, so compositing changes nothing.
        let image: Vec<u8> = (0..h * w * c).map(|i| if i % 4 == 3 && c == 4 { 255 } else { value }).collect();
        for channels in [1, 3] {
            let options = ReadOptions { channels: Some(channels), ..to(height, width, Fit::Crop) };
            prop_assert_eq!(convert(&image, [h, w, c], &options), vec![value; height * width * channels]);
        }
    }

    #[test]
    fn crop_keeps_the_centre((h, w) in (1usize..30, 1usize..30), (top, left) in (0usize..15, 0usize..15)) {
        // One side of the image equals that of the resolution, so nothing is resized.
        for (outer, rest) in [([h, w + 2 * left, 1], (0, left)), ([h + 2 * top, w, 1], (top, 0))] {
            let image = noise(outer[0] * outer[1]);
            let expected: Vec<u8> =
                (0..h * w).map(|i| image[(i / w + rest.0) * outer[1] + i % w + rest.1]).collect();
            prop_assert_eq!(convert(&image, outer, &to(h, w, Fit::Crop)), expected);
        }
    }

    #[test]
    fn pad_keeps_every_pixel((h, w) in (1usize..20, 1usize..20), (down, right) in (0usize..20, 0usize..20), padding: u8) {
        let (height, width) = (h + down, w + right);
        let image = noise(h * w * 3);
        let found = convert(&image, [h, w, 3], &ReadOptions { padding, ..to(height, width, Fit::Pad) });
        // Opposite borders differ by at most one pixel.
        let corner = |total: usize| [total / 2, total.div_ceil(2)];
        let fits = corner(down).iter().any(|top| corner(right).iter().any(|left| {
            (0..height * width).all(|i| {
                let (y, x) = ((i / width).wrapping_sub(*top), (i % width).wrapping_sub(*left));
                let inside = y < h && x < w;
                let expected = if inside { &image[(y * w + x) * 3..][..3] } else { &[padding; 3] };
                found[i * 3..][..3] == *expected
            })
        }));
        prop_assert!(fits);
    }
}

#[test]
fn checkerboards_become_grey() {
    // Without anti-aliasing the result would be black or white.
    let image: Vec<u8> = (0..64 * 64).map(|i| if (i / 64 + i % 64) % 2 == 0 { 255 } else { 0 }).collect();
    let found = convert(&image, [64, 64, 1], &to(16, 16, Fit::Crop));
    let inside = (1..15).flat_map(|y| found[y * 16 + 1..y * 16 + 15].iter());
    assert!(inside.clone().all(|v| (127..=128).contains(v)), "{found:?}");
    assert!(found.iter().all(|v| (120..=135).contains(v)), "{found:?}");
}

#[test]
fn pad_shrinks_larger_images() {
    let found = convert(&[200; 20 * 10], [20, 10, 1], &to(10, 10, Fit::Pad));
    let expected: Vec<u8> = (0..100).map(|i| if (2..7).contains(&(i % 10)) { 200 } else { 0 }).collect();
    assert_eq!(found, expected);
    // A side of one pixel.
    assert_eq!(convert(&[7; 100], [100, 1, 1], &to(2, 1, Fit::Pad)), [7, 7]);
}

#[test]
fn alpha_is_composited_exactly() {
    // Every value with every alpha, over two backgrounds.
    let image: Vec<u8> = (0..=65_535u32).flat_map(|i| [i as u8, 255 - i as u8, 0, (i >> 8) as u8]).collect();
    let folder = tempdir().unwrap();
    put(&folder.path().join("1.png"), &png(&image, (256, 256), ExtendedColorType::Rgba8));
    for background in [[255; 3], [10, 200, 0]] {
        let found = all(&opened(folder.path(), &ReadOptions { background, ..ReadOptions::default() }));
        for (found, source) in found.chunks(3).zip(image.chunks(4)) {
            for c in 0..3 {
                let alpha = f64::from(source[3]) / 255.0;
                let expected = f64::from(source[c]) * alpha + f64::from(background[c]) * (1.0 - alpha);
                assert!((f64::from(found[c]) - expected).abs() <= 0.5 + 1e-9, "{found:?} from {source:?}");
            }
        }
    }
    assert_eq!(all(&opened(folder.path(), &ReadOptions { channels: Some(4), ..ReadOptions::default() })), image);
}

#[test]
fn transparent_colours_do_not_bleed() {
    // Transparent red next to opaque blue: the RGBA result is blue, not purple.
    let image: Vec<u8> = (0..64).flat_map(|i| if i % 2 == 0 { [255, 0, 0, 0] } else { [0, 0, 255, 255] }).collect();
    let found = convert(&image, [8, 8, 4], &to(2, 2, Fit::Crop));
    for pixel in found.chunks(4) {
        assert!(pixel[0] == 0 && pixel[2] >= 254 && pixel[3].abs_diff(128) < 16, "{found:?}");
    }
}

#[test]
fn converts_channels() {
    let folder = tempdir().unwrap();
    let one = |name: &str, bytes: Vec<u8>| {
        let folder = folder.path().join(name);
        put(&folder.join("1.png"), &bytes);
        move |channels| all(&opened(&folder, &ReadOptions { channels, ..ReadOptions::default() }))
    };
    let wide = |values: &[u16]| values.iter().flat_map(|v| v.to_ne_bytes()).collect::<Vec<u8>>();

    let grey = one("grey", png(&[0, 77], (1, 2), ExtendedColorType::L8));
    assert_eq!((grey(None), grey(Some(3))), (vec![0, 77], vec![0, 0, 0, 77, 77, 77]));
    assert_eq!(grey(Some(4)), [0, 0, 0, 255, 77, 77, 77, 255]);
    // Grey with alpha has no colour, so it becomes grey.
    let grey_alpha = one("la", png(&[0, 255, 0, 0], (1, 2), ExtendedColorType::La8));
    assert_eq!((grey_alpha(None), grey_alpha(Some(4))), (vec![0, 255], vec![0, 0, 0, 255, 0, 0, 0, 0]));
    // PIL: Image.new("RGB", (1, 1), c).convert("L") of red, green, blue, (10, 20, 30) is 76, 150, 29, 18.
    let colours = [255, 0, 0, 0, 255, 0, 0, 0, 255, 10, 20, 30];
    assert_eq!(one("rgb", png(&colours, (1, 4), ExtendedColorType::Rgb8))(Some(1)), [76, 150, 29, 18]);
    // 16-bit values become round(v / 257).
    let deep = one("l16", png(&wide(&[0, 128, 129, 32_768, 65_535]), (1, 5), ExtendedColorType::L16));
    assert_eq!(deep(None), [0, 0, 1, 128, 255]);
    let deep =
        one("rgba16", png(&wide(&[65_535, 0, 257, 0, 257, 514, 771, 65_535]), (1, 2), ExtendedColorType::Rgba16));
    assert_eq!(deep(None), [255, 255, 255, 1, 2, 3]);
}

#[test]
fn expands_palettes() {
    // A handmade 1x2 PNG with a palette of two colours, the second one half transparent (tRNS).
    let chunk = |kind: &[u8], body: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(kind);
        crc.update(body);
        [&(body.len() as u32).to_be_bytes(), kind, body, &crc.sum().to_be_bytes()].concat()
    };
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut zlib, &[0, 0, 1]).unwrap();
    let file = [
        b"\x89PNG\r\n\x1a\n".to_vec(),
        chunk(b"IHDR", &[0, 0, 0, 2, 0, 0, 0, 1, 8, 3, 0, 0, 0]),
        chunk(b"PLTE", &[10, 20, 30, 0, 0, 0]),
        chunk(b"tRNS", &[255, 51]),
        chunk(b"IDAT", &zlib.finish().unwrap()),
        chunk(b"IEND", &[]),
    ]
    .concat();
    let folder = tempdir().unwrap();
    put(&folder.path().join("1.png"), &file);
    assert_eq!(all(&opened(folder.path(), &ReadOptions::default())), [10, 20, 30, 204, 204, 204]);
}
