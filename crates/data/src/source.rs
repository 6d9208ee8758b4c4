//! The common interface of all formats: the source of the images, and their labels.

use crate::encoded::{EncodedImages, Header, brief};
use crate::error::{Error, Result};
use crate::options::ReadOptions;
use crate::pixels::{Pixels, Target, convert, cover};
use crate::raw::RawImages;
use crate::report::BadFile;
use files::{Charge, Reading, catch_panic, without_shortage};
use std::io;
use std::path::Path;

/// A format that `open` can read.
pub(crate) struct Format {
    /// A description of the expected input, for the error message that lists all formats.
    pub expected: &'static str,
    /// Checks names and first bytes. The first format that returns true reads the path, and its errors are final.
    pub detect: fn(&Path) -> bool,
    /// Finds the images and reads the labels. Pixels that can be read later are not read.
    pub open: fn(&Path, &ReadOptions) -> Result<Discovered>,
}

/// The contents of a path, in the same form for every format.
pub(crate) struct Discovered {
    pub format: &'static str,
    pub source: Source,
    /// The label of each image of the source.
    pub labels: Option<Vec<u32>>,
    /// Class names by label. If the format has none, this is empty and numbers are used instead.
    pub class_names: Vec<String>,
    pub files: usize,
    pub bad: Vec<BadFile>,
    pub other_files: usize,
    /// See [`ReadReport::generated`](crate::ReadReport::generated).
    pub generated: usize,
    /// See [`ReadReport::warnings`](crate::ReadReport::warnings).
    pub warnings: Vec<String>,
    /// Whether [`ReadOptions::range`] applies to the format.
    pub has_range: bool,
    /// The memory of the source, of the labels and of the names.
    pub charge: Charge,
}

impl Discovered {
    /// Images of one file, without labels.
    pub fn new(format: &'static str, source: Source) -> Self {
        Self {
            format,
            source,
            labels: None,
            class_names: Vec::new(),
            files: 1,
            bad: Vec::new(),
            other_files: 0,
            generated: 0,
            warnings: Vec::new(),
            has_range: false,
            charge: Charge::default(),
        }
    }
}

/// A reason why an image cannot be read.
#[derive(Debug)]
pub(crate) enum Fault {
    /// A fault of the image. A set does without such an image.
    OfImage(String),
    /// A lack of the process, such as memory. Which images a set has must not depend on it.
    Shortage(io::Error),
}

/// Images that can be read by index.
pub(crate) enum Source {
    Raw(RawImages),
    Encoded(EncodedImages),
}

impl Source {
    pub fn len(&self) -> usize {
        match self {
            Source::Raw(raw) => raw.count,
            Source::Encoded(encoded) => encoded.paths.len(),
        }
    }

    /// Returns the path that error messages about image `index` show.
    pub fn path(&self, index: usize) -> &Path {
        match self {
            Source::Raw(raw) => &raw.path,
            Source::Encoded(encoded) => &encoded.paths[index],
        }
    }

    /// Returns the memory of the lists of images: paths, headers or errors, indices and labels.
    pub fn index_bytes(&self) -> u64 {
        match self {
            Source::Raw(raw) => raw.count as u64 * 40,
            Source::Encoded(encoded) => encoded.paths.iter().map(|path| 256 + 3 * path.as_os_str().len() as u64).sum(),
        }
    }

    /// Returns the memory that a set of `bytes` takes besides what the source takes already.
    pub fn unpacked_bytes(&self, bytes: u64, target: &Target) -> u64 {
        match self {
            Source::Raw(raw) if raw.is_unpacked(target) => 0,
            _ => bytes,
        }
    }

    pub fn probe(&self, index: usize) -> std::result::Result<Header, Fault> {
        match self {
            Source::Raw(raw) => Ok(raw.header()),
            Source::Encoded(encoded) => self.guarded(index, || encoded.probe(index)),
        }
    }

    /// Decodes image `index` and converts it to `target`. Errors do not contain the path.
    pub fn decode(&self, index: usize, target: &Target, out: &mut [u8]) -> std::result::Result<(), Fault> {
        self.guarded(index, || match self {
            Source::Raw(raw) => {
                let _charge = brief(raw.decoding_bytes(target))?;
                raw.decode(index, target, out)
            }
            Source::Encoded(encoded) => {
                let (pixels, _charge) = encoded.pixels(index, target)?;
                convert(pixels, target, out)
            }
        })
    }

    /// Decodes image `index`, converts its channels and resizes it so that it covers `target`.
    pub fn decode_cover(&self, index: usize, target: &Target) -> std::result::Result<Pixels<'static>, Fault> {
        self.guarded(index, || {
            let (pixels, _charge) = match self {
                Source::Raw(raw) => {
                    let charge = brief(raw.decoding_bytes(target))?;
                    (raw.pixels(index)?, charge)
                }
                Source::Encoded(encoded) => encoded.pixels(index, target)?,
            };
            let Pixels { height, width, channels, data } = cover(pixels, target)?;
            Ok(Pixels { height, width, channels, data: data.into_owned().into() })
        })
    }

    /// Reads image `index`: names its file in case memory runs out, and turns the panic of a decoder into an error.
    fn guarded<T>(
        &self,
        index: usize,
        read: impl FnOnce() -> std::result::Result<T, String>,
    ) -> std::result::Result<T, Fault> {
        let _reading = Reading::new(self.path(index));
        let corrupt = |panic| Err(format!("is corrupt: its decoder failed ({panic})"));
        let read = without_shortage(|| catch_panic(read).unwrap_or_else(corrupt));
        read.map_err(Fault::Shortage)?.map_err(Fault::OfImage)
    }

    /// Returns the error that image `index` cannot be read.
    pub fn error(&self, index: usize, fault: Fault) -> Error {
        match fault {
            Fault::OfImage(message) => Error::malformed(self.path(index), message),
            Fault::Shortage(shortage) => Error::io(self.path(index), shortage),
        }
    }
}
