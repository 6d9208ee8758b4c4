//! Converting values of any dtype to f32.

use safetensors::tensor::Dtype;

/// The dtypes that [`append_f32`] converts, for error messages.
pub(crate) const SUPPORTED: &str = "expected BOOL, U8…U64, I8…I64, F16, BF16, F32 or F64";

/// Returns the number of bytes of one value.
pub(crate) fn size(dtype: Dtype) -> usize {
    (dtype.bitsize() / 8).max(1)
}

/// Converts the little-endian values in `bytes` and appends them to `values`; returns false if `dtype` is not
/// supported.
pub(crate) fn append_f32(dtype: Dtype, bytes: &[u8], values: &mut Vec<f32>) -> bool {
    macro_rules! from {
        ($type:ty, $to_f32:expr) => {
            values.extend(bytes.as_chunks().0.iter().map(|&bytes| $to_f32(<$type>::from_le_bytes(bytes))))
        };
    }
    match dtype {
        Dtype::BOOL => from!(u8, |x| f32::from(u8::from(x != 0))),
        Dtype::U8 => from!(u8, f32::from),
        Dtype::I8 => from!(i8, f32::from),
        Dtype::U16 => from!(u16, f32::from),
        Dtype::I16 => from!(i16, f32::from),
        Dtype::U32 => from!(u32, |x| x as f32),
        Dtype::I32 => from!(i32, |x| x as f32),
        Dtype::U64 => from!(u64, |x| x as f32),
        Dtype::I64 => from!(i64, |x| x as f32),
        Dtype::F16 => from!(half::f16, f32::from),
        Dtype::BF16 => from!(half::bf16, f32::from),
        Dtype::F32 => from!(f32, |x| x),
        Dtype::F64 => from!(f64, |x| x as f32),
        _ => return false,
    }
    true
}
