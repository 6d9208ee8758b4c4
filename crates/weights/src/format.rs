//! Recognizing the format of a weights file.

use crate::tensorflow;
use crate::{Error, Result, file};
use std::io::{Read, Seek};
use std::path::Path;

/// The format of a weights file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One `.safetensors` file.
    Safetensors,
    /// A JSON index of shards, which are `.safetensors` or `torch.save` files.
    Sharded,
    /// A file written by `torch.save`.
    Torch,
    /// A TensorFlow checkpoint of version 1 or 2.
    TensorFlow,
}

impl Format {
    /// Recognizes the format of a file by its contents; the extension is ignored.
    ///
    /// # Errors
    /// If the file cannot be read or has none of these formats.
    pub fn of(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (mut file, length) = file::open(path)?;
        if length == 0 {
            return Err(Error::file(path, file::EMPTY));
        }
        let mut start = Vec::new();
        file.by_ref().take(512).read_to_end(&mut start).map_err(Error::read(path))?;
        if tensorflow::is_table(&mut file) {
            return Ok(Format::TensorFlow);
        }
        file.rewind().map_err(Error::read(path))?;
        match &start[..] {
            // The length of the header, then the header, which is JSON.
            [_, _, _, _, 0, 0, 0, 0, b'{', ..] => Ok(Format::Safetensors),
            [b'P', b'K', 3, 4, ..] | [0x80, ..] => Ok(Format::Torch),
            // A pickle of protocol 0 or 1 begins with torch's magic number in decimal digits.
            [b'L', b'1', b'1', b'9', ..] => Ok(Format::Torch),
            // Tar archives are not supported; `TorchFile::open` reports that.
            _ if start.get(257..262) == Some(b"ustar") => Ok(Format::Torch),
            [b'\x89', b'H', b'D', b'F', ..] => {
                Err(Error::file(path, "an HDF5 file (Keras), which is not supported; convert it to safetensors"))
            }
            _ if start.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{') => Ok(Format::Sharded),
            _ => Err(Error::file(
                path,
                "not a supported weights file; expected safetensors, a JSON index of shards, a torch.save file, or a \
                 TensorFlow checkpoint",
            )),
        }
    }
}
