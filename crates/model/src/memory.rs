//! The memory of a pass through a network, compared with the limit before the pass begins.

use crate::NetworkConfig;
use crate::backbone::Network;
use crate::error::Error;

/// The bytes of the program itself, its threads, and what a step needs besides tensors.
pub const PROGRAM: f64 = 60e6;
/// The estimate may be this much too high. What is above the limit even so cannot fit.
pub const TOLERANCE: f64 = 0.25;

impl Network {
    /// Checks that a pass of `n` images without gradients fits into memory, as far as that can be estimated: on the CPU, for
    /// the networks of this crate.
    ///
    /// # Errors
    /// If it does not; the error names the estimate and the limit.
    pub fn check_memory(&self, n: usize, height: usize, width: usize) -> Result<(), Error> {
        if !unet::ops::is_cpu(&self.device()) {
            return Ok(());
        }
        let config = NetworkConfig::from_json(&self.config()).ok();
        let activations = config.and_then(|config| config.activations(height, width));
        let (Some(activations), Some(limit)) = (activations, files::memory_limit()) else {
            return Ok(());
        };
        let floats = activations.inference(n as f64) + self.parameter_count() as f64;
        let bytes = 4.0 * floats + PROGRAM;
        if bytes / (1.0 + TOLERANCE) <= limit.bytes as f64 {
            return Ok(());
        }
        let (images, gb) = (if n == 1 { "image" } else { "images" }, |bytes: f64| format!("{:.2} GB", bytes / 1e9));
        Err(Error::Input(format!(
            "{n} {images} of {height}x{width} at once need about {} of memory, but {} is {}",
            gb(bytes),
            limit.source,
            gb(limit.bytes as f64)
        )))
    }
}
