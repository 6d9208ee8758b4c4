//! Files that are read again and again, and must stay what they were.

use std::fs::{File, Metadata};
use std::io;
use std::path::Path;
use std::sync::OnceLock;
use std::time::SystemTime;

use crate::open::open_regular;

/// The length of a file and the time of its last change, as they were at first.
#[derive(Debug, Default)]
pub struct Unchanged(OnceLock<(u64, Option<SystemTime>)>);

impl Unchanged {
    /// Returns the state of a file now.
    pub fn of(file: &File) -> Self {
        let now = Self::default();
        // Without it, the first check keeps the state.
        let _ = now.check(file);
        now
    }

    /// Opens a regular file as [`open_regular`] does, and checks it.
    ///
    /// # Errors
    /// As [`open_regular`] and [`check`](Self::check).
    pub fn open(&self, path: impl AsRef<Path>) -> io::Result<(File, u64)> {
        let (file, length) = open_regular(path)?;
        self.check(&file)?;
        Ok((file, length))
    }

    /// Checks that a file has the length, and was changed last at the time, that it had when it was checked first.
    ///
    /// # Errors
    /// If it has not; and if the system does not tell.
    pub fn check(&self, file: &File) -> io::Result<()> {
        let state = |now: &Metadata| (now.len(), now.modified().ok());
        let now = state(&file.metadata()?);
        match *self.0.get_or_init(|| now) == now {
            true => Ok(()),
            false => Err(io::Error::other("has changed since it was opened; start again with the new file")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn another_length_or_time_is_a_change() {
        let path = std::env::temp_dir().join(format!("ddpm-unchanged-{}", std::process::id()));
        std::fs::write(&path, "one").unwrap();
        let unchanged = Unchanged::default();
        let opens = || unchanged.open(&path).map(|(_, length)| length);
        assert_eq!((opens().unwrap(), opens().unwrap()), (3, 3));
        let file = File::options().write(true).open(&path).unwrap();
        let before = file.metadata().unwrap().modified().unwrap();
        file.set_modified(before + Duration::from_secs(1)).unwrap();
        assert!(opens().unwrap_err().to_string().contains("has changed"));
        file.set_modified(before).unwrap();
        assert_eq!(opens().unwrap(), 3);
        std::fs::write(&path, "three").unwrap();
        file.set_modified(before).unwrap();
        assert!(opens().is_err());
        std::fs::remove_file(&path).unwrap();
    }
}
