//! File names and compression.

use crate::error::{Error, Result};
use flate2::read::MultiGzDecoder;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

/// Returns the entries of a folder sorted by name, without hidden files and macOS's archive metadata.
pub(crate) fn list_visible(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
    let mut paths = read().map_err(|e| Error::io(folder, e))?;
    paths.retain(|path| !lower_file_name(path).starts_with('.') && lower_file_name(path) != "__macosx");
    paths.sort();
    Ok(paths)
}

/// Returns the last component of a path in lower case, for comparisons.
pub(crate) fn lower_file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default()
}

/// Returns whether a file starts with gzip's magic number.
pub(crate) fn is_gzip(path: &Path) -> bool {
    let mut magic = [0; 2];
    File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == [0x1f, 0x8b]
}

/// Opens a file and decompresses it if it is gzip.
pub(crate) fn open_decompressed(path: &Path) -> io::Result<Box<dyn Read>> {
    let file = BufReader::new(File::open(path)?);
    Ok(if is_gzip(path) { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) })
}

/// Normalizes a relative name for comparisons: separates components with `/`, and drops `.` and empty ones. The result is
/// never opened, so `..` is harmless.
pub(crate) fn normalized(name: &str) -> String {
    name.split(['/', '\\']).filter(|part| !part.is_empty() && *part != ".").collect::<Vec<_>>().join("/")
}

/// Returns whether a name is that of a hidden file or of macOS's archive metadata.
pub(crate) fn is_hidden(name: &str) -> bool {
    name.split('/').any(|part| part.starts_with('.') && part != ".." || part.eq_ignore_ascii_case("__macosx"))
}

/// Returns the extension of a name in lower case, or an empty string.
pub(crate) fn extension(name: &str) -> String {
    let file = name.rsplit('/').next().unwrap_or(name);
    file.rsplit_once('.').map(|(_, end)| end.to_lowercase()).unwrap_or_default()
}
