//! Reads points from files.
//!
//! | path | content |
//! |---|---|
//! | `.npy` | numbers of shape N,D, or N for one dimension |
//! | `.npz` | `arr_0`, `x_train` or `points`, with labels `arr_1`, `y_train` or `labels`; held-out points `x_test` and `y_test` |
//! | `.csv` | rows of numbers, with or without a header; classes from a column `label`, `class` or `target` |
//! | a folder | `train` and, held out, `test`: `.npy`, `.npz` or `.csv` |
//!
//! A file takes at most five times its length in memory (a compressed `.npz`, 256 times and 64 MiB), which is charged before
//! it is allocated.

use super::{PointOptions, Points, check_dims, text};
use crate::error::{Error, Result};
use crate::formats::array::{NumberType, check_length};
use crate::formats::files::lower_file_name;
use crate::formats::zip::open_archive;
use crate::memory::check_unpacked;
use crate::npy::{NpyHeader, npz_error, read_data};
use crate::options::{ReadOptions, Split};
use crate::raw::checked_product;
use crate::set::ImageSet;
use files::Charge;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use zip::ZipArchive;

/// The names of the arrays of a part, each with that of its labels.
const ARRAYS: [(Split, &str, &str); 4] = [
    (Split::Train, "arr_0", "arr_1"),
    (Split::Train, "x_train", "y_train"),
    (Split::Train, "points", "labels"),
    (Split::Test, "x_test", "y_test"),
];

const EXPECTED: &str = "an .npy of shape N,D, an .npz with arr_0 or x_train, a .csv of numbers, or a folder with train.csv (or .npy, \
                        .npz) and, held out, test.csv";

/// Opens a part of the points at a path.
pub(crate) fn open(path: &Path, options: &ReadOptions) -> Result<ImageSet> {
    let _reading = files::Reading::new(path);
    let Some(asked) = &options.points else {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        return Err(super::no_pixels(&name));
    };
    let full = path.canonicalize().map_err(|e| Error::io(path, e))?;
    let name = full.file_name().map_or_else(|| "data".into(), |name| name.to_string_lossy().into_owned());
    let mut charge = Charge::default();
    let points = part(path, options.split, &mut charge)?;
    let dims = points.dims;
    let scaling = match (asked, options.split) {
        // The held-out part has the units of the training part.
        (PointOptions::Standardize, Split::Test) => {
            let mut brief = Charge::default();
            asked.resolve(path, || part(path, Split::Train, &mut brief), dims)?
        }
        _ => asked.resolve(path, || Ok(points.clone()), dims)?,
    };
    let format = if path.is_dir() { "folder" } else { "file" };
    ImageSet::of_points(name, path, format, points, scaling)
}

/// Reads a part.
fn part(path: &Path, split: Split, charge: &mut Charge) -> Result<Points> {
    let held_out = || Error::NoHeldOut {
        path: path.to_owned(),
        expected: "an .npz with an array x_test, or a folder with train.csv and test.csv (or .npy)",
    };
    if path.is_dir() {
        let stem = if split == Split::Train { "train" } else { "test" };
        let file = match (in_folder(path, stem), split) {
            (Some(file), _) => file,
            (None, Split::Test) if in_folder(path, "train").is_some() => return Err(held_out()),
            (None, _) => return Err(unknown(path)),
        };
        return whole(&file, Split::Train, charge);
    }
    let is_archive = lower_file_name(path).ends_with(".npz");
    if split == Split::Test && !is_archive && [".npy", ".csv"].iter().any(|end| lower_file_name(path).ends_with(end)) {
        return Err(held_out());
    }
    whole(path, split, charge)
}

/// Returns the file of a folder with this name, apart from its extension.
fn in_folder(folder: &Path, stem: &str) -> Option<PathBuf> {
    ["npy", "npz", "csv"]
        .map(|extension| folder.join(format!("{stem}.{extension}")))
        .into_iter()
        .find(|file| file.is_file())
}

fn unknown(path: &Path) -> Error {
    Error::Unsupported { path: path.to_owned(), message: format!("has no points; expected {EXPECTED}") }
}

/// Reads a file.
fn whole(path: &Path, split: Split, charge: &mut Charge) -> Result<Points> {
    let name = lower_file_name(path);
    let points = match () {
        () if name.ends_with(".csv") => text::read(path, charge)?,
        () if name.ends_with(".npy") => npy(path, charge)?,
        () if name.ends_with(".npz") => npz(path, split, charge)?,
        () => return Err(unknown(path)),
    };
    check_values(path, points)
}

