//! Data whose diffusion has a closed form, to test schedules, bounds and samplers.
//!
//! For x_0 ~ Σ_k w_k N(m_k, s²_k I) the noised density is Σ_k w_k N(√ᾱ m_k, V_k I), V_k = ᾱ s²_k + 1 − ᾱ, and the
//! denoiser, its error and the reverse kernel follow from Gaussian conditioning. Noise levels are given by ᾱ ∈ [0, 1]. Sequences of
//! bits, [`Bits`], are summed over.

mod bits;
mod gaussian;
mod mixture;
mod multivariate;

pub use bits::{Bits, generated, states};
pub use gaussian::Gaussian;
pub use mixture::{Component, Mixture, Product};
pub use multivariate::MultivariateGaussian;
