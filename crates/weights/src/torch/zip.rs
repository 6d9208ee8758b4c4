//! The format of torch since 1.6 (`caffe2/serialize/inline_container.h`): a zip archive with `NAME/data.pkl`,
//! `NAME/data/KEY` for each storage, and `NAME/byteorder`.

use crate::budget::Budget;
use crate::pickle::{self, Pickle, Source};
use crate::shown::shown;
use crate::{Error, Result};
use std::cell::RefCell;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use zip::{CompressionMethod, ZipArchive};

/// The least number of bytes of an entry that torch writes: two headers with its name in each, and values aligned to
/// 64.
const ENTRY: u64 = 150;
/// The number of bytes that an entry takes in memory, besides its name.
const ENTRY_MEMORY: u64 = 200;

/// A zip archive, and the path in it of the folder that holds all entries.
#[derive(Debug)]
pub(super) struct TorchZip {
    zip: RefCell<ZipArchive<BufReader<File>>>,
    prefix: String,
}

/// Opens the archive and reads its pickle. The last value returned is whether values are big-endian.
pub(super) fn open(path: &Path, mut file: File, length: u64, budget: &mut Budget) -> Result<(TorchZip, Pickle, bool)> {
    let fail = |reason: String| Error::file(path, reason);
    let bad = |error: zip::result::ZipError| Error::file(path, format!("bad zip archive: {error}"));
    let entries = entries(&mut file).map_err(Error::read(path))?;
    if entries.is_none_or(|entries| entries > length / ENTRY + 16) {
        return Err(fail(match entries {
            Some(entries) => format!("bad zip archive: {length} bytes are too few for its {entries} entries"),
            None => "truncated, or not written by torch.save: it does not end like a zip archive".to_owned(),
        }));
    }
    let too_many = |reason| fail(format!("bad zip archive: its list of entries {reason}"));
    budget.take(entries.unwrap_or(0) * ENTRY_MEMORY).map_err(too_many)?;
    let zip = ZipArchive::new(BufReader::new(file)).map_err(bad)?;
    let names = || zip.file_names().filter_map(std::result::Result::ok);
    // Each is stored as it is and as text.
    budget.take(names().map(|name| 2 * name.len() as u64).sum()).map_err(too_many)?;
    let Some(prefix) = names().find_map(|name| name.strip_suffix("data.pkl").map(str::to_owned)) else {
        return Err(Error::file(path, "a zip archive without data.pkl, so not written by torch.save"));
    };
    let constants = format!("{prefix}constants.pkl");
    if names().any(|name| name == constants) {
        return Err(Error::file(path, "a TorchScript program; save its state_dict() with torch.save instead"));
    }
    let archive = TorchZip { zip: RefCell::new(zip), prefix };
    let big_endian = match archive.small("byteorder") {
        Some(order) if order == b"big" => true,
        None => false,
        Some(order) if order == b"little" => false,
        Some(order) => return Err(fail(format!("unknown byte order `{}`", shown(String::from_utf8_lossy(&order))))),
    };
    let pickle = archive.with_bytes("data.pkl", |reader, bytes| {
        if bytes > budget.left() {
            return Err(format!("data.pkl: {bytes} bytes exceed the allocation budget (4 × the file's size)"));
        }
        let pickle = pickle::read(&mut Source::new(BufReader::new(&mut *reader), bytes), budget);
        if pickle.is_ok() {
            super::read_to_end(reader).map_err(|reason| format!("data.pkl: {reason}"))?;
        }
        Ok(pickle)
    });
    let pickle = pickle.map_err(fail)?.map_err(|error| error.at(path))?;
    Ok((archive, pickle, big_endian))
}

impl TorchZip {
    /// Calls `read` with a reader of an entry's bytes and their number. `key` is the key of a storage, or `data.pkl`.
    pub fn with_bytes<T>(
        &self,
        key: &str,
        read: impl FnOnce(&mut dyn Read, u64) -> Result<T, String>,
    ) -> Result<T, String> {
        let folder = if key == "data.pkl" { "" } else { "data/" };
        let name = format!("{}{folder}{key}", self.prefix);
        let mut zip = self.zip.borrow_mut();
        let index = zip.index_for_name(&name).ok_or_else(|| format!("`{}` is not in the archive", shown(&name)))?;
        let bad = |error: zip::result::ZipError| format!("`{}`: {error}", shown(&name));
        let entry = zip.by_index_raw(index).map_err(bad)?;
        let (method, size, stored) = (entry.compression(), entry.size(), entry.compressed_size());
        // torch writes 0 if checksums are turned off (`set_crc32_options`).
        let unchecked = entry.crc32() == 0;
        drop(entry);
        match method {
            CompressionMethod::Stored if size != stored => {
                Err(format!("`{}` is not compressed, but its two sizes differ", shown(&name)))
            }
            CompressionMethod::Stored if unchecked => read(&mut zip.by_index_raw(index).map_err(bad)?, size),
            CompressionMethod::Stored | CompressionMethod::Deflated => {
                read(&mut zip.by_index(index).map_err(bad)?, size)
            }
            other => {
                let name = shown(&name);
                Err(format!("`{name}` is compressed with {other}; only stored and deflated entries are supported"))
            }
        }
    }

    /// Reads the first bytes of a small entry, if it exists.
    fn small(&self, name: &str) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut zip = self.zip.borrow_mut();
        let entry = zip.by_name(&format!("{}{name}", self.prefix)).ok()?;
        entry.take(64).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }
}

/// Reads the number of entries of an archive from its last 22 bytes or, for more than 65534, from the record that the
/// 20 bytes before locate (PKWARE's APPNOTE, 4.3.14 to 4.3.16). `None` if the file does not end like a zip archive.
///
/// The number is checked before the directory is read, since entries take more memory than bytes in the file.
fn entries(file: &mut File) -> std::io::Result<Option<u64>> {
    let mut end = [0; 42];
    if file.seek(SeekFrom::End(0))? < 42 {
        return Ok(None);
    }
    file.seek(SeekFrom::End(-42))?;
    file.read_exact(&mut end)?;
    let (locator, end) = end.split_at(20);
    if !end.starts_with(b"PK\x05\x06") {
        return Ok(None);
    }
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte));
    let mut entries = number(&end[10..12]);
    if locator.starts_with(b"PK\x06\x07") {
        let mut record = [0; 40];
        file.seek(SeekFrom::Start(number(&locator[8..16])))?;
        if file.read_exact(&mut record).is_err() || !record.starts_with(b"PK\x06\x06") {
            return Ok(None);
        }
        entries = entries.max(number(&record[32..40]));
    }
    file.seek(SeekFrom::Start(0))?;
    Ok(Some(entries))
}
