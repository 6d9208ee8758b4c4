//! Validates the averaged network on held-out images and by the quality of its samples.

use std::path::Path;

use burn::tensor::Device;
use data::{ImageSet, Reading, Split};
use evaluate::network::FeatureNetwork;
use evaluate::quality::{Comparison, FrechetReference, POOLED, StatisticsOrigin};
use evaluate::{Evaluation, ImageSource, even_timesteps};
use model::{Images, Pipeline};
use mpi::Division;
use random::Random;

use crate::Error;
use crate::config::TrainingConfig;
use crate::event::Event;
use crate::metrics::{FrechetMetric, Metrics, SelectionMetric};
use crate::observer::{Context, Observer};

/// Timesteps at which the bound of held-out images is measured.
const TIMESTEPS: usize = 100;

/// Computes metrics of the averaged network every `train.evaluate_every` steps and at the end, which select the best
/// checkpoint. A validation is cancelled when the run is stopped.
pub(crate) struct Validator {
    held_out: Option<(Images, Reading)>,
    quality: Option<SampleQuality>,
}

/// Compares samples with the training images.
struct SampleQuality {
    network: FeatureNetwork,
    /// From a file, or computed at the first validation.
    reference: Option<FrechetReference>,
}

impl Observer for Validator {
    fn on_event(&mut self, event: &Event, context: &mut Context) -> Result<(), Error> {
        let Event::Step { .. } = event else { return Ok(()) };
        let due = context.is_due(context.config().train.evaluate_every) || context.is_last();
        if !due || context.is_stopped() {
            return Ok(());
        }
        let metrics = match self.metrics(context) {
            Err(error) if is_stop(&error) => return Ok(()),
            Err(error) => {
                // The step itself is logged and saved first.
                context.session.failed_validation = Some(error);
                return Ok(());
            }
            Ok(metrics) => metrics,
        };
        let by = self.selection_metric();
        let best = metrics.selection_metric(by).is_some_and(|value| context.record_best(by, value));
        context.emit(Event::Validated { metrics, best })
    }
}

impl Validator {
    /// The validation that a configuration asks for, if any.
    ///
    /// # Errors
    /// If held-out images, the feature network or its statistics cannot be read, or there is nothing to validate with.
    pub fn new(
        config: &TrainingConfig,
        training: &ImageSet,
        device: &Device,
        division: Division,
    ) -> Result<Option<Self>, Error> {
        if config.train.evaluate_every == 0 {
            return Ok(None);
        }
        let quality = SampleQuality::new(config, device, division)?;
        let held_out = match held_out(config, training) {
            // The distance needs no held-out images.
            Err(Error::Data(data::Error::NoHeldOut { .. })) if quality.is_some() => None,
            Err(Error::Data(error @ data::Error::NoHeldOut { .. })) => {
                return Err(Error::Run(format!("`train.evaluate_every` requires held-out images: {error}")));
            }
            images => Some(images?),
        };
        Ok(Some(Self { held_out, quality }))
    }

    /// Returns how the held-out images are read, if there are any.
    pub fn reading(&self) -> Option<Reading> {
        self.held_out.as_ref().map(|(_, reading)| reading.clone())
    }

    /// Returns a digest of the held-out images, if there are any.
    pub fn digest(&self) -> Option<String> {
        self.held_out.as_ref().map(|(images, _)| images.digest())
    }

    fn selection_metric(&self) -> SelectionMetric {
        if self.quality.is_some() { SelectionMetric::FrechetDistance } else { SelectionMetric::BitsPerDim }
    }

    /// Computes the metrics. Those that are not finite are reported as a warning and left out.
    fn metrics(&mut self, context: &mut Context) -> Result<Metrics, Error> {
        let pipeline = context.pipeline();
        let mut metrics = Metrics::default();
        if let Some((images, _)) = &self.held_out {
            metrics.bits_per_dim = finite(bits_per_dim(&pipeline, images, context), context)?;
        }
        if let Some(quality) = &mut self.quality {
            metrics.frechet = finite(quality.frechet(&pipeline, context), context)?;
        }
        Ok(metrics)
    }
}

fn is_stop(error: &Error) -> bool {
    matches!(
        error,
        Error::Evaluate(evaluate::Error::Stopped | evaluate::Error::Sample(sample::Error::Stopped))
            | Error::Sample(sample::Error::Stopped)
    )
}

/// A network that is still far from any image does not end the training.
fn finite<T>(metric: Result<T, Error>, context: &mut Context) -> Result<Option<T>, Error> {
    match metric {
        Err(
            error @ (Error::Evaluate(evaluate::Error::NotFinite { .. })
            | Error::Sample(sample::Error::NotFinite { .. })),
        ) => {
            context.warn(error.to_string())?;
            Ok(None)
        }
        metric => metric.map(Some),
    }
}

