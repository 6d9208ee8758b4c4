//! `ddpm bench`.

use clap::Args;
use ddpm::train::config::{Config, DEFAULT_PRESET};

use crate::terminal::duration;
use crate::train::grouped;
use crate::{Global, usage};

/// Measure how fast this machine trains and samples a preset, and how long its whole run would take.
#[derive(Args)]
#[command(after_help = "Examples:\n  ddpm bench\n  ddpm bench --preset cifar10 --batch 16 --threads 2\n  \
    ddpm bench --preset cifar10 --batch 1 --json")]
pub struct Arguments {
    /// The preset whose network is measured
    #[arg(long, default_value = DEFAULT_PRESET, value_name = "NAME")]
    preset: String,
    /// Images of a step; by default the preset's
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Set a key of the configuration
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Measured repetitions, of which the median is taken
    #[arg(long, default_value_t = 5, value_name = "N")]
    runs: usize,
}

pub fn run(arguments: Arguments, global: &Global) -> anyhow::Result<()> {
    let mut config = Config::preset(&arguments.preset).map_err(usage)?;
    for assignment in &arguments.set {
        config.set(assignment).map_err(usage)?;
    }
    config.validate().map_err(usage)?;
    let batch = arguments.batch.unwrap_or(config.train.batch_size);
    if batch == 0 || arguments.runs == 0 {
        return Err(usage("--batch and --runs must be at least 1"));
    }
    let speed = ddpm::bench::bench(&config, batch, 2, arguments.runs, &global.device()?)?;
    if global.json {
        println!("{}", serde_json::to_string(&speed)?);
        return Ok(());
    }
    println!("preset {}: {} parameters, batch {batch}", arguments.preset, grouped(speed.parameters));
    println!("training step  {:>9.4} s  {:>9.1} images/s", speed.train_step_s, speed.train_images_s);
    println!("forward        {:>9.4} s  {:>9.1} images/s", speed.forward_s, batch as f64 / speed.forward_s);
    println!("sampling       {:>9} evaluations: {:.2} images/s", speed.sample_steps, speed.sample_images_s);
    println!("the whole run  {}", duration(3600.0 * speed.full_run_h));
    if let Some(peak) = speed.peak_bytes {
        println!("peak memory    {:.2} GB", peak as f64 / 1e9);
    }
    Ok(())
}
