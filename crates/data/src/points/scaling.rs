//! The units of points: as they are, or standardized.

use super::Points;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// How a network takes points: x = (point − mean)/scale, dimension by dimension. It is kept with the network, undone on output,
/// and its logarithm is a part of every density.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PointScaling {
    /// The number of each dimension that becomes 0.
    pub mean: Vec<f64>,
    /// The length of each dimension that becomes 1.
    pub scale: Vec<f64>,
}

/// A choice of scaling for a set that is read.
#[derive(Debug, Clone, PartialEq)]
pub enum PointOptions {
    /// Points are taken as they are.
    AsIs,
    /// By the mean and deviation of each dimension of the training part.
    Standardize,
    /// That of a network.
    Scaled(PointScaling),
}

impl PointScaling {
    /// Returns the scaling that changes nothing.
    pub fn identity(dims: usize) -> Self {
        Self { mean: vec![0.0; dims], scale: vec![1.0; dims] }
    }

    /// Computes the mean and the deviation of each dimension.
    ///
    /// # Errors
    /// If a dimension is constant, or its numbers are too large.
    pub(super) fn of(path: &Path, points: &Points) -> Result<Self> {
        let (dims, count) = (points.dims, points.len() as f64);
        let mut mean = vec![0.0; dims];
        for point in points.values.chunks_exact(dims) {
            mean.iter_mut().zip(point).for_each(|(mean, x)| *mean += x / count);
        }
        let mut scale = vec![0.0; dims];
        for point in points.values.chunks_exact(dims) {
            for ((scale, x), mean) in scale.iter_mut().zip(point).zip(&mean) {
                *scale += (x - mean) * (x - mean) / count;
            }
        }
        scale.iter_mut().for_each(|variance| *variance = variance.sqrt());
        match scale.iter().position(|deviation| !(deviation.is_finite() && *deviation > 0.0)) {
            None => Ok(Self { mean, scale }),
            Some(dimension) => Err(Error::malformed(
                path,
                format!(
                    "dimension {dimension} has the deviation {}, so it cannot be standardized; leave the dimension out, or set \
                     data.standardize=false",
                    scale[dimension]
                ),
            )),
        }
    }

    /// Checks numbers that were read from a file.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn check(&self) -> std::result::Result<(), String> {
        let (means, scales) = (self.mean.len(), self.scale.len());
        if means != scales || !(1..=super::MAX_DIMS).contains(&means) {
            return Err(format!(
                "`points` has {means} means and {scales} scales; expected as many of each, at least one"
            ));
        }
        let is_good = |scale: &f64| scale.is_finite() && *scale > 0.0;
        if self.mean.iter().all(|mean| mean.is_finite()) && self.scale.iter().all(is_good) {
            return Ok(());
        }
        Err("`points` has means that are not finite, or scales that are not above 0".to_owned())
    }

    /// Returns whether points are taken as they are.
    pub fn is_identity(&self) -> bool {
        *self == Self::identity(self.mean.len())
    }

    /// Returns the mean over dimensions of ln(scale): the density of a point is that of x divided by the product of the scales.
    pub fn log_scale(&self) -> f64 {
        self.scale.iter().map(|scale| scale.ln()).sum::<f64>() / self.scale.len() as f64
    }

    /// Scales points for a network.
    pub fn apply(&self, values: &[f64]) -> Vec<f32> {
        let dims = self.mean.len();
        values.iter().enumerate().map(|(i, x)| ((x - self.mean[i % dims]) / self.scale[i % dims]) as f32).collect()
    }

    /// Returns points of a network in the units of the data.
    pub fn undo(&self, values: &[f32]) -> Vec<f64> {
        let dims = self.mean.len();
        let undone = |(i, x): (usize, &f32)| self.mean[i % dims] + self.scale[i % dims] * f64::from(*x);
        values.iter().enumerate().map(undone).collect()
    }
}

impl PointOptions {
    /// Returns the scaling of points of `dims` dimensions; `training` returns those that standardize it.
    pub(super) fn resolve(
        &self,
        path: &Path,
        training: impl FnOnce() -> Result<Points>,
        dims: usize,
    ) -> Result<PointScaling> {
        let scaling = match self {
            Self::AsIs => PointScaling::identity(dims),
            Self::Standardize => PointScaling::of(path, &training()?)?,
            Self::Scaled(scaling) => scaling.clone(),
        };
        if scaling.mean.len() == dims {
            return Ok(scaling);
        }
        let expected = scaling.mean.len();
        Err(Error::malformed(path, format!("has points of {dims} dimensions; the network takes {expected}")))
    }
}
