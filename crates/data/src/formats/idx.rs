//! IDX, the format of MNIST, Fashion-MNIST, KMNIST and EMNIST: a big-endian header of magic number and sizes, then the
//! data (MNIST page of LeCun, Cortes and Burges).
//!
//! A plain file stays on disk. A compressed one may expand to 256 times its size and 64 MiB, and to the memory limit.

use super::files::{is_gzip, list_visible, lower_file_name, open_decompressed};
use crate::error::{Error, Result};
use crate::memory::read_expected;
use crate::options::{MAX_SIDE, ReadOptions, Split};
use crate::raw::{Order, RawBytes, RawImages, checked_product};
use crate::source::{Discovered, Format, Source};
use ::files::Charge;
use std::io::Read;
use std::path::{Path, PathBuf};

pub(crate) const FORMAT: Format = Format {
    expected: "IDX files (*-images-idx3-ubyte, plain or .gz)",
    detect: |path| {
        if path.is_dir() {
            list_visible(path).is_ok_and(|files| files.iter().any(|f| is_images(f)))
        } else {
            is_images(path)
        }
    },
    open,
};

const IMAGES: [u8; 4] = [0, 0, 8, 3];
const LABELS: [u8; 4] = [0, 0, 8, 1];

fn is_images(path: &Path) -> bool {
    let name = lower_file_name(path);
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    name.contains("images") && name.ends_with("idx3-ubyte")
}

fn is_test(path: &Path) -> bool {
    let name = lower_file_name(path);
    name.contains("t10k") || name.contains("test")
}

fn open(path: &Path, options: &ReadOptions) -> Result<Discovered> {
    let images = if path.is_dir() { find_images(path, options.split)? } else { path.to_owned() };
    if options.split == Split::Test && !is_test(&images) {
        return Err(Error::NoHeldOut { path: path.to_owned(), expected: "t10k-images-idx3-ubyte" });
    }
    let mut charge = Charge::default();
    let raw = open_images(&images, options.memory_limit_bytes, &mut charge)?;
    let labels = match find_labels(&images) {
        None => None,
        Some(path) => {
            let (source, most) = open_decompressed(&path).map_err(|e| Error::io(&path, e))?;
            let labels = read_labels(source, &path, most, &mut charge)?;
            if labels.len() != raw.count {
                let (n, m) = (labels.len(), raw.count);
                return Err(Error::malformed(
                    &path,
                    format!("has {n} labels, but {} has {m} images", images.display()),
                ));
            }
            Some(labels)
        }
    };
    Ok(Discovered { labels, charge, ..Discovered::new("IDX", Source::Raw(raw)) })
}

/// Returns the file with the images of a split. If a file is there both plain and compressed, the plain one is used.
fn find_images(folder: &Path, split: Split) -> Result<PathBuf> {
    let mut files: Vec<_> = list_visible(folder)?.into_iter().filter(|file| is_images(file)).collect();
    files.retain(|file| is_test(file) == (split == Split::Test));
    let plain = |file: &PathBuf| file.with_extension("");
    // Files are sorted, so a plain file is directly before its compressed copy.
    files.dedup_by(|gz, file| lower_file_name(gz).ends_with(".gz") && plain(gz) == *file);
    match files.as_slice() {
        [file] => Ok(file.clone()),
        [] if split == Split::Test => {
            Err(Error::NoHeldOut { path: folder.to_owned(), expected: "t10k-images-idx3-ubyte or its .gz" })
        }
        [] => {
            Err(Error::Empty { path: folder.to_owned(), message: "has no train-images-idx3-ubyte or its .gz".into() })
        }
        several => {
            let names = several.iter().map(|file| lower_file_name(file)).collect::<Vec<_>>().join(", ");
            Err(Error::malformed(folder, format!("contains several sets: {names}; use the path of one of them")))
        }
    }
}

fn find_labels(images: &Path) -> Option<PathBuf> {
    let name = images.file_name()?.to_str()?;
    let name = name.replace("images", "labels").replace("idx3", "idx1");
    let plain = name.strip_suffix(".gz").unwrap_or(&name);
    [plain.to_owned(), format!("{plain}.gz")].iter().map(|name| images.with_file_name(name)).find(|path| path.is_file())
}

