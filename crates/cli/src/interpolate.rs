//! `ddpm interpolate`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use ddpm::data;
use ddpm::sample::{Between, Mix, interpolate};
use ddpm::{Images, Pipeline, Sampler, output};

use crate::terminal::Progress;
use crate::{Global, usage};

/// Go from one image to another through a model: both are noised to the same t, mixed, and brought back.
///
/// The sheet has a row for each t, coarser and coarser, and between the two images the mixtures of λ from 0 to 1
/// (Ho et al. 2020, figure 8).
#[derive(Args)]
#[command(after_help = "Examples:\n  ddpm interpolate runs/faces anna.png ben.png\n  \
    ddpm interpolate runs/faces anna.png ben.png --at 500 --between 15 -o line.png\n  \
    ddpm interpolate runs/faces anna.png ben.png --mix slerp --sampler ddim --steps 50")]
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
    /// Class of the images, where the network has classes
    #[arg(long, value_name = "CLASS")]
    label: Option<u32>,
    /// Seed of the noise
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Images that go through the network at once; never changes an image
    #[arg(long, default_value_t = 16, value_name = "B")]
    batch_size: usize,
    /// The sheet
    #[arg(short, long, default_value = "interpolation.png", value_name = "FILE")]
    output: PathBuf,
}

pub fn run(arguments: Arguments, global: &Global) -> anyhow::Result<()> {
    let sampler: Sampler = arguments.sampler.parse().map_err(usage)?;
    let mix = match arguments.mix.as_str() {
        "linear" => Mix::Linear,
        "slerp" => Mix::Spherical,
        other => return Err(usage(format!("--mix {other}: expected linear or slerp"))),
    };
    if arguments.between < 2 || arguments.batch_size == 0 {
        return Err(usage("--between must be at least 2, and --batch-size at least 1"));
    }
    let pipeline = Pipeline::load(&arguments.model, &global.device()?)?;
    let ends = [read(&arguments.a, &pipeline)?, read(&arguments.b, &pipeline)?];
    let last = pipeline.scheduler.num_train_timesteps - 1;
    let at = arguments.at.clone().unwrap_or_else(|| (1..=5).map(|i| i * last / 5).collect());
    let shares: Vec<f64> = (0..arguments.between).map(|i| i as f64 / (arguments.between - 1) as f64).collect();
    let between = Between {
        at: &at,
        shares: &shares,
        mix,
        sampler,
        steps: Some(arguments.steps),
        label: arguments.label,
        seed: arguments.seed,
        batch_size: arguments.batch_size,
    };
    let mut progress = Progress::new("interpolate", 0, 0, global.quiet);
    let mut frames = interpolate(&pipeline.unet, &pipeline.scheduler, [&ends[0], &ends[1]], &between, |done, of| {
        progress.set(done as u64, || format!("of {of} steps"));
        progress.line_every(Duration::from_secs(10), || format!("{done}/{of} steps"));
        true
    })?;
    progress.finish();
    // The images themselves, at both ends of every row.
    let [a, b] = ends.map(|end| repeated(&end, at.len()));
    frames.insert(0, a);
    frames.push(b);
    let info = [
        ("model", arguments.model.display().to_string()),
        ("at", format!("{at:?}")),
        ("sampler", format!("{sampler}, {} steps", arguments.steps)),
        ("seed", arguments.seed.to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value));
    output::sheet(&arguments.output, &frames, frames.len(), &info)?;
    if global.json {
        println!("{}", serde_json::json!({ "output": arguments.output, "at": at, "shares": shares }));
    } else if !global.quiet {
        eprintln!("t = {at:?}, from top to bottom: {}", arguments.output.display());
    }
    Ok(())
}

/// An image file as the network wants it.
pub fn read(path: &Path, pipeline: &Pipeline) -> anyhow::Result<Images> {
    let set = data::open(path, &pipeline.data_options())?;
    let (height, width, channels) = (set.height(), set.width(), set.channels());
    let mut bytes = vec![0; height * width * channels];
    set.read(&[0], &mut bytes)?;
    Ok(Images { n: 1, height, width, channels, pixels: output::from_u8(&bytes) })
}

fn repeated(image: &Images, n: usize) -> Images {
    Images { n, pixels: image.pixels.repeat(n), ..image.clone() }
}
