//! `ddpm evaluate`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use ddpm::data::{self, ImageSet, Split};
use ddpm::diffusion::{Denoising, NoiseSchedule, StepVariance, Variance, timesteps};
use ddpm::evaluate::{Chain, Flow, FlowLikelihood, Images, Likelihood, Trace, flow_likelihood, likelihood};
use ddpm::train::plot::{self, Chart, Series};
use ddpm::{Pipeline, output, weights};
use serde::Serialize;

use crate::quality::{self, Metric};
use crate::sample::word;
use crate::terminal::{Progress, duration};
use crate::way::data_options;
use crate::{Global, usage};

/// Measure what a model is worth: its bound in bits/dim, term by term, and its samples beside real images.
///
/// nll is Ho et al.'s bound on −log₂ p(x) of held-out images: prior, one term for each reverse step, and the decoder. It
/// takes as many evaluations of the network for each image as the chain has steps. With --schedule the same pass says
/// what shorter chains would cost, finds the best ones, and checks it.
///
/// ode is the exact likelihood of the probability flow, of images made continuous by uniform noise.
///
/// The others compare samples, drawn from a model or read from an .npz or a folder, with the training images of --data:
/// fid, sfid, kid and is by Inception-v3, fd and kd by any network of --features, prdc (precision, recall, density,
/// coverage), and nearest (nearest training images, and whether samples are copies). Each distance is printed beside that of
/// as many real images to the others.
#[derive(Args)]
#[command(after_help = "Examples:\n  ddpm evaluate runs/fashion\n  \
    ddpm evaluate runs/fashion --data FOLDER -n 1000 --plot rate.png --json\n  \
    ddpm evaluate runs/fashion --steps 50 --variance fixed_small      the bound of a chain of 50 steps\n  \
    ddpm evaluate runs/fashion --schedule --denoising mt.json         what shorter chains cost, and the best ones\n  \
    ddpm evaluate runs/fashion --metrics nll,ode -n 64               the flow's likelihood beside the bound\n  \
    ddpm evaluate samples.npz --data cifar-10-batches-bin --metrics fid,is,kid --features inception.safetensors\n  \
    ddpm evaluate runs/fashion --metrics nearest --samples 500 --neighbours nearest.png\n  \
    ddpm sample runs/fashion --denoising mt.json --steps 25           sample along the best chain of 25")]
pub struct Arguments {
    /// A run, a checkpoint or a diffusers folder; or samples, an .npz or a folder of images
    #[arg(value_name = "MODEL|SAMPLES")]
    model: PathBuf,
    /// Real images; by default the built-in ones. nll and ode measure the held-out part, samples are compared with the other
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// The training images of a set that is divided, instead of the held-out ones
    #[arg(long)]
    train: bool,
    /// How images of another size are brought to the network's: crop or pad; by default as the run that made it did
    #[arg(long, value_name = "FIT")]
    fit: Option<String>,
    /// What is measured: nll, ode, fid, sfid, is, kid, fd, kd, prdc, nearest
    #[arg(long, default_value = "nll", value_delimiter = ',', value_name = "NAME,…")]
    metrics: Vec<Metric>,
    /// How many of the images of nll and ode, the first ones; 0 for all
    #[arg(short, long, default_value_t = 128, value_name = "N")]
    n: usize,
    /// Noise draws for each image and timestep
    #[arg(long, default_value_t = 1, value_name = "K")]
    draws: usize,
    /// The bound of a chain of so many steps, even in t; by default all of the model's
    #[arg(long, value_name = "K")]
    steps: Option<usize>,
    /// The bound of the chain over these timesteps
    #[arg(long, value_delimiter = ',', conflicts_with = "steps", value_name = "T,…")]
    timesteps: Option<Vec<usize>>,
    /// The steps' variance: fixed_small, fixed_large, learned or learned_range; by default the model's
    #[arg(long, value_name = "KIND")]
    variance: Option<String>,
    /// Clip every prediction of the image to the range of pixels; by default the model's choice
    #[arg(long, value_name = "BOOL")]
    clip_sample: Option<bool>,
    /// Predict from the whole chain what shorter ones cost, and measure them too
    #[arg(long, conflicts_with_all = ["steps", "timesteps"])]
    schedule: bool,
    /// Lengths of the chains of --schedule
    #[arg(long, value_delimiter = ',', default_value = "8,16,25,50,100", value_name = "K,…")]
    lengths: Vec<usize>,
    /// Write the squared error at every timestep, from which `ddpm sample` takes the best chain and its variances
    #[arg(long, conflicts_with_all = ["steps", "timesteps"], value_name = "FILE")]
    denoising: Option<PathBuf>,
    /// Runge–Kutta steps of ode, four evaluations each
    #[arg(long, default_value_t = 32, value_name = "K")]
    ode_steps: usize,
    /// The flow's divergence: how many random vectors estimate it (Hutchinson), or `exact`, as many passes as an image has
    /// numbers
    #[arg(long, default_value = "1", value_name = "P")]
    probes: String,
    /// Draw the rate–distortion curve: a PNG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Seed of the noise
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Noisy images that go through the network at once; never changes a number
    #[arg(long, default_value_t = 64, value_name = "B")]
    batch_size: usize,
    #[command(flatten, next_help_heading = "Samples beside real images")]
    quality: quality::Arguments,
}

