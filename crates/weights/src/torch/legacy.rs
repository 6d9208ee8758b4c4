//! The format of torch 0.1.10 to 1.5 (`_legacy_save` in `torch/serialization.py`): five pickles (a magic number, the
//! version, facts about the machine, the object, the keys of the storages), then each storage as its length and its bytes.

use crate::pickle::{self, Item, Node, Pickle, Source};
use crate::{Error, Result, dtype};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

/// 0x1950a86a20f9469cfc6c.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const VERSION: i64 = 1001;

/// Where a storage's bytes are.
#[derive(Debug)]
pub(super) struct Location {
    begin: u64,
    bytes: u64,
}

impl Location {
    pub fn with_bytes<T>(
        &self,
        mut file: &File,
        read: impl FnOnce(&mut dyn Read, u64) -> Result<T, String>,
    ) -> Result<T, String> {
        file.seek(SeekFrom::Start(self.begin)).map_err(|error| error.to_string())?;
        read(&mut BufReader::new(file).take(self.bytes), self.bytes)
    }
}

/// The storages by key, the object's pickle, and whether values are big-endian.
pub(super) fn open(path: &Path, file: &mut File, length: u64) -> Result<(BTreeMap<String, Location>, Pickle, bool)> {
    let fail = |reason: String| Error::file(path, reason);
    file.seek(SeekFrom::Start(0)).map_err(Error::read(path))?;
    let mut source = Source::new(BufReader::new(file), length);
    let mut next = || pickle::read(&mut source, length).map_err(|error| error.at(path));

    let magic = next()?;
    if !matches!(magic.node(magic.root), Some(Node::Long(bytes)) if **bytes == MAGIC) {
        let what = magic.describe(magic.root);
        return Err(fail(format!("a pickle of {what}, not one that torch.save wrote; save weights with torch.save")));
    }
    match next()?.root {
        Item::Int(VERSION) => {}
        _ => return Err(fail(format!("torch's legacy format in another version than {VERSION}"))),
    }
    let machine = next()?;
    let big_endian = machine.get(machine.root, "little_endian") == Some(Item::Bool(false));
    let object = next()?;
    let keys = next()?;
    let Some(list) = keys.sequence(keys.root) else {
        return Err(fail("no list of storages follows its pickle".into()));
    };

    let sizes: BTreeMap<&str, _> = object.storages.iter().map(|storage| (&*storage.key, storage)).collect();
    let mut places = BTreeMap::new();
    for &key in list {
        let key = keys.text(key).ok_or_else(|| fail("a storage's key is no string".into()))?;
        let storage = sizes.get(key).ok_or_else(|| fail(format!("no tensor uses its storage `{key:.60}`")))?;
        let cut = |reason: String| fail(format!("storage `{key:.60}`: {reason}"));
        let Some(dtype) = storage.dtype else {
            return Err(cut(format!("{} is not supported ({})", storage.class, dtype::SUPPORTED)));
        };
        let elements = source.array().map_err(cut)?;
        let elements = if big_endian { u64::from_be_bytes(elements) } else { u64::from_le_bytes(elements) };
        let bytes = elements.saturating_mul(dtype::size(dtype) as u64);
        places.insert(key.to_owned(), Location { begin: source.position(), bytes });
        source.skip(bytes).map_err(cut)?;
    }
    Ok((places, object, big_endian))
}
