//! `ddpm evaluate`.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use ddpm::data::{Dataset, Fit, ImageSet, Part, Reading, Split};
use ddpm::diffusion::{Variance, timesteps};
use ddpm::evaluate::quality::QualityReport;
use ddpm::evaluate::{
    BitLikelihood, EvaluateOptions, Evaluation, ExactLikelihood, FlowLikelihood, Likelihood, MeasuredModel, SubChain,
    Trace, open_data, read_images, write_mse_profile,
};
use ddpm::mpi::Division;
use ddpm::sample::ClipChoice;
use ddpm::train::plot::{self, Chart, Series};
use ddpm::weights::pipeline::ModelFiles;
use ddpm::{Pipeline, model, weights};
use serde::Serialize;

use crate::data_choice::{self, announce, warn_of_colors};
use crate::error::usage;
use crate::foreign::check_outputs;
use crate::interrupt::on_interrupt;
use crate::metric::Metric;
use crate::quality::{self, QualityArgs, Readings};
use crate::shard_args::{ShardArgs, unless_recorded};
use crate::terminal::{self, Progress, warn};
use crate::{Global, model_source, quality_print, values};

/// Measure the likelihood of images under a model, and the quality of its samples.
///
/// Of a model of bits, nll is the bound of its binomial chain, in bits for a whole sequence or image.
///
/// nll is Ho et al.'s bound on −log₂ p(x) of held-out images, in bits/dim: the prior, one term for each reverse step, and
/// the decoder. It takes as many evaluations of the network for each image as the chain has steps. With --schedule, the
/// same pass predicts the bits/dim of shorter chains, finds the optimal ones, and measures both.
///
/// ode is the exact likelihood of the probability flow, for images that are made continuous by uniform noise.
///
/// The other metrics compare samples, drawn from a model or read from an .npz or a folder, with the training images: fid, sfid, kid and is with Inception-v3, fd and kd with any network of --features, prdc (precision, recall,
/// density, coverage), and nearest (the nearest training images, and whether samples are copies). Each is printed next to
/// the same metric of as many real images (real vs. real).
///
/// The real images are those that the model was trained on, fitted as for its training: a run remembers them, and so do
/// samples of `ddpm sample`. Others are given by --data. What is read, and how it is fitted, is printed.
#[derive(Args)]
#[command(after_help = "Examples:\n  ddpm evaluate runs/fashion\n  \
    ddpm evaluate runs/fashion --data FOLDER -n 1000 --plot rate.png --json\n  \
    ddpm evaluate runs/fashion --steps 50 --variance fixed_small      the bound of a chain of 50 steps\n  \
    ddpm evaluate runs/fashion --schedule --denoising mt.json         shorter chains, and the optimal ones\n  \
    ddpm sample runs/fashion --denoising mt.json --steps 25           samples of the optimal chain of 25 steps\n  \
    ddpm evaluate runs/fashion --metrics nll,ode -n 64                the flow's likelihood next to the bound\n  \
    ddpm evaluate samples.npz --data cifar-10-batches-bin --metrics fid,is,kid --features inception.safetensors\n  \
    ddpm evaluate runs/fashion --metrics nearest --samples 500 --neighbours nearest.png")]
pub struct EvaluateArgs {
    /// A run, a checkpoint or a diffusers folder; or samples: an .npz or a folder of images
    #[arg(value_name = "MODEL|SAMPLES")]
    model: PathBuf,
    /// Metrics to compute. Defaults to nll for a model; for samples, or with --features, to fid, kid and prdc with
    /// Inception-v3, fd, kd and prdc with another network, and nearest without one
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    metrics: Option<Vec<Metric>>,
    /// Seed of the noise
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Images that go through the network at once; the result does not depend on it
    #[arg(long, default_value_t = 64, value_parser = values::positive, value_name = "B")]
    batch_size: usize,
    #[command(flatten)]
    images: HeldOutArgs,
    #[command(flatten)]
    bound: BoundArgs,
    #[command(flatten)]
    flow: FlowArgs,
    #[command(flatten)]
    quality: QualityArgs,
    #[command(flatten)]
    shards: ShardArgs,
}

/// The name of the files of shards, since an evaluation has no output of its own.
const OUTPUT: &str = "evaluation";

