//! Files of `torch.save` before torch 1.6 (`_legacy_save` in `torch/serialization.py`), which begin with three pickles: a
//! magic number, the version, the byte order and type sizes. A pickled storage contains such a file too.

use super::machine::{PickleError, Result};
use super::opcodes;
use super::source::Source;
use super::value::{Item, Pickle, PickleValue, Storage};
use crate::budget::Budget;
use crate::dtype;

/// The magic number 0x1950a86a20f9469cfc6c, little-endian.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const VERSION: i64 = 1001;

/// Returns whether a pickle is the first one of such a file.
pub(crate) fn is_magic(pickle: &Pickle) -> bool {
    matches!(pickle.node(pickle.root), Some(PickleValue::Long(bytes)) if **bytes == MAGIC)
}

/// Reads the pickles after the first one, up to the object. Returns whether values are big-endian.
pub(crate) fn read_start(next: &mut dyn FnMut() -> Result<Pickle>) -> Result<bool> {
    if !matches!(next()?.root, Item::Int(VERSION)) {
        let reason = format!("torch's legacy format in an unknown version; expected {VERSION}");
        return Err(PickleError::Malformed(reason));
    }
    let machine = next()?;
    Ok(machine.get(machine.root, "little_endian") == Some(Item::Bool(false)))
}

/// Reads the file in the argument of `torch.storage._load_from_bytes`. Returns its storage, under the name `key`, and the
/// position of the values in `bytes`.
pub(super) fn nested_storage(bytes: &[u8], key: String, budget: &mut Budget) -> Result<(Storage, u64)> {
    let mut source = Source::new(bytes, bytes.len() as u64);
    let mut next = || opcodes::read_nested(&mut source, budget);
    if !is_magic(&next()?) {
        return Err(PickleError::Malformed("the bytes of a storage are not a file of torch.save".into()));
    }
    if read_start(&mut next)? {
        return Err(PickleError::Malformed(
            "a storage is big-endian, which is supported in files of torch.save only".into(),
        ));
    }
    let object = next()?;
    // The keys of the storages, of which there is one.
    next()?;
    let (Some(PickleValue::Storage(_)), [storage]) = (object.node(object.root), &object.storages[..]) else {
        return Err(PickleError::Malformed("the bytes of a storage hold something else".into()));
    };
    let elements = u64::from_le_bytes(source.array()?);
    let size = storage.dtype.map_or(1, dtype::size) as u64;
    let begin = source.position();
    if elements != storage.len || elements.checked_mul(size).is_none_or(|length| length > source.left()) {
        let reason = format!("a storage of {} elements has {elements} in {} bytes", storage.len, source.left());
        return Err(PickleError::Malformed(reason));
    }
    Ok((Storage { key, ..storage.clone() }, begin))
}
