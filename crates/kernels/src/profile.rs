//! A profile of the kernels: number of calls, time, floating-point operations and bytes per operation.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// The statistics of one operation since [`start_profile`].
#[derive(Clone, Debug, PartialEq)]
pub struct ProfileEntry {
    /// The operation, such as "convolution 3×3 stride 1: forward".
    pub operation: String,
    /// Number of calls.
    pub calls: u64,
    /// Total time in seconds.
    pub seconds: f64,
    /// Floating-point operations by definition. Convolutions count as direct ones, for any algorithm.
    pub flop: f64,
    /// Minimum memory traffic in bytes: every input read once and every output written once.
    pub bytes: f64,
}

static PROFILING: AtomicBool = AtomicBool::new(false);
static ENTRIES: Mutex<Vec<ProfileEntry>> = Mutex::new(Vec::new());

/// Clears the profile of this process and records until [`stop_profile`].
///
/// Times of kernels that run concurrently in several threads of the caller add up.
pub fn start_profile() {
    ENTRIES.lock().unwrap_or_else(PoisonError::into_inner).clear();
    PROFILING.store(true, Ordering::Relaxed);
}

/// Stops recording and returns the entries, longest total time first.
pub fn stop_profile() -> Vec<ProfileEntry> {
    PROFILING.store(false, Ordering::Relaxed);
    let mut entries = std::mem::take(&mut *ENTRIES.lock().unwrap_or_else(PoisonError::into_inner));
    entries.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    entries
}

/// A call in progress, recorded when dropped.
pub(crate) struct Span(Option<(Instant, String, f64, f64)>);

/// Starts a call of `operation` with the given numbers of floating-point operations and of floats read and written. The
/// cost is one relaxed load if no profile is being recorded.
pub(crate) fn span(operation: impl FnOnce() -> String, flop: usize, floats: usize) -> Span {
    let profiling = PROFILING.load(Ordering::Relaxed);
    Span(profiling.then(|| (Instant::now(), operation(), flop as f64, 4.0 * floats as f64)))
}

impl Drop for Span {
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
            None => entries.push(ProfileEntry { operation, calls: 1, seconds, flop, bytes }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_calls_between_start_and_stop() {
        let run = || drop(span(|| "a test's own".into(), 10, 3));
        let mine = |entries: Vec<ProfileEntry>| entries.into_iter().find(|entry| entry.operation == "a test's own");
        run();
        start_profile();
        run();
        run();
        let entry = mine(stop_profile()).unwrap();
        assert_eq!((entry.calls, entry.flop, entry.bytes), (2, 20.0, 24.0));
        run();
        assert_eq!(mine(stop_profile()), None);
    }
}
