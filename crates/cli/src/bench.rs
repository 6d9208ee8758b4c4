//! `ddpm bench`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use ddpm::bench::{
    BenchOptions, OperationTime, Speed, TrainingSpeed, bench, bench_training, fitted_workload, workload,
};
use ddpm::scaling::{Network, ScalingRow, StepTime, Workload};
use ddpm::train::TrainingConfig;
use ddpm::train::config::DEFAULT_PRESET;

use crate::config_args::preset;
use crate::error::usage;
use crate::interrupt::on_interrupt;
use crate::terminal::{counted, duration, grouped};
use crate::{Global, ranks, values};

/// Measure how fast this machine trains and samples a preset, and how long its whole run would take.
#[derive(Args)]
#[command(after_help = "Examples:\n  ddpm bench\n  ddpm bench --preset cifar10 --batch-size 16 --threads 2\n  \
    ddpm bench --preset cifar10 --batch-size 1 --json\n  ddpm bench --preset cifar10 --batch-size 16 --operations\n  \
    mpirun -n 4 ddpm bench --preset cifar10 --batch-size 8 --passes 16      training on four ranks\n  \
    ddpm bench --preset cifar10 --batch-size 8 --passes 4 --ranks 1024 --network 25GbE      predict more ranks\n  \
    ddpm bench --preset cifar10 --ranks 4 --fit measured.jsonl      from measurements of 1 and 2 ranks")]
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
    #[command(flatten)]
    ranks: RankArgs,
}

fn ranks_to_predict(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(ranks @ 1..=65_536) => Ok(ranks),
        _ => Err("expected a whole number from 1 to 65536".into()),
    }
}

/// Flags of several ranks.
#[derive(Args)]
#[command(next_help_heading = "Several ranks")]
struct RankArgs {
    /// Passes of a training step, of --batch-size images each, which the ranks of mpirun divide
    #[arg(long, value_parser = values::positive, value_name = "M")]
    passes: Option<usize>,
    /// Measure the training step only, as is always done under mpirun
    #[arg(long)]
    train_only: bool,
    /// Predict how training scales to this many ranks, with as many --passes on each, from a measurement of one
    #[arg(long, conflicts_with_all = ["train_only", "operations"], value_parser = ranks_to_predict, value_name = "R")]
    ranks: Option<usize>,
    /// The network between the ranks of --ranks: 25GbE, 100GbE, HDR, NVLink, shared-memory, or LATENCY_US,GB_PER_S. Defaults
    /// to 100GbE, or with --fit to the memory that was measured
    #[arg(long, requires = "ranks", value_name = "NETWORK")]
    network: Option<Network>,
    /// Predict from this file in place of a measurement: lines of `ddpm bench --passes M --json` with 1 and 2 ranks or more,
    /// of the same number of threads
    #[arg(long, requires = "ranks", value_name = "FILE")]
    fit: Option<PathBuf>,
}

pub fn run(arguments: BenchArgs, global: &Global) -> anyhow::Result<()> {
    on_interrupt("there is no result; start again with")?;
    let mut config = TrainingConfig::preset(&arguments.preset).map_err(usage)?;
    for assignment in &arguments.set {
        config.set(assignment).map_err(usage)?;
    }
    config.validate().map_err(usage)?;
    let batch = arguments.batch_size.unwrap_or(config.train.batch_size);
    let RankArgs { passes, train_only, ranks, network, fit } = &arguments.ranks;
    let (passes, device) = (passes.unwrap_or(1), global.device()?);
    let options = BenchOptions { batch, passes, warmup: 2, runs: arguments.runs };
    if let Some(ranks) = ranks {
        let (workload, memory) = match fit {
            Some(path) => fitted(path)?,
            None => (workload(&config, options, &device)?, "100GbE".parse()?),
        };
        // With a network between them, each rank has a machine of its own.
        let workload = match network {
            Some(_) => Workload { ranks_per_node: 1, overlap: true, ..workload },
            None => workload,
        };
        return predict(&arguments.preset, &workload, network.as_ref().unwrap_or(&memory), *ranks, global);
    }
    let size = ranks::communicator().size();
    if size > passes {
        return Err(usage(format!("{size} ranks need --passes {size} or more, but there are {passes}")));
    }
    if *train_only || ranks::is_joined() {
        let speed = bench_training(&config, options, &device, ranks::communicator())?;
        return print_training(&arguments.preset, &speed, global);
    }
    if passes > 1 {
        return Err(usage("--passes needs --train-only, --ranks or mpirun"));
    }
    let speed = bench(&config, options, &device)?;
    if global.json {
        println!("{}", serde_json::to_string(&speed)?);
        return Ok(());
    }
    println!("preset {}: {} parameters, batch {batch}", arguments.preset, grouped(speed.parameters));
    print(&speed, arguments.operations);
    Ok(())
}

