//! `ddpm bench`.

use clap::Args;
use ddpm::bench::{BenchOptions, OperationTime, Speed, bench};
use ddpm::train::TrainingConfig;
use ddpm::train::config::DEFAULT_PRESET;

use crate::config_args::preset;
use crate::error::usage;
use crate::interrupt::on_interrupt;
use crate::terminal::{duration, grouped};
use crate::{Global, values};

/// Measure how fast this machine trains and samples a preset, and how long its whole run would take.
#[derive(Args)]
#[command(after_help = "Examples:\n  ddpm bench\n  ddpm bench --preset cifar10 --batch-size 16 --threads 2\n  \
    ddpm bench --preset cifar10 --batch-size 1 --json\n  ddpm bench --preset cifar10 --batch-size 16 --operations")]
pub struct BenchArgs {
    /// The preset whose network is measured
    #[arg(long, default_value = DEFAULT_PRESET, value_parser = preset(), value_name = "NAME")]
    preset: String,
    /// Images of a step. Defaults to the preset's
    #[arg(long, alias = "batch", value_parser = values::positive, value_name = "B")]
    batch_size: Option<usize>,
    /// Set a key of the configuration
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Measured repetitions, of which the median is taken
    #[arg(long, default_value_t = 5, value_parser = values::positive, value_name = "N")]
    runs: usize,
    /// Print the time of each operation, and how near it comes to the machine's limits
    #[arg(long)]
    operations: bool,
}

pub fn run(arguments: BenchArgs, global: &Global) -> anyhow::Result<()> {
    on_interrupt("there is no result; start again with")?;
    let mut config = TrainingConfig::preset(&arguments.preset).map_err(usage)?;
    for assignment in &arguments.set {
        config.set(assignment).map_err(usage)?;
    }
    config.validate().map_err(usage)?;
    let batch = arguments.batch_size.unwrap_or(config.train.batch_size);
    let options = BenchOptions { batch, warmup: 2, runs: arguments.runs };
    let speed = bench(&config, options, &global.device()?)?;
    if global.json {
        println!("{}", serde_json::to_string(&speed)?);
        return Ok(());
    }
    println!("preset {}: {} parameters, batch {batch}", arguments.preset, grouped(speed.parameters));
    print(&speed, arguments.operations);
    Ok(())
}

fn print(speed: &Speed, operations: bool) {
    let forward_images_s = speed.batch as f64 / speed.forward_s;
    println!("training step  {:>9.4} s  {:>9.1} images/s", speed.train_step_s, speed.train_images_s);
    println!("forward        {:>9.4} s  {forward_images_s:>9.1} images/s", speed.forward_s);
    println!("sampling       {:>9} evaluations: {:.2} images/s", speed.sample_steps, speed.sample_images_s);
    println!("the whole run  {}", duration(3600.0 * speed.full_run_h));
    if let Some(peak) = speed.peak_bytes {
        println!("peak memory    {:.2} GB", peak as f64 / 1e9);
    }
    let Some(account) = &speed.account else { return };
    println!(
        "this machine   {:.0} GFLOP/s in a plain product, {:.1} GB/s in a plain copy",
        account.product_gflops, account.copy_gbs
    );
    println!("training does  {:.2} times the plain product's operations", account.share_of_peak());
    if operations {
        print_operations("a training step", &account.train_step);
        print_operations("a forward pass", &account.forward);
    }
}

/// Prints the operations of a step, the longest first.
fn print_operations(title: &str, times: &[OperationTime]) {
    println!(
        "\n{title:<52} {:>6} {:>9} {:>6} {:>8} {:>7} {:>9}",
        "calls", "ms", "share", "GFLOP/s", "GB/s", "of limit"
    );
    for OperationTime { operation, calls, seconds, share, gflops, gbs, of_limit } in times {
        let (ms, percent) = (1e3 * seconds, 100.0 * share);
        print!("{operation:<52} {calls:>6.0} {ms:>9.3} {percent:>5.1}%");
        match *of_limit > 0.0 {
            true => println!(" {gflops:>8.0} {gbs:>7.1} {:>8.0}%", 100.0 * of_limit),
            false => println!(),
        }
    }
}
