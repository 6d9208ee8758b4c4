//! The division of a command's work: between the ranks of a job, or between shards that run on their own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use clap::{Args, FromArgMatches};
use ddpm::evaluate;
use ddpm::mpi::{self, Division, Error, Recording, Shards};
use ddpm::sample;

use crate::error::usage;
use crate::terminal::{counted, quoted, say};
use crate::{Cli, Global, ranks};

/// Flags that divide the work between independent runs of the program.
#[derive(Args, Clone)]
#[command(next_help_heading = "Division of the work")]
pub struct ShardArgs {
    /// Compute only part I of N, counted from 1, as in a job array: a share of the batches of --batch-size. Parts run at any
    /// time, on any machine, and continue when they are repeated; `ddpm merge` joins them to the result of a
    /// single run
    #[arg(long, value_parser = shard, value_name = "I/N")]
    shard: Option<Shard>,
    /// The file of --shard. Defaults to OUT.shard-I-of-N, or evaluation.shard-I-of-N
    #[arg(long, requires = "shard", value_name = "FILE")]
    shard_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Shard {
    /// The number of the shard, from 0.
    index: usize,
    of: usize,
}

/// The largest number of shards.
const MOST: usize = 100_000;

/// The flags that have no influence on the result, and the number of values that each takes.
const FREE: [(&str, usize); 11] = [
    ("--shard", 1),
    ("--shard-file", 1),
    ("--threads", 1),
    ("--memory", 1),
    ("--instructions", 1),
    ("--device", 1),
    ("--json", 0),
    ("--quiet", 0),
    ("-q", 0),
    ("--continue", 0),
    ("--resume", 0),
];

fn shard(text: &str) -> Result<Shard, String> {
    let numbers = text.split_once('/').and_then(|(index, of)| Some((index.parse().ok()?, of.parse().ok()?)));
    match numbers {
        Some((index @ 1.., of)) if index <= of && of <= MOST => Ok(Shard { index: index - 1, of }),
        _ => Err(format!("expected I/N, such as 1/4 for the first of four, with N up to {MOST}")),
    }
}

/// The shards that are being merged.
static MERGED: OnceLock<Division> = OnceLock::new();
/// The items that this shard has recorded.
static RECORDED: AtomicUsize = AtomicUsize::new(0);

impl ShardArgs {
    /// Returns whether this is one of several independent runs.
    pub fn is_shard(&self) -> bool {
        self.shard.is_some()
    }

    /// Returns the division of the work. `output` is what a single run would write.
    pub fn division(&self, output: &Path, global: &Global) -> anyhow::Result<Division> {
        if let Some(merged) = MERGED.get() {
            return Ok(merged.clone());
        }
        let Some(Shard { index, of }) = self.shard else { return Ok(ranks::communicator().into()) };
        if ranks::is_joined() {
            return Err(usage("--shard is for runs without mpirun, whose ranks divide the work by themselves"));
        }
        let arguments: Result<Vec<String>, _> = std::env::args_os().map(OsString::into_string).collect();
        let Ok(arguments) = arguments else {
            return Err(usage(
                "--shard keeps the command in its file, which needs arguments in UTF-8; rename the files",
            ));
        };
        let shard = mpi::Shard {
            command: serde_json::to_string(&common_arguments(arguments.into_iter()))?,
            machine: global.device.as_deref().unwrap_or_else(|| ddpm::default_device()).to_owned(),
            index,
            of,
        };
        Ok(Recording::new(&self.file(output).unwrap_or_default(), shard).into())
    }

    /// Returns the file of the shard, if this is one.
    pub fn file(&self, output: &Path) -> Option<PathBuf> {
        let Shard { index, of } = self.shard?;
        let default = || format!("{}.shard-{}-of-{of}", output.display(), index + 1).into();
        Some(self.shard_file.clone().unwrap_or_else(default))
    }

