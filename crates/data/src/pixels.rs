//! Conversion of one image: the part that is read, then channels, then size, then crop or border.

use crate::crop_box::CropBox;
use crate::encoded::Header;
use crate::options::{Fit, MAX_IMAGE_BYTES};
use std::borrow::Cow;

/// A decoded image, H,W,C, with 1 (grey), 2 (grey and alpha), 3 (RGB) or 4 (RGBA) channels.
pub(crate) struct Pixels<'a> {
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    pub data: Cow<'a, [u8]>,
}

/// The form to which all images of a set are converted.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    /// The part of an image that is read. All else is about this part.
    pub part: Option<CropBox>,
    pub fit: Fit,
    pub background: [u8; 3],
    pub padding: u8,
}

impl Target {
    /// Returns the size of one image in bytes.
    pub fn image_bytes(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Returns whether an image of this shape needs no conversion.
    pub fn matches(&self, height: usize, width: usize, channels: usize) -> bool {
        self.part.is_none() && (height, width, channels) == (self.height, self.width, self.channels)
    }

    /// Returns the part of an image that is read.
    fn part_of<'a>(&self, image: Pixels<'a>) -> Result<Pixels<'a>, String> {
        match self.part {
            Some(part) => part.apply(&image),
            None => Ok(image),
        }
    }
}

/// Converts `image` to `target`. `out` has [`Target::image_bytes`] bytes.
pub(crate) fn convert(image: Pixels, target: &Target, out: &mut [u8]) -> Result<(), String> {
    match target.fit {
        Fit::Crop | Fit::RandomCrop => crop(&cover(image, target)?, target, None, out),
        Fit::Pad => {
            let image = convert_channels(target.part_of(image)?, target.channels, target.background);
            let (height, width) = fit_size(image.height, image.width, target);
            pad(&resize(image, height, width)?, target, out);
        }
    }
    Ok(())
}

/// Returns the memory that converting an image takes: its part, other channels, a copy weighted by alpha, the rows after the
/// first pass of resizing, and the resized image. Resizing to a cover of more than 512 MiB is an error.
pub(crate) fn conversion_bytes(image: &Header, target: &Target) -> u64 {
    let bytes = |height: usize, width: usize| {
        (height as u64).saturating_mul(width as u64).saturating_mul(target.channels as u64)
    };
    let (part, image) = match target.part {
        Some(CropBox { height, width, .. }) => {
            let part = Header { height: height.min(image.height), width: width.min(image.width), ..*image };
            ((part.height as u64).saturating_mul(part.width as u64).saturating_mul(part.channels as u64), part)
        }
        None => (0, *image),
    };
    let channels = part + if image.channels == target.channels { 0 } else { bytes(image.height, image.width) };
    let (height, width) = match target.fit {
        Fit::Crop | Fit::RandomCrop => cover_size(image.height, image.width, target),
        Fit::Pad => fit_size(image.height, image.width, target),
    };
    let resized = bytes(height, width);
    if (height, width) == (image.height, image.width) || resized > MAX_IMAGE_BYTES {
        return channels;
    }
    let weighted = if target.channels == 4 { bytes(image.height, image.width) } else { 0 };
    channels + weighted + bytes(image.height, width) + resized
}

/// Converts the channels of the part of `image` and resizes it so that it covers `target`.
pub(crate) fn cover<'a>(image: Pixels<'a>, target: &Target) -> Result<Pixels<'a>, String> {
    let image = convert_channels(target.part_of(image)?, target.channels, target.background);
    let (height, width) = cover_size(image.height, image.width, target);
    resize(image, height, width)
}

/// Composites one channel over a background, rounded to nearest.
pub(crate) fn composite(value: u8, alpha: u8, background: u8) -> u8 {
    let (v, a, b) = (u32::from(value), u32::from(alpha), u32::from(background));
    ((v * a + b * (255 - a) + 127) / 255) as u8
}

/// Returns the Rec. 601 luma, with the weights and rounding of PIL's `convert("L")`.
fn luma([r, g, b]: [u8; 3]) -> u8 {
    ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
}

