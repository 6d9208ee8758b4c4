//! The options of a generation.

use diffusion::{MseProfile, SchedulerConfig};
use model::guidance::Guidance;
use model::{Images, Pipeline, Sampling};

use crate::{Error, Sampler, SamplerOptions};

/// The options of a [`Generation`](crate::Generation).
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// Number of images.
    pub n: usize,
    /// Number of the first image.
    pub first: u64,
    /// Seed of the noise.
    pub seed: u64,
    /// The sampler, by name or by value. Defaults to that of the model, [`Sampler::of_model`].
    pub sampler: SamplerChoice,
    /// The number and spacing of steps. The model's own sampler defaults to the model's number of steps.
    pub steps: SamplerOptions,
    /// An explicit list of timesteps.
    pub timesteps: Option<Vec<usize>>,
    /// A profile measured by `ddpm evaluate --denoising`; selects the optimal sub-chain and variances.
    pub mse_profile: Option<MseProfile>,
    /// Replaces the scheduler's clipping of x̂0.
    pub clip: Option<ClipChoice>,
    /// Images per batch.
    pub batch_size: usize,
    /// The classes of the images, repeated cyclically. Defaults to all classes of the pipeline.
    pub labels: Option<Vec<u32>>,
    /// Classifier-free guidance. Defaults to that of the model's run; a scale of 1 is none.
    pub guidance: Option<Guidance>,
    /// Height and width. Defaults to the size of the pipeline, if it has one.
    pub size: Option<[usize; 2]>,
    /// The initial noise x_T of the images.
    pub init: Option<Images>,
    /// An image to start from and the timestep to which it is noised (image-to-image).
    pub from: Option<(Images, usize)>,
    /// All images share their noise until x at this timestep.
    pub share_until: Option<f64>,
}

impl GenerateOptions {
    /// Returns the guidance: by default that of the model's run, if the model knows the label that means "no class".
    pub fn guidance(&self, pipeline: &Pipeline) -> Option<Guidance> {
        self.guidance.or_else(|| {
            let Sampling { guidance, guidance_interval, .. } = pipeline.sampling.as_ref()?;
            let of_run = Guidance::new(*guidance, pipeline.preprocessing.null_label?);
            (*guidance != 1.0).then_some(of_run.within(*guidance_interval))
        })
    }
}

/// A sampler, or the name of one that is resolved later.
#[derive(Clone, Debug, Default)]
pub enum SamplerChoice {
    /// The sampler of the model: that of its run, or of its scheduler.
    #[default]
    Model,
    /// A name, such as `dpmpp-2m`.
    Name(String),
    /// A sampler.
    Sampler(Sampler),
}

impl SamplerChoice {
    /// Returns the sampler for a model, and the number of steps that the model draws its samples in, if it is the model's.
    ///
    /// # Errors
    /// If there is no sampler of this name.
    pub fn resolve(&self, pipeline: &Pipeline) -> Result<(Sampler, Option<usize>), Error> {
        match self {
            Self::Model => Sampler::of_model(&pipeline.scheduler, pipeline.sampling.as_ref()),
            Self::Name(name) => Ok((name.parse()?, None)),
            Self::Sampler(sampler) => Ok((*sampler, None)),
        }
    }
}

impl From<&str> for SamplerChoice {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

impl From<Sampler> for SamplerChoice {
    fn from(sampler: Sampler) -> Self {
        Self::Sampler(sampler)
    }
}

/// A choice of clipping for x̂0 that replaces the scheduler's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ClipChoice {
    /// Clipping to the range of pixels (`true`), or none.
    Range(bool),
    /// Dynamic thresholding (Saharia et al. 2022).
    Threshold {
        /// The quantile of |x̂0| that is scaled to 1.
        ratio: f64,
        /// The maximum of that quantile.
        max: f64,
    },
}

impl ClipChoice {
    /// Returns the scheduler's configuration with this clipping.
    pub fn apply(self, scheduler: SchedulerConfig) -> SchedulerConfig {
        match self {
            Self::Range(clip_sample) => SchedulerConfig { clip_sample, thresholding: false, ..scheduler },
            Self::Threshold { ratio, max } => SchedulerConfig {
                thresholding: true,
                dynamic_thresholding_ratio: ratio,
                sample_max_value: max,
                ..scheduler
            },
        }
    }
}
