//! Results of a measured bound, and what follows from them.

use diffusion::variance::optimal_rate;
use diffusion::{MseProfile, NoiseSchedule};
use serde::{Deserialize, Serialize};

use crate::Error;

/// One term of the bound, averaged over images and noise draws.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BoundTerm {
    /// The timestep t.
    pub timestep: usize,
    /// The term in bits/dim: the KL divergence of the reverse step from t, or for the last timestep the decoder's −log₂ p.
    pub bits: f64,
    /// E‖x_0 − x̂0‖²/D for images in [-1, 1].
    pub mse: f64,
    /// E‖ε − ε̂‖²/D of the prediction without clipping.
    pub epsilon_mse: f64,
}

/// The variational bound of a set of images, in bits/dim.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Likelihood {
    /// The bound on −log₂ p(x_0)/D, the mean over images.
    pub bits_per_dim: f64,
    /// The bound of a point in bits, D times `bits_per_dim`: of the density in the units of the data, so that it may be below 0. None
    /// for images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits_per_point: Option<f64>,
    /// The standard error of `bits_per_dim`, from the spread over images.
    pub standard_error: f64,
    /// KL(q(x_T | x_0) ‖ N(0, I)).
    pub prior: f64,
    /// All terms but the decoder's, the prior included.
    pub rate: f64,
    /// The decoder's term.
    pub distortion: f64,
    /// The number of images.
    pub images: usize,
    /// Noise draws for each image and timestep.
    pub draws: usize,
    /// Evaluations of the network for one image and one draw: the number of timesteps.
    pub evaluations: usize,
    /// The terms, from noise to data.
    pub points: Vec<BoundTerm>,
    /// The `mse` of each term by channel; empty for images of one channel.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<Vec<f64>>,
    /// The bound of each image.
    pub each: Vec<f64>,
    /// The decoder's term for each of several log-variances, which ascend.
    pub decoder: Vec<(f64, f64)>,
}

impl Likelihood {
    /// Returns the squared error at each timestep, which predicts the bits/dim of shorter chains. It requires that all
    /// timesteps of the schedule were measured ([`MseProfile::check`] tests that).
    pub fn mse_profile(&self) -> MseProfile {
        MseProfile {
            mse: self.points.iter().rev().map(|point| point.mse).collect(),
            channels: self.channels.iter().rev().cloned().collect(),
            prior: self.prior,
            decoder: self.decoder.clone(),
            images: self.images,
        }
    }

    /// Computes the bound of the same chain under its optimal variances (Bao et al. 2022, arXiv 2201.06503). It depends on
    /// the squared error alone, so it compares networks without an influence of the choice of variance.
    ///
    /// # Errors
    /// If the terms are not at timesteps of the schedule.
    pub fn optimal_bits(&self, schedule: &NoiseSchedule) -> Result<f64, Error> {
        let timesteps: Vec<usize> = self.points.iter().map(|point| point.timestep).collect();
        schedule.respace(&timesteps)?;
        let alpha = |t: usize| schedule.alpha_cumprod(t);
        let steps = self.points.windows(2);
        let rates = steps.map(|pair| optimal_rate(alpha(pair[0].timestep), alpha(pair[1].timestep), pair[0].mse));
        let decoder = self.decoder.iter().map(|&(_, bits)| bits).fold(f64::INFINITY, f64::min);
        Ok(self.prior + rates.sum::<f64>() / std::f64::consts::LN_2 + decoder)
    }

    /// Returns the rate–distortion curve of progressive decoding (Ho et al. 2020, section 4.3 and figure 5): for each
    /// term, the timestep t, the bits/dim that transmit x_t, and the root mean squared error of x̂0 in pixel values of 0
    /// to 255.
    pub fn rate_distortion(&self) -> Vec<(usize, f64, f64)> {
        let mut rate = self.prior;
        let mut curve = Vec::with_capacity(self.points.len());
        for point in &self.points {
            curve.push((point.timestep, rate, 127.5 * point.mse.sqrt()));
            rate += point.bits;
        }
        curve
    }
}

/// Returns the mean and its standard error.
pub(crate) fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    (mean, (variance / n).sqrt())
}
