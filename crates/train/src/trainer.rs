//! One training step: Ho et al. (2020), Algorithm 1, with Adam, clipping and averages.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use burn::tensor::{Device, Tensor};
use diffusion::timestep_sampler::{self, LossSecondMoment, TimestepDistribution};
use model::backbone::Inputs;
use model::{Condition, Dropout, Images, LabelKind, Network};
use mpi::{Communicator, SingleProcess, tree};
use random::{Random, Stream};
use rayon::prelude::*;
use serde::Serialize;
use unet::ops::{AdamStep, GradientObserver};
use weights::Tensors;

use crate::Error;
use crate::checkpoint::Checkpoint;
use crate::config::{TimestepSampler, TrainingConfig};
use crate::data_loader::Batch;
use crate::init_from::{network_differences, process_differences};
use crate::objective::{NoisedBatch, Objective};
use crate::optimizer::{Optimizer, global_norm};
use crate::power_ema::PowerEma;
use crate::reduction::{Gradients, Reduction, add};
use crate::state::TrainState;

/// A network in training.
pub struct Trainer {
    network: Network,
    optimizer: Optimizer,
    power_ema: PowerEma,
    objective: Objective,
    /// The distribution of the timesteps for `log_normal`.
    log_normal: Option<TimestepDistribution>,
    state: TrainState,
    config: TrainingConfig,
    /// With autodiff.
    device: Device,
    communicator: Arc<dyn Communicator>,
    /// See [`Trainer::reduction_seconds`].
    reduction_seconds: f64,
}

/// The result of a step.
#[derive(Clone, Debug, Serialize)]
pub struct StepReport {
    /// Steps done, this one included.
    pub step: u64,
    /// The mean of the weighted loss.
    pub loss: f64,
    /// t and the unweighted loss of each image.
    pub losses: Vec<(usize, f64)>,
    /// The norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// The learning rate of the step.
    pub learning_rate: f64,
    /// Whether the parameters were updated; false if the loss or the gradient was not finite.
    pub updated: bool,
}

/// The greatest output of a network of any use. What networks predict is of the order of 1.
const MOST_OUTPUT: f32 = 1e4;

/// The losses and gradients of a pass through the network.
struct Pass {
    mean: f32,
    each: Vec<f32>,
    weighted: Vec<f32>,
    gradients: Gradients,
}

/// The losses of a global batch, gathered from all processes.
struct GlobalLosses {
    /// For each pass.
    means: Vec<f64>,
    /// t, the unweighted and the weighted loss of each image.
    images: Vec<[f64; 3]>,
}

/// Returns the distribution of the timesteps, if it is fixed and not uniform.
fn log_normal(config: &TrainingConfig) -> Result<Option<TimestepDistribution>, Error> {
    let diffusion = &config.diffusion;
    if diffusion.timestep_sampler != TimestepSampler::LogNormal {
        return Ok(None);
    }
    let schedule = config.scheduler().noise_schedule()?;
    Ok(Some(TimestepDistribution::log_normal(&schedule, diffusion.p_mean, diffusion.p_std)?))
}

impl Trainer {
    /// Starts the training of a network, which must be on an autodiff device.
    ///
    /// # Errors
    /// If the configuration does not describe a process or a loss.
    pub fn new(config: &TrainingConfig, network: Network) -> Result<Self, Error> {
        let optimizer = Optimizer::new(&network.flat_parameters());
        let power_ema = PowerEma::new(&config.train.ema_lengths, &network);
        let device = network.device().autodiff();
        let mut trainer = Self {
            network,
            optimizer,
            power_ema,
            objective: config.objective()?,
            log_normal: log_normal(config)?,
            state: TrainState::default(),
            config: config.clone(),
            device,
            communicator: Arc::new(SingleProcess),
            reduction_seconds: 0.0,
        };
        trainer.adapt_importance()?;
        Ok(trainer)
    }

    /// Divides the passes of each step between processes. The result has the same bytes for any number of them.
    pub fn with_communicator(self, communicator: Arc<dyn Communicator>) -> Self {
        Self { communicator, ..self }
    }

