//! How training draws the timestep t of each image. Callers bring the uniforms u ∈ [0, 1).

use serde::{Deserialize, Serialize};

use crate::Error;

/// t uniform on 0 … T−1, from one uniform.
pub fn uniform(u: f64, num_train_timesteps: usize) -> usize {
    // u < 1, but u·T can round up to T.
    ((u * num_train_timesteps as f64) as usize).min(num_train_timesteps.saturating_sub(1))
}

/// t of image `index` in a batch whose images share the one uniform `u0`: (u0 + index/batch) mod 1. Each t alone is still
/// uniform, but the batch covers the chain evenly, so its mean loss varies less (Kingma et al. 2021, VDM, appendix I.1).
pub fn low_discrepancy(u0: f64, index: usize, batch: usize, num_train_timesteps: usize) -> usize {
    uniform((u0 + index as f64 / batch as f64).fract(), num_train_timesteps)
}

/// A distribution over timesteps, from which importance sampling draws.
#[derive(Debug, Clone, PartialEq)]
pub struct TimestepDistribution {
    probabilities: Vec<f64>,
    cumulative: Vec<f64>,
}

impl TimestepDistribution {
    fn new(weights: &[f64]) -> Self {
        let sum: f64 = weights.iter().sum();
        let probabilities: Vec<f64> = weights.iter().map(|weight| weight / sum).collect();
        let cumulative = probabilities
            .iter()
            .scan(0.0, |total, p| {
                *total += p;
                Some(*total)
            })
            .collect();
        Self { probabilities, cumulative }
    }

    /// p_0 … p_{T−1}, which sum to 1.
    pub fn probabilities(&self) -> &[f64] {
        &self.probabilities
    }

    /// t drawn with one uniform, and the weight 1/(T p_t) that keeps the mean of the loss what it is under uniform t.
    pub fn sample(&self, u: f64) -> (usize, f64) {
        let last = self.cumulative.len() - 1;
        let t = self.cumulative.partition_point(|&c| c <= u * self.cumulative[last]).min(last);
        (t, 1.0 / (self.probabilities.len() as f64 * self.probabilities[t]))
    }
}

/// improved-diffusion's `loss-second-moment` sampler: p_t ∝ √E(L_t²) over the last losses seen at t, mixed with a little
/// of the uniform distribution (Nichol & Dhariwal 2021, section 3.3). Uniform until every t has its full history.
///
/// Serialises whole: a run that is stopped and resumed draws what it would have drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "LossHistory", into = "LossHistory")]
pub struct LossSecondMoment(LossHistory);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct LossHistory {
    history_per_term: usize,
    uniform_prob: f64,
    /// For each t its last losses, oldest first.
    loss_history: Vec<Vec<f64>>,
}

impl LossSecondMoment {
    /// The sampler with improved-diffusion's numbers: 10 losses per t, 0.001 of the uniform distribution.
    pub fn new(num_train_timesteps: usize) -> Result<Self, Error> {
        Self::with_history(num_train_timesteps, 10, 0.001)
    }

    /// The sampler with other numbers. Errors for no timesteps, no history and `uniform_prob` outside (0, 1].
    pub fn with_history(num_train_timesteps: usize, history_per_term: usize, uniform_prob: f64) -> Result<Self, Error> {
        let loss_history = vec![Vec::new(); num_train_timesteps];
        LossHistory { history_per_term, uniform_prob, loss_history }.try_into()
    }

    /// Takes note of the (unweighted) loss of one image at `t`. A loss that is not finite, which the trainer skips, is
    /// left out. Errors for `t` past the chain.
    pub fn update(&mut self, t: usize, loss: f64) -> Result<(), Error> {
        let LossHistory { history_per_term, loss_history, .. } = &mut self.0;
        let num_train_timesteps = loss_history.len();
        let history = loss_history.get_mut(t).ok_or(Error::Timestep { index: 0, timestep: t, num_train_timesteps })?;
        if loss.is_finite() {
            if history.len() == *history_per_term {
                history.remove(0);
            }
            history.push(loss);
        }
        Ok(())
    }

    /// Whether every t has its full history, so that draws are by importance.
    pub fn is_warmed_up(&self) -> bool {
        self.0.loss_history.iter().all(|history| history.len() == self.0.history_per_term)
    }

    /// What to draw the next batch from.
    pub fn distribution(&self) -> TimestepDistribution {
        let LossHistory { uniform_prob, loss_history, .. } = &self.0;
        let uniform = vec![1.0; loss_history.len()];
        if !self.is_warmed_up() {
            return TimestepDistribution::new(&uniform);
        }
        let second_moment = |history: &Vec<f64>| history.iter().map(|loss| loss * loss).sum::<f64>();
        let weights: Vec<f64> =
            loss_history.iter().map(|history| (second_moment(history) / history.len() as f64).sqrt()).collect();
        let sum: f64 = weights.iter().sum();
        // All losses zero: nothing to prefer. (Also where a sum overflows.)
        if !(sum > 0.0 && sum.is_finite()) {
            return TimestepDistribution::new(&uniform);
        }
        let floor = uniform_prob / weights.len() as f64;
        let mixed: Vec<f64> = weights.iter().map(|weight| (1.0 - uniform_prob) * weight / sum + floor).collect();
        TimestepDistribution::new(&mixed)
    }
}

impl TryFrom<LossHistory> for LossSecondMoment {
    type Error = Error;

    fn try_from(state: LossHistory) -> Result<Self, Error> {
        let LossHistory { history_per_term, uniform_prob, loss_history } = &state;
        if loss_history.is_empty() {
            return Err(Error::EmptySchedule);
        }
        if *history_per_term == 0 {
            return Err(Error::Value { name: "history_per_term", value: 0.0, expected: "at least 1" });
        }
        if !(*uniform_prob > 0.0 && *uniform_prob <= 1.0) {
            return Err(Error::Value { name: "uniform_prob", value: *uniform_prob, expected: "above 0, at most 1" });
        }
        if let Some(long) = loss_history.iter().find(|history| history.len() > *history_per_term) {
            return Err(Error::Length { name: "loss_history", found: long.len(), expected: *history_per_term });
        }
        if let Some(&value) = loss_history.iter().flatten().find(|loss| !loss.is_finite()) {
            return Err(Error::Value { name: "loss_history", value, expected: "finite numbers" });
        }
        Ok(Self(state))
    }
}

impl From<LossSecondMoment> for LossHistory {
    fn from(sampler: LossSecondMoment) -> Self {
        sampler.0
    }
}
