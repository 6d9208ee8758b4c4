//! Errors of training.

use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An error from a configuration.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// An error from the images.
    #[error(transparent)]
    Data(#[from] data::Error),
    /// An error from the model.
    #[error(transparent)]
    Model(#[from] model::Error),
    /// An error from a file of weights.
    #[error(transparent)]
    Weights(#[from] weights::Error),
    /// An error from the mathematics.
    #[error(transparent)]
    Diffusion(#[from] diffusion::Error),
    /// An error from sampling.
    #[error(transparent)]
    Sample(#[from] sample::Error),
    /// An error from a validation.
    #[error(transparent)]
    Evaluate(#[from] evaluate::Error),
    /// An error from the communication between processes.
    #[error(transparent)]
    Mpi(#[from] mpi::Error),
    /// An error from TensorBoard's events.
    #[error(transparent)]
    Events(#[from] crate::tensorboard::EventError),
    /// An error from a plot.
    #[error(transparent)]
    Plot(#[from] crate::plot::PlotError),
    /// A file or folder that cannot be written.
    #[error("{path}: cannot be written: {source}")]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file that cannot be read.
    #[error("{path}: cannot be read: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A checkpoint that training cannot continue from.
    #[error("{0}")]
    Checkpoint(String),
    /// A run that cannot start or continue.
    #[error("{0}")]
    Run(String),
}