    /// Continues from a checkpoint.
    ///
    /// # Errors
    /// If its network or process has another configuration; the error names the keys.
    pub fn restore(&mut self, checkpoint: Checkpoint) -> Result<(), Error> {
        let process = process_differences(&checkpoint.scheduler, &self.config.scheduler())?;
        let network = network_differences(&checkpoint.network.config(), &self.network.config());
        let differences: Vec<String> = network.iter().chain(&process).map(ToString::to_string).collect();
        if !differences.is_empty() {
            let differences = differences.join(", ");
            return Err(Error::Checkpoint(format!("the configuration is not that of the checkpoint: {differences}")));
        }
        let Checkpoint { network, optimizer, power_ema, state, scheduler: _ } = checkpoint;
        self.power_ema = PowerEma::from_tensors(&self.config.train.ema_lengths, &network, &power_ema)?;
        (self.network, self.optimizer, self.state) = (network, optimizer, state);
        self.adapt_importance()
    }

    /// The memory of importance sampling belongs to a chain and to the choice of it, which may both have changed since a
    /// checkpoint.
    fn adapt_importance(&mut self) -> Result<(), Error> {
        let timesteps = self.config.diffusion.timesteps;
        let memory = self.state.importance.take();
        if self.config.diffusion.timestep_sampler == TimestepSampler::Importance {
            let memory = memory.filter(|memory| memory.distribution().probabilities().len() == timesteps);
            self.state.importance = Some(memory.map_or_else(|| LossSecondMoment::new(timesteps), Ok)?);
        }
        Ok(())
    }

    /// The network with the parameters themselves.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The optimizer.
    pub fn optimizer(&self) -> &Optimizer {
        &self.optimizer
    }

    /// The counters, and the memory of importance sampling.
    pub fn state(&self) -> &TrainState {
        &self.state
    }

    /// The state, for the run that counts seconds, roll-backs and the best checkpoint.
    pub(crate) fn state_mut(&mut self) -> &mut TrainState {
        &mut self.state
    }

    /// Sets the images of a pass, to measure passes of another size.
    pub(crate) fn set_batch_size(&mut self, batch_size: usize) {
        self.config.train.batch_size = batch_size;
    }

    /// The processes.
    pub fn communicator(&self) -> &dyn Communicator {
        &*self.communicator
    }

    /// The processes, to be shared with other work.
    pub(crate) fn shared_communicator(&self) -> Arc<dyn Communicator> {
        self.communicator.clone()
    }

    /// Returns how long the last step waited for the gradients of other processes after its own backward pass.
    pub fn reduction_seconds(&self) -> f64 {
        self.reduction_seconds
    }

    /// Returns the network with the averaged parameters, off the autodiff graph.
    pub fn averaged(&self) -> Network {
        self.network.with_parameters(self.optimizer.averages())
    }

    /// Returns the averages of `train.ema_lengths` by name, `LENGTH/NAME`.
    ///
    /// # Errors
    /// If a back end cannot read its values back.
    pub fn power_averages(&self) -> Result<Tensors, Error> {
        self.power_ema.tensors(&self.network)
    }

    /// Returns the randomness of the run. Each roll-back changes it; otherwise the same step would fail again.
    pub fn random(&self) -> Random {
        Random::new(self.config.train.seed ^ (u64::from(self.state.rollbacks) << 48))
    }

    /// Returns the learning rate of the next step: that of the schedule, halved by each roll-back since it was set.
    pub fn learning_rate(&self) -> f64 {
        self.config.train.scheduled_rate(self.state.step) * 0.5f64.powi(self.state.halvings() as i32)
    }

    /// Returns why the parameters or their averages cannot be used, if so: the network's outputs are not finite, or out of
    /// any range. The step that spoils the parameters has a finite loss itself, so the network is tried on noise.
    ///
    /// # Errors
    /// If the process does not fit the network.
    pub fn unusable(&self) -> Result<Option<String>, Error> {
        let process = self.objective.process();
        let timesteps = [0, process.schedule.len() - 1];
        let signature = self.network.signature();
        let (height, width) = self.config.data.resolution.height_width();
        let shape = [timesteps.len(), height, width, signature.in_channels];
        let mut noise = Images::new(shape, vec![0.0; shape.iter().product()]);
        self.random().normals(Stream::Noise, 0, self.state.step, &mut noise.pixels);
        let labels = (signature.labels != LabelKind::None).then(|| vec![0; timesteps.len()]);
        for (what, network) in [("the network", self.network.valid()), ("the averaged network", self.averaged())] {
            let (x, c_noise) = process.inputs(noise.tensor(&network.device()), &process.nodes(&timesteps))?;
            let output = network.forward(x, &c_noise, Condition::classes(labels.as_deref()), None);
            let largest = output.into_data().iter::<f32>().fold(0.0, |largest: f32, value| match value.is_finite() {
                true => largest.max(value.abs()),
                false => f32::INFINITY,
            });
            if largest > MOST_OUTPUT {
                return Ok(Some(format!(
                    "{what} is not usable: its outputs are of the order of 1 in a sound one, not {largest:e}"
                )));
            }
        }
        Ok(None)
    }

