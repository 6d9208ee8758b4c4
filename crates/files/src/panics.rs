//! Panics of decoders on damaged files, turned into errors.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    /// The number of calls of [`catch_panic`] that this thread is in.
    static CATCHES: Cell<u32> = const { Cell::new(0) };
}

/// Calls `read` and returns its result, or the message of its panic on one line. Many decoders panic on damaged files.
///
/// ```
/// let bytes: &[u8] = &[];
/// let first = ddpm_files::catch_panic(|| bytes[0]);
/// assert!(first.unwrap_err().contains("out of bounds"));
/// ```
///
/// # Errors
/// If `read` panics.
pub fn catch_panic<T>(read: impl FnOnce() -> T) -> Result<T, String> {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            CATCHES.set(CATCHES.get() - 1);
        }
    }
    CATCHES.set(CATCHES.get() + 1);
    let _leave = Leave;
    catch_unwind(AssertUnwindSafe(read)).map_err(|panic| message(&*panic))
}

/// Returns whether a panic of this thread is caught by [`catch_panic`], so that a panic hook need not report it.
pub fn is_caught() -> bool {
    CATCHES.try_with(Cell::get).is_ok_and(|calls| calls > 0)
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let text: String = text.unwrap_or("a panic").chars().take(200).collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caught_panic_is_known_to_be_caught() {
        assert!(!is_caught());
        assert_eq!(catch_panic(|| (is_caught(), catch_panic(is_caught))), Ok((true, Ok(true))));
        let error = catch_panic(|| {
            if is_caught() {
                panic!("two\nlines of {}", 7)
            }
        });
        assert_eq!(error, Err("two lines of 7".to_owned()));
        assert!(!is_caught());
    }
}
