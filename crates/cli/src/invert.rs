//! `ddpm invert`.

use std::path::{Path, PathBuf};

use clap::Args;
use ddpm::sample::{Inversion, Inverted, invert, model_name};
use ddpm::{Images, Output, Pipeline, output, weights};

use crate::error::usage;
use crate::foreign::check_outputs;
use crate::image_args::{self, ImageArgs, info};
use crate::interrupt::on_interrupt;
use crate::terminal::Progress;
use crate::{Global, model_source, values};

/// Invert images to DDIM latents.
///
/// OUT gets the latents as the tensor `noise` [N,C,H,W], from which `ddpm sample --init OUT --sampler ddim --clip-sample
/// false` reconstructs the images. The error of the reconstruction is printed; it falls as steps are added.
#[derive(Args)]
#[command(after_help = "Examples:\n  ddpm invert runs/faces anna.png ben.png -o latents.safetensors\n  \
    ddpm invert runs/faces anna.png --steps 500 --sheet there-and-back.png\n  \
    ddpm sample runs/faces -n 2 --init latents.safetensors --sampler ddim --steps 100 --clip-sample false")]
pub struct InvertArgs {
    /// A run, a checkpoint or a diffusers folder
    model: PathBuf,
    /// The images
    #[arg(required = true)]
    images: Vec<PathBuf>,
    /// The latents to write: a .safetensors file
    #[arg(short, long, default_value = "latents.safetensors", value_name = "OUT")]
    output: PathBuf,
    /// Timestep of the latents. Defaults to the last
    #[arg(long, value_name = "T")]
    at: Option<usize>,
    /// Number of steps from the image to the last timestep. Defaults to 100, or to all of a model with fewer
    #[arg(long, value_parser = values::two_or_more, value_name = "K")]
    steps: Option<usize>,
    /// Draw each image, its latents and its reconstruction: a PNG
    #[arg(long, value_parser = values::png, value_name = "FILE")]
    sheet: Option<PathBuf>,
    #[command(flatten)]
    image_args: ImageArgs,
}

impl InvertArgs {
    fn steps(&self, at: usize) -> usize {
        self.steps.unwrap_or_else(|| at.saturating_add(1).min(100))
    }
}

pub fn run(arguments: InvertArgs, global: &Global) -> anyhow::Result<()> {
    let target = Output::parse(&arguments.output, false).map_err(usage)?;
    if !matches!(target, Output::Safetensors(_)) {
        return Err(usage(format!("{}: latents are written to a .safetensors file", arguments.output.display())));
    }
    let inputs: Vec<&Path> = arguments.images.iter().map(|path| &**path).collect();
    check_outputs(&[Some(&*arguments.output), arguments.sheet.as_deref()], &inputs)?;
    on_interrupt("nothing was written; start again with")?;
    let pipeline = model_source::load(&arguments.model, global)?;
    let (images, readings) = image_args::read(&pipeline, &arguments.images, arguments.image_args.fit, global)?;
    let labels = arguments.image_args.labels(&pipeline, images.n)?;
    let images = images.with_labels(labels);
    target.check_writable(images.shape())?;
    let at = arguments.at.unwrap_or(pipeline.scheduler.num_train_timesteps - 1);
    let steps = arguments.steps(at);
    let inversion = Inversion { at, steps, batch_size: arguments.image_args.batch_size };
    let mut progress = Progress::new("invert", "steps", global);
    let inverted = invert(&pipeline.denoiser()?, &pipeline.scheduler, (&images, inversion), |done, total| {
        progress.update(done, total);
        true
    })?;
    drop(progress);
    write(&arguments, &pipeline, at, &images, &inverted)?;
    let Inverted { rmse, latent_rms, evaluations, .. } = inverted;
    if global.json {
        let object = serde_json::json!({
            "output": arguments.output.to_string_lossy(), "t": at, "steps": steps, "evaluations": evaluations, "rmse": rmse,
            "latent_rms": latent_rms, "data": readings,
        });
        println!("{object}");
    } else {
        println!("{:>14} {:>12}  image", "RMSE (0-255)", "latent RMS");
        for ((path, rmse), rms) in arguments.images.iter().zip(rmse).zip(latent_rms) {
            println!("{rmse:>14.3} {rms:>12.4}  {}", path.display());
        }
    }
    Ok(())
}

/// Writes the latents and the sheet.
fn write(
    arguments: &InvertArgs,
    pipeline: &Pipeline,
    at: usize,
    images: &Images,
    inverted: &Inverted,
) -> anyhow::Result<()> {
    let info = info([
        ("model", model_name(&pipeline.root)),
        ("t", at.to_string()),
        ("steps", arguments.steps(at).to_string()),
    ]);
    let latents = &inverted.latents;
    let shape = [latents.n, latents.channels, latents.height, latents.width];
    let noise = [("noise", &shape[..], &latents.nchw()[..])];
    weights::write_safetensors(&arguments.output, noise, &info.iter().cloned().collect())?;
    if let Some(path) = &arguments.sheet {
        // A latent's values reach to about 3; a third of it is a picture.
        let shown = Images { pixels: latents.pixels.iter().map(|x| x / 3.0).collect(), ..latents.clone() };
        output::sheet(path, &[images.clone(), shown, inverted.reconstruction.clone()], 3, &info)?;
    }
    Ok(())
}
