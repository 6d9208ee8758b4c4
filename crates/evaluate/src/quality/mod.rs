//! The quality of samples compared with real images: distances and scores of feature vectors ([`Features`]), in f64.
//!
//! [`Comparison`] is the protocol: every figure of samples comes with the same figure of real images. The functions below it
//! do not depend on the network that computed the features.
//!
//! Figures are comparable only for the same network, number of samples and real images: [`frechet_distance`] decreases with
//! N (Chong & Forsyth 2020, arXiv 1911.07023), and is not 0 between real images and real images.

mod comparison;
mod distances;
mod features;
mod files;
mod frechet;
mod inception_score;
mod kernel_distance;
mod manifold;
mod nearest;
mod neighbor_images;
mod report;
mod statistics;
mod subset;

pub use comparison::{Comparison, FrechetReference};
pub use features::Features;
pub use files::{POOLED, SPATIAL, StatisticsOrigin, write_statistics};
pub use frechet::frechet_distance;
pub use inception_score::{InceptionScore, inception_score};
pub use kernel_distance::{KernelDistance, kernel_distance, mmd2};
pub use manifold::{Manifold, manifold};
pub use nearest::{Memorization, Neighbor, NeighborResult, NeighborSearch, memorization, nearest};
pub use neighbor_images::NeighborImages;
pub use report::{DistanceReport, InceptionScoreReport, ManifoldReport, QualityReport};
pub use statistics::{Moments, Statistics};
pub use subset::{floor_parts, permutation};

/// The number of tasks that faer divides a product or a decomposition into. It decides the order of sums, so it is not the
/// number of threads: results do not depend on that.
const TASKS: usize = 8;

/// Makes the results of faer independent of the number of threads.
fn fix_order_of_sums() {
    faer::set_global_parallelism(faer::Par::rayon(TASKS));
}
