//! Images in NumPy's `.npz`. Reads OpenAI's sample files (`arr_0` u8 of N,H,W,C, `arr_1` labels) and the array names of
//! Keras and MedMNIST; writes OpenAI's sample files.
//!
//! Compressed arrays may expand to 256 times the file and 64 MiB, and images to the memory limit. Arrays of other numbers
//! than u8 are read twice, and kept as u8.

use super::array::{self, Layout};
use super::files::lower_file_name;
use super::labels::max_classes;
use super::zip::open_archive;
use crate::error::{Error, Result};
use crate::memory::check_unpacked;
use crate::npy::{NpyHeader, npy_header, npz_error, read_data};
use crate::options::{ReadOptions, Split};
use crate::raw::{RawBytes, RawImages, checked_product};
use crate::source::{Discovered, Format, Source};
use ::files::Charge;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::path::Path;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

pub(crate) const FORMAT: Format = Format {
    expected: "an .npz with u8 images arr_0 of shape N,H,W,C (labels arr_1)",
    detect: |path| path.is_file() && lower_file_name(path).ends_with(".npz"),
    open,
};

/// The splits, each with the names of its image and label arrays.
const NAMES: [(Split, &str, &str); 6] = [
    (Split::Train, "arr_0", "arr_1"),
    (Split::Train, "x_train", "y_train"),
    (Split::Test, "x_test", "y_test"),
    (Split::Train, "train_images", "train_labels"),
    (Split::Test, "test_images", "test_labels"),
    (Split::Train, "images", "labels"),
];

fn open(path: &Path, options: &ReadOptions) -> Result<Discovered> {
    let (mut archive, _charge) = open_archive(path)?.map_err(|e| npz_error(path, e))?;
    let has = |name: &str| archive.index_for_name(&format!("{name}.npy")).is_some();
    let Some((_, images, labels)) = NAMES.into_iter().find(|&(split, name, _)| split == options.split && has(name))
    else {
        if NAMES.iter().any(|&(_, name, _)| has(name)) {
            return Err(Error::NoHeldOut { path: path.to_owned(), expected: "an array x_test or test_images" });
        }
        let names: Vec<String> = archive
            .file_names()
            .filter_map(|name| Some(name.ok()?.escape_debug().take(80).collect()))
            .take(8)
            .collect();
        let message = format!("has no array arr_0 of images; it has {}", names.join(", "));
        return Err(Error::Empty { path: path.to_owned(), message });
    };
    let has_labels = has(labels);
    let mut charge = Charge::default();
    let raw = read_images(&mut archive, path, images, options, &mut charge)?;
    let labels = match has_labels {
        true => Some(read_labels(&mut archive, path, labels, raw.count, &mut charge)?),
        false => None,
    };
    Ok(Discovered { labels, has_range: true, charge, ..Discovered::new("npz", Source::Raw(raw)) })
}

fn read_images(
    archive: &mut ZipArchive<BufReader<File>>,
    path: &Path,
    name: &str,
    options: &ReadOptions,
    charge: &mut Charge,
) -> Result<RawImages> {
    let file = format!("{name}.npy");
    let mut entry = archive.by_name(&file).map_err(|e| npz_error(path, e))?;
    let array = NpyHeader::read(&mut entry, path, name)?;
    let layout = Layout::new(path, name, &array.shape)?;
    array::check_length(path, name, &array, entry.size().saturating_sub(array.length))?;
    check_unpacked(path, entry.compressed_size(), entry.size(), "save it with numpy.savez")?;
    let limit = options.memory_limit_bytes;
    if array.dtype != "|u1" || options.range.is_some() {
        drop(entry);
        // An entry cannot be rewound, so each pass begins with its header.
        let bytes = array::to_bytes(path, name, &array, options, charge, &mut |pass| {
            let mut entry = archive.by_name(&file).map_err(|e| npz_error(path, e))?;
            NpyHeader::read(&mut entry, path, name)?;
            pass(&mut entry)
        })?;
        return Ok(RawImages::new(path, layout, bytes));
    }
    let bytes = checked_product(path, &array.shape)?;
    let bytes = match (entry.compression(), entry.data_start(), entry.encrypted()) {
        (CompressionMethod::Stored, Some(start), false) => {
            let (file, length) = ::files::open_regular(path).map_err(|e| Error::io(path, e))?;
            let offset = start.saturating_add(array.length);
            if offset.saturating_add(bytes) > length {
                return Err(Error::malformed(
                    path,
                    format!("{name} is truncated: it ends after the file's {length} bytes"),
                ));
            }
            // Images that will be in memory are checked, as those of a compressed array are.
            if bytes <= limit {
                io::copy(&mut entry, &mut io::sink()).map_err(|e| Error::reading(path, e))?;
            }
            RawBytes::of_file(file, offset)
        }
        _ if bytes > limit => {
            let fix = "save it with numpy.savez instead of savez_compressed so that it can be streamed, or raise the memory limit";
            return Err(Error::TooLarge { path: path.to_owned(), bytes, limit, fix });
        }
        _ => RawBytes::Memory(read_data(entry, path, name, bytes, charge)?),
    };
    Ok(RawImages::new(path, layout, bytes))
}