/// Flags of the real images.
#[derive(Args)]
#[command(next_help_heading = "Images")]
struct HeldOutArgs {
    /// Real images, or `builtin` for the built-in ones. nll and ode use the held-out part, the other metrics the training
    /// part. Defaults to the images that the model was trained on
    #[arg(long, value_name = "PATH")]
    data: Option<Dataset>,
    /// Use the training part for nll and ode
    #[arg(long)]
    train: bool,
    /// Evaluate nll and ode on the first N images; 0 for all
    #[arg(short, long, default_value_t = 128, value_name = "N")]
    n: usize,
    /// Fit of images of another size than the network's or the samples'. Defaults to the fit that the model was
    /// trained with
    #[arg(long, value_parser = values::fit(), value_name = "FIT")]
    fit: Option<Fit>,
}

/// Flags of the variational bound.
#[derive(Args)]
#[command(next_help_heading = "Variational bound (nll)")]
struct BoundArgs {
    /// Noise draws for each image and timestep
    #[arg(long, default_value_t = 1, value_parser = values::positive, value_name = "K")]
    draws: usize,
    /// Number of steps of the chain, evenly spaced in t. Defaults to all T steps
    #[arg(long, value_parser = values::positive, value_name = "K")]
    steps: Option<usize>,
    /// Timesteps of the chain, e.g. 999,750,500,250,0
    #[arg(long, value_delimiter = ',', conflicts_with = "steps", value_name = "T,…")]
    timesteps: Option<Vec<usize>>,
    /// Variance of the steps. Defaults to the model's
    #[arg(long, value_parser = values::variance(), value_name = "KIND")]
    variance: Option<Variance>,
    /// Clip every prediction of the image to the range of pixels. Defaults to the model's choice
    #[arg(long, value_name = "BOOL")]
    clip_sample: Option<bool>,
    /// Predict the bits/dim of shorter chains from the whole chain, and measure them
    #[arg(long, conflicts_with_all = ["steps", "timesteps"])]
    schedule: bool,
    /// Numbers of steps of --schedule
    #[arg(long, value_delimiter = ',', default_value = "8,16,25,50,100", value_name = "K,…")]
    lengths: Vec<usize>,
    /// Write the squared error at every timestep, for `ddpm sample --denoising`
    #[arg(long, conflicts_with_all = ["steps", "timesteps"], value_name = "FILE")]
    denoising: Option<PathBuf>,
    /// Draw the rate–distortion curve: a PNG
    #[arg(long, value_parser = values::png, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// Flags of the probability flow.
#[derive(Args)]
#[command(next_help_heading = "Probability flow (ode)")]
struct FlowArgs {
    /// Runge–Kutta steps, four evaluations each
    #[arg(long, default_value_t = 32, value_parser = values::positive, value_name = "K")]
    ode_steps: usize,
    /// Random vectors that estimate the divergence (Hutchinson), or `exact`: one pass for each dimension of an image
    #[arg(long, default_value = "1", value_parser = trace, value_name = "P")]
    probes: Trace,
}

fn trace(text: &str) -> Result<Trace, String> {
    match text.parse() {
        _ if text == "exact" => Ok(Trace::Exact),
        Ok(probes) if probes > 0 => Ok(Trace::Hutchinson(probes)),
        _ => Err("expected a number of at least 1, or exact".into()),
    }
}

/// The object that --json prints.
#[derive(Default, Serialize)]
struct Report {
    /// The images of nll and ode.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Reading>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nll: Option<Likelihood>,
    /// The bound of a model of bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    bits: Option<BitLikelihood>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ode: Option<FlowLikelihood>,
    /// The exact likelihood of built-in points.
    #[serde(skip_serializing_if = "Option::is_none")]
    exact: Option<ExactLikelihood>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    schedule: Vec<SubChain>,
    #[serde(flatten)]
    quality: QualityReport,
    #[serde(flatten)]
    readings: Readings,
}

pub fn run(arguments: EvaluateArgs, global: &Global) -> anyhow::Result<()> {
    let bound = &arguments.bound;
    // By default, a model is scored by its likelihood. What is no model is taken for samples, and their metrics are
    // chosen when the network of features is known.
    let compares = || arguments.quality.has_features() || weights::pipeline::locate(&arguments.model).is_err();
    let default = || if compares() { Vec::new() } else { vec![Metric::Nll] };
    let metrics = arguments.metrics.clone().unwrap_or_else(default);
    let wants = |metric| metrics.contains(&metric);
    if !wants(Metric::Nll) && (bound.schedule || bound.denoising.is_some() || bound.plot.is_some()) {
        return Err(usage("--schedule, --denoising and --plot need --metrics nll"));
    }
    let QualityArgs { save_stats, neighbours, reference, features, .. } = &arguments.quality;
    let data = arguments.images.data.as_ref().and_then(Dataset::path);
    let inputs: Vec<&Path> =
        [Some(&*arguments.model), reference.as_deref(), features.as_deref(), data].into_iter().flatten().collect();
    check_outputs(&[&bound.denoising, &bound.plot, save_stats, neighbours].map(Option::as_deref), &inputs)?;
    on_interrupt("there is no result yet; start again with")?;
    if bound.schedule && arguments.shards.is_shard() {
        return Err(usage("--schedule measures what the whole of nll predicts, so it cannot be part of a --shard"));
    }
    let division = arguments.shards.division(Path::new(OUTPUT), global)?;
    let mut report = Report::default();
    if wants(Metric::Nll) || wants(Metric::Ode) {
        likelihoods(&arguments, &metrics, &division, global, &mut report)?;
    }
    let of_samples = |metric: &Metric| !matches!(metric, Metric::Nll | Metric::Ode);
    let others: Vec<Metric> = metrics.iter().copied().filter(of_samples).collect();
    if !others.is_empty() || metrics.is_empty() {
        let shared = quality::Shared {
            source: &arguments.model,
            data: arguments.images.data.as_ref(),
            fit: arguments.images.fit,
            metrics: others,
            seed: arguments.seed,
            batch_size: arguments.batch_size,
            division: &division,
        };
        (report.quality, report.readings) = quality::run(&arguments.quality, shared, global)?;
    }
    if division.is_recorded() {
        arguments.shards.print(Path::new(OUTPUT), global);
    } else if global.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        quality_print::print(&report.quality);
    }
    Ok(())
}

