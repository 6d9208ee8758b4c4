//! `ddpm sample`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use ddpm::diffusion::solver::{AnalyticNoise, ddim_analytic};
use ddpm::diffusion::{Churn, Clip, SchedulerConfig, TimestepGrid, TimestepSpacing, Variance};
use ddpm::sample::noised;
use ddpm::{Images, Output, Pipeline, Request, Sampler, SamplerOptions, initial_noise, output, walk, weights};
use serde::de::DeserializeOwned;

use crate::classes::Guide;
use crate::evaluate::read_denoising;
use crate::terminal::Progress;
use crate::way::read;
use crate::{Global, height_width, usage};

/// Draw images from a model.
///
/// MODEL is a run, a checkpoint, a diffusers pipeline folder or a flat google/ddpm-* repository. An image depends on the
/// seed and its number alone: the same for any batch size, number of threads or images drawn.
#[derive(Args)]
#[command(after_help = "Examples:\n  ddpm sample runs/fashion -n 64 -o grid.png\n  \
    ddpm sample runs/fashion -n 50000 -o samples.npz --sampler ddim --steps 50      OpenAI's arr_0\n  \
    ddpm sample google-ddpm-cifar10-32/ -n 16 -o pictures/                          numbered PNGs\n  \
    ddpm sample runs/fashion -n 16 --progress -o denoising.gif                       how they come about\n  \
    ddpm sample MODEL --sampler unipc-2 --steps 20 -o grid.png                       few steps\n  \
    ddpm sample MODEL --init noise.safetensors --sampler ddim -o out.safetensors     from given noise\n  \
    ddpm sample MODEL --from photo.png --at 500 -n 9 -o like-it.png                  image to image\n  \
    ddpm sample MODEL --share-until 250 -n 9 -o siblings.png                         decodings of one x_t\n  \
    ddpm sample MODEL --by-class -n 8 --guidance 2 -o classes.png                    a row for each class\n  \
    ddpm sample MODEL -n 4 --sheet steps.png                                         x_t and the prediction along the way")]
