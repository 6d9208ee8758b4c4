//! Samplers by name: from a noise schedule to a table of solver coefficients.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use diffusion::churn::{edm_sde, edm_sde_at_timesteps};
use diffusion::scheduler::SchedulerClass;
use diffusion::solver::AnalyticNoise;
use diffusion::{
    Churn, MseProfile, Node, OdeSolver, Prediction, SchedulerConfig, SolverTable, TimestepGrid, TimestepSpacing,
    Variance, solver, timesteps,
};

use model::Sampling;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Error;

/// The names of all samplers.
static NAMES: LazyLock<Vec<&'static str>> =
    LazyLock::new(|| ["ddpm", "ddim", "edm-sde"].into_iter().chain(OdeSolver::NAMES.map(|(name, _)| name)).collect());

/// A sampler: a method for building solver tables.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampler {
    /// Ancestral sampling (Ho et al. 2020, Algorithm 2).
    Ddpm,
    /// Denoising diffusion implicit models (Song et al. 2021): η = 0 adds no noise, η = 1 is ancestral.
    Ddim {
        /// The share of the ancestral noise that is added.
        eta: f64,
    },
    /// A higher-order ODE solver, for good images in 10 to 20 evaluations.
    Ode(OdeSolver),
    /// Heun's method with noise (Karras et al. 2022, algorithm 2).
    EdmSde(Churn),
    /// diffusers' scheduler of this class, with the keys of the model's `scheduler_config.json`.
    Scheduler(SchedulerClass),
}

/// The number and spacing of a sampler's steps. Defaults to all T steps with the scheduler's spacing; for higher-order
/// samplers to 20 steps uniform in log-SNR; for networks with EDM's preconditioning, to steps uniform in (σ/α)^(1/7), of which
/// Heun's method has 18; and for [`Sampler::Scheduler`] to 50 steps, as in diffusers.
#[derive(Clone, Copy, Debug, Default)]
pub struct SamplerOptions {
    /// The number of steps.
    pub steps: Option<usize>,
    /// The rule for the spacing of timesteps, as in diffusers.
    pub spacing: Option<TimestepSpacing>,
    /// The timestep grid, which may include fractional timesteps.
    pub grid: Option<TimestepGrid>,
    /// Rounds the grid to integer timesteps.
    pub snap: bool,
    /// The ancestral variance. Defaults to the scheduler's.
    pub variance: Option<Variance>,
}

