//! `ddpm train`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use ddpm::train;
use ddpm::train::config::{Config, DEFAULT_PRESET};
use ddpm::train::{Distance, Event, Measured, metrics::Record};
use ddpm::unet::Parameters;

use crate::terminal::{Progress, duration};
use crate::{Global, usage};

/// Train a model on images, or go on with a run.
///
/// Without arguments it trains the preset `fashion` on the images inside the program. The folder of the run gets
/// config.toml, metrics.jsonl, TensorBoard events, loss.png, samples/STEP.png and checkpoints/STEP, each of them a
/// pipeline folder that Python's diffusers loads. Ctrl-C and SIGTERM finish the step, save and exit; a second one aborts.
#[derive(Args)]
#[command(after_help = "Examples:\n  ddpm train\n  ddpm train --preset cifar10 --data cifar-10-binary.tar.gz\n  \
    ddpm train --preset emoji64 --data photos/ --set train.steps=20000 --out runs/photos\n  \
    ddpm train --out runs/photos --resume                  go on where it stopped\n  \
    ddpm train --out runs/photos --resume --set train.steps=40000")]
pub struct Arguments {
    #[command(flatten)]
    configured: Configured,
    /// Seed of everything random; short for --set train.seed=N
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// The run's folder; by default runs/PRESET, or the first of runs/PRESET-2, -3 … that is not there
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with the run in --out from its newest whole checkpoint
    #[arg(long)]
    resume: bool,
    /// Print the resolved configuration and stop
    #[arg(long)]
    dry_run: bool,
}