/// What is printed with --json.
#[derive(Default, Serialize)]
struct Report {
    #[serde(skip_serializing_if = "Option::is_none")]
    nll: Option<Likelihood>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ode: Option<FlowLikelihood>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    schedule: Vec<Row>,
    #[serde(flatten)]
    quality: quality::Report,
}

/// Chains of one length.
#[derive(Serialize)]
struct Row {
    steps: usize,
    kind: &'static str,
    predicted: f64,
    measured: f64,
    timesteps: Vec<usize>,
}

pub fn run(arguments: Arguments, global: &Global) -> anyhow::Result<()> {
    let trace = match arguments.probes.as_str() {
        "exact" => Trace::Exact,
        number => match number.parse() {
            Ok(probes) if probes > 0 => Trace::Hutchinson(probes),
            _ => return Err(usage(format!("--probes {number}: expected a number, or exact"))),
        },
    };
    let wants = |metric| arguments.metrics.contains(&metric);
    if !wants(Metric::Nll) && (arguments.schedule || arguments.denoising.is_some() || arguments.plot.is_some()) {
        return Err(usage("--schedule, --denoising and --plot go with --metrics nll"));
    }
    if arguments.draws == 0 || arguments.batch_size == 0 {
        return Err(usage("--draws and --batch-size must be at least 1"));
    }
    let mut report = Report::default();
    if wants(Metric::Nll) || wants(Metric::Ode) {
        likelihoods(&arguments, trace, global, &mut report)?;
    }
    let metrics: Vec<Metric> = arguments.metrics.iter().copied().filter(|metric| metric.is_of_samples()).collect();
    if !metrics.is_empty() {
        let shared = quality::Shared {
            source: &arguments.model,
            data: arguments.data.as_deref(),
            fit: arguments.fit.as_deref(),
            metrics: &metrics,
            seed: arguments.seed,
            batch_size: arguments.batch_size,
        };
        report.quality = quality::run(&arguments.quality, &shared, global)?;
    }
    if global.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        quality::print(&report.quality);
    }
    Ok(())
}

/// nll and ode, which are printed unless --json is to do that.
fn likelihoods(arguments: &Arguments, trace: Trace, global: &Global, report: &mut Report) -> anyhow::Result<()> {
    let wants = |metric| arguments.metrics.contains(&metric);
    let variance = word::<Variance>("--variance", arguments.variance.as_deref())?;
    let device = global.device()?;
    let mut pipeline = Pipeline::load(&arguments.model, &device)?;
    if let Some(clip) = arguments.clip_sample {
        pipeline.scheduler.clip_sample = clip;
        pipeline.scheduler.thresholding = false;
    }
    let set = open(arguments, &pipeline)?;
    let (pixels, labels) = read(arguments, &pipeline, &set)?;
    let images = Images { pixels: &pixels, shape: set.shape(), labels: labels.as_deref() };
    let schedule = pipeline.scheduler.noise_schedule()?;
    let total = schedule.len();
    // Before the long pass, not after it.
    if let Some(wrong) = arguments.lengths.iter().find(|&&steps| arguments.schedule && !(2..=total).contains(&steps)) {
        return Err(usage(format!("--lengths {wrong}: expected 2 to {total}, the model's timesteps")));
    }
    let list = match (&arguments.timesteps, arguments.steps) {
        (Some(list), _) => timesteps::explicit(total, list).map_err(usage)?,
        (None, Some(steps)) => timesteps::space_timesteps(total, &steps.to_string()).map_err(usage)?,
        (None, None) => timesteps::all(total),
    };
    let chain = Chain {
        schedule: &schedule,
        prediction: pipeline.scheduler.prediction_type,
        variance: variance.unwrap_or(pipeline.scheduler.variance_type),
        log_variances: None,
        timesteps: &list,
        clip_sample: pipeline.scheduler.clip(),
        draws: arguments.draws,
        batch_size: arguments.batch_size,
        seed: arguments.seed,
    };
    if wants(Metric::Nll) {
        let nll = measure("evaluate", &pipeline, images, &chain, global)?;
        let denoising = nll.denoising();
        if let Some(path) = &arguments.denoising {
            weights::whole::write_file(path, |file| {
                file.write_all(serde_json::to_string(&denoising).unwrap_or_default().as_bytes())
            })?;
        }
        if let Some(path) = &arguments.plot {
            plot(path, &nll)?;
        }
        if arguments.schedule {
            report.schedule = shorter(arguments, &pipeline, images, &chain, &denoising, global)?;
        }
        report.nll = Some(nll);
    }
    if wants(Metric::Ode) {
        let flow = Flow {
            schedule: &schedule,
            prediction: chain.prediction,
            steps: arguments.ode_steps,
            trace,
            draws: arguments.draws,
            batch_size: arguments.batch_size,
            seed: arguments.seed,
        };
        let mut meter = Meter::new("flow", global);
        let ode = flow_likelihood(&pipeline.unet, images, &flow, |done, of| meter.show(done, of));
        meter.finish();
        report.ode = Some(ode.with_context(|| format!("evaluating {}", pipeline.root.display()))?);
    }
    if global.json {
        return Ok(());
    }
    if let Some(nll) = &report.nll {
        print(nll, &set);
        if !report.schedule.is_empty() {
            print_schedule(&report.schedule, nll.bits_per_dim, total);
        }
    }
    if let Some(ode) = &report.ode {
        let evaluations = ode.evaluations * ode.draws;
        println!("{} images of {}, {evaluations} evaluations and gradients each", ode.images, set.name());
        println!("flow, bits/dim {:>6.4} ± {:.4}", ode.bits_per_dim, ode.standard_error);
    }
    Ok(())
}

