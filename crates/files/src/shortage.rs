//! Shortages of the process, as opposed to what is wrong with a file.

use std::cell::RefCell;
use std::io;

thread_local! {
    /// The lack that this thread met since the innermost call of [`without_shortage`] began.
    static SHORTAGE: RefCell<Option<io::Error>> = const { RefCell::new(None) };
}

/// Calls `read` and returns its result, or what the process lacked meanwhile: memory of the budget, or files that may be
/// open at once.
///
/// Readers pass errors on through decoders that know only their own, and leave out a file that cannot be read. A file must
/// not be left out because memory is short, so that is kept aside, whatever `read` returns.
///
/// # Errors
/// The lack, as an error.
pub fn without_shortage<T>(read: impl FnOnce() -> T) -> io::Result<T> {
    let before = SHORTAGE.take();
    let result = read();
    match SHORTAGE.replace(before) {
        Some(shortage) => Err(shortage),
        None => Ok(result),
    }
}

/// Keeps aside that the process lacks something.
pub(crate) fn note(shortage: impl Into<io::Error>) {
    SHORTAGE.set(Some(shortage.into()));
}

/// Returns whether an error of the system says that the process lacks memory or may not open more files.
pub fn is_shortage(error: &io::Error) -> bool {
    const ENOMEM: i32 = 12;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    cfg!(unix) && matches!(error.raw_os_error(), Some(ENOMEM | ENFILE | EMFILE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Charge;

    #[test]
    fn a_refused_charge_is_not_lost_in_another_error() {
        let refused = || Charge::new(u64::MAX / 4).map_err(|_| "is corrupt");
        let error = without_shortage(refused).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
        assert!(error.to_string().contains("GB of memory"), "{error}");
        // Calls within calls have their own.
        let inner = without_shortage(|| without_shortage(refused).is_err());
        assert!(inner.unwrap());
        assert!(without_shortage(|| Charge::new(1).is_ok()).unwrap());
        assert!(
            is_shortage(&io::Error::from_raw_os_error(24)) == cfg!(unix)
                && !is_shortage(&io::ErrorKind::NotFound.into())
        );
    }
}