pub struct Arguments {
    /// A run, a checkpoint or a diffusers folder
    model: PathBuf,
    /// Number of images
    #[arg(short, long, default_value_t = 16, value_name = "N")]
    n: usize,
    /// Where they go: .png (a grid), .npz, .safetensors, .gif, or a folder
    #[arg(short, long, default_value = "samples.png", value_name = "OUT")]
    output: PathBuf,
    /// ddpm (ancestral), ddim, or one for few steps: dpmpp-1, dpmpp-2m, dpmpp-3m, dpmpp-3m-diffusers, dpmpp-sde-2m, unipc-1,
    /// unipc-2, unipc-3, ipndm-1 to ipndm-4, pndm, deis-3, heun, edm-sde (with noise)
    #[arg(long, default_value = "ddpm", value_name = "NAME")]
    sampler: String,
    /// Steps of the sampler; by default as many as the chain has, or 20 for samplers of few steps
    #[arg(long, value_name = "K")]
    steps: Option<usize>,
    /// Where the network is asked: uniform (in t), quadratic, log-snr or karras, between timesteps too; by default log-snr
    /// for samplers of few steps
    #[arg(long, conflicts_with = "spacing", value_name = "GRID")]
    grid: Option<String>,
    /// Move the grid's points to whole timesteps
    #[arg(long)]
    snap: bool,
    /// Visit exactly these timesteps, e.g. 999,750,500,250,0
    #[arg(long, value_delimiter = ',', conflicts_with_all = ["steps", "spacing", "grid"], value_name = "T,…")]
    timesteps: Option<Vec<usize>>,
    /// Go along the best chain of --steps with the best variances, by what `ddpm evaluate --denoising` measured
    #[arg(long, conflicts_with_all = ["spacing", "grid", "timesteps", "variance"], requires = "steps", value_name = "FILE")]
    denoising: Option<PathBuf>,
    /// DDIM's noise: 0 is none, 1 as much as ancestral sampling
    #[arg(long, default_value_t = 0.0, value_name = "ETA")]
    eta: f64,
    /// edm-sde's noise, of all steps together: 0 is heun
    #[arg(long, value_name = "S")]
    churn: Option<f64>,
    /// Dynamic thresholding instead of a clip: the quantile of each prediction that is brought to 1, and the greatest such,
    /// e.g. 0.995,1.5
    #[arg(long, value_delimiter = ',', conflicts_with = "clip_sample", value_name = "RATIO,MAX")]
    threshold: Option<Vec<f64>>,
    /// Which timesteps are visited: leading, trailing, linspace or quadratic; by default the model's
    #[arg(long, value_name = "RULE")]
    spacing: Option<String>,
    /// The ancestral variance: fixed_small, fixed_large, learned or learned_range; by default the model's
    #[arg(long, value_name = "KIND")]
    variance: Option<String>,
    /// Clip every prediction of the image to the range of pixels; by default the model's choice
    #[arg(long, value_name = "BOOL")]
    clip_sample: Option<bool>,
    /// Seed of the noise
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Number of the first image, to go on with a set of samples
    #[arg(long, default_value_t = 0, value_name = "I")]
    first: u64,
    /// Images that go through the network at once; never changes an image
    #[arg(long, default_value_t = 16, value_name = "B")]
    batch_size: usize,
    /// Class of each image (one number for all, or N numbers); by default the classes in turn
    #[arg(long, value_delimiter = ',', value_name = "CLASS,…")]
    labels: Option<Vec<u32>>,
    #[command(flatten)]
    guide: Guide,
    /// A row for each class, in a .png: -n images of each
    #[arg(long, conflicts_with_all = ["labels", "progress", "init"])]
    by_class: bool,
    /// x_T from the tensor `noise` [N,C,H,W] of a safetensors file
    #[arg(long, value_name = "FILE")]
    init: Option<PathBuf>,
    /// Begin at this image, noised to --at, and not at noise
    #[arg(long, conflicts_with_all = ["init", "timesteps", "denoising", "size"], requires = "at", value_name = "IMAGE")]
    from: Option<PathBuf>,
    /// The timestep of --from: the higher, the less is left of the image
    #[arg(long, requires = "from", value_name = "T")]
    at: Option<usize>,
    /// How the image of --from is brought to the network's size: crop or pad; by default as the run that made it did
    #[arg(long, requires = "from", value_name = "FIT")]
    fit: Option<String>,
    /// All images have the same noise until x at this timestep, and each its own from there on (for ddpm, or ddim with --eta)
    #[arg(long, value_name = "T")]
    share_until: Option<f64>,
    /// Height and width, where the model does not say, or another size: 32 or 32x48
    #[arg(long, value_name = "SIZE")]
    size: Option<String>,
    /// Keep the predictions along the way: .png and .gif become animations, beside a folder OUT comes OUT-progress.png
    #[arg(long)]
    progress: bool,
    /// Draw how the first 8 images come about: x_t, and below it the prediction of the image, from left to right: a PNG
    #[arg(long, value_name = "FILE")]
    sheet: Option<PathBuf>,
}

