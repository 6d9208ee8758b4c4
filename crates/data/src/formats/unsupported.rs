//! Formats that are recognized but not supported, each with a way to convert it.

use super::files::{list_visible, lower_file_name};
use super::shards;
use crate::error::{Error, Result};
use crate::generated::is_run;
use std::path::Path;

/// End of the file name, description, and how to convert the file.
const UNSUPPORTED: [(&str, &str, &str); 7] = [
    (
        "data.mdb",
        "an LMDB database (LSUN)",
        "export it to a folder of WebP files with LSUN's tools: python data.py export",
    ),
    (".tfrecord", "a TFRecord file", "export the images to a folder or zip archive"),
    (".tfrecords", "a TFRecord file", "export the images to a folder or zip archive"),
    (".arrow", "an Arrow file", "save it as Parquet with Dataset.to_parquet"),
    (".tar.xz", "compressed with xz", "unpack it with unxz"),
    (".tar.bz2", "compressed with bzip2", "unpack it with bunzip2"),
    (".tar.zst", "compressed with zstd", "unpack it with unzstd"),
];

/// Returns an error if the path is in an unsupported format, or in one whose reader was not compiled in.
pub(crate) fn check(path: &Path) -> Result<()> {
    let unsupported = |message| Err(Error::Unsupported { path: path.to_owned(), message });
    if path.is_dir() && is_run(path) {
        let message = "is the folder of a training run, not a set of images; its sample grids are in samples/";
        return unsupported(message.to_owned());
    }
    if path.is_file() && lower_file_name(path).contains("-labels-idx1-ubyte") {
        return unsupported("holds labels; give the images beside it, or the folder of both".to_owned());
    }
    if cfg!(not(feature = "parquet")) && shards::detect(path, &[".parquet"]) {
        let message = "is in Parquet format, which this build does not read; rebuild with the cargo feature `parquet`";
        return unsupported(message.to_owned());
    }
    let is_database = path.is_dir() && list_visible(path)?.iter().any(|file| lower_file_name(file) == UNSUPPORTED[0].0);
    let name = if is_database { UNSUPPORTED[0].0.to_owned() } else { lower_file_name(path) };
    match UNSUPPORTED.iter().find(|(end, ..)| name.ends_with(end) && (is_database || path.is_file())) {
        Some((_, what, instead)) => unsupported(format!("is {what}, which is not supported; {instead}")),
        None => Ok(()),
    }
}
