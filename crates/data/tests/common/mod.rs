//! Helpers that make small files of every format.
#![allow(dead_code, reason = "each test binary uses a part")]

use ddpm_data::{Error, ImageSet, ReadOptions, Split, open, write_npz_images};
use flate2::{Compression, write::GzEncoder, write::ZlibEncoder};
use image::{ExtendedColorType, ImageFormat};
use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

/// Pseudorandom bytes.
pub fn noise(count: usize) -> Vec<u8> {
    (0..count as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

pub fn put(path: &Path, bytes: &[u8]) -> PathBuf {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
    path.to_owned()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::default());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

pub fn idx(sizes: &[u32], bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0, 0, 8, sizes.len() as u8];
    sizes.iter().for_each(|size| out.extend(size.to_be_bytes()));
    out.extend(bytes);
    out
}

/// An `.npz` with one array, as NumPy writes it.
pub fn npz_of(name: &str, dtype: &str, shape: &str, fortran: bool, bytes: &[u8], compress: bool) -> Vec<u8> {
    let fortran = if fortran { "True" } else { "False" };
    let text = format!("{{'descr': '{dtype}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n");
    let mut out = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let method = if compress { zip::CompressionMethod::Deflated } else { zip::CompressionMethod::Stored };
    out.start_file(format!("{name}.npy"), zip::write::SimpleFileOptions::default().compression_method(method)).unwrap();
    out.write_all(b"\x93NUMPY\x01\x00").unwrap();
    out.write_all(&(text.len() as u16).to_le_bytes()).unwrap();
    out.write_all(text.as_bytes()).unwrap();
    out.write_all(bytes).unwrap();
    out.finish().unwrap().into_inner()
}

/// A variable of a MAT-file: a class and a type of numbers, both by their numbers in the format.
pub struct MatVariable<'a> {
    pub name: &'a str,
    pub class: u32,
    pub kind: u32,
    pub shape: &'a [i32],
    pub bytes: &'a [u8],
}

/// A MAT-file of level 5, little-endian, with each variable packed or not.
pub fn mat(variables: &[MatVariable], packed: bool) -> Vec<u8> {
    let element = |kind: u32, bytes: &[u8]| {
        let padding = vec![0; bytes.len().next_multiple_of(8) - bytes.len()];
        [&kind.to_le_bytes()[..], &(bytes.len() as u32).to_le_bytes(), bytes, &padding].concat()
    };
    let mut out = format!("{:124}", "MATLAB 5.0 MAT-file").into_bytes();
    out.extend(b"\x00\x01IM");
    for MatVariable { name, class, kind, shape, bytes } in variables {
        let flags = [class.to_le_bytes(), [0; 4]].concat();
        let sizes: Vec<u8> = shape.iter().flat_map(|size| size.to_le_bytes()).collect();
        // A value of up to four bytes is in the word after its type and length.
        let name = match name.len() {
            1 => vec![1, 0, 1, 0, name.as_bytes()[0], 0, 0, 0],
            _ => element(1, name.as_bytes()),
        };
        let matrix = element(14, &[element(6, &flags), element(5, &sizes), name, element(*kind, bytes)].concat());
        match packed {
            true => {
                let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
                zlib.write_all(&matrix).unwrap();
                let packed = zlib.finish().unwrap();
                out.extend([&15u32.to_le_bytes()[..], &(packed.len() as u32).to_le_bytes(), &packed].concat());
            }
            false => out.extend(matrix),
        }
    }
    out
}

/// A MAT-file of u8 images and labels of `double`, stored as u8 as MATLAB does.
pub fn mat_set(shape: [i32; 4], labels: &[u8], packed: bool) -> Vec<u8> {
    let pixels = noise(shape.iter().product::<i32>() as usize);
    let x = MatVariable { name: "X", class: 9, kind: 2, shape: &shape, bytes: &pixels };
    let y = MatVariable { name: "y", class: 6, kind: 2, shape: &[labels.len() as i32, 1], bytes: labels };
    mat(&[x, y], packed)
}

pub fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        out.append_data(&mut header, name, *bytes).unwrap();
    }
    out.into_inner().unwrap()
}

pub fn zip(members: &[(&str, &[u8])], method: zip::CompressionMethod) -> Vec<u8> {
    let mut out = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(method);
    for (name, bytes) in members {
        out.start_file(*name, options).unwrap();
        out.write_all(bytes).unwrap();
    }
    out.finish().unwrap().into_inner()
}

