//! MATLAB's MAT-files of level 5 with images `X` of H,W,C,N and labels `y`, as SVHN's `train_32x32.mat` (Netzer et al. 2011).
//!
//! Packed images are kept in memory, up to the memory limit, and may expand to 256 times their element and 64 MiB.

use super::array::NumberType;
use super::files::{list_visible, lower_file_name};
use super::labels::max_classes;
use crate::error::{Error, Result};
use crate::mat5::{MatFile, Variable};
use crate::options::{MAX_SIDE, ReadOptions, Split};
use crate::raw::{Order, RawBytes, RawImages, checked_product};
use crate::source::{Discovered, Format, Source};
use ::files::Charge;
use std::path::{Path, PathBuf};

pub(crate) const FORMAT: Format = Format {
    expected: "a MATLAB .mat with uint8 images X of shape H,W,C,N (labels y), or a folder with train_32x32.mat (SVHN)",
    detect: |path| match path.is_dir() {
        true => list_visible(path).is_ok_and(|files| files.iter().any(|file| is_svhn(file))),
        false => path.is_file() && lower_file_name(path).ends_with(".mat"),
    },
    open,
};

/// The files of SVHN, of which the last one is read by its own path only.
const TRAIN: &str = "train_32x32.mat";
const TEST: &str = "test_32x32.mat";
const EXTRA: &str = "extra_32x32.mat";

/// The shape of SVHN's images, height, width and channels. Only they have 10 for the digit 0.
const SVHN: [usize; 3] = [32, 32, 3];

fn is_svhn(path: &Path) -> bool {
    [TRAIN, TEST, EXTRA].contains(&&*lower_file_name(path)) && path.is_file()
}

fn open(path: &Path, options: &ReadOptions) -> Result<Discovered> {
    let mut warnings = Vec::new();
    let file = if path.is_dir() { find_file(path, options.split, &mut warnings)? } else { path.to_owned() };
    if options.split == Split::Test && !lower_file_name(&file).contains("test") {
        return Err(Error::NoHeldOut { path: path.to_owned(), expected: TEST });
    }
    let mat = MatFile::open(&file)?;
    let Some(x) = mat.find("X") else {
        let names: Vec<String> = (mat.variables.iter().filter(|variable| !variable.name.is_empty()).take(8))
            .map(|variable| variable.name.escape_debug().take(80).collect())
            .collect();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let message = format!("has no variable X of images, uint8 of H,W,C,N (labels y); it has {names}");
        return Err(Error::Empty { path: file, message });
    };
    let mut charge = Charge::default();
    let mut images = find_images(x, &file)?;
    let (mut labels, mut class_names, mut format) = (None, Vec::new(), "MAT");
    if let Some(y) = mat.find("y") {
        let mut numbers = read_labels(&mat, &file, y, images.count, &mut charge)?;
        let is_digits = numbers.iter().all(|label| (1..=10).contains(label));
        if [images.height, images.width, images.channels] == SVHN && is_digits {
            numbers.iter_mut().for_each(|label| *label %= 10);
            (class_names, format) = ((0..10).map(|digit| digit.to_string()).collect(), "SVHN");
        }
        labels = Some(numbers);
    }
    images.bytes = read_images(mat, &file, options.memory_limit_bytes, &mut charge)?;
    Ok(Discovered { labels, class_names, warnings, charge, ..Discovered::new(format, Source::Raw(images)) })
}

/// Returns SVHN's file of a split.
fn find_file(folder: &Path, split: Split, warnings: &mut Vec<String>) -> Result<PathBuf> {
    let files = list_visible(folder)?;
    let find = |name: &str| files.iter().find(|file| lower_file_name(file) == name && file.is_file());
    if find(EXTRA).is_some() && split == Split::Train {
        warnings.push(format!("{EXTRA} is not read; to train on its images, give the path of that file"));
    }
    match split {
        Split::Train => find(TRAIN).cloned().ok_or_else(|| {
            let message = format!("has no {TRAIN}; give the path of another file to read that");
            Error::Empty { path: folder.to_owned(), message }
        }),
        Split::Test => find(TEST).cloned().ok_or(Error::NoHeldOut { path: folder.to_owned(), expected: TEST }),
    }
}