    /// Prints where the items of this shard are, and what to do with them.
    pub fn print(&self, output: &Path, global: &Global) {
        let (file, items) = (self.file(output).unwrap_or_default(), RECORDED.load(Ordering::Relaxed));
        if global.json {
            println!("{}", serde_json::json!({ "shard": file.to_string_lossy(), "batches": items }));
        } else if !global.quiet {
            let program = std::env::args().next().unwrap_or_else(|| "ddpm".into());
            eprintln!("shard: {}, {}", file.display(), counted(items, "batch").replace("batchs", "batches"));
            let all = format!("{}.shard-*", output.display());
            let all = if self.shard_file.is_some() { "FILES".to_owned() } else { all };
            eprintln!("when all shards are done: {} merge {all}", quoted(&program));
        }
    }
}

/// Returns the arguments that all shards of a command have in common.
fn common_arguments(arguments: impl Iterator<Item = String>) -> Vec<String> {
    let (mut common, mut skipped) = (Vec::new(), 0);
    for argument in arguments.skip(1) {
        let name = argument.split_once('=').map_or(&*argument, |(name, _)| name);
        match FREE.iter().find(|(free, _)| *free == name) {
            _ if skipped > 0 => skipped -= 1,
            Some((_, values)) => skipped = if argument.contains('=') { 0 } else { *values },
            None => common.push(argument),
        }
    }
    common
}

/// Returns `None` in place of a result that was recorded for a later merge.
pub fn unless_recorded<T>(result: anyhow::Result<T>) -> anyhow::Result<Option<T>> {
    match result {
        Err(error) => match recorded(&error) {
            Some(items) => {
                RECORDED.fetch_add(items, Ordering::Relaxed);
                Ok(None)
            }
            None => Err(error),
        },
        Ok(result) => Ok(Some(result)),
    }
}

/// Returns the number of items of an error that says that they were recorded.
fn recorded(error: &anyhow::Error) -> Option<usize> {
    let of_evaluation = error.downcast_ref::<evaluate::Error>();
    let of_sampling = match of_evaluation {
        Some(evaluate::Error::Sample(error)) => Some(error),
        _ => error.downcast_ref::<sample::Error>(),
    };
    match (of_evaluation, of_sampling) {
        (Some(evaluate::Error::Mpi(Error::Recorded { items, .. })), _)
        | (_, Some(sample::Error::Mpi(Error::Recorded { items, .. }))) => Some(*items),
        _ => None,
    }
}

/// Join the shards of `ddpm sample --shard` or `ddpm evaluate --shard`.
///
/// The result is that of the command without --shard, to the byte. The shards name the command, which is repeated with the
/// items of the shards in place of the network's work; so its model and its images have to be where they were.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    for i in 1 2 3 4; do ddpm sample runs/fashion -n 50000 -o samples.npz --shard $i/4; done    or as a job array\n  \
    ddpm merge samples.npz.shard-*                                        writes samples.npz\n  \
    ddpm evaluate runs/fashion --shard 2/4                                one of four parts of bits/dim\n  \
    ddpm merge evaluation.shard-*                                         prints bits/dim")]
pub struct MergeArgs {
    /// The files of all shards, in any order
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Allow the command of the shards to write outside of this folder and of that of the shards
    #[arg(long)]
    trust: bool,
}

/// Opens the shards and returns the command that they divide.
pub fn merge(arguments: &MergeArgs, global: &Global) -> anyhow::Result<crate::Command> {
    let shards = Shards::open(&arguments.files)?;
    let first = arguments.files[0].display().to_string();
    let command: Vec<String> =
        serde_json::from_str(shards.command()).with_context(|| format!("{first}: the command of the shard"))?;
    let matches = crate::command().try_get_matches_from(std::iter::once("ddpm".to_owned()).chain(command.clone()));
    let cli = matches.and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = cli.map_err(|error| usage(format!("{first}: the command `ddpm {}`: {error}", command.join(" "))))?;
    let shown: Vec<String> = command.iter().map(|word| quoted(word)).collect();
    let outputs = match &cli.command {
        crate::Command::Sample(sample) => sample.outputs(),
        crate::Command::Evaluate(evaluate) => evaluate.outputs(),
        _ => return Err(usage(format!("{first}: `ddpm {}` is not a command that has shards", shown.join(" ")))),
    };
    say(format!("merging {} of: ddpm {}", counted(shards.count(), "shard"), shown.join(" ")), global);
    // The files may come from others, and their command is about to run.
    let folders: Vec<&Path> = arguments.files.iter().filter_map(|file| file.parent()).chain([Path::new("")]).collect();
    let is_inside = |output: &Path| {
        let real = |path: &Path| match path.as_os_str().is_empty() {
            true => Path::new(".").canonicalize().ok(),
            false => path.canonicalize().ok(),
        };
        let parent = real(output.parent().unwrap_or(Path::new("")));
        parent.is_some_and(|parent| folders.iter().any(|folder| real(folder).is_some_and(|f| parent.starts_with(f))))
    };
    if let Some(outside) = outputs.into_iter().find(|output| !arguments.trust && !is_inside(output)) {
        return Err(usage(format!(
            "{}: would be written by the command of the shards, and lies outside of this folder and of theirs; add --trust if \
             you know the command",
            outside.display()
        )));
    }
    // There is one merge in a process.
    let _ = MERGED.set(shards.into());
    Ok(cli.command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_one_of_a_number() {
        assert_eq!(shard("2/4"), Ok(Shard { index: 1, of: 4 }));
        for wrong in ["0/4", "5/4", "1", "a/b", "1/0", ""] {
            assert!(shard(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn shards_have_in_common_what_decides_the_result() {
        let common = |text: &str| common_arguments(text.split(' ').map(str::to_owned)).join(" ");
        let line = "ddpm sample run -n 9 --shard 1/2 --threads=3 --json --shard-file x -o a.npz --device cpu --seed 4";
        assert_eq!(common(line), "sample run -n 9 -o a.npz --seed 4");
    }
}