/// A PNG of 2x2 grey pixels with the same value.
pub fn dot(value: u8) -> Vec<u8> {
    grey_png(&[value; 4], (2, 2))
}

/// The first pixel of each image.
pub fn dots(set: &ImageSet) -> Vec<u8> {
    all(set).chunks(set.shape().iter().product()).map(|image| image[0]).collect()
}

/// Encodes an image in a file format of the `image` crate.
pub fn encode(
    format: image::ImageFormat,
    bytes: &[u8],
    (height, width): (u32, u32),
    color: image::ExtendedColorType,
) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    image::write_buffer_with_format(&mut out, bytes, width, height, color, format).unwrap();
    out.into_inner()
}

pub fn png(bytes: &[u8], size: (u32, u32), color: image::ExtendedColorType) -> Vec<u8> {
    encode(image::ImageFormat::Png, bytes, size, color)
}

pub fn grey_png(bytes: &[u8], size: (u32, u32)) -> Vec<u8> {
    png(bytes, size, image::ExtendedColorType::L8)
}

pub fn test_split() -> ReadOptions {
    ReadOptions { split: Split::Test, ..ReadOptions::default() }
}

/// The same options with streaming.
pub fn streamed(options: &ReadOptions) -> ReadOptions {
    ReadOptions { memory_limit_bytes: 0, ..options.clone() }
}

pub fn all(set: &ImageSet) -> Vec<u8> {
    set.read(0..set.len()).unwrap()
}

/// The shape of all images, `[N, H, W, C]`.
pub fn shape(set: &ImageSet) -> [usize; 4] {
    let [height, width, channels] = set.shape();
    [set.len(), height, width, channels]
}

/// Opens a set in memory and, if possible, streamed. Both must have the same content.
pub fn opened(path: &Path, options: &ReadOptions) -> ImageSet {
    let set = open(path, options).unwrap();
    assert!(!set.is_streamed());
    match open(path, &streamed(options)) {
        Ok(stream) => {
            assert!(stream.is_streamed());
            assert_eq!(all(&stream), all(&set));
            assert_eq!(stream.labels(), set.labels());
            assert_eq!(stream.report(), set.report());
        }
        Err(Error::TooLarge { .. }) => {}
        Err(error) => panic!("{error}"),
    }
    set
}

/// Returns the error message of a set that must not open. It must name the file.
pub fn refused(path: &Path, options: &ReadOptions) -> String {
    let error = open(path, options).err().expect("must be refused");
    let message = error.to_string();
    assert!(message.starts_with(&*path.to_string_lossy()), "{message:?} names no file");
    assert!(!message.contains('\n'), "{message:?} is not one line");
    message
}

/// Two images with the labels of webdataset and, in the last file, of StyleGAN's tools.
pub fn labelled<'a>(png: &'a [u8], jpeg: &'a [u8]) -> [(&'a str, &'a [u8]); 5] {
    [
        ("0/1.png", png),
        ("0/1.cls", b"3"),
        ("1/2.jpg", jpeg),
        ("1/2.json", br#"{"label": 4}"#),
        ("dataset.json", br#"{"labels": [["0/1.png", 3], ["1/2.jpg", 4]]}"#),
    ]
}

/// A valid file of every format, with a name by which it is detected.
pub fn valid_files() -> Vec<(&'static str, Vec<u8>)> {
    let rgb = noise(16 * 16 * 3);
    let picture = |format| encode(format, &rgb, (16, 16), ExtendedColorType::Rgb8);
    let mut npz = Cursor::new(Vec::new());
    write_npz_images(&mut npz, &rgb, [1, 16, 16, 3], Some(&[3])).unwrap();
    let images = idx(&[3, 16, 16], &rgb);
    let batches: Vec<_> = (1..6).map(|i| format!("cifar-10-batches-bin/data_batch_{i}.bin")).collect();
    let batch = noise(3073);
    let members: Vec<_> = batches.iter().map(|name| (name.as_str(), batch.as_slice())).collect();
    let (png, jpeg) = (picture(ImageFormat::Png), picture(ImageFormat::Jpeg));
    let labelled = labelled(&png, &jpeg);
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
        ("stored.mat", mat_set([16, 16, 3, 1], &[3], false)),
        ("deflated.mat", mat_set([16, 16, 3, 1], &[3], true)),
        ("folder/1.png", picture(ImageFormat::Png)),
        ("folder/1.jpg", picture(ImageFormat::Jpeg)),
        ("folder/1.webp", picture(ImageFormat::WebP)),
        ("folder/1.gif", picture(ImageFormat::Gif)),
    ]
}
