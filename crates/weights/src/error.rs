use std::io;
use std::path::{Path, PathBuf};

/// What can go wrong with a checkpoint's files. Each message names the file, what is wrong with it and, where one is
/// known, the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} {}: {error}{advice}", path.display())]
    Io {
        /// "read" or "write".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Its answer.
        error: io::Error,
        /// What the user can do about it, or nothing.
        advice: &'static str,
    },
    /// A file is not what it should be.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A tensor is not what it should be.
    #[error("{}: tensor `{name}`: {reason}", path.display())]
    Tensor {
        /// The file it is in.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A file or folder to be written is there already.
    #[error("{} exists already; remove it or choose another name", path.display())]
    Exists {
        /// The file or folder.
        path: PathBuf,
    },
    /// A file of a sealed folder is not the one that was sealed.
    #[error(
        "{}: {reason}: the folder is damaged or was changed after it was written (if on purpose, remove its \
         checksums.json)",
        path.display()
    )]
    Damaged {
        /// The first bad file in the order of names.
        path: PathBuf,
        /// How it differs.
        reason: String,
    },
    /// Weights alone are no model yet.
    #[error("{}: weights without their network; `ddpm import` makes a model of them", path.display())]
    Import {
        /// The file.
        path: PathBuf,
    },
    /// A pickle is a program, and this one would call something that builds neither tensors nor plain values.
    #[error(
        "{}: this pickle would call `{call}` (byte {byte}); nothing of it was run, and it is read no further. Files with \
         weights alone make no such calls: be wary of where it comes from",
        path.display()
    )]
    Call {
        /// The file.
        path: PathBuf,
        /// The call with its arguments, cut short.
        call: String,
        /// Where in the pickle it is made.
        byte: u64,
    },
    /// No model is where one was looked for.
    #[error("no model in {}: {reason}", path.display())]
    NoModel {
        /// The file or folder that was given.
        path: PathBuf,
        /// What was looked for.
        reason: String,
    },
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// For `map_err` on whatever reads `path`.
    pub(crate) fn read(path: &Path) -> impl FnOnce(io::Error) -> Error {
        move |error| {
            let advice = match error.kind() {
                io::ErrorKind::PermissionDenied => " (allow yourself to read it)",
                _ => "",
            };
            Error::Io { action: "read", path: path.to_owned(), error, advice }
        }
    }

    /// For `map_err` on whatever writes `path`.
    pub(crate) fn write(path: &Path) -> impl FnOnce(io::Error) -> Error {
        move |error| {
            let advice = match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => " (free some space or write elsewhere)",
                io::ErrorKind::ReadOnlyFilesystem => " (the file system is mounted read-only: write elsewhere)",
                io::ErrorKind::PermissionDenied => " (allow yourself to write there, or write elsewhere)",
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
        Error::Tensor { path: path.to_owned(), name: name.to_owned(), reason: reason.to_string() }
    }
}
