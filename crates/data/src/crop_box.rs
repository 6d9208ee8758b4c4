use serde::{Deserialize, Serialize};
use std::fmt;

use crate::options::MAX_SIDE;
use crate::pixels::Pixels;

/// A part of a stored image, in pixels from its top left corner. Written as `[left, top, width, height]`.
///
/// PIL's `crop((left, upper, right, lower))` is `[left, upper, right - left, lower - upper]` here, torchvision's `crop(top, left,
/// height, width)` has the same numbers in another order, and ImageMagick writes `WIDTHxHEIGHT+LEFT+TOP`.
///
/// ```
/// use ddpm_data::{CropBox, ReadOptions};
/// let crop = Some(CropBox { left: 4, top: 2, width: 20, height: 24 });
/// let set = ddpm_data::builtin(&ReadOptions { crop, ..Default::default() })?;
/// assert_eq!(set.shape(), [24, 20, 1]);
/// # Ok::<(), ddpm_data::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[usize; 4]", into = "[usize; 4]")]
pub struct CropBox {
    /// The first column.
    pub left: usize,
    /// The first row.
    pub top: usize,
    /// The number of columns.
    pub width: usize,
    /// The number of rows.
    pub height: usize,
}

impl From<[usize; 4]> for CropBox {
    fn from([left, top, width, height]: [usize; 4]) -> Self {
        Self { left, top, width, height }
    }
}

impl From<CropBox> for [usize; 4] {
    fn from(CropBox { left, top, width, height }: CropBox) -> Self {
        [left, top, width, height]
    }
}

impl fmt::Display for CropBox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CropBox { left, top, width, height } = self;
        write!(f, "[{left}, {top}, {width}, {height}]")
    }
}

impl CropBox {
    /// Checks that it has pixels, and that an image can be large enough.
    ///
    /// # Errors
    /// With the numbers, and what was expected.
    pub fn check(&self) -> Result<(), String> {
        let is_side = |start: usize, size: usize| size > 0 && start <= MAX_SIDE && size <= MAX_SIDE - start;
        match is_side(self.left, self.width) && is_side(self.top, self.height) {
            true => Ok(()),
            false => Err(format!(
                "got {self}, expected [left, top, width, height] in pixels, with a part of one pixel or more that ends within \
                 {MAX_SIDE}"
            )),
        }
    }

    /// Checks that an image has all of its pixels.
    ///
    /// # Errors
    /// With both sizes.
    pub fn check_image(&self, height: usize, width: usize) -> Result<(), String> {
        let (least_height, least_width) = (self.top.saturating_add(self.height), self.left.saturating_add(self.width));
        match height >= least_height && width >= least_width {
            true => Ok(()),
            false => Err(format!(
                "is {height}x{width} (height x width), smaller than the {least_height}x{least_width} that the crop {self} needs"
            )),
        }
    }

    /// Returns this part of an image.
    pub(crate) fn apply(&self, image: &Pixels) -> Result<Pixels<'static>, String> {
        self.check_image(image.height, image.width)?;
        let &CropBox { left, top, width, height } = self;
        let channels = image.channels;
        let rows = image.data.chunks_exact(image.width * channels).skip(top).take(height);
        let data: Vec<u8> = rows.flat_map(|row| &row[left * channels..][..width * channels]).copied().collect();
        Ok(Pixels { height, width, channels, data: data.into() })
    }
}