/// Emits the progress of a part of the validation and returns whether to continue.
fn progress(context: &mut Context, part: &str, done: usize, total: usize) -> bool {
    context.progress(Event::Validating { part: part.to_owned(), done, total })
}

/// Reads `train.evaluate_images` held-out images: the first ones, or a random choice of `train.evaluate_seed`.
fn held_out(config: &TrainingConfig, training: &ImageSet) -> Result<(Images, Reading), Error> {
    let mut set = config.open(Split::Test)?;
    if config.data.labels {
        // A class may have no held-out images, which shifts their own labels.
        set = set.with_class_names(training.class_names())?;
    }
    let n = config.train.evaluate_images.min(set.len());
    let chosen = |i: usize| match config.train.evaluate_seed {
        None => i,
        Some(seed) => Random::new(seed).shuffled(0, set.len() as u64, i as u64) as usize,
    };
    let images = Images::read(&set, &(0..n).map(chosen).collect::<Vec<_>>())?;
    if config.data.labels && images.labels.is_none() {
        return Err(Error::Run(format!(
            "{}: the held-out part has no classes, but the network needs them to be validated; sort it into folders of \
             classes, or set `train.evaluate_every` = 0",
            set.name()
        )));
    }
    let images = if config.data.labels { images } else { images.with_labels(None) };
    Ok((images, Reading::new(&set, &config.read_options(Split::Test)).first(n)))
}

/// Computes the bits/dim of images under the optimal variances.
fn bits_per_dim(pipeline: &Pipeline, images: &Images, context: &mut Context) -> Result<f64, Error> {
    if pipeline.scheduler.is_binomial() {
        return bit_bits_per_dim(pipeline, images, context);
    }
    let schedule = pipeline.scheduler.noise_schedule()?;
    let train = &context.config().train;
    let (batch_size, seed) = (train.batch_size, train.seed);
    let likelihood = Evaluation::new(pipeline)
        .divided(context.division())
        .with(|options| options.timesteps = Some(even_timesteps(schedule.len(), TIMESTEPS)))
        .batch_size(batch_size)
        .seed(seed)
        .on_progress(|done, total| progress(context, "held-out images", done, total))
        .likelihood(images)?;
    Ok(likelihood.optimal_bits(&schedule)?)
}

/// Computes the bits/dim of a binomial chain of evenly spaced timesteps.
fn bit_bits_per_dim(pipeline: &Pipeline, images: &Images, context: &mut Context) -> Result<f64, Error> {
    let (batch_size, seed) = (context.config().train.batch_size, context.config().train.seed);
    let evaluation = Evaluation::new(pipeline).divided(context.division()).batch_size(batch_size).seed(seed);
    let timesteps = even_timesteps(pipeline.scheduler.num_train_timesteps, TIMESTEPS);
    let likelihood = evaluation
        .with(|options| options.timesteps = Some(timesteps))
        .on_progress(|done, total| progress(context, "held-out images", done, total))
        .bit_likelihood(images)?;
    Ok(likelihood.bits_per_dim)
}

impl SampleQuality {
    fn new(config: &TrainingConfig, device: &Device, division: Division) -> Result<Option<Self>, Error> {
        let Some(features) = &config.train.evaluate_features else { return Ok(None) };
        let network = FeatureNetwork::read(features, &device.clone().without_autodiff())?.divided(division);
        let read = |path: &Path| {
            StatisticsOrigin::check(path, &network)?;
            FrechetReference::read(path, POOLED)
        };
        let reference = config.train.evaluate_reference.as_deref().map(read);
        Ok(Some(Self { network, reference: reference.transpose()? }))
    }

    fn frechet(&mut self, pipeline: &Pipeline, context: &mut Context) -> Result<FrechetMetric, Error> {
        let (count, seed) = (context.config().train.evaluate_samples, context.config().train.seed);
        let Self { network, reference } = self;
        let reference = match reference {
            Some(reference) => reference,
            unknown => {
                let real = ImageSource::from(context.session.set.clone());
                let real = network
                    .extract(&real, |done, total| progress(context, "features of training images", done, total))?;
                unknown.insert(FrechetReference::of(&real.pooled, count, seed)?)
            }
        };
        let generation = context.config().generation(pipeline, context.images(), count).divided(context.division());
        let samples =
            ImageSource::generate(generation.on_progress(|rows| progress(context, "samples", rows.done, rows.total)))?;
        let samples = network.extract(&samples, |done, total| progress(context, "features of samples", done, total))?;
        let comparison = Comparison { network, samples: &samples, real: None, reference: None, seed };
        let value = comparison.frechet_to(reference)?.value;
        let floor = reference.floor.map(|(floor, _)| floor);
        Ok(FrechetMetric { name: network.distance_name(), value, samples: count, floor })
    }
}
