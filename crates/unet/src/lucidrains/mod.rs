//! The network `Unet` of [denoising-diffusion-pytorch](https://github.com/lucidrains/denoising-diffusion-pytorch), by Phil
//! Wang, from version 0.28 to 2.
//!
//! Version 2 differs from Ho et al.'s in nearly every part: a 7×7 convolution at the input, RMS normalization *after* a
//! convolution, a scale and shift by the timestep in each residual block, linear attention on all levels but the last,
//! learned memory tokens in each attention, space-to-depth downsampling, and a skip connection from the input to the end.
//! It can be conditioned on its own previous prediction of x_0 (Chen et al. 2022, "Analog bits"). [`Version`] lists what was
//! different before.

mod activations;
mod attention;
mod config;
mod layers;
mod model;
mod version;

pub use config::{LucidrainsConfig, PerLevel};
pub use model::{LucidrainsCondition, LucidrainsUnet};
pub use version::Version;
