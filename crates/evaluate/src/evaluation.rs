//! The likelihood of images under a pipeline, by a builder with defaults.

use diffusion::{MseProfile, NoiseSchedule, Variance, timesteps};
use model::guidance::Guidance;
use model::{Denoiser, Images, Pipeline};
use mpi::Division;
use sample::{ClipChoice, model_digest};

use crate::bits::{BitChain, BitLikelihood, bit_likelihood};
use crate::bound::{Chain, likelihood};
use crate::flow::{Flow, FlowLikelihood, Trace, flow_likelihood};
use crate::sub_chains::{SubChain, SubChainStudy, sub_chains};
use crate::{Error, Likelihood};

/// An evaluation of a pipeline that is still to be made.
///
/// ```no_run
/// # fn main() -> Result<(), ddpm_evaluate::Error> {
/// # let device = burn::tensor::Device::flex();
/// use ddpm_evaluate::{Evaluation, open_data, read_images};
///
/// let pipeline = model::Pipeline::load("runs/photos", &device)?;
/// let (set, _) = open_data(&pipeline, &data::Dataset::Path("photos".into()), data::Split::Test)?;
/// let images = read_images(&pipeline, &set, 128)?;
/// let bound = Evaluation::new(&pipeline).draws(2).likelihood(&images)?;
/// println!("{:.3} ± {:.3} bits/dim", bound.bits_per_dim, bound.standard_error);
/// # Ok(())
/// # }
/// ```
pub struct Evaluation<'a> {
    pipeline: &'a Pipeline,
    options: EvaluateOptions,
    division: Division,
    progress: Box<dyn FnMut(usize, usize) -> bool + 'a>,
}

/// The options of an [`Evaluation`].
#[derive(Clone, Debug)]
pub struct EvaluateOptions {
    /// The timesteps of the chain, descending; all of the scheduler's by default.
    pub timesteps: Option<Vec<usize>>,
    /// A number of evenly spaced timesteps instead.
    pub steps: Option<usize>,
    /// The variance of reverse steps; the scheduler's by default.
    pub variance: Option<Variance>,
    /// The clip of x̂0; as the scheduler says by default.
    pub clip: Option<ClipChoice>,
    /// Classifier-free guidance.
    pub guidance: Option<Guidance>,
    /// Noise draws for each image and timestep.
    pub draws: usize,
    /// Noisy images that go through the network at once. It does not change any number.
    pub batch_size: usize,
    /// The seed of the noise.
    pub seed: u64,
    /// Runge–Kutta steps of the probability flow.
    pub flow_steps: usize,
    /// The method that computes the divergence of the probability flow.
    pub trace: Trace,
}

impl Default for EvaluateOptions {
    fn default() -> Self {
        Self {
            timesteps: None,
            steps: None,
            variance: None,
            clip: None,
            guidance: None,
            draws: 1,
            batch_size: 64,
            seed: 0,
            flow_steps: 32,
            trace: Trace::Hutchinson(1),
        }
    }
}

impl<'a> Evaluation<'a> {
    /// An evaluation with the scheduler's timesteps, variance and clipping, and one noise draw for each image.
    pub fn new(pipeline: &'a Pipeline) -> Self {
        Self {
            pipeline,
            options: EvaluateOptions::default(),
            division: Division::default(),
            progress: Box::new(|_, _| true),
        }
    }

    /// Sets the number of noise draws for each image and timestep; 1 by default.
    pub fn draws(self, draws: usize) -> Self {
        self.with(|options| options.draws = draws)
    }

    /// Sets the number of steps, evenly spaced in t; all timesteps by default.
    pub fn steps(self, steps: usize) -> Self {
        self.with(|options| options.steps = Some(steps))
    }

    /// Sets how many noisy images go through the network at once; 64 by default.
    pub fn batch_size(self, batch_size: usize) -> Self {
        self.with(|options| options.batch_size = batch_size)
    }

    /// Sets the seed; 0 by default.
    pub fn seed(self, seed: u64) -> Self {
        self.with(|options| options.seed = seed)
    }

    /// Sets classifier-free guidance; none by default.
    pub fn guidance(self, guidance: Guidance) -> Self {
        self.with(|options| options.guidance = Some(guidance))
    }

    /// Divides the batches between processes, all of which get the result.
    pub fn divided(self, division: Division) -> Self {
        Self { division, ..self }
    }

    /// Sets any of the options.
    pub fn with(mut self, set: impl FnOnce(&mut EvaluateOptions)) -> Self {
        set(&mut self.options);
        self
    }

    /// Calls `progress(done, total)` after each batch; it returns `false` to cancel.
    pub fn on_progress(self, progress: impl FnMut(usize, usize) -> bool + 'a) -> Self {
        Self { progress: Box::new(progress), ..self }
    }

