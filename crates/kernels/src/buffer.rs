//! Output buffers that are not zeroed first.

/// Returns a buffer of `len` floats that `init` fills. `init` must write every element, as every kernel of this crate
/// does.
///
/// Zeroing the outputs first would take a tenth of a training step.
pub fn init_with(len: usize, init: impl FnOnce(&mut [f32])) -> Vec<f32> {
    let mut buffer = Vec::<f32>::with_capacity(len);
    // SAFETY: the capacity is `len`, every bit pattern is an f32, and `init` writes all elements before they are read.
    // Debug builds fill the buffer with NaN first, so that tests notice a kernel that skips an element.
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
