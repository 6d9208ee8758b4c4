//! One training step: Ho et al. (2020), Algorithm 1, with Adam, clipping and averages.

use burn::tensor::{Device, Tensor, TensorData};
use diffusion::timestep_sampler::{self, LossSecondMoment};
use random::{Random, Stream};
use rayon::prelude::*;
use unet::ops::AdamStep;
use unet::{Dropout, Labels, Parameters, Unet};

use crate::Error;
use crate::batches::Batch;
use crate::checkpoint::State;
use crate::config::{Config, TimestepSampler};
use crate::objective::{Noisy, Objective};
use crate::optimizer::{Optimizer, global_norm};

/// A network in training.
pub struct Trainer {
    /// The weights themselves.
    pub unet: Unet,
    /// Moments and averages.
    pub optimizer: Optimizer,
    /// The loss.
    pub objective: Objective,
    /// Counters, and the memory of the importance sampler.
    pub state: State,
    /// H, W, C of the images.
    pub image: [usize; 3],
    /// The run's configuration.
    pub config: Config,
    /// Where it runs, with autodiff.
    pub device: Device,
}

/// What a step did.
#[derive(Clone, Debug)]
pub struct Report {
    /// The mean of the weighted loss.
    pub loss: f64,
    /// t and the unweighted loss of each image.
    pub each: Vec<(usize, f64)>,
    /// The norm of the gradient before it was clipped.
    pub gradient_norm: f64,
    /// The learning rate of the step.
    pub learning_rate: f64,
    /// Whether the parameters were moved; false if loss or gradient was not finite.
    pub moved: bool,
}

/// What a part of a batch gave.
struct Part {
    mean: f64,
    losses: Vec<f64>,
    weighted: Vec<f64>,
    gradients: Vec<Option<Tensor<1>>>,
}

impl Trainer {
    /// The randomness of the run. After each roll-back it is another, or the same step would fail again.
    pub fn random(&self) -> Random {
        Random::new(self.config.train.seed ^ (u64::from(self.state.rollbacks) << 48))
    }

    /// The learning rate of the next step: warmed up linearly, halved at each roll-back.
    pub fn learning_rate(&self) -> f64 {
        let warmup = self.config.train.warmup_steps as u64;
        let ramp = if warmup == 0 { 1.0 } else { ((self.state.step + 1) as f64 / warmup as f64).min(1.0) };
        self.config.train.learning_rate * ramp * 0.5f64.powi(self.state.rollbacks as i32)
    }

    /// The averages' decay at the next step. With warm-up the first ones forget fast, so that short runs do not
    /// average in the initial noise.
    fn ema_decay(&self) -> f64 {
        let n = self.state.updates as f64;
        if self.config.train.ema_warmup {
            self.config.train.ema_decay.min((1.0 + n) / (10.0 + n))
        } else {
            self.config.train.ema_decay
        }
    }

    /// The noisy images of a batch: t and ε of each image depend on the seed, the step and its place in the batch.
    fn noisy(&self, batch: &Batch) -> Noisy {
        let [height, width, channels] = self.image;
        let (random, step) = (self.random(), self.state.step);
        let size = height * width * channels;
        let n = batch.x0.len() / size;
        let total = self.objective.schedule.len();
        let distribution = self.state.importance.as_ref().map(LossSecondMoment::distribution);
        let shared = random.uniform(Stream::Timestep, 0, step);
        let drawn = (0..n).map(|i| {
            let u = || random.uniform(Stream::Timestep, i as u64, step);
            match (&distribution, self.config.diffusion.timestep_sampler) {
                (Some(distribution), _) => distribution.sample(u()),
                (None, TimestepSampler::LowDiscrepancy) => {
                    (timestep_sampler::low_discrepancy(shared, i, n, total), 1.0)
                }
                (None, _) => (timestep_sampler::uniform(u(), total), 1.0),
            }
        });
        let (timesteps, importance) = drawn.unzip();
        let mut epsilon = vec![0.0; batch.x0.len()];
        epsilon
            .par_chunks_mut(size)
            .enumerate()
            .for_each(|(i, image)| random.normals(Stream::Noise, i as u64, step, image));
        Noisy { dims: [n, height, width, channels], x0: batch.x0.clone(), epsilon, timesteps, importance }
    }

