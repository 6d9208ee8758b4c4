//! Arrays of numbers in NumPy's `.npz`, such as the `mu` and `sigma` of FID's reference statistics.

use crate::error::{Error, Result};
use crate::formats::zip::open_archive;
use crate::memory::check_unpacked;
use crate::npy::{NpyHeader, npy_header, npz_error, read_data};
use crate::raw::checked_product;
use std::io::{self, Seek, Write};
use std::path::Path;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// An array of an `.npz`, converted to f64.
#[derive(Debug, Clone, PartialEq)]
pub struct NpzArray {
    /// The size of each dimension, outermost first.
    pub shape: Vec<usize>,
    /// The values in row-major order.
    pub values: Vec<f64>,
}

/// Maximum size of an array: the covariance of 8192 features, four times as many as FID's.
const MAX_BYTES: u64 = 512 << 20;

/// Reads the array `name` of an `.npz`, f32 or f64 of either byte order. Returns `None` if there is no such array.
///
/// # Errors
/// If the file cannot be read or is not an `.npz`, or if the array has another type, is corrupt, or exceeds 512 MiB.
pub fn read_npz_array(path: &Path, name: &str) -> Result<Option<NpzArray>> {
    let _reading = files::Reading::new(path);
    let (mut archive, mut charge) = open_archive(path)?.map_err(|e| npz_error(path, e))?;
    let entry = format!("{name}.npy");
    if archive.index_for_name(&entry).is_none() {
        return Ok(None);
    }
    let mut entry = archive.by_name(&entry).map_err(|e| npz_error(path, e))?;
    let array = NpyHeader::read(&mut entry, path, name)?;
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
    let bytes = checked_product(path, &array.shape)?.saturating_mul(size);
    if bytes > MAX_BYTES {
        return Err(Error::malformed(path, format!("{name} has shape {:?} and exceeds 512 MiB", array.shape)));
    }
    check_unpacked(path, entry.compressed_size(), bytes, "save it with numpy.savez")?;
    let bytes = read_data(entry, path, name, bytes, &mut charge)?;
    charge.grow(8 * (bytes.len() as u64 / size)).map_err(|e| Error::memory(path, e))?;
    let values = match (size, is_big) {
        (4, false) => bytes.as_chunks().0.iter().map(|&b| f64::from(f32::from_le_bytes(b))).collect(),
        (4, true) => bytes.as_chunks().0.iter().map(|&b| f64::from(f32::from_be_bytes(b))).collect(),
        (_, false) => bytes.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b)).collect(),
        (_, true) => bytes.as_chunks().0.iter().map(|&b| f64::from_be_bytes(b)).collect(),
    };
    // Each size fits into usize, because as many values as their product were read.
    let shape = array.shape.iter().map(|&size| size as usize).collect();
    Ok(Some(NpzArray { shape, values }))
}

/// Reads an `.npz` to its end, and verifies the checksums of its arrays.
///
/// # Errors
/// If the file cannot be read, is not an `.npz`, or is damaged.
pub fn verify_npz(path: &Path) -> Result<()> {
    let (mut archive, _charge) = open_archive(path)?.map_err(|e| npz_error(path, e))?;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(|e| npz_error(path, e))?;
        io::copy(&mut entry, &mut io::sink()).map_err(|e| Error::reading(path, e))?;
    }
    Ok(())
}

/// Writes arrays `(name, shape, values)` as f64 to an uncompressed `.npz`, like `numpy.savez`.
///
/// # Errors
/// The errors of `out`, and [`io::ErrorKind::InvalidInput`] if the number of values does not match a shape.
pub fn write_npz_arrays<W: Write + Seek>(out: W, arrays: &[(&str, &[usize], &[f64])]) -> io::Result<()> {
    write_npz_arrays_with_note(out, arrays, None)
}

/// Writes arrays as [`write_npz_arrays`] does, with a note: a text file in the archive, by its name.
///
/// # Errors
/// As [`write_npz_arrays`].
pub fn write_npz_arrays_with_note<W: Write + Seek>(
    out: W,
    arrays: &[(&str, &[usize], &[f64])],
    note: Option<(&str, &str)>,
) -> io::Result<()> {
    let mut archive = ZipWriter::new(out);
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(true);
    for (name, shape, values) in arrays {
        if shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size)) != Some(values.len()) {
            let message = format!("{name}: {} values do not match the shape {shape:?}", values.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        archive.start_file(format!("{name}.npy"), options)?;
        // A Python tuple of one element needs a comma.
        let shape: String = shape.iter().map(|size| format!("{size},")).collect();
        archive.write_all(&npy_header("<f8", &shape))?;
        for values in values.chunks(4096) {
            archive.write_all(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())?;
        }
    }
    if let Some((name, text)) = note {
        archive.start_file(name, options)?;
        archive.write_all(text.as_bytes())?;
    }
    archive.finish()?.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn written(arrays: &[(&str, &[usize], &[f64])]) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        write_npz_arrays(&mut bytes, arrays).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn reads_what_it_writes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stats.npz");
        let mu = [1.0, -2.5, f64::MIN_POSITIVE];
        std::fs::write(&path, written(&[("mu", &[3], &mu), ("sigma", &[3, 1], &mu)])).unwrap();
        let read = |name| read_npz_array(&path, name).unwrap();
        assert_eq!(read("mu"), Some(NpzArray { shape: vec![3], values: mu.to_vec() }));
        assert_eq!(read("sigma").unwrap().shape, [3, 1]);
        assert_eq!(read("nu"), None);
        assert!(write_npz_arrays(Cursor::new(Vec::new()), &[("mu", &[2], &mu)]).is_err());
    }

    #[test]
    fn a_flipped_bit_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stats.npz");
        let mut bytes = written(&[("mu", &[300], &[1.0; 300])]);
        std::fs::write(&path, &bytes).unwrap();
        verify_npz(&path).unwrap();
        bytes[1000] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(verify_npz(&path).is_err());
    }

    /// A file that is truncated anywhere is an error.
    #[test]
    fn truncated_files_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stats.npz");
        let whole = written(&[("mu", &[3], &[1.0, 2.0, 3.0])]);
        for end in 0..whole.len() {
            std::fs::write(&path, &whole[..end]).unwrap();
            assert!(read_npz_array(&path, "mu").is_err(), "{end}");
        }
        let mut other = whole.clone();
        let at = other.windows(3).position(|w| w == b"<f8").unwrap();
        other[at..at + 3].copy_from_slice(b"<c8");
        std::fs::write(&path, other).unwrap();
        assert!(read_npz_array(&path, "mu").is_err());
    }
}
