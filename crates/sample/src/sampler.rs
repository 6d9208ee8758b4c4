//! Samplers by name: from a chain to a table of solver coefficients.

use std::fmt;
use std::str::FromStr;

use diffusion::churn::edm_sde;
use diffusion::scheduler::SchedulerClass;
use diffusion::{
    Churn, Grid, Multistep, Node, SchedulerConfig, SolverTable, TimestepSpacing, Variance, solver, timesteps,
};

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
    /// One of higher order: good images in 10 to 20 evaluations.
    Multistep(Multistep),
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
    pub grid: Option<Grid>,
    /// Move the grid's points to whole timesteps.
    pub snap: bool,
    /// The ancestral variance, instead of the chain's.
    pub variance: Option<Variance>,
}

impl Sampler {
    /// The names that [`Sampler::from_str`] knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        ["ddpm", "ddim", "edm-sde"].into_iter().chain(Multistep::ALL.map(|(name, _)| name))
    }

    /// The table of a sampler: for `ddpm` and `ddim` what diffusers' scheduler of the same name does.
    ///
    /// # Errors
    /// If the steps do not fit the chain.
    pub fn table(self, scheduler: &SchedulerConfig, options: Options) -> Result<SolverTable, Error> {
        let Options { steps, spacing, grid, snap, variance } = options;
        let scheduler = SchedulerConfig {
            timestep_spacing: spacing.unwrap_or(scheduler.timestep_spacing),
            variance_type: variance.unwrap_or(scheduler.variance_type),
            ..scheduler.clone()
        };
        let total = scheduler.num_train_timesteps;
        let (class, eta) = match self {
            Self::Ddpm => (SchedulerClass::Ddpm, 0.0),
            Self::Ddim { eta } => (SchedulerClass::Ddim, eta),
            Self::Multistep(_) | Self::EdmSde(_) => {
                let (schedule, steps) = (scheduler.noise_schedule()?, steps.unwrap_or(total.min(20)));
                if let (None, Some(_)) = (grid, spacing) {
                    return self.table_over(&scheduler, &scheduler.timesteps(steps)?);
                }
                return self.through(&scheduler, &grid.unwrap_or(Grid::LogSnr).nodes(&schedule, steps, snap)?);
            }
        };
        let steps = steps.unwrap_or(total);
        if let Some(grid) = grid {
            // Ancestral steps and DDIM's are defined between whole timesteps.
            let nodes = grid.nodes(&scheduler.noise_schedule()?, steps, true)?;
            let list: Vec<usize> = nodes[..nodes.len() - 1].iter().map(|node| node.timestep as usize).collect();
            return self.table_over(&scheduler, &list);
        }
        Ok(SchedulerConfig { class, ..scheduler }.solver_table(steps, eta)?)
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

impl FromStr for Sampler {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "ddpm" => Ok(Self::Ddpm),
            "ddim" => Ok(Self::Ddim { eta: 0.0 }),
            "edm-sde" => Ok(Self::EdmSde(Churn::default())),
            _ => name.parse().map(Self::Multistep).map_err(|_| {
                let names: Vec<_> = Self::names().collect();
                Error::Request(format!("unknown sampler `{name}`; there are {}", names.join(", ")))
            }),
        }
    }
}

impl fmt::Display for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ddpm => f.write_str("ddpm"),
            Self::Ddim { eta } => write!(f, "ddim (eta {eta})"),
            Self::Multistep(multistep) => f.write_str(multistep.name()),
            Self::EdmSde(_) => f.write_str("edm-sde"),
        }
    }
}
