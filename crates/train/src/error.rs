//! What can go wrong in training.

use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// From a configuration.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// From the images.
    #[error(transparent)]
    Data(#[from] data::Error),
    /// From the network.
    #[error(transparent)]
    Unet(#[from] unet::Error),
    /// From a file of weights.
    #[error(transparent)]
    Weights(#[from] weights::Error),
    /// From the mathematics.
    #[error(transparent)]
    Diffusion(#[from] diffusion::Error),
    /// From sampling.
    #[error(transparent)]
    Sample(#[from] sample::Error),
    /// From measuring held-out images.
    #[error(transparent)]
    Evaluate(#[from] evaluate::Error),
    /// From the event log.
    #[error(transparent)]
    Events(#[from] crate::tensorboard::EventError),
    /// From the plot of the loss.
    #[error(transparent)]
    Plot(#[from] crate::plot::PlotError),
    /// A file or folder that cannot be written.
    #[error("{path}: cannot be written: {source}")]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file that cannot be read.
    #[error("{path}: cannot be read: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A checkpoint that training cannot go on from.
    #[error("{0}")]
    Checkpoint(String),
    /// A run that cannot begin or go on.
    #[error("{0}")]
    Run(String),
}
