//! `ddpm schedule`.

use std::path::PathBuf;

use clap::Args;
use ddpm::diffusion::{SchedulerConfig, TimestepGrid, TimestepSpacing, Variance};
use ddpm::{Sampler, SamplerOptions, weights};

use crate::sample::word;
use crate::{Global, usage};

/// Print a sampler's table: at which timesteps the network is asked, and how its answers take one image to the next.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  ddpm schedule --sampler ddim --steps 10\n  ddpm schedule --sampler unipc-3 --steps 8 --grid karras\n  ddpm schedule runs/fashion --steps 50 --json"
)]
pub struct Arguments {
    /// A model whose chain is used; by default Ho et al.'s (T = 1000, linear, 1e-4 to 0.02)
    model: Option<PathBuf>,
    /// ddpm, ddim, or any sampler of `ddpm sample`
    #[arg(long, default_value = "ddpm", value_name = "NAME")]
    sampler: String,
    /// Steps of the sampler; by default as many as the chain has
    #[arg(long, value_name = "K")]
    steps: Option<usize>,
    /// uniform, quadratic, log-snr or karras
    #[arg(long, conflicts_with = "spacing", value_name = "GRID")]
    grid: Option<String>,
    /// Move the grid's points to whole timesteps
    #[arg(long)]
    snap: bool,
    /// DDIM's noise
    #[arg(long, default_value_t = 0.0, value_name = "ETA")]
    eta: f64,
    /// leading, trailing, linspace or quadratic
    #[arg(long, value_name = "RULE")]
    spacing: Option<String>,
    /// fixed_small, fixed_large, learned or learned_range
    #[arg(long, value_name = "KIND")]
    variance: Option<String>,
}

pub fn run(arguments: Arguments, global: &Global) -> anyhow::Result<()> {
    let sampler = arguments.sampler.parse::<Sampler>().map_err(usage)?.with_eta(arguments.eta);
    let scheduler = match &arguments.model {
        None => SchedulerConfig::default(),
        Some(model) => match weights::pipeline::locate(model)?.scheduler_config {
            Some(path) => ddpm::sample::read_scheduler(&path)?,
            None => SchedulerConfig::default(),
        },
    };
    let spacing = word::<TimestepSpacing>("--spacing", arguments.spacing.as_deref())?;
    let variance = word::<Variance>("--variance", arguments.variance.as_deref())?;
    let grid = arguments.grid.as_deref().map(str::parse::<TimestepGrid>).transpose().map_err(usage)?;
    let options = SamplerOptions { steps: arguments.steps, spacing, grid, snap: arguments.snap, variance };
    let table = sampler.table(&scheduler, options)?;
    if global.json {
        println!("{}", serde_json::to_string(&table)?);
    } else {
        print!("{table}");
    }
    Ok(())
}
