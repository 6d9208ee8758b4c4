//! Images that a file holds undecoded, one after another, all of one size.

use crate::error::{Error, Result};
use crate::pixels::{Pixels, Target, convert};
use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// `count` images of `height`·`width`·`channels` bytes.
pub(crate) struct Records {
    /// The file, or the folder of several.
    pub path: PathBuf,
    pub count: usize,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    /// Bytes are C,H,W instead of H,W,C.
    pub planar: bool,
    pub bytes: Bytes,
}

/// Where the bytes are.
pub(crate) enum Bytes {
    Memory(Vec<u8>),
    /// From `offset` on in an open file, whose length has been checked.
    File {
        file: File,
        offset: u64,
    },
}

impl Records {
    /// Brings image `index` to the target.
    pub fn decode(&self, index: usize, target: &Target, out: &mut [u8]) -> std::result::Result<(), String> {
        let stride = self.height * self.width * self.channels;
        let unchanged = !self.planar && target.is(self.height, self.width, self.channels);
        let data = match &self.bytes {
            Bytes::Memory(bytes) => Cow::Borrowed(&bytes[index * stride..][..stride]),
            Bytes::File { file, offset } => {
                let offset = offset + index as u64 * stride as u64;
                if unchanged {
                    return read_exact_at(file, out, offset).map_err(|e| e.to_string());
                }
                let mut data = vec![0; stride];
                read_exact_at(file, &mut data, offset).map_err(|e| e.to_string())?;
                Cow::Owned(data)
            }
        };
        let data = if self.planar { Cow::Owned(interleave(&data, self.channels)) } else { data };
        convert(Pixels { height: self.height, width: self.width, channels: self.channels, data }, target, out)
    }

    /// The pixels themselves, if they are in memory and already as the target wants them.
    pub fn into_target(self, target: &Target) -> std::result::Result<Vec<u8>, Self> {
        match self.bytes {
            Bytes::Memory(bytes) if !self.planar && target.is(self.height, self.width, self.channels) => Ok(bytes),
            _ => Err(self),
        }
    }
}

/// The product of sizes that a header promises, or an error that names the file.
pub(crate) fn promised(path: &Path, sizes: &[u64]) -> Result<u64> {
    sizes
        .iter()
        .try_fold(1u64, |product, &size| product.checked_mul(size))
        .ok_or_else(|| Error::malformed(path, format!("the header promises {sizes:?} values, more than can exist")))
}

fn interleave(planes: &[u8], channels: usize) -> Vec<u8> {
    let area = planes.len() / channels;
    (0..planes.len()).map(|i| planes[i % channels * area + i / channels]).collect()
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
