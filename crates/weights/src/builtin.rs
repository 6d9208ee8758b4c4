//! The model in this crate: a class-conditional network of clothes. `builtin/README.md` says how it was trained.
//!
//! Models are read from folders, so its files are written to the user's cache folder when they are first needed.

use crate::atomic::{self, Existing};
use crate::{Error, Result};
use flate2::read::GzDecoder;
use std::borrow::Cow;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The name that stands for the model where a path of a model is expected.
pub const NAME: &str = "fashion";

macro_rules! files {
    ($($name:literal),*) => { [$(($name, include_bytes!(concat!("../builtin/fashion/", $name)).as_slice())),*] };
}

/// The files; those whose names end in `.gz` are unpacked. Not a constant, of which each part of the program that is compiled alone
/// can have its own copy.
static FILES: [(&str, &[u8]); 7] = files!(
    "data.json",
    "model_index.json",
    "preprocessing.json",
    "scheduler/scheduler_config.json",
    "training/config.toml",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors.gz"
);

/// Returns the name and the contents of a file as it is written.
fn unpacked((name, bytes): (&'static str, &'static [u8])) -> (&'static str, Cow<'static, [u8]>) {
    let Some(name) = name.strip_suffix(".gz") else { return (name, bytes.into()) };
    let mut contents = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut contents).expect("the file in the program is whole");
    (name, contents.into())
}

/// Returns whether a path is the [`NAME`] of the model in this crate, and nothing of this name is there.
pub fn is_builtin(path: &Path) -> bool {
    path.as_os_str() == NAME && path.symlink_metadata().is_err()
}

/// Returns whether a folder is one that [`folder`] writes.
pub fn is_folder(path: &Path) -> bool {
    places().any(|place| place == path)
}

/// Returns a folder with the model's files: in the user's cache folder, or in that of temporary files if nothing can be
/// written there.
///
/// # Errors
/// If the files can be written to neither.
pub fn folder() -> Result<PathBuf> {
    let mut failure = None;
    for place in places() {
        match write(&place) {
            Ok(()) => return Ok(place),
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.expect("there is a last place"))
}

/// Returns where the folder can be.
fn places() -> impl Iterator<Item = PathBuf> {
    let digest = FILES.iter().fold(crc32fast::Hasher::new(), |mut hasher, (_, bytes)| {
        hasher.update(bytes);
        hasher
    });
    // Each version of the model has a folder of its own.
    let version = format!("{:08x}", digest.finalize());
    let in_cache = dirs::cache_dir().map(|cache| cache.join("ddpm").join(&version));
    let places = in_cache.into_iter().chain([std::env::temp_dir().join(format!("ddpm-{version}"))]);
    places.map(|place| place.join(NAME))
}

/// Writes the files to a folder, unless they are there.
fn write(folder: &Path) -> Result<()> {
    if is_whole(folder) {
        return Ok(());
    }
    let parent = files::parent(folder);
    fs::create_dir_all(parent).map_err(Error::write(parent))?;
    let written = atomic::write_folder(folder, Existing::Replace, |new| {
        for (name, bytes) in FILES.map(unpacked) {
            let path = new.join(name);
            let parent = files::parent(&path);
            fs::create_dir_all(parent).map_err(Error::write(parent))?;
            fs::write(&path, bytes).map_err(Error::write(&path))?;
        }
        Ok::<_, Error>(())
    });
    // Another process may have written them at the same time.
    if written.is_err() && is_whole(folder) { Ok(()) } else { written }
}

fn is_whole(folder: &Path) -> bool {
    FILES.into_iter().map(unpacked).all(|(name, bytes)| fs::read(folder.join(name)).is_ok_and(|found| *found == *bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_files_are_written_again() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("cache/model");
        write(&folder).unwrap();
        assert!(is_whole(&folder));
        let weights = folder.join("unet/diffusion_pytorch_model.safetensors");
        for damage in [&b"short"[..], &[0; 3_000_000]] {
            fs::write(&weights, damage).unwrap();
            write(&folder).unwrap();
            assert!(is_whole(&folder));
        }
        fs::remove_file(&weights).unwrap();
        write(&folder).unwrap();
        assert!(is_whole(&folder));
    }

    #[test]
    fn the_files_take_at_most_three_megabytes() {
        assert!(FILES.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() <= 3_000_000);
    }
}
