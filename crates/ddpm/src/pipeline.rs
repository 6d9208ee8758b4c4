//! The uses of a [`Pipeline`]: builders with defaults, as methods of it.

use std::path::Path;

use data::{Dataset, ImageSet, Split};
use diffusion::FactorSchedule;
use evaluate::{Evaluation, Likelihood};
use model::{Images, Pipeline};
use sample::{
    Generation, InpaintMethod, Inpainting, Interpolation, Inversion, Inverted, Mix, Request, Sampler, SamplerChoice,
    SamplerOptions, SamplerStep, initial_noise,
};

use crate::Error;

/// Methods of [`Pipeline`]: sampling, likelihoods, editing.
///
/// ```no_run
/// use ddpm::prelude::*;
/// # fn main() -> Result<(), ddpm::Error> {
/// let pipeline = Pipeline::load("runs/photos", &ddpm::device(None)?)?;
/// pipeline.sample(16).sampler("dpmpp-2m").steps(20).seed(7).save("grid.png")?;
/// let test = pipeline.open_data("photos", Split::Test)?;
/// println!("{:.3} bits/dim", pipeline.likelihood(&test)?.bits_per_dim);
/// # Ok(())
/// # }
/// ```
pub trait PipelineExt {
    /// Starts a generation of `n` images.
    fn sample(&self, n: usize) -> Generation<'_>;

    /// Opens a set of images as the pipeline takes them: of its size and channels, fitted as for its training. A set
    /// without a held-out part is opened as a whole.
    ///
    /// # Errors
    /// If the set cannot be read.
    fn open_data(&self, path: impl AsRef<Path>, split: Split) -> Result<ImageSet, Error>;

    /// Opens the images that the pipeline was trained on, as its run says.
    ///
    /// # Errors
    /// If the pipeline has no run, or the images are no longer there.
    fn open_training_data(&self, split: Split) -> Result<ImageSet, Error>;

    /// Reads the first `n` images of a set, with their labels where the network takes labels.
    ///
    /// # Errors
    /// If an image cannot be read, or the network takes labels and the set has none.
    fn read_set(&self, set: &ImageSet, n: usize) -> Result<Images, Error>;

    /// Measures the variational bound of all images of a set (Ho et al. 2020), at all timesteps with one noise draw each.
    /// [`PipelineExt::evaluate`] has options.
    ///
    /// # Errors
    /// If the images do not fit the pipeline or cannot be read.
    fn likelihood(&self, set: &ImageSet) -> Result<Likelihood, Error>;

    /// Starts an evaluation: the bound or the flow's likelihood, with options.
    fn evaluate(&self) -> Evaluation<'_>;

    /// Starts filling in the part of an image where `unknown` (H,W) is true.
    fn inpaint<'a>(&'a self, image: &'a Images, unknown: &'a [bool]) -> Inpaint<'a>;

    /// Starts an interpolation between two images.
    fn interpolate<'a>(&'a self, a: &'a Images, b: &'a Images) -> Interpolate<'a>;

    /// Inverts images to DDIM latents and reconstructs them, in `steps` steps each way.
    ///
    /// # Errors
    /// If the images do not fit the pipeline.
    fn invert(&self, images: &Images, steps: usize) -> Result<Inverted, Error>;
}