/// Computes nll and ode, and prints them except with --json.
fn likelihoods(
    arguments: &EvaluateArgs,
    metrics: &[Metric],
    division: &Division,
    global: &Global,
    report: &mut Report,
) -> anyhow::Result<()> {
    let wants = |metric| metrics.contains(&metric);
    let device = global.device()?;
    let read = |files: &ModelFiles| Pipeline::from_files(files, &device);
    let mut pipeline = model_source::with_files(&arguments.model, read).map_err(|error| match error {
        model::Error::Weights(error @ weights::Error::NoModel { .. }) => {
            anyhow::anyhow!("{error}; nll and ode score a model: for samples, add --metrics with others of --help")
        }
        error => error.into(),
    })?;
    if pipeline.scheduler.is_binomial() {
        arguments.check_bits(metrics)?;
    }
    let HeldOutArgs { data, train, n, fit } = &arguments.images;
    if fit.is_some() {
        pipeline.check_images("--fit")?;
    }
    if arguments.bound.plot.is_some() {
        pipeline.check_images("--plot, distortion in pixel values,")?;
    }
    pipeline.preprocessing.fit = fit.unwrap_or(pipeline.preprocessing.fit);
    let dataset = data_choice::of_model(data.as_ref(), &pipeline)?;
    let (set, reading) = open_data(&pipeline, &dataset, if *train { Split::Train } else { Split::Test })?;
    terminal::warn_about(&set);
    let images = read_images(&pipeline, &set, if *n == 0 { set.len() } else { *n })?;
    let reading = reading.first(images.n);
    announce("data", &reading, global);
    if data.is_some() {
        warn_of_colors(&reading);
    } else {
        data_choice::warn_of_other_images(&pipeline, &dataset)?;
    }
    if data.is_none() && reading.part == Part::Whole {
        warn(format!("{}: has no held-out part, so these are images that the model was trained on", set.name()));
    }
    report.data = Some(reading);
    let total = pipeline.scheduler.num_train_timesteps;
    let options = arguments.options(total)?;
    let evaluate = |name| {
        let mut progress = Progress::new(name, "evaluations", global);
        let evaluation = Evaluation::new(&pipeline).with(|own| *own = options.clone()).divided(division.clone());
        evaluation.on_progress(move |done, total| {
            progress.update(done, total);
            true
        })
    };
    let context = || format!("evaluating {}", pipeline.root.display());
    if pipeline.scheduler.is_binomial() {
        report.bits = unless_recorded(evaluate("evaluate").bit_likelihood(&images).with_context(context))?;
        if let Some(bits) = report.bits.as_ref().filter(|_| !global.json && !division.is_recorded()) {
            print_bits(bits, &set);
        }
        return Ok(());
    }
    if wants(Metric::Nll) {
        report.nll = unless_recorded(evaluate("evaluate").likelihood(&images).with_context(context))?;
    }
    if let Some(nll) = &report.nll {
        let profile = nll.mse_profile();
        if let Some(path) = arguments.bound.denoising.as_ref().filter(|_| division.is_root()) {
            write_mse_profile(path, &profile, &MeasuredModel::of(&pipeline))?;
        }
        if let Some(path) = arguments.bound.plot.as_ref().filter(|_| division.is_root()) {
            plot(path, nll)?;
        }
        if arguments.bound.schedule {
            let lengths = &arguments.bound.lengths;
            report.schedule = evaluate("schedule").sub_chains(&images, &profile, lengths).with_context(context)?;
        }
    }
    if wants(Metric::Ode) {
        report.ode = unless_recorded(evaluate("flow").flow_likelihood(&images).with_context(context))?;
    }
    if let Dataset::Points(known) = &dataset {
        report.exact = ExactLikelihood::new(known, &pipeline, &images)?.map(|exact| ExactLikelihood {
            nll_excess: report.nll.as_ref().map(|nll| exact.excess(&nll.each)),
            ode_excess: report.ode.as_ref().map(|ode| exact.excess(&ode.each)),
            ..exact
        });
    }
    if !global.json && !division.is_recorded() {
        print(report, &set, total);
    }
    Ok(())
}

