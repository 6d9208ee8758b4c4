//! What a run measures of itself on the way: the bits/dim of held-out images, and how far samples are from the images.

use evaluate::network::FeatureNetwork;
use evaluate::quality::{Features, POOLED, Statistics, floor_parts, frechet_distance};
use sample::{Draw, draw, output};
use serde::{Deserialize, Serialize};
use unet::Unet;

use crate::Error;
use crate::config::Config;
use crate::run::Event;
use data::{ImageSet, Split};

/// What was measured at a step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// Bits/dim of held-out images, by the best variances (see [`evaluate::Likelihood::best_bits`]).
    pub bits_per_dim: Option<f64>,
    /// How far samples are from the training images.
    pub distance: Option<Distance>,
}

/// A Fréchet distance.
#[derive(Clone, Debug, PartialEq)]
pub struct Distance {
    /// What it is called: FID where the features are Inception's.
    pub name: String,
    /// Of the samples to the training images.
    pub value: f64,
    /// Of how many samples.
    pub samples: usize,
    /// That of as many training images to all others; `None` where statistics stand for the images.
    pub floor: Option<f64>,
}

/// Which of the two chooses the best checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BestBy {
    /// The bits/dim of held-out images.
    #[default]
    BitsPerDim,
    /// The Fréchet distance.
    FrechetDistance,
}

impl Measured {
    /// The figure that chooses.
    pub fn chooses(&self, by: BestBy) -> Option<f64> {
        match by {
            BestBy::BitsPerDim => self.bits_per_dim,
            BestBy::FrechetDistance => self.distance.as_ref().map(|distance| distance.value),
        }
    }
}

/// What is needed to measure.
pub struct Measures {
    held_out: Option<HeldOut>,
    quality: Option<Quality>,
}

impl Measures {
    /// Of a configuration that wants something measured; `None` if it does not.
    ///
    /// # Errors
    /// If held-out images or the network that makes features cannot be read, or there is nothing to measure.
    pub fn new(config: &Config, set: &ImageSet, device: &burn::tensor::Device) -> Result<Option<Self>, Error> {
        if config.train.evaluate_every == 0 {
            return Ok(None);
        }
        let quality = Quality::new(config, device)?;
        let held_out = match HeldOut::open(config, config.network(set)?.num_class_embeds.is_some()) {
            // The distance needs none.
            Err(Error::Data(data::Error::NoHeldOut { .. })) if quality.is_some() => None,
            Err(Error::Data(error @ data::Error::NoHeldOut { .. })) => {
                return Err(Error::Run(format!("`train.evaluate_every` wants held-out images: {error}")));
            }
            held_out => Some(held_out?),
        };
        Ok(Some(Self { held_out, quality }))
    }

    /// Which figure chooses the best checkpoint.
    pub fn best_by(&self) -> BestBy {
        if self.quality.is_some() { BestBy::FrechetDistance } else { BestBy::BitsPerDim }
    }

