//! The variational bound of Ho et al. 2020 (eq. 5), term by term, in bits per dimension.
//!
//! The bound of an image is prior + Σ_{t=1}^{T−1} KL_t + decoder (at t = 0), in bits/dim = nats/(D ln 2). One noised
//! x_t per term gives an unbiased estimate.

use std::f64::consts::{FRAC_1_SQRT_2, LN_2, PI};

use serde::{Deserialize, Serialize};

use crate::{Error, NoiseLevel, NoiseSchedule};

/// Returns KL(N(mean1, e^logvar1) ‖ N(mean2, e^logvar2)) of one dimension, in nats.
pub fn normal_kl(mean1: f64, logvar1: f64, mean2: f64, logvar2: f64) -> f64 {
    0.5 * (logvar2 - logvar1 + (logvar1 - logvar2).exp() - 1.0 + (mean1 - mean2).powi(2) * (-logvar2).exp())
}

/// The normal distribution function Φ of the decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cdf {
    /// ½(1 + tanh(√(2/π)(z + 0.044715 z³))), which is Φ to within 1.8e-4, and likelihoods floored at 1e-12: as in Ho et
    /// al. and in published comparisons with them.
    #[default]
    Tanh,
    /// Exact, without a floor.
    Erf,
}

/// The cubic term of the tanh approximation.
const TANH_CUBIC: f64 = 0.044715;

impl Cdf {
    /// Returns Φ(z).
    pub fn at(self, z: f64) -> f64 {
        match self {
            // ½(1 + tanh u) = 1/(1 + e^{−2u}), which is accurate in the left tail.
            Self::Tanh => 1.0 / (1.0 + (-2.0 * (2.0 / PI).sqrt() * (z + TANH_CUBIC * z.powi(3))).exp()),
            Self::Erf => 0.5 * libm::erfc(-z * FRAC_1_SQRT_2),
        }
    }

    fn floor(self) -> f64 {
        match self {
            Self::Tanh => 1e-12,
            Self::Erf => f64::MIN_POSITIVE,
        }
    }
}

/// Returns −ln p(x) in nats of an 8-bit value x = byte/127.5 − 1, p being the mass of the bin x ± 1/255 under
/// N(mean, e^log_variance). The first and last bins extend to ∓∞ (Ho et al. eq. 13), so the 256 probabilities sum to 1.
pub fn discretized_gaussian_nll(x: f64, mean: f64, log_variance: f64, cdf: Cdf) -> f64 {
    let inv_stdv = (-0.5 * log_variance).exp();
    // With a tolerance, since x was rounded to f32.
    let upper = if x > 0.999 { f64::INFINITY } else { inv_stdv * (x - mean + 1.0 / 255.0) };
    let lower = if x < -0.999 { f64::NEG_INFINITY } else { inv_stdv * (x - mean - 1.0 / 255.0) };
    // Φ(b) − Φ(a) = Φ(−a) − Φ(−b); the left tail is the accurate one.
    let mass = if lower > 0.0 { cdf.at(-lower) - cdf.at(-upper) } else { cdf.at(upper) - cdf.at(lower) };
    // Not `max`, which would hide a NaN.
    let floor = cdf.floor();
    -(if mass <= floor { floor } else { mass }).ln()
}

/// Returns −ln p(x) in nats of the density N(mean, e^log_variance).
pub fn gaussian_nll(x: f64, mean: f64, log_variance: f64) -> f64 {
    0.5 * ((2.0 * PI).ln() + log_variance + (x - mean).powi(2) * (-log_variance).exp())
}

/// The kind of values that data have. It decides the last term of the bound: −log p(x_0 | x_1).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Values {
    /// 8-bit values that are scaled to [-1, 1]: the decoder is the [probability](discretized_gaussian_nll) of a value.
    #[default]
    Bytes,
    /// Real numbers: the decoder is the [density](gaussian_nll) of a point in the units of the data.
    Reals {
        /// The mean over dimensions of ln s, where the data are s·x_0 apart from a constant.
        log_scale: f64,
    },
}

