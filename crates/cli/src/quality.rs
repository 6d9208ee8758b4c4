//! The part of `ddpm evaluate` that compares samples with real images.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::{Args, ValueEnum};
use ddpm::data::{Dataset, Fit, ReadOptions, Reading, Split};
use ddpm::evaluate::ImageSource;
use ddpm::evaluate::network::{Extracted, FeatureNetwork, Resize};
use ddpm::evaluate::quality::{
    Comparison, NeighborImages, NeighborSearch, POOLED, QualityReport, SPATIAL, Statistics, StatisticsOrigin,
    write_statistics,
};
use ddpm::mpi::Division;
use ddpm::sample::Sampler;
use ddpm::{Device, output};
use serde::Serialize;

use crate::data_choice::{announce, warn_of_count};
use crate::error::usage;
use crate::guidance_args::GuidanceArgs;
use crate::image_args::{info, name_of};
use crate::metric::Metric::{self, Fd, Fid, Is, Kd, Kid, Nearest, Prdc, Sfid};
use crate::samples::Samples;
use crate::shard_args::unless_recorded;
use crate::terminal::{self, Progress, say, warn};
use crate::{Global, values};

/// Flags of this part.
#[derive(Args)]
#[command(next_help_heading = "Sample quality")]
pub struct QualityArgs {
    /// Network that computes features: .safetensors or .pth of Inception-v3 (2015-12-05) or of EfficientNet-Lite0, or a file
    /// of `ddpm classifier`
    #[arg(long, value_name = "FILE")]
    pub features: Option<PathBuf>,
    /// Number of samples: drawn from a model (10,000 by default), or the first ones of a set (all by default)
    #[arg(long, value_parser = values::positive, value_name = "N")]
    pub samples: Option<usize>,
    /// Height and width to which samples of a file are fitted: 32 or 32x48. Defaults to their own
    #[arg(long, value_parser = values::size, value_name = "SIZE")]
    pub size: Option<[usize; 2]>,
    /// Compare with statistics in place of real images: an .npz with mu and sigma, as pytorch-fid, EDM and OpenAI write it
    #[arg(long, value_name = "FILE")]
    pub reference: Option<PathBuf>,
    /// Write the statistics of the real images as such an .npz
    #[arg(long, value_name = "FILE")]
    pub save_stats: Option<PathBuf>,
    /// Rule that resizes images to the network's size
    #[arg(long, default_value = "pytorch-fid", value_name = "RULE")]
    resize: ResizeArg,
    /// Draw the samples that are nearest to training images, and those: a PNG
    #[arg(long, value_name = "FILE")]
    pub neighbours: Option<PathBuf>,
    /// Sampler of a model's samples. Defaults to that of the run's [sample] section, whose guidance is the default of
    /// --guidance, and to ddim for a model without a run
    #[arg(long, value_parser = values::sampler(), value_name = "NAME")]
    pub sampler: Option<Sampler>,
    /// Number of steps. Defaults to that of the run with the run's sampler, else to 50
    #[arg(long, value_parser = values::positive, value_name = "K")]
    pub sampler_steps: Option<usize>,
    #[command(flatten)]
    pub guidance: GuidanceArgs,
}

/// A [`Resize`] by its name.
#[derive(Clone, Copy, ValueEnum)]
enum ResizeArg {
    /// As in pytorch-fid
    PytorchFid,
    /// As in TensorFlow 1, OpenAI's code and torch-fidelity
    Tensorflow1,
}

/// The flags of `ddpm evaluate` that matter here.
pub struct Shared<'a> {
    /// A model, or samples.
    pub source: &'a Path,
    pub data: Option<&'a Dataset>,
    pub fit: Option<Fit>,
    /// Those that are asked for. If there are none, they are chosen by the network.
    pub metrics: Vec<Metric>,
    pub seed: u64,
    pub batch_size: usize,
    pub division: &'a Division,
}

impl Shared<'_> {
    fn wants(&self, metric: Metric) -> bool {
        self.metrics.contains(&metric)
    }

    /// Chooses metrics if none are asked for: those that `samples` samples and the real images allow.
    fn choose_metrics(&mut self, network: Option<&FeatureNetwork>, samples: usize, has_images: bool, global: &Global) {
        if !self.metrics.is_empty() {
            return;
        }
        let is_inception = network.is_some_and(FeatureNetwork::is_inception);
        let [distance, kernel] = if is_inception { [Fid, Kid] } else { [Fd, Kd] };
        self.metrics = match network {
            None => vec![Nearest],
            Some(_) if samples < FEWEST || !has_images => vec![distance],
            Some(_) => vec![distance, kernel, Prdc],
        };
        let names: Vec<String> = self.metrics.iter().map(Metric::to_string).collect();
        let more = if network.is_none() { "; --features FILE adds distances" } else { "" };
        say(format!("metrics: {}{more} (--metrics chooses others)", names.join(", ")), global);
    }
}

