//! What a denoising diffusion model is worth. [`likelihood`] measures Ho et al.'s variational bound (2020, eq. 5) term by
//! term, and with it the squared error at every t, from which [`diffusion::MseProfile`] tells the bits/dim of any shorter
//! chain, its best variances and the best chain itself. [`flow_likelihood`] is the exact likelihood of the probability flow.
//! [`quality`] compares samples with real images by features, which [`network`] makes.

mod error;
mod flow;
mod likelihood;
pub mod network;
pub mod quality;

pub use error::Error;
pub use flow::{Flow, FlowLikelihood, Trace, flow_likelihood};
pub use likelihood::{Chain, Images, Likelihood, Point, likelihood};
