//! NumPy's `.npz`: a zip of arrays. Read as OpenAI's sample files have it (`arr_0` u8 of N,H,W,C, `arr_1` labels) and
//! under the names that Keras and MedMNIST use; written as OpenAI's.

use super::{Format, MAX_CLASSES, file_name};
use crate::error::{Error, Result};
use crate::options::{MAX_SIDE, Options, Split};
use crate::records::{Bytes, Records, promised};
use crate::set::{Found, Source};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::path::Path;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

pub(crate) const FORMAT: Format = Format {
    expected: "an .npz with u8 images arr_0 of shape N,H,W,C (labels arr_1)",
    recognise: |path| path.is_file() && file_name(path).ends_with(".npz"),
    open,
};

/// Names of an array of images and of its labels.
const NAMES: [(Split, &str, &str); 5] = [
    (Split::Train, "arr_0", "arr_1"),
    (Split::Train, "x_train", "y_train"),
    (Split::Test, "x_test", "y_test"),
    (Split::Train, "train_images", "train_labels"),
    (Split::Test, "test_images", "test_labels"),
];

fn open(path: &Path, options: &Options) -> Result<Found> {
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|e| zip_error(path, e))?;
    let has = |name: &str| archive.index_for_name(&format!("{name}.npy")).is_some();
    let Some((_, images, labels)) = NAMES.into_iter().find(|&(split, name, _)| split == options.split && has(name))
    else {
        if NAMES.iter().any(|&(_, name, _)| has(name)) {
            return Err(Error::NoHeldOut { path: path.to_owned(), expected: "an array x_test or test_images" });
        }
        let names: Vec<_> =
            archive.file_names().filter_map(|name| Some(name.ok()?.escape_debug().to_string())).take(8).collect();
        let message = format!("has no array arr_0 of images, only {}", names.join(", "));
        return Err(Error::Empty { path: path.to_owned(), message });
    };
    let has_labels = has(labels);
    let records = read_images(&mut archive, path, images, options.memory_limit_bytes)?;
    let labels = if has_labels { Some(read_labels(&mut archive, path, labels, records.count)?) } else { None };
    Ok(Found {
        format: "npz",
        source: Source::Records(records),
        labels,
        class_names: Vec::new(),
        files: 1,
        bad: Vec::new(),
        other_files: 0,
    })
}

fn read_images(archive: &mut ZipArchive<BufReader<File>>, path: &Path, name: &str, limit: u64) -> Result<Records> {
    let mut entry = archive.by_name(&format!("{name}.npy")).map_err(|e| zip_error(path, e))?;
    let array = Array::read_header(&mut entry, path, name)?;
    if array.dtype != "|u1" {
        let message = format!(
            "{name} has dtype {}, expected u8 (|u1) from 0 to 255; save it with .astype(numpy.uint8)",
            array.dtype
        );
        return Err(Error::malformed(path, message));
    }
    let shape =
        || format!("{name} has shape {:?}, expected N,H,W,C with C = 1, 3 or 4 (or N,C,H,W, or N,H,W)", array.shape);
    let (count, height, width, channels, planar) = match array.shape[..] {
        [n, h, w, c @ (1 | 3 | 4)] => (n, h, w, c, false),
        [n, c @ (1 | 3 | 4), h, w] => (n, h, w, c, true),
        [n, h, w] => (n, h, w, 1, false),
        _ => return Err(Error::malformed(path, shape())),
    };
    let bytes = promised(path, &[count, height, width, channels])?;
    if [height, width].iter().any(|&side| side == 0 || side > MAX_SIDE as u64) {
        return Err(Error::malformed(path, shape()));
    }
    let claimed = entry.size().saturating_sub(array.header_bytes);
    if claimed != bytes {
        let message =
            format!("{name} is truncated: its shape {:?} takes {bytes} bytes, {claimed} are there", array.shape);
        return Err(Error::malformed(path, message));
    }
    let bytes = match (entry.compression(), entry.data_start(), entry.encrypted()) {
        (CompressionMethod::Stored, Some(start), false) => {
            let file = File::open(path).map_err(|e| Error::io(path, e))?;
            let length = file.metadata().map_err(|e| Error::io(path, e))?.len();
            let offset = start.saturating_add(array.header_bytes);
            if offset.saturating_add(bytes) > length {
                return Err(Error::malformed(
                    path,
                    format!("{name} is truncated: it ends beyond the file's {length} bytes"),
                ));
            }
            Bytes::File { file, offset }
        }
        _ if bytes > limit => {
            let fix =
                "save it with numpy.savez instead of savez_compressed to have it streamed, or raise the memory limit";
            return Err(Error::TooLarge { path: path.to_owned(), bytes, limit, fix });
        }
        _ => Bytes::Memory(rest(entry, path, name, bytes)?),
    };
    // Each fits: their product does, and was seen to be there.
    let [count, height, width, channels] = [count, height, width, channels].map(|size| size as usize);
    Ok(Records { path: path.to_owned(), count, height, width, channels, planar, bytes })
}

