//! Samplers by name: from a chain to a table of solver coefficients.

use std::fmt;
use std::str::FromStr;

use diffusion::scheduler::SchedulerClass;
use diffusion::{SchedulerConfig, SolverTable, TimestepSpacing, Variance, solver, timesteps};

use crate::Error;

/// A way from noise to images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampler {
    /// Ancestral sampling (Ho et al. 2020, Algorithm 2).
    Ddpm,
    /// Denoising diffusion implicit models (Song et al. 2021): η = 0 adds no noise, η = 1 is ancestral.
    Ddim {
        /// How much of the ancestral noise is added.
        eta: f64,
    },
}

impl Sampler {
    /// The names that [`Sampler::from_str`] knows.
    pub const NAMES: [&'static str; 2] = ["ddpm", "ddim"];

    /// The table of a sampler with so many steps, or as many as the chain has: what diffusers' scheduler of the same
    /// name does. `spacing` and `variance` replace the chain's.
    ///
    /// # Errors
    /// If the steps do not fit the chain.
    pub fn table(
        self,
        scheduler: &SchedulerConfig,
        steps: Option<usize>,
        spacing: Option<TimestepSpacing>,
        variance: Option<Variance>,
    ) -> Result<SolverTable, Error> {
        let total = scheduler.num_train_timesteps;
        let steps = steps.unwrap_or(total);
        let (class, eta) = match self {
            Self::Ddpm => (SchedulerClass::Ddpm, 0.0),
            Self::Ddim { eta } => (SchedulerClass::Ddim, eta),
        };
        let config = SchedulerConfig {
            class,
            timestep_spacing: spacing.unwrap_or(scheduler.timestep_spacing),
            variance_type: variance.unwrap_or(scheduler.variance_type),
            ..scheduler.clone()
        };
        Ok(config.solver_table(steps, eta)?)
    }

    /// The table that visits a given list of timesteps, in any order.
    ///
    /// # Errors
    /// If a timestep is repeated or outside the chain.
    pub fn table_over(self, scheduler: &SchedulerConfig, list: &[usize]) -> Result<SolverTable, Error> {
        let schedule = scheduler.noise_schedule()?;
        let list = timesteps::explicit(schedule.len(), list)?;
        Ok(match self {
            Self::Ddpm => solver::ddpm(&schedule, &list, scheduler.variance_type, scheduler.clip())?,
            Self::Ddim { eta } => solver::ddim(&schedule, &list, eta, scheduler.clip())?,
        })
    }
}

impl FromStr for Sampler {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "ddpm" => Ok(Self::Ddpm),
            "ddim" => Ok(Self::Ddim { eta: 0.0 }),
            _ => Err(Error::Request(format!("unknown sampler `{name}`; there are {}", Self::NAMES.join(", ")))),
        }
    }
}

impl fmt::Display for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ddpm => f.write_str("ddpm"),
            Self::Ddim { eta } => write!(f, "ddim (eta {eta})"),
        }
    }
}
