//! The exact likelihood of built-in points, to compare a model's with.

use data::BuiltinPoints;
use model::{Images, Pipeline};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::likelihood::mean_and_error;

/// The exact −log₂ p of points, and how far a model's figures are from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExactLikelihood {
    /// The mean of −log₂ p(x) over the points, given their classes if the model has classes: an estimate of the entropy.
    pub bits_per_point: f64,
    /// The standard error of `bits_per_point`, from the spread over points.
    pub standard_error: f64,
    /// The mean difference of the bound to it over the same points, at least 0 but for noise, and its standard error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nll_excess: Option<(f64, f64)>,
    /// The mean difference of the flow's −log₂ p, and its standard error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ode_excess: Option<(f64, f64)>,
    /// −log₂ p of each point.
    pub each: Vec<f64>,
}

impl ExactLikelihood {
    /// Computes the exact likelihood of points, in the units of a model. `None` where there is no density.
    ///
    /// # Errors
    /// If the model is one of images, or its points do not have two dimensions.
    pub fn new(known: &BuiltinPoints, pipeline: &Pipeline, points: &Images) -> Result<Option<Self>, Error> {
        let Some(scaling) = pipeline.preprocessing.points.as_ref().filter(|_| points.channels == 2) else {
            return Err(Error::Request("the built-in points have two dimensions; the model is another one".into()));
        };
        let values = scaling.undo(&points.pixels);
        let bits = |(i, point): (usize, &[f64])| {
            let point = [point[0], point[1]];
            let nats = match &points.labels {
                None => known.log_density(point),
                Some(labels) => known.log_density_given(point, labels[i] as usize),
            };
            Some(-nats? / std::f64::consts::LN_2)
        };
        let Some(each) = values.chunks_exact(2).enumerate().map(bits).collect::<Option<Vec<f64>>>() else {
            return Ok(None);
        };
        let (bits_per_point, standard_error) = mean_and_error(&each);
        Ok(Some(Self { bits_per_point, standard_error, nll_excess: None, ode_excess: None, each }))
    }

    /// Returns the mean difference of bits/dim to the exact bits of a point, and its standard error.
    pub fn excess(&self, bits_per_dim: &[f64]) -> (f64, f64) {
        let differences: Vec<f64> =
            bits_per_dim.iter().zip(&self.each).map(|(bits, exact)| 2.0 * bits - exact).collect();
        mean_and_error(&differences)
    }
}
