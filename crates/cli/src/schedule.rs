//! `ddpm schedule`.

use std::path::PathBuf;

use clap::Args;
use ddpm::diffusion::SchedulerConfig;
use ddpm::model::pipeline::read_scheduler;

use crate::sampler_args::SamplerArgs;
use crate::{Global, model_source};

/// Print a sampler's table: its timesteps, and the coefficients of each step.
#[derive(Args)]
#[command(after_help = "Examples:\n  ddpm schedule --sampler ddim --steps 10\n  \
    ddpm schedule --sampler unipc-3 --steps 8 --grid karras\n  \
    ddpm schedule runs/fashion --steps 50 --json")]
pub struct ScheduleArgs {
    /// A model, for its noise schedule. Defaults to Ho et al.'s: T = 1000, linear from 1e-4 to 0.02
    model: Option<PathBuf>,
    #[command(flatten)]
    sampler: SamplerArgs,
}

pub fn run(arguments: ScheduleArgs, global: &Global) -> anyhow::Result<()> {
    let located = arguments.model.as_deref().map(model_source::locate).transpose()?;
    let scheduler = match located.and_then(|files| files.scheduler_config) {
        Some(path) => read_scheduler(&path)?,
        None => SchedulerConfig::default(),
    };
    let table = arguments.sampler.table(&scheduler)?;
    if global.json {
        println!("{}", serde_json::to_string(&table)?);
    } else {
        print!("{table}");
    }
    Ok(())
}
