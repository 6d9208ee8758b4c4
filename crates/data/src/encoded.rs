//! Encoded images: PNG, JPEG, WebP, GIF, BMP, TIFF and PNM.
//!
//! No header is believed: an image has at least one pixel, at most 65,535 on a side, at most 512 MiB when decoded, and at
//! most 64 MiB and 1100 bytes for each byte of its file (deflate, which PNG uses, packs at most 1032 into one). Decoding
//! takes at most four times that, and twice the file; a lossless WebP, 512 bytes more for each byte of its file, for
//! Huffman tables, of which 2 GiB at most are charged. This is charged before, so that many threads with large images do
//! not take more than the memory of the process. Headers are probed in the first 64 KiB.

use crate::claims::{self, check_jpeg, without_texts};
use crate::formats::files::not_downloaded;
use crate::options::{MAX_IMAGE_BYTES, MAX_SIDE};
use crate::pixels::{Pixels, Target, conversion_bytes};
use ::files::Charge;
use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, ImageResult, Limits};
use std::io::{self, Cursor, Read};
use std::path::PathBuf;

/// Image files in a folder, members of an archive, or rows of a table.
pub(crate) struct EncodedImages {
    /// The path of each image, for error messages.
    pub paths: Vec<PathBuf>,
    /// Opens image `index`. Many threads call it.
    pub open: Box<OpenImage>,
}

pub(crate) type OpenImage = dyn Fn(usize) -> io::Result<ImageBytes> + Send + Sync;

/// The bytes of an encoded image.
pub(crate) struct ImageBytes {
    pub source: Box<dyn Read>,
    /// The length of the source is at most this.
    pub length: u64,
}

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

/// The decoded size of any image, whatever the size of its file.
const FREE_BYTES: u64 = 64 << 20;

/// The decoded size for a byte of the file.
const EXPANSION: u64 = 1100;

/// Images that take less to decode are not charged, since charging locks.
const UNCHARGED: u64 = 1 << 20;

impl EncodedImages {
    /// Reads the header of image `index`.
    pub fn probe(&self, index: usize) -> Result<Header, String> {
        let mut image = self.open(index)?;
        let head = image.read_head()?;
        if ImageBytes::is_within(&head) {
            return read_header(&head, image.length, true).map(|(header, _)| header).map_err(error_message);
        }
        match read_header(&head, image.length, false) {
            Ok((header, _)) => Ok(header),
            Err(_) => {
                let _charge = brief(2 * image.length)?;
                let bytes = image.read_rest(head)?;
                read_header(&bytes, image.length, true).map(|(header, _)| header).map_err(error_message)
            }
        }
    }

    /// Decodes image `index`. The charge is for decoding it and converting it to `target`.
    pub fn pixels(&self, index: usize, target: &Target) -> Result<(Pixels<'static>, Charge), String> {
        let mut image = self.open(index)?;
        let head = image.read_head()?;
        if ImageBytes::is_within(&head) {
            return decode_pixels(&head, target, brief).map_err(error_message);
        }
        // A thread may have one brief charge only, so all that the image takes is known before the rest is read.
        let bytes = match read_header(&head, image.length, false) {
            Ok((header, decoded)) => decoding_bytes(image.length, decoded, &header, target),
            Err(_) => self.bytes_of_far_header(index, target)?,
        };
        let charge = brief(bytes)?;
        let file = image.read_rest(head)?;
        let enough = |bytes: u64| match bytes <= charge.bytes().max(UNCHARGED) {
            true => Ok(charge),
            false => Err("is corrupt: its header changes".to_owned()),
        };
        decode_pixels(&file, target, enough).map_err(error_message)
    }

    /// Returns the bytes that decoding takes if the header is not in the first bytes.
    fn bytes_of_far_header(&self, index: usize, target: &Target) -> Result<u64, String> {
        let mut image = self.open(index)?;
        let _charge = brief(2 * image.length)?;
        let bytes = image.read_rest(Vec::new())?;
        let (header, decoded) = read_header(&bytes, image.length, true).map_err(error_message)?;
        Ok(decoding_bytes(image.length, decoded, &header, target))
    }

    fn open(&self, index: usize) -> Result<ImageBytes, String> {
        let image = (self.open)(index).map_err(|e| e.to_string())?;
        if image.length > MAX_IMAGE_BYTES {
            return Err(format!("has {} bytes; an image may have {} MiB", image.length, MAX_IMAGE_BYTES >> 20));
        }
        Ok(image)
    }
}

impl ImageBytes {
    fn read_head(&mut self) -> Result<Vec<u8>, String> {
        let mut head = Vec::with_capacity(self.length.min(HEAD_BYTES) as usize);
        self.source.by_ref().take(HEAD_BYTES).read_to_end(&mut head).map_err(|e| e.to_string())?;
        Ok(head)
    }

    /// Returns whether the head is all.
    fn is_within(head: &[u8]) -> bool {
        (head.len() as u64) < HEAD_BYTES
    }

    /// Reads what follows the bytes that were read.
    fn read_rest(&mut self, mut bytes: Vec<u8>) -> Result<Vec<u8>, String> {
        let rest = self.length.saturating_sub(bytes.len() as u64);
        bytes.reserve_exact(rest as usize);
        // The byte more is for the end, where checksums are verified; the buffer does not grow for it.
        let mut limited = self.source.by_ref().take(rest);
        limited.read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        self.source.by_ref().read(&mut [0]).map_err(|e| e.to_string())?;
        Ok(bytes)
    }
}

