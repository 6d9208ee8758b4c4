//! NumPy's `.npz` of numbers, such as the `mu` and `sigma` that stand for a set of images in FID's tools.

use crate::error::{Error, Result};
use crate::formats::npz::{Array, npy_header, rest, zip_error};
use crate::records::promised;
use std::fs::File;
use std::io::{self, BufReader, Seek, Write};
use std::path::Path;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

/// An array of numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct NumberArray {
    /// The size of each dimension, outermost first.
    pub shape: Vec<usize>,
    /// The values, row-major.
    pub values: Vec<f64>,
}

/// The most that an array may take: the covariance of 8,192 features, four times as many as FID's.
const MAX_BYTES: u64 = 512 << 20;

/// Reads the array `name` of an `.npz`, f32 or f64 of either byte order; `None` if the file has no such array.
///
/// # Errors
/// If the file cannot be read, is no `.npz`, or the array is of another type, damaged, or over 512 MiB.
pub fn read_numbers(path: &Path, name: &str) -> Result<Option<NumberArray>> {
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|e| zip_error(path, e))?;
    let entry = format!("{name}.npy");
    if archive.index_for_name(&entry).is_none() {
        return Ok(None);
    }
    let mut entry = archive.by_name(&entry).map_err(|e| zip_error(path, e))?;
    let array = Array::read_header(&mut entry, path, name)?;
    let (is_big, size) = match array.dtype.as_str() {
        "<f4" => (false, 4),
        ">f4" => (true, 4),
        "<f8" => (false, 8),
        ">f8" => (true, 8),
        other => {
            let message = format!("{name} has dtype {other}, expected f32 or f64; save it with .astype(numpy.float64)");
            return Err(Error::malformed(path, message));
        }
    };
    let bytes = promised(path, &array.shape)?.saturating_mul(size);
    if bytes > MAX_BYTES {
        return Err(Error::malformed(path, format!("{name} has shape {:?}: too large for statistics", array.shape)));
    }
    let bytes = rest(entry, path, name, bytes)?;
    let values = match (size, is_big) {
        (4, false) => bytes.as_chunks().0.iter().map(|&b| f64::from(f32::from_le_bytes(b))).collect(),
        (4, true) => bytes.as_chunks().0.iter().map(|&b| f64::from(f32::from_be_bytes(b))).collect(),
        (_, false) => bytes.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b)).collect(),
        (_, true) => bytes.as_chunks().0.iter().map(|&b| f64::from_be_bytes(b)).collect(),
    };
    // Each fits: so many values were read.
    let shape = array.shape.iter().map(|&size| size as usize).collect();
    Ok(Some(NumberArray { shape, values }))
}

/// Writes arrays (name, shape, values) as f64 to an uncompressed `.npz`, as `numpy.savez` does.
///
/// # Errors
/// What `out` returns; [`io::ErrorKind::InvalidInput`] if values are not as many as a shape says.
pub fn write_numbers<W: Write + Seek>(out: W, arrays: &[(&str, &[usize], &[f64])]) -> io::Result<()> {
    let mut archive = ZipWriter::new(out);
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(true);
    for (name, shape, values) in arrays {
        if shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size)) != Some(values.len()) {
            let message = format!("{name}: {} values for shape {shape:?}", values.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        archive.start_file(format!("{name}.npy"), options)?;
        // A tuple of one has a comma too.
        let shape: String = shape.iter().map(|size| format!("{size},")).collect();
        archive.write_all(&npy_header("<f8", &shape))?;
        for values in values.chunks(4096) {
            archive.write_all(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())?;
        }
    }
    archive.finish()?.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn written(arrays: &[(&str, &[usize], &[f64])]) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        write_numbers(&mut bytes, arrays).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stats.npz");
        let mu = [1.0, -2.5, f64::MIN_POSITIVE];
        std::fs::write(&path, written(&[("mu", &[3], &mu), ("sigma", &[3, 1], &mu)])).unwrap();
        let read = |name| read_numbers(&path, name).unwrap();
        assert_eq!(read("mu"), Some(NumberArray { shape: vec![3], values: mu.to_vec() }));
        assert_eq!(read("sigma").unwrap().shape, [3, 1]);
        assert_eq!(read("nu"), None);
        assert!(write_numbers(Cursor::new(Vec::new()), &[("mu", &[2], &mu)]).is_err());
    }

    /// Cut anywhere, a file is refused or an array of it is still whole; never a panic.
    #[test]
    fn torn_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stats.npz");
        let whole = written(&[("mu", &[3], &[1.0, 2.0, 3.0])]);
        for end in 0..whole.len() {
            std::fs::write(&path, &whole[..end]).unwrap();
            assert!(read_numbers(&path, "mu").is_err(), "{end}");
        }
        let mut other = whole.clone();
        let at = other.windows(3).position(|w| w == b"<f8").unwrap();
        other[at..at + 3].copy_from_slice(b"<c8");
        std::fs::write(&path, other).unwrap();
        assert!(read_numbers(&path, "mu").is_err());
    }
}
