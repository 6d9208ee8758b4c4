//! Errors of models and their files.

use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// From the network.
    #[error(transparent)]
    Network(#[from] unet::Error),
    /// From a file of weights.
    #[error(transparent)]
    Weights(#[from] weights::Error),
    /// From the mathematics.
    #[error(transparent)]
    Diffusion(#[from] diffusion::Error),
    /// From reading images.
    #[error(transparent)]
    Data(#[from] data::Error),
    /// A file of a pipeline that cannot be used with the others.
    #[error("{path}: {message}")]
    Pipeline {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what was expected.
        message: String,
    },
    /// Inputs that do not fit the model.
    #[error("{0}")]
    Input(String),
}
