//! The part of `ddpm evaluate` that compares samples with real images.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::{Args, ValueEnum};
use ddpm::data::{self, Split};
use ddpm::evaluate::network::{Extracted, FeatureNetwork, Resize};
use ddpm::evaluate::quality::{
    Features, InceptionScore, KernelDistance, Manifold, Memorisation, Neighbour, POOLED, SPATIAL, Statistics,
    floor_parts, frechet_distance, inception_score, kernel_distance, manifold, memorised, permutation,
    write_statistics,
};
use ddpm::{Device, Pipeline, Sampler, output, weights};
use serde::Serialize;

use crate::classes::Guide;
use crate::pictures::{Drawing, Pictures, draw, open};
use crate::sample::word;
use crate::way::{data_options, info};
use crate::{Global, usage};

/// Flags of this part.
#[derive(Args)]
pub struct Arguments {
    /// The network that makes features: .safetensors or .pth of Inception-v3 (2015-12-05) or of EfficientNet-Lite0, or what
    /// `ddpm classifier` wrote
    #[arg(long, value_name = "FILE")]
    features: Option<PathBuf>,
    /// How many samples a model draws, or how many of a set are taken, the first ones; by default 10,000, or the whole set
    #[arg(long, value_name = "N")]
    samples: Option<usize>,
    /// Statistics of the real images instead of the images: an .npz with mu and sigma, as pytorch-fid, EDM and OpenAI have
    /// them
    #[arg(long, value_name = "FILE")]
    reference: Option<PathBuf>,
    /// Write the statistics of the real images as such an .npz
    #[arg(long, value_name = "FILE")]
    save_stats: Option<PathBuf>,
    /// How images come to the network's size: as in pytorch-fid, or as in TensorFlow 1, OpenAI's code and torch-fidelity
    #[arg(long, default_value = "pytorch-fid", value_name = "WAY")]
    resize: ResizeAs,
    /// Draw the samples nearest to training images, and those: a PNG
    #[arg(long, value_name = "FILE")]
    neighbours: Option<PathBuf>,
    /// The sampler of a model's samples
    #[arg(long, default_value = "ddim", value_name = "NAME")]
    sampler: String,
    /// Its steps
    #[arg(long, default_value_t = 50, value_name = "K")]
    sampler_steps: usize,
    #[command(flatten)]
    guide: Guide,
}

#[derive(Clone, Copy, ValueEnum)]
enum ResizeAs {
    PytorchFid,
    Tensorflow1,
}

/// What can be measured.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Metric {
    Nll,
    Ode,
    Fid,
    Sfid,
    Is,
    Kid,
    Fd,
    Kd,
    Prdc,
    Nearest,
}
use Metric::{Fd, Fid, Is, Kd, Kid, Nearest, Nll, Ode, Prdc, Sfid};

impl Metric {
    /// Whether it looks at samples, and not at what the model says of images.
    pub fn is_of_samples(self) -> bool {
        !matches!(self, Nll | Ode)
    }
}

/// What of the other flags matters here.
pub struct Shared<'a> {
    /// A model, or samples.
    pub source: &'a Path,
    pub data: Option<&'a Path>,
    pub fit: Option<&'a str>,
    pub metrics: &'a [Metric],
    pub seed: u64,
    pub batch_size: usize,
}

/// What is printed with --json.
#[derive(Default, Serialize)]
pub struct Report {
    /// One for each of fid, sfid, kid, fd and kd.
    #[serde(flatten)]
    distances: BTreeMap<&'static str, Distance>,
    #[serde(skip_serializing_if = "Option::is_none")]
    is: Option<Score>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prdc: Option<Shares>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    nearest: BTreeMap<&'static str, Memorisation>,
}

/// A distance to the real images, and that of real images to real images.
#[derive(Serialize)]
struct Distance {
    value: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    standard_error: Option<f64>,
    samples: usize,
    features: String,
    /// The distance of `floor_samples` real images to the rest of them; `None` without real images.
    floor: Option<f64>,
    /// Fewer than `samples` where there are not twice as many real images.
    floor_samples: Option<usize>,
}

/// An Inception score, and that of as many real images.
#[derive(Serialize)]
struct Score {
    #[serde(flatten)]
    score: InceptionScore,
    real: Option<f64>,
}

/// Shares of samples and real images, and those of real images beside real images.
#[derive(Serialize)]
struct Shares {
    #[serde(flatten)]
    shares: Manifold,
    floor: Manifold,
}

/// Features are made of so many images at once.
const FEATURE_BATCH: usize = 16;
/// Samples of a model where no number is asked for.
const SAMPLES: usize = 10_000;
/// Pixels are compared where those of a set take no more memory.
const PIXEL_BYTES: usize = 4 << 30;
/// Rows of the sheet of neighbours, and its columns: a sample and its neighbours.
const ROWS: usize = 10;
const COLUMNS: usize = 8;

