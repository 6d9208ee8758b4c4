//! Flags of a sampler and its steps.

use clap::Args;
use ddpm::diffusion::{Churn, SchedulerConfig, SolverTable, TimestepGrid, TimestepSpacing, Variance};
use ddpm::sample::{Sampler, SamplerOptions};

use crate::error::usage;
use crate::values;

/// Flags of a sampler and its steps.
#[derive(Args)]
#[command(next_help_heading = "Sampler")]
pub struct SamplerArgs {
    /// Sampler: ddpm (ancestral), ddim, or one of higher order for good images in few steps
    #[arg(long, default_value = "ddpm", value_parser = values::sampler(), value_name = "NAME")]
    sampler: Sampler,
    /// Number of steps. Defaults to all T steps; 20, uniform in log-SNR, for higher-order samplers
    #[arg(long, value_parser = values::positive, value_name = "K")]
    pub steps: Option<usize>,
    /// Rule that spaces the timesteps, as in diffusers. Defaults to the model's
    #[arg(long, value_parser = values::spacing(), value_name = "RULE")]
    spacing: Option<TimestepSpacing>,
    /// Timestep grid, between whole timesteps too. Defaults to log-snr for higher-order samplers
    #[arg(long, conflicts_with = "spacing", value_parser = values::grid(), value_name = "GRID")]
    grid: Option<TimestepGrid>,
    /// Round the grid to whole timesteps
    #[arg(long)]
    snap: bool,
    /// Visit exactly these timesteps, e.g. 999,750,500,250,0
    #[arg(long, value_delimiter = ',', conflicts_with_all = ["steps", "spacing", "grid"], value_name = "T,…")]
    pub timesteps: Option<Vec<usize>>,
    /// Noise of ddim: 0 for none, 1 for as much as ancestral sampling adds
    #[arg(long, default_value_t = 0.0, value_parser = values::share, value_name = "ETA")]
    eta: f64,
    /// Variance of ddpm. Defaults to the model's
    #[arg(long, value_parser = values::variance(), value_name = "KIND")]
    variance: Option<Variance>,
    /// Noise of edm-sde, of all steps together: 0 is heun
    #[arg(long, value_name = "S")]
    churn: Option<f64>,
}

impl SamplerArgs {
    /// Returns the sampler with its noise.
    pub fn sampler(&self) -> anyhow::Result<Sampler> {
        if self.eta != 0.0 && !matches!(self.sampler, Sampler::Ddim { .. }) {
            return Err(usage("--eta is for --sampler ddim; the noise of ddpm is set by --variance"));
        }
        let rising = self.timesteps.iter().flat_map(|list| list.windows(2)).position(|pair| pair[0] <= pair[1]);
        if let (Some(i), Some(list)) = (rising, &self.timesteps) {
            return Err(usage(format!(
                "--timesteps: timesteps[{}] is {}, expected descending order",
                i + 1,
                list[i + 1]
            )));
        }
        match (self.sampler.with_eta(self.eta), self.churn) {
            (sampler, None) => Ok(sampler),
            (Sampler::EdmSde(churn), Some(s_churn)) => Ok(Sampler::EdmSde(Churn { s_churn, ..churn })),
            _ => Err(usage("--churn is for --sampler edm-sde")),
        }
    }

    /// Returns the steps and where they lie, but for explicit timesteps.
    pub fn options(&self) -> SamplerOptions {
        SamplerOptions {
            steps: self.steps,
            spacing: self.spacing,
            grid: self.grid,
            snap: self.snap,
            variance: self.variance,
        }
    }

    /// Returns the solver table.
    pub fn table(&self, scheduler: &SchedulerConfig) -> anyhow::Result<SolverTable> {
        let sampler = self.sampler()?;
        let Some(timesteps) = &self.timesteps else { return Ok(sampler.table(scheduler, self.options())?) };
        let variance_type = self.variance.unwrap_or(scheduler.variance_type);
        Ok(sampler.with_timesteps(&SchedulerConfig { variance_type, ..scheduler.clone() }, timesteps)?)
    }
}
