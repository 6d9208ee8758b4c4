//! The variance of the reverse step p(x_s | x_t).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    Error,
    names::{name_of, named},
    posterior::Posterior,
    schedule::{NoiseSchedule, snr},
};

/// The variance of the reverse step: diffusers' `variance_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variance {
    /// β̃_t, optimal for data at a point (Ho et al. 2020, section 3.2). Used by their 256² models.
    #[default]
    #[serde(alias = "fixed_small_log")]
    FixedSmall,
    /// β_t, optimal for data of unit variance. Used by their CIFAR-10 model.
    #[serde(alias = "fixed_large_log")]
    FixedLarge,
    /// The second half of the network's output channels is the log-variance.
    Learned,
    /// The second half of the network's output channels, v ∈ [−1, 1], interpolates between ln β̃_t and ln β_t (Nichol &
    /// Dhariwal 2021, eq. 15).
    LearnedRange,
}

/// A range of log-variances, within which the network's v interpolates.
///
/// A fixed variance is a range of width 0. For [`Variance::Learned`] the range is −1 … 1, so that v is the
/// log-variance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogVariance {
    /// Log-variance at v = −1.
    pub min: f64,
    /// Log-variance at v = 1.
    pub max: f64,
}

impl LogVariance {
    /// Returns the range of a fixed log-variance.
    pub fn fixed(log_variance: f64) -> Self {
        Self { min: log_variance, max: log_variance }
    }

    /// Returns the log-variance at `v`.
    pub fn interpolate(self, v: f64) -> f64 {
        let fraction = (v + 1.0) / 2.0;
        fraction * self.max + (1.0 - fraction) * self.min
    }
}

impl Variance {
    /// diffusers' other names, which are read and not written.
    pub const ALIASES: [(&'static str, Self); 2] =
        [("fixed_small_log", Self::FixedSmall), ("fixed_large_log", Self::FixedLarge)];

    /// Every variance with its name.
    pub const NAMES: [(&'static str, Self); 4] = [
        ("fixed_small", Self::FixedSmall),
        ("fixed_large", Self::FixedLarge),
        ("learned", Self::Learned),
        ("learned_range", Self::LearnedRange),
    ];

    /// Returns whether the network has output channels for the variance.
    pub fn is_learned(self) -> bool {
        matches!(self, Self::Learned | Self::LearnedRange)
    }

    /// Returns the log-variance of p(x_{t−1} | x_t) as in Ho et al. and improved-diffusion: at t = 0, where β̃ is 0,
    /// every kind uses β̃_1. That entry affects only the decoder's likelihood, since the last step adds no noise.
    ///
    /// For a sub-chain, `schedule` is [the sub-chain](NoiseSchedule::respace).
    pub fn log_variance(self, schedule: &NoiseSchedule, t: usize) -> LogVariance {
        let small = schedule.posterior(t).log_variance_clipped;
        let large = schedule.betas()[t].ln();
        match self {
            Self::FixedSmall => LogVariance::fixed(small),
            Self::FixedLarge => LogVariance::fixed(if t == 0 { small } else { large }),
            Self::Learned => LogVariance { min: -1.0, max: 1.0 },
            Self::LearnedRange => LogVariance { min: small, max: large },
        }
    }

    /// Returns the log-variance as in diffusers: β̃ is floored at 1e-20, and `fixed_large` keeps β on the last step.
    /// The two differ only if diffusers adds noise on the last step, which it does if that step starts at t > 0
    /// (`trailing`). Ho et al.'s 256² code (`noisepred`) and lucidrains floor `fixed_small` in the same way.
    pub fn diffusers_log_variance(self, alpha_cumprod_t: f64, alpha_cumprod_s: f64) -> LogVariance {
        let small = Posterior::between(alpha_cumprod_t, alpha_cumprod_s).log_variance_clipped;
        let large = (1.0 - alpha_cumprod_t / alpha_cumprod_s).ln();
        match self {
            Self::FixedSmall => LogVariance::fixed(small),
            Self::FixedLarge => LogVariance::fixed(large),
            Self::Learned => LogVariance { min: -1.0, max: 1.0 },
            Self::LearnedRange => LogVariance { min: small, max: large },
        }
    }
}

/// Returns the isotropic variance of the step t → s that maximises the bound, given the denoiser's squared error per
/// dimension `mse` = M_t = E‖x_0 − x̂0‖²/D: σ*² = β̃ + coef_x0² M_t = β̃ (1 + (SNR_s − SNR_t) M_t).
///
/// Analytic-DPM (Bao et al. 2022, arXiv 2201.06503) is the case of the exact denoiser. σ*² is β̃ at M_t = 0, and β at
/// the M_t of Gaussian data of unit variance.
pub fn optimal_variance(alpha_cumprod_t: f64, alpha_cumprod_s: f64, mse: f64) -> f64 {
    let posterior = Posterior::between(alpha_cumprod_t, alpha_cumprod_s);
    posterior.variance + posterior.coef_x0.powi(2) * mse
}

/// Returns the bound's term of the step t → s under [`optimal_variance`], in nats per dimension:
/// ½ ln(1 + (SNR_s − SNR_t) M_t). Infinite at ᾱ_s = 1, the data, where the decoder's term applies instead.
pub fn optimal_rate(alpha_cumprod_t: f64, alpha_cumprod_s: f64, mse: f64) -> f64 {
    0.5 * ((snr(alpha_cumprod_s) - snr(alpha_cumprod_t)) * mse).ln_1p()
}

impl fmt::Display for Variance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(name_of(self, &Self::NAMES))
    }
}

impl FromStr for Variance {
    type Err = Error;

    /// Reads a name of [`Variance::NAMES`] or [`Variance::ALIASES`].
    fn from_str(name: &str) -> Result<Self, Error> {
        named("variance", name, [&Self::NAMES, &Self::ALIASES])
    }
}
