//! `ddpm interpolate`.

use std::path::PathBuf;

use clap::Args;
use ddpm::sample::{Between, Mix, interpolate};
use ddpm::{Images, Pipeline, Sampler, output};

use crate::terminal::Progress;
use crate::way::{Way, info, read, show};
use crate::{Global, usage};

/// Go from one image to another through a model: both are noised to the same t, mixed, and brought back. With --invert
/// they are taken up along DDIM's way instead, which keeps more of both.
///
/// The sheet has a row for each t, coarser and coarser, and between the two images the mixtures of λ from 0 to 1
/// (Ho et al. 2020, figure 8).
#[derive(Args)]
#[command(after_help = "Examples:\n  ddpm interpolate runs/faces anna.png ben.png\n  \
    ddpm interpolate runs/faces anna.png ben.png --at 500 --between 15 -o line.png\n  \
    ddpm interpolate runs/faces anna.png ben.png --mix slerp --sampler ddim --steps 50\n  \
    ddpm interpolate runs/faces anna.png ben.png --invert --mix slerp --at 999")]
pub struct Arguments {
    /// A run, a checkpoint or a diffusers folder
    model: PathBuf,
    /// The image on the left
    a: PathBuf,
    /// The image on the right
    b: PathBuf,
    /// To which timesteps they are noised; by default five, evenly up to the last
    #[arg(long, value_delimiter = ',', value_name = "T,…")]
    at: Option<Vec<usize>>,
    /// Mixtures between the two, those at either end included
    #[arg(long, default_value_t = 9, value_name = "N")]
    between: usize,
    /// linear or slerp (spherical)
    #[arg(long, default_value = "linear", value_name = "MIX")]
    mix: String,
    /// The way back: ddim, ddpm or another sampler of `ddpm sample`
    #[arg(long, default_value = "ddim", value_name = "NAME")]
    sampler: String,
    /// Steps of the whole way from noise to image
    #[arg(long, default_value_t = 100, value_name = "K")]
    steps: usize,
    /// Mix the latents that DDIM makes the images from, instead of adding noise
    #[arg(long, conflicts_with = "sampler")]
    invert: bool,
    /// The sheet
    #[arg(short, long, default_value = "interpolation.png", value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    way: Way,
}

pub fn run(arguments: Arguments, global: &Global) -> anyhow::Result<()> {
    let sampler: Sampler = arguments.sampler.parse().map_err(usage)?;
    let mix = match arguments.mix.as_str() {
        "linear" => Mix::Linear,
        "slerp" => Mix::Spherical,
        other => return Err(usage(format!("--mix {other}: expected linear or slerp"))),
    };
    arguments.way.check()?;
    if arguments.between < 2 {
        return Err(usage("--between must be at least 2"));
    }
    let pipeline = Pipeline::load(&arguments.model, &global.device()?)?;
    let ends = [
        read(&[&arguments.a], &pipeline, arguments.way.fit.as_deref())?,
        read(&[&arguments.b], &pipeline, arguments.way.fit.as_deref())?,
    ];
    let last = pipeline.scheduler.num_train_timesteps - 1;
    let at = arguments.at.clone().unwrap_or_else(|| (1..=5).map(|i| i * last / 5).collect());
    let shares: Vec<f64> = (0..arguments.between).map(|i| i as f64 / (arguments.between - 1) as f64).collect();
    let between = Between {
        at: &at,
        shares: &shares,
        mix,
        sampler,
        steps: Some(arguments.steps),
        invert: arguments.invert,
        label: arguments.way.label,
        seed: arguments.way.seed,
        batch_size: arguments.way.batch_size,
    };
    let mut progress = Progress::new("interpolate", 0, 0, global.quiet);
    let mut frames = interpolate(&pipeline.unet, &pipeline.scheduler, [&ends[0], &ends[1]], &between, |done, of| {
        show(&mut progress, done, of);
        true
    })?;
    progress.finish();
    // The images themselves, at both ends of every row.
    let [a, b] = ends.map(|end| repeated(&end, at.len()));
    frames.insert(0, a);
    frames.push(b);
    let way = if arguments.invert { "ddim, inverted".to_owned() } else { sampler.to_string() };
    let info = info([
        ("model", arguments.model.display().to_string()),
        ("at", format!("{at:?}")),
        ("sampler", format!("{way}, {} steps", arguments.steps)),
        ("seed", arguments.way.seed.to_string()),
    ]);
    output::sheet(&arguments.output, &frames, frames.len(), &info)?;
    if global.json {
        println!("{}", serde_json::json!({ "output": arguments.output, "at": at, "shares": shares }));
    } else if !global.quiet {
        eprintln!("t = {at:?}, from top to bottom: {}", arguments.output.display());
    }
    Ok(())
}

fn repeated(image: &Images, n: usize) -> Images {
    Images { n, pixels: image.pixels.repeat(n), ..image.clone() }
}