impl EvaluateArgs {
    /// Checks that no option is about Gaussian chains.
    fn check_bits(&self, metrics: &[Metric]) -> anyhow::Result<()> {
        let BoundArgs { schedule, denoising, plot, .. } = &self.bound;
        for (is_given, what) in [
            (metrics.contains(&Metric::Ode), "ode, the likelihood of a probability flow,"),
            (*schedule, "--schedule, chains by the squared error,"),
            (denoising.is_some(), "--denoising, the squared error,"),
            (plot.is_some(), "--plot, distortion in pixel values,"),
        ] {
            if is_given {
                bail!("{what} needs a Gaussian chain; the model's is binomial, of bits, and has the metric nll");
            }
        }
        Ok(())
    }

    /// Returns the files that the command writes.
    pub fn outputs(&self) -> Vec<&Path> {
        let QualityArgs { save_stats, neighbours, .. } = &self.quality;
        [&self.bound.denoising, &self.bound.plot, save_stats, neighbours]
            .into_iter()
            .flatten()
            .map(PathBuf::as_path)
            .collect()
    }

    /// Returns the options for a model of T timesteps, checked before the long pass.
    fn options(&self, total: usize) -> anyhow::Result<EvaluateOptions> {
        let BoundArgs { draws, steps, timesteps: list, variance, clip_sample, schedule, lengths, .. } = &self.bound;
        if let Some(wrong) = lengths.iter().find(|&&steps| *schedule && !(2..=total).contains(&steps)) {
            bail!("--lengths {wrong}: expected 2 to {total}, the model's timesteps");
        }
        let list = match (list, steps) {
            (Some(list), _) => Some(timesteps::explicit(total, list)?),
            (None, Some(steps)) => Some(timesteps::space_timesteps(total, &steps.to_string())?),
            (None, None) => None,
        };
        Ok(EvaluateOptions {
            timesteps: list,
            variance: *variance,
            clip: clip_sample.map(ClipChoice::Range),
            draws: *draws,
            batch_size: self.batch_size,
            seed: self.seed,
            flow_steps: self.flow.ode_steps,
            trace: self.flow.probes,
            ..EvaluateOptions::default()
        })
    }
}

/// Draws distortion over rate, as in Ho et al.'s figure 5.
fn plot(path: &Path, nll: &Likelihood) -> anyhow::Result<()> {
    let points = nll.rate_distortion().into_iter().map(|(_, rate, rmse)| (rate, rmse)).collect();
    let title = format!("{:.3} bits/dim: rate {:.3}, distortion {:.3}", nll.bits_per_dim, nll.rate, nll.distortion);
    let (x, y) = ("rate, bits/dim", "distortion, RMSE of 0 to 255");
    let chart = Chart { title: &title, x, y, log_y: false, smooth: false };
    Ok(plot::chart(path, &chart, &[Series { name: String::new(), points }])?)
}

