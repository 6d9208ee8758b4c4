//! The memory that reading one file may take, in proportion to the file's size.

use files::Charge;

/// Bytes that are taken from the budget of the process at once, since small pieces would take long.
const STEP: u64 = 256 << 10;

/// The bytes that may still be allocated while a file is read.
///
/// A file has four times its size, which one-byte values need when they become f32, and 768 KiB for small files.
/// Everything but the values of tensors is also taken from the budget that all readers of the process share
/// ([`Charge`]).
#[derive(Debug)]
pub(crate) struct Budget {
    left: u64,
    charge: Option<Charge>,
    /// Bytes of the charge that nothing uses.
    unused: u64,
}

impl Budget {
    /// Creates the budget of a file of `length` bytes.
    pub fn of(length: u64) -> Self {
        Self { left: length.saturating_mul(4).saturating_add(768 << 10), charge: None, unused: 0 }
    }

    /// Returns the bytes that may still be allocated.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Takes the bytes of an allocation, before it is made. The error is the end of a sentence: "exceeds …".
    pub fn take(&mut self, bytes: u64) -> Result<(), String> {
        let left = rest(self.left, bytes)?;
        if bytes > self.unused {
            let more = (bytes - self.unused).next_multiple_of(STEP);
            grow(&mut self.charge, more)?;
            self.unused += more;
        }
        self.unused -= bytes;
        self.left = left;
        Ok(())
    }

    /// Returns bytes that were taken, after their memory has been freed.
    pub fn give_back(&mut self, bytes: u64) {
        self.left += bytes;
        self.unused += bytes;
    }
}

/// Subtracts the bytes of an allocation from those `left`. The error is the end of a sentence: "exceeds …".
pub(crate) fn rest(left: u64, bytes: u64) -> Result<u64, String> {
    left.checked_sub(bytes).ok_or_else(|| "exceeds the allocation budget (4 × the file's size)".to_owned())
}

/// A charge for buffers of which one exists at a time: that of the largest.
#[derive(Default)]
pub(crate) struct BufferCharge(Option<Charge>);

impl BufferCharge {
    /// Charges a buffer of `bytes`, unless an earlier one was as large.
    pub fn fit(&mut self, bytes: u64) -> Result<(), String> {
        let charged = self.0.as_ref().map_or(0, Charge::bytes);
        if bytes <= charged {
            return Ok(());
        }
        grow(&mut self.0, (bytes - charged).next_multiple_of(STEP))
    }
}

/// Grows a charge, which is made when it is first needed.
fn grow(charge: &mut Option<Charge>, bytes: u64) -> Result<(), String> {
    let grown = match charge {
        Some(charge) => charge.grow(bytes),
        None => Charge::new(bytes).map(|new| *charge = Some(new)),
    };
    grown.map_err(|error| error.to_string())
}
