//! The error type of the crate.

use crate::shown::shown;
use std::io;
use std::path::{Path, PathBuf};

/// An error of this crate. Each message names the file, what is wrong with it and, where one is known, the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system reports an error.
    #[error("cannot {action} {}: {error}{advice}", path.display())]
    Io {
        /// "read" or "write".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
        /// A remedy in parentheses, or nothing.
        advice: &'static str,
    },
    /// A file is malformed or not supported.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The problem.
        reason: String,
    },
    /// A tensor is missing, malformed or not supported.
    #[error("{}: tensor `{name}`: {reason}", path.display())]
    Tensor {
        /// The file that the tensor is in.
        path: PathBuf,
        /// The name of the tensor, shortened.
        name: String,
        /// The problem.
        reason: String,
    },
    /// A file or folder to be written already exists.
    #[error("{} already exists; remove it or choose another name", path.display())]
    Exists {
        /// The file or folder.
        path: PathBuf,
    },
    /// A file differs from its checksum.
    #[error(
        "{}: {reason}: the folder is damaged or was changed after it was written (if it was changed on purpose, delete \
         its checksums.json)",
        path.display()
    )]
    Damaged {
        /// The first damaged file in the order of names.
        path: PathBuf,
        /// The difference.
        reason: String,
    },
    /// A file has weights but no configuration in the same folder.
    #[error("{}: weights without a configuration are not a model; convert them with `ddpm import`", path.display())]
    Import {
        /// The file.
        path: PathBuf,
    },
    /// A pickle calls a function that builds neither tensors nor plain values.
    #[error(
        "{}: this pickle calls `{call}` (byte {byte}), which is not allowed; no code was run. Files that hold only \
         weights make no such calls: check where the file comes from",
        path.display()
    )]
    Call {
        /// The file.
        path: PathBuf,
        /// The call with its arguments, abbreviated.
        call: String,
        /// The position of the call in the pickle.
        byte: u64,
    },
    /// A path holds no model.
    #[error("no model in {}: {reason}", path.display())]
    NoModel {
        /// The file or folder.
        path: PathBuf,
        /// The files that were looked for, or another reason.
        reason: String,
    },
}

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Converts an error of reading `path`; for use with `map_err`.
    pub(crate) fn read(path: &Path) -> impl FnOnce(io::Error) -> Error {
        move |error| {
            let advice = match error.kind() {
                io::ErrorKind::PermissionDenied => " (check its permissions)",
                _ => "",
            };
            Error::Io { action: "read", path: path.to_owned(), error, advice }
        }
    }

    /// Converts an error of writing `path`; for use with `map_err`.
    pub(crate) fn write(path: &Path) -> impl FnOnce(io::Error) -> Error {
        move |error| {
            let advice = match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => " (free some space or write elsewhere)",
                io::ErrorKind::ReadOnlyFilesystem => " (the file system is mounted read-only: write elsewhere)",
                io::ErrorKind::PermissionDenied => " (check the permissions there, or write elsewhere)",
                io::ErrorKind::NotFound => " (create its folder first)",
                io::ErrorKind::NotADirectory => " (a part of the path is a file)",
                _ => "",
            };
            Error::Io { action: "write", path: path.to_owned(), error, advice }
        }
    }

    pub(crate) fn file(path: &Path, reason: impl ToString) -> Error {
        Error::File { path: path.to_owned(), reason: reason.to_string() }
    }

    pub(crate) fn tensor(path: &Path, name: &str, reason: impl ToString) -> Error {
        Error::Tensor { path: path.to_owned(), name: shown(name), reason: reason.to_string() }
    }
}
