//! The configuration of a binomial chain. diffusers has no such class, so its name and keys are our own.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{SchedulerConfig, error, json as text, typed};
use crate::{BetaSchedule, Error, NoiseSchedule, Prediction};

/// The name under which a binomial chain is written.
pub(super) const CLASS_NAME: &str = "BinomialScheduler";
/// The keys of the class.
const KEYS: [&str; 5] = ["num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas"];

/// The kind of noise of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessKind {
    /// Gaussian noise (Ho et al. 2020).
    #[default]
    Gaussian,
    /// Bits that are replaced by fair coins ([`binomial`](crate::binomial)).
    Binomial,
}

impl ProcessKind {
    /// Returns whether the chain is Gaussian.
    pub fn is_gaussian(&self) -> bool {
        *self == Self::Gaussian
    }
}

/// Reads the keys of the class.
pub(super) fn read(keys: Map<String, Value>) -> Result<SchedulerConfig, Error> {
    if let Some(key) = keys.keys().find(|key| !KEYS.contains(&key.as_str())) {
        return Err(error(format!("`{}` is not a key of {CLASS_NAME}", text::short(key))));
    }
    let given: SchedulerConfig = typed(&keys)?;
    let SchedulerConfig { num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, .. } = given;
    let own = SchedulerConfig {
        beta_start,
        beta_end,
        trained_betas,
        ..SchedulerConfig::binomial(beta_schedule, num_train_timesteps)
    };
    own.check()?;
    Ok(own)
}

/// Returns the keys of the class for a configuration.
pub(super) fn value(config: &SchedulerConfig) -> Value {
    let mut keys = json!({
        "_class_name": CLASS_NAME,
        "beta_end": config.beta_end,
        "beta_schedule": config.beta_schedule,
        "beta_start": config.beta_start,
        "num_train_timesteps": config.num_train_timesteps,
        "trained_betas": config.trained_betas,
    });
    keys.sort_all_objects();
    keys
}

impl SchedulerConfig {
    /// Returns the configuration of a binomial chain, whose network predicts the logit of each bit of b_0.
    pub fn binomial(beta_schedule: BetaSchedule, num_train_timesteps: usize) -> Self {
        Self {
            process: ProcessKind::Binomial,
            num_train_timesteps,
            beta_schedule,
            clip_sample: false,
            prediction_type: Prediction::Sample,
            ..Self::default()
        }
    }

    /// Returns whether the chain is binomial.
    pub fn is_binomial(&self) -> bool {
        self.process == ProcessKind::Binomial
    }

    /// Builds the noise schedule of a binomial chain.
    ///
    /// # Errors
    /// If the chain is Gaussian, or as [`SchedulerConfig::noise_schedule`].
    pub fn binomial_schedule(&self) -> Result<NoiseSchedule, Error> {
        if !self.is_binomial() {
            return Err(Error::Unsupported(
                "the model's chain is Gaussian; expected a binomial one, of bits".to_owned(),
            ));
        }
        self.schedule()
    }
}