pub fn run(arguments: &Arguments, shared: &Shared, global: &Global) -> anyhow::Result<Report> {
    check(arguments, shared.metrics)?;
    let wants = |metric| shared.metrics.contains(&metric);
    let device = global.device()?;
    let network = arguments.features.as_deref().map(|path| FeatureNetwork::read(path, &device)).transpose()?;
    let resize = match arguments.resize {
        ResizeAs::PytorchFid => Resize::Centres,
        ResizeAs::Tensorflow1 => Resize::TensorFlow1,
    };
    let network = network.map(|network| network.with_resize(resize));
    if let Some(network) = network.as_ref().filter(|network| !network.is_inception())
        && [Fid, Sfid, Is, Kid].into_iter().any(wants)
    {
        let name = network.name();
        return Err(usage(format!("fid, sfid, is and kid are Inception's; with {name} ask for fd, kd and prdc")));
    }
    let (samples, options) = samples(arguments, shared, &device, global)?;
    // Statistics stand for the images where nothing else is asked of them.
    let needs_images = arguments.reference.is_none()
        || shared.data.is_some()
        || arguments.save_stats.is_some()
        || [Kid, Kd, Prdc, Nearest].into_iter().any(wants);
    let real = if needs_images { open(shared.data, &options, Split::Train)? } else { None };
    let mut report = Report::default();
    let mut features = None;
    if let Some(network) = &network {
        let of_samples = samples.features("samples", network, FEATURE_BATCH, global)?;
        let of_real =
            real.as_ref().map(|real| real.features("real images", network, FEATURE_BATCH, global)).transpose()?;
        if let (Some(path), Some(of_real)) = (&arguments.save_stats, &of_real) {
            save(path, of_real)?;
        }
        let reference = arguments.reference.as_deref();
        let sides = Sides { seed: shared.seed, network, samples: &of_samples, real: of_real.as_ref(), reference };
        for (metric, name) in [(Fid, "fid"), (Sfid, "sfid"), (Fd, "fd"), (Kid, "kid"), (Kd, "kd")] {
            if wants(metric) {
                let distance = if matches!(metric, Kid | Kd) { sides.kernel() } else { sides.frechet(metric == Sfid) };
                report.distances.insert(name, distance?);
            }
        }
        report.is = if wants(Is) { sides.score()? } else { None };
        report.prdc = if wants(Prdc) { sides.shares()? } else { None };
        features = of_real.map(|of_real| (of_samples.pooled, of_real.pooled));
    }
    if let (true, Some(real)) = (wants(Nearest), &real) {
        let unseen = open(shared.data, &options, Split::Test)?.map(|unseen| unseen.first(samples.count()));
        let mut shown = None;
        let pixels = |set: &Pictures| set.pixels(set.count(), PIXEL_BYTES);
        if let (Some(of_samples), Some(of_real)) = (pixels(&samples)?, pixels(real)?) {
            let of_unseen = unseen.as_ref().map(pixels).transpose()?.flatten();
            let k = (COLUMNS - 1).min(of_real.count());
            let (found, near) = memorised(&of_samples, &of_real, of_unseen.as_ref(), k, shared.seed)?;
            report.nearest.insert("pixels", found);
            shown = Some(near);
        }
        if let (Some(network), Some((of_samples, of_real))) = (&network, features) {
            let of_unseen = unseen.map(|unseen| unseen.features("unseen images", network, FEATURE_BATCH, global));
            let of_unseen = of_unseen.transpose()?.map(|unseen| unseen.pooled);
            let k = (COLUMNS - 1).min(of_real.count());
            let (found, near) = memorised(&of_samples, &of_real, of_unseen.as_ref(), k, shared.seed)?;
            report.nearest.insert("features", found);
            shown = Some(near);
        }
        match (&arguments.neighbours, shown) {
            (_, None) => {
                bail!("the images are too large to compare pixels (4 GiB); give --features to compare features")
            }
            (Some(path), Some(near)) => sheet(path, &samples, real, near, shared.source)?,
            (None, Some(_)) => {}
        }
    }
    Ok(report)
}

/// Mistakes that are known before anything is read.
fn check(arguments: &Arguments, metrics: &[Metric]) -> anyhow::Result<()> {
    if arguments.samples == Some(0) || arguments.sampler_steps == 0 {
        return Err(usage("--samples and --sampler-steps must be at least 1"));
    }
    if arguments.neighbours.is_some() && !metrics.contains(&Nearest) {
        return Err(usage("--neighbours goes with --metrics nearest"));
    }
    let needs = arguments.save_stats.is_some() || metrics.iter().any(|&metric| metric != Nearest);
    match arguments.features {
        None if needs => Err(usage(
            "of samples all but nearest needs --features FILE, Inception-v3 (2015-12-05) for fid, sfid, is and kid; that, \
             EfficientNet-Lite0 or a file of `ddpm classifier` for fd, kd and prdc",
        )),
        _ => Ok(()),
    }
}

