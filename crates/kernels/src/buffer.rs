//! Buffers that are written once instead of zeroed first.

/// Returns a buffer of `len` floats that `init` writes: all of it, as every kernel here does with its output.
///
/// Zeroing a buffer first, only to overwrite it, would cost a tenth of a training step.
pub fn init_with(len: usize, init: impl FnOnce(&mut [f32])) -> Vec<f32> {
    let mut buffer = Vec::<f32>::with_capacity(len);
    // SAFETY: the capacity is `len`, every bit pattern is an f32, and `init` writes before anything reads. (Debug builds
    // fill with NaN first, which a kernel that left something out would pass on to the tests.)
    unsafe {
        if cfg!(debug_assertions) {
            buffer.resize(len, f32::NAN);
        } else {
            buffer.set_len(len);
        }
    }
    init(&mut buffer);
    buffer
}
