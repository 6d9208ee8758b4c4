//! Samplers by name: from a chain to a table of solver coefficients.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use diffusion::churn::edm_sde;
use diffusion::scheduler::SchedulerClass;
use diffusion::{
    Churn, Node, OdeSolver, SchedulerConfig, SolverTable, TimestepGrid, TimestepSpacing, Variance, solver, timesteps,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Error;

/// What samplers are called.
static NAMES: LazyLock<Vec<&'static str>> =
    LazyLock::new(|| ["ddpm", "ddim", "edm-sde"].into_iter().chain(OdeSolver::NAMES.map(|(name, _)| name)).collect());

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
    /// One of higher order: good images in 10 to 20 evaluations.
    Multistep(OdeSolver),
    /// Heun's method with noise (Karras et al. 2022, algorithm 2).
    EdmSde(Churn),
}

/// What a sampler's table depends on beside the chain. Nothing given: as many steps as the chain has, or 20 for samplers of
/// higher order, at the chain's own spacing, or evenly in log-SNR for those.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Steps.
    pub steps: Option<usize>,
    /// Which timesteps, by diffusers' rules.
    pub spacing: Option<TimestepSpacing>,
    /// Which points, whole timesteps or not.
    pub grid: Option<TimestepGrid>,
    /// Move the grid's points to whole timesteps.
    pub snap: bool,
    /// The ancestral variance, instead of the chain's.
    pub variance: Option<Variance>,
}

impl Sampler {
    /// The names that [`Sampler::from_str`] knows.
    pub fn names() -> &'static [&'static str] {
        &NAMES
    }

    /// Its name; DDIM's η is no part of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ddpm => "ddpm",
            Self::Ddim { .. } => "ddim",
            Self::Multistep(multistep) => multistep.name(),
            Self::EdmSde(_) => "edm-sde",
        }
    }

    /// DDIM with this η; another sampler as it is.
    pub fn with_eta(self, eta: f64) -> Self {
        if let Self::Ddim { .. } = self { Self::Ddim { eta } } else { self }
    }

    /// The table of a sampler: for `ddpm` and `ddim` what diffusers' scheduler of the same name does.
    ///
    /// # Errors
    /// If the steps do not fit the chain.
    pub fn table(self, scheduler: &SchedulerConfig, options: Options) -> Result<SolverTable, Error> {
        let Options { spacing, grid, snap, variance, .. } = options;
        let steps = self.steps(scheduler, options);
        let scheduler = SchedulerConfig {
            timestep_spacing: spacing.unwrap_or(scheduler.timestep_spacing),
            variance_type: variance.unwrap_or(scheduler.variance_type),
            ..scheduler.clone()
        };
        let (class, eta) = match self {
            Self::Ddpm => (SchedulerClass::Ddpm, 0.0),
            Self::Ddim { eta } => (SchedulerClass::Ddim, eta),
            Self::Multistep(_) | Self::EdmSde(_) => {
                if let (None, Some(_)) = (grid, spacing) {
                    return self.table_over(&scheduler, &scheduler.timesteps(steps)?);
                }
                let nodes = grid.unwrap_or(TimestepGrid::LogSnr).nodes(&scheduler.noise_schedule()?, steps, snap)?;
                return self.through(&scheduler, &nodes);
            }
        };
        if let Some(grid) = grid {
            // Ancestral steps and DDIM's are defined between whole timesteps.
            let nodes = grid.nodes(&scheduler.noise_schedule()?, steps, true)?;
            let list: Vec<usize> = nodes[..nodes.len() - 1].iter().map(|node| node.timestep as usize).collect();
            return self.table_over(&scheduler, &list);
        }
        Ok(SchedulerConfig { class, ..scheduler }.solver_table(steps, eta)?)
    }

    /// The table that begins in the middle: at `t`, and from there over those timesteps of [`Sampler::table`]'s spacing that
    /// are below it.
    ///
    /// # Errors
    /// If t is not a timestep of the chain.
    pub fn table_from(self, scheduler: &SchedulerConfig, options: Options, t: usize) -> Result<SolverTable, Error> {
        let total = scheduler.num_train_timesteps;
        if t >= total {
            let last = total - 1;
            return Err(Error::Request(format!("t = {t} is not a timestep of the chain; expected 0 to {last}")));
        }
        let scheduler = SchedulerConfig {
            timestep_spacing: options.spacing.unwrap_or(scheduler.timestep_spacing),
            variance_type: options.variance.unwrap_or(scheduler.variance_type),
            ..scheduler.clone()
        };
        let all = match options.grid {
            Some(grid) => {
                let nodes = grid.nodes(&scheduler.noise_schedule()?, self.steps(&scheduler, options), true)?;
                nodes[..nodes.len() - 1].iter().map(|node| node.timestep as usize).collect()
            }
            None => scheduler.timesteps(self.steps(&scheduler, options))?,
        };
        let list: Vec<usize> = std::iter::once(t).chain(all.into_iter().filter(|&s| s < t)).collect();
        self.table_over(&scheduler, &list)
    }

    /// Steps of the whole way.
    fn steps(self, scheduler: &SchedulerConfig, options: Options) -> usize {
        let total = scheduler.num_train_timesteps;
        let few = matches!(self, Self::Multistep(_) | Self::EdmSde(_));
        options.steps.unwrap_or(if few { total.min(20) } else { total })
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
            Self::Multistep(_) | Self::EdmSde(_) => {
                let nodes = list.into_iter().map(|t| Node::at(&schedule, t as f64)).chain([Node::DATA]);
                self.through(scheduler, &nodes.collect::<Vec<_>>())?
            }
        })
    }

    /// The table of a sampler of higher order through points of its own.
    fn through(self, scheduler: &SchedulerConfig, nodes: &[Node]) -> Result<SolverTable, Error> {
        Ok(match self {
            Self::Multistep(multistep) => multistep.table(nodes, scheduler.clip())?,
            Self::EdmSde(churn) => edm_sde(&scheduler.noise_schedule()?, nodes, churn, scheduler.clip())?,
            Self::Ddpm | Self::Ddim { .. } => unreachable!("made of whole timesteps"),
        })
    }
}

