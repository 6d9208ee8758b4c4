//! Checksums of all files of a folder, to detect a truncated or corrupted checkpoint before it is used.
//!
//! CRC-32 detects accidental damage, not tampering.

use crate::{Error, Result, atomic};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Component, Path};

/// The name of the file with the checksums, in the root of the folder.
pub const MANIFEST: &str = "checksums.json";
/// Bytes of a manifest that are read. A checkpoint has tens of files, so a valid manifest is far smaller.
const MAX_MANIFEST: u64 = 16 << 20;

/// The contents of the manifest: `{"files": {"unet/config.json": {"bytes": 812, "crc32": "89abcdef"}, …}}`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    files: BTreeMap<String, Digest>,
}

#[derive(Serialize, Deserialize, PartialEq)]
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

/// Returns whether `folder` has a [`MANIFEST`]. Folders that other programs wrote have none.
pub fn is_sealed(folder: impl AsRef<Path>) -> bool {
    folder.as_ref().join(MANIFEST).is_file()
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
    let (file, _) = files::open_regular(&path).map_err(Error::read(&path))?;
    let mut text = Vec::new();
    file.take(MAX_MANIFEST).read_to_end(&mut text).map_err(Error::read(&path))?;
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| Error::Damaged {
        path: path.clone(),
        reason: format!("not a valid list of checksums: {error}"),
    })?;
    for (name, expected) in manifest.files.iter().filter(|(name, _)| wanted(name)) {
        let is_inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        if !is_inside {
            return Err(Error::Damaged { path, reason: format!("lists `{name}`, which is outside the folder") });
        }
        let file = folder.join(name);
        if !file.is_file() {
            return Err(Error::Damaged { path: file, reason: "is missing".into() });
        }
        let found = digest(&file)?;
        if found != *expected {
            let reason = if found.bytes != expected.bytes {
                format!("has {} bytes instead of {}", found.bytes, expected.bytes)
            } else {
                format!("has CRC-32 {} instead of {}", found.crc32, expected.crc32)
            };
            return Err(Error::Damaged { path: file, reason });
        }
    }
    Ok(())
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
