//! Encoded images: PNG, JPEG, WebP, GIF, BMP, TIFF and PNM.

use crate::formats::files::not_downloaded;
use crate::options::{MAX_IMAGE_BYTES, MAX_SIDE};
use crate::pixels::Pixels;
use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};
use std::io::{self, Cursor, Read};
use std::path::PathBuf;

/// Image files in a folder, members of an archive, or rows of a table.
pub(crate) struct EncodedImages {
    /// The path of each image, for error messages.
    pub paths: Vec<PathBuf>,
    /// Opens image `index`. Many threads call it.
    pub open: Box<OpenImage>,
}

pub(crate) type OpenImage = dyn Fn(usize) -> io::Result<Box<dyn Read>> + Send + Sync;

/// Size and channels of an image, from its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub height: usize,
    pub width: usize,
    /// 1 (grey), 2 (grey and alpha), 3 (RGB) or 4 (RGBA). For a palette, the channels of its colours.
    pub channels: usize,
}

/// Bytes that almost always contain the header. A long EXIF or ICC block can move it further back.
const HEAD_BYTES: u64 = 64 << 10;

impl EncodedImages {
    /// Reads the header of image `index`.
    pub fn probe(&self, index: usize) -> Result<Header, String> {
        let read = |limit| read_up_to((self.open)(index)?, limit);
        let head = read(HEAD_BYTES).map_err(|e| e.to_string())?;
        let complete = (head.len() as u64) < HEAD_BYTES;
        match read_header(&head) {
            Err(_) if !complete => {
                read(MAX_IMAGE_BYTES).map_err(ImageError::IoError).and_then(|bytes| read_header(&bytes))
            }
            found => found,
        }
        .map_err(error_message)
    }

    /// Decodes image `index`.
    pub fn pixels(&self, index: usize) -> Result<Pixels<'static>, String> {
        let bytes =
            (self.open)(index).and_then(|source| read_up_to(source, MAX_IMAGE_BYTES)).map_err(|e| e.to_string())?;
        decode_pixels(&bytes).map_err(error_message)
    }
}

fn read_up_to(source: Box<dyn Read>, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn decoder(bytes: &[u8]) -> image::ImageResult<(ImageFormat, impl ImageDecoder + '_)> {
    // The format comes from the content, because JPEG files that are named .png are common.
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    let format = reader.format().ok_or_else(|| {
        let expected = "PNG, JPEG, WebP, GIF, BMP, TIFF, PNM";
        let message = match not_downloaded(bytes) {
            Some(cause) => format!("{cause}; not an image of a supported format ({expected})"),
            None => format!("is not an image of a supported format ({expected})"),
        };
        ImageError::IoError(io::Error::other(message))
    })?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE as u32);
    limits.max_image_height = Some(MAX_SIDE as u32);
    limits.max_alloc = Some(MAX_IMAGE_BYTES);
    reader.limits(limits);
    let decoder = reader.into_decoder()?;
    if matches!(decoder.color_type(), ColorType::Rgb32F | ColorType::Rgba32F) {
        let message =
            "has pixels of floating-point numbers, whose range is unknown; convert it to 8 or 16 bits per channel";
        return Err(ImageError::IoError(io::Error::other(message)));
    }
    let (width, height) = decoder.dimensions();
    if decoder.total_bytes() > MAX_IMAGE_BYTES {
        let message =
            format!("claims {height}x{width} pixels, which exceeds {} MiB when decoded", MAX_IMAGE_BYTES >> 20);
        return Err(ImageError::IoError(io::Error::other(message)));
    }
    Ok((format, decoder))
}

fn read_header(bytes: &[u8]) -> image::ImageResult<Header> {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    let (_, mut decoder) = decoder(bytes)?;
    let (mut width, mut height) = decoder.dimensions();
    if matches!(orientation(&mut decoder), Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH) {
        (width, height) = (height, width);
    }
    let color = decoder.color_type();
    let channels = if color.has_color() { 3 } else { 1 } + usize::from(color.has_alpha());
    Ok(Header { height: height as usize, width: width as usize, channels })
}

/// Decodes an image to 8 bits per channel and applies its EXIF orientation, as the `datasets` library does.
fn decode_pixels(bytes: &[u8]) -> image::ImageResult<Pixels<'static>> {
    let (format, mut decoder) = decoder(bytes)?;
    if format == ImageFormat::Jpeg {
        check_jpeg(bytes).map_err(|message| ImageError::IoError(io::Error::other(message)))?;
    }
    let orientation = orientation(&mut decoder);
    let mut image = DynamicImage::from_decoder(decoder)?;
    image.apply_orientation(orientation);
    let (height, width) = (image.height() as usize, image.width() as usize);
    let color = image.color();
    let (channels, data) = match (color.has_color(), color.has_alpha()) {
        (false, false) => (1, image.into_luma8().into_raw()),
        (false, true) => (2, image.into_luma_alpha8().into_raw()),
        (true, false) => (3, image.into_rgb8().into_raw()),
        (true, true) => (4, image.into_rgba8().into_raw()),
    };
    Ok(Pixels { height, width, channels, data: data.into() })
}

fn orientation(decoder: &mut impl ImageDecoder) -> Orientation {
    // Images with invalid EXIF data are still read.
    decoder.orientation().unwrap_or(Orientation::NoTransforms)
}

/// Checks what the decoder does not: that the pixels of a JPEG end with an end marker, since it fills the missing part of
/// a truncated file with grey, and that CMYK has the marker of Adobe, whose inverted values it expects.
fn check_jpeg(bytes: &[u8]) -> Result<(), &'static str> {
    // Skip the segments before the scan: they can contain a thumbnail with its own end marker.
    let (mut at, mut components, mut is_adobe) = (2, 0, false);
    while let Some(&[0xff, marker, high, low]) = bytes.get(at..at + 4) {
        let segment = bytes.get(at + 4..).unwrap_or_default();
        match marker {
            0xff => {
                at += 1;
                continue;
            }
            0xda if components == 4 && !is_adobe => {
                return Err("is a CMYK JPEG without Adobe's marker, whose colours are not defined; convert it to RGB");
            }
            0xda if bytes[at..].windows(2).any(|pair| pair == [0xff, 0xd9]) => return Ok(()),
            0xda => break,
            // Frames, with precision, height, width and number of components; not the tables C4, C8 and CC.
            0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) => components = segment.get(5).copied().unwrap_or(0),
            0xee => is_adobe |= segment.starts_with(b"Adobe"),
            _ => {}
        }
        at += 2 + usize::from(u16::from_be_bytes([high, low]));
    }
    Err("is truncated: the JPEG has no end marker")
}

/// Formats an error of a decoder on one line.
fn error_message(error: ImageError) -> String {
    match error {
        ImageError::IoError(e) if e.kind() == io::ErrorKind::UnexpectedEof => "is truncated".to_owned(),
        ImageError::IoError(e) => e.to_string(),
        e => e.to_string().split_whitespace().collect::<Vec<_>>().join(" "),
    }
}