/// What is to be compared, and how real images are to be read for it.
fn samples(
    arguments: &Arguments,
    shared: &Shared,
    device: &Device,
    global: &Global,
) -> anyhow::Result<(Pictures, data::ReadOptions)> {
    let Some(no_model) = weights::pipeline::locate(shared.source).err() else {
        let sampler = arguments.sampler.parse::<Sampler>().map_err(usage)?;
        let pipeline = Pipeline::load(shared.source, device)?;
        let (steps, seed, batch_size) = (arguments.sampler_steps, shared.seed, shared.batch_size);
        let drawing = Drawing { sampler: &sampler, steps, seed, batch_size, guide: &arguments.guide };
        let samples = draw(&pipeline, arguments.samples.unwrap_or(SAMPLES), &drawing, global)?;
        return Ok((samples, data_options(&pipeline, shared.fit)?));
    };
    let set = match data::open(shared.source, &data::ReadOptions::default()) {
        Ok(set) => set,
        // A path that holds neither is most often meant to be a model.
        Err(data::Error::Io { .. } | data::Error::UnknownFormat { .. }) => return Err(no_model.into()),
        Err(error) => return Err(error.into()),
    };
    let count = arguments.samples.unwrap_or(set.len());
    if count > set.len() {
        bail!("{}: holds {} images, fewer than --samples {count}", shared.source.display(), set.len());
    }
    let options = data::ReadOptions {
        resolution: Some((set.height(), set.width())),
        channels: Some(set.channels()),
        fit: word::<data::Fit>("--fit", shared.fit)?.unwrap_or_default(),
        ..Default::default()
    };
    Ok((Pictures::Set(Box::new(set), count), options))
}

/// Features of samples, and what they are compared with.
struct Sides<'a> {
    seed: u64,
    network: &'a FeatureNetwork,
    samples: &'a Extracted,
    real: Option<&'a Extracted>,
    reference: Option<&'a Path>,
}

impl Sides<'_> {
    fn count(&self) -> usize {
        self.samples.pooled.count()
    }

    /// Real images in two parts: as many as samples, and the others.
    fn parts(&self, real: &Features) -> (Features, Features) {
        let (first, second) = floor_parts(self.seed, real.count(), self.count());
        (real.select(&first), real.select(&second))
    }

    fn distance(&self, value: f64, standard_error: Option<f64>, floor: Option<(f64, usize)>) -> Distance {
        let (floor, floor_samples) = floor.unzip();
        let (samples, features) = (self.count(), self.network.name());
        Distance { value, standard_error, samples, features, floor, floor_samples }
    }

    fn frechet(&self, spatial: bool) -> anyhow::Result<Distance> {
        let of =
            |extracted: &'_ Extracted| if spatial { extracted.spatial.clone() } else { Some(extracted.pooled.clone()) };
        let missing = || usage("sfid needs the spatial features of Inception-v3");
        let samples = Statistics::of(&of(self.samples).ok_or_else(missing)?)?;
        let real = self.real.and_then(of);
        let reference = match (self.reference, &real) {
            (Some(path), _) => {
                let names = if spatial { SPATIAL } else { POOLED };
                let found = Statistics::read(path, names)?;
                let (mean, covariance) = names;
                let lacks = || anyhow::anyhow!("{}: has no {mean} and {covariance}", path.display());
                found.ok_or_else(lacks)?
            }
            (None, Some(real)) => Statistics::of(real)?,
            (None, None) => bail!("no real images to compare with"),
        };
        let value = frechet_distance(&samples, &reference)?;
        let floor = real.map(|real| {
            let (some, others) = self.parts(&real);
            frechet_distance(&Statistics::of(&some)?, &Statistics::of(&others)?).map(|floor| (floor, some.count()))
        });
        Ok(self.distance(value, None, floor.transpose()?))
    }

    fn kernel(&self) -> anyhow::Result<Distance> {
        let Some(real) = self.real else { bail!("no real images to compare with") };
        let KernelDistance { value, standard_error, .. } =
            kernel_distance(&self.samples.pooled, &real.pooled, self.seed)?;
        let (some, others) = self.parts(&real.pooled);
        let floor = kernel_distance(&some, &others, self.seed)?.value;
        Ok(self.distance(value, Some(standard_error), Some((floor, some.count()))))
    }

    fn score(&self) -> anyhow::Result<Option<Score>> {
        let splits = 10;
        let Some(logits) = &self.samples.logits else { return Ok(None) };
        let score = inception_score(logits, splits)?;
        let real = self.real.and_then(|real| real.logits.as_ref()).map(|real| {
            let mut some = permutation(self.seed, 2, real.count());
            some.truncate(logits.count());
            inception_score(&real.select(&some), splits).map(|score| score.value)
        });
        Ok(Some(Score { score, real: real.transpose()? }))
    }

    /// Beside as many real images as samples: balls shrink with their number.
    fn shares(&self) -> anyhow::Result<Option<Shares>> {
        let Some(real) = self.real else { bail!("no real images to compare with") };
        let mut some = permutation(self.seed, 4, real.pooled.count());
        some.truncate(self.count());
        let shares = manifold(&self.samples.pooled, &real.pooled.select(&some))?;
        let (first, second) = self.parts(&real.pooled);
        let as_many: Vec<usize> = (0..first.count().min(second.count())).collect();
        Ok(Some(Shares { shares, floor: manifold(&first, &second.select(&as_many))? }))
    }
}

