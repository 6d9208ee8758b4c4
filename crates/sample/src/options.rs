//! The options of a generation.

use diffusion::{MseProfile, SchedulerConfig};
use model::Images;
use model::guidance::Guidance;

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
    /// The name of the sampler, or the sampler.
    pub sampler: SamplerChoice,
    /// Steps, and where they lie.
    pub steps: SamplerOptions,
    /// Exactly these timesteps.
    pub timesteps: Option<Vec<usize>>,
    /// The optimal sub-chain and variances by this profile (`ddpm evaluate --denoising`).
    pub mse_profile: Option<MseProfile>,
    /// Overrides how x̂0 is clipped.
    pub clip: Option<ClipChoice>,
    /// Images that go through the network at once.
    pub batch_size: usize,
    /// Classes that the images have in turn; the pipeline's by default.
    pub labels: Option<Vec<u32>>,
    /// Classifier-free guidance.
    pub guidance: Option<Guidance>,
    /// Height and width, where the pipeline does not say or another size is wanted.
    pub size: Option<[usize; 2]>,
    /// x_T of the images.
    pub init: Option<Images>,
    /// An image to start from, noised to this timestep.
    pub from: Option<(Images, usize)>,
    /// All images share their noise until x at this timestep.
    pub share_until: Option<f64>,
}

/// A sampler, or the name of one that is looked up later.
#[derive(Clone, Debug)]
pub enum SamplerChoice {
    /// A name, such as `dpmpp-2m`.
    Name(String),
    /// A sampler.
    Sampler(Sampler),
}

impl SamplerChoice {
    /// Returns the sampler.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn resolve(&self) -> Result<Sampler, Error> {
        match self {
            Self::Name(name) => name.parse(),
            Self::Sampler(sampler) => Ok(*sampler),
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

/// How x̂0 is clipped, instead of the scheduler's choice.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ClipChoice {
    /// To the range of pixels, or not at all.
    Range(bool),
    /// By dynamic thresholding (Saharia et al. 2022): the quantile of |x̂0| that is brought to 1, and its maximum.
    Threshold {
        /// The quantile.
        ratio: f64,
        /// The maximum.
        max: f64,
    },
}

impl ClipChoice {
    /// Returns a scheduler with this choice.
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
