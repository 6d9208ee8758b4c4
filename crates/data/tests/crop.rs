//! The part of each stored image that is read.

use crate::common::*;
use ddpm_data::{CropBox, Dataset, Error, Fit, ReadOptions, Reading, Summary, builtin, open};
use image::ExtendedColorType;
use tempfile::tempdir;

fn crop(numbers: [usize; 4]) -> ReadOptions {
    ReadOptions { crop: Some(numbers.into()), ..ReadOptions::default() }
}

/// The image of `resize_golden.py`.
fn picture([h, w, c]: [usize; 3]) -> Vec<u8> {
    let value = |y: usize, x: usize, c: usize| (y * 37 + x * 101 + c * 53 + (y * x) % 7 * 29) as u8;
    (0..h * w * c).map(|i| value(i / c / w, i / c % w, i % c)).collect()
}

/// Cuts out a part by its definition.
fn part(image: &[u8], [w, c]: [usize; 2], [left, top, width, height]: [usize; 4]) -> Vec<u8> {
    let pixel = |y: usize, x: usize| &image[((top + y) * w + left + x) * c..][..c];
    (0..height * width).flat_map(|i| pixel(i / width, i % width)).copied().collect()
}

/// Made with Pillow 13.0.0 by `resize_golden.py`: `crop((5, 2, 16, 13))`, then resized.
#[rustfmt::skip]
const PILLOW: [u8; 75] = [84, 137, 152, 115, 122, 112, 137, 141, 92, 117, 104, 137, 163, 90, 101, 74, 127, 170, 121, 154, 142, 131, 162, 100, 130, 83, 114, 86, 101, 146, 134, 132, 125, 143, 153, 123, 166, 118, 152, 142, 131, 128, 134, 126, 153, 98, 141, 133, 128, 123, 116, 157, 135, 107, 133, 113, 140, 165, 102, 104, 78, 131, 184, 107, 139, 162, 116, 120, 93, 78, 86, 119, 101, 91, 125];

#[test]
fn a_part_is_cut_out_and_resized_like_pillow() {
    let folder = tempdir().unwrap();
    let png = png(&picture([13, 22, 3]), (13, 22), ExtendedColorType::Rgb8);
    put(&folder.path().join("1.png"), &png);
    let options = ReadOptions { resolution: Some((5, 5)), ..crop([5, 2, 11, 11]) };
    let found = all(&opened(folder.path(), &options));
    assert!(found.iter().zip(PILLOW).all(|(a, b)| a.abs_diff(b) <= 1), "{found:?}");
}

#[test]
fn every_format_is_cut_to_the_same_pixels() {
    let folder = tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (pixels, corner) = (noise(2 * 7 * 9), [2, 1, 4, 5]);
    let expected: Vec<u8> = pixels.chunks(63).flat_map(|image| part(image, [9, 1], corner)).collect();
    put(&at("train-images-idx3-ubyte"), &idx(&[2, 7, 9], &pixels));
    put(&at("a.npz"), &npz_of("arr_0", "|u1", "(2, 7, 9)", false, &pixels, true));
    // MATLAB has the columns one after another.
    let columns: Vec<u8> = (0..126).map(|i| pixels[i / 63 * 63 + i % 7 * 9 + i % 63 / 7]).collect();
    let x = MatVariable { name: "X", class: 9, kind: 2, shape: &[7, 9, 1, 2], bytes: &columns };
    put(&at("a.mat"), &mat(&[x], false));
    for (i, image) in pixels.chunks(63).enumerate() {
        put(&at(&format!("folder/{i}.png")), &grey_png(image, (7, 9)));
    }
    for name in ["train-images-idx3-ubyte", "a.npz", "a.mat", "folder"] {
        let set = opened(&at(name), &crop(corner));
        assert_eq!((shape(&set), all(&set)), ([2, 5, 4, 1], expected.clone()), "{name}");
        // The sizes are those of the files.
        assert_eq!(set.report().sizes.iter().collect::<Vec<_>>(), [(&(7, 9), &2)]);
        for fit in [Fit::Pad, Fit::RandomCrop] {
            let set = opened(&at(name), &ReadOptions { fit, resolution: Some((5, 4)), ..crop(corner) });
            assert_eq!(all(&set), expected, "{name}");
        }
        // The whole image is no crop.
        assert_eq!(all(&opened(&at(name), &crop([0, 0, 9, 7]))), pixels, "{name}");
        assert_eq!(all(&opened(&at(name), &crop([8, 6, 1, 1]))), [pixels[62], pixels[125]], "{name}");
    }
    let set = opened(&at("folder"), &crop(corner));
    let reading = Reading::new(&set, &crop(corner)).to_string();
    assert_eq!(reading, "folder (training part), 2 images, 7x9 grey cropped to 5x4 at column 2, row 1");
}

