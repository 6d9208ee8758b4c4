//! The files that are being read, for the message when memory runs out.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The files of all threads, the latest last.
static ALL: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

thread_local! {
    /// The files of this thread, the innermost last.
    static OF_THREAD: RefCell<Vec<PathBuf>> = const { RefCell::new(Vec::new()) };
}

/// A mark that a file is being read, until it is dropped by the thread that made it.
#[derive(Debug)]
#[must_use]
pub struct Reading {
    path: PathBuf,
    /// The mark belongs to one thread.
    _thread: std::marker::PhantomData<*const ()>,
}

impl Reading {
    /// Marks that this thread reads a file, an archive or a folder.
    pub fn new(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_owned();
        let copy = path.clone();
        OF_THREAD.with_borrow_mut(|files| files.push(copy));
        let copy = path.clone();
        if let Ok(mut files) = ALL.lock() {
            files.push(copy);
        }
        Self { path, _thread: std::marker::PhantomData }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        // The thread's list may be gone when the thread ends.
        let _ = OF_THREAD.try_with(|files| files.try_borrow_mut().map(|mut files| files.pop()));
        if let Ok(mut files) = ALL.lock()
            && let Some(at) = files.iter().rposition(|path| *path == self.path)
        {
            files.remove(at);
        }
    }
}

/// Calls `tell` with the file that this thread is reading, else with the one that another thread began to read last.
///
/// It can be called when memory ran out: it allocates nothing and waits for nothing.
pub fn with_file_being_read<T>(tell: impl FnOnce(Option<&Path>) -> T) -> T {
    let mut tell = Some(tell);
    let mut call = |path: Option<&Path>| tell.take().map(|tell| tell(path));
    let told = OF_THREAD.try_with(|files| {
        let files = files.try_borrow().ok()?;
        files.last().and_then(|path| call(Some(path)))
    });
    if let Ok(Some(told)) = told {
        return told;
    }
    let files = ALL.try_lock();
    let path = files.as_ref().ok().and_then(|files| files.last()).map(PathBuf::as_path);
    match call(path) {
        Some(told) => told,
        None => unreachable!("`tell` has not been called"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_file_of_the_thread_is_named_else_one_of_another_thread() {
        let named = || with_file_being_read(|path| path.map(Path::to_owned));
        let outer = Reading::new("set.zip");
        let inner = Reading::new("set.zip/a.png");
        assert_eq!(named(), Some("set.zip/a.png".into()));
        let elsewhere = std::thread::spawn(named).join().unwrap();
        assert_eq!(elsewhere, Some("set.zip/a.png".into()));
        drop(inner);
        assert_eq!(named(), Some("set.zip".into()));
        drop(outer);
        assert_eq!(named(), None);
    }
}
