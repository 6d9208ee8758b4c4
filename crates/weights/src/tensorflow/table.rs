//! Reading LevelDB's sorted tables, which TensorFlow uses for checkpoints (`tensorflow/core/lib/io/format.h`, LevelDB's
//! `table_format.md`): blocks of keys and values, an index block that locates them, and a footer that locates the
//! index.

use crate::budget::BufferCharge;
use crate::{Error, Result};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

const FOOTER: u64 = 48;
const MAGIC: u64 = 0xdb47_7524_8b80_fb57;
/// Bytes after each block: its compression (1) and its checksum (4).
const TRAILER: u64 = 5;

/// Returns whether the file ends with the magic number of a table.
pub(crate) fn is_table(file: &mut File) -> bool {
    let mut magic = [0; 8];
    file.seek(SeekFrom::End(-8)).is_ok() && file.read_exact(&mut magic).is_ok() && u64::from_le_bytes(magic) == MAGIC
}

/// Calls `each` with the keys and values of a table of `length` bytes, in order. One block is in memory at a time.
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
        return Err(bad("it does not end with the magic number of a table"));
    }
    let mut handles = &footer[..];
    // The first handle is that of the metaindex, which TensorFlow leaves empty.
    let handle =
        (|| (varint(&mut handles)?, varint(&mut handles)?, varint(&mut handles)?, varint(&mut handles)?).into())();
    let Some((_, _, offset, size)) = handle else {
        return Err(bad("its footer does not locate an index"));
    };
    // Blocks do not overlap, so their sizes add up to at most the file's. This bounds the work for a hostile file.
    let mut left = length.saturating_sub(size.saturating_add(TRAILER));
    let fit = |charge: &mut BufferCharge, size| charge.fit(size).map_err(|reason| bad(&format!("a block {reason}")));
    let (mut of_index, mut of_block) = (BufferCharge::default(), BufferCharge::default());
    fit(&mut of_index, size.min(length))?;
    let index = block(path, file, length, offset, size)?;
    entries(&index, |_, mut handle| {
        let (Some(offset), Some(size)) = (varint(&mut handle), varint(&mut handle)) else {
            return Err(bad("an entry of its index does not locate a block"));
        };
        left = left
            .checked_sub(size.saturating_add(TRAILER))
            .ok_or_else(|| bad("its blocks together are larger than the file"))?;
        fit(&mut of_block, size.min(length))?;
        let data = block(path, file, length, offset, size)?;
        entries(&data, &mut each).unwrap_or_else(|| Err(bad("a block is damaged")))
    })
    .unwrap_or_else(|| Err(bad("its index is damaged")))
}

/// Reads a block and verifies its checksum.
fn block(path: &Path, mut file: &File, length: u64, offset: u64, size: u64) -> Result<Vec<u8>> {
    let bad = |reason: String| Error::file(path, format!("bad TensorFlow checkpoint: {reason}"));
    let end = offset.checked_add(size).and_then(|end| end.checked_add(TRAILER));
    if end.is_none_or(|end| end > length) {
        return Err(bad(format!("a block of {size} bytes at byte {offset} exceeds the {length} bytes of the file")));
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
            return Err(bad("a block is compressed with Snappy, which is not supported".into()));
        }
        _ => return Err(bad(format!("the block at byte {offset} has an unknown compression"))),
    }
    data.truncate(size as usize);
    Ok(data)
}

/// Computes the masked CRC-32C of `bytes`.
pub(super) fn masked_crc(bytes: &[u8]) -> u32 {
    mask(crc32c::crc32c(bytes))
}

/// Masks a CRC-32C as LevelDB stores it, since the CRC of data that contains its own CRC is degenerate.
pub(super) fn mask(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Calls `each` with the entries of a block; `None` if it is damaged. Each key is stored as the length of the prefix
/// that it shares with the previous key, and the rest.
fn entries(block: &[u8], mut each: impl FnMut(&[u8], &[u8]) -> Result<()>) -> Option<Result<()>> {
    let (rest, restarts) = block.split_last_chunk::<4>()?;
    let restarts = usize::try_from(u32::from_le_bytes(*restarts)).ok()?.checked_mul(4)?;
    let mut rest = rest.get(..rest.len().checked_sub(restarts)?)?;
    let mut key = Vec::new();
    while !rest.is_empty() {
        let shared = usize::try_from(varint(&mut rest)?).ok()?;
        let unshared = usize::try_from(varint(&mut rest)?).ok()?;
        let value = usize::try_from(varint(&mut rest)?).ok()?;
        if shared > key.len() {
            return None;
        }
        key.truncate(shared);
        key.extend_from_slice(rest.get(..unshared)?);
        let end = unshared.checked_add(value)?;
        if let Err(error) = each(&key, rest.get(unshared..end)?) {
            return Some(Err(error));
        }
        rest = rest.get(end..)?;
    }
    Some(Ok(()))
}

/// Decodes a variable-length integer of up to 64 bits at the start of `bytes`, and removes it from there.
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