fn read_labels(
    archive: &mut ZipArchive<BufReader<File>>,
    path: &Path,
    name: &str,
    images: usize,
    charge: &mut Charge,
) -> Result<Vec<u32>> {
    let entry = &mut archive.by_name(&format!("{name}.npy")).map_err(|e| npz_error(path, e))?;
    let array = NpyHeader::read(&mut *entry, path, name)?;
    let count = checked_product(path, &array.shape)?;
    if count != images as u64 {
        let message = format!("{name} has shape {:?}, expected one label for each of {images} images", array.shape);
        return Err(Error::malformed(path, message));
    }
    let mut chars = array.dtype.chars();
    let (big, kind, size) = (chars.next() == Some('>'), chars.next(), chars.as_str().parse::<usize>());
    let (Some('i' | 'u'), Ok(size @ (1 | 2 | 4 | 8))) = (kind, size) else {
        let message = format!("{name} has dtype {}, expected integers; save it with .astype(numpy.int64)", array.dtype);
        return Err(Error::malformed(path, message));
    };
    let length = checked_product(path, &[count, size as u64])?;
    check_unpacked(path, entry.compressed_size(), length, "save it with numpy.savez")?;
    let bytes = read_data(entry, path, name, length, charge)?;
    charge.grow(4 * count).map_err(|e| Error::memory(path, e))?;
    let most = max_classes(images);
    bytes
        .chunks_exact(size)
        .map(|bytes| {
            let digits = |value: u64, &byte: &u8| value << 8 | u64::from(byte);
            let value = if big { bytes.iter().fold(0, digits) } else { bytes.iter().rev().fold(0, digits) };
            // A negative label is a huge number here.
            u32::try_from(value).ok().filter(|&label| (label as usize) < most).ok_or_else(|| {
                let message = format!("{name} has a label that is negative or not less than {most}");
                Error::malformed(path, message)
            })
        })
        .collect()
}

/// Writes u8 images of `shape` [N, H, W, C] as `arr_0`, and labels as `arr_1` (i64), to an uncompressed `.npz`. This is
/// the sample file of OpenAI's evaluation tools.
///
/// # Errors
/// The errors of `out`; [`io::ErrorKind::InvalidInput`] if there are not as many labels or bytes as `shape` says.
pub fn write<W: Write + Seek>(out: W, images: &[u8], shape: [usize; 4], labels: Option<&[u32]>) -> io::Result<()> {
    write_with(out, shape, labels, |out| out.write_all(images))
}

/// Writes an `.npz` as [`write()`] does; `write` writes the images' bytes.
///
/// # Errors
/// As [`write()`], and the errors of `write`.
pub fn write_with<W: Write + Seek>(
    out: W,
    shape: [usize; 4],
    labels: Option<&[u32]>,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    write_with_note(out, shape, labels, None, write)
}

/// Writes an `.npz` as [`write_with`] does, with a note: a text file in the archive, by its name. NumPy and readers of
/// arrays ignore it.
///
/// # Errors
/// As [`write_with`].
pub fn write_with_note<W: Write + Seek>(
    out: W,
    shape: [usize; 4],
    labels: Option<&[u32]>,
    note: Option<(&str, &str)>,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let invalid = |message: String| io::Error::new(io::ErrorKind::InvalidInput, message);
    if let Some(labels) = labels.filter(|labels| labels.len() != shape[0]) {
        return Err(invalid(format!("{} labels for {} images", labels.len(), shape[0])));
    }
    let mut archive = ZipWriter::new(out);
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(true);
    archive.start_file("arr_0.npy", options)?;
    archive.write_all(&npy_header("|u1", &shape.map(|size| size.to_string()).join(", ")))?;
    let mut counted = Counted { out: &mut archive, bytes: 0 };
    write(&mut counted)?;
    let (found, expected) = (counted.bytes, shape.iter().map(|&side| side as u64).product::<u64>());
    if found != expected {
        return Err(invalid(format!("{found} bytes for shape {shape:?}, expected {expected}")));
    }
    if let Some(labels) = labels {
        archive.start_file("arr_1.npy", options)?;
        archive.write_all(&npy_header("<i8", &format!("{},", labels.len())))?;
        let bytes: Vec<u8> = labels.iter().flat_map(|&label| i64::from(label).to_le_bytes()).collect();
        archive.write_all(&bytes)?;
    }
    if let Some((name, text)) = note {
        archive.start_file(name, options)?;
        archive.write_all(text.as_bytes())?;
    }
    archive.finish()?.flush()
}

/// The maximum size of a note in bytes.
const MAX_NOTE: u64 = 64 << 10;

/// Reads a note of [`write_with_note`]; `None` if the file is no archive with such a note.
pub fn read_note(path: &Path, name: &str) -> Option<String> {
    let (mut archive, _charge) = open_archive(path).ok()?.ok()?;
    let mut text = String::new();
    let read = archive.by_name(name).ok()?.take(MAX_NOTE + 1).read_to_string(&mut text).ok()?;
    (read as u64 <= MAX_NOTE).then_some(text)
}

/// A writer that counts.
struct Counted<W> {
    out: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_back_and_does_not_disturb_the_arrays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("samples.npz");
        let write = |note: Option<&str>| {
            let file = File::create(&path).unwrap();
            let note = note.map(|text| ("ddpm.json", text));
            write_with_note(file, [2, 1, 2, 1], Some(&[1, 0]), note, |out| out.write_all(&[1, 2, 3, 4])).unwrap();
        };
        write(Some("{\"seed\": 7}"));
        assert_eq!(read_note(&path, "ddpm.json").as_deref(), Some("{\"seed\": 7}"));
        let set = crate::open(&path, &ReadOptions::default()).unwrap();
        assert_eq!((set.read(0..2).unwrap(), set.labels()), (vec![1, 2, 3, 4], Some(&[1, 0][..])));
        write(Some(&"x".repeat(MAX_NOTE as usize + 1)));
        assert_eq!(read_note(&path, "ddpm.json"), None);
        write(None);
        assert_eq!(read_note(&path, "ddpm.json"), None);
        std::fs::write(&path, "no archive").unwrap();
        assert_eq!(read_note(&path, "ddpm.json"), None);
    }
}
