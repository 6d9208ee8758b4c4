//! diffusers' `scheduler_config.json`.
//!
//! Every key is either supported, or without effect in the class, or an error that names it.

mod binomial;
mod class;
mod edm;
mod json;
mod keys;
mod nodes;
mod tables;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use binomial::ProcessKind;
pub use class::SchedulerClass;
pub use keys::{AlgorithmType, FinalSigmasType, InterpolationType, SolverKeys, SolverType};

use crate::{BetaSchedule, Clip, Error, NoiseSchedule, Prediction, SolverTable, TimestepSpacing, Variance, solver};

/// A `scheduler_config.json`, with the defaults of [`SchedulerClass::Ddpm`]. DDPM and DDIM may have each other's keys,
/// since diffusers keeps them when it converts one into the other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SchedulerConfig {
    /// The scheduler class.
    #[serde(rename = "_class_name")]
    pub class: SchedulerClass,
    /// The kind of noise. A binomial chain has no scheduler in diffusers and is written under a name of its own.
    #[serde(skip_serializing_if = "ProcessKind::is_gaussian")]
    pub process: ProcessKind,
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
    /// The further keys of a class other than DDPM and DDIM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub solver: Option<SolverKeys>,
    /// Keys without effect in the class, which are written as they were read.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub unused: Map<String, Value>,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            class: SchedulerClass::Ddpm,
            process: ProcessKind::Gaussian,
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
            solver: None,
            unused: Map::new(),
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
    /// If the JSON is invalid, the scheduler class is not supported, or a key or value is unknown or unsupported.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        // Some editors begin a file with a byte order mark.
        let mut keys = json::read(text.trim_start_matches('\u{feff}')).map_err(error)?;
        if keys.get("_class_name").is_some_and(|name| name == edm::CLASS_NAME) {
            keys.retain(|key, _| !key.starts_with('_'));
            return edm::read(keys);
        }
        if keys.get("_class_name").is_some_and(|name| name == binomial::CLASS_NAME) {
            keys.retain(|key, _| !key.starts_with('_'));
            return binomial::read(keys);
        }
        let class = match keys.get("_class_name") {
            Some(Value::String(name)) => SchedulerClass::read(name)?,
            Some(other) => return Err(error(format!("`_class_name` is {}, expected a name", json::show(other)))),
            None => {
                return Err(error("`_class_name` is missing, expected DDPMScheduler, DDIMScheduler or another class"));
            }
        };
        keys.retain(|key, _| !key.starts_with('_'));
        upgrade(&mut keys)?;
        let defaults = class.defaults();
        let is_own = |key: &str| {
            defaults.contains_key(key)
                || class.is_ddpm_or_ddim()
                    && [SchedulerClass::Ddpm, SchedulerClass::Ddim].iter().any(|c| c.defaults().contains_key(key))
                // diffusers looks for them in every class with spacings in σ.
                || ["sigma_min", "sigma_max"].contains(&key) && defaults.contains_key("use_karras_sigmas")
        };
        let (mut own, mut unused) = (defaults.clone(), Map::new());
        for (key, value) in keys {
            if is_own(&key) {
                let value = match (defaults.get(&key), value) {
                    // Python takes None for false.
                    (Some(Value::Bool(_)), Value::Null) if !class.is_ddpm_or_ddim() => false.into(),
                    (Some(default), Value::Null) if !default.is_null() => {
                        return Err(error(format!("`{key}` is null, expected a value")));
                    }
                    (_, value) => value,
                };
                own.insert(key, value);
            } else if SchedulerClass::is_key(&key) {
                unused.insert(key, value);
            } else {
                return Err(error(format!("`{}` is not a key of {class}", json::short(&key))));
            }
        }
        let solver = if class.is_ddpm_or_ddim() {
            None
        } else {
            let solver: SolverKeys = typed(&own)?;
            solver.check(class, &own)?;
            Some(solver)
        };
        // Keys that the class does not have must have no effect.
        let absent = |key: &str| !class.is_ddpm_or_ddim() && !own.contains_key(key);
        let mut config: Self = typed(&own)?;
        config.class = class;
        config.clip_sample &= !absent("clip_sample");
        config.set_alpha_to_one |= absent("set_alpha_to_one");
        if absent("timestep_spacing") {
            config.timestep_spacing = TimestepSpacing::Linspace;
        }
        config.solver = solver;
        let mut written = config.typed_keys()?;
        written.retain(|key, _| own.contains_key(key));
        unused.extend(own.into_iter().filter(|(key, _)| !written.contains_key(key)));
        config.unused = unused;
        if config.prediction_type == Prediction::Edm {
            return Err(error(format!(
                "`prediction_type` is edm, which {class} does not have; expected another class, {}",
                edm::CLASS_NAME
            )));
        }
        config.check()?;
        edm::check(&config)?;
        Ok(config)
    }

    /// Checks the ranges of values.
    fn check(&self) -> Result<(), Error> {
        let range =
            |key: &str, value: f64, expected: &str| Err(error(format!("`{key}` is {value:?}, expected {expected}")));
        if !(self.clip_sample_range > 0.0 && self.clip_sample_range <= MAX_CLIP) {
            return range("clip_sample_range", self.clip_sample_range, "a positive number up to 1e6");
        }
        if self.thresholding {
            if !(0.0..=1.0).contains(&self.dynamic_thresholding_ratio) {
                return range("dynamic_thresholding_ratio", self.dynamic_thresholding_ratio, "0 to 1");
            }
            if !(1.0..=MAX_CLIP).contains(&self.sample_max_value) {
                return range("sample_max_value", self.sample_max_value, "1 to 1e6");
            }
        }
        if self.num_train_timesteps == 0 || self.num_train_timesteps > MAX_TIMESTEPS {
            return Err(error(format!(
                "`num_train_timesteps` is {}, expected 1 to {MAX_TIMESTEPS}",
                self.num_train_timesteps
            )));
        }
        if self.steps_offset >= self.num_train_timesteps {
            return Err(error(format!(
                "`steps_offset` is {}, expected less than `num_train_timesteps`, {}",
                self.steps_offset, self.num_train_timesteps
            )));
        }
        if self.solver.is_some() && self.timestep_spacing == TimestepSpacing::Quadratic {
            let class = self.class;
            return Err(error(format!(
                "`timestep_spacing` is quadratic, which {class} does not have; expected linspace, leading or trailing"
            )));
        }
        self.schedule()?;
        Ok(())
    }

    /// Returns the keys that have a field, as they are written.
    fn typed_keys(&self) -> Result<Map<String, Value>, Error> {
        let object = |value: Result<Value, serde_json::Error>| match value.map_err(error)? {
            Value::Object(keys) => Ok::<_, Error>(keys),
            _ => Ok(Map::new()),
        };
        let mut keys = object(serde_json::to_value(Self { solver: None, unused: Map::new(), ..self.clone() }))?;
        if let Some(solver) = &self.solver {
            keys.extend(object(serde_json::to_value(solver))?);
            if !self.variance_type.is_learned() {
                keys.insert("variance_type".to_owned(), Value::Null);
            }
        }
        Ok(keys)
    }

    /// Formats a `scheduler_config.json` as diffusers does: every key of the class, sorted, indented by two. β rules
    /// that diffusers does not have are written as `trained_betas`.
    ///
    /// # Errors
    /// If the configuration cannot be serialized.
    pub fn to_json(&self) -> Result<String, Error> {
        Ok(json::write(&self.value()?).map_err(error)? + "\n")
    }

    /// Returns the keys of [`SchedulerConfig::to_json`]. JSON has no infinite numbers; they are strings.
    ///
    /// # Errors
    /// As [`SchedulerConfig::to_json`].
    pub fn to_value(&self) -> Result<Value, Error> {
        Ok(json::plain(self.value()?))
    }

    fn value(&self) -> Result<Value, Error> {
        if self.is_binomial() {
            return Ok(binomial::value(self));
        }
        if self.prediction_type == Prediction::Edm {
            return edm::value(self);
        }
        let mut config = self.clone();
        let is_ddpm = matches!(self.class, SchedulerClass::Ddpm | SchedulerClass::DdpmParallel);
        let known = DIFFUSERS_SCHEDULES.contains(&self.beta_schedule)
            || is_ddpm && matches!(self.beta_schedule, BetaSchedule::Sigmoid | BetaSchedule::Laplace);
        if !known {
            let rule =
                |schedule: BetaSchedule| schedule.betas(self.beta_start, self.beta_end, self.num_train_timesteps);
            config.trained_betas.get_or_insert_with(|| rule(self.beta_schedule));
            config.beta_schedule = BetaSchedule::Linear;
        }
        let mut keys = config.typed_keys()?;
        let defaults = self.class.defaults();
        let is_given = |key: &str, value: &Value| ["sigma_min", "sigma_max"].contains(&key) && !value.is_null();
        keys.retain(|key, value| key == "_class_name" || defaults.contains_key(key) || is_given(key, value));
        keys.extend(self.unused.clone());
        keys.sort_keys();
        Ok(Value::Object(keys))
    }

    /// Returns the keys of the classes of higher order, with the values that have no effect if there are none.
    fn keys(&self) -> std::borrow::Cow<'_, SolverKeys> {
        match &self.solver {
            Some(keys) => std::borrow::Cow::Borrowed(keys),
            None => std::borrow::Cow::Owned(SolverKeys::default()),
        }
    }

    /// Returns the class with its keys that are not about the chain: those that select its method, and others that differ
    /// from the class's defaults.
    pub fn describe(&self) -> String {
        if self.is_binomial() {
            return format!("{}, which diffusers does not have", binomial::CLASS_NAME);
        }
        const ALWAYS: [&str; 5] =
            ["algorithm_type", "solver_order", "solver_type", "timestep_spacing", "variance_type"];
        const CHAIN: [&str; 7] = [
            "_class_name",
            "num_train_timesteps",
            "beta_start",
            "beta_end",
            "beta_schedule",
            "trained_betas",
            "prediction_type",
        ];
        let defaults = self.class.defaults();
        let keys = self.typed_keys().unwrap_or_default();
        let shown = keys.iter().filter(|(key, value)| {
            let default = defaults.get(key.as_str());
            let is_new = default != Some(value) && !CHAIN.contains(&key.as_str());
            default.is_some() && !value.is_null() && (is_new || ALWAYS.contains(&key.as_str()))
        });
        let shown: Vec<String> =
            shown.map(|(key, value)| format!("{key} {}", json::show(value).trim_matches('"'))).collect();
        format!("{} ({})", self.class_name(), shown.join(", "))
    }

    /// Builds the noise schedule of a Gaussian chain.
    ///
    /// # Errors
    /// If the betas are invalid, `trained_betas` does not have `num_train_timesteps` entries, or the chain is binomial: whatever
    /// needs Gaussian noise fails here.
    pub fn noise_schedule(&self) -> Result<NoiseSchedule, Error> {
        if self.is_binomial() {
            return Err(Error::Unsupported(
                "the model's chain is binomial, of bits, and this needs a Gaussian one; sample, evaluate and inspect know \
                 binomial chains"
                    .to_owned(),
            ));
        }
        self.schedule()
    }

    /// Builds the noise schedule of either kind of chain.
    fn schedule(&self) -> Result<NoiseSchedule, Error> {
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

    /// Returns the name of the class under which the configuration is written.
    pub fn class_name(&self) -> &'static str {
        match self.prediction_type {
            _ if self.is_binomial() => binomial::CLASS_NAME,
            Prediction::Edm => edm::CLASS_NAME,
            _ => self.class.name(),
        }
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
        let (total, offset) = (self.num_train_timesteps, self.steps_offset);
        let timesteps = self.timestep_spacing.timesteps(total, steps, offset);
        if let (Err(Error::Timestep { .. }), 1..) = (&timesteps, offset) {
            let last = (steps - 1) * (total / steps) + offset;
            return Err(error(format!(
                "`steps_offset` is {offset}, which with {steps} steps leads to timestep {last} of {total}; use fewer steps"
            )));
        }
        timesteps
    }

    /// Builds the table of diffusers' scheduler of this class with `steps` inference steps, including two
    /// peculiarities:
    ///
    /// * DDPM adds noise on every step that starts at t > 0, which with `trailing` spacing includes the last step.
    /// * DDIM and PNDM step from t to t − ⌊T/steps⌋ rather than to the next timestep. With `linspace` spacing, or if
    ///   T/steps is not whole, x then has a slightly different noise level than its timestep.
    ///
    /// [`solver::ddpm`] and [`solver::ddim`] have neither. `eta` is DDIM's; 0 is diffusers' default.
    ///
    /// # Errors
    /// As [`SchedulerConfig::noise_schedule`], [`SchedulerConfig::timesteps`], [`solver::ddpm`] and [`solver::ddim`]; and
    /// if the class has no sampler here.
    pub fn solver_table(&self, steps: usize, eta: f64) -> Result<SolverTable, Error> {
        use SchedulerClass::*;
        match self.class {
            Ddpm | DdpmParallel => {
                let schedule = self.noise_schedule()?;
                let timesteps = self.timesteps(steps)?;
                let mut table = solver::ddpm(&schedule, &timesteps, self.variance_type, self.clip())?;
                if let (Some(row), Some(&t @ 1..)) = (table.rows.last_mut(), timesteps.last()) {
                    solver::set_noise(row, self.variance_type.diffusers_log_variance(schedule.alpha_cumprod(t), 1.0));
                }
                Ok(table)
            }
            Ddim | DdimParallel => {
                let schedule = self.noise_schedule()?;
                let timesteps = self.timesteps(steps)?;
                let stride = self.num_train_timesteps / steps;
                let last = if self.set_alpha_to_one { 1.0 } else { schedule.alpha_cumprod(0) };
                let alpha_cumprod_s = |t: usize| t.checked_sub(stride).map_or(last, |s| schedule.alpha_cumprod(s));
                let rows = timesteps.iter().map(|&t| solver::ddim_row(&schedule, t, alpha_cumprod_s(t), eta));
                SolverTable {
                    name: format!("ddim eta={eta}"),
                    rows: rows.collect::<Result<_, _>>()?,
                    clip_sample: self.clip(),
                    epsilon_from_clipped: false,
                    initial_scale: 1.0,
                }
                .checked()
            }
            Pndm if steps < 2 => Err(error("PNDMScheduler needs at least 2 steps")),
            Pndm => self.table_of(tables::pndm_of_diffusers(self, steps)?),
            class if class.has_sampler() => self.table_of(tables::rows(self, &nodes::nodes(self, steps)?)?),
            class => Err(error(format!("{class} has no sampler here"))),
        }
    }

    /// Builds the table of this class over the given timesteps, in any order. `from_noise` says that x is noise at the
    /// first of them, and not an image with noise.
    ///
    /// # Errors
    /// As [`SchedulerConfig::solver_table`]; also for DDPM and DDIM, which have [`solver::ddpm`] and [`solver::ddim`],
    /// and if the class spaces σ by a rule of its own.
    pub fn solver_table_over(&self, timesteps: &[usize], from_noise: bool) -> Result<SolverTable, Error> {
        if self.class.is_ddpm_or_ddim() || !self.class.has_sampler() {
            return Err(error(format!("{} has no sampler over a list of timesteps here", self.class)));
        }
        let mut nodes = nodes::over(self, timesteps)?;
        if let (SchedulerClass::Pndm, false, Some(last)) = (self.class, self.set_alpha_to_one, nodes.last_mut()) {
            // PNDM ends at t = 0, where a step from t = 0 changes nothing.
            *last = crate::Node::at(&self.noise_schedule()?, 0.0);
        }
        let mut table = self.table_of(tables::rows(self, &nodes)?)?;
        if !from_noise {
            table.initial_scale = 1.0;
        }
        Ok(table)
    }

    /// Returns the table of a class of higher order.
    fn table_of(&self, rows: Vec<crate::solver_table::Row>) -> Result<SolverTable, Error> {
        use SchedulerClass::*;
        let keys = self.keys();
        // y = x/α starts as noise of deviation σ/α, or √(1 + (σ/α)²) with `leading` spacing: x as σ or 1.
        let initial_scale = match rows.first() {
            Some(first) if self.class.is_in_sigma() && self.timestep_spacing != TimestepSpacing::Leading => {
                first.node.level.sigma
            }
            _ => 1.0,
        };
        let clip_sample = self.clip().filter(|_| self.class != UniPcMultistep || keys.predict_x0);
        let table = SolverTable { name: self.describe(), rows, clip_sample, epsilon_from_clipped: true, initial_scale };
        table.checked().map_err(|problem| match problem {
            Error::Row { row, .. } => error(format!(
                "step {row} of {} divides by zero, as it does in diffusers; use another number of steps or another \
                 `final_sigmas_type`",
                self.describe()
            )),
            problem => problem,
        })
    }
}

/// Bounds the memory that a file can make this program allocate; far above any T in use.
const MAX_TIMESTEPS: usize = 1_000_000;

/// Bounds of x̂0 above this are not bounds of images.
const MAX_CLIP: f64 = 1e6;

/// Deserializes keys; an error names the one whose value is wrong. `null` is the default.
fn typed<T: DeserializeOwned>(keys: &Map<String, Value>) -> Result<T, Error> {
    let given = |keys: Map<String, Value>| keys.into_iter().filter(|(_, value)| !value.is_null()).collect();
    let read = |keys: Map<String, Value>| serde_json::from_value::<T>(Value::Object(keys));
    let given: Map<String, Value> = given(keys.clone());
    read(given.clone()).map_err(|problem| {
        let wrong = given.into_iter().find_map(|(key, value)| {
            let problem = read(Map::from_iter([(key.clone(), value.clone())])).err()?;
            Some(error(format!(
                "`{key}` is {}: {}",
                json::show(&value),
                json::short(&problem.to_string().replace("\\u{0}", ""))
            )))
        });
        wrong.unwrap_or_else(|| error(problem))
    })
}

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
