//! The state of training besides tensors.

use diffusion::timestep_sampler::LossSecondMoment;
use serde::{Deserialize, Serialize};

use crate::images_digest::ImagesDigest;
use crate::metrics::SelectionMetric;

/// The state of training besides tensors. Randomness is a function of seed and step, so it has no state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainState {
    /// Steps done.
    pub step: u64,
    /// Updates done: steps without those that were skipped. Adam's bias correction counts them.
    pub updates: u64,
    /// Steps skipped because the loss or a gradient was not finite.
    pub skipped: u64,
    /// Consecutive steps skipped up to now.
    pub skipped_in_a_row: usize,
    /// Roll-backs to an earlier checkpoint. Random numbers depend on it.
    pub rollbacks: u32,
    /// Roll-backs since the configuration changed, which are limited. As many as all in checkpoints that predate the key.
    #[serde(default)]
    pub attempts: Option<u32>,
    /// Roll-backs since `train.learning_rate` was set, each of which halves it. As many as all in checkpoints that predate
    /// the key.
    #[serde(default)]
    pub halvings: Option<u32>,
    /// Seconds of training, without validation, sampling and saving.
    pub seconds: f64,
    /// The losses that importance sampling of t remembers.
    pub importance: Option<LossSecondMoment>,
    /// The step of the best checkpoint, and its metric.
    #[serde(default)]
    pub best: Option<(u64, f64)>,
    /// The metric of `best`.
    #[serde(default)]
    pub best_by: SelectionMetric,
    /// The images that the run was trained on last. None in checkpoints that predate the key.
    #[serde(default)]
    pub images: Option<ImagesDigest>,
}

impl TrainState {
    /// Returns the number of roll-backs since the configuration changed.
    pub fn attempts(&self) -> u32 {
        self.attempts.unwrap_or(self.rollbacks)
    }

    /// Returns how often the learning rate is halved.
    pub fn halvings(&self) -> u32 {
        self.halvings.unwrap_or(self.rollbacks)
    }
}