    /// The decay of the averages at the next step. With warm-up the first ones are short, so that short runs do not
    /// average in the initial parameters.
    fn ema_decay(&self) -> f64 {
        let n = self.state.updates as f64;
        let train = &self.config.train;
        if let Some(half_life) = train.ema_half_life {
            // As in NVlabs/edm: the first update takes the parameters as they are.
            let images = (train.batch_size * train.gradient_accumulation) as f64;
            return 0.5f64.powf(images / half_life.min(n * images * train.ema_rampup).max(1e-8));
        }
        if train.ema_warmup { train.ema_decay.min((1.0 + n) / (10.0 + n)) } else { train.ema_decay }
    }

    /// Draws t and ε for the images of a batch. They depend on the seed, the step and the image's place in the global
    /// batch.
    pub fn noised(&self, batch: &Batch) -> NoisedBatch {
        let Batch { images, augment_labels, first, global_size } = batch;
        let (random, step) = (self.random(), self.state.step);
        let total = self.objective.process().schedule.len();
        let distribution = self.state.importance.as_ref().map(LossSecondMoment::distribution);
        let shared = random.uniform(Stream::Timestep, 0, step);
        let drawn = (*first..first + images.n).map(|place| {
            let u = || random.uniform(Stream::Timestep, place as u64, step);
            match (&distribution, &self.log_normal, self.config.diffusion.timestep_sampler) {
                (Some(distribution), ..) => distribution.sample(u()),
                (None, Some(distribution), _) => (distribution.draw(u()), 1.0),
                (None, None, TimestepSampler::LowDiscrepancy) => {
                    (timestep_sampler::low_discrepancy(shared, place, *global_size, total), 1.0)
                }
                (None, None, _) => (timestep_sampler::uniform(u(), total), 1.0),
            }
        });
        let (timesteps, importance) = drawn.unzip();
        let mut epsilon = vec![0.0; images.pixels.len()];
        let size = (epsilon.len() / images.n.max(1)).max(1);
        let is_of_bits = self.objective.is_of_bits();
        epsilon.par_chunks_mut(size).enumerate().for_each(|(i, image)| match is_of_bits {
            true => random.uniforms(Stream::Noise, (first + i) as u64, step, image),
            false => random.normals(Stream::Noise, (first + i) as u64, step, image),
        });
        let offset = self.config.diffusion.offset_noise as f32;
        if offset > 0.0 {
            let mut offsets = vec![0.0; images.channels];
            for (i, image) in epsilon.chunks_mut(size).enumerate() {
                random.normals(Stream::OffsetNoise, (first + i) as u64, step, &mut offsets);
                let channels = image.iter_mut().zip(offsets.iter().cycle());
                channels.for_each(|(epsilon, z)| *epsilon += offset * z);
            }
        }
        let (images, augment_labels) = (images.clone(), augment_labels.clone());
        let images = if is_of_bits { images.binarized() } else { images };
        NoisedBatch { images, augment_labels, epsilon, timesteps, importance, first: *first }
    }

    /// Does one step on a batch. If the loss or the gradient is not finite, the parameters are not updated.
    ///
    /// # Errors
    /// If the batch does not fit the network, is not made of whole passes of `train.batch_size` images, or is not the part
    /// of this process.
    pub fn step(&mut self, batch: &Batch) -> Result<StepReport, Error> {
        let done = self.step_unless(batch, &mut || false)?;
        done.ok_or_else(|| Error::Run("another process gave up the step".into()))
    }