/// Checks the class and shape of the images. Their bytes are not read yet.
fn find_images(x: &Variable, path: &Path) -> Result<RawImages> {
    let Variable { class, shape, .. } = x;
    let bad = |message: String| Err(Error::malformed(path, message));
    if *class != "uint8" {
        return bad(format!("X is of class {class}, expected uint8; save 0 to 255 as X = uint8(X)"));
    }
    let is_side = |side: u64| (1..=MAX_SIDE as u64).contains(&side);
    let &[height, width, channels @ (1 | 3), count] = &shape[..] else {
        return bad(format!("X has shape {shape:?}, expected H,W,C,N with C = 1 or 3; for grey images, add the 1"));
    };
    if !is_side(height) || !is_side(width) {
        return bad(format!("X has images of {height}x{width}; each side must be 1 to {MAX_SIDE}"));
    }
    let expected = checked_product(path, shape)?;
    let found = x.numbers.as_ref().map_or(0, |numbers| numbers.bytes);
    if found != expected {
        return bad(format!("is corrupt: X has {found} bytes, but its shape {shape:?} takes {expected}"));
    }
    let [count, height, width, channels] = [count, height, width, channels].map(|size| size as usize);
    let bytes = RawBytes::Memory(Vec::new());
    Ok(RawImages { path: path.to_owned(), count, height, width, channels, order: Order::ColumnMajor, bytes })
}

/// Reads the bytes of the images, or finds them in a file that is not packed.
fn read_images(mat: MatFile, path: &Path, limit: u64, charge: &mut Charge) -> Result<RawBytes> {
    let Some(numbers) = mat.find("X").and_then(|x| x.numbers.as_ref()) else {
        return Err(Error::malformed(path, "has no variable X of numbers"));
    };
    if let Some(offset) = numbers.offset() {
        return Ok(RawBytes::of_file(mat.into_file(), offset));
    }
    if numbers.bytes > limit {
        let fix =
            "save it with `save -v6`, which does not pack it, so that it can be streamed, or raise the memory limit";
        return Err(Error::TooLarge { path: path.to_owned(), bytes: numbers.bytes, limit, fix });
    }
    Ok(RawBytes::Memory(mat.read("X", numbers, charge)?))
}

fn read_labels(mat: &MatFile, path: &Path, y: &Variable, images: usize, charge: &mut Charge) -> Result<Vec<u32>> {
    let Variable { class, shape, .. } = y;
    let bad = |message: String| Error::malformed(path, message);
    let Some((numbers, number)) = y.numbers.as_ref().and_then(|n| Some((n, NumberType::parse(&n.dtype)?))) else {
        return Err(bad(format!("y is of class {class}, expected numbers, the label of each image")));
    };
    let count = checked_product(path, shape)?;
    if count != images as u64 {
        return Err(bad(format!("y has shape {shape:?}, expected one label for each of {images} images")));
    }
    let expected = checked_product(path, &[count, number.size as u64])?;
    if numbers.bytes != expected {
        let message = format!("is corrupt: y has {} bytes, but its shape {shape:?} takes {expected}", numbers.bytes);
        return Err(bad(message));
    }
    let bytes = mat.read("y", numbers, charge)?;
    charge.grow(4 * count).map_err(|e| Error::memory(path, e))?;
    let most = max_classes(images);
    let label = |bytes: &[u8]| {
        let value = number.value(bytes);
        match value.fract() == 0.0 && (0.0..most as f64).contains(&value) {
            true => Ok(value as u32),
            false => Err(bad(format!("y has the label {value}, expected a whole number from 0 to {}", most - 1))),
        }
    };
    bytes.chunks_exact(number.size).map(label).collect()
}
