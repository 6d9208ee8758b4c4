//! Errors of sampling.

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// From the model.
    #[error(transparent)]
    Model(#[from] model::Error),
    /// From a file of weights.
    #[error(transparent)]
    Weights(#[from] weights::Error),
    /// From the mathematics.
    #[error(transparent)]
    Diffusion(#[from] diffusion::Error),
    /// A request that cannot be met.
    #[error("{0}")]
    Request(String),
    /// From writing images.
    #[error(transparent)]
    Output(#[from] crate::output::Error),
    /// The network's output is not finite.
    #[error("the samples are not finite after timestep {timestep}: the weights are damaged or the model diverged")]
    NotFinite {
        /// The timestep of the last step.
        timestep: f64,
    },
    /// The progress function cancelled.
    #[error("stopped")]
    Stopped,
}
