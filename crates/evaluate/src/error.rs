//! What can go wrong in an evaluation.

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// From the network.
    #[error(transparent)]
    Unet(#[from] unet::Error),
    /// From the mathematics.
    #[error(transparent)]
    Diffusion(#[from] diffusion::Error),
    /// From reading or writing statistics.
    #[error(transparent)]
    Data(#[from] data::Error),
    /// From reading or writing weights.
    #[error(transparent)]
    Weights(#[from] weights::Error),
    /// A request that cannot be met.
    #[error("{0}")]
    Request(String),
    /// The network answered with numbers that are not finite.
    #[error("the prediction for image {image} at t = {timestep} is not finite: the weights are damaged")]
    NotFinite {
        /// The image's number.
        image: usize,
        /// The timestep.
        timestep: usize,
    },
    /// The caller's progress function asked to stop.
    #[error("stopped")]
    Stopped,
}
