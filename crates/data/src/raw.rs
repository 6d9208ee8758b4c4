//! Uncompressed images of one shape, stored one after another.

use crate::encoded::Header;
use crate::error::{Error, Result};
use crate::formats::array::Layout;
use crate::pixels::{Pixels, Target, conversion_bytes, convert};
use files::Unchanged;
use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// `count` uncompressed images of `height`·`width`·`channels` bytes.
pub(crate) struct RawImages {
    /// The file or folder, for error messages.
    pub path: PathBuf,
    pub count: usize,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    pub order: Order,
    pub bytes: RawBytes,
}

/// The order of the bytes of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// H,W,C.
    Interleaved,
    /// C,H,W.
    Planar,
    /// C,W,H, which is H,W,C in MATLAB's column-major order.
    ColumnMajor,
}

/// The location of the bytes.
pub(crate) enum RawBytes {
    Memory(Vec<u8>),
    /// In an open file, from `offset`. The length of the file has been checked.
    File {
        file: File,
        offset: u64,
        unchanged: Unchanged,
    },
}

impl RawBytes {
    /// The bytes of an open file from `offset` on.
    pub fn of_file(file: File, offset: u64) -> Self {
        let unchanged = Unchanged::of(&file);
        Self::File { file, offset, unchanged }
    }
}

impl RawImages {
    pub fn new(path: &Path, layout: Layout, bytes: RawBytes) -> Self {
        let Layout { count, height, width, channels, planar } = layout;
        let order = if planar { Order::Planar } else { Order::Interleaved };
        RawImages { path: path.to_owned(), count, height, width, channels, order, bytes }
    }

    pub fn header(&self) -> Header {
        Header { height: self.height, width: self.width, channels: self.channels }
    }

    /// Returns the memory that reading and converting an image takes.
    pub fn decoding_bytes(&self, target: &Target) -> u64 {
        2 * self.image_bytes() as u64 + conversion_bytes(&self.header(), target)
    }

    /// Converts image `index` to `target`.
    pub fn decode(&self, index: usize, target: &Target, out: &mut [u8]) -> std::result::Result<(), String> {
        match &self.bytes {
            RawBytes::File { file, offset, unchanged }
                if self.order == Order::Interleaved && target.matches(self.height, self.width, self.channels) =>
            {
                let offset = offset + index as u64 * self.image_bytes() as u64;
                unchanged.check(file).and_then(|()| read_exact_at(file, out, offset)).map_err(|e| e.to_string())
            }
            _ => convert(self.pixels(index)?, target, out),
        }
    }

    /// Reads image `index`.
    pub fn pixels(&self, index: usize) -> std::result::Result<Pixels<'_>, String> {
        let image_bytes = self.image_bytes();
        let data = match &self.bytes {
            RawBytes::Memory(bytes) => Cow::Borrowed(&bytes[index * image_bytes..][..image_bytes]),
            RawBytes::File { file, offset, unchanged } => {
                let mut data = vec![0; image_bytes];
                let offset = offset + index as u64 * image_bytes as u64;
                let read = unchanged.check(file).and_then(|()| read_exact_at(file, &mut data, offset));
                read.map_err(|e| e.to_string())?;
                Cow::Owned(data)
            }
        };
        let &Self { height, width, channels, .. } = self;
        let data = match self.order {
            Order::Interleaved => data,
            Order::Planar => Cow::Owned(interleave(&data, channels)),
            Order::ColumnMajor => Cow::Owned(transpose(&data, [height, width, channels])),
        };
        Ok(Pixels { height, width, channels, data })
    }

    fn image_bytes(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Returns whether the pixels are in memory and need no conversion.
    pub fn is_unpacked(&self, target: &Target) -> bool {
        let is_in_memory = matches!(self.bytes, RawBytes::Memory(_));
        is_in_memory && self.order == Order::Interleaved && target.matches(self.height, self.width, self.channels)
    }

    /// Returns all pixels if they are in memory and need no conversion.
    pub fn into_pixels(self, target: &Target) -> std::result::Result<Vec<u8>, Self> {
        let is_unpacked = self.is_unpacked(target);
        match self.bytes {
            RawBytes::Memory(bytes) if is_unpacked => Ok(bytes),
            _ => Err(self),
        }
    }
}

/// Returns the product of the sizes in a header, or an error on overflow.
pub(crate) fn checked_product(path: &Path, sizes: &[u64]) -> Result<u64> {
    sizes
        .iter()
        .try_fold(1u64, |product, &size| product.checked_mul(size))
        .ok_or_else(|| Error::malformed(path, format!("the header claims {sizes:?} values, more than can exist")))
}

fn interleave(planes: &[u8], channels: usize) -> Vec<u8> {
    let area = planes.len() / channels;
    (0..planes.len()).map(|i| planes[i % channels * area + i / channels]).collect()
}

/// Returns an image in column-major order as H,W,C.
fn transpose(columns: &[u8], [height, width, channels]: [usize; 3]) -> Vec<u8> {
    let mut pixels = vec![0; columns.len()];
    for (i, column) in columns.chunks_exact(height).enumerate() {
        let (channel, x) = (i / width, i % width);
        for (y, &value) in column.iter().enumerate() {
            pixels[(y * width + x) * channels + channel] = value;
        }
    }
    pixels
}

#[cfg(unix)]
fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, buffer, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                buffer = &mut buffer[n..];
                offset += n as u64;
            }
        }
    }
    Ok(())
}
