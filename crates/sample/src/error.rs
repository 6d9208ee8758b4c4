//! What can go wrong between a checkpoint and its samples.

use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// From the network.
    #[error(transparent)]
    Unet(#[from] unet::Error),
    /// From a file of weights.
    #[error(transparent)]
    Weights(#[from] weights::Error),
    /// From the mathematics.
    #[error(transparent)]
    Diffusion(#[from] diffusion::Error),
    /// A file of a pipeline that does not fit the others.
    #[error("{path}: {message}")]
    Pipeline {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what was expected.
        message: String,
    },
    /// A request that cannot be met.
    #[error("{0}")]
    Request(String),
    /// Where and how samples are written.
    #[error(transparent)]
    Output(#[from] crate::output::Error),
    /// The network answered with numbers that are not finite.
    #[error("the samples are not finite after timestep {timestep}: the weights are damaged or the model diverged")]
    NotFinite {
        /// The step's timestep.
        timestep: f64,
    },
    /// The caller's progress function asked to stop.
    #[error("stopped")]
    Stopped,
}
