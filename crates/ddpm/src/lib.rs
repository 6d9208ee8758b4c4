//! Denoising diffusion probabilistic models (Ho et al. 2020) in Rust: one crate for everything that the program `ddpm`
//! does.
//!
//! Train on a folder of images, sample with DPM-Solver++, and measure the bits/dim of held-out images:
//! ```no_run
//! use ddpm::prelude::*;
//!
//! # fn main() -> Result<(), ddpm::Error> {
//! let device = ddpm::device(None)?;
//! Training::of_images("photos")?.set("train.steps=5000")?.run("runs/photos", &device)?;
//!
//! let pipeline = Pipeline::load("runs/photos", &device)?;
//! pipeline.sample(16).sampler("dpmpp-2m").steps(20).seed(7).save("grid.png")?;
//!
//! let held_out = pipeline.open_data("photos", Split::Test)?; // resized and fitted as for the training
//! println!("{:.3} bits/dim", pipeline.likelihood(&held_out)?.bits_per_dim);
//! # Ok(())
//! # }
//! ```
//!
//! [`Pipeline::load`] reads runs, checkpoints and diffusers' folders. [`Pipeline::import`](model::Pipeline::import)
//! converts checkpoints of other code bases. The `examples` folder samples, scores and inpaints, and adds a network, a
//! denoiser and an observer of its own.
//!
//! Everything is in a crate of its own, re-exported here:
//!
//! | module | what |
//! |---|---|
//! | [`diffusion`] | the mathematics in f64: noise schedules, bounds, solver tables, oracles |
//! | [`random`] | random numbers as a function of (seed, stream, index, step) |
//! | [`kernels`] | CPU kernels |
//! | [`mpi`] | the processes of a job, and the division of work between them |
//! | [`data`] | sets of images |
//! | [`weights`] | checkpoint files |
//! | [`unet`] | diffusers' `UNet2DModel` |
//! | [`model`] | `Backbone`, `Denoiser`, guidance, `Pipeline` |
//! | [`sample`] | samplers, generation, editing, output files |
//! | [`evaluate`] | bits/dim and sample quality |
//! | [`train`] | configuration, trainer, observers |

pub mod bench;
mod device;
mod error;
pub mod pictures;
mod pipeline;
pub mod predict;
pub mod scaling;
mod training;

pub use burn::tensor::Device;
pub use data;
pub use device::{DeviceError, FoundDevice, default_device, device, device_kinds, find_devices, no_driver};
pub use diffusion;
pub use error::Error;
pub use evaluate;
pub use files;
pub use kernels::{self, CachingAllocator};
pub use model::{self, Images, Pipeline};
pub use mpi;
pub use pipeline::{Inpaint, Interpolate, PipelineExt, SaveImages};
pub use random;
pub use sample::output::{self, Output};
pub use sample::{self, Generation};
pub use train;
pub use training::Training;
pub use unet;
pub use weights;

/// The names that most programs use: `use ddpm::prelude::*;`.
pub mod prelude {
    pub use crate::{Images, Pipeline, PipelineExt, SaveImages, Training};
    pub use data::Split;
}
