//! The configuration of a network with EDM's preconditioning, in the form of diffusers' `EDMEulerScheduler`.

use serde_json::{Map, Value, json};

use super::{SchedulerClass, SchedulerConfig, error, json as text};
use crate::beta_schedule::{KARRAS_RHO, KARRAS_SIGMAS};
use crate::prediction::{EDM_IDDPM_TIMESTEPS, SIGMA_DATA};
use crate::{BetaSchedule, Error, Prediction, TimestepSpacing};

/// The class of diffusers whose keys describe such a network.
pub(super) const CLASS_NAME: &str = "EDMEulerScheduler";

/// Returns the keys of the class, with the values that are supported.
fn keys(num_train_timesteps: usize) -> Map<String, Value> {
    let [sigma_min, sigma_max] = KARRAS_SIGMAS;
    let keys = json!({
        "final_sigmas_type": "zero",
        "num_train_timesteps": num_train_timesteps,
        "prediction_type": "epsilon",
        "rho": KARRAS_RHO,
        "sigma_data": SIGMA_DATA,
        "sigma_max": sigma_max,
        "sigma_min": sigma_min,
        "sigma_schedule": "karras",
    });
    keys.as_object().cloned().unwrap_or_default()
}

/// Reads the keys of the class. All but the number of timesteps must have the values of Karras et al. (2022).
pub(super) fn read(mut found: Map<String, Value>) -> Result<SchedulerConfig, Error> {
    let timesteps = match found.remove("num_train_timesteps") {
        None => 1000,
        Some(value) => value.as_u64().and_then(|steps| usize::try_from(steps).ok()).ok_or_else(|| {
            error(format!("`num_train_timesteps` is {}, expected a whole number", text::show(&value)))
        })?,
    };
    let expected = keys(timesteps);
    for (key, value) in found {
        let Some(expected) = expected.get(&key) else {
            return Err(error(format!("`{}` is not a key of {CLASS_NAME}", text::short(&key))));
        };
        let is_same = match (value.as_f64(), expected.as_f64()) {
            (Some(found), Some(expected)) => found == expected,
            _ => value == *expected,
        };
        if !is_same {
            let (found, expected) = (text::show(&value), text::show(expected));
            return Err(error(format!(
                "`{key}` is {found}, which is not supported for {CLASS_NAME}; expected {expected}"
            )));
        }
    }
    let config = SchedulerConfig::edm(timesteps);
    config.check()?;
    Ok(config)
}

/// Returns the keys of the class for a configuration.
///
/// # Errors
/// If it is not that of [`SchedulerConfig::edm`].
pub(super) fn value(config: &SchedulerConfig) -> Result<Value, Error> {
    if *config != SchedulerConfig::edm(config.num_train_timesteps) {
        return Err(error(format!(
            "the prediction edm can be saved with the schedule karras and without clipping only, since {CLASS_NAME} has no \
             other"
        )));
    }
    let mut all = keys(config.num_train_timesteps);
    all.insert("_class_name".to_owned(), CLASS_NAME.into());
    all.sort_keys();
    Ok(Value::Object(all))
}

/// Checks that a configuration with a prediction of another preconditioner of NVlabs/edm has its noise levels.
pub(super) fn check(config: &SchedulerConfig) -> Result<(), Error> {
    let (prediction, steps) = (config.prediction_type, config.num_train_timesteps);
    let Some(expected) = SchedulerConfig::preconditioned(prediction, steps) else {
        return Ok(());
    };
    let (found, expected) = (config.noise_schedule()?, expected.noise_schedule()?);
    let is_close = |(found, expected): (&f64, &f64)| (found / expected - 1.0).abs() < 1e-6;
    if (prediction != Prediction::EdmIddpm || steps == EDM_IDDPM_TIMESTEPS)
        && found.betas().iter().zip(expected.betas()).all(is_close)
    {
        return Ok(());
    }
    let rule = prediction.own_schedule().map_or(String::new(), |rule| rule.to_string());
    let timesteps = if prediction == Prediction::EdmIddpm { " with 1000 timesteps" } else { "" };
    Err(error(format!(
        "`prediction_type` is {prediction}, whose noise levels are those of the schedule {rule}{timesteps}; the betas are others"
    )))
}

impl SchedulerConfig {
    /// Returns the configuration of a network with a preconditioner of NVlabs/edm: its prediction on its own noise levels. `None`
    /// for predictions that go with any.
    pub fn preconditioned(prediction: Prediction, num_train_timesteps: usize) -> Option<Self> {
        let beta_schedule = prediction.own_schedule()?;
        Some(Self { beta_schedule, prediction_type: prediction, ..Self::edm(num_train_timesteps) })
    }

    /// Returns the configuration of a network with EDM's preconditioning (Karras et al. 2022): a chain of noise levels from
    /// σ/α = 0.002 to 80. It is written as diffusers' `EDMEulerScheduler`; Euler's method in σ/α is DDIM.
    pub fn edm(num_train_timesteps: usize) -> Self {
        Self {
            class: SchedulerClass::Ddim,
            num_train_timesteps,
            beta_schedule: BetaSchedule::Karras,
            clip_sample: false,
            prediction_type: Prediction::Edm,
            timestep_spacing: TimestepSpacing::Linspace,
            ..Self::default()
        }
    }
}
