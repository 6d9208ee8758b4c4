//! diffusers' `scheduler_config.json` for `DDPMScheduler` and `DDIMScheduler`.
//!
//! Every key is either supported or an error that names it. Only keys that have no effect in diffusers are ignored.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{BetaSchedule, Clip, Error, NoiseSchedule, Prediction, SolverTable, TimestepSpacing, Variance, solver};

/// The scheduler class of a configuration (`_class_name`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum SchedulerClass {
    /// Ancestral sampling.
    #[default]
    #[serde(rename = "DDPMScheduler")]
    Ddpm,
    /// Denoising diffusion implicit models (Song et al. 2021).
    #[serde(rename = "DDIMScheduler")]
    Ddim,
}

/// The keys of both schedulers, with diffusers' defaults. Either class may have the keys of the other, since diffusers
/// keeps them when it converts one into the other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SchedulerConfig {
    /// The scheduler class.
    #[serde(rename = "_class_name")]
    pub class: SchedulerClass,
    /// T.
    pub num_train_timesteps: usize,
    /// β at t = 0.
    pub beta_start: f64,
    /// β at t = T−1.
    pub beta_end: f64,
    /// The rule of the betas.
    pub beta_schedule: BetaSchedule,
    /// A list of betas, instead of a rule.
    pub trained_betas: Option<Vec<f64>>,
    /// The variance of the reverse step (DDPM only). With `learned` the network predicts the log-variance, as in Ho et
    /// al.; diffusers reads its output as the variance, but no known checkpoint does so.
    pub variance_type: Variance,
    /// Clips x̂0.
    pub clip_sample: bool,
    /// The bound of the clip: x̂0 is clamped to ± this number.
    pub clip_sample_range: f64,
    /// The quantity that the network predicts. diffusers does not support `previous_mean`.
    pub prediction_type: Prediction,
    /// The rule of the sampled timesteps. diffusers does not support `quadratic`.
    pub timestep_spacing: TimestepSpacing,
    /// Added to every timestep of the `leading` spacing.
    pub steps_offset: usize,
    /// Rescales ᾱ to end at 0.
    pub rescale_betas_zero_snr: bool,
    /// Ends the last step at ᾱ = 1 instead of ᾱ_0 (DDIM only).
    pub set_alpha_to_one: bool,
    /// Applies dynamic thresholding to x̂0; `clip_sample` is then ignored.
    pub thresholding: bool,
    /// The quantile of |x̂0| used as the threshold.
    pub dynamic_thresholding_ratio: f64,
    /// The greatest threshold.
    pub sample_max_value: f64,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            class: SchedulerClass::Ddpm,
            num_train_timesteps: 1000,
            beta_start: 0.0001,
            beta_end: 0.02,
            beta_schedule: BetaSchedule::Linear,
            trained_betas: None,
            variance_type: Variance::FixedSmall,
            clip_sample: true,
            clip_sample_range: 1.0,
            prediction_type: Prediction::Epsilon,
            timestep_spacing: TimestepSpacing::Leading,
            steps_offset: 0,
            rescale_betas_zero_snr: false,
            set_alpha_to_one: true,
            thresholding: false,
            dynamic_thresholding_ratio: 0.995,
            sample_max_value: 1.0,
        }
    }
}

/// The β rules that both of diffusers' classes have.
const DIFFUSERS_SCHEDULES: [BetaSchedule; 3] =
    [BetaSchedule::Linear, BetaSchedule::ScaledLinear, BetaSchedule::SquaredcosCapV2];

impl SchedulerConfig {
    /// Parses a `scheduler_config.json`. Keys that start with `_`, diffusers' metadata, are ignored.
    ///
    /// # Errors
    /// If the JSON is invalid, the scheduler class is another one, or a key or value is unknown or unsupported.
    pub fn from_json(json: &str) -> Result<Self, Error> {
        let mut keys: Map<String, Value> = serde_json::from_str(json).map_err(error)?;
        if !keys.contains_key("_class_name") {
            return Err(error("`_class_name` is missing, expected DDPMScheduler or DDIMScheduler"));
        }
        keys.retain(|key, _| !key.starts_with('_') || key == "_class_name");
        upgrade(&mut keys)?;
        let config: Self = serde_json::from_value(Value::Object(keys)).map_err(error)?;
        if !(config.clip_sample_range > 0.0 && config.clip_sample_range.is_finite()) {
            return Err(error(format!(
                "`clip_sample_range` is {}, expected a positive number",
                config.clip_sample_range
            )));
        }
        if config.thresholding && !config.clip().is_some_and(Clip::is_valid) {
            let SchedulerConfig { dynamic_thresholding_ratio: ratio, sample_max_value: max, .. } = config;
            return Err(error(format!(
                "`dynamic_thresholding_ratio` is {ratio} and `sample_max_value` is {max}, expected 0 to 1 and a positive number"
            )));
        }
        if config.num_train_timesteps == 0 || config.num_train_timesteps > MAX_TIMESTEPS {
            return Err(error(format!(
                "`num_train_timesteps` is {}, expected 1 to {MAX_TIMESTEPS}",
                config.num_train_timesteps
            )));
        }
        config.noise_schedule()?;
        Ok(config)
    }

