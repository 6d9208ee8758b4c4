//! Points as NumPy's arrays.

use crate::npy::npy_header;

/// Returns points `[N, D]` as an `.npy` of f32, or of f64 with `double`.
pub fn npy(dims: usize, values: &[f64], double: bool) -> Vec<u8> {
    let shape = format!("{}, {dims}", values.len() / dims.max(1));
    let mut bytes = npy_header(if double { "<f8" } else { "<f4" }, &shape);
    for value in values {
        match double {
            true => bytes.extend(value.to_le_bytes()),
            false => bytes.extend((*value as f32).to_le_bytes()),
        }
    }
    bytes
}
