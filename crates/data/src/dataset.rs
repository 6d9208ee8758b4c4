use crate::builtin::builtin;
use crate::error::Result;
use crate::open::open;
use crate::options::ReadOptions;
use crate::set::ImageSet;
use std::convert::Infallible;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A choice of images: the built-in set, or a path.
///
/// ```
/// use ddpm_data::Dataset;
/// assert_eq!("builtin".parse(), Ok(Dataset::Builtin));
/// assert_eq!("./builtin".parse(), Ok(Dataset::Path("./builtin".into())));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dataset {
    /// The set that is compiled into the crate ([`builtin()`]).
    Builtin,
    /// A folder or file ([`open()`]).
    Path(PathBuf),
}

impl Dataset {
    /// The name of the built-in set.
    pub const BUILTIN: &str = "builtin";

    /// Opens the images.
    ///
    /// # Errors
    /// As [`open()`].
    pub fn open(&self, options: &ReadOptions) -> Result<ImageSet> {
        match self {
            Dataset::Builtin => builtin(options),
            Dataset::Path(path) => open(path, options),
        }
    }

    /// Returns the path, unless it is the built-in set.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Dataset::Builtin => None,
            Dataset::Path(path) => Some(path),
        }
    }
}

impl From<Option<PathBuf>> for Dataset {
    /// No path is the built-in set.
    fn from(path: Option<PathBuf>) -> Self {
        path.map_or(Dataset::Builtin, Dataset::Path)
    }
}

impl FromStr for Dataset {
    type Err = Infallible;

    /// Parses `builtin` or a path.
    fn from_str(text: &str) -> std::result::Result<Self, Infallible> {
        Ok(if text == Self::BUILTIN { Dataset::Builtin } else { Dataset::Path(text.into()) })
    }
}

impl fmt::Display for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dataset::Builtin => f.write_str("the built-in images"),
            Dataset::Path(path) => path.display().fmt(f),
        }
    }
}
