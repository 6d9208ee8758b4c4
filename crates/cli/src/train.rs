//! `ddpm train`.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use clap::Args;
use ddpm::data::{Conversion, Reading};
use ddpm::files::peak_memory;
use ddpm::mpi::Launch;
use ddpm::train::{
    Command, Event, Finished, FrechetMetric, Hooks, LogRecord, Metrics, RunFolder, TrainingConfig, train,
};
use serde_json::json;

use crate::Global;
use crate::config_args::ConfigArgs;
use crate::error::usage;
use crate::interrupt::{INTERRUPTED, on_signals};
use crate::preview::{Preview, PreviewArgs};
use crate::ranks;
use crate::terminal::{Progress, duration, gigabytes, grouped, quoted, rate};

/// Train a model on images, or resume a run.
///
/// Without arguments, the preset `fashion` is trained on the images inside the program. The folder of the run gets
/// config.toml, metrics.jsonl, TensorBoard events, loss.png, samples/STEP.png and checkpoints/STEP, each of them a
/// pipeline folder that Python's diffusers loads. Ctrl-C, SIGTERM and SIGUSR1 save and exit; a second one aborts.
#[derive(Args)]
#[command(after_help = "Examples:\n  ddpm train\n  ddpm train --preset cifar10 --data cifar-10-binary.tar.gz\n  \
    ddpm train --preset emoji64 --data pets/ --set train.steps=20000 -o runs/pets\n  \
    ddpm train -o runs/photos --resume                                continue where it stopped\n  \
    ddpm train -o runs/photos --resume --set train.steps=40000        for longer than planned")]
pub struct TrainArgs {
    /// The run's folder. Defaults to runs/PRESET, or the first of runs/PRESET-2, -3 … that does not exist
    #[arg(short, long, alias = "out", value_name = "FOLDER")]
    output: Option<PathBuf>,
    /// Continue the run in --output from its newest intact checkpoint
    #[arg(long, alias = "continue")]
    resume: bool,
    /// Print the resolved configuration, its parameters, memory and time of a step, and exit
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    preview: PreviewArgs,
    // Its heading is that of all flags below.
    #[command(flatten)]
    config: ConfigArgs,
    /// Seed of everything random; short for --set train.seed=N
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

pub fn run(arguments: TrainArgs, global: &Global) -> anyhow::Result<()> {
    if let Some(tasks) = Launch::slurm_without_mpi() {
        return Err(usage(format!(
            "srun started {tasks} programs that do not know each other; use `srun --mpi=pmix` (Open MPI) or `srun --mpi=pmi2` \
             (MPICH), or set DDPM_MPI=off if each is to train alone"
        )));
    }
    let folder = arguments.folder();
    ranks::of_root(|| match !arguments.dry_run || arguments.resume {
        true => Ok(folder.check()?),
        false => Ok(()),
    })?;
    let config = arguments.resolved(folder.path(), global)?;
    if arguments.dry_run {
        return dry_run(&config, global);
    }
    let device = global.device()?;
    let mut screen = Screen::new(global, &arguments, &config);
    let mut hooks = Hooks::new().on_event(|event| screen.show(event)).commands(stop_on_signals()?);
    hooks = hooks.communicator(ranks::communicator());
    if arguments.config.sets("train.learning_rate") {
        hooks = hooks.set_learning_rate();
    }
    let finished = train(&config, folder, &device, hooks)?;
    let folder = &finished.run;
    let (memory, peak) = (screen.memory, peak_memory());
    drop(screen);
    if global.json {
        let object = json!({
            "run": folder.to_string_lossy(), "step": finished.step, "stopped": finished.stopped, "checkpoint": finished.checkpoint,
            "samples": finished.samples, "last": finished.records.last(),
            "memory": { "estimated_bytes": memory, "peak_bytes": peak },
        });
        println!("{object}");
    } else if !global.quiet {
        print(folder, &finished, memory.zip(peak));
    }
    Ok(())
}

/// Prints the configuration, and what a run of it would take.
fn dry_run(config: &TrainingConfig, global: &Global) -> anyhow::Result<()> {
    let plan = config.plan(&global.device()?)?;
    if global.json {
        let mut object = serde_json::to_value(config)?;
        object["estimate"] = serde_json::to_value(&plan)?;
        println!("{object}");
    } else {
        print!("{}", config.to_toml()?);
    }
    if !global.quiet {
        eprintln!("data:    {}", plan.data);
        eprintln!("network: {} parameters", grouped(plan.parameters));
        if let Some(memory) = &plan.memory {
            let limit = plan.memory_limit.zip(plan.memory_limit_source.as_ref());
            let limit =
                limit.map_or(String::new(), |(bytes, source)| format!("; {source} is {}", gigabytes(bytes as f64)));
            eprintln!(
                "memory:  about {}: {} for parameters and optimizer, {} for activations, {} for images{limit}",
                gigabytes(memory.total()),
                gigabytes(memory.parameters),
                gigabytes(memory.activations),
                gigabytes(memory.images)
            );
        }
        match plan.step_seconds {
            Some(seconds) => eprintln!(
                "time:    {seconds:.3} s a step, {}; {} for {} steps",
                if plan.measured { "measured" } else { "estimated from a step of one image" },
                duration(seconds * config.train.steps as f64),
                config.train.steps
            ),
            None => eprintln!("time:    not measured, since not even one image fits into memory"),
        }
    }
    if let Some(warning) = plan.check_memory()? {
        eprintln!("warning: {warning}");
    }
    Ok(())
}

impl TrainArgs {
    /// Returns the run's folder, and what may be there.
    fn folder(&self) -> RunFolder {
        let default = Path::new("runs").join(self.config.name());
        match (&self.output, self.resume) {
            (Some(folder), true) => RunFolder::existing(folder),
            (Some(folder), false) => RunFolder::new_run(folder),
            (None, true) => RunFolder::existing(default),
            (None, false) => RunFolder::numbered(default),
        }
    }

