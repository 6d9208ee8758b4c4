//! The error type of this crate.

use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An error of the network.
    #[error(transparent)]
    Network(#[from] unet::Error),
    /// An error of a weights file.
    #[error(transparent)]
    Weights(#[from] weights::Error),
    /// An error of the diffusion process.
    #[error(transparent)]
    Diffusion(#[from] diffusion::Error),
    /// An error of reading images.
    #[error(transparent)]
    Data(#[from] data::Error),
    /// A file of a pipeline that is unreadable or does not match the other files.
    #[error("{path}: {message}")]
    Pipeline {
        /// The file.
        path: PathBuf,
        /// The problem: found and expected values.
        message: String,
    },
    /// Inputs that do not match the model.
    #[error("{0}")]
    Input(String),
}