fn open(arguments: &Arguments, pipeline: &Pipeline) -> anyhow::Result<ImageSet> {
    let split = if arguments.train { Split::Train } else { Split::Test };
    let options = data::ReadOptions { split, ..data_options(pipeline, arguments.fit.as_deref())? };
    Ok(match &arguments.data {
        None => data::builtin(&options)?,
        Some(path) => match data::open(path, &options) {
            // A set that is not divided is measured whole.
            Err(data::Error::NoHeldOut { .. }) => {
                data::open(path, &data::ReadOptions { split: Split::Train, ..options })?
            }
            set => set?,
        },
    })
}

/// The images in [-1, 1], and their classes where the network has classes.
fn read(arguments: &Arguments, pipeline: &Pipeline, set: &ImageSet) -> anyhow::Result<(Vec<f32>, Option<Vec<u32>>)> {
    let n = if arguments.n == 0 { set.len() } else { arguments.n.min(set.len()) };
    let pixels = output::from_u8(&set.read(0..n)?);
    let labels = match (pipeline.unet.config().num_class_embeds, set.labels()) {
        (None, _) => None,
        (Some(_), Some(labels)) => Some(labels[..n].to_vec()),
        (Some(_), None) => anyhow::bail!("the network has classes, but {} has no labels", set.name()),
    };
    Ok((pixels, labels))
}

fn measure(
    name: &'static str,
    pipeline: &Pipeline,
    images: Images,
    chain: &Chain,
    global: &Global,
) -> anyhow::Result<Likelihood> {
    let mut meter = Meter::new(name, global);
    let result = likelihood(&pipeline.unet, images, chain, |done, of| meter.show(done, of));
    meter.finish();
    result.with_context(|| format!("evaluating {}", pipeline.root.display()))
}

/// Shows how many evaluations are done.
struct Meter {
    progress: Progress,
    start: Instant,
}

impl Meter {
    fn new(name: &'static str, global: &Global) -> Self {
        Self { progress: Progress::new(name, 0, 0, global.quiet), start: Instant::now() }
    }

    fn show(&mut self, done: usize, of: usize) -> bool {
        let seconds = self.start.elapsed().as_secs_f64();
        let (left, speed) = (seconds * (of - done) as f64 / done as f64, done as f64 / seconds);
        self.progress.set_total(of as u64);
        self.progress.set(done as u64, || format!("{speed:.0} evaluations/s"));
        self.progress.line_every(Duration::from_secs(10), || {
            format!("{done} of {of} noisy images, {speed:.0} a second, {} left", duration(left))
        });
        true
    }

    fn finish(&mut self) {
        self.progress.finish();
    }
}

/// Noisy images that a shorter chain is measured with, of each image, or its length if that is more.
const SCHEDULE_EVALUATIONS: usize = 100;

