//! The keys of the classes of higher order.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{SchedulerClass, error, json};
use crate::Error;

/// diffusers' `algorithm_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AlgorithmType {
    /// DPM-Solver, in ε̂.
    #[serde(rename = "dpmsolver")]
    Dpm,
    /// DPM-Solver++, in x̂0.
    #[serde(rename = "dpmsolver++")]
    Dpmpp,
    /// DPM-Solver for the reverse SDE.
    #[serde(rename = "sde-dpmsolver")]
    SdeDpm,
    /// DPM-Solver++ for the reverse SDE.
    #[serde(rename = "sde-dpmsolver++")]
    SdeDpmpp,
    /// DEIS.
    #[serde(rename = "deis")]
    Deis,
    /// SA-Solver in x̂0.
    #[serde(rename = "data_prediction")]
    DataPrediction,
    /// SA-Solver in ε̂.
    #[serde(rename = "noise_prediction")]
    NoisePrediction,
}

/// diffusers' `solver_type`. Each class knows some and replaces the others by its default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SolverType {
    /// DPM-Solver's second order with the midpoint's weight.
    Midpoint,
    /// DPM-Solver's second order with exact weights.
    Heun,
    /// UniPC with B(h) = h.
    Bh1,
    /// UniPC with B(h) = e^h − 1.
    Bh2,
    /// DEIS in ln(σ/α).
    Logrho,
}

/// diffusers' `final_sigmas_type`: the noise level at which sampling ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinalSigmasType {
    /// The data.
    Zero,
    /// The noise level of t = 0.
    SigmaMin,
}

/// diffusers' `interpolation_type` of `EulerDiscreteScheduler`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InterpolationType {
    /// σ between timesteps is interpolated linearly.
    Linear,
    /// σ is evenly spaced in its logarithm, whatever the timesteps.
    LogLinear,
}

/// The keys that [`SchedulerClass::Ddpm`] and [`SchedulerClass::Ddim`] do not have. Keys that a class does not have keep
/// the value that has no effect, which [`SolverKeys::default`] returns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SolverKeys {
    /// The highest order of a step.
    pub solver_order: usize,
    /// The method of DPM-Solver.
    pub algorithm_type: AlgorithmType,
    /// The variant of the method.
    pub solver_type: SolverType,
    /// Lowers the order of the last steps.
    pub lower_order_final: bool,
    /// Makes the last step one of first order.
    pub euler_at_final: bool,
    /// Spaces σ evenly in σ^(1/7) (Karras et al. 2022).
    pub use_karras_sigmas: bool,
    /// Spaces σ evenly in ln σ.
    pub use_exponential_sigmas: bool,
    /// Spaces σ by the quantiles of Beta(0.6, 0.6) (Lee et al. 2024).
    pub use_beta_sigmas: bool,
    /// Spaces σ evenly in λ (Lu et al. 2022).
    pub use_lu_lambdas: bool,
    /// The end of sampling.
    pub final_sigmas_type: FinalSigmasType,
    /// Leaves out timesteps whose λ is below this number.
    #[serde(with = "json")]
    pub lambda_min_clipped: f64,
    /// UniPC in x̂0, otherwise in ε̂.
    pub predict_x0: bool,
    /// The steps of UniPC without a corrector.
    pub disable_corrector: Vec<usize>,
    /// The least σ of a spacing in σ. Defaults to the chain's.
    pub sigma_min: Option<f64>,
    /// The greatest σ of a spacing in σ. Defaults to the chain's.
    pub sigma_max: Option<f64>,
    /// Starts PNDM without Runge–Kutta steps.
    pub skip_prk_steps: bool,
    /// The way in which Euler's scheduler finds σ.
    pub interpolation_type: InterpolationType,
}

impl Default for SolverKeys {
    fn default() -> Self {
        Self {
            solver_order: 1,
            algorithm_type: AlgorithmType::Dpmpp,
            solver_type: SolverType::Midpoint,
            lower_order_final: false,
            euler_at_final: false,
            use_karras_sigmas: false,
            use_exponential_sigmas: false,
            use_beta_sigmas: false,
            use_lu_lambdas: false,
            final_sigmas_type: FinalSigmasType::Zero,
            lambda_min_clipped: f64::NEG_INFINITY,
            predict_x0: true,
            disable_corrector: Vec::new(),
            sigma_min: None,
            sigma_max: None,
            skip_prk_steps: false,
            interpolation_type: InterpolationType::Linear,
        }
    }
}

