//! Sets that are known by their names and not read, each with what to do instead.

use super::{file_name, visible};
use crate::error::{Error, Result};
use std::path::Path;

/// Ends of names, what such a file is, and the way out.
const UNREAD: [(&str, &str, &str); 9] = [
    (
        "data.mdb",
        "an LMDB database (LSUN)",
        "export it to a folder of its WebP files: python data.py export, of LSUN's tools",
    ),
    (".tfrecord", "TensorFlow's records", "export the images to a folder or a zip"),
    (".tfrecords", "TensorFlow's records", "export the images to a folder or a zip"),
    (".arrow", "a table in Arrow's own format", "save it as Parquet: Dataset.to_parquet"),
    (".mat", "a MATLAB file", "save its images as .npz: u8 arr_0 of N,H,W,C, labels arr_1"),
    (".npy", "one bare array", "save it as .npz: numpy.savez(file, images)"),
    (".tar.xz", "packed with xz", "unpack it with unxz"),
    (".tar.bz2", "packed with bzip2", "unpack it with bunzip2"),
    (".tar.zst", "packed with zstd", "unpack it with unzstd"),
];

/// Refuses a file of these, or a folder that holds an LMDB database.
pub(crate) fn check(path: &Path) -> Result<()> {
    let is_database = path.is_dir() && visible(path)?.iter().any(|file| file_name(file) == UNREAD[0].0);
    let name = if is_database { UNREAD[0].0.to_owned() } else { file_name(path) };
    let found = UNREAD.iter().find(|(end, ..)| name.ends_with(end) && (is_database || path.is_file()));
    match found {
        Some((_, what, instead)) => Err(Error::malformed(path, format!("is {what}, which is not read; {instead}"))),
        None => Ok(()),
    }
}
