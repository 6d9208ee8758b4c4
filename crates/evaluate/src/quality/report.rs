//! Results of comparing samples with real images, each next to the same figure for real images (real vs. real).

use std::collections::BTreeMap;

use serde::Serialize;

use super::{InceptionScore, Manifold, Memorization};

/// All results of one comparison.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct QualityReport {
    /// Distances by name: `fid`, `sfid`, `kid`, `fd`, `kd`.
    #[serde(flatten)]
    pub distances: BTreeMap<&'static str, DistanceReport>,
    /// The Inception score.
    #[serde(rename = "is", skip_serializing_if = "Option::is_none")]
    pub inception_score: Option<InceptionScoreReport>,
    /// Precision, recall, density and coverage.
    #[serde(rename = "prdc", skip_serializing_if = "Option::is_none")]
    pub manifold: Option<ManifoldReport>,
    /// Nearest training images, by the space of the search: `pixels`, `features`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub nearest: BTreeMap<&'static str, Memorization>,
}

/// A distance between samples and real images.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DistanceReport {
    /// The distance.
    pub value: f64,
    /// Its standard error, for kernel distances.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standard_error: Option<f64>,
    /// The number of samples.
    pub samples: usize,
    /// The network that computed the features.
    pub features: String,
    /// Real vs. real: the distance between `floor_samples` real images and the others. `None` without real images.
    pub floor: Option<f64>,
    /// As `samples`, or half of the real images if that is less.
    pub floor_samples: Option<usize>,
}

/// The Inception score of samples.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InceptionScoreReport {
    /// The score of the samples.
    #[serde(flatten)]
    pub score: InceptionScore,
    /// The score of as many real images.
    pub real: Option<f64>,
}

/// Precision, recall, density and coverage of samples.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ManifoldReport {
    /// Those of the samples.
    #[serde(flatten)]
    pub manifold: Manifold,
    /// Real vs. real: those of real images compared with other real images.
    pub floor: Manifold,
}
