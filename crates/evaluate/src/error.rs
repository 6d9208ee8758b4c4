//! Errors of evaluations.

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An error from the processes that divide the work.
    #[error(transparent)]
    Mpi(#[from] mpi::Error),
    /// An error from the model.
    #[error(transparent)]
    Model(#[from] model::Error),
    /// An error from sampling.
    #[error(transparent)]
    Sample(#[from] sample::Error),
    /// An error from the mathematics.
    #[error(transparent)]
    Diffusion(#[from] diffusion::Error),
    /// An error from reading images, or reading or writing statistics.
    #[error(transparent)]
    Data(#[from] data::Error),
    /// An error from reading or writing weights and other files.
    #[error(transparent)]
    Weights(#[from] weights::Error),
    /// Arguments that do not fit each other.
    #[error("{0}")]
    Request(String),
    /// A prediction that is not finite.
    #[error("the prediction for image {image} at t = {timestep} is not finite: the weights are damaged")]
    NotFinite {
        /// The number of the image.
        image: usize,
        /// The timestep.
        timestep: usize,
    },
    /// The progress function cancelled.
    #[error("stopped")]
    Stopped,
}

impl From<unet::Error> for Error {
    fn from(error: unet::Error) -> Self {
        Self::Model(error.into())
    }
}
