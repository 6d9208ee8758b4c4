//! Images in NumPy arrays: the order of the dimensions, and numbers of other types than u8.

use crate::error::{Error, Result};
use crate::npy::NpyHeader;
use crate::options::{MAX_SIDE, ReadOptions};
use crate::raw::{RawBytes, checked_product};
use files::Charge;
use half::f16;
use std::io::Read;
use std::path::Path;

/// Sizes of the images in an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub count: usize,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    /// Whether the order is N,C,H,W.
    pub planar: bool,
}

impl Layout {
    /// Reads a shape as N,H,W,C if it can be that, else as N,C,H,W or N,H,W.
    pub fn new(path: &Path, name: &str, shape: &[u64]) -> Result<Layout> {
        let (sizes, planar) = match *shape {
            [n, h, w, c @ (1 | 3 | 4)] => ([n, h, w, c], false),
            [n, c @ (1 | 3 | 4), h, w] => ([n, h, w, c], true),
            [n, h, w] => ([n, h, w, 1], false),
            _ => return Err(bad_shape(path, name, shape)),
        };
        checked_product(path, &sizes)?;
        if sizes[1..3].iter().any(|&side| side == 0 || side > MAX_SIDE as u64) {
            return Err(bad_shape(path, name, shape));
        }
        let size = |i: usize| {
            usize::try_from(sizes[i])
                .map_err(|_| Error::malformed(path, format!("{name} has more images than can be read")))
        };
        Ok(Layout { count: size(0)?, height: size(1)?, width: size(2)?, channels: size(3)?, planar })
    }

    /// Reads a shape that can be read in one way only.
    pub fn unambiguous(path: &Path, name: &str, shape: &[u64]) -> Result<Layout> {
        let is_channels = |size: u64| matches!(size, 1 | 3 | 4);
        let readings = match *shape {
            [_, a, _, b] if is_channels(a) && is_channels(b) => {
                Some("N,H,W,C and N,C,H,W; transpose or save it as .npz")
            }
            [a, _, b] if is_channels(a) || is_channels(b) => {
                Some("images N,H,W and as one image; add a dimension: array[None] or array[..., None]")
            }
            _ => None,
        };
        match readings {
            Some(readings) => {
                let message = format!("{name} has shape {shape:?}, which can be read as {readings}");
                Err(Error::malformed(path, message))
            }
            None => Layout::new(path, name, shape),
        }
    }
}

fn bad_shape(path: &Path, name: &str, shape: &[u64]) -> Error {
    let message = format!("{name} has shape {shape:?}, expected N,H,W,C with C = 1, 3 or 4 (or N,C,H,W, or N,H,W)");
    Error::malformed(path, message)
}

/// A type of numbers.
#[derive(Clone, Copy)]
pub(crate) struct NumberType {
    kind: char,
    /// Size in bytes.
    pub size: usize,
    big: bool,
}

impl NumberType {
    /// Parses NumPy's name of a type, such as `<f4`.
    pub fn parse(dtype: &str) -> Option<NumberType> {
        let mut chars = dtype.chars();
        let big = chars.next()? == '>';
        let kind = chars.next()?;
        let size = chars.as_str().parse().ok()?;
        let known = matches!((kind, size), ('f', 2 | 4 | 8) | ('i' | 'u', 1 | 2 | 4 | 8) | ('b', 1));
        known.then_some(NumberType { kind, size, big })
    }

    /// Returns the number of these bytes.
    pub fn value(self, bytes: &[u8]) -> f64 {
        let mut word = [0; 8];
        word[..self.size].copy_from_slice(bytes);
        if self.big {
            word[..self.size].reverse();
        }
        let unsigned = u64::from_le_bytes(word);
        match (self.kind, self.size) {
            ('f', 2) => f16::from_bits(unsigned as u16).to_f64(),
            ('f', 4) => f64::from(f32::from_bits(unsigned as u32)),
            ('f', _) => f64::from_bits(unsigned),
            ('i', size) => {
                let unused = 64 - 8 * size as u32;
                (((unsigned << unused) as i64) >> unused) as f64
            }
            _ => unsigned as f64,
        }
    }
}

/// Checks that an array has as many bytes of data as its shape and type say.
pub(crate) fn check_length(path: &Path, name: &str, array: &NpyHeader, found: u64) -> Result<()> {
    if array.dtype == "|O" {
        let message = format!(
            "{name} has dtype |O, Python objects, which are not read; save one array of them: numpy.stack(images)"
        );
        return Err(Error::malformed(path, message));
    }
    let expected = checked_product(path, &array.shape)?;
    let size = NumberType::parse(&array.dtype).map_or(1, |number| number.size as u64);
    let expected = checked_product(path, &[expected, size])?;
    if found == expected {
        return Ok(());
    }
    let state = if found < expected { "truncated" } else { "too long" };
    let shape = &array.shape;
    Err(Error::malformed(
        path,
        format!("{name} is {state}: its shape {shape:?} takes {expected} bytes, but it has {found}"),
    ))
}

/// Calls its argument with a reader at the first number of an array.
pub(crate) type Passes<'a> = dyn FnMut(&mut dyn FnMut(&mut dyn Read) -> Result<()>) -> Result<()> + 'a;

