//! The error of the facade.

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A device that is not available.
    #[error(transparent)]
    Device(#[from] crate::DeviceError),
    /// From reading images.
    #[error(transparent)]
    Data(#[from] data::Error),
    /// From a model.
    #[error(transparent)]
    Model(#[from] model::Error),
    /// From sampling.
    #[error(transparent)]
    Sample(#[from] sample::Error),
    /// From an evaluation.
    #[error(transparent)]
    Evaluate(#[from] evaluate::Error),
    /// From a configuration.
    #[error(transparent)]
    Config(#[from] train::config::ConfigError),
    /// From training.
    #[error(transparent)]
    Train(#[from] train::Error),
}
