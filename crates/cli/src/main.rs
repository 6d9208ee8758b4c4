//! The program `ddpm`: arguments and printing. What it does is in the library of the same name.

// `std`'s macros panic when the reader of a pipe is gone or the device is full.
macro_rules! print {
    ($($text:tt)*) => { crate::output_streams::print(format_args!($($text)*)) };
}
macro_rules! println {
    () => { crate::output_streams::print(format_args!("\n")) };
    ($($text:tt)*) => { crate::output_streams::print(format_args!("{}\n", format_args!($($text)*))) };
}
macro_rules! eprintln {
    ($($text:tt)*) => { crate::output_streams::print_error(format_args!("{}\n", format_args!($($text)*))) };
}

mod bench;
mod classifier;
mod config_args;
mod data_choice;
mod devices;
mod error;
mod evaluate;
mod foreign;
mod guidance_args;
mod image_args;
mod import;
mod inpaint;
mod inspect;
mod interpolate;
mod interrupt;
mod invert;
mod metric;
mod model_folder;
mod model_source;
mod output_streams;
mod picture;
mod predict;
mod preview;
mod quality;
mod quality_print;
mod ranks;
mod reference;
mod sample;
mod sampler_args;
mod samples;
mod schedule;
mod shard_args;
#[cfg(feature = "studio")]
mod studio;
mod terminal;
mod train;
mod values;

use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use ddpm::Device;
use ddpm::files::{self, MemoryLimit};
use ddpm::kernels::{InstructionSet, limit_instruction_set};

use crate::error::usage;

// Tensors come and go in large blocks, which the system's allocator would return and fetch each time.
#[global_allocator]
static ALLOCATOR: ddpm::kernels::CachingAllocator =
    ddpm::kernels::CachingAllocator::new().on_failure(error::out_of_memory);

/// Train, sample, evaluate and reuse denoising diffusion models.
#[derive(Parser)]
#[command(
    name = "ddpm",
    version,
    about,
    after_help = "Examples:\n  ddpm train                                  train on the built-in images, about ten minutes\n  \
                  ddpm sample runs/fashion -n 64 -o grid.png   sample 64 images\n  \
                  ddpm evaluate runs/fashion                   bits/dim of held-out images\n  \
                  ddpm inspect runs/fashion                    what the model is\n\n\
                  Every command has --help with examples. With --json, the result is one object on standard output, \
                  {\"error\": \"…\"} if the command fails. The exit status is 0, 1 for an error, 2 for a \
                  mistake that is found in the arguments alone, or 130 for an interruption."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: Global,
}

/// Flags of every command.
#[derive(Args, Clone)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// Device that computes: cpu, cuda[:N], rocm, vulkan, metal or wgpu. Defaults to the best one that is
    /// compiled in and found (`ddpm devices`). With cuda or
    /// rocm and no number, each rank of a machine uses the card of its own number
    #[arg(long, global = true, value_name = "DEVICE")]
    device: Option<String>,
    /// Threads on the CPU. Defaults to one for each core; results do not depend on it
    #[arg(long, global = true, value_parser = values::threads, value_name = "N")]
    threads: Option<usize>,
    /// Most of the processor's vector instructions to use; results do not depend on it, but the speed does
    #[arg(long, global = true, value_enum, hide = true, value_name = "SET")]
    instructions: Option<Instructions>,
    /// Most memory to use, such as 4G or 500M. Defaults to that of the machine or of its control group; what does not fit is
    /// an error
    #[arg(long, global = true, value_parser = values::memory, value_name = "SIZE")]
    memory: Option<u64>,
    /// Print the result as one JSON object on standard output, also for errors
    #[arg(long, global = true)]
    json: bool,
    /// Suppress progress output
    #[arg(long, short, global = true)]
    quiet: bool,
}

/// The instruction sets of the kernels.
#[derive(Clone, Copy, ValueEnum)]
enum Instructions {
    Portable,
    Avx2,
    Avx512,
}