    /// Formats a `scheduler_config.json` as diffusers does: every key of the class, sorted, indented by two. β rules
    /// that diffusers does not have are written as `trained_betas`.
    ///
    /// # Errors
    /// If the configuration cannot be serialized.
    pub fn to_json(&self) -> Result<String, Error> {
        let mut config = self.clone();
        let known = DIFFUSERS_SCHEDULES.contains(&self.beta_schedule)
            || self.class == SchedulerClass::Ddpm
                && matches!(self.beta_schedule, BetaSchedule::Sigmoid | BetaSchedule::Laplace);
        if !known {
            let rule =
                |schedule: BetaSchedule| schedule.betas(self.beta_start, self.beta_end, self.num_train_timesteps);
            config.trained_betas.get_or_insert_with(|| rule(self.beta_schedule));
            config.beta_schedule = BetaSchedule::Linear;
        }
        let mut value = serde_json::to_value(&config).map_err(error)?;
        if let Value::Object(keys) = &mut value {
            keys.remove(match self.class {
                SchedulerClass::Ddpm => "set_alpha_to_one",
                SchedulerClass::Ddim => "variance_type",
            });
            keys.sort_keys();
        }
        let json = serde_json::to_string_pretty(&value).map_err(error)?;
        Ok(json + "\n")
    }

    /// Builds the noise schedule.
    ///
    /// # Errors
    /// If the betas are invalid, or `trained_betas` does not have `num_train_timesteps` entries.
    pub fn noise_schedule(&self) -> Result<NoiseSchedule, Error> {
        let schedule = match &self.trained_betas {
            Some(betas) if betas.len() != self.num_train_timesteps => {
                let expected = self.num_train_timesteps;
                return Err(Error::Length { name: "trained_betas", found: betas.len(), expected });
            }
            Some(betas) => NoiseSchedule::from_betas(betas.clone()),
            None => NoiseSchedule::new(self.beta_schedule, self.beta_start, self.beta_end, self.num_train_timesteps),
        }?;
        if self.rescale_betas_zero_snr { schedule.rescale_zero_terminal_snr() } else { Ok(schedule) }
    }

    /// Returns the clipping of x̂0, if any.
    pub fn clip(&self) -> Option<Clip> {
        if self.thresholding {
            return Some(Clip::Dynamic { ratio: self.dynamic_thresholding_ratio, max: self.sample_max_value });
        }
        self.clip_sample.then_some(Clip::Range(self.clip_sample_range))
    }

    /// Returns the timesteps of a sampler with `steps` steps, descending (diffusers' `set_timesteps`).
    ///
    /// # Errors
    /// As [`TimestepSpacing::timesteps`].
    pub fn timesteps(&self, steps: usize) -> Result<Vec<usize>, Error> {
        self.timestep_spacing.timesteps(self.num_train_timesteps, steps, self.steps_offset)
    }

    /// Builds the table of diffusers' scheduler of this class with `steps` inference steps, including two
    /// peculiarities:
    ///
    /// * DDPM adds noise on every step that starts at t > 0, which with `trailing` spacing includes the last step.
    /// * DDIM steps from t to t − ⌊T/steps⌋ rather than to the next timestep. With `linspace` spacing, or if T/steps is
    ///   not whole, x then has a slightly different noise level than its timestep.
    ///
    /// [`solver::ddpm`] and [`solver::ddim`] have neither. `eta` is DDIM's; 0 is diffusers' default.
    ///
    /// # Errors
    /// As [`SchedulerConfig::noise_schedule`], [`SchedulerConfig::timesteps`], [`solver::ddpm`] and [`solver::ddim`].
    pub fn solver_table(&self, steps: usize, eta: f64) -> Result<SolverTable, Error> {
        let schedule = self.noise_schedule()?;
        let timesteps = self.timesteps(steps)?;
        match self.class {
            SchedulerClass::Ddpm => {
                let mut table = solver::ddpm(&schedule, &timesteps, self.variance_type, self.clip())?;
                if let (Some(row), Some(&t @ 1..)) = (table.rows.last_mut(), timesteps.last()) {
                    solver::set_noise(row, self.variance_type.diffusers_log_variance(schedule.alpha_cumprod(t), 1.0));
                }
                Ok(table)
            }
            SchedulerClass::Ddim => {
                let stride = self.num_train_timesteps / steps;
                let last = if self.set_alpha_to_one { 1.0 } else { schedule.alpha_cumprod(0) };
                let alpha_cumprod_s = |t: usize| t.checked_sub(stride).map_or(last, |s| schedule.alpha_cumprod(s));
                let rows = timesteps.iter().map(|&t| solver::ddim_row(&schedule, t, alpha_cumprod_s(t), eta));
                SolverTable {
                    name: format!("ddim eta={eta}"),
                    rows: rows.collect::<Result<_, _>>()?,
                    clip_sample: self.clip(),
                    epsilon_from_clipped: false,
                }
                .checked()
            }
        }
    }
}

/// Bounds the memory that a file can make this program allocate; far above any T in use.
const MAX_TIMESTEPS: usize = 1_000_000;

/// Upgrades keys of early versions of diffusers: removes two without effect, and replaces `predict_epsilon` by
/// `prediction_type`.
fn upgrade(keys: &mut Map<String, Value>) -> Result<(), Error> {
    keys.remove("tensor_format");
    if let Some(value) = keys.remove("timestep_values").filter(|value| !value.is_null()) {
        return Err(error(format!("`timestep_values`: {value} is not supported")));
    }
    match keys.remove("predict_epsilon") {
        None => {}
        Some(Value::Bool(epsilon)) => {
            let word = if epsilon { "epsilon" } else { "sample" };
            keys.entry("prediction_type").or_insert(word.into());
        }
        Some(value) => return Err(error(format!("`predict_epsilon` is {value}, expected true or false"))),
    }
    Ok(())
}

fn error(problem: impl ToString) -> Error {
    Error::SchedulerConfig(problem.to_string())
}