/// The readings of the images of a comparison.
#[derive(Default, Serialize)]
pub struct Readings {
    /// Samples of a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    samples: Option<Reading>,
    /// Real images.
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<Reading>,
    /// Held-out images of nearest.
    #[serde(skip_serializing_if = "Option::is_none")]
    held_out: Option<Reading>,
}

/// The smallest number of samples for the kernel distance and prdc, where metrics are chosen.
const FEWEST: usize = 20;
/// Rows of the sheet of neighbours, and the neighbours in each.
const ROWS: usize = 10;
const NEIGHBORS: usize = 7;

pub fn run(arguments: &QualityArgs, mut shared: Shared, global: &Global) -> anyhow::Result<(QualityReport, Readings)> {
    check(arguments, &shared)?;
    let device = global.device()?;
    let network = arguments.network(&shared, &device)?;
    let samples = Samples::open(arguments, &shared, &device)?;
    let has_images = arguments.reference.is_none() || shared.data.is_some();
    shared.choose_metrics(network.as_ref(), samples.count(arguments), has_images, global);
    let shared = &shared;
    // Statistics take the place of the images if no metric needs these.
    let needs_images = has_images
        || arguments.save_stats.is_some()
        || [Kid, Kd, Prdc, Nearest].into_iter().any(|metric| shared.wants(metric));
    let mut readings = Readings { samples: samples.announce(global), ..Readings::default() };
    // Images that are not there are found out before samples are drawn.
    let dataset = if needs_images { Some(samples.dataset(shared)?) } else { None };
    let options = match &dataset {
        Some(dataset) => samples.read_options(shared).without_needless_crop(dataset)?,
        None => samples.read_options(shared),
    };
    let open = |split, role, limit| -> anyhow::Result<(Option<ImageSource>, Option<Reading>)> {
        let Some(dataset) = &dataset else { return Ok((None, None)) };
        let found = ImageSource::open(dataset, &ReadOptions { split, ..options.clone() })?;
        let (source, reading) = found.map(|(source, reading)| (source.first(limit), reading.first(limit))).unzip();
        source.iter().filter_map(ImageSource::set).for_each(terminal::warn_about);
        if let Some(reading) = &reading {
            announce(role, reading, global);
            samples.warn_of_fit(reading, shared);
        }
        Ok((source, reading))
    };
    let (real, unseen);
    (real, readings.reference) = open(Split::Train, "data", usize::MAX)?;
    (unseen, readings.held_out) = match shared.wants(Nearest) {
        true => open(Split::Test, "held-out data", samples.count(arguments))?,
        false => (None, None),
    };
    if let (Some(known), Some(found)) = (samples.training_images(shared), &readings.reference) {
        warn_of_count(&found.set, found.of, known);
    }
    if let (Some(path), Some(network)) = (&arguments.reference, &network) {
        let origin = StatisticsOrigin::check(path, network)?;
        let images = origin.map_or("images from elsewhere".to_owned(), |origin| origin.images);
        say(format!("reference: {}, statistics of {images}", path.display()), global);
    }
    let samples = samples.images(arguments, shared, global)?;
    if shared.division.is_recorded() {
        let Some(network) = &network else { bail!("--shard divides the features of images; it needs --features FILE") };
        for (images, name) in
            [(Some(&samples), "samples"), (real.as_ref(), "real images"), (unseen.as_ref(), "unseen images")]
        {
            images.map(|images| unless_recorded(extract(network, images, name, global))).transpose()?;
        }
        return Ok((QualityReport::default(), readings));
    }
    let is_root = shared.division.is_root();

    let mut report = QualityReport::default();
    let mut features = None;
    if let Some(network) = &network {
        let of_samples = extract(network, &samples, "samples", global)?;
        let of_real = real.as_ref().map(|real| extract(network, real, "real images", global)).transpose()?;
        if let (Some(path), Some(of_real), true) = (&arguments.save_stats, &of_real, is_root) {
            let images = readings.reference.as_ref().map(Reading::to_string).unwrap_or_default();
            save_statistics(path, of_real, &StatisticsOrigin { features: network.protocol(), images })?;
        }
        warn_of_few("samples", &of_samples, shared);
        if let Some(of_real) = of_real.as_ref().filter(|_| arguments.reference.is_none()) {
            warn_of_few("real images", of_real, shared);
        }
        let (real, reference) = (of_real.as_ref(), arguments.reference.as_deref());
        let comparison = Comparison { network, samples: &of_samples, real, reference, seed: shared.seed };
        compare(&comparison, shared, &mut report)?;
        features = of_real.map(|of_real| (network, of_samples, of_real));
    }
    if let (true, Some(real)) = (shared.wants(Nearest), &real) {
        let images = NeighborImages { samples: &samples, training: real, unseen: unseen.as_ref(), seed: shared.seed };
        let features = features.as_ref().map(|(network, samples, real)| (*network, samples, real));
        nearest(arguments, shared, images, features, global, &mut report)?;
    }
    Ok((report, readings))
}

