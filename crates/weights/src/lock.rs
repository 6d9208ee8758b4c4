//! Locks folders against other processes.

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::{Duration, Instant};

/// Locks a folder until the file is dropped. Returns `None` if the file system cannot open folders.
///
/// A killed process holds its lock until the system has freed its memory. So a lock that is held is tried again for two
/// seconds: a command that is restarted immediately must not fail.
///
/// # Errors
/// [`ErrorKind::WouldBlock`] if another process holds the lock.
pub fn lock_folder(folder: &Path) -> io::Result<Option<File>> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let Ok(file) = File::open(folder) else {
        return Ok(None);
    };
    let start = Instant::now();
    while let Err(TryLockError::WouldBlock) = file.try_lock() {
        if start.elapsed() >= PATIENCE {
            return Err(ErrorKind::WouldBlock.into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(Some(file))
}
