//! Image files that were sent.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::StatusCode;
use ddpm::data::{self, ReadOptions};
use serde::Serialize;

use crate::api::Failure;

/// The files that are kept.
const MOST: u64 = 64;

/// The files, in a temporary folder.
pub struct Uploads {
    folder: PathBuf,
    count: AtomicU64,
}

/// A file that was taken.
#[derive(Debug, Serialize)]
pub struct Upload {
    /// The number that requests name it by.
    pub upload: u64,
    height: usize,
    width: usize,
}

impl Uploads {
    /// No files yet, in a folder for them.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), count: AtomicU64::new(0) }
    }

    /// Returns the file of a number. Its contents decide how it is read, but only pictures have this extension.
    pub fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number}.png"))
    }

    /// Takes an image file. The oldest of too many is forgotten.
    ///
    /// # Errors
    /// If it is not one image.
    pub fn store(&self, bytes: &[u8]) -> Result<Upload, Failure> {
        let number = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let path = self.path(number);
        std::fs::write(&path, bytes).map_err(|error| Failure::internal(error.to_string()))?;
        match size(&path) {
            Ok((height, width)) => {
                // It may have been refused.
                number.checked_sub(MOST).map(|old| std::fs::remove_file(self.path(old)));
                Ok(Upload { upload: number, height, width })
            }
            Err(failure) => {
                let _ = std::fs::remove_file(&path);
                // The page knows the file by another name.
                let message = failure.message.replace(&path.display().to_string(), "the file");
                Err(Failure { message, ..failure })
            }
        }
    }
}

fn size(path: &Path) -> Result<(usize, usize), Failure> {
    let fail = |message| Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message);
    let set = data::open(path, &ReadOptions::default()).map_err(|error| fail(error.to_string()))?;
    match set.len() {
        1 => Ok((set.height(), set.width())),
        n => Err(fail(format!("the file has {n} images; expected one"))),
    }
}
