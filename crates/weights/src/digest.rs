//! Checksums of all files of a folder, to detect a truncated or corrupted checkpoint before it is used.
//!
//! CRC-32 detects accidental damage, not tampering. Each file is read once, whatever the list says.

use crate::shown::shown;
use crate::{Error, Result, atomic, file};
use files::Reading;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The name of the file with the checksums, in the root of the folder.
pub const MANIFEST: &str = "checksums.json";

/// The contents of the manifest: `{"files": {"unet/config.json": {"bytes": 812, "crc32": "89abcdef"}, …}}`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    files: BTreeMap<String, Digest>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Digest {
    bytes: u64,
    crc32: String,
}

/// Writes [`MANIFEST`], with the size and CRC-32 of every file in `folder` and its subfolders but the manifest itself.
///
/// # Errors
/// If a file cannot be read or its name is not UTF-8, or the manifest cannot be written.
pub fn seal(folder: impl AsRef<Path>) -> Result<()> {
    let folder = folder.as_ref();
    let mut manifest = Manifest { files: BTreeMap::new() };
    collect(folder, "", &mut manifest.files)?;
    manifest.files.remove(MANIFEST);
    let path = folder.join(MANIFEST);
    atomic::write_file(&path, |file| {
        serde_json::to_writer_pretty(&mut *file, &manifest)?;
        file.write_all(b"\n")
    })
}

/// Returns whether `folder` has a [`MANIFEST`], readable or not. Folders that other programs wrote have none.
pub fn is_sealed(folder: impl AsRef<Path>) -> bool {
    folder.as_ref().join(MANIFEST).symlink_metadata().is_ok()
}

/// Verifies the size and checksum of every file that [`seal`] listed. Files that were added later are ignored.
///
/// # Errors
/// [`Error::Damaged`] names the first file, in the order of names, that is missing or differs. Other errors: there is
/// no manifest, or it cannot be read.
pub fn verify(folder: impl AsRef<Path>) -> Result<()> {
    verify_files(folder, |_| true)
}

/// Verifies the files whose names, such as `unet/config.json`, are wanted; otherwise like [`verify`].
///
/// # Errors
/// As [`verify`].
pub fn verify_files(folder: impl AsRef<Path>, wanted: impl Fn(&str) -> bool) -> Result<()> {
    let folder = folder.as_ref();
    let path = folder.join(MANIFEST);
    let _reading = Reading::new(&path);
    let text = files::read_json_text(&path).map_err(Error::read(&path))?;
    let manifest: Manifest = serde_json::from_str(&text).map_err(|error| Error::Damaged {
        path: path.clone(),
        reason: format!("not a valid list of checksums: {}", shown(error)),
    })?;
    let mut found: BTreeMap<PathBuf, Digest> = BTreeMap::new();
    for (name, expected) in manifest.files.iter().filter(|(name, _)| wanted(name)) {
        if !is_inside(name) {
            let reason =
                format!("lists `{}`, which is outside the folder or not the plain path of a file", shown(name));
            return Err(Error::Damaged { path, reason });
        }
        let file = folder.join(name);
        let damaged = |reason: String| Err(Error::Damaged { path: file.clone(), reason });
        if !file.is_file() {
            return damaged("is missing".into());
        }
        // In the cache of the Hugging Face hub, equal files are links to one.
        let target = fs::canonicalize(&file).map_err(Error::read(&file))?;
        let found = match found.entry(target) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(digest(&file)?),
        };
        if found.bytes != expected.bytes {
            return damaged(format!("has {} bytes instead of {}", found.bytes, expected.bytes));
        }
        if found.crc32 != expected.crc32 {
            return damaged(format!("has CRC-32 {} instead of {}", found.crc32, shown(&expected.crc32)));
        }
    }
    Ok(())
}

/// Returns whether a name in a manifest is a path below the folder, in the only form that [`seal`] writes.
fn is_inside(name: &str) -> bool {
    name.split('/').all(file::is_name)
}

/// Adds the digests of the files under `folder`. Their names begin with `prefix`, which is empty or ends in `/`.
fn collect(folder: &Path, prefix: &str, files: &mut BTreeMap<String, Digest>) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::read(folder))? {
        let entry = entry.map_err(Error::read(folder))?;
        let path = entry.path();
        let Ok(name) = entry.file_name().into_string() else {
            return Err(Error::file(&path, "its name is not UTF-8"));
        };
        let name = format!("{prefix}{name}");
        if entry.file_type().map_err(Error::read(&path))?.is_dir() {
            collect(&path, &format!("{name}/"), files)?;
        } else {
            files.insert(name, digest(&path)?);
        }
    }
    Ok(())
}

/// Computes the size and checksum of a file.
fn digest(path: &Path) -> Result<Digest> {
    let (mut file, _) = files::open_regular(path).map_err(Error::read(path))?;
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; 1 << 18];
    let mut bytes = 0;
    loop {
        let n = file.read(&mut buffer).map_err(Error::read(path))?;
        if n == 0 {
            return Ok(Digest { bytes, crc32: format!("{:08x}", hasher.finalize()) });
        }
        hasher.update(&buffer[..n]);
        bytes += n as u64;
    }
}