    /// Returns the configuration of the flags, or that of the run to be resumed with what the flags change.
    fn resolved(&self, folder: &Path, global: &Global) -> anyhow::Result<TrainingConfig> {
        let mut config = match self.resume {
            true if self.config.preset.is_some() || self.config.config.is_some() => {
                return Err(usage("--resume takes the configuration of the run; use --set to change a key of it"));
            }
            true => {
                // Rank 0 may be the only one that can read the folder.
                let text = ranks::of_root(|| {
                    let mut config = TrainingConfig::from_file(&folder.join("config.toml"))?;
                    if self.config.data.is_none() && !self.config.sets("data.path") {
                        config.find_images(folder).map_err(|error| anyhow!("{error} with --data"))?;
                    }
                    Ok(config.to_toml()?)
                })?;
                self.config.apply(TrainingConfig::from_toml(&text)?)?
            }
            false => self.config.read_for_training(global, self.dry_run)?,
        };
        if let Some(seed) = self.seed {
            config.train.seed = seed;
        }
        let file = if self.resume { Some(folder.join("config.toml")) } else { self.config.config.clone() };
        config.validate().map_err(|error| {
            // The value is that of the file if the file alone has the same error.
            let of_file = file.filter(|file| {
                let alone = TrainingConfig::from_file(file).map(|config| config.validate());
                alone.is_ok_and(|alone| alone.is_err_and(|alone| alone.to_string() == error.to_string()))
            });
            match of_file {
                Some(file) => usage(format!("{}: {error}", file.display())),
                None => usage(error),
            }
        })?;
        Ok(config)
    }
}

/// Returns a channel that gets [`Command::Stop`] at the first SIGINT, SIGTERM, SIGHUP or SIGUSR1, which batch systems send
/// some time before the end. The second one ends the program at once,
/// unless it follows within a second: `timeout` signals the process and then its group.
fn stop_on_signals() -> anyhow::Result<Receiver<Command>> {
    let (sender, receiver) = channel();
    let mut first: Option<Instant> = None;
    on_signals(move || match first {
        None => {
            first = Some(Instant::now());
            // A launcher also sends signals to end a job of which a rank has failed, and then nothing is saved.
            if !ranks::is_joined() {
                eprintln!("stopping and saving; press Ctrl-C again to stop at once");
            }
            // A run that has ended does not receive it.
            let _ = sender.send(Command::Stop);
        }
        Some(first) if first.elapsed() > Duration::from_secs(1) => std::process::exit(INTERRUPTED),
        Some(_) => {}
    })?;
    Ok(receiver)
}

/// Prints where the results are, and what to type next.
fn print(folder: &Path, finished: &Finished, memory: Option<(f64, u64)>) {
    let folder_shown = folder.to_string_lossy();
    // A name that begins with a dash would be taken for a flag.
    let folder_shown = quoted(&format!("{}{folder_shown}", if folder_shown.starts_with('-') { "./" } else { "" }));
    // As it was called: after `cargo run` there is no `ddpm` on the path.
    let program = std::env::args().next().unwrap_or_else(|| "ddpm".into());
    let program = quoted(&program);
    if finished.stopped {
        eprintln!("stopped at step {}; saved in {}", finished.step, finished.checkpoint.display());
        eprintln!("continue:     {program} train -o {folder_shown} --resume");
        return;
    }
    if let Some(last) = finished.records.last() {
        eprintln!("done: {} steps in {}, loss {:.4}", finished.step, duration(last.seconds), last.loss);
    }
    if let Some((estimated, peak)) = memory {
        eprintln!("memory:       peak {}, estimated {}", gigabytes(peak as f64), gigabytes(estimated));
    }
    if let Some(samples) = &finished.samples {
        eprintln!("samples:      {}", samples.display());
    }
    // A single record makes no curve.
    let curve = folder.join("loss.png");
    if curve.exists() {
        eprintln!("loss curve:   {}", curve.display());
    }
    eprintln!("checkpoint:   {}", finished.checkpoint.display());
    eprintln!("sample more:  {program} sample {folder_shown} -n 64 -o samples.png");
    eprintln!("train longer: {program} train -o {folder_shown} --resume --set train.steps={}", 2 * finished.step);
}

/// Shows a run on the terminal.
struct Screen<'a> {
    global: &'a Global,
    config: &'a ConfigArgs,
    preview: Preview,
    progress: Progress,
    images_per_step: usize,
    steps: u64,
    last: Option<LogRecord>,
    /// The estimate in bytes.
    memory: Option<f64>,
}