pub fn run(arguments: Arguments, global: &Global) -> anyhow::Result<()> {
    let sampler = arguments.sampler.parse::<Sampler>().map_err(usage)?.with_eta(arguments.eta);
    let sampler = match (sampler, arguments.churn) {
        (sampler, None) => sampler,
        (Sampler::EdmSde(churn), Some(s_churn)) => Sampler::EdmSde(Churn { s_churn, ..churn }),
        _ => return Err(usage("--churn is for --sampler edm-sde")),
    };
    let spacing = word::<TimestepSpacing>("--spacing", arguments.spacing.as_deref())?;
    let variance = word::<Variance>("--variance", arguments.variance.as_deref())?;
    let grid = arguments.grid.as_deref().map(str::parse::<TimestepGrid>).transpose().map_err(usage)?;
    let options = SamplerOptions { steps: arguments.steps, spacing, grid, snap: arguments.snap, variance };
    if arguments.n == 0 || arguments.batch_size == 0 {
        return Err(usage("-n and --batch-size must be at least 1"));
    }
    if arguments.first.checked_add(arguments.n as u64).is_none_or(|end| end > 1 << 48) {
        return Err(usage("--first and -n together go past image 2^48"));
    }
    if arguments.eta != 0.0 && !matches!(sampler, Sampler::Ddim { .. }) {
        return Err(usage("--eta is for --sampler ddim; ddpm's noise is --variance"));
    }
    let animated = arguments.progress && arguments.output.extension().is_some();
    let target = Output::parse(&arguments.output, animated).map_err(usage)?;

    let device = global.device()?;
    let mut pipeline = Pipeline::load(&arguments.model, &device)?;
    if let Some(clip) = arguments.clip_sample {
        pipeline.scheduler.clip_sample = clip;
        pipeline.scheduler.thresholding = false;
    }
    if let Some(given) = &arguments.threshold {
        let (ratio, max) = match given[..] {
            [ratio, max] if (Clip::Dynamic { ratio, max }).is_valid() => (ratio, max),
            _ => return Err(usage("--threshold: expected two numbers, a share of 0 to 1 and one above 0: 0.995,1.5")),
        };
        pipeline.scheduler.thresholding = true;
        (pipeline.scheduler.dynamic_thresholding_ratio, pipeline.scheduler.sample_max_value) = (ratio, max);
    }
    let (classes, guidance) = arguments.guide.of(&pipeline)?;
    let mut arguments = arguments;
    if arguments.by_class {
        let Some(classes) = classes.as_ref().filter(|_| matches!(target, Output::Grid(_))) else {
            return Err(usage("--by-class wants a model with classes, and a .png to write"));
        };
        arguments.n = arguments.n.saturating_mul(classes.len());
    }
    let arguments = arguments;
    let table = match &arguments.timesteps {
        _ if arguments.denoising.is_some() => along_best_chain(&arguments, sampler, &pipeline.scheduler)?,
        Some(list) => {
            let variance_type = variance.unwrap_or(pipeline.scheduler.variance_type);
            sampler.table_over(&SchedulerConfig { variance_type, ..pipeline.scheduler.clone() }, list)?
        }
        None => match arguments.at {
            Some(t) => sampler.table_from(&pipeline.scheduler, options, t)?,
            None => sampler.table(&pipeline.scheduler, options)?,
        },
    };
    if arguments.share_until.is_some() && !table.rows.iter().any(|row| row.is_noisy()) {
        return Err(usage(format!(
            "--share-until: {} adds no noise, so that all images would be the same",
            table.name
        )));
    }
    let noise = match (&arguments.init, &arguments.from, arguments.at) {
        (Some(path), ..) => read_noise(path, arguments.n)?,
        (None, Some(path), Some(t)) => {
            let image = read(&[path], &pipeline, arguments.fit.as_deref())?;
            check_memory(arguments.n, [image.height, image.width, image.channels])?;
            let schedule = pipeline.scheduler.noise_schedule()?;
            noised(&image, &schedule, t, arguments.seed, arguments.first, arguments.n)
        }
        _ => {
            let [height, width] = size(&arguments, &pipeline)?;
            let shape = [height, width, pipeline.unet.config().in_channels];
            check_memory(arguments.n, shape)?;
            initial_noise(arguments.seed, arguments.first, arguments.n, shape)
        }
    };
    let labels = labels(&arguments, classes.as_deref(), noise.n)?;
    // A long walk must not end at a target that cannot be written.
    target.check_writable(noise.shape())?;

    let request = Request {
        seed: arguments.seed,
        first_image: arguments.first,
        noise: &noise,
        labels: labels.as_deref(),
        batch_size: arguments.batch_size,
        share_until: arguments.share_until,
        guidance,
    };
    let passes = noise.n.div_ceil(arguments.batch_size) as u64 * table.rows.len() as u64;
    let mut progress = Progress::new("sample", passes, 0, global.quiet);
    let start = Instant::now();
    let wanted = frame_rows(table.rows.len(), 40);
    let mut frames: Vec<Vec<Images>> = Vec::new();
    let columns = frame_rows(table.rows.len(), 12);
    let mut sheet: Vec<Images> = Vec::new();
    let images = walk(&pipeline.unet, &table, &pipeline.scheduler, &request, |step| {
        let batch = step.first / arguments.batch_size;
        let done = (batch * step.rows + step.row + 1) as u64;
        let image_steps = (step.first * step.rows + step.images * (step.row + 1)) as f64;
        let rate = image_steps / step.rows as f64 / start.elapsed().as_secs_f64();
        progress.set(done, || format!("{rate:.2} images/s"));
        progress.line_every(Duration::from_secs(10), || {
            let left = (noise.n as f64 - image_steps / step.rows as f64) / rate;
            format!("{done}/{passes} steps, {rate:.2} images/s, ETA {}", crate::terminal::duration(left))
        });
        if arguments.progress && wanted.contains(&step.row) {
            if step.row == wanted[0] {
                frames.push(Vec::new());
            }
            if let Some(batch) = frames.last_mut() {
                batch.push(step.sample());
            }
        }
        if arguments.sheet.is_some() && step.first == 0 && columns.contains(&step.row) {
            sheet.push(pairs(&step.x(), &step.sample(), 8));
        }
        true
    })?;
    progress.finish();
    let seconds = start.elapsed().as_secs_f64();
    let frames = join(frames);
    let info = [
        ("model", arguments.model.display().to_string()),
        ("sampler", format!("{sampler}, {} steps", table.rows.len())),
        ("seed", arguments.seed.to_string()),
        ("first", arguments.first.to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value));
    match &target {
        Output::Grid(path) if arguments.by_class => {
            // Classes come in turn: each turn is a column.
            let rows = classes.map_or(1, |classes| classes.len());
            let size = rows * images.height * images.width * images.channels;
            let columns: Vec<Images> = images
                .pixels
                .chunks(size)
                .map(|pixels| Images { n: rows, pixels: pixels.to_vec(), ..images.clone() })
                .collect();
            output::sheet(path, &columns, columns.len(), &info)?;
        }
        Output::Folder(folder) => {
            output::write_folder(folder, &images, labels.as_deref(), arguments.first, &info)?;
            if arguments.progress {
                // Beside the folder: in it, a metric would take it for a sample.
                let name = folder.file_name().unwrap_or_default().to_string_lossy();
                output::sheet(&folder.with_file_name(format!("{name}-progress.png")), &frames, 10, &info)?;
            }
        }
        _ => output::write(&target, &images, labels.as_deref(), &frames, &info)?,
    }
    if let Some(path) = &arguments.sheet {
        output::sheet(path, &sheet, sheet.len(), &info)?;
    }
    let rate = images.n as f64 / seconds;
    if global.json {
        let object = serde_json::json!({
            "output": arguments.output, "images": images.n, "height": images.height, "width": images.width,
            "channels": images.channels, "steps": table.rows.len(), "seconds": seconds, "images_per_second": rate,
        });
        println!("{object}");
    } else if !global.quiet {
        let path = arguments.output.display();
        eprintln!("{} images in {}, {rate:.2} images/s: {path}", images.n, crate::terminal::duration(seconds));
    }
    Ok(())
}