fn read_labels(archive: &mut ZipArchive<BufReader<File>>, path: &Path, name: &str, images: usize) -> Result<Vec<u32>> {
    let entry = &mut archive.by_name(&format!("{name}.npy")).map_err(|e| zip_error(path, e))?;
    let array = Array::read_header(&mut *entry, path, name)?;
    let count = promised(path, &array.shape)?;
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
    let bytes = rest(entry, path, name, promised(path, &[count, size as u64])?)?;
    bytes
        .chunks_exact(size)
        .map(|bytes| {
            let digits = |value: u64, &byte: &u8| value << 8 | u64::from(byte);
            let value = if big { bytes.iter().fold(0, digits) } else { bytes.iter().rev().fold(0, digits) };
            // A negative label is huge here, and refused like any other that cannot be an index.
            u32::try_from(value).ok().filter(|&label| (label as usize) < MAX_CLASSES).ok_or_else(|| {
                Error::malformed(path, format!("{name} has a label that is negative or not below {MAX_CLASSES}"))
            })
        })
        .collect()
}

/// Reads the `expected` bytes that must remain; the buffer grows with what is there, not with what is promised.
pub(crate) fn rest(source: impl Read, path: &Path, name: &str, expected: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(expected.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| Error::reading(path, e))?;
    if bytes.len() as u64 == expected {
        return Ok(bytes);
    }
    Err(Error::malformed(
        path,
        format!("{name} is truncated or too long: expected {expected} bytes, found {}", bytes.len()),
    ))
}

pub(crate) fn zip_error(path: &Path, error: zip::result::ZipError) -> Error {
    match error {
        zip::result::ZipError::Io(e) => Error::reading(path, e),
        e => Error::malformed(path, format!("is truncated or not a zip as numpy.savez writes it ({e})")),
    }
}

/// The head of a `.npy` (NumPy Enhancement Proposal 1): magic, version, and a Python dictionary as text.
pub(crate) struct Array {
    /// NumPy's name of the type, such as `|u1` or `<i8`.
    pub dtype: String,
    pub shape: Vec<u64>,
    header_bytes: u64,
}

impl Array {
    /// The longest dictionary that NumPy itself reads unasked.
    const MAX_HEADER: usize = 10_000;

    pub fn read_header(source: &mut impl Read, path: &Path, name: &str) -> Result<Array> {
        let bad = |what: &str| Error::malformed(path, format!("{name} is not a NumPy array: {what}"));
        let mut magic = [0; 8];
        source.read_exact(&mut magic).map_err(|e| Error::reading(path, e))?;
        let mut length = [0; 4];
        let digits = match magic {
            [0x93, b'N', b'U', b'M', b'P', b'Y', 1, _] => 2,
            [0x93, b'N', b'U', b'M', b'P', b'Y', 2 | 3, _] => 4,
            _ => return Err(bad("wrong magic number or version")),
        };
        source.read_exact(&mut length[..digits]).map_err(|e| Error::reading(path, e))?;
        let length = u32::from_le_bytes(length) as usize;
        if length > Self::MAX_HEADER {
            return Err(bad(&format!("its header of {length} bytes is too long")));
        }
        let mut text = vec![0; length];
        source.read_exact(&mut text).map_err(|e| Error::reading(path, e))?;
        let text = String::from_utf8_lossy(&text);
        let value = |key: &str| Some(text.split_once(&format!("'{key}':"))?.1.trim_start());

        let shape =
            value("shape").and_then(|text| text.strip_prefix('(')?.split_once(')')).ok_or_else(|| bad("no shape"))?.0;
        let shape: std::result::Result<Vec<u64>, _> =
            shape.split(',').map(str::trim).filter(|size| !size.is_empty()).map(str::parse).collect();
        match value("fortran_order") {
            Some(text) if text.starts_with("False") => {}
            Some(text) if text.starts_with("True") => {
                let message = format!("{name} is in Fortran order; save it with numpy.ascontiguousarray");
                return Err(Error::malformed(path, message));
            }
            _ => return Err(bad("no fortran_order")),
        }
        let dtype = value("descr").ok_or_else(|| bad("no descr"))?;
        // A structured type is a list instead of a string: then the message shows it.
        let dtype = dtype.strip_prefix('\'').and_then(|text| text.split_once('\'')).map_or(dtype, |(dtype, _)| dtype);
        Ok(Array {
            dtype: dtype.escape_debug().take(40).collect(),
            shape: shape.map_err(|_| bad("its shape is not a list of sizes"))?,
            header_bytes: (magic.len() + digits + length) as u64,
        })
    }
}

/// Writes u8 images `[N,H,W,C]` as `arr_0`, and labels as `arr_1` (i64), to an uncompressed `.npz`, the file that
/// OpenAI's and other evaluation tools read.
///
/// # Errors
/// The errors of `out`; [`io::ErrorKind::InvalidInput`] if there are not as many labels or bytes as `shape` says.
pub fn write<W: Write + Seek>(out: W, images: &[u8], shape: [usize; 4], labels: Option<&[u32]>) -> io::Result<()> {
    write_with(out, shape, labels, |out| out.write_all(images))
}

/// Writes an `.npz` as [`write`] does; `write` writes the images' bytes.
///
/// # Errors
/// As [`write`], and the errors of `write`.
pub fn write_with<W: Write + Seek>(
    out: W,
    shape: [usize; 4],
    labels: Option<&[u32]>,
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
    archive.finish()?.flush()
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

pub(crate) fn npy_header(dtype: &str, shape: &str) -> Vec<u8> {
    let mut text = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({shape}), }}");
    // Data begins at a multiple of 64, after a newline.
    let length = (10 + text.len() + 1).next_multiple_of(64) - 10;
    text.push_str(&" ".repeat(length - text.len() - 1));
    text.push('\n');
    [b"\x93NUMPY\x01\x00".as_slice(), &(length as u16).to_le_bytes(), text.as_bytes()].concat()
}
