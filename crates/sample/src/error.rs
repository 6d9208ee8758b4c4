//! The error type of this crate.

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An error from the processes that divide the work.
    #[error(transparent)]
    Mpi(#[from] mpi::Error),
    /// An error of the model.
    #[error(transparent)]
    Model(#[from] model::Error),
    /// An error of a weights file.
    #[error(transparent)]
    Weights(#[from] weights::Error),
    /// An error of the diffusion process.
    #[error(transparent)]
    Diffusion(#[from] diffusion::Error),
    /// An invalid request.
    #[error("{0}")]
    Request(String),
    /// An error of writing images.
    #[error(transparent)]
    Output(#[from] crate::output::Error),
    /// Samples with NaN or infinite values.
    #[error("the samples are not finite after timestep {timestep}: the weights are damaged or the model diverged")]
    NotFinite {
        /// The timestep of the last step.
        timestep: f64,
    },
    /// The progress function canceled the run.
    #[error("stopped")]
    Stopped,
}
