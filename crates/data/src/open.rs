use crate::error::{Error, Result};
use crate::formats::files::{file_not_downloaded, list_visible};
#[cfg(feature = "parquet")]
use crate::formats::parquet;
use crate::formats::{cifar, folder, idx, mat, npy, npz, tar, unsupported, zip};
use crate::generated::is_generated;
use crate::options::{LabelFrom, ReadOptions};
use crate::points;
use crate::set::ImageSet;
use crate::source::{Discovered, Format, Source};
use std::io;
use std::path::{Path, PathBuf};

/// All formats, in the order in which they are tried.
const FORMATS: &[Format] = &[
    idx::FORMAT,
    cifar::FORMAT,
    npz::FORMAT,
    npy::FORMAT,
    mat::FORMAT,
    #[cfg(feature = "parquet")]
    parquet::FORMAT,
    zip::FORMAT,
    tar::FORMAT,
    folder::FORMAT,
];

/// Opens the image set at `path` and detects its format (see the [table of formats](crate)).
///
/// Reads the headers of all images in parallel, and decodes all images if they fit into memory.
///
/// # Errors
/// If the path does not exist or has no supported format, if a container is corrupt, if no image can be read, if the
/// images differ in size and no resolution is set, or if the held-out split is requested and there is none. Corrupt
/// images in a folder or archive are not an error: they are skipped and listed in [`ImageSet::report`].
pub fn open(path: &Path, options: &ReadOptions) -> Result<ImageSet> {
    if options.points.is_some() {
        return points::open(path, options);
    }
    options.check()?;
    let _reading = files::Reading::new(path);
    let full = path.canonicalize().map_err(|e| Error::io(path, absent(path, e)))?;
    let name = full.file_name().map_or_else(|| "data".into(), |name| name.to_string_lossy().into_owned());
    if let Some(kind) = full.metadata().ok().and_then(|data| files::special_kind(data.file_type())) {
        let message = format!("is {kind}; expected a file or a folder of images");
        return Err(Error::Unsupported { path: path.to_owned(), message });
    }
    let root = unwrap_folder(path)?;
    unsupported::check(&root)?;
    // Readers of containers panic on some damaged files.
    let mut found = files::catch_panic(|| discover(path, &root, options))
        .unwrap_or_else(|panic| Err(Error::malformed(&root, format!("is corrupt: its reader failed ({panic})"))))
        .map_err(|error| explained(error, &root))?;
    if let Source::Raw(_) = found.source
        && options.label_from != LabelFrom::Folder
    {
        let message = format!("is {}, which has no file names and no table to take labels from", found.format);
        return Err(Error::Unsupported { path: path.to_owned(), message });
    }
    if options.range.is_some() && !found.has_range {
        found
            .warnings
            .push("the range is ignored, because the pixels have 8 bits; it applies to .npy and .npz".to_owned());
    }
    ImageSet::new(name, path, found, options)
}

/// Opens `root`, which is `path` without folders around it, in the first format that detects it.
fn discover(path: &Path, root: &Path, options: &ReadOptions) -> Result<Discovered> {
    let format = FORMATS.iter().find(|format| (format.detect)(root)).ok_or_else(|| Error::UnknownFormat {
        path: path.to_owned(),
        expected: FORMATS.iter().map(|format| format.expected).collect::<Vec<_>>().join("; "),
    })?;
    (format.open)(root, options)
}

/// Names the cause of an error if the file was never downloaded.
fn explained(error: Error, path: &Path) -> Error {
    let Some(cause) = file_not_downloaded(path) else { return error };
    match error {
        Error::Malformed { path, message } => Error::Malformed { path, message: format!("{cause} ({message})") },
        Error::Empty { path, message } => Error::Empty { path, message: format!("{cause} ({message})") },
        Error::UnknownFormat { path, .. } => Error::Malformed { path, message: format!("{cause}; expected images") },
        error => error,
    }
}

/// Explains an error of a path that does not exist, if it looks as if something else was meant.
fn absent(path: &Path, error: io::Error) -> io::Error {
    let text = path.to_string_lossy();
    let two_names = path.is_relative() && path.components().count() == 2;
    let hint = match () {
        () if error.kind() != io::ErrorKind::NotFound => return error,
        () if text.contains("://") => "is a URL; download it, and give the file or folder",
        () if text.starts_with('~') => {
            "does not exist: the shell replaces ~ only at the start of an unquoted word; write it out"
        }
        () if two_names && path.parent().is_some_and(|parent| !parent.exists()) => {
            "does not exist (a set of the Hugging Face hub must be downloaded first: `hf download --repo-type dataset \
             NAME --local-dir FOLDER`)"
        }
        () => return error,
    };
    io::Error::new(error.kind(), hint)
}

/// Enters folders whose only entry is a folder, as unpacking an archive often creates. A contact sheet next to it does not
/// count.
fn unwrap_folder(path: &Path) -> Result<PathBuf> {
    let mut root = path.to_owned();
    while root.is_dir() {
        let (mut folders, files): (Vec<_>, Vec<_>) = list_visible(&root)?.into_iter().partition(|entry| entry.is_dir());
        match folders.pop() {
            Some(only) if folders.is_empty() && files.iter().all(|file| is_generated(file)) => root = only,
            _ => break,
        }
    }
    Ok(root)
}