fn print(report: &Report, set: &ImageSet, total: usize) {
    if let Some(nll) = &report.nll {
        print_bound(nll, set);
        if !report.schedule.is_empty() {
            print_sub_chains(&report.schedule, nll.bits_per_dim, total);
        }
    }
    if let Some(ode) = &report.ode {
        let evaluations = ode.evaluations * ode.draws;
        println!("{} {} of {}, {evaluations} evaluations and gradients each", ode.images, noun(set), set.name());
        println!("flow, bits/dim {:>6.4} ± {:.4}", ode.bits_per_dim, ode.standard_error);
        if let Some(bits) = ode.bits_per_point {
            println!(
                "flow, bits/point {bits:>6.4} ± {:.4}   (−log₂ of the density in the units of the data)",
                per_point(set, ode.standard_error)
            );
        }
    }
    if let Some(exact) = &report.exact {
        println!("exact, bits/point {:>6.4} ± {:.4}", exact.bits_per_point, exact.standard_error);
        for (name, excess) in [("bound", exact.nll_excess), ("flow ", exact.ode_excess)] {
            if let Some((mean, error)) = excess {
                println!("{name} − exact     {mean:>6.4} ± {error:.4}   (of the same points)");
            }
        }
    }
}

fn print_bits(bits: &BitLikelihood, set: &ImageSet) {
    let evaluations = bits.evaluations * bits.draws;
    println!("{} images of {}, {} bits each, {evaluations} evaluations each", bits.images, set.name(), bits.dims);
    println!("bits/sequence {:>9.4} ± {:.4}   (prior {:.2e})", bits.bits_per_sequence, bits.standard_error, bits.prior);
    println!("bits/dim      {:>9.5} ± {:.5}", bits.bits_per_dim, bits.standard_error / bits.dims as f64);
    println!("\n{:>9} {:>12} {:>12}", "timestep", "bits to here", "term");
    let (every, mut sum) = (bits.points.len().div_ceil(16), bits.prior);
    for (i, &(t, term)) in bits.points.iter().enumerate() {
        if i % every == 0 || i + 1 == bits.points.len() {
            println!("{t:>9} {sum:>12.4} {term:>12.5}");
        }
        sum += term;
    }
}

/// Returns what a set has.
fn noun(set: &ImageSet) -> &'static str {
    if set.points().is_some() { "points" } else { "images" }
}

/// Returns the error of a whole point.
fn per_point(set: &ImageSet, per_dim: f64) -> f64 {
    set.channels() as f64 * per_dim
}

fn print_bound(nll: &Likelihood, set: &ImageSet) {
    println!("{} {} of {}, {} evaluations each", nll.images, noun(set), set.name(), nll.evaluations * nll.draws);
    if let Some(bits) = nll.bits_per_point {
        println!(
            "bits/point  {bits:>9.4} ± {:.4}   (−log₂ of the density in the units of the data)",
            per_point(set, nll.standard_error)
        );
    }
    println!("bits/dim    {:>9.4} ± {:.4}", nll.bits_per_dim, nll.standard_error);
    println!("rate        {:>9.4}   (prior {:.2e})", nll.rate, nll.prior);
    println!("distortion  {:>9.4}", nll.distortion);
    println!("\n{:>9} {:>12} {:>12} {:>14}", "timestep", "bits to here", "term", "RMSE of x̂0");
    let mut curve = nll.rate_distortion();
    if set.points().is_some() {
        // Of points, in the units of the network.
        curve.iter_mut().for_each(|(_, _, rmse)| *rmse /= 127.5);
    }
    let decimals = if set.points().is_some() { 5 } else { 2 };
    let every = curve.len().div_ceil(16);
    for (i, (&(t, rate, rmse), point)) in curve.iter().zip(&nll.points).enumerate() {
        if i % every == 0 || i + 1 == curve.len() {
            println!("{t:>9} {rate:>12.4} {:>12.5} {rmse:>14.decimals$}", point.bits);
        }
    }
}

fn print_sub_chains(rows: &[SubChain], whole: f64, total: usize) {
    println!("\n{:>6}  {:<18} {:>10} {:>10} {:>11}", "steps", "chain", "predicted", "measured", "difference");
    for SubChain { steps, kind, predicted, measured, .. } in rows {
        println!("{steps:>6}  {kind:<18} {predicted:>10.4} {measured:>10.4} {:>11.4}", measured - predicted);
    }
    println!("{total:>6}  {:<18} {:>10} {whole:>10.4}", "all, the model's", "");
}
