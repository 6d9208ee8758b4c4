//! NumPy's array format `.npy` (NumPy Enhancement Proposal 1), as in the members of an `.npz`.

use crate::error::{Error, Result};
use crate::memory::read_expected;
use files::Charge;
use std::io::Read;
use std::path::Path;

/// Reads the remaining data, which must have `expected` bytes.
pub(crate) fn read_data(
    source: impl Read,
    path: &Path,
    name: &str,
    expected: u64,
    charge: &mut Charge,
) -> Result<Vec<u8>> {
    let bytes = read_expected(source, expected, charge).map_err(|e| Error::reading(path, e))?;
    if bytes.len() as u64 == expected {
        return Ok(bytes);
    }
    Err(Error::malformed(
        path,
        format!("{name} is truncated or too long: expected {expected} bytes, found {}", bytes.len()),
    ))
}

pub(crate) fn npz_error(path: &Path, error: zip::result::ZipError) -> Error {
    match error {
        zip::result::ZipError::Io(e) => Error::reading(path, e),
        e => Error::malformed(path, format!("is truncated or not a zip archive as numpy.savez writes it ({e})")),
    }
}

/// The header of an array: magic number, version, and a Python dictionary as text.
pub(crate) struct NpyHeader {
    /// NumPy's name of the data type, such as `|u1` or `<i8`.
    pub dtype: String,
    pub shape: Vec<u64>,
    /// Size of the header in bytes, which is the offset of the data.
    pub length: u64,
}

impl NpyHeader {
    /// Maximum length of the dictionary, which is NumPy's default limit.
    const MAX_HEADER: usize = 10_000;

    pub fn read(source: &mut impl Read, path: &Path, name: &str) -> Result<NpyHeader> {
        let bad = |what: &str| Error::malformed(path, format!("{name} is not a NumPy array: {what}"));
        let mut magic = [0; 8];
        source.read_exact(&mut magic).map_err(|e| Error::reading(path, e))?;
        let mut length = [0; 4];
        let digits = match magic {
            [0x93, b'N', b'U', b'M', b'P', b'Y', 1, _] => 2,
            [0x93, b'N', b'U', b'M', b'P', b'Y', 2 | 3, _] => 4,
            _ => return Err(bad("its magic number or version is wrong")),
        };
        source.read_exact(&mut length[..digits]).map_err(|e| Error::reading(path, e))?;
        let length = u32::from_le_bytes(length) as usize;
        if length > Self::MAX_HEADER {
            return Err(bad(&format!("its header has {length} bytes, the maximum is {}", Self::MAX_HEADER)));
        }
        let mut text = vec![0; length];
        source.read_exact(&mut text).map_err(|e| Error::reading(path, e))?;
        let text = String::from_utf8_lossy(&text);
        let value = |key: &str| Some(text.split_once(&format!("'{key}':"))?.1.trim_start());

        let shape = value("shape")
            .and_then(|text| text.strip_prefix('(')?.split_once(')'))
            .ok_or_else(|| bad("its header has no shape"))?
            .0;
        let shape: std::result::Result<Vec<u64>, _> =
            shape.split(',').map(str::trim).filter(|size| !size.is_empty()).map(str::parse).collect();
        match value("fortran_order") {
            Some(text) if text.starts_with("False") => {}
            Some(text) if text.starts_with("True") => {
                let message = format!("{name} is in Fortran order; save it with numpy.ascontiguousarray");
                return Err(Error::malformed(path, message));
            }
            _ => return Err(bad("its header has no fortran_order")),
        }
        let dtype = value("descr").ok_or_else(|| bad("its header has no descr"))?;
        // A structured type is a list instead of a string; it is kept for the error message.
        let dtype = dtype.strip_prefix('\'').and_then(|text| text.split_once('\'')).map_or(dtype, |(dtype, _)| dtype);
        Ok(NpyHeader {
            dtype: dtype.escape_debug().take(40).collect(),
            shape: shape.map_err(|_| bad("its shape is not a list of sizes"))?,
            length: (magic.len() + digits + length) as u64,
        })
    }
}

/// Returns a header for data in C order. `shape` is the content of a Python tuple.
pub(crate) fn npy_header(dtype: &str, shape: &str) -> Vec<u8> {
    let mut text = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({shape}), }}");
    // NumPy aligns the data to 64 bytes.
    let length = (10 + text.len() + 1).next_multiple_of(64) - 10;
    text.push_str(&" ".repeat(length - text.len() - 1));
    text.push('\n');
    [b"\x93NUMPY\x01\x00".as_slice(), &(length as u16).to_le_bytes(), text.as_bytes()].concat()
}