impl PipelineExt for Pipeline {
    fn sample(&self, n: usize) -> Generation<'_> {
        Generation::new(self, n)
    }

    fn open_data(&self, path: impl AsRef<Path>, split: Split) -> Result<ImageSet, Error> {
        Ok(evaluate::open_data(self, &Dataset::Path(path.as_ref().to_owned()), split)?.0)
    }

    fn open_training_data(&self, split: Split) -> Result<ImageSet, Error> {
        let data = self.training_data()?.ok_or_else(|| {
            let root = self.root.display();
            evaluate::Error::Request(format!("{root}: has no run that says which images it was trained on"))
        })?;
        Ok(evaluate::open_data(self, &data.find()?, split)?.0)
    }

    fn read_set(&self, set: &ImageSet, n: usize) -> Result<Images, Error> {
        Ok(evaluate::read_images(self, set, n)?)
    }

    fn likelihood(&self, set: &ImageSet) -> Result<Likelihood, Error> {
        Ok(self.evaluate().likelihood(&self.read_set(set, set.len())?)?)
    }

    fn evaluate(&self) -> Evaluation<'_> {
        Evaluation::new(self)
    }

    fn inpaint<'a>(&'a self, image: &'a Images, unknown: &'a [bool]) -> Inpaint<'a> {
        Inpaint {
            pipeline: self,
            image,
            unknown,
            n: 1,
            seed: 0,
            sampler: Sampler::Ddpm.into(),
            steps: None,
            resample: 1,
            factor: None,
            label: None,
            batch_size: 16,
            step: Box::new(|_, _| true),
        }
    }

    fn interpolate<'a>(&'a self, a: &'a Images, b: &'a Images) -> Interpolate<'a> {
        Interpolate {
            pipeline: self,
            ends: [a, b],
            at: vec![self.scheduler.num_train_timesteps / 2],
            frames: 9,
            mix: Mix::Linear,
            sampler: Sampler::Ddim { eta: 0.0 }.into(),
            steps: 100,
            invert: false,
            label: None,
            seed: 0,
            progress: Box::new(|_, _| true),
        }
    }

    fn invert(&self, images: &Images, steps: usize) -> Result<Inverted, Error> {
        let inversion = Inversion { at: self.scheduler.num_train_timesteps - 1, steps, batch_size: 16 };
        Ok(sample::invert(&self.denoiser()?, &self.scheduler, (images, inversion), |_, _| true)?)
    }
}

/// A function that is called after each step of an inpainting, with the step and its timestep; it returns `false` to cancel.
type OnStep<'a> = Box<dyn FnMut(&SamplerStep, f64) -> bool + 'a>;

/// A function that is called after each evaluation of the network, with those done and all; it returns `false` to cancel.
type OnProgress<'a> = Box<dyn FnMut(usize, usize) -> bool + 'a>;

/// An inpainting that is still to be made. See [`sample::inpaint`](sample::inpaint()).
pub struct Inpaint<'a> {
    pipeline: &'a Pipeline,
    image: &'a Images,
    unknown: &'a [bool],
    n: usize,
    seed: u64,
    sampler: SamplerChoice,
    steps: Option<usize>,
    resample: usize,
    factor: Option<FactorSchedule>,
    label: Option<u32>,
    batch_size: usize,
    step: OnStep<'a>,
}

impl<'a> Inpaint<'a> {
    /// Sets how many different images are made; 1 by default.
    pub fn n(self, n: usize) -> Self {
        Self { n, ..self }
    }

    /// Sets the seed; 0 by default.
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Sets the sampler, `ddpm` (the default) or `ddim`.
    pub fn sampler(self, sampler: impl Into<SamplerChoice>) -> Self {
        Self { sampler: sampler.into(), ..self }
    }

    /// Sets the number of steps; all timesteps by default.
    pub fn steps(self, steps: usize) -> Self {
        Self { steps: Some(steps), ..self }
    }

    /// Sets how often each step is taken (RePaint); 1 by default.
    pub fn resample(self, resample: usize) -> Self {
        Self { resample, ..self }
    }

    /// Multiplies the chain by the factor of the known pixels (Sohl-Dickstein et al. 2015), in place of replacement.
    pub fn product(self, factor: FactorSchedule) -> Self {
        Self { factor: Some(factor), ..self }
    }

    /// Sets the class of the images.
    pub fn label(self, label: u32) -> Self {
        Self { label: Some(label), ..self }
    }

    /// Calls `step` with each step and its timestep; it returns `false` to cancel.
    pub fn on_step(self, step: impl FnMut(&SamplerStep, f64) -> bool + 'a) -> Self {
        Self { step: Box::new(step), ..self }
    }

