//! `ddpm schedule`.

use std::path::{Path, PathBuf};

use clap::Args;
use ddpm::model::pipeline::read_scheduler;
use ddpm::sample::Sampler;
use ddpm::weights::pipeline::ModelFiles;

use crate::sampler_args::{Line, SamplerArgs};
use crate::{Global, model_source};

/// Print a sampler's table: its timesteps, and the coefficients of each step.
#[derive(Args)]
#[command(after_help = "Examples:\n  ddpm schedule --sampler ddim --steps 10\n  \
    ddpm schedule --sampler unipc-3 --steps 8 --grid karras\n  \
    ddpm schedule runs/fashion --steps 50 --json            the model's own scheduler")]
pub struct ScheduleArgs {
    /// A model, for its noise schedule. Defaults to Ho et al.'s: T = 1000, linear from 1e-4 to 0.02
    model: Option<PathBuf>,
    #[command(flatten)]
    sampler: SamplerArgs,
}

pub fn run(arguments: ScheduleArgs, global: &Global) -> anyhow::Result<()> {
    let read = |files: &ModelFiles| files.scheduler_config.as_deref().map(read_scheduler).transpose();
    let of_model = |path: &Path| model_source::with_files(path, read);
    let scheduler = arguments.model.as_deref().map(of_model).transpose()?.flatten();
    let is_own = scheduler.is_some();
    let scheduler = scheduler.unwrap_or_default();
    let sampler = arguments.sampler.sampler(Sampler::of(&scheduler))?;
    let table = arguments.sampler.table(sampler, &scheduler)?;
    let warnings = arguments.sampler.warnings(sampler, &table).into_iter().map(Line::Warning);
    let lines = arguments.sampler.of_scheduler(&scheduler, &table).filter(|_| is_own).into_iter().chain(warnings);
    lines.for_each(|line| line.print(global.quiet));
    if global.json {
        println!("{}", serde_json::to_string(&table)?);
    } else {
        print!("{table}");
    }
    Ok(())
}
