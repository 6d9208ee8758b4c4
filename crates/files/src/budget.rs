//! One budget of memory for all that is read from files, shared by all readers and threads of the process.
//!
//! A small file can claim, or expand to, any size. So whatever grows with a file is charged before it is allocated: pixels,
//! and also names, labels, tables, dictionaries and buffers between two steps. What does not fit is an error of that file.

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::memory::{MemoryLimit, memory_limit};
use crate::shortage;

/// The share of the memory limit that reading may take: the rest is for the program itself, and for blocks that the
/// allocator rounds up.
const SHARE: f64 = 0.875;

/// The bytes that are charged.
struct Used {
    /// Those of charges that may last as long as the process.
    kept: u64,
    /// Those of charges that end when the step that needs them does.
    brief: u64,
}

static USED: Mutex<Used> = Mutex::new(Used { kept: 0, brief: 0 });
static RETURNED: Condvar = Condvar::new();

fn used() -> MutexGuard<'static, Used> {
    USED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes that are taken from the budget, and returned to it when this is dropped.
///
/// ```
/// let mut names = ddpm_files::Charge::new(1_000)?;
/// names.grow(24)?;
/// assert_eq!(names.bytes(), 1_024);
/// assert!(ddpm_files::Charge::new(u64::MAX).is_err());
/// # Ok::<(), ddpm_files::OverBudget>(())
/// ```
#[derive(Debug, Default)]
#[must_use]
pub struct Charge {
    bytes: u64,
    is_brief: bool,
}

/// The error of a charge that the budget does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "needs {:.2} GB of memory on top of the {:.2} GB that other files take, but {source_of_limit} is {:.2} GB",
    *.bytes as f64 / 1e9, *.used as f64 / 1e9, *.limit as f64 / 1e9
)]
pub struct OverBudget {
    bytes: u64,
    used: u64,
    limit: u64,
    source_of_limit: String,
}

impl From<OverBudget> for io::Error {
    fn from(error: OverBudget) -> Self {
        io::Error::new(io::ErrorKind::OutOfMemory, error)
    }
}

/// Returns the bytes of the budget, and the limit that they are a share of; none where the system tells no limit.
fn budget() -> Option<(u64, MemoryLimit)> {
    memory_limit().map(|limit| ((limit.bytes as f64 * SHARE) as u64, limit))
}

impl Charge {
    /// Charges `bytes` that may be kept for long, such as the pixels of a set.
    ///
    /// # Errors
    /// If the budget does not have them.
    pub fn new(bytes: u64) -> Result<Self, OverBudget> {
        let mut charge = Self { bytes: 0, is_brief: false };
        charge.grow(bytes)?;
        Ok(charge)
    }

    /// Charges `bytes` for a short time, such as the buffers of one image while it is decoded. Waits until other threads
    /// have returned enough of what they took in this way. A thread that waits must not have such a charge already.
    ///
    /// # Errors
    /// If the budget does not have them although no other thread has such a charge.
    pub fn brief(bytes: u64) -> Result<Self, OverBudget> {
        let budget = budget();
        let mut used = used();
        loop {
            match take(&mut used, bytes, true, budget.as_ref()) {
                Ok(()) => return Ok(Self { bytes, is_brief: true }),
                Err(error) if used.brief == 0 => return Err(error),
                Err(_) => used = RETURNED.wait(used).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Charges `bytes` more.
    ///
    /// # Errors
    /// If the budget does not have them. The charge is then as before.
    pub fn grow(&mut self, bytes: u64) -> Result<(), OverBudget> {
        take(&mut used(), bytes, self.is_brief, budget().as_ref())?;
        self.bytes += bytes;
        Ok(())
    }

    /// Returns the bytes that are charged.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut used = used();
        match self.is_brief {
            true => used.brief -= self.bytes,
            false => used.kept -= self.bytes,
        }
        drop(used);
        RETURNED.notify_all();
    }
}

fn take(used: &mut Used, bytes: u64, is_brief: bool, budget: Option<&(u64, MemoryLimit)>) -> Result<(), OverBudget> {
    let before = used.kept + used.brief;
    let after = before.checked_add(bytes);
    let most = budget.map_or(u64::MAX >> 1, |(bytes, _)| *bytes);
    if after.is_none_or(|after| after > most) {
        let (limit, source_of_limit) =
            budget.map_or((most, "the address space".to_owned()), |(_, limit)| (limit.bytes, limit.source.clone()));
        let error = OverBudget { bytes, used: before, limit, source_of_limit };
        shortage::note(error.clone());
        return Err(error);
    }
    match is_brief {
        true => used.brief += bytes,
        false => used.kept += bytes,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    /// All in one test, since the budget is the process's.
    #[test]
    fn the_budget_is_shared_and_returned() {
        let Some((all, _)) = budget() else { return };
        let mut half = Charge::new(all / 2).unwrap();
        let error = Charge::new(all / 2 + 10).unwrap_err().to_string();
        assert!(error.contains("GB of memory on top of the") && error.contains("is "), "{error}");
        assert!(half.grow(all).is_err());
        assert_eq!(half.bytes(), all / 2);
        // What does not fit beside lasting charges is an error at once.
        assert!(Charge::brief(all / 2 + 10).is_err());
        drop(half);

        // What does not fit beside brief ones waits for them.
        let first = Charge::brief(all / 2 + 10).unwrap();
        let (told, hear) = channel();
        let second = std::thread::spawn(move || {
            let charge = Charge::brief(all / 2 + 10).unwrap();
            told.send(charge.bytes()).unwrap();
        });
        assert!(hear.recv_timeout(Duration::from_millis(100)).is_err(), "it did not wait");
        drop(first);
        assert_eq!(hear.recv_timeout(Duration::from_secs(60)).unwrap(), all / 2 + 10);
        second.join().unwrap();
    }
}
