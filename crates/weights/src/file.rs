//! Opening files of weights.

use crate::{Error, Result};
use std::fs::File;
use std::io::{ErrorKind, Read, Seek};
use std::path::{Component, Path};

/// The problem of a file without bytes.
pub(crate) const EMPTY: &str =
    "is empty (0 bytes), not a supported weights file; a download or copy may have failed: repeat it";

/// Opens the regular file `path` and returns its length too. Stand-ins for a file are errors.
pub(crate) fn open(path: &Path) -> Result<(File, u64)> {
    let (mut file, length) = files::open_regular(path).map_err(|error| match error.kind() {
        ErrorKind::InvalidInput => Error::file(path, error),
        _ => Error::read(path)(error),
    })?;
    let mut start = Vec::new();
    file.by_ref().take(512).read_to_end(&mut start).map_err(Error::read(path))?;
    file.rewind().map_err(Error::read(path))?;
    match files::stand_in(&start) {
        Some(stand_in) => Err(Error::file(path, stand_in)),
        None => Ok((file, length)),
    }
}

/// The longest name of a file, in bytes, as in most file systems.
const MAX_NAME: usize = 255;

/// Returns whether a text from a file is the name of another file or folder: no path, and nothing that a terminal would
/// obey when the name is shown.
pub(crate) fn is_name(text: &str) -> bool {
    let mut parts = Path::new(text).components();
    let is_part = matches!((parts.next(), parts.next()), (Some(Component::Normal(name)), None) if name == text);
    is_part && text.len() <= MAX_NAME && !text.chars().any(char::is_control)
}
