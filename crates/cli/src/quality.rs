//! The part of `ddpm evaluate` that compares samples with real images.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::{Args, ValueEnum};
use ddpm::data::{self, Fit, ReadOptions, Split};
use ddpm::evaluate::ImageSource;
use ddpm::evaluate::network::{Extracted, FeatureNetwork, Resize};
use ddpm::evaluate::quality::{
    Comparison, NeighborImages, NeighborSearch, POOLED, QualityReport, SPATIAL, Statistics, write_statistics,
};
use ddpm::sample::{Generation, Sampler};
use ddpm::{Device, Pipeline, output};

use crate::error::usage;
use crate::guidance_args::GuidanceArgs;
use crate::image_args::info;
use crate::metric::Metric::{self, Fd, Fid, Is, Kd, Kid, Nearest, Prdc, Sfid};
use crate::terminal::{self, Progress, rate};
use crate::{Global, model_source, values};

/// Flags of this part.
#[derive(Args)]
#[command(next_help_heading = "Sample quality")]
pub struct QualityArgs {
    /// Network that computes features: .safetensors or .pth of Inception-v3 (2015-12-05) or of EfficientNet-Lite0, or a file
    /// of `ddpm classifier`
    #[arg(long, value_name = "FILE")]
    features: Option<PathBuf>,
    /// Number of samples: drawn from a model (10,000 by default), or the first ones of a set (all by default)
    #[arg(long, value_parser = values::positive, value_name = "N")]
    samples: Option<usize>,
    /// Compare with statistics in place of real images: an .npz with mu and sigma, as pytorch-fid, EDM and OpenAI write it
    #[arg(long, value_name = "FILE")]
    reference: Option<PathBuf>,
    /// Write the statistics of the real images as such an .npz
    #[arg(long, value_name = "FILE")]
    save_stats: Option<PathBuf>,
    /// How images are resized to the network's size
    #[arg(long, default_value = "pytorch-fid", value_name = "RULE")]
    resize: ResizeArg,
    /// Draw the samples that are nearest to training images, and those: a PNG
    #[arg(long, value_name = "FILE")]
    neighbours: Option<PathBuf>,
    /// Sampler of a model's samples
    #[arg(long, default_value = "ddim", value_parser = values::sampler(), value_name = "NAME")]
    sampler: Sampler,
    /// Number of steps of --sampler
    #[arg(long, default_value_t = 50, value_parser = values::positive, value_name = "K")]
    sampler_steps: usize,
    #[command(flatten)]
    guidance: GuidanceArgs,
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
    pub data: Option<&'a Path>,
    pub fit: Option<Fit>,
    pub metrics: &'a [Metric],
    pub seed: u64,
    pub batch_size: usize,
}

impl Shared<'_> {
    fn wants(&self, metric: Metric) -> bool {
        self.metrics.contains(&metric)
    }
}

/// Samples of a model where no number is given.
const SAMPLES: usize = 10_000;
/// Rows of the sheet of neighbours, and the neighbours in each.
const ROWS: usize = 10;
const NEIGHBORS: usize = 7;

pub fn run(arguments: &QualityArgs, shared: &Shared, global: &Global) -> anyhow::Result<QualityReport> {
    check(arguments, shared)?;
    let device = global.device()?;
    let network = arguments.network(shared, &device)?;
    let (samples, options) = samples(arguments, shared, &device, global)?;
    // Statistics take the place of the images if no metric needs these.
    let needs_images = arguments.reference.is_none()
        || shared.data.is_some()
        || arguments.save_stats.is_some()
        || [Kid, Kd, Prdc, Nearest].into_iter().any(|metric| shared.wants(metric));
    let real = if needs_images { ImageSource::open(shared.data, &options)? } else { None };
    real.iter().filter_map(ImageSource::set).for_each(terminal::warn_about);
    let mut report = QualityReport::default();
    let mut features = None;
    if let Some(network) = &network {
        let of_samples = extract(network, &samples, "samples", global)?;
        let of_real = real.as_ref().map(|real| extract(network, real, "real images", global)).transpose()?;
        if let (Some(path), Some(of_real)) = (&arguments.save_stats, &of_real) {
            save_statistics(path, of_real)?;
        }
        let (real, reference) = (of_real.as_ref(), arguments.reference.as_deref());
        let comparison = Comparison { network, samples: &of_samples, real, reference, seed: shared.seed };
        compare(&comparison, shared, &mut report)?;
        features = of_real.map(|of_real| (network, of_samples, of_real));
    }
    if let (true, Some(real)) = (shared.wants(Nearest), &real) {
        let unseen = ImageSource::open(shared.data, &ReadOptions { split: Split::Test, ..options })?;
        let unseen = unseen.map(|unseen| unseen.first(samples.count()));
        let images = NeighborImages { samples: &samples, training: real, unseen: unseen.as_ref(), seed: shared.seed };
        let features = features.as_ref().map(|(network, samples, real)| (*network, samples, real));
        nearest(arguments, shared, images, features, global, &mut report)?;
    }
    Ok(report)
}