/// Converts an array of numbers to u8: the range of the options to 0..255.
///
/// # Errors
/// Without a range, with the least and the greatest number; and if a number is outside of the range or is NaN.
pub(crate) fn to_bytes(
    path: &Path,
    name: &str,
    array: &NpyHeader,
    options: &ReadOptions,
    charge: &mut Charge,
    passes: &mut Passes,
) -> Result<RawBytes> {
    let dtype = &array.dtype;
    let Some(number) = NumberType::parse(dtype) else {
        return Err(Error::malformed(path, format!("{name} has dtype {dtype}, expected u8, floats or integers")));
    };
    let count = checked_product(path, &array.shape)?;
    let limit = options.memory_limit_bytes;
    if count > limit && options.range.is_some() {
        let fix = "save it as u8 so that it can be streamed, or raise the memory limit";
        return Err(Error::TooLarge { path: path.to_owned(), bytes: count, limit, fix });
    }
    let (mut least, mut greatest) = (f64::INFINITY, f64::NEG_INFINITY);
    passes(&mut |source| {
        for_each_number(path, name, (number, count), source, |value| {
            // NaN is neither, and is found below.
            (least, greatest) = (least.min(value), greatest.max(value));
        })
    })?;
    let Some([low, high]) = options.range else {
        return Err(Error::malformed(path, needs_range(name, dtype, least, greatest)));
    };
    let scale = 255.0 / (high - low);
    // Half a step of u8 is lost in rounding anyway.
    let tolerance = 0.5 / scale;
    if least < low - tolerance || greatest > high + tolerance {
        let message =
            format!("{name} has numbers from {least:?} to {greatest:?}, outside of the range [{low}, {high}]");
        return Err(Error::malformed(path, message));
    }
    // As many numbers were read.
    charge.grow(count).map_err(|e| Error::memory(path, e))?;
    let (mut bytes, mut nans) = (Vec::with_capacity(count as usize), 0usize);
    passes(&mut |source| {
        for_each_number(path, name, (number, count), source, |value| {
            nans += usize::from(value.is_nan());
            bytes.push(((value - low) * scale).round() as u8);
        })
    })?;
    match nans {
        0 => Ok(RawBytes::Memory(bytes)),
        n => Err(Error::malformed(path, format!("{name} has {n} numbers that are NaN; replace them"))),
    }
}

/// Returns the error that an array needs a range, with advice that loses nothing.
fn needs_range(name: &str, dtype: &str, least: f64, greatest: f64) -> String {
    let range = match (least, greatest) {
        (low, high) if low >= 0.0 && high <= 1.0 => "[0, 1]",
        (low, high) if low >= -1.0 && high <= 1.0 => "[-1, 1]",
        (low, high) if low >= 0.0 && high <= 255.0 => "[0, 255]",
        (low, high) if low >= 0.0 && high <= 65535.0 => "[0, 65535]",
        _ => "[LEAST, GREATEST]",
    };
    format!(
        "{name} has dtype {dtype} and numbers from {least:?} to {greatest:?}; expected u8, or the range of numbers from black \
         to white: set data.range, e.g. data.range={range}, or --range where there is that flag"
    )
}

/// Calls `each` with every number. A file that is too short is an error.
fn for_each_number(
    path: &Path,
    name: &str,
    (number, count): (NumberType, u64),
    source: &mut dyn Read,
    mut each: impl FnMut(f64),
) -> Result<()> {
    let mut buffer = vec![0; 8192 * number.size];
    let mut left = count;
    while left > 0 {
        let bytes = &mut buffer[..left.min(8192) as usize * number.size];
        source.read_exact(bytes).map_err(|e| match Error::reading(path, e) {
            Error::Malformed { path, message } => Error::Malformed { path, message: format!("{name} {message}") },
            error => error,
        })?;
        bytes.chunks_exact(number.size).for_each(|bytes| each(number.value(bytes)));
        left -= (bytes.len() / number.size) as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_type_are_read() {
        let value = |dtype: &str, bytes: &[u8]| NumberType::parse(dtype).unwrap().value(bytes);
        assert_eq!(value("<f4", &0.25f32.to_le_bytes()), 0.25);
        assert_eq!(value(">f4", &0.25f32.to_be_bytes()), 0.25);
        assert_eq!(value("<f8", &(-1.5f64).to_le_bytes()), -1.5);
        assert_eq!(value("<f2", &f16::from_f32(0.5).to_le_bytes()), 0.5);
        assert_eq!(value(">i2", &(-300i16).to_be_bytes()), -300.0);
        assert_eq!(value("<i8", &i64::MIN.to_le_bytes()), i64::MIN as f64);
        assert_eq!(value("|u1", &[200]), 200.0);
        assert_eq!(value("|i1", &[200]), -56.0);
        assert_eq!(value("|b1", &[1]), 1.0);
        for dtype in ["", "<", "|O", "<c8", "<f16", "|S3", "<é4"] {
            assert!(NumberType::parse(dtype).is_none(), "{dtype}");
        }
    }

    #[test]
    fn ambiguous_shapes_are_refused() {
        let path = Path::new("x.npy");
        let layout = |shape: &[u64]| Layout::unambiguous(path, "x", shape).map(|l| (l.channels, l.planar)).ok();
        assert_eq!(layout(&[9, 8, 8, 3]), Some((3, false)));
        assert_eq!(layout(&[9, 3, 8, 8]), Some((3, true)));
        assert_eq!(layout(&[9, 8, 8]), Some((1, false)));
        for shape in [&[9, 3, 8, 3][..], &[8, 8, 3], &[3, 8, 8], &[9, 8, 8, 2], &[9], &[2, 0, 8]] {
            assert_eq!(layout(shape), None, "{shape:?}");
        }
    }
}