impl<'a> Screen<'a> {
    fn new(global: &'a Global, arguments: &'a TrainArgs, config: &TrainingConfig) -> Self {
        Self {
            global,
            config: &arguments.config,
            preview: arguments.preview.preview(global),
            progress: Progress::new("train", "steps", global),
            images_per_step: config.train.batch_size * config.train.gradient_accumulation,
            steps: config.train.steps as u64,
            last: None,
            memory: None,
        }
    }

    fn show(&mut self, event: &Event) {
        match event {
            Event::Started { run, reading, validation, parameters, device, step, memory, .. } => {
                self.memory = *memory;
                let classes =
                    if reading.classes > 0 { format!(", {} classes", reading.classes) } else { String::new() };
                self.progress.say(format!("run:     {}", run.display()));
                self.progress.say(format!("data:    {reading}{classes}"));
                if let Some(reading) = validation {
                    self.progress.say(format!("validation: {reading}"));
                }
                if *step == 0 {
                    self.warn_of_conversions(reading);
                }
                self.progress.say(format!("network: {} parameters on {device}", grouped(*parameters)));
                if let Some(memory) = memory {
                    let each = if ranks::is_joined() { " for each rank" } else { "" };
                    self.progress.say(format!("memory:  about {}{each}", gigabytes(*memory)));
                }
                if *step > 0 {
                    self.progress.say(format!("resumed: step {step} of {}", self.steps));
                }
                self.progress = Progress::new("train", "steps", self.global);
                self.progress.set_before(*step as usize);
            }
            // Without a bar, each record of the log is a line.
            Event::Step { report, .. } if self.progress.is_bar() => {
                let last = self.last.as_ref();
                let detail = || last.map_or_else(|| format!("loss {:.4}", report.loss), summary);
                self.progress.update_with(report.step as usize, self.steps as usize, |_| detail());
            }
            Event::Logged(record) => {
                if !self.progress.is_bar() {
                    self.progress.say(self.line(record));
                }
                self.last = Some(record.clone());
            }
            Event::Sampling { done, total } => self.progress.message(|| format!("sampling {done}/{total}")),
            Event::Validating { part, done, total } => {
                self.progress.message(|| format!("validating: {part} {done}/{total}"));
            }
            Event::Validated { metrics, best } => self.progress.say(validated(metrics, *best)),
            Event::Sampled { path } => {
                self.progress.say(format!("samples: {}", path.display()));
                self.progress.suspend(|| self.preview.show(path));
            }
            Event::Saved { path } => self.progress.say(format!("saved:   {}", path.display())),
            Event::Changed(change) => self.progress.say(format!("changed: {change}")),
            Event::Notice { message } => self.progress.say(message),
            Event::Warning { message } => self.progress.warn(message),
            _ => {}
        }
    }