    /// Makes the images.
    ///
    /// # Errors
    /// As [`sample::inpaint`](sample::inpaint()), and if `step` cancels.
    pub fn run(mut self) -> Result<Images, Error> {
        let options = SamplerOptions { steps: self.steps, ..Default::default() };
        let table = self.sampler.resolve(self.pipeline)?.0.table(&self.pipeline.scheduler, options)?;
        let shape = [self.image.height, self.image.width, self.image.channels];
        let labels = self.label.map(|label| vec![label; self.n]);
        let noise = initial_noise(self.seed, 0, self.n, shape).with_labels(labels);
        let request =
            Request { seed: self.seed, first_image: 0, noise: &noise, batch_size: self.batch_size, shared: None };
        let method = self.factor.map_or(InpaintMethod::Replace { resample: self.resample }, InpaintMethod::Product);
        let inpainting = Inpainting { image: self.image, unknown: self.unknown, method };
        let step = |step: &SamplerStep| (self.step)(step, table.rows[step.row].node.timestep);
        Ok(sample::inpaint(&self.pipeline.denoiser()?, &table, (&request, inpainting), step)?)
    }
}

/// An interpolation that is still to be made. See [`sample::interpolate`](sample::interpolate()).
pub struct Interpolate<'a> {
    pipeline: &'a Pipeline,
    ends: [&'a Images; 2],
    at: Vec<usize>,
    frames: usize,
    mix: Mix,
    sampler: SamplerChoice,
    steps: usize,
    invert: bool,
    label: Option<u32>,
    seed: u64,
    progress: OnProgress<'a>,
}

impl<'a> Interpolate<'a> {
    /// Sets the timesteps to which the images are noised; T/2 by default.
    pub fn at(self, at: impl Into<Vec<usize>>) -> Self {
        Self { at: at.into(), ..self }
    }

    /// Sets the number of mixtures, both ends included; 9 by default.
    pub fn frames(self, frames: usize) -> Self {
        Self { frames, ..self }
    }

    /// Sets how noisy images are mixed; linearly by default.
    pub fn mix(self, mix: Mix) -> Self {
        Self { mix, ..self }
    }

    /// Mixes DDIM latents, not noised images.
    pub fn invert(self) -> Self {
        Self { invert: true, ..self }
    }

    /// Sets the seed; 0 by default.
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Sets the class of the images.
    pub fn label(self, label: u32) -> Self {
        Self { label: Some(label), ..self }
    }

    /// Sets the number of steps of the sampler; 100 by default.
    pub fn steps(self, steps: usize) -> Self {
        Self { steps, ..self }
    }

    /// Calls `progress` after each evaluation of the network, with those done and all; it returns `false` to cancel.
    pub fn on_progress(self, progress: impl FnMut(usize, usize) -> bool + 'a) -> Self {
        Self { progress: Box::new(progress), ..self }
    }

    /// Makes the images: for each mixture the images at each timestep.
    ///
    /// # Errors
    /// As [`sample::interpolate`](sample::interpolate()), and if `progress` cancels.
    pub fn run(self) -> Result<Vec<Images>, Error> {
        let last = self.frames.saturating_sub(1).max(1) as f64;
        let lambdas: Vec<f64> = (0..self.frames).map(|i| i as f64 / last).collect();
        let interpolation = Interpolation {
            ends: self.ends,
            at: &self.at,
            lambdas: &lambdas,
            mix: self.mix,
            sampler: self.sampler.resolve(self.pipeline)?.0,
            steps: Some(self.steps),
            invert: self.invert,
            label: self.label,
            seed: self.seed,
            batch_size: 16,
        };
        let denoiser = self.pipeline.denoiser()?;
        Ok(sample::interpolate(&denoiser, &self.pipeline.scheduler, &interpolation, self.progress)?)
    }
}

/// Images can be saved by what their path says.
pub trait SaveImages {
    /// Writes the images as `path` says: a grid (`.png`), arrays (`.npz`, `.safetensors`) or a folder of PNGs.
    ///
    /// # Errors
    /// If the path has another extension, or the file cannot be written.
    fn save(&self, path: impl AsRef<Path>) -> Result<(), Error>;
}

impl SaveImages for Images {
    fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let output = sample::output::Output::parse(path.as_ref(), false).map_err(sample::Error::from)?;
        Ok(sample::output::write(&output, self, &[], &[]).map_err(sample::Error::from)?)
    }
}
