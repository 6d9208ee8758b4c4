//! The program `ddpm`.

mod bench;
mod inspect;
mod predict;
mod sample;
mod schedule;
mod terminal;
mod train;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use ddpm::Device;

// Tensors come and go in large blocks; glibc returns them to the system each time and pays for fresh pages.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Denoising diffusion probabilistic models: train, sample, inspect.
#[derive(Parser)]
#[command(
    version,
    about,
    after_help = "Examples:\n  ddpm train                                  train on the built-in images, a few minutes\n  \
                  ddpm sample runs/fashion -n 64 -o grid.png   draw 64 images from it\n  \
                  ddpm inspect runs/fashion                    what is in there\n\n\
                  Every command has --help with examples of its own."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: Global,
}

/// Flags of every command.
#[derive(Args, Clone)]
struct Global {
    /// Where to compute: cpu, cuda[:N], rocm, vulkan, metal or wgpu; by default the best one compiled in
    #[arg(long, global = true, value_name = "DEVICE")]
    device: Option<String>,
    /// Threads on the CPU; by default one for each core. Results do not depend on it
    #[arg(long, global = true, value_name = "N")]
    threads: Option<usize>,
    /// Print one JSON object on standard output, for programs
    #[arg(long, global = true)]
    json: bool,
    /// No progress, only warnings and errors
    #[arg(long, short, global = true)]
    quiet: bool,
}

impl Global {
    fn device(&self) -> anyhow::Result<Device> {
        Ok(ddpm::device(self.device.as_deref())?)
    }
}

#[derive(Subcommand)]
enum Command {
    /// Train a model on images, or go on with a run
    Train(train::Arguments),
    /// Draw images from a model
    Sample(sample::Arguments),
    /// Run the bare network on tensors from a file
    Predict(predict::Arguments),
    /// Say what a model, a run or a set of images is
    Inspect(inspect::Arguments),
    /// Print a sampler's table of coefficients
    Schedule(schedule::Arguments),
    /// Measure how fast this machine trains and samples a preset
    Bench(bench::Arguments),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
        }
    }
}

/// A mistake in the command itself: exit status 2.
#[derive(Debug)]
struct Usage(String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

fn usage(error: impl std::fmt::Display) -> anyhow::Error {
    Usage(error.to_string()).into()
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let mut pool = rayon::ThreadPoolBuilder::new();
    if let Some(threads) = cli.global.threads {
        if threads == 0 {
            return Err(usage("--threads 0: expected at least 1"));
        }
        pool = pool.num_threads(threads);
    }
    pool.build_global()?;
    match cli.command {
        Command::Train(arguments) => train::run(arguments, &cli.global),
        Command::Sample(arguments) => sample::run(arguments, &cli.global),
        Command::Predict(arguments) => predict::run(arguments, &cli.global),
        Command::Inspect(arguments) => inspect::run(arguments, &cli.global),
        Command::Schedule(arguments) => schedule::run(arguments, &cli.global),
        Command::Bench(arguments) => bench::run(arguments, &cli.global),
    }
}
