//! The format of torch 0.1.10 to 1.5 (`_legacy_save` in `torch/serialization.py`): five pickles (a magic number, the
//! version, the byte order and type sizes, the object, the keys of the storages), then the length and bytes of each
//! storage.

use crate::budget::Budget;
use crate::pickle::{self, Pickle, PickleError, Source, saved};
use crate::shown::shown;
use crate::{Error, Result, dtype};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

/// The location of a storage in the file.
#[derive(Debug)]
pub(super) struct Location {
    begin: u64,
    bytes: u64,
}

/// The locations of storages by key.
pub(super) type Locations = BTreeMap<String, Location>;

impl Location {
    /// Calls `read` with a reader of the storage's bytes and their number.
    pub fn with_bytes<T>(
        &self,
        mut file: &File,
        read: impl FnOnce(&mut dyn Read, u64) -> Result<T, String>,
    ) -> Result<T, String> {
        file.seek(SeekFrom::Start(self.begin)).map_err(|error| error.to_string())?;
        read(&mut BufReader::new(file).take(self.bytes), self.bytes)
    }
}

/// Reads the pickles. Returns the storages by key, the object's pickle, and whether values are big-endian. A pickle that
/// `torch.save` did not write has its storages in itself: there are no locations then.
pub(super) fn open(
    path: &Path,
    file: &mut File,
    length: u64,
    budget: &mut Budget,
) -> Result<(Option<Locations>, Pickle, bool)> {
    let fail = |reason: String| Error::file(path, reason);
    file.seek(SeekFrom::Start(0)).map_err(Error::read(path))?;
    let mut source = Source::new(BufReader::new(file), length);
    let at = |error: PickleError| error.at(path);
    let mut next = || pickle::read(&mut source, budget);

    let first = next().map_err(at)?;
    if !saved::is_magic(&first) {
        if first.storages.is_empty() {
            let what = first.describe(first.root);
            return Err(fail(format!("a pickle of {what}, without weights, and not a file of torch.save")));
        }
        return Ok((None, first, false));
    }
    let big_endian = saved::read_start(&mut next).map_err(at)?;
    let mut next = || next().map_err(at);
    let object = next()?;
    let keys = next()?;
    let Some(list) = keys.sequence(keys.root) else {
        return Err(fail("no list of storages follows the pickle".into()));
    };

    let sizes: BTreeMap<&str, _> = object.storages.iter().map(|storage| (&*storage.key, storage)).collect();
    let mut places = BTreeMap::new();
    for &key in list {
        let key = keys.text(key).ok_or_else(|| fail("the key of a storage is not a string".into()))?;
        let storage = sizes.get(key).ok_or_else(|| fail(format!("no tensor uses the storage `{}`", shown(key))))?;
        let fail_storage = |reason: String| fail(format!("storage `{}`: {reason}", shown(key)));
        if places.contains_key(key) {
            return Err(fail_storage("is listed twice".into()));
        }
        let Some(dtype) = storage.dtype else {
            return Err(fail_storage(format!("{} is not supported ({})", shown(&storage.class), dtype::SUPPORTED)));
        };
        let elements = source.array().map_err(fail_storage)?;
        let elements = if big_endian { u64::from_be_bytes(elements) } else { u64::from_le_bytes(elements) };
        let bytes = elements.saturating_mul(dtype::size(dtype) as u64);
        places.insert(key.to_owned(), Location { begin: source.position(), bytes });
        source.skip(bytes).map_err(fail_storage)?;
    }
    Ok((Some(places), object, big_endian))
}