/// The most entries of `disable_corrector`.
const MAX_DISABLED: usize = 10_000;

impl SolverKeys {
    /// Checks the values of keys that the class has.
    pub(super) fn check(&self, class: SchedulerClass, keys: &Map<String, Value>) -> Result<(), Error> {
        use AlgorithmType::*;
        use SchedulerClass::*;
        let refuse = |key: &str, expected: &str| {
            let value = keys.get(key).map(json::show).unwrap_or_default();
            Err(error(format!("`{key}` is {value}, which is not supported for {class}; expected {expected}")))
        };
        for key in ["use_flow_sigmas", "use_dynamic_shifting"] {
            if keys.get(key).is_some_and(|value| *value != Value::Bool(false) && !value.is_null()) {
                return refuse(key, "false");
            }
        }
        for key in ["solver_p", "shift_terminal"] {
            if keys.get(key).is_some_and(|value| !value.is_null()) {
                return refuse(key, "null");
            }
        }
        if keys.get("timestep_type").is_some_and(|value| value != "discrete")
            && keys.get("prediction_type").is_some_and(|value| value == "v_prediction")
        {
            return refuse("timestep_type", "discrete");
        }
        if !class.has_sampler() {
            return Ok(());
        }
        let highest = match class {
            UniPcMultistep => 6,
            _ => 3,
        };
        if !(1..=highest).contains(&self.solver_order) {
            return refuse("solver_order", &format!("1 to {highest}"));
        }
        match (class, self.algorithm_type) {
            (DpmSolverMultistep, SdeDpm) if self.solver_order > 2 => {
                return refuse("solver_order", "1 or 2 for algorithm_type sde-dpmsolver");
            }
            // Its steps would need the noise of earlier ones again.
            (DpmSolverSinglestep, SdeDpmpp) if self.solver_order > 1 => {
                return refuse("algorithm_type", "dpmsolver or dpmsolver++ for a solver_order above 1");
            }
            (DpmSolverMultistep | DpmSolverSinglestep, DataPrediction | NoisePrediction)
            | (DpmSolverSinglestep, SdeDpm) => {
                return refuse("algorithm_type", "dpmsolver, dpmsolver++ or sde-dpmsolver++");
            }
            (DpmSolverMultistep | DpmSolverSinglestep, Dpm | SdeDpm | Deis)
                if self.final_sigmas_type == FinalSigmasType::Zero =>
            {
                return refuse("final_sigmas_type", "sigma_min for an algorithm_type without ++");
            }
            (DeisMultistep, SdeDpm | SdeDpmpp | DataPrediction | NoisePrediction) => {
                return refuse("algorithm_type", "deis");
            }
            _ => {}
        }
        if class == UniPcMultistep && self.final_sigmas_type == FinalSigmasType::Zero {
            // diffusers divides by zero here.
            if !self.predict_x0 {
                return refuse("predict_x0", "true for final_sigmas_type zero");
            }
            if self.solver_type == SolverType::Bh1 {
                return refuse("solver_type", "bh2 for final_sigmas_type zero");
            }
            if !self.lower_order_final && self.solver_order > 1 {
                return refuse("lower_order_final", "true for final_sigmas_type zero");
            }
        }
        let spacings = [self.use_karras_sigmas, self.use_exponential_sigmas, self.use_beta_sigmas];
        if spacings.iter().filter(|used| **used).count() > 1 {
            return Err(error(
                "more than one of `use_karras_sigmas`, `use_exponential_sigmas` and `use_beta_sigmas` is true; expected \
                 one at most",
            ));
        }
        for (key, sigma) in [("sigma_min", self.sigma_min), ("sigma_max", self.sigma_max)] {
            if sigma.is_some_and(|sigma| !(sigma > 0.0 && sigma <= 1e6)) {
                return refuse(key, "null or a number above 0, up to 1e6");
            }
        }
        if self.lambda_min_clipped.is_nan() {
            return refuse("lambda_min_clipped", "a number or -Infinity");
        }
        if self.disable_corrector.len() > MAX_DISABLED {
            return refuse("disable_corrector", &format!("{MAX_DISABLED} steps at most"));
        }
        Ok(())
    }

    /// Returns whether σ is spaced by a rule of its own.
    pub(super) fn respaces(&self) -> bool {
        self.use_karras_sigmas
            || self.use_exponential_sigmas
            || self.use_beta_sigmas
            || self.use_lu_lambdas
            || self.interpolation_type == InterpolationType::LogLinear
    }
}
