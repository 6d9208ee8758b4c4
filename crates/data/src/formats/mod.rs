//! The table of formats. A new one is a file here and a row in [`FORMATS`].

pub(crate) mod cifar;
pub(crate) mod folder;
pub(crate) mod idx;
pub(crate) mod labels;
pub mod npz;
#[cfg(feature = "parquet")]
pub(crate) mod parquet;
pub(crate) mod tar;
pub(crate) mod tree;
pub(crate) mod unread;
pub(crate) mod zip;

use crate::error::{Error, Result};
use crate::options::Options;
use crate::set::{Found, ImageSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// One format: how it is recognised and how it is opened.
pub(crate) struct Format {
    /// What a user would have to provide.
    pub expected: &'static str,
    /// A quick look at names and first bytes; the first format that says yes opens the path, and its errors are final.
    pub recognise: fn(&Path) -> bool,
    /// Finds images and labels. Pixels that are read later are not touched.
    pub open: fn(&Path, &Options) -> Result<Found>,
}

/// In the order in which they are tried.
const FORMATS: &[Format] = &[
    idx::FORMAT,
    cifar::FORMAT,
    npz::FORMAT,
    #[cfg(feature = "parquet")]
    parquet::FORMAT,
    zip::FORMAT,
    tar::FORMAT,
    folder::FORMAT,
];

/// Labels are indices of classes; one above this is a mistake, and no list of names is made for it.
pub(crate) const MAX_CLASSES: usize = 1 << 20;

/// Opens the image set at `path`, whatever its format (see the [crate]'s table).
///
/// The heads of all images are read, in parallel, and all pixels too if the set fits into memory.
///
/// # Errors
/// Nothing recognised, nothing readable, a broken container, several sizes without a resolution, no held-out images
/// where they were asked for. Broken images inside a folder are no error: they are left out and reported.
pub fn open(path: &Path, options: &Options) -> Result<ImageSet> {
    options.check()?;
    let full = path.canonicalize().map_err(|e| Error::io(path, e))?;
    let name = full.file_name().map_or_else(|| "data".into(), |name| name.to_string_lossy().into_owned());
    let root = unwrap_folder(path)?;
    unread::check(&root)?;
    let format = FORMATS.iter().find(|format| (format.recognise)(&root)).ok_or_else(|| Error::Unrecognised {
        path: path.to_owned(),
        expected: FORMATS.iter().map(|format| format.expected).collect::<Vec<_>>().join("; "),
    })?;
    ImageSet::new(name, path, (format.open)(&root, options)?, options)
}

/// Steps into folders that hold one folder and nothing else, as archives unpack to.
fn unwrap_folder(path: &Path) -> Result<PathBuf> {
    let mut root = path.to_owned();
    while root.is_dir() {
        let mut entries = visible(&root)?;
        match entries.pop() {
            Some(only) if entries.is_empty() && only.is_dir() => root = only,
            _ => break,
        }
    }
    Ok(root)
}

/// What a folder holds, sorted by name, without hidden files and what macOS leaves in archives.
pub(crate) fn visible(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>();
    let mut paths = read().map_err(|e| Error::io(folder, e))?;
    paths.retain(|path| !file_name(path).starts_with('.') && file_name(path) != "__macosx");
    paths.sort();
    Ok(paths)
}

/// The last part of a path in lower case, for comparisons.
pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default()
}

/// Whether a file is compressed with gzip, by its first bytes.
pub(crate) fn is_gzip(path: &Path) -> bool {
    let mut magic = [0; 2];
    fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == [0x1f, 0x8b]
}
