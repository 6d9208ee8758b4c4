use std::io;
use std::path::{Path, PathBuf};

/// What can go wrong with an image set. Every message names the file, what was expected and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused: no such file, no permission, a failing disk.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// Nothing known is at this path.
    #[error("{}: no image set is recognised here; expected one of: {expected}", path.display())]
    Unrecognised {
        /// The path that was to be opened.
        path: PathBuf,
        /// The formats that are read.
        expected: String,
    },
    /// A file breaks its format: truncated, wrong magic number, a header that promises what is not there.
    #[error("{}: {message}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What was found, what was expected.
        message: String,
    },
    /// The images have several sizes, and no resolution was asked for.
    #[error(
        "{}: images differ in size: most are {}x{} (height x width), {differ} of {total} are not; \
         set the resolution, for example to [{}, {}], and each is resized to it",
        path.display(), common.0, common.1, common.0, common.1
    )]
    MixedSizes {
        /// The set.
        path: PathBuf,
        /// Height and width of the most common size.
        common: (usize, usize),
        /// How many images have another size.
        differ: usize,
        /// How many images there are.
        total: usize,
    },
    /// A compressed set that can only be read whole is larger than the memory limit.
    #[error(
        "{}: takes {bytes} bytes unpacked, over the memory limit of {limit}; {fix}",
        path.display()
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// How much it takes, as its header promises or as far as it was read.
        bytes: u64,
        /// [`Options::memory_limit_bytes`](crate::Options::memory_limit_bytes).
        limit: u64,
        /// What to do about it.
        fix: &'static str,
    },
    /// There is not one image that can be read.
    #[error("{}: {message}", path.display())]
    Empty {
        /// The set.
        path: PathBuf,
        /// What was looked for.
        message: String,
    },
    /// Held-out images were asked of a set that has none.
    #[error("{}: has no held-out images; expected {expected}", path.display())]
    NoHeldOut {
        /// The set.
        path: PathBuf,
        /// Where they would have been found.
        expected: &'static str,
    },
    /// An option or argument that cannot be meant.
    #[error("{0}")]
    Argument(String),
}

/// A result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Error::Io { path: path.to_owned(), source }
    }

    pub(crate) fn malformed(path: &Path, message: impl Into<String>) -> Self {
        Error::Malformed { path: path.to_owned(), message: message.into() }
    }

    /// Sorts an error met while reading a file: its contents' fault (truncated, corrupt) or the system's.
    pub(crate) fn reading(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
                Error::malformed(path, format!("is truncated or corrupt ({source})"))
            }
            _ => Error::io(path, source),
        }
    }
}