fn convert_channels<'a>(image: Pixels<'a>, channels: usize, background: [u8; 3]) -> Pixels<'a> {
    if image.channels == channels {
        return image;
    }
    let mut data = Vec::with_capacity(image.height * image.width * channels);
    for pixel in image.data.chunks_exact(image.channels) {
        let [r, g, b, a] = match *pixel {
            [v] => [v, v, v, 255],
            [v, a] => [v, v, v, a],
            [r, g, b] => [r, g, b, 255],
            [r, g, b, a] => [r, g, b, a],
            _ => unreachable!("images have 1 to 4 channels"),
        };
        let [br, bg, bb] = background;
        let rgb = || [composite(r, a, br), composite(g, a, bg), composite(b, a, bb)];
        match channels {
            1 => data.push(luma(rgb())),
            3 => data.extend(rgb()),
            _ => data.extend([r, g, b, a]),
        }
    }
    Pixels { channels, data: data.into(), ..image }
}

/// Returns the smallest size of the same aspect ratio that covers the target. The longer side is rounded down, as in
/// torchvision's `Resize(int)`.
pub(crate) fn cover_size(height: usize, width: usize, target: &Target) -> (usize, usize) {
    if target.width * height >= target.height * width {
        (target.width * height / width, target.width)
    } else {
        (target.height, target.height * width / height)
    }
}

/// Returns the size itself if it fits into the target, else the largest of the same aspect ratio that does.
fn fit_size(height: usize, width: usize, target: &Target) -> (usize, usize) {
    if height <= target.height && width <= target.width {
        (height, width)
    } else if target.width * height <= target.height * width {
        ((target.width * height / width).max(1), target.width)
    } else {
        (target.height, (target.height * width / height).max(1))
    }
}

/// Resizes an image, unless that makes it larger than a file may decode to.
fn resize<'a>(image: Pixels<'a>, height: usize, width: usize) -> Result<Pixels<'a>, String> {
    if (height, width) == (image.height, image.width) {
        return Ok(image);
    }
    // A very elongated image becomes enormous when its short side is resized to cover the target.
    let bytes = height.checked_mul(width).and_then(|area| area.checked_mul(image.channels));
    if bytes.is_none_or(|bytes| bytes as u64 > MAX_IMAGE_BYTES) {
        return Err(format!(
            "is {}x{}; resized to {height}x{width}, it would exceed {} MiB",
            image.height,
            image.width,
            MAX_IMAGE_BYTES >> 20
        ));
    }
    let side = |n: usize| u32::try_from(n).map_err(|_| format!("a side of {n} pixels is too long"));
    let (from, to) = ((side(image.width)?, side(image.height)?), (side(width)?, side(height)?));
    let data = resize::bilinear(&image.data, from, image.channels, to)?;
    Ok(Pixels { height, width, channels: image.channels, data: data.into() })
}

/// Returns the start of a centred window of `inner` in `outer`: Python's `round((outer − inner) / 2)`, as in
/// torchvision's `CenterCrop`, which rounds half to even.
fn center_offset(outer: usize, inner: usize) -> usize {
    let rest = outer - inner;
    rest / 2 + usize::from(rest % 4 == 3)
}

/// Crops an image that covers the target. `position` is that of the crop from 0 (top, left) to below 1 (bottom, right), each
/// offset in pixels being equally likely; the centre if there is none.
pub(crate) fn crop(image: &Pixels, target: &Target, position: Option<[f64; 2]>, out: &mut [u8]) {
    let rest = [image.height - target.height, image.width - target.width];
    let [top, left] = match position {
        Some([down, right]) => {
            let offset = |share: f64, rest: usize| ((share * (rest + 1) as f64) as usize).min(rest);
            [offset(down, rest[0]), offset(right, rest[1])]
        }
        None => [center_offset(image.height, target.height), center_offset(image.width, target.width)],
    };
    let (row, width) = (image.width * image.channels, target.width * target.channels);
    for (y, line) in out.chunks_exact_mut(width).enumerate() {
        line.copy_from_slice(&image.data[(top + y) * row + left * image.channels..][..width]);
    }
}

fn pad(image: &Pixels, target: &Target, out: &mut [u8]) {
    out.fill(target.padding);
    let (top, left) = (center_offset(target.height, image.height), center_offset(target.width, image.width));
    let (row, width) = (target.width * target.channels, image.width * image.channels);
    for (y, line) in image.data.chunks_exact(width).enumerate() {
        out[(top + y) * row + left * target.channels..][..width].copy_from_slice(line);
    }
}
