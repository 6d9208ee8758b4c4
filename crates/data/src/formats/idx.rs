//! IDX, the format of MNIST and its siblings (Fashion-MNIST, KMNIST, EMNIST): a big-endian header of magic number
//! and sizes, then bytes. Described on the MNIST page of LeCun, Cortes and Burges.

use super::{Format, file_name, is_gzip, visible};
use crate::error::{Error, Result};
use crate::options::{MAX_SIDE, Options, Split};
use crate::records::{Bytes, Records, promised};
use crate::set::{Found, Source};
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

pub(crate) const FORMAT: Format = Format {
    expected: "IDX files (*-images-idx3-ubyte, plain or .gz)",
    recognise: |path| {
        if path.is_dir() {
            visible(path).is_ok_and(|files| files.iter().any(|f| is_images(f)))
        } else {
            is_images(path)
        }
    },
    open,
};

const IMAGES: [u8; 4] = [0, 0, 8, 3];
const LABELS: [u8; 4] = [0, 0, 8, 1];

fn is_images(path: &Path) -> bool {
    let name = file_name(path);
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    name.contains("images") && name.ends_with("idx3-ubyte")
}

fn is_test(path: &Path) -> bool {
    let name = file_name(path);
    name.contains("t10k") || name.contains("test")
}

fn open(path: &Path, options: &Options) -> Result<Found> {
    let images = if path.is_dir() { images_in(path, options.split)? } else { path.to_owned() };
    if options.split == Split::Test && !is_test(&images) {
        return Err(Error::NoHeldOut { path: path.to_owned(), expected: "t10k-images-idx3-ubyte" });
    }
    let records = images_from(&images, options.memory_limit_bytes)?;
    let labels = match labels_beside(&images) {
        None => None,
        Some(path) => {
            let labels = read_labels(open_maybe_gzip(&path)?, &path)?;
            if labels.len() != records.count {
                let (n, m) = (labels.len(), records.count);
                return Err(Error::malformed(
                    &path,
                    format!("has {n} labels, but {} has {m} images", images.display()),
                ));
            }
            Some(labels)
        }
    };
    Ok(Found {
        format: "IDX",
        source: Source::Records(records),
        labels,
        class_names: Vec::new(),
        files: 1,
        bad: Vec::new(),
        other_files: 0,
    })
}

/// The images file of a split; plain rather than compressed where there are both.
fn images_in(folder: &Path, split: Split) -> Result<PathBuf> {
    let mut files: Vec<_> = visible(folder)?.into_iter().filter(|file| is_images(file)).collect();
    files.retain(|file| is_test(file) == (split == Split::Test));
    let plain = |file: &PathBuf| file.with_extension("");
    // Sorted, so that the plain file is just before its compressed copy.
    files.dedup_by(|gz, file| file_name(gz).ends_with(".gz") && plain(gz) == *file);
    match files.as_slice() {
        [file] => Ok(file.clone()),
        [] if split == Split::Test => {
            Err(Error::NoHeldOut { path: folder.to_owned(), expected: "t10k-images-idx3-ubyte or its .gz" })
        }
        [] => {
            Err(Error::Empty { path: folder.to_owned(), message: "has no train-images-idx3-ubyte or its .gz".into() })
        }
        several => {
            let names = several.iter().map(|file| file_name(file)).collect::<Vec<_>>().join(", ");
            Err(Error::malformed(folder, format!("holds several sets: {names}; give the path of one")))
        }
    }
}

fn labels_beside(images: &Path) -> Option<PathBuf> {
    let name = images.file_name()?.to_str()?;
    let name = name.replace("images", "labels").replace("idx3", "idx1");
    let plain = name.strip_suffix(".gz").unwrap_or(&name);
    [plain.to_owned(), format!("{plain}.gz")].iter().map(|name| images.with_file_name(name)).find(|path| path.is_file())
}

