//! Locks a run's folder.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::Error;

/// Locks a folder until the file is dropped, so that no other process trains in it. Returns `None` if the file system
/// cannot open folders.
///
/// A killed process holds its lock until the system has freed its memory. So a lock that is held is tried again for two
/// seconds: a run that is restarted immediately must not fail.
pub(crate) fn lock(folder: &Path) -> Result<Option<File>, Error> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let Ok(file) = File::open(folder) else {
        return Ok(None);
    };
    let start = Instant::now();
    while let Err(TryLockError::WouldBlock) = file.try_lock() {
        if start.elapsed() >= PATIENCE {
            let folder = folder.display();
            return Err(Error::Run(format!("{folder}: another process is training there; choose another folder")));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(Some(file))
}
