//! What a denoising diffusion model is worth. [`likelihood`] measures Ho et al.'s variational bound (2020, eq. 5) term by
//! term, and with it the squared error at every t, from which [`diffusion::Denoising`] tells the bits/dim of any shorter
//! chain, its best variances and the best chain itself.

mod error;
mod likelihood;

pub use error::Error;
pub use likelihood::{Chain, Images, Likelihood, Point, likelihood};