impl From<Instructions> for InstructionSet {
    fn from(instructions: Instructions) -> Self {
        match instructions {
            Instructions::Portable => Self::Portable,
            Instructions::Avx2 => Self::Avx2,
            Instructions::Avx512 => Self::Avx512,
        }
    }
}

impl Global {
    fn device(&self) -> anyhow::Result<Device> {
        let name = self.device.as_deref().unwrap_or_else(|| ddpm::default_device());
        if self.device.is_none() && name == "cpu" && ddpm::device_kinds().len() > 1 && !self.quiet {
            eprintln!("note: no graphics card was found, so the CPU computes; `ddpm devices` says what is missing");
        }
        match ranks::local() {
            (_, 2..) if ["cuda", "rocm"].contains(&name) => ddpm::device(Some(&format!("{name}:{}", ranks::card()))),
            _ => ddpm::device(Some(name)),
        }
        .map_err(usage)
    }

    /// Makes an allocation above the limit an error of this program. Drivers of graphics cards reserve more address space
    /// than there is memory, so with them it is only done when asked for.
    fn limit_memory(&self) -> anyhow::Result<()> {
        let cpu = match &self.device {
            Some(name) => name == "cpu",
            None => ddpm::default_device() == "cpu",
        };
        let asked = self.memory.map(|bytes| MemoryLimit { bytes, source: "the limit of --memory".into() });
        let asked = asked.or_else(|| ranks::memory().filter(|_| cpu));
        if asked.is_some() {
            files::limit_memory(asked).context("--memory")?;
        } else if cpu {
            // Without it, the system ends a process that takes too much, but without a message.
            let _ = files::limit_memory(None);
        }
        Ok(())
    }
}

#[derive(Subcommand)]
enum Command {
    Train(train::TrainArgs),
    Sample(Box<sample::SampleArgs>),
    Evaluate(Box<evaluate::EvaluateArgs>),
    Interpolate(interpolate::InterpolateArgs),
    Inpaint(inpaint::InpaintArgs),
    Invert(invert::InvertArgs),
    Classifier(classifier::ClassifierArgs),
    Import(import::ImportArgs),
    Export(import::ExportArgs),
    Inspect(inspect::InspectArgs),
    Picture(picture::PictureArgs),
    Predict(predict::PredictArgs),
    Schedule(schedule::ScheduleArgs),
    Devices(devices::DevicesArgs),
    Bench(bench::BenchArgs),
    Merge(shard_args::MergeArgs),
    #[cfg(feature = "studio")]
    Studio(studio::StudioArgs),
    Completions(reference::CompletionsArgs),
    Man(reference::ManArgs),
}

fn main() -> ExitCode {
    error::prepare();
    prepare_panics();
    interrupt::report_file_limit();
    let json = error::asks_for_json();
    let cli = match parse() {
        Ok(cli) => cli,
        Err(error) => {
            if error.use_stderr() {
                // The others may have no mistake, and would wait for this rank.
                end_job(|| error::report_parse(&error, json));
            }
            return error::report_parse(&error, json);
        }
    };
    match run(cli) {
        Ok(()) => {
            ranks::leave();
            ExitCode::SUCCESS
        }
        Err(error) => {
            end_job(|| error::report(&error, json));
            error::report(&error, json)
        }
    }
}

/// Reports an error and ends all ranks of the job that this process belongs to, if any: they wait for this one.
fn end_job(report: impl FnOnce() -> ExitCode) {
    // Before it has joined, the others wait for that.
    if ranks::launch().is_some() && (ranks::is_joined() || ranks::join().is_ok()) {
        let status = report();
        ranks::exit_all(i32::from(status == ExitCode::from(2)) + 1);
    }
}

/// Parses the arguments. A flag's value may be a negative number, so that the flag and not the number is the mistake.
fn parse() -> Result<Cli, clap::Error> {
    Cli::from_arg_matches(&command().try_get_matches()?)
}

/// Returns the description of the arguments.
fn command() -> clap::Command {
    Cli::command().mut_subcommands(|command| {
        command.mut_args(|arg| match arg.is_positional() || !arg.get_action().takes_values() {
            true => arg,
            false => arg.allow_negative_numbers(true),
        })
    })
}