/// Reports mistakes that are known before anything is read.
fn check(arguments: &QualityArgs, shared: &Shared) -> anyhow::Result<()> {
    if arguments.neighbours.is_some() && !shared.wants(Nearest) {
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
    /// Reads the network of --features.
    fn network(&self, shared: &Shared, device: &Device) -> anyhow::Result<Option<FeatureNetwork>> {
        let Some(path) = &self.features else { return Ok(None) };
        let network = FeatureNetwork::read(path, device)?.with_resize(match self.resize {
            ResizeArg::PytorchFid => Resize::PyTorch,
            ResizeArg::Tensorflow1 => Resize::TensorFlow1,
        });
        if !network.is_inception() && [Fid, Sfid, Is, Kid].into_iter().any(|metric| shared.wants(metric)) {
            let name = network.name();
            return Err(usage(format!(
                "fid, sfid, is and kid are metrics of Inception-v3; with {name} use fd, kd and prdc"
            )));
        }
        Ok(Some(network))
    }
}

/// Draws or opens the samples, and returns how real images are read to be compared with them.
fn samples(
    arguments: &QualityArgs,
    shared: &Shared,
    device: &Device,
    global: &Global,
) -> anyhow::Result<(ImageSource, ReadOptions)> {
    let no_model = match model_source::locate(shared.source) {
        Ok(files) => {
            let mut pipeline = Pipeline::from_files(&files, device)?;
            let samples = draw(arguments, shared, &mut pipeline, global)?;
            return Ok((samples, pipeline.read_options(shared.fit)));
        }
        Err(no_model) => no_model,
    };
    let set = match data::open(shared.source, &ReadOptions::default()) {
        Ok(set) => set,
        // A path that holds neither is most often meant to be a model.
        Err(data::Error::Io { .. } | data::Error::UnknownFormat { .. }) => return Err(no_model.into()),
        Err(error) => return Err(error.into()),
    };
    terminal::warn_about(&set);
    let count = arguments.samples.unwrap_or(set.len());
    if count > set.len() {
        bail!("{}: holds {} images, fewer than --samples {count}", shared.source.display(), set.len());
    }
    let options = ReadOptions {
        resolution: Some((set.height(), set.width())),
        channels: Some(set.channels()),
        fit: shared.fit.unwrap_or_default(),
        ..ReadOptions::default()
    };
    Ok((ImageSource::from(set).first(count), options))
}

/// Draws samples from a model, as `ddpm sample` does.
fn draw(
    arguments: &QualityArgs,
    shared: &Shared,
    pipeline: &mut Pipeline,
    global: &Global,
) -> anyhow::Result<ImageSource> {
    let guidance = arguments.guidance.apply(pipeline)?;
    let mut progress = Progress::new("samples", "steps", global);
    let generation = Generation::new(pipeline, arguments.samples.unwrap_or(SAMPLES))
        .sampler(arguments.sampler)
        .steps(arguments.sampler_steps)
        .seed(shared.seed)
        .batch_size(shared.batch_size)
        .with(|options| options.guidance = guidance)
        .on_progress(|now| {
            progress.update_with(now.done, now.total, |seconds| rate(now.images / seconds, "images"));
            true
        });
    Ok(ImageSource::generate(generation)?)
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
    if let Some(path) = &arguments.neighbours {
        let columns = images.columns(&found.neighbors, ROWS)?;
        let info = info([("samples", shared.source.display().to_string())]);
        output::sheet(path, &columns, columns.len(), &info)?;
    }
    Ok(())
}

fn save_statistics(path: &Path, real: &Extracted) -> anyhow::Result<()> {
    let pooled = Statistics::of(&real.pooled)?;
    let spatial = real.spatial.as_ref().map(Statistics::of).transpose()?;
    let spatial = spatial.as_ref().map(|statistics| (SPATIAL, statistics));
    Ok(write_statistics(path, &[(POOLED, &pooled)].into_iter().chain(spatial).collect::<Vec<_>>())?)
}
