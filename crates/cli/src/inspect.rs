//! `ddpm inspect`.

use std::path::{Path, PathBuf};

use clap::Args;
use ddpm::data::{self, DuplicateReport, ReadOptions, Split, Summary};
use ddpm::train::{checkpoint::State, config::Config};
use ddpm::unet::{Parameters, count_by_part};
use ddpm::{Pipeline, weights};

use crate::train::grouped;
use crate::{Global, height_width};

/// Say what a model, a run or a set of images is.
///
/// For images: how many, sizes, channels, classes, and which files could not be read; and a contact sheet.
/// For a model: parameters by part, configuration, noise schedule, and how far it was trained.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  ddpm inspect photos/ -o sheet.png\n  ddpm inspect train-images-idx3-ubyte.gz\n  ddpm inspect cifar-10-batches-bin --duplicates\n  \
    ddpm inspect runs/fashion\n  ddpm inspect google-ddpm-cifar10-32/ --json\n  ddpm inspect                     the built-in images"
)]
pub struct Arguments {
    /// Images or a model; by default the built-in images
    path: Option<PathBuf>,
    /// The contact sheet of a set of images
    #[arg(short, long, default_value = "contact-sheet.png", value_name = "FILE")]
    output: PathBuf,
    /// Resize to this many pixels first: 32 or 32x48
    #[arg(long, value_name = "SIZE")]
    resolution: Option<String>,
    /// The held-out part of a set that has one
    #[arg(long)]
    test: bool,
    /// Find images that are there twice, and held-out images that are also in the training part
    #[arg(long)]
    duplicates: bool,
}

pub fn run(arguments: Arguments, global: &Global) -> anyhow::Result<()> {
    match &arguments.path {
        Some(path) if is_model(path) => model(path, global),
        _ => images(&arguments, global),
    }
}

/// Whether a path is meant as a model: it has the files of one.
fn is_model(path: &Path) -> bool {
    let has = |name: &str| path.join(name).exists();
    has("checkpoints")
        || has("model_index.json")
        || has("config.json")
        || has("latest")
        || path.extension().is_some_and(|e| ["safetensors", "pt", "pth", "ckpt"].iter().any(|known| e == *known))
}

fn images(arguments: &Arguments, global: &Global) -> anyhow::Result<()> {
    let resolution = arguments.resolution.as_deref().map(|text| height_width("--resolution", text));
    let mut options = ReadOptions {
        resolution: resolution.transpose()?,
        split: if arguments.test { Split::Test } else { Split::Train },
        ..ReadOptions::default()
    };
    let open = |options: &ReadOptions| match &arguments.path {
        Some(path) => data::open(path, options),
        None => data::builtin(options),
    };
    let set = match open(&options) {
        // Sizes that differ are something to see, not an error.
        Err(data::Error::MixedSizes { .. }) => {
            options.resolution = Some((64, 64));
            open(&options)?
        }
        set => set?,
    };
    let summary = Summary::new(&set);
    let duplicates = match arguments.duplicates {
        false => None,
        true => {
            let split = if arguments.test { Split::Train } else { Split::Test };
            // Both in the same shape, or no two would be equal.
            let (resolution, channels) = (Some((set.height(), set.width())), Some(set.channels()));
            let other = match open(&ReadOptions { resolution, channels, split, ..options.clone() }) {
                Err(data::Error::NoHeldOut { .. }) => None,
                other => Some(other?),
            };
            let (train, held_out) =
                if arguments.test { (other.as_ref(), Some(&set)) } else { (Some(&set), other.as_ref()) };
            Some(DuplicateReport::new(&set, train.zip(held_out))?)
        }
    };
    // Evenly spread over the set, so that every class of a sorted set is seen.
    let count = set.len().min(100);
    let pixels = set.read((0..count).map(|i| i * set.len() / count))?;
    let sheet = data::grid(&pixels, set.shape(), 10, 1)?;
    sheet_to(&arguments.output, &sheet)?;
    if global.json {
        println!(
            "{}",
            serde_json::json!({ "images": summary, "duplicates": duplicates, "contact_sheet": arguments.output })
        );
    } else {
        println!("{summary}");
        if let Some(duplicates) = duplicates {
            println!("{duplicates}");
        }
        println!("contact sheet: {}", arguments.output.display());
    }
    Ok(())
}

fn sheet_to(path: &Path, sheet: &image::RgbImage) -> anyhow::Result<()> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    sheet.write_to(&mut bytes, image::ImageFormat::Png)?;
    Ok(weights::atomic::write_file(path, |file| file.write_all(bytes.get_ref()))?)
}

fn model(path: &Path, global: &Global) -> anyhow::Result<()> {
    let pipeline = Pipeline::load(path, &global.device()?)?;
    let config = pipeline.unet.config();
    let parts = count_by_part(&pipeline.unet.flat_parameters());
    let total: usize = parts.values().sum();
    let state = pipeline.root.join("training/state.json");
    let state: Option<State> = match std::fs::read_to_string(&state) {
        Ok(text) => Some(serde_json::from_str(&text)?),
        Err(_) => None,
    };
    let steps = Config::of_checkpoint(&pipeline.root).map(|config| config.train.steps);
    if global.json {
        let object = serde_json::json!({
            "root": pipeline.root, "parameters": total, "parts": parts,
            "config": serde_json::from_str::<serde_json::Value>(&config.to_json())?,
            "scheduler": serde_json::from_str::<serde_json::Value>(&pipeline.scheduler.to_json()?)?,
            "training": state,
        });
        println!("{object}");
        return Ok(());
    }
    println!("model:      {}", pipeline.root.display());
    println!("parameters: {} ({:.1} MB as f32)", grouped(total), 4e-6 * total as f64);
    for (part, count) in &parts {
        println!("  {part:24} {:>12}", grouped(*count));
    }
    let size = config.sample_size.map_or("any size".into(), |size| {
        let (height, width) = size.height_width();
        format!("{height}x{width}")
    });
    println!("images:     {size}, {} channels in, {} out", config.in_channels, config.out_channels);
    println!("levels:     {:?}, {} residual blocks each", config.block_out_channels, config.layers_per_block);
    println!("blocks:     {:?} | {:?}", config.down_block_types, config.up_block_types);
    if let Some(classes) = config.num_class_embeds {
        println!("classes:    {classes}");
    }
    let scheduler = &pipeline.scheduler;
    let schedule = scheduler.noise_schedule()?;
    let last = schedule.len() - 1;
    println!(
        "chain:      T = {}, {} {}..{}, predicts {}, variance {}, clip_sample {}",
        schedule.len(),
        scheduler.beta_schedule,
        scheduler.beta_start,
        scheduler.beta_end,
        scheduler.prediction_type,
        scheduler.variance_type,
        scheduler.clip_sample
    );
    println!("            alphas_cumprod {:.6} .. {:.3e}", schedule.alpha_cumprod(0), schedule.alpha_cumprod(last));
    if let Some(state) = state {
        let of = steps.map_or(String::new(), |steps| format!(" of {steps}"));
        println!("training:   step {}{of}, {}", state.step, crate::terminal::duration(state.seconds));
        if state.skipped > 0 {
            println!("            {} steps skipped, {} roll-backs", state.skipped, state.rollbacks);
        }
    }
    Ok(())
}