/// Fits a workload to the measurements of a file.
fn fitted(path: &Path) -> anyhow::Result<(Workload, Network)> {
    let context = || path.display().to_string();
    let text = ddpm::files::read_json_text(path).with_context(context)?;
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let speeds = lines.map(serde_json::from_str).collect::<Result<Vec<TrainingSpeed>, _>>().with_context(context)?;
    fitted_workload(&speeds).with_context(context)
}

fn print_training(preset: &str, speed: &TrainingSpeed, global: &Global) -> anyhow::Result<()> {
    let &TrainingSpeed { parameters, ranks, threads, passes, batch, train_step_s, reduction_s, train_images_s, .. } =
        speed;
    if global.json {
        println!("{}", serde_json::to_string(speed)?);
        return Ok(());
    }
    println!("preset {preset}: {} parameters, {passes} passes of {} images", grouped(parameters), batch / passes);
    println!("{}, {} each", counted(ranks, "rank"), counted(threads, "thread"));
    println!("training step  {train_step_s:>9.4} s  {train_images_s:>9.1} images/s");
    if ranks > 1 {
        println!("of it waiting  {reduction_s:>9.4} s  for gradients of other ranks, after the backward pass");
    }
    Ok(())
}

/// Prints how training scales to `ranks` ranks.
fn predict(preset: &str, workload: &Workload, network: &Network, ranks: usize, global: &Global) -> anyhow::Result<()> {
    let table = workload.table(network, ranks);
    if global.json {
        let object = serde_json::json!({ "preset": preset, "workload": workload, "network": network, "ranks": table });
        println!("{object}");
        return Ok(());
    }
    let Workload { parameters, passes, images_per_pass, pass_s, fixed_s, threads_per_rank, .. } = *workload;
    println!("preset {preset}: {} parameters", grouped(parameters));
    println!(
        "measured with {}: {pass_s:.4} s a pass, {fixed_s:.4} s for the update",
        counted(threads_per_rank, "thread")
    );
    println!(
        "network {}: {:.1} µs, {:.1} GB/s; {}\n",
        network.name,
        1e6 * network.latency_s,
        1e-9 * network.bytes_per_s,
        if workload.ranks_per_node == 1 { "one rank on each machine" } else { "all ranks on one machine" }
    );
    let head = format!(
        "{:>6} {:>9} {:>10} {:>12} {:>10} {:>12} {:>11}",
        "ranks", "images", "s a step", "images/s", "reduction", "not hidden", "efficiency"
    );
    let row = |step: &StepTime| {
        let StepTime { ranks, batch, total, images_per_s, reduction, exposed, efficiency, .. } = *step;
        format!(
            "{ranks:>6} {batch:>9} {total:>10.4} {images_per_s:>12.1} {reduction:>10.4} {exposed:>12.4} {efficiency:>11.3}"
        )
    };
    println!("{passes} × {images_per_pass} images on each rank\n{head} {:>18}", "images for ≥ 0.9");
    for ScalingRow { weak, smallest_batch, .. } in &table {
        println!("{} {:>18}", row(weak), smallest_batch.map_or("none".into(), grouped));
    }
    println!("\n{passes} × {images_per_pass} images on all ranks together\n{head}");
    for strong in table.iter().filter_map(|line| line.strong.as_ref()) {
        println!("{}", row(strong));
    }
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