/// Predicts and measures the bound of shorter chains, with other noise than the prediction was made from.
fn shorter(
    arguments: &Arguments,
    pipeline: &Pipeline,
    images: Images,
    chain: &Chain,
    denoising: &Denoising,
    global: &Global,
) -> anyhow::Result<Vec<Row>> {
    let schedule: &NoiseSchedule = chain.schedule;
    // A shortest path over noisy numbers picks those that came out low.
    let denoising = denoising.smoothed(schedule)?;
    let mut kinds = vec![
        ("even, fixed_large", false, StepVariance::Fixed(Variance::FixedLarge)),
        ("even, fixed_small", false, StepVariance::Fixed(Variance::FixedSmall)),
        ("even, optimal", false, StepVariance::Optimal),
        ("best, optimal", true, StepVariance::Optimal),
    ];
    if !denoising.channels.is_empty() {
        kinds.push(("best, by channel", true, StepVariance::PerChannel));
    }
    let mut rows = Vec::new();
    for &steps in &arguments.lengths {
        let even = timesteps::space_timesteps(schedule.len(), &steps.to_string()).map_err(usage)?;
        let best = denoising.best_timesteps(schedule, steps).map_err(usage)?;
        for &(kind, is_best, variance) in &kinds {
            let list = if is_best { &best } else { &even };
            let single = |log_variances: Vec<f64>| log_variances.into_iter().map(|one| vec![one]).collect::<Vec<_>>();
            let (kind_of_step, given) = match variance {
                StepVariance::Fixed(kind) => (kind, None),
                StepVariance::Optimal => (chain.variance, Some(single(denoising.log_variances(schedule, list)?))),
                StepVariance::PerChannel => (chain.variance, Some(denoising.log_variances_by_channel(schedule, list)?)),
            };
            let short = Chain {
                timesteps: list,
                variance: kind_of_step,
                log_variances: given.as_deref(),
                seed: chain.seed + 1,
                // As many noisy images whatever the length, so that a short chain's figure is no noisier.
                draws: chain.draws * (SCHEDULE_EVALUATIONS / steps).max(1),
                ..chain.clone()
            };
            let measured = measure("schedule", pipeline, images, &short, global)?.bits_per_dim;
            let predicted = denoising.bits(schedule, list, variance)?;
            rows.push(Row { steps, kind, predicted, measured, timesteps: list.clone() });
        }
    }
    Ok(rows)
}

/// Distortion over rate, as Ho et al.'s figure 5.
fn plot(path: &Path, nll: &Likelihood) -> anyhow::Result<()> {
    let points = nll.rate_distortion().into_iter().map(|(_, rate, rmse)| (rate, rmse)).collect();
    let title = format!("{:.3} bits/dim: rate {:.3}, distortion {:.3}", nll.bits_per_dim, nll.rate, nll.distortion);
    let (x, y) = ("rate, bits/dim", "distortion, RMSE of 0 to 255");
    let look = Chart { title: &title, x, y, log_y: false, smooth: false };
    Ok(plot::chart(path, &look, &[Series { name: String::new(), points }])?)
}

fn print(nll: &Likelihood, set: &ImageSet) {
    println!("{} images of {}, {} evaluations each", nll.images, set.name(), nll.evaluations * nll.draws);
    println!("bits/dim    {:>9.4} ± {:.4}", nll.bits_per_dim, nll.standard_error);
    println!("rate        {:>9.4}   (prior {:.2e})", nll.rate, nll.prior);
    println!("distortion  {:>9.4}", nll.distortion);
    println!("\n{:>9} {:>12} {:>12} {:>14}", "timestep", "bits to here", "term", "RMSE of x̂0");
    let curve = nll.rate_distortion();
    let every = curve.len().div_ceil(16);
    for (i, (&(t, rate, rmse), point)) in curve.iter().zip(&nll.points).enumerate() {
        if i % every == 0 || i + 1 == curve.len() {
            println!("{t:>9} {rate:>12.4} {:>12.5} {rmse:>14.2}", point.bits);
        }
    }
}

fn print_schedule(rows: &[Row], whole: f64, total: usize) {
    println!("\n{:>6}  {:<18} {:>10} {:>10} {:>11}", "steps", "chain", "predicted", "measured", "difference");
    for Row { steps, kind, predicted, measured, .. } in rows {
        println!("{steps:>6}  {kind:<18} {predicted:>10.4} {measured:>10.4} {:>11.4}", measured - predicted);
    }
    println!("{total:>6}  {:<18} {:>10} {whole:>10.4}", "all, the model's", "");
}

/// Reads what --denoising wrote.
pub fn read_denoising(path: &Path, schedule: &NoiseSchedule) -> anyhow::Result<Denoising> {
    let name = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("{name}: cannot be read"))?;
    let denoising: Denoising =
        serde_json::from_str(&text).with_context(|| format!("{name}: not what `ddpm evaluate --denoising` writes"))?;
    denoising.check(schedule).with_context(|| format!("{name}: does not fit the model"))?;
    Ok(denoising)
}
