//! `ddpm classifier`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use ddpm::data::{self, Split};
use ddpm::train::{ClassifierOptions, train_classifier};

use crate::terminal::{Progress, duration};
use crate::train::Configured;
use crate::{Global, usage};

/// Train a small classifier whose features `ddpm evaluate` and training can compare images by.
///
/// It stands in for Inception where that says little: sets of small images with classes, such as MNIST or Fashion-MNIST.
/// The images are read as `ddpm train` reads them with the same configuration, so that both see the same pixels. Figures
/// made with it compare only with figures made with the same file.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  ddpm classifier -o clothes.safetensors                    of the built-in images\n  \
    ddpm classifier --preset mnist --data data/mnist -o digits.safetensors\n  \
    ddpm evaluate runs/fashion --features clothes.safetensors --metrics fd,prdc --samples 1000\n  \
    ddpm train --set train.evaluate_every=500 --set train.evaluate_features=clothes.safetensors"
)]
pub struct Arguments {
    #[command(flatten)]
    configured: Configured,
    /// Steps of the optimizer
    #[arg(long, default_value_t = ClassifierOptions::default().steps, value_name = "N")]
    steps: usize,
    /// Images of a step
    #[arg(long, default_value_t = ClassifierOptions::default().batch_size, value_name = "B")]
    batch_size: usize,
    /// Seed of its parameters and of the order of the images
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// The file to write, a .safetensors
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
}

pub fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<()> {
    let &Arguments { steps, batch_size, seed, .. } = arguments;
    if steps == 0 || batch_size == 0 {
        return Err(usage("--steps and --batch-size must be at least 1"));
    }
    let mut config = arguments.configured.read()?;
    // Transparency goes over white, as where features are made.
    if config.data.channels == 4 {
        config.data.channels = 3;
    }
    let set = Arc::new(config.open(Split::Train)?);
    let held_out = match config.open(Split::Test) {
        Ok(set) => Some(set),
        Err(ddpm::train::Error::Data(data::Error::NoHeldOut { .. })) => None,
        Err(error) => return Err(error.into()),
    };
    if !global.quiet {
        eprintln!("data: {}", set.describe());
    }
    let options = ClassifierOptions { steps, batch_size, seed, flip: config.data.flip, ..ClassifierOptions::default() };
    let mut progress = Progress::new("classifier", steps as u64, 0, global.quiet);
    let start = Instant::now();
    let (classifier, about) = train_classifier(&set, held_out.as_ref(), options, &global.device()?, |done, loss| {
        let rate = (done * batch_size) as f64 / start.elapsed().as_secs_f64();
        let left = ((steps - done) * batch_size) as f64 / rate;
        progress.set(done as u64, || format!("loss {loss:.3} {rate:.0} images/s"));
        let line = || format!("step {done}/{steps}  loss {loss:.3}  {rate:.0} images/s  {} left", duration(left));
        progress.line_every(Duration::from_secs(5), line);
        true
    })?;
    progress.finish();
    classifier.write(&arguments.output, &about)?;
    if global.json {
        let object = serde_json::json!({
            "output": arguments.output, "set": about.set, "classes": about.classes.len(), "accuracy": about.accuracy,
            "held_out": held_out.as_ref().map_or(0, |set| set.len()),
        });
        println!("{object}");
        return Ok(());
    }
    if !global.quiet {
        match (about.accuracy, &held_out) {
            (Some(accuracy), Some(held_out)) => {
                eprintln!("accuracy: {accuracy:.4} of {} held-out images", held_out.len());
            }
            _ => eprintln!("accuracy: unknown, {} has no held-out part", about.set),
        }
        eprintln!("saved: {}", arguments.output.display());
    }
    Ok(())
}