/// Hides panics of decoders on damaged files, which are caught and reported as errors. Any other panic ends all ranks of a
/// job, which would wait for this one.
fn prepare_panics() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if ddpm::files::is_caught() {
            return;
        }
        output_streams::print_error_of_any_rank(format_args!("{}", ranks::prefix()));
        report(panic);
        if ranks::is_joined() {
            ranks::exit_all(101);
        }
    }));
}

fn run(Cli { command, global }: Cli) -> anyhow::Result<()> {
    if let Some(launch) = ranks::launch() {
        if !command.divides() {
            let size = launch.size.map_or("several".to_owned(), |size| size.to_string());
            return Err(usage(format!(
                "this command does not divide its work, but mpirun started {size} ranks of it; run it without mpirun"
            )));
        }
        ranks::join()?;
    }
    global.limit_memory()?;
    if let Some(most) = global.instructions {
        limit_instruction_set(most.into());
    }
    // 0 is one for each core.
    let threads = match (global.threads, std::env::var("RAYON_NUM_THREADS")) {
        (Some(threads), _) => threads,
        (None, Ok(text)) if !matches!(&*text, "" | "0") => {
            values::threads(&text).map_err(|error| usage(format!("RAYON_NUM_THREADS is {text}: {error}")))?
        }
        _ => {
            let (threads, warning) = ranks::threads();
            if let Some(warning) = warning.filter(|_| !global.quiet) {
                eprintln!("warning: {warning}");
            }
            threads
        }
    };
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    // On one of the pool's threads: from outside, each of a network's 200 kernels would put this thread to sleep and wake
    // it again.
    rayon::scope(|_| command.run(&global))
}

impl Command {
    /// Returns whether the processes of an MPI job divide the work of the command.
    fn divides(&self) -> bool {
        matches!(self, Self::Train(_) | Self::Sample(_) | Self::Evaluate(_) | Self::Classifier(_) | Self::Bench(_))
    }

    fn run(self, global: &Global) -> anyhow::Result<()> {
        match self {
            Self::Train(arguments) => train::run(arguments, global),
            Self::Sample(arguments) => sample::run(*arguments, global),
            Self::Evaluate(arguments) => evaluate::run(*arguments, global),
            Self::Interpolate(arguments) => interpolate::run(arguments, global),
            Self::Inpaint(arguments) => inpaint::run(arguments, global),
            Self::Invert(arguments) => invert::run(arguments, global),
            Self::Classifier(arguments) => classifier::run(arguments, global),
            Self::Import(arguments) => import::import(arguments, global),
            Self::Export(arguments) => import::export(arguments, global),
            Self::Inspect(arguments) => inspect::run(arguments, global),
            Self::Picture(arguments) => picture::run(arguments, global),
            Self::Predict(arguments) => predict::run(arguments, global),
            Self::Schedule(arguments) => schedule::run(arguments, global),
            Self::Devices(arguments) => devices::run(arguments, global),
            Self::Bench(arguments) => bench::run(arguments, global),
            Self::Merge(arguments) => shard_args::merge(&arguments, global)?.run(global),
            #[cfg(feature = "studio")]
            Self::Studio(arguments) => studio::run(arguments, global),
            Self::Completions(arguments) => reference::completions(arguments, global),
            Self::Man(arguments) => reference::man(arguments, global),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    /// The page of the studio shows the command that does the same as a job. The jobs are those of its documentation.
    #[test]
    #[cfg(feature = "studio")]
    fn commands_of_the_studio_are_ours() {
        let documentation = include_str!("../../../docs/studio.md");
        let jobs: Vec<_> = documentation.lines().filter(|line| line.starts_with(r#"{"kind""#)).collect();
        assert_eq!(jobs.len(), 9);
        for job in jobs {
            let shown = ::studio::command(job).unwrap();
            if let Err(error) = command().try_get_matches_from(shown.split_whitespace()) {
                panic!("{shown}\n{error}");
            }
        }
    }
}