    /// One step on a batch. Where the loss or the gradient is not finite, nothing moves and the report says so.
    ///
    /// # Errors
    /// If the batch does not fit the network.
    pub fn step(mut self, batch: &Batch) -> Result<(Self, Report), Error> {
        let noisy = self.noisy(batch);
        let parts = self.config.train.gradient_accumulation;
        let images = noisy.dims[0] / parts;
        let mut gradients: Vec<Option<Tensor<1>>> = Vec::new();
        let (mut loss, mut each, mut weighted) = (0.0, Vec::new(), Vec::new());
        for part in 0..parts {
            let range = part * images..(part + 1) * images;
            let Part { mean, losses, weighted: part_weighted, gradients: part_gradients } =
                self.gradients(&noisy, batch, range.clone())?;
            loss += mean / parts as f64;
            each.extend(noisy.timesteps[range].iter().copied().zip(losses));
            weighted.extend(part_weighted);
            if gradients.is_empty() {
                gradients = part_gradients;
            } else {
                for (sum, gradient) in gradients.iter_mut().zip(part_gradients) {
                    *sum = match (sum.take(), gradient) {
                        (Some(sum), Some(gradient)) => Some(sum + gradient),
                        (sum, gradient) => sum.or(gradient),
                    };
                }
            }
        }
        let gradient_norm = global_norm(&gradients) / parts as f64;
        let learning_rate = self.learning_rate();
        let moved = loss.is_finite() && gradient_norm.is_finite();
        if moved {
            let clip = self.config.train.grad_clip;
            // As torch.nn.utils.clip_grad_norm_ has it; 0 is no clipping.
            let clipped = if clip > 0.0 { (clip / (gradient_norm + 1e-6)).min(1.0) } else { 1.0 };
            let step = AdamStep {
                learning_rate,
                beta1: self.config.train.beta1,
                beta2: self.config.train.beta2,
                epsilon: self.config.train.adam_eps,
                step: self.state.updates + 1,
                gradient_scale: clipped / parts as f64,
                ema_decay: self.ema_decay(),
            };
            self.unet = self.optimizer.step(self.unet, gradients, step);
            self.state.updates += 1;
            self.state.skipped_in_a_row = 0;
        } else {
            self.state.skipped += 1;
            self.state.skipped_in_a_row += 1;
        }
        if let Some(importance) = &mut self.state.importance {
            for (&(t, _), &loss) in each.iter().zip(&weighted) {
                importance.update(t, loss)?;
            }
        }
        self.state.step += 1;
        Ok((self, Report { loss, each, gradient_norm, learning_rate, moved }))
    }

    /// Losses and gradients of a part of the batch.
    fn gradients(&self, noisy: &Noisy, batch: &Batch, range: std::ops::Range<usize>) -> Result<Part, Error> {
        let size: usize = self.image.iter().product();
        let pixels = range.start * size..range.end * size;
        let part = Noisy {
            dims: [range.len(), noisy.dims[1], noisy.dims[2], noisy.dims[3]],
            x0: noisy.x0[pixels.clone()].to_vec(),
            epsilon: noisy.epsilon[pixels].to_vec(),
            timesteps: noisy.timesteps[range.clone()].to_vec(),
            importance: noisy.importance[range.clone()].to_vec(),
        };
        let labels = batch.labels.as_ref().map(|labels| Labels::Classes(&labels[range.clone()]));
        self.unet.check_labels(range.len(), labels)?;
        let timesteps: Vec<f32> = part.timesteps.iter().map(|&t| t as f32).collect();
        let dropout = Dropout { random: self.random(), step: self.state.step, first_image: range.start as u64 };
        let x_t = Tensor::<4>::from_data(TensorData::new(self.objective.q_sample(&part), part.dims), &self.device);
        let (loss, gradients) = if self.config.train.gradient_checkpointing {
            let mut loss = None;
            let gradients =
                self.unet.checkpointed_gradients(x_t.clone(), &timesteps, labels, Some(&dropout), |output| {
                    loss.insert(self.objective.loss(output, &x_t, &part)).mean.clone()
                });
            (loss.expect("the loss is always asked for"), gradients)
        } else {
            let output = self.unet.forward(x_t.clone(), &timesteps, labels, Some(&dropout));
            let loss = self.objective.loss(output, &x_t, &part);
            let gradients = self.unet.take_gradients(&mut loss.mean.backward());
            (loss, gradients)
        };
        let numbers = |values: Tensor<1>| values.into_data().iter::<f64>().collect();
        Ok(Part {
            mean: loss.mean.into_scalar::<f32>().into(),
            losses: numbers(loss.each),
            weighted: numbers(loss.weighted),
            gradients,
        })
    }

    /// The network with the averaged parameters, off the autodiff graph.
    pub fn averaged(&self) -> Unet {
        use burn::module::Module;
        let mut averages = self.optimizer.averages();
        self.unet.valid().map_parameters(|_, old| averages.next().unwrap_or(old))
    }
}