fn save(path: &Path, real: &Extracted) -> anyhow::Result<()> {
    let pooled = Statistics::of(&real.pooled)?;
    let spatial = real.spatial.as_ref().map(Statistics::of).transpose()?;
    let spatial = spatial.as_ref().map(|statistics| (SPATIAL, statistics));
    Ok(write_statistics(path, &[(POOLED, &pooled)].into_iter().chain(spatial).collect::<Vec<_>>())?)
}

/// The samples nearest to a training image, the nearest first, each before its neighbours.
fn sheet(
    path: &Path,
    samples: &Pictures,
    real: &Pictures,
    near: Vec<Vec<Neighbour>>,
    source: &Path,
) -> anyhow::Result<()> {
    let distance = |near: &[Neighbour]| near.first().map_or(f64::INFINITY, |near| near.distance);
    let mut order: Vec<usize> = (0..near.len()).collect();
    order.sort_by(|&a, &b| distance(&near[a]).total_cmp(&distance(&near[b])));
    order.truncate(ROWS);
    let columns = order.iter().map(|&i| near[i].len()).min().unwrap_or(0);
    let mut frames = vec![samples.images(&order)?];
    let neighbour = |column: usize| order.iter().map(|&i| near[i][column].index).collect::<Vec<_>>();
    for indices in (0..columns).map(neighbour) {
        frames.push(real.images(&indices)?);
    }
    let about = info([("samples", source.display().to_string())]);
    Ok(output::sheet(path, &frames, frames.len(), &about)?)
}

pub fn print(report: &Report) {
    for (name, distance) in &report.distances {
        let Distance { value, standard_error, samples, features, floor, floor_samples } = distance;
        let error = standard_error.map(|error| format!(" ± {error:.5}")).unwrap_or_default();
        let digits = if standard_error.is_some() { 5 } else { 3 };
        let floor = match (floor, floor_samples) {
            (Some(floor), Some(n)) => format!("   real beside real {floor:.digits$} ({n} images)"),
            _ => String::new(),
        };
        // The name of a metric belongs to its network.
        let name = match *name {
            "fd" => format!("FD ({features})"),
            "kd" => format!("KD ({features})"),
            "sfid" => "sFID".into(),
            name => name.to_uppercase(),
        };
        println!("{name:<24} {value:.digits$}{error} ({samples} samples){floor}");
    }
    if let Some(Score { score, real }) = &report.is {
        let real = real.map(|real| format!("   of real images {real:.3}")).unwrap_or_default();
        println!("{:<24} {:.3} ± {:.3} ({} samples){real}", "IS", score.value, score.deviation, score.samples);
    }
    if let Some(Shares { shares, floor }) = &report.prdc {
        for (name, of) in [
            ("precision", (|m| m.precision) as fn(&Manifold) -> f64),
            ("recall", |m| m.recall),
            ("density", |m| m.density),
            ("coverage", |m| m.coverage),
        ] {
            let (samples, n) = (shares.samples, floor.samples);
            println!(
                "{name:<24} {:.4} ({samples} samples)   real beside real {:.4} ({n} images)",
                of(shares),
                of(floor)
            );
        }
    }
    for (space, found) in &report.nearest {
        let Memorisation { value, copies, median, unseen_median, samples, unseen } = found;
        println!("nearest in {space:<13} {value:.4} nearer to training images than unseen images are (½ if alike)");
        println!("{:<24} {copies:.4} nearer than all but 1 % of unseen images (.01 if alike)", "");
        println!("{:<24} medians {median:.4} ({samples} samples) and {unseen_median:.4} ({unseen} unseen)", "");
    }
}
