//! `ddpm inspect`.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use ddpm::data::{self, DuplicateReport, ImageSet, LabelFrom, ReadOptions, Split, Summary};
use ddpm::unet::count_by_part;
use ddpm::{Pipeline, weights};
use image::{DynamicImage, GrayImage, RgbImage, RgbaImage};
use rayon::prelude::*;
use serde_json::{Value, json};

use crate::foreign::check_outputs;
use crate::interrupt::on_interrupt;
use crate::model_folder::{self, Lines};
use crate::output_streams::one_line;
use crate::terminal::{self, duration, grouped, quoted};
use crate::{Global, model_source, values};

/// Describe a model, a run, a classifier or a set of images.
///
/// For images: their number, sizes, channels and classes, the files that could not be read, and a contact sheet. For a
/// model: parameters by part, configuration, noise schedule, and how far it was trained; for a run also its data and
/// checkpoints. For a file of `ddpm classifier`: the images it was trained on and its accuracy.
#[derive(Args)]
#[command(after_help = "Examples:\n  ddpm inspect photos/ -o sheet.png\n  \
    ddpm inspect train-images-idx3-ubyte.gz\n  \
    ddpm inspect cifar-10-batches-bin --duplicates\n  \
    ddpm inspect birds/ --label-from column:species\n  \
    ddpm inspect runs/fashion\n  \
    ddpm inspect google-ddpm-cifar10-32/ --json\n  \
    ddpm inspect                                     the built-in images")]
pub struct InspectArgs {
    /// Images, a model or a classifier. Defaults to the built-in images
    path: Option<PathBuf>,
    /// The contact sheet of a set of images: a PNG. Defaults to contact-sheet.png
    #[arg(short, long, value_parser = values::png, value_name = "FILE", help_heading = "Images")]
    output: Option<PathBuf>,
    /// Height and width to which images are resized first: 32 or 32x48
    #[arg(long, alias = "resolution", value_parser = values::size, value_name = "SIZE", help_heading = "Images")]
    size: Option<[usize; 2]>,
    /// Read the held-out part of a set that has one
    #[arg(long, help_heading = "Images")]
    test: bool,
    /// Source of labels: folder, filename (cat_001.png) or column:NAME of a table. As data.label_from of a run
    #[arg(long, default_value_t = LabelFrom::Folder, value_name = "FROM", help_heading = "Images")]
    label_from: LabelFrom,
    /// The numbers of an array that are black and white, such as -1,1. As data.range of a run
    #[arg(long, value_parser = values::range, allow_hyphen_values = true, value_name = "LOW,HIGH", help_heading = "Images")]
    range: Option<[f64; 2]>,
    /// Find equal images, and held-out images that are also in the training part
    #[arg(long, help_heading = "Images")]
    duplicates: bool,
}

pub fn run(arguments: InspectArgs, global: &Global) -> anyhow::Result<()> {
    on_interrupt("there is no result; start again with")?;
    let Some(path) = &arguments.path else {
        return describe_images(&arguments, global);
    };
    if path.exists() && !path.is_dir() {
        ddpm::files::open_regular(path).with_context(|| format!("cannot read {}", path.display()))?;
    }
    if let Some(about) = classifier(path) {
        arguments.refuse_flags_of_images(path)?;
        return describe_classifier(path, about, global);
    }
    let folder = model_folder::describe(path)?;
    match (is_model(path), folder) {
        (true, folder) => {
            arguments.refuse_flags_of_images(path)?;
            describe_model(path, folder, global)
        }
        (false, Some(folder)) => {
            arguments.refuse_flags_of_images(path)?;
            describe_folder(&folder, global);
            Ok(())
        }
        (false, None) => describe_images(&arguments, global),
    }
}

impl InspectArgs {
    /// Refuses flags that a model would ignore.
    fn refuse_flags_of_images(&self, path: &Path) -> anyhow::Result<()> {
        let given = [
            ("--output", self.output.is_some()),
            ("--size", self.size.is_some()),
            ("--test", self.test),
            ("--duplicates", self.duplicates),
        ];
        match given.iter().find(|(_, given)| *given) {
            Some((flag, _)) => bail!("{}: is a model; {flag} is for sets of images", path.display()),
            None => Ok(()),
        }
    }
}

