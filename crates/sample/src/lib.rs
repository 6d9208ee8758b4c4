//! Sampling: from noise to images, and the files that images are written to.
//!
//! | module or item | what |
//! |---|---|
//! | [`Generation`] | samples of a pipeline by a builder with defaults, in memory or written as they are made |
//! | [`sample()`] | a solver table applied to noise by any [`Denoiser`](model::Denoiser) |
//! | [`Sampler`] | samplers by name: from a noise schedule to a solver table |
//! | [`inpaint()`], [`interpolate()`], [`invert()`] | editing |
//! | [`output`] | PNG grids, animations, npz, safetensors, folders |

mod error;
mod frames;
mod generate;
mod identity;
mod inpaint;
mod interpolate;
mod invert;
mod noise;
pub mod output;
mod sampler;
mod solve;
mod writer;

pub use error::Error;
pub use generate::{ClipChoice, GenerateOptions, Generation, GenerationProgress, SamplerChoice, SaveOptions, Saved};
pub use inpaint::{Inpainting, inpaint};
pub use interpolate::{Interpolation, Mix, interpolate};
pub use invert::{Inversion, Inverted, inversion_tables, invert};
pub use noise::{initial_noise, noised, read_noise};
pub use sampler::{Sampler, SamplerOptions};
pub use solve::{Request, SamplerStep, SharedNoise, sample};
