//! Opening files that a user names, and the folder that a path is in.
//!
//! Only regular files are opened: opening a named pipe blocks until another process writes to it, and a device may have
//! no end.

use std::fs::{self, File, FileType};
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use crate::shortage::{self, is_shortage};

/// The longest text that [`read_text`] reads, in bytes: the names of a million classes.
const MAX_TEXT: u64 = 32 << 20;

/// The longest TOML file, in bytes. Parsed, it takes up to three hundred times as much.
pub const MAX_TOML: u64 = 1 << 20;

/// The most values of a JSON that [`read_json_text`] reads. Configurations have far fewer.
const MAX_VALUES: usize = 1 << 19;

/// Opens a regular file and returns its length too.
///
/// # Errors
/// If the file cannot be opened, is a link to a missing file, or is a folder, a named pipe, a socket or a device, which are not opened.
pub fn open_regular(path: impl AsRef<Path>) -> io::Result<(File, u64)> {
    let path = path.as_ref();
    let metadata = fs::metadata(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound if fs::symlink_metadata(path).is_ok() => {
            io::Error::new(ErrorKind::NotFound, "is a link to a file that is missing; download or copy that again")
        }
        _ => error,
    })?;
    if !metadata.is_file() {
        let kind = special_kind(metadata.file_type()).unwrap_or("a folder");
        let message = format!("is not a regular file, but {kind}");
        return Err(io::Error::new(ErrorKind::InvalidInput, message));
    }
    let file = File::open(path).inspect_err(|error| {
        if is_shortage(error) {
            // An error of the system has no clone.
            shortage::note(io::Error::new(error.kind(), error.to_string()));
        }
    })?;
    Ok((file, metadata.len()))
}

/// Reads a regular file of UTF-8 text, such as a configuration.
///
/// # Errors
/// As [`open_regular`], and if the file is not UTF-8, has more than 32 MiB, or is a stand-in for the file (a Git LFS
/// pointer or a web page).
pub fn read_text(path: impl AsRef<Path>) -> io::Result<String> {
    read_text_up_to(path, MAX_TEXT)
}

/// Reads a text as [`read_text`] does, of at most `most` bytes. What is made of it can take many times its length.
///
/// # Errors
/// As [`read_text`].
pub fn read_text_up_to(path: impl AsRef<Path>, most: u64) -> io::Result<String> {
    let invalid = |message: String| io::Error::new(ErrorKind::InvalidData, message);
    let (file, length) = open_regular(path)?;
    if length > most {
        return Err(invalid(format!("has {length} bytes; expected a text of {most} or fewer")));
    }
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    if let Some(stand_in) = stand_in(&bytes) {
        return Err(invalid(stand_in.to_owned()));
    }
    String::from_utf8(bytes).map_err(|_| invalid("is not a text in UTF-8".to_owned()))
}

/// Reads the text of a regular file of JSON, such as a configuration, which is still to be parsed.
///
/// A parsed value takes up to 200 bytes, but as little as two in the text. So their number is limited too: what the text
/// becomes takes less than 128 MiB.
///
/// # Errors
/// As [`read_text`], and if it has more than 524288 values.
pub fn read_json_text(path: impl AsRef<Path>) -> io::Result<String> {
    let text = read_text(path)?;
    // Every value but the first follows one of these. Those in strings are counted too, which does no harm.
    let values = text.bytes().filter(|byte| matches!(byte, b',' | b':' | b'[' | b'{')).count();
    if values > MAX_VALUES {
        let message = format!("has about {values} values; expected JSON of {MAX_VALUES} or fewer");
        return Err(io::Error::new(ErrorKind::InvalidData, message));
    }
    Ok(text)
}

/// Returns what a file is that a failed download left in place of another, by its first bytes.
pub fn stand_in(start: &[u8]) -> Option<&'static str> {
    let text = start.trim_ascii_start();
    let begins = |word: &[u8]| text.get(..word.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(word));
    if begins(b"version https://git-lfs.github.com/spec/") {
        return Some(
            "is a Git LFS pointer, not the file it stands for; fetch that with `git lfs pull` in the clone, or download \
             the repository with `hf download`",
        );
    }
    if begins(b"<!doctype html") || begins(b"<html") {
        return Some(
            "is a web page (HTML), not the file that was to be downloaded; a browser shows what the page says. Download \
             the file itself, which may need a login",
        );
    }
    None
}

/// Returns what a file is that is neither a regular file nor a folder.
pub fn special_kind(kind: FileType) -> Option<&'static str> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return Some("a named pipe (write its contents to a file first)");
        } else if kind.is_socket() {
            return Some("a socket");
        } else if kind.is_char_device() || kind.is_block_device() {
            return Some("a device");
        }
    }
    (!kind.is_file() && !kind.is_dir() && !kind.is_symlink()).then_some("neither a file nor a folder")
}

/// Returns the folder that `path` is in: `.` for a bare name.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != "" => parent,
        _ => Path::new("."),
    }
}
