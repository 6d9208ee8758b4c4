//! `ddpm inpaint`.

use std::path::PathBuf;

use clap::Args;
use ddpm::data;
use ddpm::sample::{Known, inpaint};
use ddpm::{Output, Pipeline, Request, Sampler, SamplerOptions, initial_noise, output};

use crate::terminal::Progress;
use crate::way::{Way, data_options, info, read, show};
use crate::{Global, usage};

/// Make a part of an image anew so that it fits the rest.
///
/// White pixels of the mask are made, black ones stay as they are. With --resample above 1 each step is gone back and made
/// again (RePaint), which lets the new part agree with the old one, for as many times the work.
#[derive(Args)]
#[command(after_help = "Examples:\n  ddpm inpaint runs/faces photo.png mask.png -o filled.png\n  \
    ddpm inpaint runs/faces photo.png mask.png -n 16 --steps 250 --resample 10\n  \
    ddpm inpaint runs/faces photo.png mask.png --sampler ddim --steps 50")]
pub struct Arguments {
    /// A run, a checkpoint or a diffusers folder
    model: PathBuf,
    /// The image
    image: PathBuf,
    /// What is to be made: white, of the same size
    mask: PathBuf,
    /// How many different ones
    #[arg(short, long, default_value_t = 4, value_name = "N")]
    n: usize,
    /// Where they go: .png (a grid), .npz, .safetensors, or a folder
    #[arg(short, long, default_value = "inpainted.png", value_name = "OUT")]
    output: PathBuf,
    /// ddpm or ddim
    #[arg(long, default_value = "ddpm", value_name = "NAME")]
    sampler: String,
    /// Steps of the sampler; by default as many as the chain has
    #[arg(long, value_name = "K")]
    steps: Option<usize>,
    /// How often each step is made
    #[arg(long, default_value_t = 1, value_name = "R")]
    resample: usize,
    #[command(flatten)]
    way: Way,
}

pub fn run(arguments: Arguments, global: &Global) -> anyhow::Result<()> {
    let sampler: Sampler = arguments.sampler.parse().map_err(usage)?;
    arguments.way.check()?;
    if arguments.n == 0 || arguments.resample == 0 {
        return Err(usage("-n and --resample must be at least 1"));
    }
    let target = Output::parse(&arguments.output, false).map_err(usage)?;
    let pipeline = Pipeline::load(&arguments.model, &global.device()?)?;
    let image = read(&[&arguments.image], &pipeline, arguments.way.fit.as_deref())?;
    let options = data::ReadOptions { channels: Some(1), ..data_options(&pipeline, arguments.way.fit.as_deref())? };
    let mask = data::open(&arguments.mask, &options)?;
    let mut bytes = vec![0; image.height * image.width];
    mask.read_into(&[0], &mut bytes)?;
    let unknown: Vec<bool> = bytes.into_iter().map(|byte| byte >= 128).collect();
    let table = sampler.table(&pipeline.scheduler, SamplerOptions { steps: arguments.steps, ..Default::default() })?;
    let noise = initial_noise(arguments.way.seed, 0, arguments.n, [image.height, image.width, image.channels]);
    target.check_writable(noise.shape())?;
    let labels = arguments.way.labels(arguments.n);
    let request = Request {
        seed: arguments.way.seed,
        first_image: 0,
        noise: &noise,
        labels: labels.as_deref(),
        batch_size: arguments.way.batch_size,
        share_until: None,
        guidance: None,
    };
    let known = Known { image: &image, unknown: &unknown, resample: arguments.resample };
    let total = arguments.n.div_ceil(arguments.way.batch_size) * table.rows.len();
    let mut progress = Progress::new("inpaint", total as u64, 0, global.quiet);
    let images = inpaint(&pipeline.unet, &table, &pipeline.scheduler, &request, known, |step| {
        show(&mut progress, step.first / arguments.way.batch_size * step.rows + step.row + 1, total);
        true
    })?;
    progress.finish();
    let info = info([
        ("model", arguments.model.display().to_string()),
        ("image", arguments.image.display().to_string()),
        ("sampler", format!("{sampler}, {} steps, each {} times", table.rows.len(), arguments.resample)),
        ("seed", arguments.way.seed.to_string()),
    ]);
    match &target {
        Output::Folder(folder) => output::write_folder(folder, &images, labels.as_deref(), 0, &info)?,
        _ => output::write(&target, &images, labels.as_deref(), &[], &info)?,
    }
    let made = unknown.iter().filter(|unknown| **unknown).count();
    if global.json {
        println!("{}", serde_json::json!({ "output": arguments.output, "images": images.n, "pixels_made": made }));
    } else if !global.quiet {
        eprintln!("{made} of {} pixels made, {} times: {}", unknown.len(), images.n, arguments.output.display());
    }
    Ok(())
}