/// The tables that take images up to x at t along DDIM's way and back again (Song et al. 2021, section 4.3), over the same
/// timesteps, `steps` of them from the data to T−1. Neither clips: what goes up must come down.
///
/// # Errors
/// If t is not above 0 and within the chain, or for fewer than two steps or more than it has.
pub fn inversion(scheduler: &SchedulerConfig, t: usize, steps: usize) -> Result<(SolverTable, SolverTable), Error> {
    let schedule = scheduler.noise_schedule()?;
    let last = schedule.len() - 1;
    if !(1..=last).contains(&t) || !(2..=last + 1).contains(&steps) {
        let all = last + 1;
        let message = format!(
            "an inversion goes up to t = 1 to {last} in 2 to {all} steps of the whole way, not to {t} in {steps}"
        );
        return Err(Error::Request(message));
    }
    let even = (0..steps).map(|i| i * last / (steps - 1));
    let mut list: Vec<usize> = even.take_while(|&s| s < t).chain([t]).collect();
    let up = solver::ddim_inversion(&schedule, &list)?;
    list.reverse();
    Ok((up, solver::ddim(&schedule, &list, 0.0, None)?))
}

impl FromStr for Sampler {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "ddpm" => Ok(Self::Ddpm),
            "ddim" => Ok(Self::Ddim { eta: 0.0 }),
            "edm-sde" => Ok(Self::EdmSde(Churn::default())),
            _ => name.parse().map(Self::Multistep).map_err(|_| {
                Error::Request(format!("unknown sampler `{name}`; there are {}", Self::names().join(", ")))
            }),
        }
    }
}

impl fmt::Display for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ddim { eta } => write!(f, "ddim (eta {eta})"),
            sampler => f.write_str(sampler.name()),
        }
    }
}

impl Serialize for Sampler {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Sampler {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        name.parse().map_err(|_| serde::de::Error::unknown_variant(&name, Self::names()))
    }
}