/// Flags that make a configuration.
#[derive(Args)]
pub struct Configured {
    /// Start from a preset: fashion, fashion-hybrid, fashion-vlb, fashion-vdm, mnist, emoji64, cifar10, celebahq256, lsun-bedroom, lsun-church, lsun-cat
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    preset: Option<String>,
    /// Start from a TOML file (which may name a preset: `preset = "cifar10"`)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The images: a folder, IDX, CIFAR binary, .npz …; by default the preset's, or the built-in ones
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// Set a key of the configuration, e.g. --set train.batch_size=32 --set model.block_out_channels=[64,128]
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Configured {
    /// What a run is called that has no other name.
    fn name(&self) -> String {
        match (&self.preset, &self.config) {
            (Some(preset), _) => preset.clone(),
            (None, Some(file)) => file.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            (None, None) => DEFAULT_PRESET.to_owned(),
        }
    }

    /// The configuration of the preset or file, with what the other flags change.
    pub fn read(&self) -> anyhow::Result<Config> {
        self.changed(match (&self.preset, &self.config) {
            (_, Some(file)) => Config::from_file(file)?,
            (Some(preset), None) => Config::preset(preset).map_err(usage)?,
            (None, None) => Config::preset(DEFAULT_PRESET)?,
        })
    }

    /// A configuration with what --data and --set change.
    fn changed(&self, mut config: Config) -> anyhow::Result<Config> {
        if let Some(data) = &self.data {
            config.data.path = Some(data.clone());
        }
        for assignment in &self.set {
            config.set(assignment).map_err(usage)?;
        }
        Ok(config)
    }
}

pub fn run(arguments: Arguments, global: &Global) -> anyhow::Result<()> {
    let configured = &arguments.configured;
    let name = configured.name();
    let out = match &arguments.out {
        Some(out) => out.clone(),
        None if arguments.resume => PathBuf::from("runs").join(&name),
        None => free_folder(&PathBuf::from("runs").join(&name)),
    };
    if out.exists() && !out.is_dir() {
        anyhow::bail!("{}: is a file, expected a folder", out.display());
    }
    let saved = out.join("config.toml");
    let holds_run = saved.exists() || train::steps_done(&out).is_some();
    if arguments.resume && !holds_run {
        anyhow::bail!("{}: there is no run to go on with; leave out --resume to begin one", out.display());
    }
    if !arguments.resume && holds_run && !arguments.dry_run {
        anyhow::bail!(
            "{}: there is a run already ({} steps); add --resume to go on with it, or choose another --out",
            out.display(),
            train::steps_done(&out).unwrap_or(0)
        );
    }
    let mut config = if arguments.resume {
        if configured.preset.is_some() || configured.config.is_some() {
            return Err(usage("--resume takes the configuration of the run; use --set to change a key of it"));
        }
        configured.changed(Config::from_file(&saved)?)?
    } else {
        configured.read()?
    };
    if let Some(seed) = arguments.seed {
        config.train.seed = seed;
    }
    config.validate().map_err(usage)?;
    if arguments.dry_run {
        if global.json {
            println!("{}", serde_json::to_string(&config)?);
        } else {
            print!("{}", config.to_toml()?);
        }
        return Ok(());
    }
    let device = global.device()?;
    let signals = catch_signals()?;
    let stop = || signals.load(Ordering::Relaxed) > 0;
    let mut screen = Screen::new(global, &config);
    let finished = train::train(&config, &out, &device, &stop, &mut |event| screen.show(event))?;
    screen.finish();

    if global.json {
        let last = finished.records.last();
        let object = serde_json::json!({
            "run": out, "step": finished.step, "stopped": finished.stopped, "checkpoint": finished.checkpoint,
            "samples": finished.samples, "last": last,
        });
        println!("{object}");
    } else if !global.quiet {
        report(&out, &finished);
    }
    Ok(())
}

/// The end: where the pictures are, and what to type next.
fn report(out: &Path, finished: &train::Finished) {
    let shown = out.display();
    // As it was called: after `cargo run` there is no `ddpm` on the path.
    let program = std::env::args().next().unwrap_or_else(|| "ddpm".into());
    if finished.stopped {
        eprintln!("stopped at step {}; saved in {}", finished.step, finished.checkpoint.display());
        eprintln!("go on:        {program} train --out {shown} --resume");
        return;
    }
    if let Some(last) = finished.records.last() {
        let time = duration(last.seconds);
        eprintln!("done: {} steps in {time}, loss {:.4}", finished.step, last.loss);
    }
    if let Some(samples) = &finished.samples {
        eprintln!("samples:      {}", samples.display());
    }
    eprintln!("loss curve:   {}", out.join("loss.png").display());
    eprintln!("checkpoint:   {}", finished.checkpoint.display());
    eprintln!("draw more:    {program} sample {shown} -n 64 -o samples.png");
    eprintln!("train longer: {program} train --out {shown} --resume --set train.steps={}", 2 * finished.step);
}

/// `path`, or `path-2`, `path-3` … : the first that is not there.
fn free_folder(path: &Path) -> PathBuf {
    let numbered = |n: usize| match n {
        1 => path.to_owned(),
        n => PathBuf::from(format!("{}-{n}", path.display())),
    };
    (1..).map(numbered).find(|path| !path.exists()).unwrap_or_else(|| path.to_owned())
}

/// Counts SIGINT and SIGTERM; the second ends the program at once, unless it comes on the heels of the first, as
/// from `timeout`, which signals the process and then its group.
fn catch_signals() -> anyhow::Result<Arc<AtomicUsize>> {
    let count = Arc::new(AtomicUsize::new(0));
    let (seen, mut first) = (count.clone(), None);
    ctrlc::set_handler(move || {
        let since = first.get_or_insert_with(Instant::now).elapsed();
        if seen.fetch_add(1, Ordering::Relaxed) == 0 {
            eprintln!("finishing the step and saving; once more to stop at once");
        } else if since > Duration::from_secs(1) {
            std::process::exit(130);
        }
    })?;
    Ok(count)
}

/// What is shown while a run goes on.
struct Screen {
    progress: Progress,
    quiet: bool,
    images_per_step: usize,
    steps: u64,
    last: Option<Record>,
}

impl Screen {
    fn new(global: &Global, config: &Config) -> Self {
        Self {
            progress: Progress::new("train", 0, 0, true),
            quiet: global.quiet,
            images_per_step: config.train.batch_size * config.train.gradient_accumulation,
            steps: config.train.steps as u64,
            last: None,
        }
    }

