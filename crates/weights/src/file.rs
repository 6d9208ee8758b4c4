//! Opening regular files, and the folder that a path is in.

use crate::{Error, Result};
use std::fs::{self, File};
use std::path::Path;

/// Opens the regular file `path` and returns its length too. Folders, pipes and devices are errors, since reading a
/// pipe could block forever.
pub(crate) fn open(path: &Path) -> Result<(File, u64)> {
    let metadata = fs::metadata(path).map_err(Error::read(path))?;
    if !metadata.is_file() {
        return Err(Error::file(path, "is not a regular file"));
    }
    Ok((File::open(path).map_err(Error::read(path))?, metadata.len()))
}

/// Returns the folder that `path` is in: `.` for a bare name.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != "" => parent,
        _ => Path::new("."),
    }
}
