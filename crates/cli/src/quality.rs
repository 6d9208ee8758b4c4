//! The part of `ddpm evaluate` that compares samples with real images.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::{Args, ValueEnum};
use ddpm::data::{self, Dataset, Fit, Part, ReadOptions, Reading, Split};
use ddpm::evaluate::ImageSource;
use ddpm::evaluate::network::{Extracted, FeatureNetwork, Resize};
use ddpm::evaluate::quality::{
    Comparison, NeighborImages, NeighborSearch, POOLED, QualityReport, SPATIAL, Statistics, StatisticsOrigin,
    write_statistics,
};
use ddpm::sample::{Generation, Provenance, Sampler};
use ddpm::{Device, Pipeline, output};
use serde::Serialize;

use crate::data_choice::{self, announce};
use crate::error::usage;
use crate::guidance_args::GuidanceArgs;
use crate::image_args::{info, name_of};
use crate::metric::Metric::{self, Fd, Fid, Is, Kd, Kid, Nearest, Prdc, Sfid};
use crate::terminal::{self, Progress, rate, say, warn};
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
    /// Height and width to which samples of a file are fitted: 32 or 32x48. Defaults to their own
    #[arg(long, value_parser = values::size, value_name = "SIZE")]
    size: Option<[usize; 2]>,
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
    pub data: Option<&'a Dataset>,
    pub fit: Option<Fit>,
    /// Those that are asked for. If there are none, they are chosen by the network.
    pub metrics: Vec<Metric>,
    pub seed: u64,
    pub batch_size: usize,
}

impl Shared<'_> {
    fn wants(&self, metric: Metric) -> bool {
        self.metrics.contains(&metric)
    }

    /// Chooses metrics if none are asked for.
    fn choose_metrics(&mut self, network: Option<&FeatureNetwork>, samples: usize, global: &Global) {
        if !self.metrics.is_empty() {
            return;
        }
        let (chosen, names): (&[Metric], _) = match network {
            None => (&[Nearest], "nearest; with --features FILE also fd, kd and prdc, or fid, kid and prdc"),
            Some(network) if network.is_inception() => (&[Fid, Kid, Prdc], "fid, kid, prdc"),
            Some(_) => (&[Fd, Kd, Prdc], "fd, kd, prdc"),
        };
        self.metrics = chosen.to_vec();
        // The others are not defined for so few.
        if network.is_some() && samples < FEWEST {
            self.metrics.truncate(1);
        }
        let names =
            if self.metrics.len() < chosen.len() { &names[..names.find(',').unwrap_or(names.len())] } else { names };
        say(format!("metrics: {names} (choose others with --metrics)"), global);
    }
}

/// How the images of a comparison were read.
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

/// Samples of a model where no number is given.
const SAMPLES: usize = 10_000;
/// The smallest number of samples for the kernel distance and prdc, where metrics are chosen.
const FEWEST: usize = 20;
/// Rows of the sheet of neighbours, and the neighbours in each.
const ROWS: usize = 10;
const NEIGHBORS: usize = 7;