fn open_maybe_gzip(path: &Path) -> Result<Box<dyn Read>> {
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    Ok(if is_gzip(path) { Box::new(MultiGzDecoder::new(BufReader::new(file))) } else { Box::new(BufReader::new(file)) })
}

fn images_from(path: &Path, limit: u64) -> Result<Records> {
    if is_gzip(path) {
        return read_images(open_maybe_gzip(path)?, path, limit);
    }
    let mut file = File::open(path).map_err(|e| Error::io(path, e))?;
    let (count, height, width) = image_sizes(&mut file, path)?;
    let bytes = promised(path, &[count as u64, height as u64, width as u64])?;
    let length = file.metadata().map_err(|e| Error::io(path, e))?.len();
    if length != bytes.saturating_add(16) {
        return Err(wrong_length(path, length.saturating_sub(16), bytes));
    }
    Ok(Records {
        path: path.to_owned(),
        count,
        height,
        width,
        channels: 1,
        planar: false,
        bytes: Bytes::File { file, offset: 16 },
    })
}

/// Reads a whole IDX file of images, such as one that is compressed or built in, of at most `limit` bytes of pixels.
pub(crate) fn read_images(mut source: impl Read, path: &Path, limit: u64) -> Result<Records> {
    let (count, height, width) = image_sizes(&mut source, path)?;
    let bytes = promised(path, &[count as u64, height as u64, width as u64])?;
    if bytes > limit {
        let fix = "unpack it with gunzip to have it streamed, or raise the memory limit";
        return Err(Error::TooLarge { path: path.to_owned(), bytes, limit, fix });
    }
    let pixels = rest(source, path, bytes)?;
    Ok(Records {
        path: path.to_owned(),
        count,
        height,
        width,
        channels: 1,
        planar: false,
        bytes: Bytes::Memory(pixels),
    })
}

/// Reads a whole IDX file of labels.
pub(crate) fn read_labels(mut source: impl Read, path: &Path) -> Result<Vec<u32>> {
    let [count] = header(&mut source, path, LABELS)?;
    Ok(rest(source, path, u64::from(count))?.into_iter().map(u32::from).collect())
}

fn image_sizes(source: &mut impl Read, path: &Path) -> Result<(usize, usize, usize)> {
    let [count, height, width] = header(source, path, IMAGES)?.map(|size| size as usize);
    if height == 0 || width == 0 || height > MAX_SIDE || width > MAX_SIDE {
        let message = format!("the header says {count} images of {height}x{width}; a side must be 1 to {MAX_SIDE}");
        return Err(Error::malformed(path, message));
    }
    Ok((count, height, width))
}

/// Reads the magic number, which must be `magic`, and the sizes that follow it.
fn header<const N: usize>(source: &mut impl Read, path: &Path, magic: [u8; 4]) -> Result<[u32; N]> {
    let mut words = [[0; 4]; 4];
    for word in &mut words[..N + 1] {
        source.read_exact(word).map_err(|e| Error::reading(path, e))?;
    }
    if words[0] != magic {
        let message = format!(
            "is not an IDX file of u8 {}: begins with {:02x?}, expected {magic:02x?}",
            if magic == IMAGES { "images" } else { "labels" },
            words[0]
        );
        return Err(Error::malformed(path, message));
    }
    Ok(std::array::from_fn(|i| u32::from_be_bytes(words[i + 1])))
}

/// Reads the `expected` bytes that must remain. The buffer grows with what is there, not with what is promised,
/// and one byte more shows a wrong header and makes gzip check its sum.
fn rest(source: impl Read, path: &Path, expected: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(expected.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| Error::reading(path, e))?;
    if bytes.len() as u64 == expected { Ok(bytes) } else { Err(wrong_length(path, bytes.len() as u64, expected)) }
}

fn wrong_length(path: &Path, found: u64, expected: u64) -> Error {
    let message = if found < expected {
        format!("is truncated: the header promises {expected} bytes of data, {found} are there; fetch it again")
    } else {
        format!("has more than the {expected} bytes of data that its header promises; fetch it again")
    };
    Error::malformed(path, message)
}
