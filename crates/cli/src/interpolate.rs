//! `ddpm interpolate`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use ddpm::sample::{Interpolation, Mix, Sampler, interpolate, model_name};
use ddpm::{Images, Output, Pipeline, output};

use crate::error::usage;
use crate::foreign::check_outputs;
use crate::image_args::{self, ImageArgs, info};
use crate::interrupt::on_interrupt;
use crate::preview::PreviewArgs;
use crate::terminal::Progress;
use crate::{Global, model_source, values};

/// Interpolate between two images.
///
/// Both images are noised to the same timestep with the same noise, mixed, and denoised. With --invert, their DDIM latents
/// are mixed instead, which preserves more of both.
///
/// The sheet has a row for each timestep; the higher it is, the coarser the features that are mixed. From left to right
/// it shows the first image, the mixtures with λ from 0 to 1, and the second image (Ho et al. 2020, figure 8).
#[derive(Args)]
#[command(after_help = "Examples:\n  ddpm interpolate runs/faces anna.png ben.png\n  \
    ddpm interpolate runs/faces anna.png ben.png --at 500 --between 15 -o line.png\n  \
    ddpm interpolate runs/faces anna.png ben.png --mix slerp --sampler ddim --steps 50\n  \
    ddpm interpolate runs/faces anna.png ben.png --invert --mix slerp --at 999")]
pub struct InterpolateArgs {
    /// A run, a checkpoint or a diffusers folder
    model: PathBuf,
    /// The image on the left
    a: PathBuf,
    /// The image on the right
    b: PathBuf,
    /// Timesteps to which the images are noised. Defaults to five, evenly spaced up to the last
    #[arg(long, value_delimiter = ',', value_name = "T,…")]
    at: Option<Vec<usize>>,
    /// Number of mixtures, including those with λ = 0 and λ = 1
    #[arg(long, default_value_t = 9, value_name = "N")]
    between: usize,
    /// Path along which two noisy images are mixed
    #[arg(long, default_value = "linear", value_name = "MIX")]
    mix: MixArg,
    /// Mix DDIM latents in place of noised images
    #[arg(long, conflicts_with = "sampler")]
    invert: bool,
    /// The sheet to write: a PNG
    #[arg(short, long, default_value = "interpolation.png", value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    preview: PreviewArgs,
    #[command(flatten)]
    images: ImageArgs,
    /// Sampler that denoises the mixtures
    #[arg(long, default_value = "ddim", value_parser = values::sampler(), value_name = "NAME", help_heading = "Sampler")]
    sampler: Sampler,
    /// Number of steps from the last timestep. Defaults to 100, or to all of a model with fewer
    #[arg(long, value_parser = values::positive, value_name = "K", help_heading = "Sampler")]
    steps: Option<usize>,
}

impl InterpolateArgs {
    fn steps(&self, pipeline: &Pipeline) -> usize {
        self.steps.unwrap_or(pipeline.scheduler.num_train_timesteps.min(100))
    }
}

/// A [`Mix`] by its name.
#[derive(Clone, Copy, ValueEnum)]
enum MixArg {
    /// Along the straight line between them
    Linear,
    /// Along the great circle between them
    Slerp,
}

pub fn run(arguments: InterpolateArgs, global: &Global) -> anyhow::Result<()> {
    if !(2..=1000).contains(&arguments.between) {
        return Err(usage("--between: expected 2 to 1000"));
    }
    if !matches!(Output::parse(&arguments.output, false).map_err(usage)?, Output::Grid(_)) {
        return Err(usage(format!(
            "{}: the sheet is a picture; give a name that ends in .png",
            arguments.output.display()
        )));
    }
    let preview = arguments.preview.preview_of(&arguments.output, global)?;
    check_outputs(&[Some(&*arguments.output)], &[&arguments.a, &arguments.b])?;
    on_interrupt("nothing was written; start again with")?;
    let pipeline = model_source::load(&arguments.model, global)?;
    let fit = arguments.images.fit;
    let (a, of_a) = image_args::read(&pipeline, &[&arguments.a], fit, global)?;
    let (b, of_b) = image_args::read(&pipeline, &[&arguments.b], fit, global)?;
    let (ends, readings) = ([a, b], [of_a, of_b].concat());
    let last = pipeline.scheduler.num_train_timesteps - 1;
    let at = arguments.at.clone().unwrap_or_else(|| (1..=5).map(|i| i * last / 5).collect());
    let lambdas: Vec<f64> = (0..arguments.between).map(|i| i as f64 / (arguments.between - 1) as f64).collect();
    let interpolation = Interpolation {
        ends: [&ends[0], &ends[1]],
        at: &at,
        lambdas: &lambdas,
        mix: match arguments.mix {
            MixArg::Linear => Mix::Linear,
            MixArg::Slerp => Mix::Spherical,
        },
        sampler: arguments.sampler,
        steps: Some(arguments.steps(&pipeline)),
        invert: arguments.invert,
        label: arguments.images.label(&pipeline)?,
        seed: arguments.images.seed,
        batch_size: arguments.images.batch_size,
    };
    let mut progress = Progress::new("interpolate", "steps", global);
    let mixtures = interpolate(&pipeline.denoiser()?, &pipeline.scheduler, &interpolation, |done, total| {
        progress.update(done, total);
        true
    })?;
    drop(progress);
    write_sheet(&arguments, &pipeline, &at, &ends, mixtures)?;
    preview.show(&arguments.output);
    if global.json {
        println!(
            "{}",
            serde_json::json!({ "output": arguments.output.to_string_lossy(), "at": at, "shares": lambdas, "data": readings })
        );
    } else if !global.quiet {
        eprintln!("t = {at:?} from top to bottom: {}", arguments.output.display());
    }
    Ok(())
}

/// Writes the mixtures between the two images.
fn write_sheet(
    arguments: &InterpolateArgs,
    pipeline: &Pipeline,
    at: &[usize],
    ends: &[Images; 2],
    mixtures: Vec<Images>,
) -> anyhow::Result<()> {
    let [a, b] = ends.each_ref().map(|end| Images { n: at.len(), pixels: end.pixels.repeat(at.len()), ..end.clone() });
    let columns: Vec<Images> = std::iter::once(a).chain(mixtures).chain([b]).collect();
    let sampler = if arguments.invert { "ddim, inverted".to_owned() } else { arguments.sampler.to_string() };
    let info = info([
        ("model", model_name(&pipeline.root)),
        ("at", format!("{at:?}")),
        ("sampler", format!("{sampler}, {} steps", arguments.steps(pipeline))),
        ("seed", arguments.images.seed.to_string()),
    ]);
    Ok(output::sheet(&arguments.output, &columns, columns.len(), &info)?)
}
