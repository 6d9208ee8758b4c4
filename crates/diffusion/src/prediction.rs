//! What the network predicts, and the linear maps between that and x̂0, ε and the training target.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    Error,
    names::{name_of, named},
    schedule::{NoiseSchedule, Posterior},
};

/// What the network's output stands for; diffusers' `prediction_type` plus Ho et al.'s `xprev`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// The noise ε in x_t (Ho et al. 2020, section 3.2).
    #[default]
    Epsilon,
    /// The data x_0.
    Sample,
    /// v = √ᾱ ε − √(1−ᾱ) x_0 (Salimans & Ho 2022, arXiv 2202.00512).
    VPrediction,
    /// The posterior mean of x_{t−1} in the training chain (Ho et al.'s μ̃).
    PreviousMean,
}

/// The linear map `x·x_t + output·network(x_t)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FromOutput {
    /// Factor of x_t.
    pub x: f64,
    /// Factor of the network's output.
    pub output: f64,
}

impl FromOutput {
    /// The map applied to one element.
    pub fn apply(self, x_t: f64, output: f64) -> f64 {
        self.x * x_t + self.output * output
    }
}

/// A training target as `sample·x_0 + epsilon·ε`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    /// Factor of x_0.
    pub sample: f64,
    /// Factor of ε.
    pub epsilon: f64,
}

impl Prediction {
    /// Every prediction with its name.
    pub const NAMES: [(&'static str, Self); 4] = [
        ("epsilon", Self::Epsilon),
        ("sample", Self::Sample),
        ("v_prediction", Self::VPrediction),
        ("previous_mean", Self::PreviousMean),
    ];

    /// The map to x̂0 at noise level ᾱ_t. `alpha_cumprod_prev`, ᾱ_{t−1} of the *training* chain, matters to
    /// [`Prediction::PreviousMean`] only.
    ///
    /// Not finite for [`Prediction::Epsilon`] at ᾱ_t = 0: pure noise tells nothing about x_0.
    pub fn sample(self, alpha_cumprod: f64, alpha_cumprod_prev: f64) -> FromOutput {
        let (signal, noise) = (alpha_cumprod.sqrt(), (1.0 - alpha_cumprod).sqrt());
        match self {
            Self::Epsilon => FromOutput { x: 1.0 / signal, output: -noise / signal },
            Self::Sample => FromOutput { x: 0.0, output: 1.0 },
            Self::VPrediction => FromOutput { x: signal, output: -noise },
            Self::PreviousMean => {
                let posterior = Posterior::between(alpha_cumprod, alpha_cumprod_prev);
                FromOutput { x: -posterior.coef_xt / posterior.coef_x0, output: 1.0 / posterior.coef_x0 }
            }
        }
    }

    /// The map to ε̂ at noise level ᾱ_t; arguments as in [`Prediction::sample`].
    pub fn epsilon(self, alpha_cumprod: f64, alpha_cumprod_prev: f64) -> FromOutput {
        let (signal, noise) = (alpha_cumprod.sqrt(), (1.0 - alpha_cumprod).sqrt());
        match self {
            Self::Epsilon => FromOutput { x: 0.0, output: 1.0 },
            Self::VPrediction => FromOutput { x: noise, output: signal },
            Self::Sample | Self::PreviousMean => {
                let sample = self.sample(alpha_cumprod, alpha_cumprod_prev);
                let epsilon = epsilon_from_sample(alpha_cumprod);
                FromOutput { x: epsilon.x + epsilon.output * sample.x, output: epsilon.output * sample.output }
            }
        }
    }

    /// What the network should answer at t when x_t was made of x_0 and ε.
    pub fn target(self, schedule: &NoiseSchedule, t: usize) -> Target {
        let (signal, noise) = schedule.q_sample(t);
        match self {
            Self::Epsilon => Target { sample: 0.0, epsilon: 1.0 },
            Self::Sample => Target { sample: 1.0, epsilon: 0.0 },
            Self::VPrediction => Target { sample: -noise, epsilon: signal },
            Self::PreviousMean => {
                let posterior = schedule.posterior(t);
                Target { sample: posterior.coef_x0 + posterior.coef_xt * signal, epsilon: posterior.coef_xt * noise }
            }
        }
    }
}

/// ε as a map of x_t and x̂0 (in place of the output): (x_t − √ᾱ x̂0)/√(1−ᾱ).
pub fn epsilon_from_sample(alpha_cumprod: f64) -> FromOutput {
    let noise = (1.0 - alpha_cumprod).sqrt();
    FromOutput { x: 1.0 / noise, output: -alpha_cumprod.sqrt() / noise }
}

impl fmt::Display for Prediction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(name_of(self, &Self::NAMES))
    }
}

impl FromStr for Prediction {
    type Err = Error;

    /// Reads the names of `NAMES`.
    fn from_str(name: &str) -> Result<Self, Error> {
        named("prediction", name, &Self::NAMES)
    }
}
