//! `ddpm schedule`.

use std::path::{Path, PathBuf};

use clap::Args;
use ddpm::model::pipeline::read_scheduler;
use ddpm::model::{self, Sampling};
use ddpm::weights::pipeline::ModelFiles;

use crate::sampler_args::{Line, SamplerArgs};
use crate::{Global, model_source};

/// Print a sampler's table: its timesteps, and the coefficients of each step.
#[derive(Args)]
#[command(after_help = "Examples:\n  ddpm schedule --sampler ddim --steps 10\n  \
    ddpm schedule --sampler unipc-3 --steps 8 --grid karras\n  \
    ddpm schedule runs/fashion --steps 50 --json            the sampler of the run")]
pub struct ScheduleArgs {
    /// A model, for its noise schedule. Defaults to Ho et al.'s: T = 1000, linear from 1e-4 to 0.02
    model: Option<PathBuf>,
    #[command(flatten)]
    sampler: SamplerArgs,
}

pub fn run(arguments: ScheduleArgs, global: &Global) -> anyhow::Result<()> {
    let read = |files: &ModelFiles| {
        let scheduler = files.scheduler_config.as_deref().map(read_scheduler).transpose()?;
        Ok::<_, model::Error>((scheduler, Sampling::of_model(&files.root)?))
    };
    let of_model = |path: &Path| model_source::with_files(path, read);
    let (scheduler, run) = arguments.model.as_deref().map(of_model).transpose()?.unwrap_or_default();
    let is_own = scheduler.is_some();
    let scheduler = scheduler.unwrap_or_default();
    let (sampler, options) = arguments.sampler.of_model(&scheduler, run.as_ref())?;
    let table = arguments.sampler.table(sampler, options, &scheduler)?;
    let warnings = arguments.sampler.warnings(sampler, &table).into_iter().map(Line::Warning);
    let lines =
        arguments.sampler.own_sampler(&scheduler, run.as_ref(), &table).filter(|_| is_own).into_iter().chain(warnings);
    lines.for_each(|line| line.print(global.quiet));
    if global.json {
        println!("{}", serde_json::to_string(&table)?);
    } else {
        print!("{table}");
    }
    Ok(())
}
