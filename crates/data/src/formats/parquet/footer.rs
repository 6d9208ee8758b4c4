//! The footer of a Parquet file: metadata in Thrift's compact protocol. The schema is validated before the parquet crate
//! parses it, because that crate recurses to any depth and allocates as many children as a schema claims.

use super::pages::error_message;
use files::Charge;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

/// Maximum nesting depth of the schema, and of values in the metadata.
const MAX_DEPTH: usize = 32;

/// Maximum size of the metadata in bytes. That of image sets has a few kilobytes.
const MAX_FOOTER: u64 = 16 << 20;

/// The memory of the metadata for each of its bytes, and of its schema.
const EXPANSION: u64 = 64;
const MAX_SCHEMA_BYTES: u64 = 64 << 20;

/// Reads the metadata of a file of `length` bytes, and charges it.
pub(super) fn read(file: &mut File, length: u64) -> Result<(ParquetMetaData, Charge), String> {
    let truncated = || "is truncated or not Parquet: it does not end with PAR1".to_owned();
    let tail = length.checked_sub(8).ok_or_else(truncated)?;
    let mut end = [0; 8];
    file.seek(SeekFrom::Start(tail)).and_then(|_| file.read_exact(&mut end)).map_err(|e| e.to_string())?;
    let [a, b, c, d, magic @ ..] = end;
    let size = u32::from_le_bytes([a, b, c, d]);
    let start = tail.checked_sub(size.into()).filter(|_| magic == *b"PAR1").ok_or_else(truncated)?;
    if u64::from(size) > MAX_FOOTER {
        return Err(format!("has {size} bytes of metadata; expected {MAX_FOOTER} or fewer"));
    }
    let charge = Charge::new(EXPANSION * u64::from(size)).map_err(|e| e.to_string())?;
    let mut bytes = vec![0; size as usize];
    file.seek(SeekFrom::Start(start)).and_then(|_| file.read_exact(&mut bytes)).map_err(|e| e.to_string())?;
    if !schema_is_valid(&bytes) {
        return Err("is truncated or not Parquet: its schema is not a tree of at most 32 levels and 64 MiB".to_owned());
    }
    ParquetMetaDataReader::decode_metadata(&bytes).map(|metadata| (metadata, charge)).map_err(|e| error_message(&e))
}

/// Returns whether the schema is a tree of limited depth and memory. It lists the nodes depth first with their number of
/// children.
fn schema_is_valid(metadata: &[u8]) -> bool {
    schema_elements(&mut CompactReader(metadata)).is_some_and(|elements| {
        // Number of remaining nodes at each level, and the length of the names down to it.
        let (mut open, mut bytes) = (vec![(1usize, 0u64)], 0u64);
        for (count, name) in elements {
            while open.last().is_some_and(|level| level.0 == 0) {
                open.pop();
            }
            let Some(level) = open.last_mut() else { return false };
            level.0 -= 1;
            // The parquet crate keeps the path of each column, in strings.
            let path = level.1 + name + 64;
            bytes += 512 + path;
            open.push((count, path));
            if open.len() > MAX_DEPTH || bytes > MAX_SCHEMA_BYTES {
                return false;
            }
        }
        open.iter().all(|level| level.0 == 0)
    })
}

/// Returns the number of children and the length of the name of each schema element: fields 5 and 4 of the structs in the
/// list that is field 2.
fn schema_elements(metadata: &mut CompactReader) -> Option<Vec<(usize, u64)>> {
    let mut elements = Vec::new();
    metadata.fields(&mut |metadata, field, kind| {
        if (field, kind) == (4, LIST) {
            // A row group has more bytes than this. The parquet crate allocates as many as the list claims.
            let (size, _) = CompactReader(metadata.0).list()?;
            (size <= metadata.0.len() as u64 / 16).then_some(())?;
        }
        if (field, kind) != (2, LIST) {
            return metadata.skip(kind, 0);
        }
        let (size, kind) = metadata.list()?;
        for _ in 0..size {
            let (mut count, mut name) = (0, 0);
            (kind == STRUCT).then_some(())?;
            metadata.fields(&mut |element, field, kind| {
                if (field, kind) == (4, BINARY) {
                    let before = element.0.len();
                    element.skip(kind, 0)?;
                    name = (before - element.0.len()) as u64;
                    return Some(());
                }
                if (field, kind) != (5, I32) {
                    return element.skip(kind, 0);
                }
                // In zigzag encoding, even numbers are non-negative.
                let number = element.varint()?;
                count = usize::try_from(number / 2).ok().filter(|_| number % 2 == 0)?;
                Some(())
            })?;
            elements.push((count, name));
        }
        Some(())
    })?;
    Some(elements)
}

