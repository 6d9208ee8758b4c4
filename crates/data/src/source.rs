//! The common interface of all formats: the source of the images, and their labels.

use crate::encoded::{EncodedImages, Header};
use crate::error::Result;
use crate::options::ReadOptions;
use crate::pixels::{Pixels, Target, convert, cover};
use crate::raw::RawImages;
use crate::report::BadFile;
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
        }
    }
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

    pub fn probe(&self, index: usize) -> std::result::Result<Header, String> {
        match self {
            Source::Raw(raw) => Ok(Header { height: raw.height, width: raw.width, channels: raw.channels }),
            Source::Encoded(encoded) => encoded.probe(index),
        }
    }

    /// Decodes image `index` and converts it to `target`. Errors do not contain the path.
    pub fn decode(&self, index: usize, target: &Target, out: &mut [u8]) -> std::result::Result<(), String> {
        match self {
            Source::Raw(raw) => raw.decode(index, target, out),
            Source::Encoded(encoded) => convert(encoded.pixels(index)?, target, out),
        }
    }

    /// Decodes image `index`, converts its channels and resizes it so that it covers `target`.
    pub fn decode_cover(&self, index: usize, target: &Target) -> std::result::Result<Pixels<'static>, String> {
        let pixels = match self {
            Source::Raw(raw) => raw.pixels(index)?,
            Source::Encoded(encoded) => encoded.pixels(index)?,
        };
        let Pixels { height, width, channels, data } = cover(pixels, target)?;
        Ok(Pixels { height, width, channels, data: data.into_owned().into() })
    }
}
