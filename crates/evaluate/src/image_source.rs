//! Images by index: generated ones in memory, or the first of a set.

use std::sync::Arc;

use data::{Dataset, ImageSet, ReadOptions, Reading};
use model::Images;
use sample::Generation;

use crate::Error;
use crate::quality::Features;

/// 8-bit images of one size.
#[derive(Clone)]
pub struct ImageSource {
    storage: Storage,
    count: usize,
    shape: [usize; 3],
}

#[derive(Clone)]
enum Storage {
    Memory(Arc<[u8]>),
    Set(Arc<ImageSet>),
}

impl From<Arc<ImageSet>> for ImageSource {
    fn from(set: Arc<ImageSet>) -> Self {
        Self { count: set.len(), shape: set.shape(), storage: Storage::Set(set) }
    }
}

impl From<ImageSet> for ImageSource {
    fn from(set: ImageSet) -> Self {
        Arc::new(set).into()
    }
}

impl ImageSource {
    /// Images from bytes in the order N,H,W,C.
    ///
    /// # Panics
    /// If the bytes are not whole images of shape `[H,W,C]`.
    pub fn from_bytes(bytes: Vec<u8>, shape: [usize; 3]) -> Self {
        let size = shape.iter().product::<usize>().max(1);
        assert!(bytes.len().is_multiple_of(size), "{} bytes are not images of {shape:?}", bytes.len());
        Self { count: bytes.len() / size, shape, storage: Storage::Memory(bytes.into()) }
    }

    /// Makes the images of a generation, as the bytes that its files would hold.
    ///
    /// # Errors
    /// As [`Generation::run`].
    pub fn generate(generation: Generation) -> Result<Self, Error> {
        let (mut bytes, mut shape) = (Vec::new(), [0; 3]);
        generation.run_batches(|images| {
            shape = [images.height, images.width, images.channels];
            bytes.extend(images.bytes());
        })?;
        Ok(Self::from_bytes(bytes, shape))
    }

    /// Opens a set. `None` if `options` ask for held-out images and it has none. Also returns how it was read.
    ///
    /// # Errors
    /// If the set cannot be read.
    pub fn open(dataset: &Dataset, options: &ReadOptions) -> Result<Option<(Self, Reading)>, Error> {
        match dataset.open(options) {
            Err(data::Error::NoHeldOut { .. }) => Ok(None),
            set => {
                let set = set?;
                let reading = Reading::new(&set, options);
                Ok(Some((set.into(), reading)))
            }
        }
    }

    /// Returns the set that the images are read from, if they are not in memory.
    pub fn set(&self) -> Option<&ImageSet> {
        match &self.storage {
            Storage::Memory(_) => None,
            Storage::Set(set) => Some(set),
        }
    }

    /// Returns the first `count` images, or all if there are fewer.
    pub fn first(self, count: usize) -> Self {
        Self { count: self.count.min(count), ..self }
    }

    /// Returns the number of images.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Returns `[H,W,C]`.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// Reads images as bytes in the order N,H,W,C.
    ///
    /// # Errors
    /// If an image cannot be read.
    ///
    /// # Panics
    /// If an index is not below [`ImageSource::count`].
    pub fn read(&self, indices: impl IntoIterator<Item = usize>) -> Result<Vec<u8>, Error> {
        let size = self.shape.iter().product::<usize>();
        let checked = indices.into_iter().inspect(|&i| assert!(i < self.count, "image {i} of {}", self.count));
        match &self.storage {
            Storage::Memory(bytes) => Ok(checked.flat_map(|i| &bytes[i * size..][..size]).copied().collect()),
            Storage::Set(set) => Ok(set.read(checked)?),
        }
    }

    /// Reads images as floating-point numbers.
    ///
    /// # Errors
    /// If an image cannot be read.
    pub fn images(&self, indices: impl IntoIterator<Item = usize>) -> Result<Images, Error> {
        Ok(Images::from_bytes(self.shape, &self.read(indices)?))
    }

    /// Returns a text by which other images are recognized: their number, shape, and a digest of 16 of them.
    ///
    /// # Errors
    /// If an image cannot be read.
    pub(crate) fn key(&self) -> Result<String, Error> {
        let chosen = 16.min(self.count);
        let bytes = self.read((0..chosen).map(|i| i * self.count / chosen))?;
        Ok(format!("{} images {:?} {:08x}", self.count, self.shape, crc32fast::hash(&bytes)))
    }

    /// Reads all images as feature vectors of their pixels in units of 1/255; `None` if these would need more than
    /// `max_bytes`.
    ///
    /// # Errors
    /// If an image cannot be read.
    pub fn pixels(&self, max_bytes: usize) -> Result<Option<Features>, Error> {
        let size = self.shape.iter().product::<usize>();
        if self.count.saturating_mul(size).saturating_mul(size_of::<f32>()) > max_bytes {
            return Ok(None);
        }
        let bytes = self.read(0..self.count)?;
        Features::new(bytes.into_iter().map(|byte| f32::from(byte) / 255.0).collect(), size).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_sets_are_read_alike() {
        let set: ImageSource = data::builtin(&ReadOptions::default()).unwrap().into();
        let set = set.first(3);
        let memory = ImageSource::from_bytes(set.read(0..3).unwrap(), set.shape());
        assert_eq!((memory.count(), memory.shape()), (3, set.shape()));
        assert_eq!(memory.read([2, 0]).unwrap(), set.read([2, 0]).unwrap());
        assert_eq!(memory.images([1]).unwrap(), set.images([1]).unwrap());
        let bytes = 3 * 4 * set.shape().iter().product::<usize>();
        assert_eq!(memory.pixels(bytes).unwrap(), set.pixels(bytes).unwrap());
        assert!(set.pixels(bytes).unwrap().is_some() && set.pixels(bytes - 1).unwrap().is_none());
    }
}
