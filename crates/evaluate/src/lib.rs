//! Evaluation of denoising diffusion models.
//!
//! | module or item | what |
//! |---|---|
//! | [`likelihood()`] | the variational bound of Ho et al. (2020) in bits/dim, term by term |
//! | [`flow_likelihood()`] | the likelihood under the probability flow, in bits/dim |
//! | [`sub_chains()`] | bits/dim of shorter chains, predicted and measured |
//! | [`bit_likelihood()`] | the bound of binomial chains, in bits per sequence |
//! | [`Evaluation`] | these four for a pipeline, by a builder with defaults |
//! | [`open_data()`], [`read_images()`] | images of a set as a pipeline takes them |
//! | [`quality`] | distances between samples and real images, by features |
//! | [`network`] | the networks that compute features |
//! | [`ImageSource`] | samples or real images, read by index |

mod bits;
mod bound;
mod error;
mod evaluation;
mod exact;
mod flow;
mod held_out;
mod image_source;
mod likelihood;
mod mse_profile;
pub mod network;
pub mod quality;
mod sub_chains;

pub use bits::{BitChain, BitLikelihood, bit_likelihood};
pub use bound::{Chain, even_timesteps, likelihood};
pub use error::Error;
pub use evaluation::{EvaluateOptions, Evaluation};
pub use exact::ExactLikelihood;
pub use flow::{Flow, FlowLikelihood, Trace, flow_likelihood};
pub use held_out::{open_data, read_images};
pub use image_source::ImageSource;
pub use likelihood::{BoundTerm, Likelihood};
pub use mpi::Division;
pub use mse_profile::{MeasuredModel, ProfileFile, read_mse_profile, write_mse_profile};
pub use sub_chains::{SubChain, SubChainStudy, sub_chains};
