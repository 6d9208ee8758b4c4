//! The program `ddpm`.

mod bench;
mod classes;
mod classifier;
mod evaluate;
mod import;
mod inpaint;
mod inspect;
mod interpolate;
mod invert;
mod pictures;
mod predict;
mod quality;
mod sample;
mod schedule;
mod terminal;
mod train;
mod way;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use ddpm::Device;

// Tensors come and go in large blocks, which the system's allocator would return and fetch each time.
#[global_allocator]
static ALLOCATOR: ddpm::CachingAllocator = ddpm::CachingAllocator::new();

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
        ddpm::device(self.device.as_deref()).map_err(usage)
    }
}

#[derive(Subcommand)]
enum Command {
    Train(train::Arguments),
    Sample(Box<sample::Arguments>),
    Predict(predict::Arguments),
    Inspect(inspect::Arguments),
    Schedule(schedule::Arguments),
    Evaluate(Box<evaluate::Arguments>),
    Interpolate(interpolate::Arguments),
    Inpaint(inpaint::Arguments),
    Invert(invert::Arguments),
    Classifier(classifier::Arguments),
    Import(import::ImportArguments),
    Export(import::ExportArguments),
    /// Measure how fast this machine trains and samples a preset
    Bench(bench::Arguments),
}

/// The reader of Parquet panics on some damaged files. That is caught and reported as an error, and needs no other words.
fn pass_over_panics_that_are_caught() {
    let all = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !panic.location().is_some_and(|place| place.file().contains("/parquet-")) {
            all(panic);
        }
    }));
}

fn main() -> ExitCode {
    pass_over_panics_that_are_caught();
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", one_line(&error));
            ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
        }
    }
}

/// An error and its causes, less those whose words are in it already.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line += &format!(": {cause}");
        }
    }
    line
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

/// The size that a flag gives: `32`, or `32x48` for height and width.
fn height_width(flag: &str, text: &str) -> anyhow::Result<(usize, usize)> {
    let sides: Result<Vec<usize>, _> = text.split('x').map(str::parse).collect();
    match sides.as_deref() {
        Ok(&[side]) => Ok((side, side)),
        Ok(&[height, width]) => Ok((height, width)),
        _ => Err(usage(format!("{flag} {text}: expected a number, or HEIGHTxWIDTH"))),
    }
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
    // On one of the pool's threads: from outside, each of a network's 200 kernels would put this thread to sleep and wake
    // it again.
    let Cli { command, global } = cli;
    rayon::scope(|_| match command {
        Command::Train(arguments) => train::run(arguments, &global),
        Command::Sample(arguments) => sample::run(*arguments, &global),
        Command::Predict(arguments) => predict::run(arguments, &global),
        Command::Inspect(arguments) => inspect::run(arguments, &global),
        Command::Schedule(arguments) => schedule::run(arguments, &global),
        Command::Evaluate(arguments) => evaluate::run(*arguments, &global),
        Command::Interpolate(arguments) => interpolate::run(arguments, &global),
        Command::Inpaint(arguments) => inpaint::run(arguments, &global),
        Command::Invert(arguments) => invert::run(arguments, &global),
        Command::Classifier(arguments) => classifier::run(&arguments, &global),
        Command::Import(arguments) => import::import(arguments, &global),
        Command::Export(arguments) => import::export(arguments, &global),
        Command::Bench(arguments) => bench::run(arguments, &global),
    })
}
