use crate::builtin::builtin;
use crate::error::{Error, Result};
use crate::heartbeat::heartbeat;
use crate::open::open;
use crate::options::ReadOptions;
use crate::points::{BuiltinPoints, PointShape, open_builtin};
use crate::set::ImageSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A choice of images: the built-in set, or a path.
///
/// ```
/// use ddpm_data::Dataset;
/// assert_eq!("builtin".parse(), Ok(Dataset::Builtin));
/// assert_eq!("builtin:moons".parse::<Dataset>()?.to_string(), "builtin:moons");
/// assert_eq!("./builtin".parse(), Ok(Dataset::Path("./builtin".into())));
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub enum Dataset {
    /// The set that is compiled into the crate ([`builtin()`]).
    Builtin,
    /// Binary sequences, as images of bits ([`heartbeat()`]).
    Heartbeat,
    /// Points that are drawn from a seed.
    Points(BuiltinPoints),
    /// A folder or file: of images ([`open()`]) or, if the options ask for them, of points ([`points`](crate::points)).
    Path(PathBuf),
}

impl Dataset {
    /// The name of the built-in set.
    pub const BUILTIN: &str = "builtin";

    /// The name of [`Dataset::Heartbeat`].
    pub const HEARTBEAT: &str = "builtin:heartbeat";

    /// Opens the images.
    ///
    /// # Errors
    /// As [`open()`].
    pub fn open(&self, options: &ReadOptions) -> Result<ImageSet> {
        match self {
            Dataset::Heartbeat if options.points.is_some() => Err(Error::Argument(format!(
                "{} has images of bits, and the network is one of points",
                Self::HEARTBEAT
            ))),
            Dataset::Builtin if options.points.is_some() => Err(Error::Argument(format!(
                "the built-in images are not points, and the network is one of points: give the path of points, or builtin:NAME, one \
                 of {}",
                PointShape::ALL.map(|(name, ..)| name).join(", ")
            ))),
            Dataset::Builtin => builtin(options),
            Dataset::Heartbeat => heartbeat(options),
            Dataset::Points(points) => open_builtin(points, options),
            Dataset::Path(path) => open(path, options),
        }
    }

    /// Returns the path, unless it is the built-in set. The heartbeat's name stands for its path.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Dataset::Builtin | Dataset::Points(_) => None,
            Dataset::Heartbeat => Some(Path::new(Self::HEARTBEAT)),
            Dataset::Path(path) => Some(path),
        }
    }
}

impl From<Option<PathBuf>> for Dataset {
    /// No path is the built-in set.
    fn from(path: Option<PathBuf>) -> Self {
        match path {
            None => Dataset::Builtin,
            Some(path) if path == Path::new(Self::HEARTBEAT) => Dataset::Heartbeat,
            Some(path) => Dataset::Path(path),
        }
    }
}

impl FromStr for Dataset {
    type Err = String;

    /// Parses `builtin`, `builtin:NAME` of [points](BuiltinPoints), or a path.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.split_once(':') {
            _ if text == Self::BUILTIN => Ok(Dataset::Builtin),
            _ if text == Self::HEARTBEAT => Ok(Dataset::Heartbeat),
            Some((Self::BUILTIN, points)) => Ok(Dataset::Points(points.parse()?)),
            _ => Ok(Dataset::Path(text.into())),
        }
    }
}

impl fmt::Display for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dataset::Builtin => f.write_str("the built-in images"),
            Dataset::Heartbeat => f.write_str(Self::HEARTBEAT),
            Dataset::Points(points) => write!(f, "{}:{points}", Self::BUILTIN),
            Dataset::Path(path) => path.display().fmt(f),
        }
    }
}