#[test]
fn what_is_resized_is_the_part() {
    let folder = tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (image, corner) = (picture([40, 50, 3]), [7, 3, 30, 24]);
    put(&at("whole/1.png"), &png(&image, (40, 50), ExtendedColorType::Rgb8));
    put(&at("part/1.png"), &png(&part(&image, [50, 3], corner), (24, 30), ExtendedColorType::Rgb8));
    for fit in [Fit::Crop, Fit::Pad, Fit::RandomCrop] {
        for channels in [1, 3, 4] {
            let fitted =
                ReadOptions { resolution: Some((16, 16)), fit, channels: Some(channels), ..Default::default() };
            let [whole, part] = [("whole", Some(corner.into())), ("part", None)]
                .map(|(name, crop)| opened(&at(name), &ReadOptions { crop, ..fitted.clone() }));
            assert_eq!(all(&whole), all(&part));
            if fit == Fit::RandomCrop {
                let positions = [[0.0, 0.9]];
                assert_eq!(whole.read_crops(&[0], &positions).unwrap(), part.read_crops(&[0], &positions).unwrap());
            }
        }
    }
}

/// EXIF orientation 6: the file is rotated by 90° before anything else.
#[test]
fn a_part_is_of_the_upright_image() {
    let pixels: Vec<u8> = (0..8 * 16).map(|i| if i < 64 { 20 } else { 220 }).collect();
    let jpeg = encode(image::ImageFormat::Jpeg, &pixels, (8, 16), ExtendedColorType::L8);
    let tiff = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let segment = [&[0xff, 0xe1][..], &(tiff.len() as u16 + 2).to_be_bytes(), tiff].concat();
    let folder = tempdir().unwrap();
    put(&folder.path().join("1.jpg"), &[&jpeg[..2], &segment, &jpeg[2..]].concat());
    let set = opened(folder.path(), &crop([0, 10, 3, 6]));
    assert_eq!(shape(&set), [1, 6, 3, 1]);
    assert!(all(&set).iter().all(|value| value.abs_diff(220) < 8), "{:?}", all(&set));
}

#[test]
fn smaller_images_are_bad_files() {
    let folder = tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    put(&at("set/1.png"), &grey_png(&noise(63), (7, 9)));
    put(&at("set/2.png"), &grey_png(&noise(48), (6, 8)));
    put(&at("set/3.png"), &grey_png(&noise(120), (10, 12)));
    let set = opened(&at("set"), &crop([2, 1, 6, 6]));
    // Images of any size, as long as they have the part.
    assert_eq!((shape(&set), set.report().bad.len()), ([2, 6, 6, 1], 1));
    let bad = &set.report().bad[0];
    assert!(bad.path.ends_with("2.png"), "{bad:?}");
    assert_eq!(bad.reason, "is 6x8 (height x width), smaller than the 7x8 that the crop [2, 1, 6, 6] needs");
    assert_eq!(Summary::new(&set).bad.len(), 1);
    let message = refused(&at("set"), &crop([2, 1, 20, 6]));
    assert!(message.contains("none of 3 image files can be read") && message.contains("needs"), "{message}");
    let idx = put(&at("train-images-idx3-ubyte"), &idx(&[1, 7, 9], &noise(63)));
    for numbers in [[2, 1, 8, 6], [2, 2, 7, 6], [9, 0, 1, 1], [0, 60_000, 1, 1]] {
        assert!(refused(&idx, &crop(numbers)).contains("is 7x9 (height x width), smaller than"), "{numbers:?}");
    }
}

#[test]
fn images_of_the_resolution_that_are_too_small_are_not_cropped() {
    let folder = tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    put(&at("fitted/1.png"), &grey_png(&noise(64), (8, 8)));
    put(&at("fitted.tar.gz"), &gzip(&tar(&[("1.png", &grey_png(&noise(64), (8, 8)))])));
    put(&at("both/1.png"), &grey_png(&noise(64), (8, 8)));
    put(&at("both/2.png"), &grey_png(&noise(120), (10, 12)));
    let options = ReadOptions { resolution: Some((8, 8)), ..crop([2, 1, 8, 8]) };
    let needed = |name: &str, options: &ReadOptions| {
        options.clone().without_needless_crop(&Dataset::Path(at(name))).map(|options| options.crop.is_some())
    };
    assert_eq!(["fitted", "fitted.tar.gz", "both"].map(|name| needed(name, &options).unwrap()), [false, false, true]);
    assert!(needed("fitted", &crop([2, 1, 8, 8])).unwrap());
    // A part that is enlarged.
    assert!(needed("fitted", &ReadOptions { crop: Some([2, 1, 4, 4].into()), ..options.clone() }).unwrap());
    assert!(needed("nowhere", &options).is_err());
    // Without a crop, nothing is read.
    assert!(!needed("nowhere", &ReadOptions::default()).unwrap());
}

#[test]
fn a_crop_has_pixels() {
    for numbers in [[0, 0, 0, 1], [0, 0, 1, 0], [65_535, 0, 1, 1], [0, 0, usize::MAX, 1], [usize::MAX, 0, 1, 1]] {
        let error = builtin(&crop(numbers)).err().unwrap();
        assert!(matches!(error, Error::Argument(_)), "{error:?}");
        let words = [CropBox::from(numbers).to_string(), "[left, top, width, height]".to_owned()];
        assert!(words.iter().all(|word| error.to_string().contains(word)), "{error}");
    }
    assert!(matches!(open("nowhere".as_ref(), &crop([0, 0, 0, 0])), Err(Error::Argument(_))));
}