/// One of a serde enum's words, where a flag has one.
pub fn word<T: DeserializeOwned>(flag: &str, name: Option<&str>) -> anyhow::Result<Option<T>> {
    let word = |name: &str| serde_json::from_value(name.into()).map_err(|e| usage(format!("{flag}: {e}")));
    name.map(word).transpose()
}

/// `most` rows at the most, even and the first and the last included: the frames of an animation, the columns of a sheet.
fn frame_rows(rows: usize, most: usize) -> Vec<usize> {
    let frames = rows.min(most);
    let mut wanted: Vec<usize> = (0..frames).map(|i| i * (rows - 1) / (frames - 1).max(1)).collect();
    wanted.dedup();
    wanted
}

/// x_t and x̂0 of the first images, in turn.
fn pairs(x: &Images, sample: &Images, most: usize) -> Images {
    let pixels = x.each().zip(sample.each()).take(most).flat_map(|(x, sample)| [x, sample].concat()).collect();
    Images { n: 2 * x.n.min(most), pixels, ..x.clone() }
}

/// Frames of batches to frames of all images.
fn join(batches: Vec<Vec<Images>>) -> Vec<Images> {
    let mut batches = batches.into_iter();
    let mut joined = batches.next().unwrap_or_default();
    for batch in batches {
        for (all, frame) in joined.iter_mut().zip(batch) {
            all.n += frame.n;
            all.pixels.extend(frame.pixels);
        }
    }
    joined
}

