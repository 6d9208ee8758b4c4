//! Sampling: a [`Pipeline`] (network and noise schedule, as diffusers keeps them), [`Sampler`]s by name, the [`walk`]
//! from noise to images along a solver table, and the files that samples go to ([`output`]).

mod draw;
mod error;
mod inpaint;
mod interpolate;
pub mod output;
mod pipeline;
mod sampler;
mod walk;

pub use draw::{Draw, draw};
pub use error::Error;
pub use inpaint::{Known, inpaint};
pub use interpolate::{Between, Mix, interpolate};
pub use pipeline::{Pipeline, read_scheduler, write as write_pipeline};
pub use sampler::{Options, Sampler, inversion};
pub use walk::{Guidance, Request, Step, initial_noise, noised, walk};
