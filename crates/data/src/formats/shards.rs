//! Sets that consist of one or more shards: tar archives or Parquet files.

use super::files::{extension, list_visible, lower_file_name};
use super::parts::{TEST_NAMES, part_name};
use super::tree::IMAGE_EXTENSIONS;
use crate::error::{Error, Result};
use crate::generated::is_generated;
use crate::options::{ReadOptions, Split};
use std::path::{Path, PathBuf};

/// Returns whether `path` is a shard, or a folder of shards without image files.
pub(crate) fn detect(path: &Path, extensions: &[&str]) -> bool {
    if path.is_file() {
        return has_extension(path, extensions);
    }
    // A contact sheet does not make it a folder of images.
    let is_image =
        |file: &PathBuf| IMAGE_EXTENSIONS.contains(&&*extension(&lower_file_name(file))) && !is_generated(file);
    list_shards(path, extensions).is_ok_and(|shards| !shards.is_empty())
        && list_visible(path).is_ok_and(|files| !files.iter().any(is_image))
}

/// Returns whether the name of a file ends in one of `extensions`.
pub(crate) fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    let name = lower_file_name(path);
    extensions.iter().any(|extension| name.ends_with(extension))
}

/// Returns the shards of a split: the file itself, or those of a folder and its subfolders `data`, `train`, `test` etc.
/// The names of shards and subfolders determine the split (`train-00000-of-00002`, `imagenet_val_07`).
pub(crate) fn find(path: &Path, extensions: &[&str], options: &ReadOptions) -> Result<Vec<PathBuf>> {
    let is_named = |file: &Path, name: &str| {
        let relative = file.strip_prefix(path).ok().filter(|relative| relative.parent().is_some());
        let text = relative.unwrap_or(Path::new(file.file_name().unwrap_or_default())).to_string_lossy().to_lowercase();
        text.split(|c: char| !c.is_ascii_alphabetic()).any(|word| word == name)
    };
    let files = if path.is_dir() { list_shards(path, extensions)? } else { vec![path.to_owned()] };
    let held_out = TEST_NAMES.iter().find(|name| files.iter().any(|file| is_named(file, name)));
    let is_held_out = |file: &Path| TEST_NAMES.iter().any(|name| is_named(file, name));
    match (options.split, held_out) {
        (Split::Test, Some(name)) => Ok(files.into_iter().filter(|file| is_named(file, name)).collect()),
        (Split::Test, None) => {
            Err(Error::NoHeldOut { path: path.to_owned(), expected: "files with test or val in their names" })
        }
        // If all shards are held out, the user has passed only that split, and trains on it.
        (Split::Train, _) if files.iter().all(|file| is_held_out(file)) => Ok(files),
        (Split::Train, _) => Ok(files.into_iter().filter(|file| !is_held_out(file)).collect()),
    }
}

/// Returns all shards in a folder, sorted by name.
fn list_shards(folder: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>> {
    let is_split = |name: &str| name == "data" || part_name(name).is_some();
    let mut files = Vec::new();
    for entry in list_visible(folder)? {
        let name = lower_file_name(&entry);
        if entry.is_dir() && is_split(&name) {
            files.extend(list_visible(&entry)?);
        } else {
            files.push(entry);
        }
    }
    files.retain(|file| has_extension(file, extensions) && file.is_file());
    Ok(files)
}