impl Values {
    /// Returns −ln p(x) in nats of one dimension under N(mean, e^log_variance).
    pub fn decoder_nll(self, x: f64, mean: f64, log_variance: f64, cdf: Cdf) -> f64 {
        match self {
            Self::Bytes => discretized_gaussian_nll(x, mean, log_variance, cdf),
            Self::Reals { log_scale } => gaussian_nll(x, mean, log_variance) + log_scale,
        }
    }
}

/// The reverse step p(x_{t−1} | x_t) = N(mean, e^log_variance) of one image.
#[derive(Debug, Clone, Copy)]
pub struct ReverseStep<'a, T> {
    /// The mean.
    pub mean: &'a [T],
    /// The log-variance; a single number applies to all elements.
    pub log_variance: &'a [T],
}

/// The variational bound of one chain. For a sub-chain, the schedule is [the sub-chain's](NoiseSchedule::respace).
#[derive(Debug, Clone, Copy)]
pub struct VariationalBound<'a> {
    /// The chain.
    pub schedule: &'a NoiseSchedule,
    /// The decoder's distribution function.
    pub cdf: Cdf,
    /// The kind of values of the data.
    pub values: Values,
}

impl<'a> VariationalBound<'a> {
    /// Creates the bound of a chain of 8-bit values.
    pub fn new(schedule: &'a NoiseSchedule, cdf: Cdf) -> Self {
        Self { schedule, cdf, values: Values::Bytes }
    }

    /// Sets the kind of values.
    pub fn of(self, values: Values) -> Self {
        Self { values, ..self }
    }

    /// Returns the term at `t` of one image, in bits/dim: KL(q(x_{t−1} | x_t, x_0) ‖ p(x_{t−1} | x_t)) for t > 0, and
    /// the decoder's −log₂ p(x_0 | x_t) at t = 0 (the paper's x_1).
    ///
    /// `x0` is the image in [−1, 1], or the point, and `xt` the noised image (unused at t = 0).
    ///
    /// # Errors
    /// If the slices are empty or differ in length, or `t` is outside the chain.
    pub fn term<T: Copy + Into<f64>>(&self, t: usize, x0: &[T], xt: &[T], step: ReverseStep<T>) -> Result<f64, Error> {
        let ReverseStep { mean, log_variance } = step;
        if t >= self.schedule.len() {
            return Err(Error::Timestep { index: 0, timestep: t, num_train_timesteps: self.schedule.len() });
        }
        let dims = x0.len();
        let broadcast = if log_variance.len() == 1 { dims } else { log_variance.len() };
        for (name, found) in [("xt", xt.len()), ("mean", mean.len()), ("log_variance", broadcast)] {
            if found != dims || dims == 0 {
                return Err(Error::Length { name, found, expected: dims.max(1) });
            }
        }
        let posterior = self.schedule.posterior(t);
        let nats = |i: usize| {
            let (x0, mean): (f64, f64) = (x0[i].into(), mean[i].into());
            let log_variance: f64 = log_variance[i.min(log_variance.len() - 1)].into();
            if t == 0 {
                return self.values.decoder_nll(x0, mean, log_variance, self.cdf);
            }
            let true_mean = posterior.coef_x0 * x0 + posterior.coef_xt * xt[i].into();
            normal_kl(true_mean, posterior.log_variance_clipped, mean, log_variance)
        };
        Ok((0..dims).map(nats).sum::<f64>() / (dims as f64 * LN_2))
    }

    /// Returns KL(q(x_{T−1} | x_0) ‖ N(0, I)) of one image, in bits/dim. It does not depend on the network.
    ///
    /// # Errors
    /// If `x0` is empty.
    pub fn prior<T: Copy + Into<f64>>(&self, x0: &[T]) -> Result<f64, Error> {
        if x0.is_empty() {
            return Err(Error::Length { name: "x0", found: 0, expected: 1 });
        }
        let NoiseLevel { alpha, sigma } = self.schedule.level(self.schedule.len() - 1);
        let log_variance = 2.0 * sigma.ln();
        let nats = x0.iter().map(|&x0| normal_kl(alpha * x0.into(), log_variance, 0.0, 0.0)).sum::<f64>();
        Ok(nats / (x0.len() as f64 * LN_2))
    }
}
