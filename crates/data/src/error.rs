use std::io;
use std::path::{Path, PathBuf};

/// An error of an image set. Messages name the file, what was found, what was expected, and the fix.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An I/O error of the operating system.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The underlying error.
        source: io::Error,
    },
    /// The path has none of the supported formats.
    #[error("{}: no known image format; expected one of: {expected}", path.display())]
    UnknownFormat {
        /// The path.
        path: PathBuf,
        /// The supported formats.
        expected: String,
    },
    /// The format is known but not supported, or its reader was not compiled in.
    #[error("{}: {message}", path.display())]
    Unsupported {
        /// The file or folder.
        path: PathBuf,
        /// The format, and how to convert it or which cargo feature reads it.
        message: String,
    },
    /// A file violates its format: it is truncated, has a wrong magic number or an inconsistent header.
    #[error("{}: {message}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The problem, with what was found and expected.
        message: String,
    },
    /// The images differ in size and no resolution is set.
    #[error(
        "{}: images differ in size: most are {}x{} (height x width), {differ} of {total} are not; \
         set a resolution to resize them, for example [{}, {}]",
        path.display(), common.0, common.1, common.0, common.1
    )]
    MixedSizes {
        /// The set.
        path: PathBuf,
        /// The most common (height, width).
        common: (usize, usize),
        /// Number of images of other sizes.
        differ: usize,
        /// Number of images.
        total: usize,
    },
    /// A compressed set that must be unpacked in memory exceeds the memory limit.
    #[error(
        "{}: takes {bytes} bytes unpacked, which exceeds the memory limit of {limit}; {fix}",
        path.display()
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Unpacked size according to the header, or the size at which reading stopped.
        bytes: u64,
        /// [`ReadOptions::memory_limit_bytes`](crate::ReadOptions::memory_limit_bytes).
        limit: u64,
        /// The suggested fix.
        fix: &'static str,
    },
    /// No image can be read.
    #[error("{}: {message}", path.display())]
    Empty {
        /// The set.
        path: PathBuf,
        /// The problem, with what was expected.
        message: String,
    },
    /// The held-out split was requested, but the set has none.
    #[error("{}: has no held-out images; expected {expected}", path.display())]
    NoHeldOut {
        /// The set.
        path: PathBuf,
        /// The expected files or arrays.
        expected: &'static str,
    },
    /// An invalid option or argument.
    #[error("{0}")]
    Argument(String),
}

/// A result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Error::Io { path: path.to_owned(), source }
    }

    /// The error that the budget has no memory for what is read from a file.
    pub(crate) fn memory(path: &Path, error: files::OverBudget) -> Self {
        Error::io(path, error.into())
    }

    pub(crate) fn malformed(path: &Path, message: impl Into<String>) -> Self {
        Error::Malformed { path: path.to_owned(), message: message.into() }
    }

    /// Turns an error of reading a file into [`Error::Malformed`] if its content is at fault, otherwise [`Error::Io`].
    pub(crate) fn reading(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
                Error::malformed(path, format!("is truncated or corrupt ({source})"))
            }
            _ => Error::io(path, source),
        }
    }
}