    /// Measures the averaged network. What is not finite is told and not measured; `None` if asked to stop.
    ///
    /// # Errors
    /// If an image or a file of statistics cannot be read.
    pub fn measure(
        &mut self,
        unet: &Unet,
        config: &Config,
        set: &ImageSet,
        stop: &dyn Fn() -> bool,
        tell: &mut dyn FnMut(Event),
    ) -> Result<Option<Measured>, Error> {
        let mut measured = Measured::default();
        let outcome = (|| {
            if let Some(held_out) = &self.held_out {
                measured.bits_per_dim = finite(held_out.bits_per_dim(unet, config, stop, tell), tell)?;
            }
            if let Some(quality) = &mut self.quality {
                measured.distance = finite(quality.distance(unet, config, set, stop, tell), tell)?;
            }
            Ok(())
        })();
        match outcome {
            Ok(()) => Ok(Some(measured)),
            Err(Error::Evaluate(evaluate::Error::Stopped) | Error::Sample(sample::Error::Stopped)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A network that is still far from any image is not an end of training.
fn finite<T>(measured: Result<T, Error>, tell: &mut dyn FnMut(Event)) -> Result<Option<T>, Error> {
    match measured {
        Err(
            error @ (Error::Evaluate(evaluate::Error::NotFinite { .. })
            | Error::Sample(sample::Error::NotFinite { .. })),
        ) => {
            tell(Event::Warning(error.to_string()));
            Ok(None)
        }
        measured => measured.map(Some),
    }
}

/// Timesteps at which held-out images are measured.
const EVALUATION_STEPS: usize = 100;

/// So many of the timesteps, evenly, from T−1 to 0; all if there are fewer.
fn even(total: usize, steps: usize) -> Vec<usize> {
    let steps = steps.min(total);
    (0..steps).rev().map(|i| i * (total - 1) / (steps - 1).max(1)).collect()
}

/// Images that training never sees, in [-1, 1].
struct HeldOut {
    pixels: Vec<f32>,
    shape: [usize; 3],
    labels: Option<Vec<u32>>,
}

impl HeldOut {
    fn open(config: &Config, with_labels: bool) -> Result<Self, Error> {
        let set = config.open(Split::Test)?;
        let n = config.train.evaluate_images.min(set.len());
        let bytes = set.read(0..n)?;
        let labels = set.labels().filter(|_| with_labels).map(|labels| labels[..n].to_vec());
        Ok(Self { pixels: output::from_u8(&bytes), shape: set.shape(), labels })
    }

    fn bits_per_dim(
        &self,
        unet: &Unet,
        config: &Config,
        stop: &dyn Fn() -> bool,
        tell: &mut dyn FnMut(Event),
    ) -> Result<f64, Error> {
        let scheduler = config.scheduler();
        let schedule = scheduler.noise_schedule()?;
        let timesteps = even(schedule.len(), EVALUATION_STEPS);
        let chain = evaluate::Chain {
            schedule: &schedule,
            prediction: scheduler.prediction_type,
            variance: scheduler.variance_type,
            log_variances: None,
            timesteps: &timesteps,
            clip_sample: scheduler.clip(),
            draws: 1,
            batch_size: config.train.batch_size,
            seed: config.train.seed,
        };
        let images = evaluate::Images { pixels: &self.pixels, shape: self.shape, labels: self.labels.as_deref() };
        let measured = evaluate::likelihood(unet, images, &chain, |done, total| {
            tell(Event::Evaluating { what: "held-out images", done, total });
            !stop()
        })?;
        Ok(measured.best_bits(&schedule)?)
    }
}

/// Images of which features are made at once.
const FEATURE_BATCH: usize = 16;

/// What compares samples with the training images.
struct Quality {
    network: FeatureNetwork,
    /// Statistics of the training images, and their floor: from a file, or made when they are first asked for.
    reference: Option<(Statistics, Option<f64>)>,
}

impl Quality {
    fn new(config: &Config, device: &burn::tensor::Device) -> Result<Option<Self>, Error> {
        let Some(features) = &config.train.evaluate_features else { return Ok(None) };
        let network = FeatureNetwork::read(features, &device.clone().without_autodiff())?;
        let reference = config.train.evaluate_reference.as_deref().map(|path| {
            let statistics = Statistics::read(path, POOLED)?;
            let lacks = || Error::Run(format!("{}: has no {} and {}", path.display(), POOLED.0, POOLED.1));
            Ok::<_, Error>((statistics.ok_or_else(lacks)?, None))
        });
        Ok(Some(Self { network, reference: reference.transpose()? }))
    }

    fn distance(
        &mut self,
        unet: &Unet,
        config: &Config,
        set: &ImageSet,
        stop: &dyn Fn() -> bool,
        tell: &mut dyn FnMut(Event),
    ) -> Result<Distance, Error> {
        let shape = set.shape();
        let (count, seed) = (config.train.evaluate_samples, config.train.seed);
        let (reference, floor) = match &mut self.reference {
            Some(known) => known,
            unknown => {
                let read = |first: usize, some: usize| Ok(set.read(first..first + some)?);
                let real = self.network.extract(set.len(), shape, FEATURE_BATCH, read, |done| {
                    tell(Event::Evaluating { what: "features of training images", done, total: set.len() });
                    !stop()
                })?;
                let floor = floor(&real.pooled, count, seed)?;
                unknown.insert((Statistics::of(&real.pooled)?, Some(floor)))
            }
        };
        let scheduler = config.scheduler();
        let table = config.sampler().table(&scheduler, config.sampler_options())?;
        let classes = config.sampled_classes(set, unet);
        let draws = Draw {
            seed,
            count,
            shape,
            classes: classes.as_deref(),
            guidance: config.guidance(set),
            batch_size: config.sample.batch_size,
        };
        let bytes = draw(unet, &table, &scheduler, &draws, |done, total| {
            tell(Event::Evaluating { what: "samples", done, total });
            !stop()
        })?;
        let size = shape.iter().product::<usize>();
        let read = |first: usize, some: usize| Ok(bytes[first * size..][..some * size].to_vec());
        let samples = self.network.extract(count, shape, FEATURE_BATCH, read, |done| {
            tell(Event::Evaluating { what: "features of samples", done, total: count });
            !stop()
        })?;
        let value = frechet_distance(&Statistics::of(&samples.pooled)?, reference)?;
        Ok(Distance { name: self.network.distance_name(), value, samples: count, floor: *floor })
    }
}

/// The distance of as many real images as samples to all other real images.
fn floor(real: &Features, samples: usize, seed: u64) -> Result<f64, Error> {
    let (some, others) = floor_parts(seed, real.count(), samples);
    Ok(frechet_distance(&Statistics::of(&real.select(&some))?, &Statistics::of(&real.select(&others))?)?)
}