    fn show(&mut self, event: Event) {
        match event {
            Event::Started { set, unet, step, steps } => {
                let parameters = unet.config().parameter_count();
                if !self.quiet {
                    eprintln!("data:    {}", set.describe());
                    eprintln!("network: {} parameters on {}", grouped(parameters), device_name(unet));
                    if step > 0 {
                        eprintln!("resumed: step {step} of {steps}");
                    }
                }
                self.progress = Progress::new("train", steps, step, self.quiet);
            }
            Event::Step { step, loss } => {
                let last = &self.last;
                self.progress.set(step, || match last {
                    Some(r) => format!(
                        "loss {:.4} [{}] grad {:.2} {:.0} images/s",
                        r.loss,
                        quarters(r),
                        r.gradient_norm,
                        r.images_per_second
                    ),
                    None => format!("loss {loss:.4}"),
                });
            }
            Event::Logged(record) => {
                if !self.progress.is_bar() {
                    self.progress.say(self.line(record));
                }
                self.last = Some(record.clone());
            }
            Event::Sampling { done, total } => self.progress.set_message(|| format!("drawing samples {done}/{total}")),
            Event::Evaluating { what, done, total } => {
                self.progress.set_message(|| format!("measuring {what} {done}/{total}"));
                self.progress.line_every(Duration::from_secs(10), || format!("measuring {what} {done}/{total}"));
            }
            Event::Evaluated { measured, best } => self.progress.say(evaluated(measured, best)),
            Event::Sampled(path) => self.progress.say(format!("samples: {}", path.display())),
            Event::Saved(path) => self.progress.say(format!("saved:   {}", path.display())),
            Event::Warning(message) => self.progress.warn(message),
            _ => {}
        }
    }

    /// A log line: loss, its quarters of the chain, gradient norm, speed and time to go.
    fn line(&self, r: &Record) -> String {
        let images = (self.steps - r.step) as f64 * self.images_per_step as f64;
        format!(
            "step {}/{}  loss {:.4} [{}]  grad {:.3}  lr {:.1e}  {:.1} images/s  ETA {}",
            r.step,
            self.steps,
            r.loss,
            quarters(r),
            r.gradient_norm,
            r.learning_rate,
            r.images_per_second,
            duration(images / r.images_per_second)
        )
    }

    fn finish(&self) {
        self.progress.finish();
    }
}

/// What was measured, and whether it is the best so far.
fn evaluated(measured: &Measured, best: bool) -> String {
    let bits = measured.bits_per_dim.map(|bits| format!("held-out images {bits:.4} bits/dim"));
    let distance = measured.distance.as_ref().map(|Distance { name, value, samples, floor }| {
        let floor = floor.map(|floor| format!(", real beside real {floor:.3}")).unwrap_or_default();
        format!("{name} {value:.3} of {samples} samples{floor}")
    });
    let figures: Vec<String> = bits.into_iter().chain(distance).collect();
    let best = if best { "; the best so far: checkpoints/best" } else { "" };
    format!("measured: {}{best}", figures.join("; "))
}

/// The loss by quarters of the chain, early t first.
fn quarters(record: &Record) -> String {
    record.loss_q.map(|q| q.map_or("-".into(), |q| format!("{q:.3}"))).join(" ")
}

fn device_name(unet: &ddpm::Unet) -> String {
    if ddpm::unet::ops::is_cpu(&unet.device()) {
        format!("cpu, {} threads", rayon::current_num_threads())
    } else {
        format!("{:?}", unet.device())
    }
}

/// 35746307 as 35,746,307.
pub fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use ddpm::train::config::PRESETS;

    #[test]
    fn help_names_every_preset() {
        use clap::CommandFactory;
        let help = crate::Cli::command().find_subcommand_mut("train").unwrap().render_long_help().to_string();
        for (name, _) in PRESETS {
            assert!(help.contains(name), "{name}");
        }
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(35_746_307), "35,746,307");
        assert_eq!(grouped(999), "999");
    }
}