/// Checks that numbers are finite, also as f32.
fn check_values(path: &Path, points: Points) -> Result<Points> {
    if points.values.is_empty() {
        return Err(Error::Empty { path: path.to_owned(), message: "has no points".to_owned() });
    }
    match points.values.iter().position(|value| !(*value as f32).is_finite()) {
        None => Ok(points),
        Some(at) => {
            let (point, dimension, value) = (at / points.dims, at % points.dims, points.values[at]);
            let message = format!(
                "point {point} has {value} in dimension {dimension}; expected finite numbers that fit into f32"
            );
            Err(Error::malformed(path, message))
        }
    }
}

fn npy(path: &Path, charge: &mut Charge) -> Result<Points> {
    let (file, length) = files::open_regular(path).map_err(|e| Error::io(path, e))?;
    let mut source = BufReader::new(file);
    let array = NpyHeader::read(&mut source, path, "the array")?;
    check_length(path, "the array", &array, length.saturating_sub(array.length))?;
    numbers(path, "the array", &array, source, charge)
}

fn npz(path: &Path, split: Split, charge: &mut Charge) -> Result<Points> {
    let (mut archive, _charge) = open_archive(path)?.map_err(|e| npz_error(path, e))?;
    let has =
        |archive: &ZipArchive<BufReader<File>>, name: &str| archive.index_for_name(&format!("{name}.npy")).is_some();
    let found = ARRAYS.into_iter().find(|&(of, name, _)| of == split && has(&archive, name));
    let Some((_, name, labels)) = found else {
        if split == Split::Test {
            return Err(Error::NoHeldOut { path: path.to_owned(), expected: "an array x_test" });
        }
        let message = "has no array arr_0, x_train or points; save the points with numpy.savez(file, points)";
        return Err(Error::Empty { path: path.to_owned(), message: message.to_owned() });
    };
    let has_labels = has(&archive, labels);
    let mut read = |name: &str, charge: &mut Charge| {
        let mut entry = archive.by_name(&format!("{name}.npy")).map_err(|e| npz_error(path, e))?;
        let array = NpyHeader::read(&mut entry, path, name)?;
        check_length(path, name, &array, entry.size().saturating_sub(array.length))?;
        check_unpacked(path, entry.compressed_size(), entry.size(), "save it with numpy.savez")?;
        numbers(path, name, &array, entry, charge)
    };
    let mut points = read(name, charge)?;
    if has_labels {
        let found = read(labels, charge)?;
        points.labels = Some(labels_of(path, labels, &found, points.len())?);
        let classes = points.labels.iter().flatten().max().map_or(0, |&last| last + 1);
        points.class_names = (0..classes).map(|label| label.to_string()).collect();
    }
    Ok(points)
}

/// Reads the numbers of an array of shape N,D or N.
fn numbers(path: &Path, name: &str, array: &NpyHeader, source: impl Read, charge: &mut Charge) -> Result<Points> {
    let dims = match array.shape[..] {
        [_] => 1,
        [_, dims] => check_dims(path, dims)?,
        _ => {
            let message = format!("{name} has shape {:?}, expected N,D: one row for each point", array.shape);
            return Err(Error::malformed(path, message));
        }
    };
    let Some(number) = NumberType::parse(&array.dtype) else {
        let message =
            format!("{name} has dtype {}, expected numbers; save it with .astype(numpy.float32)", array.dtype);
        return Err(Error::malformed(path, message));
    };
    let count = checked_product(path, &array.shape)?;
    let bytes = checked_product(path, &[count, number.size as u64])?;
    let bytes = read_data(source, path, name, bytes, charge)?;
    charge.grow(checked_product(path, &[count, 8])?).map_err(|e| Error::memory(path, e))?;
    let values = bytes.chunks_exact(number.size).map(|bytes| number.value(bytes)).collect();
    Ok(Points { dims, values, ..Points::default() })
}

/// Checks labels: whole numbers from 0, of fewer classes than points.
fn labels_of(path: &Path, name: &str, found: &Points, points: usize) -> Result<Vec<u32>> {
    if found.values.len() != points {
        let message = format!("{name} has {} labels, expected one for each of {points} points", found.values.len());
        return Err(Error::malformed(path, message));
    }
    let is_label = |label: &&f64| !(label.fract() == 0.0 && (0.0..points as f64).contains(*label));
    match found.values.iter().find(is_label) {
        None => Ok(found.values.iter().map(|&label| label as u32).collect()),
        Some(label) => Err(Error::malformed(
            path,
            format!(
                "{name} has the label {label}; expected whole numbers from 0, fewer classes than the {points} points"
            ),
        )),
    }
}
