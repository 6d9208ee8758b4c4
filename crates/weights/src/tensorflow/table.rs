//! LevelDB's sorted table, in which TensorFlow keeps what a checkpoint holds (`tensorflow/core/lib/io/format.h`, LevelDB's
//! `table_format.md`): blocks of keys and values, a block that indexes them, and a footer that points to that.

use crate::{Error, Result};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

const FOOTER: u64 = 48;
const MAGIC: u64 = 0xdb47_7524_8b80_fb57;
/// A byte that says how the block is compressed, and a checksum.
const TRAILER: u64 = 5;

/// Whether the file ends as a table does.
pub(crate) fn is_table(file: &mut File) -> bool {
    let mut magic = [0; 8];
    file.seek(SeekFrom::End(-8)).is_ok() && file.read_exact(&mut magic).is_ok() && u64::from_le_bytes(magic) == MAGIC
}

/// Calls `each` with the keys and values of a table of `length` bytes in their order, one block in memory at a time.
pub(super) fn for_each(
    path: &Path,
    mut file: &File,
    length: u64,
    mut each: impl FnMut(&[u8], &[u8]) -> Result<()>,
) -> Result<()> {
    let bad = |reason: &str| Error::file(path, format!("bad TensorFlow checkpoint: {reason}"));
    if length < FOOTER {
        return Err(bad("it is too short for a table"));
    }
    let mut footer = [0; FOOTER as usize];
    file.seek(SeekFrom::Start(length - FOOTER)).map_err(Error::read(path))?;
    file.read_exact(&mut footer).map_err(Error::read(path))?;
    if !footer.ends_with(&MAGIC.to_le_bytes()) {
        return Err(bad("its last bytes are not those of a table"));
    }
    let mut handles = &footer[..];
    // The first handle is of the metaindex, which TensorFlow leaves empty.
    let handle =
        (|| (varint(&mut handles)?, varint(&mut handles)?, varint(&mut handles)?, varint(&mut handles)?).into())();
    let Some((_, _, offset, size)) = handle else {
        return Err(bad("no index is in its footer"));
    };
    let mut blocks_left = length;
    let index = block(path, file, length, offset, size)?;
    entries(&index, |_, mut handle| {
        let (Some(offset), Some(size)) = (varint(&mut handle), varint(&mut handle)) else {
            return Err(bad("its index has no place for a block"));
        };
        // Blocks do not overlap, so together they are not more than the file.
        blocks_left = blocks_left
            .checked_sub(size.saturating_add(TRAILER))
            .ok_or_else(|| bad("its blocks are larger than the file"))?;
        let data = block(path, file, length, offset, size)?;
        entries(&data, &mut each).unwrap_or_else(|| Err(bad("a block is damaged")))
    })
    .unwrap_or_else(|| Err(bad("its index is damaged")))
}

fn block(path: &Path, mut file: &File, length: u64, offset: u64, size: u64) -> Result<Vec<u8>> {
    let bad = |reason: String| Error::file(path, format!("bad TensorFlow checkpoint: {reason}"));
    let end = offset.checked_add(size).and_then(|end| end.checked_add(TRAILER));
    if end.is_none_or(|end| end > length) {
        return Err(bad(format!("a block of {size} bytes at {offset} is not in its {length} bytes")));
    }
    let mut data = vec![0; (size + TRAILER) as usize];
    file.seek(SeekFrom::Start(offset)).map_err(Error::read(path))?;
    file.read_exact(&mut data).map_err(Error::read(path))?;
    let (checked, sum) = data.split_at(size as usize + 1);
    if u32::from_le_bytes(sum.try_into().unwrap_or_default()) != masked_crc(checked) {
        return Err(bad(format!("the block at byte {offset} is damaged: its checksum differs")));
    }
    match checked.last() {
        Some(0) => {}
        Some(1) => {
            return Err(bad("its blocks are compressed by Snappy, which TensorFlow's checkpoints are not".into()));
        }
        _ => return Err(bad(format!("the block at byte {offset} is compressed in an unknown way"))),
    }
    data.truncate(size as usize);
    Ok(data)
}

/// CRC-32C as LevelDB stores it: rotated and shifted, so that a checksum of checksums is not one of them.
pub(super) fn masked_crc(bytes: &[u8]) -> u32 {
    mask(crc32c::crc32c(bytes))
}

pub(super) fn mask(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Calls `each` with the entries of a block; `None` if it is damaged. A key repeats the start of the one before it.
fn entries(block: &[u8], mut each: impl FnMut(&[u8], &[u8]) -> Result<()>) -> Option<Result<()>> {
    let (rest, restarts) = block.split_last_chunk::<4>()?;
    let restarts = usize::try_from(u32::from_le_bytes(*restarts)).ok()?.checked_mul(4)?;
    let mut rest = rest.get(..rest.len().checked_sub(restarts)?)?;
    let mut key = Vec::new();
    while !rest.is_empty() {
        let shared = usize::try_from(varint(&mut rest)?).ok()?;
        let fresh = usize::try_from(varint(&mut rest)?).ok()?;
        let value = usize::try_from(varint(&mut rest)?).ok()?;
        if shared > key.len() {
            return None;
        }
        key.truncate(shared);
        key.extend_from_slice(rest.get(..fresh)?);
        let end = fresh.checked_add(value)?;
        if let Err(error) = each(&key, rest.get(fresh..end)?) {
            return Some(Err(error));
        }
        rest = rest.get(end..)?;
    }
    Some(Ok(()))
}

/// A number of up to 64 bits, seven in a byte, the lowest first; the bytes are taken off.
pub(super) fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        number |= part.checked_shl(shift).filter(|shifted| shifted >> shift == part)?;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}
