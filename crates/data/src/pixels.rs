//! One image: channels, then size, then place.

use crate::options::{Fit, MAX_IMAGE_BYTES};
use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use std::borrow::Cow;

/// A decoded image, rows of pixels of 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA) bytes.
pub(crate) struct Pixels<'a> {
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    pub data: Cow<'a, [u8]>,
}

/// What every image of a set is brought to.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    pub fit: Fit,
    pub background: [u8; 3],
    pub padding: u8,
}

impl Target {
    /// Bytes of one image.
    pub fn bytes(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Whether images of this shape are already what is wanted.
    pub fn is(&self, height: usize, width: usize, channels: usize) -> bool {
        (height, width, channels) == (self.height, self.width, self.channels)
    }
}

/// Writes `image` as `target` wants it. `out` holds [`Target::bytes`].
pub(crate) fn convert(image: Pixels, target: &Target, out: &mut [u8]) -> Result<(), String> {
    let image = with_channels(image, target.channels, target.background);
    let (height, width) = match target.fit {
        Fit::Crop => covering(image.height, image.width, target),
        Fit::Pad => fitting(image.height, image.width, target),
    };
    let image = resize(image, height, width)?;
    match target.fit {
        Fit::Crop => crop(&image, target, out),
        Fit::Pad => pad(&image, target, out),
    }
    Ok(())
}

/// Alpha composite of one channel, rounded to nearest.
pub(crate) fn over(value: u8, alpha: u8, background: u8) -> u8 {
    let (v, a, b) = (u32::from(value), u32::from(alpha), u32::from(background));
    ((v * a + b * (255 - a) + 127) / 255) as u8
}

/// Rec. 601 luma with the weights and the rounding of PIL's `convert("L")`.
fn luma([r, g, b]: [u8; 3]) -> u8 {
    ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
}

fn with_channels<'a>(image: Pixels<'a>, channels: usize, background: [u8; 3]) -> Pixels<'a> {
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
        let rgb = || [over(r, a, br), over(g, a, bg), over(b, a, bb)];
        match channels {
            1 => data.push(luma(rgb())),
            3 => data.extend(rgb()),
            _ => data.extend([r, g, b, a]),
        }
    }
    Pixels { channels, data: data.into(), ..image }
}

/// The smallest size of the same shape that covers the target: one side equal, the other at least as long
/// (torchvision's `Resize(int)`, whose long side is rounded down).
fn covering(height: usize, width: usize, target: &Target) -> (usize, usize) {
    if target.width * height >= target.height * width {
        (target.width * height / width, target.width)
    } else {
        (target.height, target.height * width / height)
    }
}

/// The size itself where it fits into the target, else the largest of the same shape that does.
fn fitting(height: usize, width: usize, target: &Target) -> (usize, usize) {
    if height <= target.height && width <= target.width {
        (height, width)
    } else if target.width * height <= target.height * width {
        ((target.width * height / width).max(1), target.width)
    } else {
        (target.height, (target.height * width / height).max(1))
    }
}

/// PIL's convolution with a triangle (bilinear) filter that widens with the reduction, hence without aliasing.
fn resize<'a>(image: Pixels<'a>, height: usize, width: usize) -> Result<Pixels<'a>, String> {
    if (height, width) == (image.height, image.width) {
        return Ok(image);
    }
    // A line of 65,535 pixels that is to cover a square would first become an enormous strip.
    let bytes = height.checked_mul(width).and_then(|area| area.checked_mul(image.channels));
    if bytes.is_none_or(|bytes| bytes as u64 > MAX_IMAGE_BYTES) {
        return Err(format!("is {}x{}: resized to {height}x{width} it would be too large", image.height, image.width));
    }
    let side = |n: usize| u32::try_from(n).map_err(|_| format!("an image side of {n} pixels is too long"));
    let kind = match image.channels {
        1 => PixelType::U8,
        3 => PixelType::U8x3,
        _ => PixelType::U8x4,
    };
    let source =
        ImageRef::new(side(image.width)?, side(image.height)?, &image.data, kind).map_err(|e| e.to_string())?;
    let mut resized = Image::new(side(width)?, side(height)?, kind);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
    // `use_alpha` is on by default: colours are weighted by their alpha, so that transparent pixels do not bleed.
    Resizer::new().resize(&source, &mut resized, &options).map_err(|e| e.to_string())?;
    Ok(Pixels { height, width, channels: image.channels, data: resized.into_vec().into() })
}

/// Where a window of `inner` starts in `outer` so that it is centred: Python's `round((outer − inner) / 2)`, as in
/// torchvision's `CenterCrop`; a half goes to the even side.
fn centre(outer: usize, inner: usize) -> usize {
    let rest = outer - inner;
    rest / 2 + usize::from(rest % 4 == 3)
}

fn crop(image: &Pixels, target: &Target, out: &mut [u8]) {
    let (top, left) = (centre(image.height, target.height), centre(image.width, target.width));
    let (row, width) = (image.width * image.channels, target.width * target.channels);
    for (y, line) in out.chunks_exact_mut(width).enumerate() {
        line.copy_from_slice(&image.data[(top + y) * row + left * image.channels..][..width]);
    }
}

fn pad(image: &Pixels, target: &Target, out: &mut [u8]) {
    out.fill(target.padding);
    let (top, left) = (centre(target.height, image.height), centre(target.width, image.width));
    let (row, width) = (target.width * target.channels, image.width * image.channels);
    for (y, line) in image.data.chunks_exact(width).enumerate() {
        out[(top + y) * row + left * target.channels..][..width].copy_from_slice(line);
    }
}