/// Charges the buffers of one image.
pub(crate) fn brief(bytes: u64) -> Result<Charge, String> {
    if bytes < UNCHARGED { Ok(Charge::default()) } else { Charge::brief(bytes).map_err(|e| e.to_string()) }
}

/// Returns the memory that an image takes while it is decoded and converted. JPEG's decoder copies the file, and keeps two
/// bytes of coefficients for each value; that of WebP has a canvas, a frame and its planes.
fn decoding_bytes(length: u64, decoded: u64, header: &Header, target: &Target) -> u64 {
    (2 * length).saturating_add(decoded.saturating_mul(4)).saturating_add(conversion_bytes(header, target))
}

fn failed<T>(message: impl Into<String>) -> ImageResult<T> {
    Err(ImageError::IoError(io::Error::other(message.into())))
}

/// Returns the decoder of a file of `length` bytes, or of its start if it is not `complete`, and the bytes that it decodes to.
fn decoder(bytes: &[u8], length: u64, complete: bool) -> ImageResult<(ImageFormat, impl ImageDecoder + '_, u64)> {
    // The format comes from the content, because JPEG files that are named .png are common.
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    let Some(format) = reader.format() else {
        let expected = "PNG, JPEG, WebP, GIF, BMP, TIFF, PNM";
        return match not_downloaded(bytes) {
            Some(cause) => failed(format!("{cause}; not an image of a supported format ({expected})")),
            None => failed(format!("is not an image of a supported format ({expected})")),
        };
    };
    let extra = claims::check(format, bytes, length, complete).or_else(failed)?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE as u32);
    limits.max_image_height = Some(MAX_SIDE as u32);
    limits.max_alloc = Some(MAX_IMAGE_BYTES);
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder()?;
    if matches!(decoder.color_type(), ColorType::Rgb32F | ColorType::Rgba32F) {
        return failed(
            "has pixels of floating-point numbers, whose range is unknown; convert it to 8 or 16 bits per channel",
        );
    }
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return failed(format!("claims {height}x{width} pixels; each side must be 1 to {MAX_SIDE}"));
    }
    let depth = u64::from(decoder.color_type().bytes_per_pixel());
    let decoded = decoder.total_bytes().saturating_add(extra.padding.saturating_mul(depth));
    if decoded > MAX_IMAGE_BYTES {
        return failed(format!(
            "claims {height}x{width} pixels, which exceeds {} MiB when decoded",
            MAX_IMAGE_BYTES >> 20
        ));
    }
    let most = FREE_BYTES + EXPANSION * bytes.len() as u64;
    if complete && decoded > most {
        let length = bytes.len();
        return failed(format!(
            "claims {height}x{width} pixels in {length} bytes, more than an image of this size has"
        ));
    }
    // The decoder's own buffers, such as a frame that is larger than the screen.
    limits.max_alloc = Some(decoded.saturating_mul(2).saturating_add(bytes.len() as u64).saturating_add(UNCHARGED));
    decoder.set_limits(limits)?;
    Ok((format, decoder, decoded.saturating_add(extra.tables)))
}

/// Returns the header of a file, or of its start if it is not `complete`, and the bytes that it decodes to.
fn read_header(bytes: &[u8], length: u64, complete: bool) -> ImageResult<(Header, u64)> {
    let bytes = without_texts(bytes);
    let (_, mut decoder, decoded) = decoder(&bytes, length, complete)?;
    Ok((header(&mut decoder), decoded))
}

fn header(decoder: &mut impl ImageDecoder) -> Header {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    let (mut width, mut height) = decoder.dimensions();
    if matches!(orientation(decoder), Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH) {
        (width, height) = (height, width);
    }
    let color = decoder.color_type();
    let channels = if color.has_color() { 3 } else { 1 } + usize::from(color.has_alpha());
    Header { height: height as usize, width: width as usize, channels }
}

/// Decodes an image to 8 bits per channel and applies its EXIF orientation, as the `datasets` library does. `charge`
/// charges the memory that it takes to decode it, and to convert it to `target`.
fn decode_pixels(
    bytes: &[u8],
    target: &Target,
    charge: impl FnOnce(u64) -> Result<Charge, String>,
) -> ImageResult<(Pixels<'static>, Charge)> {
    let length = bytes.len() as u64;
    let bytes = without_texts(bytes);
    let (format, mut decoder, decoded) = decoder(&bytes, length, true)?;
    if format == ImageFormat::Jpeg {
        check_jpeg(&bytes).or_else(failed)?;
    }
    let header = header(&mut decoder);
    let charge = charge(decoding_bytes(length, decoded, &header, target)).or_else(failed)?;
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
    if (Header { height, width, channels }) != header || data.len() != height * width * channels {
        let Header { height: h, width: w, channels: c } = header;
        return failed(format!("decodes to {height}x{width}x{channels}, but its header says {h}x{w}x{c}"));
    }
    Ok((Pixels { height, width, channels, data: data.into() }, charge))
}

fn orientation(decoder: &mut impl ImageDecoder) -> Orientation {
    // Images with invalid EXIF data are still read.
    decoder.orientation().unwrap_or(Orientation::NoTransforms)
}

/// Formats an error of a decoder on one line.
fn error_message(error: ImageError) -> String {
    match error {
        ImageError::IoError(e) if e.kind() == io::ErrorKind::UnexpectedEof => "is truncated".to_owned(),
        ImageError::IoError(e) => e.to_string(),
        // Some decoders quote what they have read.
        e => {
            let text: String = e.to_string().chars().take(300).collect();
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        }
    }
}