impl Sampler {
    /// Returns the names that [`Sampler::from_str`] accepts.
    pub fn names() -> &'static [&'static str] {
        &NAMES
    }

    /// Returns the sampler of a model's scheduler: `ddpm` and `ddim` for the schedulers of that name, else the class. A
    /// class without a sampler here ([`SchedulerClass::has_sampler`]) is sampled by `ddpm`. Networks with EDM's
    /// preconditioning are sampled by Heun's method, as in Karras et al. (2022).
    pub fn of(scheduler: &SchedulerConfig) -> Self {
        if scheduler.prediction_type.is_edm() {
            return Self::Ode(OdeSolver::Heun);
        }
        match scheduler.class {
            SchedulerClass::Ddpm | SchedulerClass::DdpmParallel => Self::Ddpm,
            SchedulerClass::Ddim | SchedulerClass::DdimParallel => Self::Ddim { eta: 0.0 },
            class if class.has_sampler() => Self::Scheduler(class),
            _ => Self::Ddpm,
        }
    }

    /// Returns the sampler of a model and its number of steps: as its run draws samples, or else [`Sampler::of`] its scheduler
    /// with the sampler's default number.
    ///
    /// # Errors
    /// If the run names no sampler.
    pub fn of_model(scheduler: &SchedulerConfig, run: Option<&Sampling>) -> Result<(Self, Option<usize>), Error> {
        match run {
            Some(Sampling { sampler, steps, eta, .. }) => Ok((sampler.parse::<Self>()?.with_eta(*eta), *steps)),
            None => Ok((Self::of(scheduler), None)),
        }
    }

    /// Returns the name, without the η of DDIM.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ddpm => "ddpm",
            Self::Ddim { .. } => "ddim",
            Self::Ode(solver) => solver.name(),
            Self::EdmSde(_) => "edm-sde",
            Self::Scheduler(class) => class.name(),
        }
    }

    /// Returns DDIM with this η. Other samplers are returned unchanged.
    pub fn with_eta(self, eta: f64) -> Self {
        if let Self::Ddim { .. } = self { Self::Ddim { eta } } else { self }
    }

    /// Returns the solver table. For `ddpm` and `ddim` its steps are those of the diffusers scheduler of the same name.
    ///
    /// # Errors
    /// If the steps do not match the chain.
    pub fn table(self, scheduler: &SchedulerConfig, options: SamplerOptions) -> Result<SolverTable, Error> {
        let SamplerOptions { spacing, grid, snap, variance, .. } = options;
        let steps = self.steps(scheduler, options);
        let is_edm = scheduler.prediction_type.is_edm();
        let scheduler = SchedulerConfig {
            timestep_spacing: spacing.unwrap_or(scheduler.timestep_spacing),
            variance_type: variance.unwrap_or(scheduler.variance_type),
            ..scheduler.clone()
        };
        let (class, eta) = match self {
            Self::Scheduler(class) => {
                if grid.is_some() || snap {
                    return Err(Error::Request(format!("{class} has timesteps of its own; name a sampler for a grid")));
                }
                let has_spacing = class != SchedulerClass::DpmSolverSinglestep;
                if spacing.is_some_and(|spacing| !has_spacing || spacing == TimestepSpacing::Quadratic) {
                    return Err(Error::Request(format!("{class} does not have this spacing; name a sampler for it")));
                }
                (class, 0.0)
            }
            Self::Ode(OdeSolver::Pndm) if steps < 4 => {
                return Err(Error::Request(format!(
                    "{steps} steps are too few for pndm, a method of fourth order that does not clip; use at least 4 steps, \
                     or another sampler"
                )));
            }
            Self::Ddpm => (SchedulerClass::Ddpm, 0.0),
            Self::Ddim { eta } => (SchedulerClass::Ddim, eta),
            Self::Ode(_) | Self::EdmSde(_) => {
                if let (None, Some(_)) = (grid, spacing) {
                    return self.with_timesteps(&scheduler, &scheduler.timesteps(steps)?);
                }
                let own = if is_edm { TimestepGrid::Karras } else { TimestepGrid::LogSnr };
                let (grid, schedule) = (grid.unwrap_or(own), scheduler.noise_schedule()?);
                let mut nodes = match scheduler.prediction_type.sampled_ratios() {
                    // The whole chain of EDM's own preconditioner.
                    Some(ratios) if scheduler.prediction_type != Prediction::Edm => {
                        grid.nodes_between(&schedule, ratios, steps)?
                    }
                    _ => grid.nodes(&schedule, steps, snap)?,
                };
                if snap {
                    let data = nodes.pop();
                    nodes = nodes.iter().map(|node| Node::at(&schedule, node.timestep.round())).collect();
                    nodes.dedup();
                    nodes.extend(data);
                }
                return self.with_nodes(&scheduler, &nodes);
            }
        };
        if let Some(grid) = grid {
            // Ancestral steps and DDIM steps are defined between integer timesteps.
            let nodes = grid.nodes(&scheduler.noise_schedule()?, steps, true)?;
            let list: Vec<usize> = nodes[..nodes.len() - 1].iter().map(|node| node.timestep as usize).collect();
            return self.with_timesteps(&scheduler, &list);
        }
        Ok(SchedulerConfig { class, ..scheduler }.solver_table(steps, eta)?)
    }

    /// Returns the table that starts at timestep `t` and continues over the timesteps of [`Sampler::table`] below `t`.
    ///
    /// # Errors
    /// If t is not a timestep of the chain.
    pub fn table_from(
        self,
        scheduler: &SchedulerConfig,
        options: SamplerOptions,
        t: usize,
    ) -> Result<SolverTable, Error> {
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
        match self {
            Self::Scheduler(_) => Ok(scheduler.solver_table_over(&list, false)?),
            _ => self.with_timesteps(&scheduler, &list),
        }
    }

    /// Returns the number of steps from T−1.
    fn steps(self, scheduler: &SchedulerConfig, options: SamplerOptions) -> usize {
        let total = scheduler.num_train_timesteps;
        options.steps.unwrap_or(match self {
            Self::Ddpm | Self::Ddim { .. } => total,
            // The steps for CIFAR-10 in Karras et al. (2022).
            Self::Ode(OdeSolver::Heun) if scheduler.prediction_type.is_edm() => total.min(18),
            Self::Ode(_) | Self::EdmSde(_) => total.min(20),
            // With T steps, spacings that leave out t = 0 would repeat a timestep.
            Self::Scheduler(_) => 50.min(total - 1).max(1),
        })
    }

    /// Returns the table over the given timesteps, in any order.
    ///
    /// # Errors
    /// If a timestep is repeated or outside the chain.
    pub fn with_timesteps(self, scheduler: &SchedulerConfig, list: &[usize]) -> Result<SolverTable, Error> {
        let schedule = scheduler.noise_schedule()?;
        let list = timesteps::explicit(schedule.len(), list)?;
        Ok(match self {
            Self::Scheduler(_) => scheduler.solver_table_over(&list, true)?,
            Self::Ddpm => solver::ddpm(&schedule, &list, scheduler.variance_type, scheduler.clip())?,
            Self::Ddim { eta } => solver::ddim(&schedule, &list, eta, scheduler.clip())?,
            Self::Ode(_) | Self::EdmSde(_) => {
                let nodes = list.into_iter().map(|t| Node::at(&schedule, t as f64)).chain([Node::DATA]);
                self.with_nodes(scheduler, &nodes.collect::<Vec<_>>())?
            }
        })
    }

    /// Returns the table over the optimal sub-chain of `steps` steps for a measured profile. `ddpm` and `ddim` also use
    /// the optimal variances (Analytic-DPM: Bao et al. 2022, arXiv 2201.06503).
    ///
    /// # Errors
    /// If the profile does not match the chain, or there is no sub-chain of that length.
    pub fn optimal_table(
        self,
        scheduler: &SchedulerConfig,
        profile: &MseProfile,
        steps: usize,
    ) -> Result<SolverTable, Error> {
        let (schedule, clip) = (scheduler.noise_schedule()?, scheduler.clip());
        let profile = profile.smoothed(&schedule)?;
        let list = profile.best_timesteps(&schedule, steps)?;
        Ok(match self {
            Self::Ddpm => {
                let log_variances = profile.log_variances(&schedule, &list)?;
                let variances: Vec<f64> = log_variances.into_iter().map(f64::exp).collect();
                solver::ddpm_with_variances(&schedule, &list, &variances, clip)?
            }
            Self::Ddim { eta } => {
                solver::ddim_analytic(&schedule, &list, AnalyticNoise { eta, mse: &profile.mse }, clip)?
            }
            Self::Ode(_) | Self::EdmSde(_) | Self::Scheduler(_) => self.with_timesteps(scheduler, &list)?,
        })
    }

    /// Returns the table of a higher-order sampler over the given nodes.
    fn with_nodes(self, scheduler: &SchedulerConfig, nodes: &[Node]) -> Result<SolverTable, Error> {
        let (schedule, clip) = (scheduler.noise_schedule()?, scheduler.clip());
        // iDDPM's network knows the noise levels of its chain only, to which NVlabs/edm rounds.
        let rounds = scheduler.prediction_type == Prediction::EdmIddpm;
        let round = |node: &Node| match *node {
            node if rounds && node != Node::DATA => {
                Node::at(&schedule, schedule.nearest_timestep(node.level.noise_ratio()) as f64)
            }
            node => node,
        };
        let mut nodes: Vec<Node> = nodes.iter().map(round).collect();
        nodes.dedup();
        Ok(match self {
            Self::Ode(solver) => solver.table(&nodes, clip)?,
            Self::EdmSde(churn) if rounds => edm_sde_at_timesteps(&schedule, &nodes, churn, clip)?,
            Self::EdmSde(churn) => edm_sde(&schedule, &nodes, churn, clip)?,
            Self::Ddpm | Self::Ddim { .. } | Self::Scheduler(_) => unreachable!("made of whole timesteps"),
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
            _ => name.parse().map(Self::Ode).map_err(|_| {
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
