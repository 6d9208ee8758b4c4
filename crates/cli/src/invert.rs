//! `ddpm invert`.

use std::path::PathBuf;

use clap::Args;
use ddpm::sample::inversion;
use ddpm::{Images, Output, Pipeline, Request, output, walk, weights};

use crate::terminal::Progress;
use crate::way::{Way, info, read, show};
use crate::{Global, usage};

/// Find the noise that DDIM makes images from, and say how well it brings them back.
///
/// OUT has the latents as the tensor `noise` [N,C,H,W], which `ddpm sample --init OUT --sampler ddim --clip-sample false`
/// starts from. The error falls as steps are added.
#[derive(Args)]
#[command(after_help = "Examples:\n  ddpm invert runs/faces anna.png ben.png -o latents.safetensors\n  \
    ddpm invert runs/faces anna.png --steps 500 --sheet there-and-back.png\n  \
    ddpm sample runs/faces -n 2 --init latents.safetensors --sampler ddim --steps 100 --clip-sample false")]
pub struct Arguments {
    /// A run, a checkpoint or a diffusers folder
    model: PathBuf,
    /// The images
    #[arg(required = true)]
    images: Vec<PathBuf>,
    /// The latents
    #[arg(short, long, default_value = "latents.safetensors", value_name = "FILE")]
    output: PathBuf,
    /// How far up; by default to the last timestep
    #[arg(long, value_name = "T")]
    at: Option<usize>,
    /// Steps of the whole way
    #[arg(long, default_value_t = 100, value_name = "K")]
    steps: usize,
    /// Draw each image, its latents and what came back: a PNG
    #[arg(long, value_name = "FILE")]
    sheet: Option<PathBuf>,
    #[command(flatten)]
    way: Way,
}

pub fn run(arguments: Arguments, global: &Global) -> anyhow::Result<()> {
    arguments.way.check()?;
    let target = Output::parse(&arguments.output, false).map_err(usage)?;
    if !matches!(target, Output::Safetensors(_)) {
        return Err(usage(format!("{}: latents go to a .safetensors file", arguments.output.display())));
    }
    let pipeline = Pipeline::load(&arguments.model, &global.device()?)?;
    let images = read(&arguments.images, &pipeline, arguments.way.fit.as_deref())?;
    let t = arguments.at.unwrap_or(pipeline.scheduler.num_train_timesteps - 1);
    let (up, down) = inversion(&pipeline.scheduler, t, arguments.steps)?;
    target.check_writable(images.shape())?;
    let labels = arguments.way.labels(images.n);
    let total = images.n.div_ceil(arguments.way.batch_size) * (up.rows.len() + down.rows.len());
    let mut progress = Progress::new("invert", total as u64, 0, global.quiet);
    let mut done = 0;
    let mut go = |table, start: &Images| {
        let request = Request {
            seed: arguments.way.seed,
            first_image: 0,
            noise: start,
            labels: labels.as_deref(),
            batch_size: arguments.way.batch_size,
            share_until: None,
            guidance: None,
        };
        walk(&pipeline.unet, table, &pipeline.scheduler, &request, |_| {
            done += 1;
            show(&mut progress, done, total);
            true
        })
    };
    let latents = go(&up, &images)?;
    let back = go(&down, &latents)?;
    progress.finish();

    // In pixel values of 0 to 255, as everywhere.
    let rmse = |a: &[f32], b: &[f32]| {
        let square = a.iter().zip(b).map(|(a, b)| f64::from(a - b.clamp(-1.0, 1.0)).powi(2)).sum::<f64>();
        127.5 * (square / a.len() as f64).sqrt()
    };
    let errors: Vec<f64> = images.each().zip(back.each()).map(|(image, back)| rmse(image, back)).collect();
    let scale: Vec<f64> =
        latents.each().map(|x| (x.iter().map(|x| f64::from(x * x)).sum::<f64>() / x.len() as f64).sqrt()).collect();
    let shape = [latents.n, latents.channels, latents.height, latents.width];
    let info = info([
        ("model", arguments.model.display().to_string()),
        ("t", t.to_string()),
        ("steps", arguments.steps.to_string()),
    ]);
    let noise = [("noise", &shape[..], &latents.nchw()[..])];
    weights::write_safetensors(&arguments.output, noise, &info.iter().cloned().collect())?;
    if let Some(path) = &arguments.sheet {
        // A latent's values reach to about 3; a third of it is a picture.
        let shown = Images { pixels: latents.pixels.iter().map(|x| x / 3.0).collect(), ..latents.clone() };
        output::sheet(path, &[images.clone(), shown, back], 3, &info)?;
    }
    if global.json {
        let object = serde_json::json!({
            "output": arguments.output, "t": t, "steps": arguments.steps, "evaluations": up.rows.len() + down.rows.len(),
            "rmse": errors, "latent_rms": scale,
        });
        println!("{object}");
    } else {
        println!("{:>14} {:>12}  image", "RMSE (0-255)", "latent RMS");
        for ((path, error), scale) in arguments.images.iter().zip(&errors).zip(&scale) {
            println!("{error:>14.3} {scale:>12.4}  {}", path.display());
        }
    }
    Ok(())
}