/// Returns whether a path is meant as a model: a folder with the files of one, or a file with the extension of weights.
fn is_model(path: &Path) -> bool {
    if !path.is_dir() {
        return weights::builtin::is_builtin(path)
            || path.extension().is_some_and(|e| ["safetensors", "pt", "pth", "ckpt"].iter().any(|known| e == *known))
            || path
                .file_name()
                .is_some_and(|name| ["model_index.json", "latest", "best"].iter().any(|known| name == *known));
    }
    let has = |name: &str| path.join(name).exists();
    match weights::pipeline::locate(path) {
        Err(weights::Error::NoModel { .. }) => has("model_index.json") || has("config.json") || has("latest"),
        _ => true,
    }
}

/// Describes a folder of models, none of which can be read yet.
fn describe_folder(folder: &Lines, global: &Global) {
    if global.json {
        println!("{}", json!({ "folder": model_folder::to_json(folder) }));
    } else {
        model_folder::print(folder);
    }
}

fn describe_images(arguments: &InspectArgs, global: &Global) -> anyhow::Result<()> {
    let mut options = ReadOptions {
        resolution: arguments.size.map(Into::into),
        split: if arguments.test { Split::Test } else { Split::Train },
        label_from: arguments.label_from.clone(),
        range: arguments.range,
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
    terminal::warn_about(&set);
    let summary = Summary::new(&set);
    let duplicates = if arguments.duplicates { Some(duplicates(&set, &options, open)?) } else { None };
    let sheet = arguments.output.as_deref().unwrap_or(Path::new("contact-sheet.png"));
    let inputs: Vec<&Path> = arguments.path.iter().map(|path| &**path).collect();
    check_outputs(&[Some(sheet)], &inputs)?;
    write_contact_sheet(&set, sheet)?;
    if let Some(data) = arguments.path.as_deref().filter(|data| data.is_dir() && contains(data, sheet)) {
        let (sheet, data) = (sheet.display(), data.display());
        eprintln!(
            "warning: {sheet} lies in {data}, the images; it is skipped when they are read, but -o can name another place"
        );
    }
    if global.json {
        let sheet = sheet.to_string_lossy();
        println!("{}", json!({ "images": summary, "duplicates": duplicates, "contact_sheet": sheet }));
        return Ok(());
    }
    println!("{summary}");
    if let Some(duplicates) = duplicates {
        println!("{duplicates}");
    }
    println!("contact sheet: {}", sheet.display());
    Ok(())
}

/// Returns whether a file lies in a folder, at any depth.
fn contains(folder: &Path, file: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    matches!((real(folder), real(file)), (Some(folder), Some(file)) if file.starts_with(&folder))
}

/// Finds equal images within a part of a set, and between both of its parts.
fn duplicates(
    set: &ImageSet,
    options: &ReadOptions,
    open: impl Fn(&ReadOptions) -> Result<ImageSet, data::Error>,
) -> anyhow::Result<DuplicateReport> {
    let is_test = options.split == Split::Test;
    let split = if is_test { Split::Train } else { Split::Test };
    // Both in the same shape, or no two would be equal.
    let (resolution, channels) = (Some((set.height(), set.width())), Some(set.channels()));
    let other = match open(&ReadOptions { resolution, channels, split, ..options.clone() }) {
        Err(data::Error::NoHeldOut { .. }) => None,
        other => Some(other?),
    };
    let other = other.as_ref();
    let parts = if is_test { other.map(|train| (train, set)) } else { other.map(|held_out| (set, held_out)) };
    Ok(DuplicateReport::new(set, parts)?)
}

/// The longest side of an image on a contact sheet. Larger ones are shrunk.
const THUMBNAIL: usize = 256;

/// Draws up to 100 images, evenly spread over the set, so that every class of a sorted set is seen.
fn write_contact_sheet(set: &ImageSet, path: &Path) -> anyhow::Result<()> {
    let count = set.len().min(100);
    let images: Result<Vec<_>, data::Error> =
        (0..count).into_par_iter().map(|i| Ok(thumbnail(set.read([i * set.len() / count])?, set.shape()))).collect();
    let images = images?;
    let shape = images.first().map_or(set.shape(), |(_, shape)| *shape);
    let pixels: Vec<u8> = images.into_iter().flat_map(|(pixels, _)| pixels).collect();
    let sheet = data::grid(&pixels, shape, 10, 1)?;
    let mut png = std::io::Cursor::new(Vec::new());
    sheet.write_to(&mut png, image::ImageFormat::Png)?;
    let png = data::mark_png(png.into_inner());
    Ok(weights::atomic::write_file(path, |file| file.write_all(&png))?)
}

/// Shrinks an image `[H,W,C]` so that no side is longer than [`THUMBNAIL`]. Returns it with its shape.
fn thumbnail(pixels: Vec<u8>, shape: [usize; 3]) -> (Vec<u8>, [usize; 3]) {
    let [height, width, channels] = shape;
    if height.max(width) <= THUMBNAIL {
        return (pixels, shape);
    }
    let (h, w) = (height as u32, width as u32);
    let image = match channels {
        1 => GrayImage::from_raw(w, h, pixels).map(DynamicImage::from),
        3 => RgbImage::from_raw(w, h, pixels).map(DynamicImage::from),
        _ => RgbaImage::from_raw(w, h, pixels).map(DynamicImage::from),
    };
    let small = image.expect("the pixels have the shape of the set").thumbnail(THUMBNAIL as u32, THUMBNAIL as u32);
    let shape = [small.height() as usize, small.width() as usize, channels];
    (small.into_bytes(), shape)
}

/// The size of a classifier's file, at most. Larger files, such as a model's weights, are not read to find out.
const MAX_CLASSIFIER_BYTES: u64 = 16 << 20;

/// Returns what a file of `ddpm classifier` says about itself; `None` for any other file.
pub fn classifier(path: &Path) -> Option<Value> {
    let file = std::fs::metadata(path).ok()?;
    if !file.is_file() || file.len() > MAX_CLASSIFIER_BYTES {
        return None;
    }
    let (tensors, metadata) = weights::read_safetensors(path).ok()?;
    let mut about: Value = serde_json::from_str(metadata.get("ddpm.classifier")?).ok()?;
    about["parameters"] = tensors.values().map(|tensor| tensor.data.len()).sum::<usize>().into();
    Some(about)
}

fn describe_classifier(path: &Path, about: Value, global: &Global) -> anyhow::Result<()> {
    if global.json {
        println!("{}", json!({ "root": path.to_string_lossy(), "classifier": about }));
        return Ok(());
    }
    let number = |key: &str| about[key].as_u64().unwrap_or(0) as usize;
    let classes = about["classes"].as_array().map_or(0, Vec::len);
    println!("classifier: {}", path.display());
    println!("parameters: {}", grouped(number("parameters")));
    println!("trained on: {}, {classes} classes", about["set"].as_str().unwrap_or("?"));
    println!("images:     {0}x{0}, {1} channels", number("side"), number("channels"));
    match about["accuracy"].as_f64() {
        Some(accuracy) => println!("accuracy:   {accuracy:.4} of held-out images"),
        None => println!("accuracy:   unknown, as the set has no held-out part"),
    }
    let features = quoted(&path.to_string_lossy());
    println!("use:        ddpm evaluate MODEL --features {features} --metrics fd,kd,prdc");
    Ok(())
}

fn describe_model(path: &Path, folder: Option<Lines>, global: &Global) -> anyhow::Result<()> {
    let pipeline = model_source::load(path, global)?;
    let parts = count_by_part(&pipeline.network.flat_parameters());
    let total: usize = parts.values().sum();
    let state = pipeline.root.join("training/state.json");
    let training: Option<Value> = match ddpm::files::read_text(&state) {
        Ok(text) => Some(serde_json::from_str(&text).with_context(|| state.display().to_string())?),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", state.display())),
    };
    if global.json {
        let object = json!({
            "root": pipeline.root.to_string_lossy(), "parameters": total, "parts": parts, "config": pipeline.network.config_value(),
            "scheduler": pipeline.scheduler.to_value()?,
            "preprocessing": pipeline.preprocessing, "training": training, "folder": folder.as_ref().map(model_folder::to_json),
        });
        println!("{object}");
        return Ok(());
    }
    if let Some(folder) = &folder {
        model_folder::print(folder);
    }
    println!("model:      {}", pipeline.root.display());
    println!("parameters: {} ({:.1} MB as f32)", grouped(total), 4e-6 * total as f64);
    for (part, count) in &parts {
        println!("  {part:24} {:>12}", grouped(*count));
    }
    print_network(&pipeline);
    print_process(&pipeline)?;
    if let Some(training) = training {
        print_training(&pipeline, &training);
    }
    Ok(())
}

fn print_network(pipeline: &Pipeline) {
    let signature = pipeline.network.signature();
    let config = pipeline.network.config_value();
    let size = signature.size.map_or("any size".into(), |[height, width]| format!("{height}x{width}"));
    println!("network:    {}", config["_class_name"].as_str().unwrap_or("UNet2DModel"));
    println!("images:     {size}, {} channels in, {} out", signature.in_channels, signature.out_channels);
    if !config["block_out_channels"].is_null() {
        println!("levels:     {}, {} residual blocks each", config["block_out_channels"], config["layers_per_block"]);
        println!("blocks:     {} | {}", config["down_block_types"], config["up_block_types"]);
    }
    if let Some(classes) = pipeline.classes().map(|classes| classes.len()) {
        let names = &pipeline.preprocessing.id2label;
        let names: Vec<String> = names.iter().map(|(label, name)| format!("{label} {}", one_line(name))).collect();
        let names = if names.is_empty() { String::new() } else { format!(": {}", names.join(", ")) };
        let none = pipeline.preprocessing.null_label.map_or(String::new(), |label| format!("; {label} means no class"));
        println!("classes:    {classes}{names}{none}");
    }
}

fn print_process(pipeline: &Pipeline) -> anyhow::Result<()> {
    let scheduler = &pipeline.scheduler;
    let schedule = match scheduler.is_binomial() {
        true => scheduler.binomial_schedule()?,
        false => scheduler.noise_schedule()?,
    };
    let last = schedule.len() - 1;
    let betas = match (&scheduler.trained_betas, scheduler.beta_schedule) {
        (Some(_), _) => "a list of betas".to_owned(),
        (None, betas) if betas.takes_beta_range() => {
            format!("{betas} {}..{}", scheduler.beta_start, scheduler.beta_end)
        }
        (None, betas) => betas.to_string(),
    };
    if scheduler.is_binomial() {
        println!("chain:      binomial, of bits: T = {}, {betas}, predicts the logits of b_0", schedule.len());
        println!("            alphas_cumprod {:.6} .. {:.3e}", schedule.alpha_cumprod(0), schedule.alpha_cumprod(last));
        return Ok(());
    }
    println!(
        "chain:      T = {}, {betas}, predicts {}, variance {}, clip_sample {}",
        schedule.len(),
        scheduler.prediction_type,
        scheduler.variance_type,
        scheduler.clip_sample
    );
    println!("            alphas_cumprod {:.6} .. {:.3e}", schedule.alpha_cumprod(0), schedule.alpha_cumprod(last));
    println!("scheduler:  {}", scheduler.describe());
    Ok(())
}

/// Prints how far a checkpoint was trained, by its `training/state.json`.
fn print_training(pipeline: &Pipeline, state: &Value) {
    let of = ddpm::train::planned_steps(&pipeline.root).map_or(String::new(), |steps| format!(" of {steps}"));
    println!("training:   step {}{of}, {}", state["step"], duration(state["seconds"].as_f64().unwrap_or(0.0)));
    if state["skipped"].as_u64() > Some(0) {
        println!("            {} steps skipped, {} roll-backs", state["skipped"], state["rollbacks"]);
    }
}
