use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// How a set is to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Height and width of every image; `None` keeps the images' own size, which then must be one.
    pub resolution: Option<(usize, usize)>,
    /// 1 (grey), 3 (RGB) or 4 (RGBA); `None` takes 3 if any image has colour, else 1.
    pub channels: Option<usize>,
    /// How an image of another size is brought to the resolution.
    pub fit: Fit,
    /// RGB over which transparent images are composited when `channels` is 1 or 3. White by default.
    pub background: [u8; 3],
    /// Value of the border that [`Fit::Pad`] adds, in every channel. 0 by default.
    pub padding: u8,
    /// Which part of the set, where it is divided.
    pub split: Split,
    /// A set of at most so many bytes (N·H·W·C) is kept in memory, a larger one is streamed. 4 GiB by default.
    pub memory_limit_bytes: u64,
}

/// How an image of another size is brought to the resolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// Resize, anti-aliased, until the image just covers the resolution, then cut out the centre: torchvision's
    /// `Resize` (bilinear, on PIL images) and `CenterCrop`, which diffusers' training script uses.
    #[default]
    Crop,
    /// Put the image in the middle of a border, at its own size; shrink it only if it does not fit. Never enlarges.
    /// MNIST's 28x28 become the 32x32 of many published networks this way.
    Pad,
}

/// Part of a set that is divided into training and held-out images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Images to train on: `train-images-idx3-ubyte`, `data_batch_*.bin`, `train/`; all of a set that is not divided.
    #[default]
    Train,
    /// Held-out images: `t10k-images-idx3-ubyte`, `test_batch.bin`, `test/` or `val/`. A set without them is an error.
    Test,
}

/// The longest side that an image or a resolution may have.
pub(crate) const MAX_SIDE: usize = 65_535;

/// The most that one image may take, in its file, decoded or resized: a few kilobytes can claim any size.
pub(crate) const MAX_IMAGE_BYTES: u64 = 512 << 20;

impl Default for Options {
    fn default() -> Self {
        Options {
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

impl Options {
    pub(crate) fn check(&self) -> Result<()> {
        if let Some((h, w)) = self.resolution
            && !((1..=MAX_SIDE).contains(&h) && (1..=MAX_SIDE).contains(&w))
        {
            return Err(Error::Argument(format!("resolution {h}x{w}: each side must be 1 to {MAX_SIDE}")));
        }
        match self.channels {
            None | Some(1 | 3 | 4) => Ok(()),
            Some(c) => Err(Error::Argument(format!("channels = {c}: expected 1 (grey), 3 (RGB) or 4 (RGBA)"))),
        }
    }
}