    /// Measures the variational bound.
    ///
    /// # Errors
    /// As [`likelihood`](crate::likelihood()).
    pub fn likelihood(mut self, images: &Images) -> Result<Likelihood, Error> {
        let (schedule, denoiser) = self.model()?;
        let timesteps = self.timesteps(&schedule)?;
        likelihood(&*denoiser, images, &self.chain(&schedule, &timesteps, images), &mut self.progress)
    }

    /// Computes the likelihood under the probability flow, with [`EvaluateOptions::flow_steps`] and
    /// [`EvaluateOptions::trace`].
    ///
    /// # Errors
    /// As [`flow_likelihood`](crate::flow_likelihood()).
    pub fn flow_likelihood(mut self, images: &Images) -> Result<FlowLikelihood, Error> {
        let (schedule, denoiser) = self.model()?;
        let EvaluateOptions { flow_steps: steps, trace, draws, batch_size, seed, .. } = self.options;
        let division = self.division_of(images);
        let flow = Flow {
            schedule: &schedule,
            steps,
            trace,
            draws,
            batch_size,
            seed,
            values: self.pipeline.values(),
            division,
        };
        flow_likelihood(&*denoiser, images, &flow, &mut self.progress)
    }

    /// Measures the bound of a model of bits.
    ///
    /// # Errors
    /// If the model's chain is Gaussian, or an option has no meaning for a binomial one; and as
    /// [`bit_likelihood`](crate::bit_likelihood()).
    pub fn bit_likelihood(mut self, images: &Images) -> Result<BitLikelihood, Error> {
        let EvaluateOptions { variance, clip, guidance, draws, batch_size, seed, .. } = self.options;
        let denoiser = self.pipeline.bit_denoiser()?;
        if variance.is_some() || clip.is_some() || guidance.is_some() {
            let message = "a binomial chain has no variance, clip or guidance; leave these options out";
            return Err(Error::Request(message.into()));
        }
        let timesteps = self.timesteps(&denoiser.schedule)?;
        let division = self.division_of(images);
        let schedule = &denoiser.schedule;
        let chain = BitChain { schedule, timesteps: &timesteps, draws, batch_size, seed, division };
        bit_likelihood(&denoiser, images, &chain, &mut self.progress)
    }

    /// Predicts and measures the bits/dim of shorter chains.
    ///
    /// # Errors
    /// As [`sub_chains`](crate::sub_chains()).
    pub fn sub_chains(
        mut self,
        images: &Images,
        profile: &MseProfile,
        lengths: &[usize],
    ) -> Result<Vec<SubChain>, Error> {
        let (schedule, denoiser) = self.model()?;
        let study = SubChainStudy { chain: self.chain(&schedule, &[], images), profile, lengths };
        sub_chains(&*denoiser, images, &study, &mut self.progress)
    }

    fn model(&self) -> Result<(NoiseSchedule, Box<dyn Denoiser>), Error> {
        if self.options.clip.is_some() {
            self.pipeline.check_images("a clip of x̂0 to the range of pixels")?;
        }
        let schedule = self.pipeline.scheduler.noise_schedule()?;
        Ok((schedule, Guidance::around_boxed(self.options.guidance, self.pipeline.denoiser()?)))
    }

    fn timesteps(&self, schedule: &NoiseSchedule) -> Result<Vec<usize>, Error> {
        let total = schedule.len();
        Ok(match (&self.options.timesteps, self.options.steps) {
            (Some(list), _) => timesteps::explicit(total, list)?,
            (None, Some(steps)) => timesteps::space_timesteps(total, &steps.to_string())?,
            (None, None) => timesteps::all(total),
        })
    }

    /// Returns the division of work on these images.
    fn division_of(&self, images: &Images) -> Division {
        self.division.about(|| {
            let (model, guidance) = (model_digest(self.pipeline), self.options.guidance);
            format!("{model} {guidance:?} {:?} {}", images.shape(), images.digest())
        })
    }

    fn chain<'c>(&self, schedule: &'c NoiseSchedule, timesteps: &'c [usize], images: &Images) -> Chain<'c> {
        let scheduler = self.pipeline.scheduler.clone();
        let scheduler = self.options.clip.map_or(scheduler.clone(), |clip| clip.apply(scheduler));
        Chain {
            schedule,
            variance: self.options.variance.unwrap_or(scheduler.variance_type),
            log_variances: None,
            timesteps,
            clip_sample: scheduler.clip(),
            values: self.pipeline.values(),
            draws: self.options.draws,
            batch_size: self.options.batch_size,
            seed: self.options.seed,
            division: self.division_of(images),
        }
    }
}