    /// Does one step, unless it is given up: `stop` is called before each pass, and if it returns true on any process, the
    /// step is undone on all of them and the result is `None`.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn step_unless(&mut self, batch: &Batch, stop: &mut dyn FnMut() -> bool) -> Result<Option<StepReport>, Error> {
        let size = self.config.train.batch_size;
        let passes = batch.global_size / size.max(1);
        let own = tree::share(passes, self.communicator.rank(), self.communicator.size());
        check_divided(batch, size, &own)?;
        let noised = self.noised(batch);
        let mut losses = Vec::new();
        let mut leaf = |pass: usize, observer: Option<&GradientObserver>| {
            let stopping = stop();
            let is_last = pass + 1 == own.end;
            // All processes decide once in a step.
            if (stopping || is_last) && self.any(stopping)? {
                return Err(None);
            }
            let part = noised.slice((pass - own.start) * size, size);
            let pass = self.pass(&part, observer)?;
            losses.push(f64::from(pass.mean));
            for ((&t, &loss), &weighted) in part.timesteps.iter().zip(&pass.each).zip(&pass.weighted) {
                losses.extend([t as f64, loss.into(), weighted.into()]);
            }
            Ok(pass.gradients)
        };
        let (gradients, reduction_seconds) = match self.sum_gradients(passes, &own, &mut leaf) {
            Ok(sum) => sum,
            Err(None) => return Ok(None),
            Err(Some(error)) => return Err(error),
        };
        self.reduction_seconds = reduction_seconds;
        let losses = GlobalLosses::gather(&*self.communicator, &losses, size)?;

