//! Images on the host as floating-point numbers: the inputs and outputs of models.

use burn::tensor::{Device, Tensor, TensorData};
use data::ImageSet;
use serde::{Deserialize, Serialize};

use crate::Error;

/// Images `[N,H,W,C]`, nominally in [-1, 1], or points `[N,1,1,D]`, with optional class labels.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Images {
    /// N, the number of images.
    pub n: usize,
    /// H, in pixels.
    pub height: usize,
    /// W, in pixels.
    pub width: usize,
    /// C: 1 for grey, 3 for RGB, 4 for RGBA. Images with another number of channels can be stored, but not displayed.
    pub channels: usize,
    /// The values in the order N,H,W,C.
    pub pixels: Vec<f32>,
    /// The class of each image, if there are classes.
    pub labels: Option<Vec<u32>>,
}

impl Images {
    /// Returns the CRC-32 of the values and labels, 8 hexadecimal digits.
    pub fn digest(&self) -> String {
        let mut digest = crc32fast::Hasher::new();
        self.pixels.iter().for_each(|value| digest.update(&value.to_le_bytes()));
        self.labels.iter().flatten().for_each(|label| digest.update(&label.to_le_bytes()));
        format!("{:08x}", digest.finalize())
    }

    /// Creates images of shape `[N,H,W,C]` without labels.
    ///
    /// # Panics
    /// If the number of values does not match the shape.
    pub fn new(shape: [usize; 4], pixels: Vec<f32>) -> Self {
        let [n, height, width, channels] = shape;
        assert_eq!(pixels.len(), n * height * width * channels, "`pixels` does not match shape {shape:?}");
        Self { n, height, width, channels, pixels, labels: None }
    }

    /// Creates images from bytes in the order N,H,W,C.
    pub fn from_bytes([height, width, channels]: [usize; 3], bytes: &[u8]) -> Self {
        let n = bytes.len() / (height * width * channels).max(1);
        Self::new([n, height, width, channels], from_u8(bytes))
    }

    /// Reads images or points of a set, with their labels if the set has labels.
    ///
    /// # Errors
    /// If an image cannot be read.
    pub fn read(set: &ImageSet, indices: &[usize]) -> Result<Self, Error> {
        if set.points().is_some() {
            let [height, width, channels] = set.shape();
            let points = Self::new([indices.len(), height, width, channels], set.read_points(indices)?);
            return Ok(points.with_labels(set.labels().map(|labels| indices.iter().map(|&i| labels[i]).collect())));
        }
        let bytes = set.read(indices.iter().copied())?;
        let labels = set.labels().map(|labels| indices.iter().map(|&i| labels[i]).collect());
        Ok(Self { labels, ..Self::from_bytes(set.shape(), &bytes) })
    }

    /// Returns the images with these labels.
    pub fn with_labels(self, labels: Option<Vec<u32>>) -> Self {
        Self { labels, ..self }
    }

    /// Returns the shape `[N,H,W,C]`.
    pub fn shape(&self) -> [usize; 4] {
        [self.n, self.height, self.width, self.channels]
    }

    /// Returns an iterator over the values of each image, H,W,C.
    pub fn each(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.pixels.chunks_exact((self.height * self.width * self.channels).max(1))
    }

    /// Returns `count` images from `first` on.
    pub fn slice(&self, first: usize, count: usize) -> Self {
        let size = self.height * self.width * self.channels;
        Self {
            n: count,
            pixels: self.pixels[first * size..][..count * size].to_vec(),
            labels: self.labels.as_ref().map(|labels| labels[first..][..count].to_vec()),
            ..*self
        }
    }

    /// Appends images of the same size.
    ///
    /// # Panics
    /// If their sizes differ.
    pub fn append(&mut self, other: Self) {
        if self.n == 0 {
            *self = other;
            return;
        }
        assert_eq!(self.shape()[1..], other.shape()[1..], "the images differ in size");
        self.n += other.n;
        self.pixels.extend(other.pixels);
        if let (Some(labels), Some(more)) = (&mut self.labels, other.labels) {
            labels.extend(more);
        }
    }

    /// Returns the values in the order N,C,H,W, as in files.
    pub fn nchw(&self) -> Vec<f32> {
        let mut values = Vec::with_capacity(self.pixels.len());
        for image in self.each() {
            for channel in 0..self.channels {
                values.extend(image.iter().skip(channel).step_by(self.channels));
            }
        }
        values
    }

    /// Returns the values as bytes; see [`to_u8`].
    pub fn bytes(&self) -> Vec<u8> {
        to_u8(&self.pixels)
    }

    /// Copies the images to a device, `[N,H,W,C]`.
    pub fn tensor(&self, device: &Device) -> Tensor<4> {
        Tensor::from_data(TensorData::new(self.pixels.clone(), self.shape()), device)
    }

    /// Copies images `[N,H,W,C]` from a device.
    pub fn from_tensor(images: &Tensor<4>) -> Self {
        Self::new(images.dims(), images.to_data().iter::<f32>().collect())
    }
}

/// Converts bytes to pixels in [-1, 1]: `x/127.5 − 1`.
pub fn from_u8(bytes: &[u8]) -> Vec<f32> {
    bytes.iter().map(|&byte| f32::from(byte) / 127.5 - 1.0).collect()
}

/// Converts pixels to bytes: `round(clamp((x+1)·127.5, 0, 255))`, ties to even as in NumPy and PyTorch. NaN becomes 0.
pub fn to_u8(pixels: &[f32]) -> Vec<u8> {
    let byte = |x: &f32| ((x + 1.0) * 127.5).clamp(0.0, 255.0).round_ties_even() as u8;
    pixels.iter().map(byte).collect()
}
