//! File names and compression.

use crate::error::{Error, Result};
use crate::memory::most_unpacked;
use flate2::read::MultiGzDecoder;
use std::fs;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

/// Returns the entries of a folder sorted by name, without hidden files and macOS's archive metadata, and without pipes
/// and devices, which must not be opened.
pub(crate) fn list_visible(folder: &Path) -> Result<Vec<PathBuf>> {
    Ok(list_entries(folder)?.into_iter().filter(|(_, special)| special.is_none()).map(|(path, _)| path).collect())
}

/// Returns the visible entries of a folder sorted by name, each with its kind if it is neither a file nor a folder.
pub(crate) fn list_entries(folder: &Path) -> Result<Vec<(PathBuf, Option<&'static str>)>> {
    let visible = |path: &Path| !lower_file_name(path).starts_with('.') && lower_file_name(path) != "__macosx";
    let read = || -> io::Result<Vec<_>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let path = entry.path();
            if visible(&path) {
                let kind = match entry.file_type()? {
                    kind if kind.is_symlink() => fs::metadata(&path).ok().map(|target| target.file_type()),
                    kind => Some(kind),
                };
                entries.push((path, kind.and_then(::files::special_kind)));
            }
        }
        entries.sort();
        Ok(entries)
    };
    read().map_err(|e| Error::io(folder, e))
}

/// Returns what the first bytes of a file say if it was not downloaded: an explanation to be followed by what was
/// expected.
pub(crate) fn not_downloaded(head: &[u8]) -> Option<&'static str> {
    if head.is_empty() { Some("is an empty file") } else { ::files::stand_in(head) }
}

/// Returns the explanation of [`not_downloaded`] for a file on disk.
pub(crate) fn file_not_downloaded(path: &Path) -> Option<&'static str> {
    let mut head = Vec::new();
    let (file, _) = ::files::open_regular(path).ok()?;
    file.take(256).read_to_end(&mut head).ok()?;
    not_downloaded(&head)
}

/// Returns the last component of a path in lower case, for comparisons.
pub(crate) fn lower_file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default()
}

/// Returns whether a file starts with gzip's magic number.
pub(crate) fn is_gzip(path: &Path) -> bool {
    let mut magic = [0; 2];
    ::files::open_regular(path).and_then(|(mut file, _)| file.read_exact(&mut magic)).is_ok() && magic == [0x1f, 0x8b]
}

/// Opens a file, and decompresses it if it is gzip. Also returns the size to which it may be unpacked in memory.
pub(crate) fn open_decompressed(path: &Path) -> io::Result<(Box<dyn Read>, u64)> {
    let (file, length) = ::files::open_regular(path)?;
    let file = BufReader::new(file);
    Ok(match is_gzip(path) {
        true => (Box::new(MultiGzDecoder::new(file)), most_unpacked(length)),
        false => (Box::new(file), length),
    })
}

/// Normalizes a relative name for comparisons: separates components with `/`, and drops `.` and empty ones. The result is
/// never opened, so `..` is harmless.
pub(crate) fn normalized(name: &str) -> String {
    name.split(['/', '\\']).filter(|part| !part.is_empty() && *part != ".").collect::<Vec<_>>().join("/")
}

/// Returns the normalized name of a file on disk relative to `root`. Bytes that are not UTF-8 become escapes, so that two
/// names stay two, and only the system's separators separate components.
pub(crate) fn relative_name(root: &Path, file: &Path) -> String {
    let relative = file.strip_prefix(root).unwrap_or(file);
    let names = relative.components().filter_map(|component| match component {
        std::path::Component::Normal(name) => Some(escaped(name.as_encoded_bytes())),
        _ => None,
    });
    names.collect::<Vec<_>>().join("/")
}

/// Normalizes a name as [`normalized`] does, and escapes the bytes that are not UTF-8.
pub(crate) fn normalized_bytes(name: &[u8]) -> String {
    let parts = name.split(|byte| b"/\\".contains(byte)).filter(|part| !part.is_empty() && *part != b".");
    parts.map(escaped).collect::<Vec<_>>().join("/")
}

/// Returns a name with the bytes that are not UTF-8 as escapes such as `\xff`.
fn escaped(name: &[u8]) -> String {
    let chunks = name.utf8_chunks();
    chunks.map(|chunk| format!("{}{}", chunk.valid(), chunk.invalid().escape_ascii())).collect()
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