        let loss = losses.means.iter().fold(0.0, |sum, mean| sum + mean / passes as f64);
        let gradient_norm = global_norm(&gradients) / passes as f64;
        let learning_rate = self.learning_rate();
        let updated = loss.is_finite() && gradient_norm.is_finite();
        if updated {
            let clip = self.config.train.grad_clip;
            // As in torch.nn.utils.clip_grad_norm_; 0 disables clipping.
            let clipped = if clip > 0.0 { (clip / (gradient_norm + 1e-6)).min(1.0) } else { 1.0 };
            let step = AdamStep {
                learning_rate,
                beta1: self.config.train.beta1,
                beta2: self.config.train.beta2,
                epsilon: self.config.train.adam_eps,
                step: self.state.updates + 1,
                gradient_scale: clipped / passes as f64,
                ema_decay: self.ema_decay(),
                weight_decay: self.config.train.weight_decay,
            };
            self.network.map_parameters(self.optimizer.update(gradients, step));
            self.state.updates += 1;
            self.power_ema.update(&self.network, self.state.updates)?;
            self.state.skipped_in_a_row = 0;
        } else {
            self.state.skipped += 1;
            self.state.skipped_in_a_row += 1;
        }
        if let Some(importance) = &mut self.state.importance {
            for &[t, _, weighted] in &losses.images {
                importance.update(t as usize, weighted)?;
            }
        }
        self.state.step += 1;
        let losses = losses.images.iter().map(|&[t, loss, _]| (t as usize, loss)).collect();
        Ok(Some(StepReport { step: self.state.step, loss, losses, gradient_norm, learning_rate, updated }))
    }

    /// Sums the gradients of all passes; those of the last pass of this process are sent while it is computed. Also returns
    /// the seconds that it waited for the sum after that pass.
    fn sum_gradients(
        &self,
        passes: usize,
        own: &Range<usize>,
        leaf: &mut impl FnMut(usize, Option<&GradientObserver>) -> Result<Gradients, Option<Error>>,
    ) -> Result<(Gradients, f64), Option<Error>> {
        let subtrees = tree::subtrees(passes, own);
        let mut sum = |node: Range<usize>| tree::reduce(node, &mut |pass| leaf(pass, None), &mut add);
        if self.communicator.size() == 1 {
            return Ok((sum(0..passes)?, 0.0));
        }
        let Some((last, others)) = subtrees.split_last() else { return Ok((Vec::new(), 0.0)) };
        let (lefts, last) = tree::path_to_last(last.clone());
        let others = others.iter().cloned().map(&mut sum).collect::<Result<_, _>>()?;
        let lefts = lefts.into_iter().map(sum).collect::<Result<_, _>>()?;
        let lengths = self.network.flat_parameters().iter().map(|flat| flat.values.dims()[0]).collect();
        let reduction = Reduction::new(self.communicator.clone(), passes, others, lefts, lengths);
        let rest = leaf(last, Some(&reduction.observer()))?;
        let start = Instant::now();
        let gradients = reduction.finish(rest, &self.network.device())?;
        Ok((gradients, start.elapsed().as_secs_f64()))
    }

    /// Returns whether something is true on any process.
    fn any(&self, here: bool) -> Result<bool, Error> {
        Ok(self.communicator.all_gather(&[here.into()])?.concat().contains(&1))
    }

    /// Gives all processes the parameters, the optimizer and the state of process 0.
    ///
    /// # Errors
    /// If a process cannot be reached, or has another network.
    pub(crate) fn share(&mut self) -> Result<(), Error> {
        let communicator = self.communicator.clone();
        if communicator.size() == 1 {
            return Ok(());
        }
        let broadcast = |values: Vec<Tensor<1>>| -> Result<Vec<Tensor<1>>, Error> {
            let bytes = if communicator.is_root() {
                values
                    .iter()
                    .flat_map(|v| v.to_data().iter::<f32>().collect::<Vec<_>>())
                    .flat_map(f32::to_le_bytes)
                    .collect()
            } else {
                Vec::new()
            };
            let bytes = communicator.broadcast(bytes)?;
            let mut numbers = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
            let read = |old: &Tensor<1>| {
                let new: Vec<f32> = numbers.by_ref().take(old.dims()[0]).collect();
                if new.len() != old.dims()[0] {
                    return Err(Error::Run("process 0 has another network".into()));
                }
                Ok(Tensor::from_data(new.as_slice(), &old.device()))
            };
            values.iter().map(read).collect()
        };
        let parameters = self.network.flat_parameters().into_iter().map(|flat| flat.values).collect();
        let mut parameters = broadcast(parameters)?.into_iter();
        self.network.map_parameters(|_, old| parameters.next().unwrap_or(old));
        let [moments1, moments2, averages] = self.optimizer.values();
        self.optimizer = Optimizer::from_values([broadcast(moments1)?, broadcast(moments2)?, broadcast(averages)?]);
        for values in self.power_ema.values_mut() {
            *values = broadcast(std::mem::take(values))?;
        }
        let state = communicator.broadcast(serde_json::to_vec(&self.state).map_err(unreadable)?)?;
        self.state = serde_json::from_slice(&state).map_err(unreadable)?;
        Ok(())
    }

    /// Computes losses and gradients of one pass.
    fn pass(&self, noised: &NoisedBatch, observer: Option<&GradientObserver>) -> Result<Pass, Error> {
        let augment_labels = (!noised.augment_labels.is_empty()).then_some(&*noised.augment_labels);
        let condition = Condition { augment_labels, ..Condition::classes(noised.images.labels.as_deref()) };
        self.network.check(noised.images.shape(), condition)?;
        let x_t = self.objective.q_sample(noised).tensor(&self.device);
        let process = self.objective.process();
        let nodes = process.nodes(&noised.timesteps);
        let (x, c_noise) = process.inputs(x_t.clone(), &nodes)?;
        let dropout = Dropout { random: self.random(), step: self.state.step, first_image: noised.first as u64 };
        let prediction = match self.predicts_first() {
            true => {
                let output = self.network.valid().forward(x.clone().inner(), &c_noise, condition, Some(&dropout));
                Some(Tensor::from_inner(process.denoised(x_t.clone().inner(), &nodes, output)?.sample()))
            }
            false => None,
        };
        let condition = Condition { prediction: prediction.as_ref(), ..condition };
        let inputs = Inputs {
            x,
            c_noise: &c_noise,
            condition,
            dropout: Some(&dropout),
            checkpointing: self.config.train.gradient_checkpointing,
            observer,
        };
        let mut terms = None;
        let gradients = self
            .network
            .gradients(inputs, &mut |output| terms.insert(self.objective.loss(output, &x_t, noised)).mean.clone());
        let Some(terms) = terms else {
            return Err(Error::Run("the network's `gradients` did not compute the loss".into()));
        };
        // They are read at once, because each reading waits for a GPU.
        let n = noised.images.n;
        let numbers = Tensor::cat(vec![terms.each, terms.weighted, terms.mean.inner()], 0).into_data();
        let numbers: Vec<f32> = numbers.iter::<f32>().collect();
        let (each, weighted) = (numbers[..n].to_vec(), numbers[n..2 * n].to_vec());
        Ok(Pass { mean: numbers[2 * n], each, weighted, gradients })
    }
}