pub fn run(arguments: &QualityArgs, mut shared: Shared, global: &Global) -> anyhow::Result<(QualityReport, Readings)> {
    check(arguments, &shared)?;
    let device = global.device()?;
    let network = arguments.network(&shared, &device)?;
    let samples = open_samples(arguments, &shared, &device)?;
    shared.choose_metrics(network.as_ref(), samples.count(arguments), global);
    let shared = &shared;
    // Statistics take the place of the images if no metric needs these.
    let needs_images = arguments.reference.is_none()
        || shared.data.is_some()
        || arguments.save_stats.is_some()
        || [Kid, Kd, Prdc, Nearest].into_iter().any(|metric| shared.wants(metric));
    let mut readings = Readings { samples: samples.announce(global), ..Readings::default() };
    // Images that are not there are found out before samples are drawn.
    let dataset = if needs_images { Some(samples.dataset(shared)?) } else { None };
    let options = samples.read_options(shared);
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
    if let (Some(known), Some(found)) = (samples.training_images(shared), &readings.reference)
        && known != found.of
    {
        let set = &found.set;
        warn(format!("{set}: has {} training images, but the model was trained on {known}", found.of));
    }
    if let (Some(path), Some(network)) = (&arguments.reference, &network) {
        let origin = StatisticsOrigin::check(path, network)?;
        let images = origin.map_or("images from elsewhere".to_owned(), |origin| origin.images);
        say(format!("reference: {}, statistics of {images}", path.display()), global);
    }
    let samples = samples.images(arguments, shared, global)?;

    let mut report = QualityReport::default();
    let mut features = None;
    if let Some(network) = &network {
        let of_samples = extract(network, &samples, "samples", global)?;
        let of_real = real.as_ref().map(|real| extract(network, real, "real images", global)).transpose()?;
        if let (Some(path), Some(of_real)) = (&arguments.save_stats, &of_real) {
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
        if !network.is_inception() && [Fid, Sfid, Is, Kid].into_iter().any(|metric| shared.wants(metric)) {
            let name = network.name();
            bail!("fid, sfid, is and kid are metrics of Inception-v3; with {name} use fd, kd and prdc");
        }
        Ok(Some(network))
    }
}

/// Samples that are still to be drawn, or those of a file.
enum Samples {
    Model(Box<Pipeline>),
    File { set: ImageSource, reading: Reading, provenance: Option<Provenance> },
}

/// Opens the model or the samples.
fn open_samples(arguments: &QualityArgs, shared: &Shared, device: &Device) -> anyhow::Result<Samples> {
    let path = shared.source.display();
    let no_model = match model_source::locate(shared.source) {
        Ok(_) if arguments.size.is_some() => bail!("{path}: is a model; --size is for samples of a file"),
        Ok(files) => return Ok(Samples::Model(Box::new(Pipeline::from_files(&files, device)?))),
        Err(no_model) => no_model,
    };
    // A run without a model has pictures too, but they are not what is meant.
    if is_run(shared.source) {
        return Err(no_model.into());
    }
    let options = ReadOptions {
        resolution: arguments.size.map(Into::into),
        fit: shared.fit.unwrap_or_default(),
        ..ReadOptions::default()
    };
    let set = match data::open(shared.source, &options) {
        Ok(set) => set,
        // A path that holds neither is most often meant to be a model.
        Err(data::Error::Io { .. } | data::Error::UnknownFormat { .. }) => return Err(no_model.into()),
        Err(data::Error::MixedSizes { common: (height, width), differ, total, .. }) => bail!(
            "{path}: images differ in size: most are {height}x{width}, {differ} of {total} are not; \
             fit them to one size with --size {height}x{width}"
        ),
        Err(error) => return Err(error.into()),
    };
    terminal::warn_about(&set);
    let count = arguments.samples.unwrap_or(set.len());
    if count > set.len() {
        bail!("{path}: holds {} images, fewer than --samples {count}", set.len());
    }
    let provenance = Provenance::read(shared.source).unwrap_or_else(|several| {
        warn(several);
        None
    });
    let reading = Reading::new(&set, &options).part(Part::All).first(count);
    let (set, provenance) = (ImageSource::from(set).first(count), provenance);
    Ok(Samples::File { set, reading, provenance })
}

impl Samples {
    /// Returns the number of samples.
    fn count(&self, arguments: &QualityArgs) -> usize {
        match self {
            Self::Model(_) => arguments.samples.unwrap_or(SAMPLES),
            Self::File { set, .. } => set.count(),
        }
    }

    /// Returns the real images: those of --data, or those that the model was trained on.
    fn dataset(&self, shared: &Shared) -> anyhow::Result<Dataset> {
        match self {
            Self::Model(pipeline) => data_choice::of_model(shared.data, pipeline),
            Self::File { provenance, .. } => data_choice::of_samples(shared.data, provenance.as_ref(), shared.source),
        }
    }

    /// Returns how real images are read to be compared with the samples.
    fn read_options(&self, shared: &Shared) -> ReadOptions {
        match self {
            Self::Model(pipeline) => pipeline.read_options(shared.fit),
            Self::File { set, provenance, .. } => {
                let [height, width, channels] = set.shape();
                ReadOptions {
                    resolution: Some((height, width)),
                    channels: Some(channels),
                    fit: shared.fit.or(provenance.as_ref().map(|known| known.fit)).unwrap_or_default(),
                    ..ReadOptions::default()
                }
            }
        }
    }

    /// Prints what the samples of a file are, and warns if they are not as they were made.
    fn announce(&self, global: &Global) -> Option<Reading> {
        let Self::File { reading, provenance, .. } = self else { return None };
        let made = provenance.as_ref().map_or("from elsewhere".to_owned(), |made| {
            format!("of {} ({}, {} steps, seed {})", made.model, made.sampler, made.steps, made.seed)
        });
        say(format!("samples: {reading}, {made}"), global);
        let size = reading.source_size;
        if let Some(made) =
            provenance.as_ref().filter(|made| size.is_some_and(|size| size != [made.height, made.width]))
        {
            warn(format!(
                "{}: the samples were made as {}x{}, but were resized since",
                reading.set, made.height, made.width
            ));
        }
        if reading.is_resized() {
            warn(format!("{}: the samples were resized to {}x{}", reading.set, reading.height, reading.width));
        }
        Some(reading.clone())
    }

    /// Warns if real images were fitted in a way that nobody asked for, or have other colors than the samples.
    fn warn_of_fit(&self, real: &Reading, shared: &Shared) {
        if shared.data.is_some() || !matches!(self, Self::Model(_)) {
            data_choice::warn_of_colors(real);
        }
        let is_guess = shared.fit.is_none() && matches!(self, Self::File { provenance: None, .. });
        if is_guess && real.is_resized() {
            let (set, height, width) = (&real.set, real.height, real.width);
            warn(format!(
                "{set}: the real images were scaled and cropped to the samples' {height}x{width}; if the model was trained \
                 on padded images, add --fit pad"
            ));
        }
    }

    /// Returns the number of images that the model was trained on, if these are compared with its samples.
    fn training_images(&self, shared: &Shared) -> Option<usize> {
        match self {
            Self::Model(pipeline) if shared.data.is_none() => pipeline.training_data().ok()??.images,
            _ => None,
        }
    }

    /// Draws the samples of a model.
    fn images(self, arguments: &QualityArgs, shared: &Shared, global: &Global) -> anyhow::Result<ImageSource> {
        match self {
            Self::Model(mut pipeline) => draw(arguments, shared, &mut pipeline, global),
            Self::File { set, .. } => Ok(set),
        }
    }
}

/// Returns whether a folder is a run, with or without a model.
fn is_run(path: &Path) -> bool {
    ["config.toml", "checkpoints", "model_index.json", "unet"].iter().any(|name| path.join(name).exists())
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
