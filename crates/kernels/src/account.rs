//! An account of where time goes: each kernel's calls, seconds, operations and bytes, kept while it is asked for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// What one kind of operation did since [`start_account`].
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The operation, as "convolution 3×3 forward".
    pub operation: String,
    /// Calls.
    pub calls: u64,
    /// Seconds from call to return.
    pub seconds: f64,
    /// Additions and multiplications of f32, counted as the definition has them: a convolution as a direct one.
    pub flop: f64,
    /// Bytes that must be read and written at least: inputs once, outputs once.
    pub bytes: f64,
}

static OPEN: AtomicBool = AtomicBool::new(false);
static ENTRIES: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

/// Empties the account of this process and keeps it until [`stop_account`]. Kernels that run at the same time in several
/// threads of the caller's are counted each in full.
pub fn start_account() {
    ENTRIES.lock().unwrap_or_else(PoisonError::into_inner).clear();
    OPEN.store(true, Ordering::Relaxed);
}

/// Closes the account and returns it, the longest first.
pub fn stop_account() -> Vec<Entry> {
    OPEN.store(false, Ordering::Relaxed);
    let mut entries = std::mem::take(&mut *ENTRIES.lock().unwrap_or_else(PoisonError::into_inner));
    entries.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    entries
}

/// A call under way; it is written down when dropped.
pub(crate) struct Call(Option<(Instant, String, f64, f64)>);

/// Begins a call of `operation`, of so many floating-point operations and so many floats read and written. When no
/// account is kept, this is one relaxed load.
pub(crate) fn call(operation: impl FnOnce() -> String, flop: usize, floats: usize) -> Call {
    let open = OPEN.load(Ordering::Relaxed);
    Call(open.then(|| (Instant::now(), operation(), flop as f64, 4.0 * floats as f64)))
}

impl Drop for Call {
    fn drop(&mut self) {
        let Some((start, operation, flop, bytes)) = self.0.take() else { return };
        let seconds = start.elapsed().as_secs_f64();
        let mut entries = ENTRIES.lock().unwrap_or_else(PoisonError::into_inner);
        match entries.iter_mut().find(|entry| entry.operation == operation) {
            Some(entry) => {
                entry.calls += 1;
                entry.seconds += seconds;
                entry.flop += flop;
                entry.bytes += bytes;
            }
            None => entries.push(Entry { operation, calls: 1, seconds, flop, bytes }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_counts_what_ran_while_it_was_open() {
        let run = || drop(call(|| "a test's own".into(), 10, 3));
        let mine = |entries: Vec<Entry>| entries.into_iter().find(|entry| entry.operation == "a test's own");
        run();
        start_account();
        run();
        run();
        let entry = mine(stop_account()).unwrap();
        assert_eq!((entry.calls, entry.flop, entry.bytes), (2, 20.0, 24.0));
        run();
        assert_eq!(mine(stop_account()), None);
    }
}
