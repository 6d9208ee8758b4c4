//! Images that are files of their own: PNG, JPEG, WebP, GIF.

use crate::options::{MAX_IMAGE_BYTES, MAX_SIDE};
use crate::pixels::{Pixels, Target, convert};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};
use std::io::{self, Cursor, Read};
use std::path::PathBuf;

/// Image files in a folder, or members of an archive.
pub(crate) struct Encoded {
    /// What a message calls each image.
    pub names: Vec<PathBuf>,
    /// Opens image `index`; called from many threads.
    pub open: Box<Open>,
}

pub(crate) type Open = dyn Fn(usize) -> io::Result<Box<dyn Read>> + Send + Sync;

/// What the head of an image file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub height: usize,
    pub width: usize,
    /// 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA. A palette counts as what its colours are.
    pub channels: usize,
}

/// Where the size of an image is found, almost always; a long EXIF or ICC block can push it further.
const HEAD_BYTES: u64 = 64 << 10;

impl Encoded {
    /// Reads the head of image `index`.
    pub fn probe(&self, index: usize) -> Result<Header, String> {
        let read = |limit| bytes((self.open)(index)?, limit);
        let head = read(HEAD_BYTES).map_err(|e| e.to_string())?;
        let whole = (head.len() as u64) < HEAD_BYTES;
        match header(&head) {
            Err(_) if !whole => read(MAX_IMAGE_BYTES).map_err(ImageError::IoError).and_then(|bytes| header(&bytes)),
            found => found,
        }
        .map_err(reason)
    }

    /// Decodes image `index` and brings it to the target.
    pub fn decode(&self, index: usize, target: &Target, out: &mut [u8]) -> Result<(), String> {
        let bytes = (self.open)(index).and_then(|source| bytes(source, MAX_IMAGE_BYTES)).map_err(|e| e.to_string())?;
        convert(pixels(&bytes).map_err(reason)?, target, out)
    }
}

fn bytes(source: Box<dyn Read>, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn decoder(bytes: &[u8]) -> image::ImageResult<(ImageFormat, impl ImageDecoder + '_)> {
    // The content decides, not the name: a JPEG that is called .png is common and harmless.
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    let format = reader.format().ok_or_else(|| ImageError::IoError(io::Error::other("is not an image")))?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE as u32);
    limits.max_image_height = Some(MAX_SIDE as u32);
    limits.max_alloc = Some(MAX_IMAGE_BYTES);
    reader.limits(limits);
    let decoder = reader.into_decoder()?;
    let (width, height) = decoder.dimensions();
    if decoder.total_bytes() > MAX_IMAGE_BYTES {
        let message = format!("claims {height}x{width} pixels, over {} MiB when decoded", MAX_IMAGE_BYTES >> 20);
        return Err(ImageError::IoError(io::Error::other(message)));
    }
    Ok((format, decoder))
}

fn header(bytes: &[u8]) -> image::ImageResult<Header> {
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

/// Decodes an image to 8 bits a channel, upright as its EXIF orientation says (like the datasets library).
fn pixels(bytes: &[u8]) -> image::ImageResult<Pixels<'static>> {
    let (format, mut decoder) = decoder(bytes)?;
    if format == ImageFormat::Jpeg && !jpeg_is_whole(bytes) {
        return Err(ImageError::IoError(io::Error::other("is truncated: the JPEG has no end marker")));
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
    // Broken EXIF is no reason to lose a good picture.
    decoder.orientation().unwrap_or(Orientation::NoTransforms)
}

/// Whether a JPEG's pixels end with an end marker. The decoder fills what a truncated file lacks with grey and says
/// nothing, and grey blocks are the last thing that one wants to learn.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    // Segments before the scan have lengths and may hold a thumbnail with an end marker of its own: step over them.
    let mut at = 2;
    while let Some(&[0xff, marker, high, low]) = bytes.get(at..at + 4) {
        match marker {
            0xff => at += 1,
            0xda => return bytes[at..].windows(2).any(|pair| pair == [0xff, 0xd9]),
            _ => at += 2 + usize::from(u16::from_be_bytes([high, low])),
        }
    }
    false
}

/// A decoder's error on one line.
fn reason(error: ImageError) -> String {
    match error {
        ImageError::IoError(e) if e.kind() == io::ErrorKind::UnexpectedEof => "is truncated".to_owned(),
        ImageError::IoError(e) => e.to_string(),
        e => e.to_string().split_whitespace().collect::<Vec<_>>().join(" "),
    }
}