fn size(arguments: &Arguments, pipeline: &Pipeline) -> anyhow::Result<[usize; 2]> {
    if let Some(text) = &arguments.size {
        let (height, width) = height_width("--size", text)?;
        return Ok([height, width]);
    }
    match pipeline.unet.config().sample_size {
        Some(size) => {
            let (height, width) = size.height_width();
            Ok([height, width])
        }
        None => bail!("the model does not say for which size it is: add --size HEIGHTxWIDTH"),
    }
}

/// Whether so many images can be held at all.
fn check_memory(n: usize, [height, width, channels]: [usize; 3]) -> anyhow::Result<()> {
    let sides = [n, height, width, channels, size_of::<f32>()];
    let bytes = sides.into_iter().try_fold(1usize, usize::checked_mul);
    if bytes.is_some_and(|bytes| Vec::<u8>::new().try_reserve_exact(bytes).is_ok()) {
        return Ok(());
    }
    bail!(
        "{n} images of {height}x{width}x{channels} do not fit into memory; draw fewer at a time, and go on with --first"
    )
}

fn labels(arguments: &Arguments, classes: Option<&[u32]>, n: usize) -> anyhow::Result<Option<Vec<u32>>> {
    match (&arguments.labels, classes) {
        (Some(labels), _) if labels.len() == 1 => Ok(Some(vec![labels[0]; n])),
        (Some(labels), _) if labels.len() == n => Ok(Some(labels.clone())),
        (Some(labels), _) => Err(usage(format!("--labels has {} classes; expected 1 or {n}", labels.len()))),
        (None, Some(classes)) if !classes.is_empty() => {
            Ok(Some((0..n).map(|i| classes[(arguments.first as usize + i) % classes.len()]).collect()))
        }
        _ => Ok(None),
    }
}

/// The tensor `noise` `[N,C,H,W]`, of which the first `n` images are used.
fn read_noise(path: &Path, n: usize) -> anyhow::Result<Images> {
    let (tensors, _) = weights::read_safetensors(path)?;
    let tensor = tensors.get("noise").with_context(|| format!("{}: tensor `noise` is missing", path.display()))?;
    let [count, channels, height, width] = match tensor.shape[..] {
        [count, channels, height, width] if count > 0 => [count, channels, height, width],
        _ => bail!("{}: `noise` has shape {:?}; expected [N, C, H, W]", path.display(), tensor.shape),
    };
    if count < n {
        bail!("{}: `noise` is for {count} images, but -n asks for {n}", path.display());
    }
    if let Some(bad) = tensor.data.iter().position(|v| !v.is_finite()) {
        bail!("{}: `noise` has a value that is not finite (element {bad})", path.display());
    }
    let mut pixels = Vec::with_capacity(n * channels * height * width);
    for image in tensor.data.chunks(channels * height * width).take(n) {
        for pixel in 0..height * width {
            pixels.extend((0..channels).map(|c| image[c * height * width + pixel]));
        }
    }
    Ok(Images { n, height, width, channels, pixels })
}

/// A sampler over the timesteps that cost the fewest bits; ancestral sampling and DDIM have their best variances
/// (Analytic-DPM).
fn along_best_chain(
    arguments: &Arguments,
    sampler: Sampler,
    scheduler: &SchedulerConfig,
) -> anyhow::Result<ddpm::diffusion::SolverTable> {
    let (Some(path), Some(steps)) = (&arguments.denoising, arguments.steps) else {
        return Err(usage("--denoising wants --steps"));
    };
    let schedule = scheduler.noise_schedule()?;
    let denoising = read_denoising(path, &schedule)?.smoothed(&schedule)?;
    let list = denoising.best_timesteps(&schedule, steps).map_err(usage)?;
    match sampler {
        Sampler::Ddpm => {}
        Sampler::Ddim { eta } => {
            let noise = AnalyticNoise { eta, mse: &denoising.mse };
            return Ok(ddim_analytic(&schedule, &list, noise, scheduler.clip())?);
        }
        _ => return Ok(sampler.table_over(scheduler, &list)?),
    }
    let variances: Vec<f64> = denoising.log_variances(&schedule, &list)?.into_iter().map(f64::exp).collect();
    Ok(ddpm::diffusion::solver::ddpm_with_variances(&schedule, &list, &variances, scheduler.clip())?)
}