/// Warns if the covariance of features is singular: then the Fréchet distance is too large.
fn warn_of_few(name: &str, features: &Extracted, shared: &Shared) {
    let (count, width) = (features.pooled.count(), features.pooled.width());
    if (shared.wants(Fid) || shared.wants(Fd)) && count <= width {
        warn(format!(
            "{count} {name} for {width} features: their covariance is singular, so the Fréchet distance is not comparable \
             with others; use more than {width}"
        ));
    }
}

/// Reports mistakes that are known before anything is read.
fn check(arguments: &QualityArgs, shared: &Shared) -> anyhow::Result<()> {
    let finds_nearest = shared.wants(Nearest) || shared.metrics.is_empty() && arguments.features.is_none();
    if arguments.neighbours.is_some() && !finds_nearest {
        return Err(usage("--neighbours needs --metrics nearest"));
    }
    let needs = arguments.save_stats.is_some() || shared.metrics.iter().any(|&metric| metric != Nearest);
    match arguments.features {
        None if needs => Err(usage(
            "all metrics of samples but nearest need --features FILE: Inception-v3 (2015-12-05) for fid, sfid, is and kid; \
             that, EfficientNet-Lite0 or a file of `ddpm classifier` for fd, kd and prdc",
        )),
        _ => Ok(()),
    }
}

impl QualityArgs {
    /// Returns whether a feature network is given.
    pub fn has_features(&self) -> bool {
        self.features.is_some()
    }

    /// Reads the network of --features.
    fn network(&self, shared: &Shared, device: &Device) -> anyhow::Result<Option<FeatureNetwork>> {
        let Some(path) = &self.features else { return Ok(None) };
        let network = FeatureNetwork::read(path, device)?.with_resize(match self.resize {
            ResizeArg::PytorchFid => Resize::PyTorch,
            ResizeArg::Tensorflow1 => Resize::TensorFlow1,
        });
        let network = network.divided(shared.division.clone());
        if !network.is_inception() && [Fid, Sfid, Is, Kid].into_iter().any(|metric| shared.wants(metric)) {
            let name = network.name();
            bail!("fid, sfid, is and kid are metrics of Inception-v3; with {name} use fd, kd and prdc");
        }
        Ok(Some(network))
    }
}

fn extract(
    network: &FeatureNetwork,
    images: &ImageSource,
    name: &'static str,
    global: &Global,
) -> anyhow::Result<Extracted> {
    let mut progress = Progress::new(name, "images", global);
    Ok(network.extract(images, |done, total| {
        progress.update(done, total);
        true
    })?)
}

/// Computes the metrics of features, but for nearest.
fn compare(comparison: &Comparison, shared: &Shared, report: &mut QualityReport) -> anyhow::Result<()> {
    for (metric, name) in [(Fid, "fid"), (Sfid, "sfid"), (Fd, "fd"), (Kid, "kid"), (Kd, "kd")] {
        if shared.wants(metric) {
            let distance = match metric {
                Kid | Kd => comparison.kernel()?,
                Sfid => comparison.spatial_frechet()?,
                _ => comparison.frechet()?,
            };
            report.distances.insert(name, distance);
        }
    }
    if shared.wants(Is) {
        report.inception_score = comparison.inception_score()?;
    }
    if shared.wants(Prdc) {
        report.manifold = Some(comparison.manifold()?);
    }
    Ok(())
}

/// Finds the training images that are nearest to samples, in pixels and in features.
fn nearest(
    arguments: &QualityArgs,
    shared: &Shared,
    images: NeighborImages,
    features: Option<(&FeatureNetwork, &Extracted, &Extracted)>,
    global: &Global,
    report: &mut QualityReport,
) -> anyhow::Result<()> {
    let mut last = images.search_pixels(NEIGHBORS)?;
    if let Some(found) = &last {
        report.nearest.insert("pixels", found.memorization);
    }
    if let Some((network, samples, training)) = features {
        let unseen = images.unseen.map(|unseen| extract(network, unseen, "unseen images", global)).transpose()?;
        let (samples, training, unseen) = (&samples.pooled, &training.pooled, unseen.as_ref().map(|u| &u.pooled));
        let found = NeighborSearch { samples, training, unseen, seed: images.seed }.run(NEIGHBORS)?;
        report.nearest.insert("features", found.memorization);
        last = Some(found);
    }
    let Some(found) = last else {
        bail!("the images are too large to compare pixels (4 GiB); add --features to compare features");
    };
    if let Some(path) = arguments.neighbours.as_ref().filter(|_| shared.division.is_root()) {
        let columns = images.columns(&found.neighbors, ROWS)?;
        let info = info([("samples", name_of(shared.source))]);
        output::sheet(path, &columns, columns.len(), &info)?;
    }
    Ok(())
}

fn save_statistics(path: &Path, real: &Extracted, origin: &StatisticsOrigin) -> anyhow::Result<()> {
    let pooled = Statistics::of(&real.pooled)?;
    let spatial = real.spatial.as_ref().map(Statistics::of).transpose()?;
    let spatial = spatial.as_ref().map(|statistics| (SPATIAL, statistics));
    let all: Vec<_> = [(POOLED, &pooled)].into_iter().chain(spatial).collect();
    Ok(write_statistics(path, &all, Some(origin))?)
}