fn open_images(path: &Path, limit: u64, charge: &mut Charge) -> Result<RawImages> {
    if is_gzip(path) {
        let (source, most) = open_decompressed(path).map_err(|e| Error::io(path, e))?;
        return read_images(source, path, [limit, most], charge);
    }
    let (mut file, length) = ::files::open_regular(path).map_err(|e| Error::io(path, e))?;
    let (count, height, width) = read_image_header(&mut file, path)?;
    let bytes = checked_product(path, &[count as u64, height as u64, width as u64])?;
    if length != bytes.saturating_add(16) {
        return Err(length_error(path, length.saturating_sub(16), bytes));
    }
    Ok(RawImages {
        path: path.to_owned(),
        count,
        height,
        width,
        channels: 1,
        order: Order::Interleaved,
        bytes: RawBytes::of_file(file, 16),
    })
}

/// Reads an IDX file of images into memory, with at most `limit` bytes of pixels, and at most the bytes to which the file may
/// expand.
pub(crate) fn read_images(
    mut source: impl Read,
    path: &Path,
    [limit, most]: [u64; 2],
    charge: &mut Charge,
) -> Result<RawImages> {
    let (count, height, width) = read_image_header(&mut source, path)?;
    let bytes = checked_product(path, &[count as u64, height as u64, width as u64])?;
    if bytes > limit {
        let fix = "unpack it with gunzip so that it can be streamed, or raise the memory limit";
        return Err(Error::TooLarge { path: path.to_owned(), bytes, limit, fix });
    }
    check_size(path, bytes, most)?;
    let pixels = read_data(source, path, bytes, charge)?;
    Ok(RawImages {
        path: path.to_owned(),
        count,
        height,
        width,
        channels: 1,
        order: Order::Interleaved,
        bytes: RawBytes::Memory(pixels),
    })
}

/// Reads an IDX file of labels, which may expand to `most` bytes.
pub(crate) fn read_labels(mut source: impl Read, path: &Path, most: u64, charge: &mut Charge) -> Result<Vec<u32>> {
    let [count] = read_header(&mut source, path, LABELS)?;
    check_size(path, count.into(), most)?;
    let labels = read_data(source, path, count.into(), charge)?;
    charge.grow(4 * u64::from(count)).map_err(|e| Error::memory(path, e))?;
    Ok(labels.into_iter().map(u32::from).collect())
}

fn check_size(path: &Path, claimed: u64, most: u64) -> Result<()> {
    if claimed > most {
        let message =
            format!("is truncated: the header claims {claimed} bytes of data, more than the {most} of such a file");
        return Err(Error::malformed(path, message));
    }
    Ok(())
}

fn read_image_header(source: &mut impl Read, path: &Path) -> Result<(usize, usize, usize)> {
    let [count, height, width] = read_header(source, path, IMAGES)?.map(|size| size as usize);
    if height == 0 || width == 0 || height > MAX_SIDE || width > MAX_SIDE {
        let message =
            format!("the header claims {count} images of {height}x{width}; each side must be 1 to {MAX_SIDE}");
        return Err(Error::malformed(path, message));
    }
    Ok((count, height, width))
}

/// Reads and checks the magic number, and returns the sizes that follow it.
fn read_header<const N: usize>(source: &mut impl Read, path: &Path, magic: [u8; 4]) -> Result<[u32; N]> {
    let mut words = [[0; 4]; 4];
    for word in &mut words[..N + 1] {
        source.read_exact(word).map_err(|e| Error::reading(path, e))?;
    }
    if words[0] != magic {
        let message = format!(
            "is not an IDX file of u8 {}: it begins with {:02x?}, expected {magic:02x?}",
            if magic == IMAGES { "images" } else { "labels" },
            words[0]
        );
        return Err(Error::malformed(path, message));
    }
    Ok(std::array::from_fn(|i| u32::from_be_bytes(words[i + 1])))
}

/// Reads the remaining data, which must have `expected` bytes. The byte more that is read detects trailing data and makes
/// gzip verify its checksum.
fn read_data(source: impl Read, path: &Path, expected: u64, charge: &mut Charge) -> Result<Vec<u8>> {
    let bytes = read_expected(source, expected, charge).map_err(|e| Error::reading(path, e))?;
    if bytes.len() as u64 == expected { Ok(bytes) } else { Err(length_error(path, bytes.len() as u64, expected)) }
}

fn length_error(path: &Path, found: u64, expected: u64) -> Error {
    let message = if found < expected {
        format!("is truncated: the header claims {expected} bytes of data, but the file has {found}; download it again")
    } else {
        format!("has more than the {expected} bytes of data that its header claims; download it again")
    };
    Error::malformed(path, message)
}
