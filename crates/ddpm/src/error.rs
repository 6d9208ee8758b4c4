//! The error of the facade.

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A device that is not available.
    #[error(transparent)]
    Device(#[from] crate::DeviceError),
    /// An error from reading images.
    #[error(transparent)]
    Data(#[from] data::Error),
    /// An error from a model.
    #[error(transparent)]
    Model(#[from] model::Error),
    /// An error from sampling.
    #[error(transparent)]
    Sample(#[from] sample::Error),
    /// An error from an evaluation.
    #[error(transparent)]
    Evaluate(#[from] evaluate::Error),
    /// An error from a configuration.
    #[error(transparent)]
    Config(#[from] train::config::ConfigError),
    /// An error from training.
    #[error(transparent)]
    Train(#[from] train::Error),
}