impl Trainer {
    /// Returns whether the step first computes a prediction of x_0, without gradients, and gives it to the network: half of the
    /// steps of a network with self-conditioning (Chen et al. 2022, arXiv 2208.04202, algorithm 1).
    fn predicts_first(&self) -> bool {
        let mut coin = [1.0];
        if self.network.signature().takes_prediction {
            self.random().uniforms(Stream::SelfCondition, 0, self.state.step, &mut coin);
        }
        coin[0] < 0.5
    }
}

impl GlobalLosses {
    /// Gathers the losses of all processes: for each pass its mean, then three numbers for each of its `size` images.
    fn gather(communicator: &dyn Communicator, own: &[f64], size: usize) -> Result<Self, Error> {
        let all = communicator.all_gather_f64(own)?;
        let passes = || all.chunks_exact(1 + 3 * size);
        Ok(Self {
            means: passes().map(|pass| pass[0]).collect(),
            images: passes().flat_map(|pass| pass[1..].as_chunks::<3>().0).copied().collect(),
        })
    }
}

fn unreadable(error: serde_json::Error) -> Error {
    Error::Run(format!("the state of training cannot be sent: {error}"))
}

/// Checks that a batch is made of whole passes, and has those of this process.
fn check_divided(batch: &Batch, size: usize, passes: &Range<usize>) -> Result<(), Error> {
    let Batch { images, first, global_size, .. } = batch;
    let last = first + images.n;
    if images.n > 0 && global_size.is_multiple_of(size) && (*first..last) == (passes.start * size..passes.end * size) {
        return Ok(());
    }
    Err(Error::Run(format!(
        "the images {first} to {last} of a batch of {global_size} are not the passes {} to {} of `train.batch_size` = {size} \
         images each",
        passes.start, passes.end
    )))
}

#[cfg(test)]
mod tests {
    use mpi::Threads;

    use super::*;
    use crate::data_loader::DataLoader;

    fn config(sets: &[&str]) -> TrainingConfig {
        let tiny = [
            "data.resolution=8",
            "data.labels=true",
            "data.flip=true",
            "model.block_out_channels=[8, 8]",
            "model.norm_num_groups=4",
            "model.attention_resolutions=[]",
            "model.dropout=0.1",
            "diffusion.timesteps=50",
            "sample.steps=3",
            "train.batch_size=4",
            "train.gradient_accumulation=2",
            "train.label_dropout=0.25",
        ];
        let mut config = TrainingConfig::preset("fashion-ho").unwrap();
        tiny.iter().chain(sets).for_each(|set| config.set(set).unwrap());
        config.validate().unwrap();
        config
    }

    fn loader(config: &TrainingConfig) -> DataLoader {
        let set = Arc::new(config.open(data::Split::Test).unwrap());
        let size = config.train.batch_size * config.train.gradient_accumulation;
        let loader = DataLoader::new(set, Random::new(config.train.seed), size);
        DataLoader { flip: true, labels: true, label_dropout: config.train.label_dropout, ..loader }
    }

    fn trainer(config: &TrainingConfig, loader: &DataLoader) -> Trainer {
        let network = config.network(&loader.set).unwrap();
        Trainer::new(config, network.build(0, &Device::flex().autodiff()).unwrap()).unwrap()
    }

    /// Checks ε and each rule that draws t, for the two halves of a batch against the whole.
    #[test]
    fn parts_of_a_batch_have_the_timesteps_and_noise_of_the_whole_batch() {
        for sampler in ["uniform", "low_discrepancy", "importance", "log_normal"] {
            let config = config(&[&format!("diffusion.timestep_sampler={sampler}")]);
            let whole = loader(&config);
            let trainer = trainer(&config, &whole);
            let batch = |range| DataLoader { range, ..whole.clone() }.batch(0).unwrap();
            let expected = trainer.noised(&batch(0..8));
            let halves = [0..4, 4..8].map(|range| trainer.noised(&batch(range)));
            let join = |each: fn(&NoisedBatch) -> Vec<f64>| halves.iter().flat_map(each).collect::<Vec<f64>>();
            let all: [fn(&NoisedBatch) -> Vec<f64>; 5] = [
                |noised| noised.timesteps.iter().map(|&t| t as f64).collect(),
                |noised| noised.epsilon.iter().map(|&e| e.into()).collect(),
                |noised| noised.images.pixels.iter().map(|&x| x.into()).collect(),
                |noised| noised.images.labels.iter().flatten().map(|&label| label.into()).collect(),
                |noised| noised.importance.clone(),
            ];
            for each in all {
                assert_eq!(join(each), each(&expected), "{sampler}");
            }
        }
    }