    /// Warns about conversions of the images that a preset decided, and names the key that avoids each.
    fn warn_of_conversions(&self, reading: &Reading) {
        for (conversion, n) in reading.conversions() {
            let (key, text) = match conversion {
                Conversion::ToGrey => ("data.channels", "in color become grey; --set data.channels=3 keeps the color"),
                Conversion::ToColor => ("data.channels", "are grey; --set data.channels=1 makes a grey model"),
                Conversion::ToOpaque => ("data.channels", "lose their transparency; --set data.channels=4 keeps it"),
                Conversion::Shrunk => {
                    ("data.resolution", "are shrunk to less than half; --set data.resolution=N keeps more of them")
                }
                Conversion::Enlarged => {
                    ("data.resolution", "are enlarged; a smaller --set data.resolution=N, or data.fit=pad, avoids it")
                }
            };
            if self.config.is_of_preset(key) {
                self.progress.warn(format!("{}: {} of {} images {text}", reading.set, grouped(n), grouped(reading.of)));
            }
        }
    }

    /// Returns a line of the log: loss, its quarters of the chain, gradient norm, speed and time left.
    fn line(&self, record: &LogRecord) -> String {
        let images = (self.steps - record.step) as f64 * self.images_per_step as f64;
        format!(
            "step {}/{}  loss {:.4} [{}]  grad {:.3}  lr {:.1e}  {:.1} images/s  ETA {}",
            record.step,
            self.steps,
            record.loss,
            quarters(record),
            record.gradient_norm,
            record.learning_rate,
            record.images_per_second,
            duration(images / record.images_per_second)
        )
    }
}

/// Returns a record in short, for the bar.
fn summary(record: &LogRecord) -> String {
    let speed = rate(record.images_per_second, "images");
    format!("loss {:.4} [{}] grad {:.2}, {speed}", record.loss, quarters(record), record.gradient_norm)
}

/// Returns the metrics of a validation, and whether they are the best so far.
fn validated(metrics: &Metrics, best: bool) -> String {
    let bits = metrics.bits_per_dim.map(|bits| format!("held-out images {bits:.4} bits/dim"));
    let distance = metrics.frechet.as_ref().map(|FrechetMetric { name, value, samples, floor }| {
        let floor = floor.map(|floor| format!(", real vs. real {floor:.3}")).unwrap_or_default();
        format!("{name} {value:.3} of {samples} samples{floor}")
    });
    let metrics: Vec<String> = bits.into_iter().chain(distance).collect();
    let best = if best { "; the best so far: checkpoints/best" } else { "" };
    format!("validated: {}{best}", metrics.join("; "))
}

/// Returns the loss by quarters of the chain, early t first.
fn quarters(record: &LogRecord) -> String {
    record.loss_q.map(|q| q.map_or("-".into(), |q| format!("{q:.3}"))).join(" ")
}
