//! How good samples are, beside real images: distances and scores over vectors that a network makes of images
//! ([`Features`]). All statistics are f64; no function here knows where the vectors come from, so that each is tested on
//! Gaussians and beside NumPy.
//!
//! A figure means something beside another of the same network, the same number of samples and the same real images only:
//! [`frechet_distance`] falls with N (Chong & Forsyth 2020), and that of real images to real images is not 0.

mod distances;
mod features;
mod files;
mod frechet;
mod inception_score;
mod kernel_distance;
mod manifold;
mod nearest;
mod statistics;
mod subset;

pub use features::Features;
pub use files::{POOLED, SPATIAL, write_statistics};
pub use frechet::frechet_distance;
pub use inception_score::{InceptionScore, inception_score};
pub use kernel_distance::{KernelDistance, kernel_distance, mmd2};
pub use manifold::{Manifold, manifold};
pub use nearest::{Memorisation, Neighbour, memorisation, memorised, nearest};
pub use statistics::{Moments, Statistics};
pub use subset::{floor_parts, permutation};
