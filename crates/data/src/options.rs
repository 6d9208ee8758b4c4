use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Options for reading an image set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadOptions {
    /// Height and width to which images are fitted. `None` requires all images to have the same size, and keeps it.
    pub resolution: Option<(usize, usize)>,
    /// Number of channels: 1 (grey), 3 (RGB) or 4 (RGBA). `None` means 3 if any image has colour, else 1.
    pub channels: Option<usize>,
    /// The method of fitting images of another size to the resolution.
    pub fit: Fit,
    /// Background colour (RGB) of transparent images when `channels` is 1 or 3. Defaults to white.
    pub background: [u8; 3],
    /// Value of the border that [`Fit::Pad`] adds, in every channel. Defaults to 0.
    pub padding: u8,
    /// The split to read.
    pub split: Split,
    /// Maximum size N·H·W·C of a set that is kept in memory; larger sets are streamed. Defaults to 4 GiB.
    pub memory_limit_bytes: u64,
}

/// A method of fitting images of another size to a resolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// Resizes, with anti-aliasing, to the smallest size that covers the resolution, then crops the centre:
    /// torchvision's `Resize` (bilinear, on PIL images) and `CenterCrop`, as in diffusers' training script.
    #[default]
    Crop,
    /// Centres the image in a border, and first shrinks it if it is larger than the resolution. Never enlarges. Turns
    /// MNIST's 28x28 into the 32x32 of many published networks.
    Pad,
}

/// The training split or the held-out split of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Training images: `train-images-idx3-ubyte`, `data_batch_*.bin`, `train/`, or the whole set if it has no splits.
    #[default]
    Train,
    /// Held-out images: `t10k-images-idx3-ubyte`, `test_batch.bin`, `test/` or `val/`. An error if there are none.
    Test,
}

/// Maximum height and width of an image or a resolution.
pub(crate) const MAX_SIDE: usize = 65_535;

/// Maximum size of one image: of its file, decoded and resized. A file of a few kilobytes can claim any size.
pub(crate) const MAX_IMAGE_BYTES: u64 = 512 << 20;

impl Default for ReadOptions {
    fn default() -> Self {
        ReadOptions {
            resolution: None,
            channels: None,
            fit: Fit::Crop,
            background: [255; 3],
            padding: 0,
            split: Split::Train,
            memory_limit_bytes: 4 << 30,
        }
    }
}

impl ReadOptions {
    pub(crate) fn check(&self) -> Result<()> {
        if let Some((h, w)) = self.resolution
            && !((1..=MAX_SIDE).contains(&h) && (1..=MAX_SIDE).contains(&w))
        {
            return Err(Error::Argument(format!("resolution is {h}x{w}; each side must be 1 to {MAX_SIDE}")));
        }
        match self.channels {
            None | Some(1 | 3 | 4) => Ok(()),
            Some(c) => Err(Error::Argument(format!("channels is {c}; expected 1 (grey), 3 (RGB) or 4 (RGBA)"))),
        }
    }
}
