//! The metrics of a validation.

use serde::{Deserialize, Serialize};

/// The metrics of a validation.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Metrics {
    /// Bits/dim of held-out images under the optimal variances (see [`evaluate::Likelihood::optimal_bits`]).
    pub bits_per_dim: Option<f64>,
    /// The Fréchet distance between samples and training images.
    pub frechet: Option<FrechetMetric>,
}

/// A Fréchet distance between samples and training images.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FrechetMetric {
    /// Its name: FID for the features of Inception-v3.
    pub name: String,
    /// The distance.
    pub value: f64,
    /// The number of samples.
    pub samples: usize,
    /// The distance between as many training images and all others; `None` if the images are given by statistics.
    pub floor: Option<f64>,
}

/// The metric that selects the best checkpoint. Less is better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SelectionMetric {
    /// The bits/dim of held-out images.
    #[default]
    BitsPerDim,
    /// The Fréchet distance.
    FrechetDistance,
}

impl Metrics {
    /// Returns the value of the metric that selects the best checkpoint.
    pub fn selection_metric(&self, by: SelectionMetric) -> Option<f64> {
        match by {
            SelectionMetric::BitsPerDim => self.bits_per_dim,
            SelectionMetric::FrechetDistance => self.frechet.as_ref().map(|frechet| frechet.value),
        }
    }
}
