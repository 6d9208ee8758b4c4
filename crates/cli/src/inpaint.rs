//! `ddpm inpaint`.

use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, ValueEnum};
use ddpm::diffusion::FactorSchedule;
use ddpm::sample::{InpaintMethod, Inpainting, Request, Sampler, initial_noise, inpaint, model_name};
use ddpm::{Output, output};

use crate::error::usage;
use crate::foreign::{check_not_input, check_replaceable};
use crate::image_args::{self, ImageArgs, info, name_of};
use crate::interrupt::on_interrupt;
use crate::preview::PreviewArgs;
use crate::sampler_args::SamplerArgs;
use crate::terminal::Progress;
use crate::{Global, model_source, values};

/// Fill in the masked part of an image.
///
/// White pixels of the mask are filled in, black ones stay as they are. With --resample above 1, each step is repeated
/// with new noise (RePaint), so that the new part agrees with the rest, for as many times the work.
///
/// --method product multiplies the chain by a factor that is 0 unless the black pixels have their values (Sohl-Dickstein et al. 2015).
/// With --factor expected, the factor at each step is its expectation by the network's prediction, which takes two backward passes for
/// each step and works with any sampler. With --factor constant, it is the same at all steps, as in their experiments: biased.
#[derive(Args)]
#[command(after_help = "Examples:\n  ddpm inpaint runs/faces photo.png mask.png -o filled.png\n  \
    ddpm inpaint runs/faces photo.png mask.png -n 16 --steps 250 --resample 10\n  \
    ddpm inpaint runs/faces photo.png mask.png --sampler ddim --steps 50\n  \
    ddpm inpaint runs/faces photo.png mask.png --method product --sampler dpmpp-2m --steps 50")]
pub struct InpaintArgs {
    /// A run, a checkpoint or a diffusers folder
    model: PathBuf,
    /// The image
    image: PathBuf,
    /// The mask: white where the image is filled in, of the image's size
    mask: PathBuf,
    /// Number of variants
    #[arg(short, long, default_value_t = 4, value_parser = values::positive, value_name = "N")]
    n: usize,
    /// Output: .png (a grid), .npz, .safetensors, or a folder
    #[arg(short, long, default_value = "inpainted.png", value_name = "OUT")]
    output: PathBuf,
    /// Replace known pixels after each step, or multiply the chain by their factor
    #[arg(long, value_enum, default_value_t, value_name = "METHOD")]
    method: Method,
    /// Number of times that each step is taken, with --method replace
    #[arg(long, default_value_t = 1, value_parser = values::positive, value_name = "R")]
    resample: usize,
    /// Factor of --method product at each step. Defaults to expected
    #[arg(long, value_parser = values::factor(), value_name = "FACTOR")]
    factor: Option<FactorSchedule>,
    #[command(flatten)]
    preview: PreviewArgs,
    #[command(flatten)]
    images: ImageArgs,
    #[command(flatten)]
    sampler: SamplerArgs,
}

/// The method of inpainting.
#[derive(Clone, Copy, Default, PartialEq, ValueEnum)]
enum Method {
    /// Replace known pixels, by as much noise as a step leaves
    #[default]
    Replace,
    /// Multiply the chain by the factor of the known pixels
    Product,
}

impl InpaintArgs {
    /// Returns the method with its settings.
    fn method(&self) -> anyhow::Result<InpaintMethod> {
        match self.method {
            Method::Replace if self.factor.is_some() => Err(usage("--factor is for --method product")),
            Method::Product if self.resample > 1 => Err(usage("--resample is for --method replace")),
            Method::Replace => Ok(InpaintMethod::Replace { resample: self.resample }),
            Method::Product => Ok(InpaintMethod::Product(self.factor.unwrap_or_default())),
        }
    }
}

pub fn run(arguments: InpaintArgs, global: &Global) -> anyhow::Result<()> {
    let ImageArgs { seed, batch_size, fit, .. } = arguments.images;
    on_interrupt("nothing was written; start again with")?;
    let method = arguments.method()?;
    let sampler = arguments.sampler.sampler(Sampler::Ddpm)?;
    let target = Output::parse(&arguments.output, false).map_err(usage)?;
    if matches!(target, Output::Animation(_)) {
        let path = arguments.output.display();
        return Err(usage(format!("{path}: inpaint writes no animation; use .png, .npz, .safetensors or a folder")));
    }
    if matches!(target, Output::Grid(_)) {
        check_replaceable(target.path())?;
    }
    let preview = arguments.preview.preview_of(&arguments.output, global)?;
    check_not_input(target.path(), &[&arguments.image, &arguments.mask])?;
    let pipeline = model_source::load(&arguments.model, global)?;
    let (image, readings) = image_args::read(&pipeline, &[&arguments.image], fit, global)?;
    let unknown = pipeline.read_mask(&arguments.mask, &arguments.image, fit)?;
    let table = arguments.sampler.table(sampler, arguments.sampler.options(), &pipeline.scheduler)?;
    let shape = [image.height, image.width, image.channels];
    target.check_writable([arguments.n, image.height, image.width, image.channels])?;
    let noise =
        initial_noise(seed, 0, arguments.n, shape).with_labels(arguments.images.labels(&pipeline, arguments.n)?);
    let request = Request { seed, first_image: 0, noise: &noise, batch_size, shared: None };
    if !unknown.contains(&true) {
        bail!("{}: no pixel of the mask is white, so nothing would be filled in", arguments.mask.display());
    }
    let inpainting = Inpainting { image: &image, unknown: &unknown, method };
    let total = arguments.n.div_ceil(batch_size) * table.rows.len();
    let mut progress = Progress::new("inpaint", "steps", global);
    arguments.sampler.warnings(sampler, &table).into_iter().for_each(|line| progress.warn(line));
    let images = inpaint(&pipeline.denoiser()?, &table, (&request, inpainting), |step| {
        progress.update(step.first / batch_size * step.rows + step.row + 1, total);
        true
    })?;
    drop(progress);
    let info = info([
        ("model", model_name(&pipeline.root)),
        ("image", name_of(&arguments.image)),
        (
            "sampler",
            match method {
                InpaintMethod::Replace { resample } => {
                    format!("{sampler}, {} steps, each {resample} times", table.rows.len())
                }
                InpaintMethod::Product(factor) => {
                    format!("{sampler}, {} steps, product with the {factor} factor", table.rows.len())
                }
            },
        ),
        ("seed", seed.to_string()),
    ]);
    output::write(&target, &images, &[], &info)?;
    preview.show(target.path());
    let filled = unknown.iter().filter(|unknown| **unknown).count();
    if global.json {
        println!(
            "{}",
            serde_json::json!({ "output": arguments.output.to_string_lossy(), "images": images.n, "pixels_made": filled, "data": readings })
        );
    } else if !global.quiet {
        let (of, path) = (unknown.len(), arguments.output.display());
        let variants = if images.n == 1 { "1 variant".to_owned() } else { format!("{} variants", images.n) };
        eprintln!("filled in {filled} of {of} pixels in {variants}: {path}");
    }
    Ok(())
}