    /// Losses, parameters, optimizer and state, to the bit; also with a number of passes that no number of processes divides.
    #[test]
    fn any_number_of_processes_gives_the_same_bytes() {
        let config = config(&["diffusion.timestep_sampler=importance", "train.gradient_accumulation=5"]);
        let loader = &loader(&config);
        let steps = |mut trainer: Trainer| {
            let mut losses = Vec::new();
            let (rank, size) = (trainer.communicator.rank(), trainer.communicator.size());
            let own = tree::share(5, rank, size);
            for step in 0..3 {
                let range = 4 * own.start..4 * own.end;
                let batch = DataLoader { range, ..loader.clone() }.batch(step).unwrap();
                let report = trainer.step(&batch).unwrap();
                assert!(report.updated);
                losses.push((report.loss, report.losses, report.gradient_norm));
            }
            let moments = trainer.optimizer.tensors(&trainer.network).unwrap();
            (losses, trainer.network().tensors().unwrap(), moments, trainer.state().clone())
        };
        let expected = steps(trainer(&config, loader));
        for size in [1, 2, 3, 5] {
            let found =
                Threads::run(size, |threads| steps(trainer(&config, loader).with_communicator(Arc::new(threads))));
            assert!(found.iter().all(|found| *found == expected), "{size}");
        }
    }

    #[test]
    fn a_step_that_one_process_gives_up_changes_nothing_and_can_be_done_later() {
        let config = config(&[]);
        let loader = &loader(&config);
        let expected = {
            let mut trainer = trainer(&config, loader);
            trainer.step(&loader.batch(0).unwrap()).unwrap();
            trainer.network().tensors().unwrap()
        };
        let found = Threads::run(2, |threads| {
            let rank = threads.rank();
            let mut trainer = trainer(&config, loader).with_communicator(Arc::new(threads));
            let before = trainer.network().tensors().unwrap();
            let batch = DataLoader { range: 4 * rank..4 * rank + 4, ..loader.clone() }.batch(0).unwrap();
            assert!(trainer.step_unless(&batch, &mut || rank == 1).unwrap().is_none());
            assert_eq!((trainer.network().tensors().unwrap(), trainer.state().step), (before, 0));
            trainer.step(&batch).unwrap();
            trainer.network().tensors().unwrap()
        });
        assert!(found.iter().all(|found| *found == expected));
    }

    #[test]
    fn processes_get_the_state_of_the_first_one() {
        let config = config(&["diffusion.timestep_sampler=importance"]);
        let loader = &loader(&config);
        let found = Threads::run(2, |threads| {
            let rank = threads.rank();
            let mut trainer = trainer(&config, loader);
            if rank == 0 {
                trainer.step(&loader.batch(0).unwrap()).unwrap();
            }
            let mut trainer = trainer.with_communicator(Arc::new(threads));
            trainer.share().unwrap();
            let moments = trainer.optimizer.tensors(&trainer.network).unwrap();
            let averages = trainer.averaged().tensors().unwrap();
            (trainer.network().tensors().unwrap(), averages, moments, trainer.state().clone())
        });
        assert_eq!(found[0].3.step, 1);
        assert!(found[0] == found[1]);
    }

    #[test]
    fn batches_that_do_not_fit_are_errors() {
        let config = config(&[]);
        let loader = loader(&config);
        let mut trainer = trainer(&config, &loader);
        let images = loader.batch(0).unwrap().images;
        let error = trainer.step(&Batch::whole(images.slice(0, 6))).unwrap_err().to_string();
        assert!(error.contains("`train.batch_size` = 4"), "{error}");
        let beyond = Batch { first: 8, global_size: 8, ..Batch::whole(images.slice(0, 4)) };
        assert!(trainer.step(&beyond).is_err());
        let unlabelled = images.slice(0, 4).with_labels(None);
        assert!(trainer.step(&Batch::whole(unlabelled)).is_err());
        assert_eq!(trainer.state().step, 0);
        trainer.step(&Batch::whole(images.slice(0, 4))).unwrap();
        assert_eq!(trainer.state().step, 1);
    }
}