const I32: u8 = 5;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const STRUCT: u8 = 12;

/// The unread bytes. Methods return `None` if they end too early.
struct CompactReader<'a>(&'a [u8]);

impl CompactReader<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    /// Reads the header of a list: its size and the type of its elements.
    fn list(&mut self) -> Option<(u64, u8)> {
        let head = self.byte()?;
        let size = if head >> 4 == 15 { self.varint()? } else { u64::from(head >> 4) };
        // Each element has at least one byte.
        (size <= self.0.len() as u64).then_some((size, head & 15))
    }

    /// Calls `visit` with the number and type of each field of a struct. It must read the value.
    fn fields(&mut self, visit: &mut dyn FnMut(&mut Self, i64, u8) -> Option<()>) -> Option<()> {
        let mut field = 0i64;
        loop {
            match self.byte()? {
                0 => return Some(()),
                head if head >> 4 == 0 => {
                    let number = self.varint()?;
                    field = (number >> 1) as i64 ^ -((number & 1) as i64);
                    visit(self, field, head)?;
                }
                head => {
                    field = field.checked_add(i64::from(head >> 4))?;
                    visit(self, field, head & 15)?;
                }
            }
        }
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        let bytes = |me: &mut Self, count: u64| {
            me.0 = me.0.get(usize::try_from(count).ok()?..)?;
            Some(())
        };
        match kind {
            _ if depth > MAX_DEPTH => None,
            1 | 2 => Some(()),
            3 => bytes(self, 1),
            4..=6 => self.varint().map(drop),
            7 => bytes(self, 8),
            BINARY => {
                let count = self.varint()?;
                bytes(self, count)
            }
            LIST | 10 => {
                let (size, kind) = self.list()?;
                // Booleans have one byte in a list and none in a struct.
                (0..size).try_for_each(|_| if kind <= 2 { bytes(self, 1) } else { self.skip(kind, depth + 1) })
            }
            STRUCT => self.fields(&mut |me, _, kind| me.skip(kind, depth + 1)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Metadata with only a schema, whose elements only have a number of children.
    fn schema(children: &[u64]) -> Vec<u8> {
        let mut out = vec![0x29, 0xf0 | STRUCT, children.len() as u8 | 0x80, (children.len() >> 7) as u8];
        for &count in children {
            out.push(0x50 | I32);
            let mut zigzag = 2 * count;
            while zigzag >= 0x80 {
                out.push(zigzag as u8 | 0x80);
                zigzag >>= 7;
            }
            out.extend([zigzag as u8, 0]);
        }
        out.push(0);
        out
    }

    #[test]
    fn accepts_only_schemas_that_are_trees() {
        assert!(schema_is_valid(&schema(&[2, 2, 0, 0, 0])));
        assert!(!schema_is_valid(&schema(&[2, 2, 0, 0])), "a child is missing");
        assert!(!schema_is_valid(&schema(&[1, 0, 0])), "one child too many");
        assert!(!schema_is_valid(&schema(&[1, 1 << 30])), "more children than bytes");
        let chain = |depth| [vec![1; depth], vec![0]].concat();
        assert!(schema_is_valid(&schema(&chain(20))));
        assert!(!schema_is_valid(&schema(&chain(10_000))), "too deep");
        let whole = schema(&[2, 2, 0, 0, 0]);
        assert!((0..whole.len()).all(|cut| !schema_is_valid(&whole[..cut])));
        assert!(!schema_is_valid(&[0x1c; 100_000]), "nested structs");
    }
}
