//! Weights of the squared error per timestep.
//!
//! The losses of the papers, where MSE is the mean over the dimensions of an image and then over the batch:
//! * **L_simple** (Ho et al. eq. 14): weight 1.
//! * **min-SNR-γ** (Hang et al. 2023, arXiv 2303.09556): [`LossWeight::MinSnr`].
//! * **L_vlb**: [`VariationalBound::term`](crate::VariationalBound::term) in place of the MSE; t drawn by importance.
//! * **L_hybrid** (Nichol & Dhariwal 2021, eq. 16): L_simple plus [`hybrid_vb_scale`] times that term, whose gradient
//!   reaches the variance channels only.

use serde::{Deserialize, Serialize};

use crate::prediction::SIGMA_DATA;
use crate::{Error, NoiseSchedule, Prediction};

/// The weight of the squared error at each timestep.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossWeight {
    /// 1 everywhere: L_simple.
    #[default]
    Simple,
    /// min(SNR_t, γ) on the squared error of x̂0, converted to a weight on the error of the network's output.
    MinSnr {
        /// γ; the paper's is 5.
        gamma: f64,
    },
    /// One weight per training timestep.
    List(Vec<f64>),
}

impl LossWeight {
    /// Returns the weights w_0 … w_{T−1}.
    ///
    /// # Errors
    /// If γ or a listed weight is negative or not finite, the list does not have T entries, or min-SNR is combined with
    /// [`Prediction::PreviousMean`], for which it is not defined.
    pub fn weights(&self, schedule: &NoiseSchedule, prediction: Prediction) -> Result<Vec<f64>, Error> {
        let steps = schedule.len();
        match self {
            Self::Simple => Ok(vec![1.0; steps]),
            Self::MinSnr { gamma } => {
                if !(*gamma > 0.0 && gamma.is_finite()) {
                    let expected = "a positive number";
                    return Err(Error::Value { name: "min_snr gamma", value: *gamma, expected });
                }
                (0..steps).map(|t| min_snr(schedule.snr(t), *gamma, prediction)).collect()
            }
            Self::List(weights) if weights.len() != steps => {
                Err(Error::Length { name: "loss weights", found: weights.len(), expected: steps })
            }
            Self::List(weights) => match weights.iter().find(|weight| !(**weight >= 0.0 && weight.is_finite())) {
                Some(&value) => Err(Error::Value { name: "loss weight", value, expected: "0 or a positive number" }),
                None => Ok(weights.clone()),
            },
        }
    }
}

/// Returns min(SNR, γ) divided by the ratio of the output's squared error to that of x̂0: SNR for ε and −ε, 1 for x̂0, SNR + 1
/// for v, SNR + 1/σ_data² for EDM.
fn min_snr(snr: f64, gamma: f64, prediction: Prediction) -> Result<f64, Error> {
    match prediction {
        // min(SNR, γ)/SNR, in a form that is 1 at zero SNR.
        Prediction::Epsilon | Prediction::EdmVp | Prediction::EdmVe | Prediction::EdmIddpm => {
            Ok((gamma / snr).min(1.0))
        }
        Prediction::Sample => Ok(snr.min(gamma)),
        Prediction::VPrediction => Ok(snr.min(gamma) / (snr + 1.0)),
        Prediction::Edm => Ok(snr.min(gamma) / (snr + SIGMA_DATA.powi(-2))),
        Prediction::PreviousMean => {
            Err(Error::Unsupported("min-SNR weights are not defined for previous_mean".to_owned()))
        }
    }
}

/// Returns the factor T/1000 of the bound's term in L_hybrid, as in improved-diffusion: λ = 0.001, times T because one
/// uniformly drawn term estimates a sum of T.
pub fn hybrid_vb_scale(num_train_timesteps: usize) -> f64 {
    num_train_timesteps as f64 / 1000.0
}
