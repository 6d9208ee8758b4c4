//! Sampling: from noise to images, and the output formats of images.
//!
//! | module or item | content |
//! |---|---|
//! | [`Generation`] | a builder for samples of a pipeline, in memory or written to files |
//! | [`sample()`] | applies a solver table to noise, with any [`Denoiser`](model::Denoiser) |
//! | [`sample_bits()`] | ancestral sampling of binomial chains |
//! | [`Sampler`] | samplers by name: from a noise schedule to a solver table |
//! | [`inpaint()`], [`interpolate()`], [`invert()`] | image editing |
//! | [`output`] | PNG grids, animations, npz, safetensors, folders |
//! | [`scatter`] | scatter plots of points |
//! | [`Provenance`] | what generated images say about themselves |

mod bits;
mod error;
mod frames;
mod generate;
mod identity;
mod inpaint;
mod interpolate;
mod invert;
mod noise;
mod options;
pub mod output;
mod points;
mod product;
mod provenance;
mod sampler;
pub mod scatter;
mod solve;
mod writer;

pub use bits::{BitSteps, sample_bits};
pub use error::Error;
pub use generate::{Generation, GenerationProgress, SaveOptions, Saved};
pub use identity::model_digest;
pub use inpaint::{InpaintMethod, Inpainting, inpaint};
pub use interpolate::{Interpolation, Mix, interpolate};
pub use invert::{Inversion, Inverted, inversion_tables, invert};
pub use noise::{initial_noise, noised, read_noise};
pub use options::{ClipChoice, GenerateOptions, SamplerChoice};
pub use points::{FRAME_SIDE, SIDE, write_scatter};
pub use provenance::{Provenance, SourceData, model_name, portable_path};
pub use sampler::{Sampler, SamplerOptions};
pub use solve::{Request, SamplerStep, SharedNoise, sample};
