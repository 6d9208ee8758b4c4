//! Memory that grows with a file: charged to the budget of the process before it is allocated, and in proportion to the
//! file.

use crate::error::{Error, Result};
use files::{Charge, OverBudget};
use std::io::{self, Read};
use std::path::Path;

/// The size to which a file may be unpacked, whatever its own size.
const FREE: u64 = 64 << 20;

/// The size to which a byte of a file may be unpacked. Binary images, such as dSprites, are packed to 1 in 115.
const EXPANSION: u64 = 256;

/// Returns the size to which a file of `packed` bytes may be unpacked in memory. A few megabytes of zeros would otherwise
/// take gigabytes.
pub(crate) fn most_unpacked(packed: u64) -> u64 {
    FREE.saturating_add(packed.saturating_mul(EXPANSION))
}

/// Charges many small things, such as names. It charges in steps, because each charge locks the budget.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    charge: Charge,
    /// Bytes that are charged and not used yet.
    rest: u64,
}

impl Meter {
    const STEP: u64 = 1 << 20;

    /// Charges `bytes`.
    pub fn add(&mut self, bytes: u64) -> std::result::Result<(), OverBudget> {
        if bytes > self.rest {
            let step = (bytes - self.rest).max(Self::STEP);
            self.charge.grow(step)?;
            self.rest += step;
        }
        self.rest -= bytes;
        Ok(())
    }

    /// Returns the charge, to be kept as long as the things are.
    pub fn into_charge(self) -> Charge {
        self.charge
    }
}

/// The memory of a name, label or path of `length` bytes, with its entries in lists and tables.
pub(crate) fn entry_bytes(length: usize) -> u64 {
    128 + 2 * length as u64
}

/// Reads the rest of a source that should have `expected` bytes, and returns what it has, up to one byte more. The buffer
/// grows with the actual data, because a corrupt header can claim any size, and is charged before it grows.
pub(crate) fn read_expected(source: impl Read, expected: u64, charge: &mut Charge) -> io::Result<Vec<u8>> {
    const FIRST: u64 = 1 << 20;
    let mut source = source.take(expected.saturating_add(1));
    let mut bytes = Vec::new();
    loop {
        let read = bytes.len() as u64;
        // At most doubled. The byte more finds the end.
        let more = read.max(FIRST).min(expected.saturating_sub(read)).saturating_add(1);
        charge.grow(more)?;
        bytes.reserve_exact(more as usize);
        let count = source.by_ref().take(more).read_to_end(&mut bytes)? as u64;
        if count < more || bytes.len() as u64 > expected {
            return Ok(bytes);
        }
    }
}

/// Charges `bytes` for what is read from a file.
pub(crate) fn charge(path: &Path, bytes: u64) -> Result<Charge> {
    Charge::new(bytes).map_err(|e| Error::memory(path, e))
}

/// Checks the size to which a file is unpacked.
pub(crate) fn check_unpacked(path: &Path, packed: u64, unpacked: u64, fix: &'static str) -> Result<()> {
    let limit = most_unpacked(packed);
    if unpacked > limit {
        return Err(Error::malformed(
            path,
            format!(
                "expands from {packed} bytes to {unpacked}, more than {EXPANSION} times its size and {} MiB; {fix}",
                FREE >> 20
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_bytes_as_there_are_are_read() {
        let source: Vec<u8> = (0..3_000_000u32).map(|i| i as u8).collect();
        let read = |expected: u64| {
            let mut charge = Charge::default();
            let bytes = read_expected(&source[..], expected, &mut charge).unwrap();
            assert!(charge.bytes() >= bytes.capacity() as u64, "{} for {}", charge.bytes(), bytes.capacity());
            assert!(source.starts_with(&bytes));
            bytes.len()
        };
        assert_eq!(read(3_000_000), 3_000_000);
        assert_eq!(read(5), 6);
        assert_eq!(read(0), 1);
        assert_eq!(read(2_999_999), 3_000_000);
        assert_eq!(read(u64::MAX), 3_000_000);
    }

    #[test]
    fn many_small_things_are_charged_in_steps() {
        let mut meter = Meter::default();
        (0..1000).for_each(|_| meter.add(100).unwrap());
        meter.add(3 << 20).unwrap();
        let charged = meter.into_charge().bytes();
        assert!((3 << 20..6 << 20).contains(&charged), "{charged}");
    }
}
