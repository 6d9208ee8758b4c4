//! The format of torch 0.1.10 to 1.5 (`_legacy_save` in `torch/serialization.py`): five pickles (a magic number, the
//! version, the byte order and type sizes, the object, the keys of the storages), then the length and bytes of each
//! storage.

use crate::budget::Budget;
use crate::pickle::{self, Item, Pickle, PickleValue, Source};
use crate::shown::shown;
use crate::{Error, Result, dtype};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

/// The magic number 0x1950a86a20f9469cfc6c, little-endian.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const VERSION: i64 = 1001;

/// The location of a storage in the file.
#[derive(Debug)]
pub(super) struct Location {
    begin: u64,
    bytes: u64,
}

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

/// Reads the pickles. Returns the storages by key, the object's pickle, and whether values are big-endian.
pub(super) fn open(
    path: &Path,
    file: &mut File,
    length: u64,
    budget: &mut Budget,
) -> Result<(BTreeMap<String, Location>, Pickle, bool)> {
    let fail = |reason: String| Error::file(path, reason);
    file.seek(SeekFrom::Start(0)).map_err(Error::read(path))?;
    let mut source = Source::new(BufReader::new(file), length);
    let mut next = || pickle::read(&mut source, budget).map_err(|error| error.at(path));

    let magic = next()?;
    if !matches!(magic.node(magic.root), Some(PickleValue::Long(bytes)) if **bytes == MAGIC) {
        let what = magic.describe(magic.root);
        return Err(fail(format!("a pickle of {what}, not a file of torch.save; save weights with torch.save")));
    }
    match next()?.root {
        Item::Int(VERSION) => {}
        _ => return Err(fail(format!("torch's legacy format in an unknown version; expected {VERSION}"))),
    }
    let machine = next()?;
    let big_endian = machine.get(machine.root, "little_endian") == Some(Item::Bool(false));
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
    Ok((places, object, big_endian))
}
