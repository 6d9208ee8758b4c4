//! Samplers of the training timestep t of each image. Callers pass the uniforms u ∈ [0, 1).

use serde::{Deserialize, Serialize};

use crate::{Cdf, Error, NoiseSchedule};

/// Returns t uniform on 0 … T−1, from one uniform.
pub fn uniform(u: f64, num_train_timesteps: usize) -> usize {
    // u < 1, but u·T can round up to T.
    ((u * num_train_timesteps as f64) as usize).min(num_train_timesteps.saturating_sub(1))
}

/// Returns t of image `index` in a batch whose images share one uniform: ⌊T·((u0 + index/batch) mod 1)⌋. Each t is
/// uniform, but a batch covers the chain evenly, so its mean loss varies less (Kingma et al. 2021, VDM, appendix I.1).
pub fn low_discrepancy(u0: f64, index: usize, batch: usize, num_train_timesteps: usize) -> usize {
    uniform((u0 + index as f64 / batch as f64).fract(), num_train_timesteps)
}

/// A distribution over timesteps for importance sampling.
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

    /// Creates the distribution of the timestep whose ln(σ/α) is nearest to a normally distributed number (Karras et al.
    /// 2022, table 1: mean −1.2, deviation 1.2). Where the last timestep has no signal, it is drawn for numbers that lie
    /// beyond the timestep before it.
    ///
    /// # Errors
    /// If the mean is not finite, or the deviation is not a positive number.
    pub fn log_normal(schedule: &NoiseSchedule, mean: f64, deviation: f64) -> Result<Self, Error> {
        if !mean.is_finite() {
            return Err(Error::Value { name: "mean of ln(σ/α)", value: mean, expected: "a finite number" });
        }
        if !(deviation > 0.0 && deviation.is_finite()) {
            return Err(Error::Value {
                name: "deviation of ln(σ/α)", value: deviation, expected: "a positive number"
            });
        }
        let mut logs: Vec<f64> = (0..schedule.len()).map(|t| -schedule.level(t).lambda()).collect();
        let below = |log: f64| Cdf::Erf.at((log - mean) / deviation);
        // No number is nearest to infinity: a last timestep without signal counts as one more step of ln(σ/α).
        if let [.., a, b, last] = &mut logs[..]
            && last.is_infinite()
        {
            *last = 2.0 * *b - *a;
        }
        // Between two timesteps, the nearest one changes half-way.
        let borders = logs.windows(2).map(|pair| below(0.5 * (pair[0] + pair[1])));
        let borders: Vec<f64> = [0.0].into_iter().chain(borders).chain([1.0]).collect();
        Ok(Self::new(&borders.windows(2).map(|pair| pair[1] - pair[0]).collect::<Vec<_>>()))
    }

    /// Returns p_0 … p_{T−1}, which sum to 1.
    pub fn probabilities(&self) -> &[f64] {
        &self.probabilities
    }

    /// Draws t with one uniform.
    pub fn draw(&self, u: f64) -> usize {
        let last = self.cumulative.len() - 1;
        self.cumulative.partition_point(|&c| c <= u * self.cumulative[last]).min(last)
    }

    /// Draws t with one uniform. Returns t and the weight 1/(T p_t), which makes the weighted loss an unbiased estimate
    /// of its mean under uniform t.
    pub fn sample(&self, u: f64) -> (usize, f64) {
        let t = self.draw(u);
        (t, 1.0 / (self.probabilities.len() as f64 * self.probabilities[t]))
    }
}

/// improved-diffusion's `loss-second-moment` sampler: p_t ∝ √E(L_t²) over the latest losses at t, mixed with a little
/// of the uniform distribution (Nichol & Dhariwal 2021, section 3.3). Uniform until every t has its full history.
///
/// All state is serialized, so a resumed run draws the same timesteps as an uninterrupted one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "LossHistory", into = "LossHistory")]
pub struct LossSecondMoment(LossHistory);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct LossHistory {
    history_per_term: usize,
    uniform_prob: f64,
    /// The latest losses of each t, oldest first.
    loss_history: Vec<Vec<f64>>,
}

impl LossSecondMoment {
    /// Creates a sampler with improved-diffusion's settings: 10 losses per t, and 0.001 of the uniform distribution.
    ///
    /// # Errors
    /// If there are no timesteps.
    pub fn new(num_train_timesteps: usize) -> Result<Self, Error> {
        Self::with_history(num_train_timesteps, 10, 0.001)
    }

    /// Creates a sampler that keeps `history_per_term` losses per t and mixes in `uniform_prob` of the uniform
    /// distribution.
    ///
    /// # Errors
    /// If there are no timesteps, `history_per_term` is 0, or `uniform_prob` is outside (0, 1].
    pub fn with_history(num_train_timesteps: usize, history_per_term: usize, uniform_prob: f64) -> Result<Self, Error> {
        let loss_history = vec![Vec::new(); num_train_timesteps];
        LossHistory { history_per_term, uniform_prob, loss_history }.try_into()
    }

    /// Records the unweighted loss of one image at `t`. Non-finite losses, whose steps the trainer skips, are ignored.
    ///
    /// # Errors
    /// If `t` is outside the chain.
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

    /// Returns whether every t has its full history, so that timesteps are drawn by importance.
    pub fn is_warmed_up(&self) -> bool {
        self.0.loss_history.iter().all(|history| history.len() == self.0.history_per_term)
    }

    /// Returns the distribution of the next batch's timesteps.
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
        // All losses are zero, or a sum overflowed.
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
