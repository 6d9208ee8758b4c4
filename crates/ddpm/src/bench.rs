//! Benchmarks: how fast this machine trains and samples a network, and where the time goes.

use std::sync::Arc;
use std::time::Instant;

use burn::tensor::Device;
use data::Split;
use model::{Condition, Images};
use mpi::{Communicator, SingleProcess, tree};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use train::{Batch, Trainer, TrainingConfig};

use crate::scaling::{Measured, Network, ScalingError, Workload, fit};

/// Measured speeds. Times are medians.
#[derive(Clone, Debug, Serialize)]
pub struct Speed {
    /// The number of parameters of the network.
    pub parameters: usize,
    /// Images of a step, and of a forward pass.
    pub batch: usize,
    /// The number of CPU threads.
    pub threads: usize,
    /// Seconds of a training step: forward, backward, clip, Adam and average.
    pub train_step_s: f64,
    /// Seconds of a forward pass without gradient.
    pub forward_s: f64,
    /// Training speed.
    pub train_images_s: f64,
    /// Sampling speed with the configuration's sampler.
    pub sample_images_s: f64,
    /// Network evaluations of that sampler.
    pub sample_steps: usize,
    /// Hours of the configuration's complete training run at that speed.
    pub full_run_h: f64,
    /// Peak memory of the process while it trained, where the system reports it.
    pub peak_bytes: Option<u64>,
    /// On the CPU, the time of each operation beside the machine's limits.
    pub account: Option<SpeedProfile>,
}

/// The time of each operation of a training step and of a forward pass.
#[derive(Clone, Debug, Serialize)]
pub struct SpeedProfile {
    /// 10⁹ f32 operations a second in a plain matrix product of 1536³, the highest speed that our code reaches.
    pub product_gflops: f64,
    /// 10⁹ bytes a second, read and written, in a plain copy of 256 MiB.
    pub copy_gbs: f64,
    /// A training step.
    pub train_step: Vec<OperationTime>,
    /// A forward pass.
    pub forward: Vec<OperationTime>,
}

/// The time of one operation in a step.
#[derive(Clone, Debug, Serialize)]
pub struct OperationTime {
    /// The operation; the last is everything outside the kernels.
    pub operation: String,
    /// Calls in a step.
    pub calls: f64,
    /// Seconds of a step.
    pub seconds: f64,
    /// Part of the step's time.
    pub share: f64,
    /// 10⁹ operations a second; a convolution's are counted as the direct one's.
    pub gflops: f64,
    /// 10⁹ bytes a second that had to be moved.
    pub gbs: f64,
    /// The greater of its operations at the plain product's speed and its bytes at the plain copy's, over its time.
    /// More than 1 is possible: Winograd's convolution does fewer operations, and caches are faster than memory.
    pub of_limit: f64,
}

impl SpeedProfile {
    /// Returns a training step's direct operations over its time, as a share of the plain product's speed.
    pub fn share_of_peak(&self) -> f64 {
        self.train_step.iter().map(|share| share.share * share.gflops).sum::<f64>() / self.product_gflops
    }
}

/// Runs `step` several times under the profiler.
fn operations(runs: usize, (product_gflops, copy_gbs): (f64, f64), mut step: impl FnMut()) -> Vec<OperationTime> {
    kernels::start_profile();
    let start = Instant::now();
    (0..runs).for_each(|_| step());
    let total = start.elapsed().as_secs_f64();
    let entries = kernels::stop_profile();
    let inside: f64 = entries.iter().map(|entry| entry.seconds).sum();
    let per_run = |x: f64| x / runs as f64;
    let mut shares: Vec<OperationTime> = entries
        .into_iter()
        .map(|entry| {
            let (gflops, gbs) = (entry.flop / entry.seconds / 1e9, entry.bytes / entry.seconds / 1e9);
            OperationTime {
                operation: entry.operation,
                calls: per_run(entry.calls as f64),
                seconds: per_run(entry.seconds),
                share: entry.seconds / total,
                gflops,
                gbs,
                of_limit: (gflops / product_gflops).max(gbs / copy_gbs),
            }
        })
        .collect();
    let rest = total - inside;
    let operation = "everything else".to_string();
    let [calls, gflops, gbs, of_limit] = [0.0; 4];
    shares.push(OperationTime { operation, calls, seconds: per_run(rest), share: rest / total, gflops, gbs, of_limit });
    shares
}

/// Returns the shortest time of some runs, for the limits of a machine.
fn least(mut run: impl FnMut()) -> f64 {
    let times = (0..12).map(|_| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    });
    times.fold(f64::INFINITY, f64::min)
}

fn product_gflops() -> f64 {
    const SIDE: usize = 1536;
    let (a, b, mut c) = (vec![0.5; SIDE * SIDE], vec![0.25; SIDE * SIDE], vec![0.0; SIDE * SIDE]);
    let shape = kernels::MatMulShape::new(SIDE, SIDE, SIDE);
    2e-9 * (SIDE as f64).powi(3) / least(|| kernels::matmul(&shape, [&a, &b], None, &mut c))
}

fn copy_gbs() -> f64 {
    const FLOATS: usize = 64 << 20;
    let (from, mut to) = (vec![1.0f32; FLOATS], vec![0.0f32; FLOATS]);
    let part = FLOATS / (8 * rayon::current_num_threads());
    let copy = || to.par_chunks_mut(part).zip(from.par_chunks(part)).for_each(|(to, from)| to.copy_from_slice(from));
    8e-9 * FLOATS as f64 / least(copy)
}

/// Options of a benchmark: the measurements, and their number.
#[derive(Clone, Copy, Debug)]
pub struct BenchOptions {
    /// Images of a pass.
    pub batch: usize,
    /// Passes of a training step, which the processes of [`bench_training`] divide.
    pub passes: usize,
    /// Unmeasured repetitions first.
    pub warmup: usize,
    /// Measured repetitions, of which the median is taken.
    pub runs: usize,
}

/// Measures the training and sampling speed of a configuration's network, with steps of one pass.
///
/// # Errors
/// If the configuration does not describe a network.
pub fn bench(config: &TrainingConfig, options: BenchOptions, device: &Device) -> Result<Speed, train::Error> {
    let BenchOptions { batch, warmup, runs, .. } = options;
    // A complete run trains on this many images, whatever the batch that is measured.
    let run_images = config.train.steps * config.train.batch_size * config.train.gradient_accumulation;
    let mut config = config.clone();
    config.train.batch_size = batch;
    config.train.gradient_accumulation = 1;
    // The built-in images, resized: their content does not matter to the clock.
    config.data.path = None;
    config.data.labels = false;
    let set = config.open(Split::Train)?;
    let network = config.network(&set)?.build(0, &device.clone().autodiff())?;
    let parameters = network.parameter_count();
    let mut trainer = Trainer::new(&config, network)?;
    let indices: Vec<usize> = (0..batch).map(|i| i % set.len()).collect();
    let images = Images::read(&set, &indices)?.with_labels(None);
    let batch_of_images = Batch::whole(images.clone());

    let limits_apply = unet::ops::is_cpu(device);
    let mut failure = None;
    let mut step = || {
        if let Err(error) = trainer.step(&batch_of_images) {
            failure.get_or_insert(error);
        }
    };
    // The first steps also allocate memory for activations of every size.
    let train_step_s = median(warmup + 4, runs, &mut step);
    // Before the forward passes, which keep packed filters.
    let peak_bytes = files::peak_memory();
    let limits = limits_apply.then(|| (product_gflops(), copy_gbs()));
    let train_step = limits.map(|limits| operations(runs, limits, &mut step));
    if let Some(error) = failure {
        return Err(error);
    }
    let inference = trainer.network().valid();
    drop(trainer);
    let x = images.tensor(device);
    let timesteps: Vec<f32> = (0..batch).map(|i| (i * 61 % config.diffusion.timesteps) as f32).collect();
    let mut forward = || {
        // Reading a value waits for the device.
        let y = inference.forward(x.clone(), &timesteps, Condition::default(), None);
        y.slice([0..1, 0..1, 0..1, 0..1]).into_data();
    };
    let forward_s = median(warmup, runs, &mut forward);
    let profile = limits.zip(train_step).map(|(limits, train_step)| SpeedProfile {
        product_gflops: limits.0,
        copy_gbs: limits.1,
        train_step,
        forward: operations(runs, limits, &mut forward),
    });

    let sample_steps = config.sample.steps.unwrap_or(config.diffusion.timesteps);
    let train_images_s = batch as f64 / train_step_s;
    Ok(Speed {
        parameters,
        batch,
        threads: rayon::current_num_threads(),
        train_step_s,
        forward_s,
        train_images_s,
        sample_images_s: batch as f64 / (forward_s * sample_steps as f64),
        sample_steps,
        full_run_h: run_images as f64 / train_images_s / 3600.0,
        peak_bytes,
        account: profile,
    })
}

/// The measured speed of training on several ranks. Times are medians, the same on all ranks.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct TrainingSpeed {
    /// The number of parameters of the network.
    pub parameters: usize,
    /// The number of ranks.
    pub ranks: usize,
    /// CPU threads of each rank.
    pub threads: usize,
    /// Cores of the machine.
    pub cores: usize,
    /// Passes of a step, on all ranks together.
    pub passes: usize,
    /// Images of a step, on all ranks together.
    pub batch: usize,
    /// Seconds of a step.
    pub train_step_s: f64,
    /// The part of a step in which a rank waits for gradients of others after its own backward pass, least of all ranks.
    pub reduction_s: f64,
    /// Images of all ranks per second.
    pub train_images_s: f64,
    /// Peak memory of this rank.
    pub peak_bytes: Option<u64>,
}

/// Measures training steps, whose passes the processes divide.
///
/// # Errors
/// If the configuration does not describe a network, there are more processes than passes, or one cannot be reached.
pub fn bench_training(
    config: &TrainingConfig,
    options: BenchOptions,
    device: &Device,
    communicator: Arc<dyn Communicator>,
) -> Result<TrainingSpeed, train::Error> {
    let BenchOptions { batch, passes, warmup, runs } = options;
    let (ranks, own) = (communicator.size(), tree::share(passes, communicator.rank(), communicator.size()));
    let mut config = config.clone();
    (config.train.batch_size, config.train.gradient_accumulation) = (batch, passes);
    config.check_processes(&*communicator)?;
    // The built-in images, resized: their content does not matter to the clock.
    config.data.path = None;
    config.data.labels = false;
    let set = config.open(Split::Train)?;
    let network = config.network(&set)?.build(0, &device.clone().autodiff())?;
    let parameters = network.parameter_count();
    let mut trainer = Trainer::new(&config, network)?.with_communicator(communicator.clone());
    let indices: Vec<usize> = (own.start * batch..own.end * batch).map(|i| i % set.len()).collect();
    let images = Images::read(&set, &indices)?.with_labels(None);
    let part = Batch { first: own.start * batch, global_size: passes * batch, ..Batch::whole(images) };
    let mut times = Vec::new();
    for run in 0..warmup + runs {
        communicator.barrier()?;
        let start = Instant::now();
        trainer.step(&part)?;
        let time = [start.elapsed().as_secs_f64(), trainer.reduction_seconds()];
        // The slowest rank makes the step, the one that others wait for knows the reduction itself.
        let all = communicator.all_gather_f64(&time)?;
        if run >= warmup {
            let of = |i: usize| all.iter().skip(i).step_by(2).copied();
            times.push([of(0).fold(0.0, f64::max), of(1).fold(f64::INFINITY, f64::min)]);
        }
    }
    let middle = |i: usize| {
        let mut values: Vec<f64> = times.iter().map(|time| time[i]).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let (train_step_s, reduction_s) = (middle(0), if ranks > 1 { middle(1) } else { 0.0 });
    Ok(TrainingSpeed {
        parameters,
        ranks,
        threads: rayon::current_num_threads(),
        cores: cores(),
        passes,
        batch: passes * batch,
        train_step_s,
        reduction_s,
        train_images_s: (passes * batch) as f64 / train_step_s,
        peak_bytes: files::peak_memory(),
    })
}

/// Measures a workload on this machine, to predict more ranks: steps of one and of three passes on one rank, and the speed of
/// copies.
///
/// # Errors
/// As [`bench_training`].
pub fn workload(config: &TrainingConfig, options: BenchOptions, device: &Device) -> Result<Workload, train::Error> {
    let alone: Arc<dyn Communicator> = Arc::new(SingleProcess);
    let measure = |passes| bench_training(config, BenchOptions { passes, ..options }, device, alone.clone());
    let (one, three) = (measure(1)?, measure(3)?);
    // In three passes, two sums of gradients are made too, as on a rank of several passes.
    let pass_s = (three.train_step_s - one.train_step_s) / 2.0;
    Ok(Workload {
        parameters: one.parameters,
        passes: options.passes,
        images_per_pass: options.batch,
        pass_s,
        fixed_s: (one.train_step_s - pass_s).max(0.0),
        input_s: 0.0,
        checkpoint_every: config.train.checkpoint_every,
        disk_bytes_per_s: DISK,
        jitter: JITTER,
        ranks_per_node: 1,
        threads_per_rank: one.threads,
        cores_per_node: one.cores.max(one.threads),
        host_bytes_per_s: 1e9 * copy_gbs(),
        overlap: true,
    })
}

/// Fits a workload to measurements of one and of two ranks of one machine, or more, and the bandwidth between its ranks.
///
/// # Errors
/// If the measurements do not determine them.
pub fn fitted_workload(measured: &[TrainingSpeed]) -> Result<(Workload, Network), ScalingError> {
    let first = measured.first().copied().unwrap_or_default();
    let workload = Workload {
        parameters: first.parameters,
        passes: first.passes,
        images_per_pass: first.batch / first.passes.max(1),
        pass_s: 0.0,
        fixed_s: 0.0,
        input_s: 0.0,
        checkpoint_every: 0,
        disk_bytes_per_s: DISK,
        jitter: 0.0,
        ranks_per_node: usize::MAX,
        threads_per_rank: first.threads,
        cores_per_node: first.cores,
        // Copies and sums are part of the bandwidth that is fitted.
        host_bytes_per_s: f64::INFINITY,
        overlap: false,
    };
    let [.., shared_memory] = Network::presets();
    let one = |speed: &TrainingSpeed| Measured {
        ranks: speed.ranks,
        threads_per_rank: speed.threads,
        cores: speed.cores,
        passes: speed.passes,
        step_s: speed.train_step_s,
        reduction_s: speed.reduction_s,
    };
    fit(&workload, &shared_memory, &measured.iter().map(one).collect::<Vec<_>>())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Bytes per second of writing a checkpoint: a shared file system that is not idle.
const DISK: f64 = 0.5e9;
/// The variation of a rank's compute time, relative to its mean, on a quiet machine.
const JITTER: f64 = 0.01;

fn median(warmup: usize, runs: usize, mut run: impl FnMut()) -> f64 {
    for _ in 0..warmup {
        run();
    }
    let mut times: Vec<f64> = (0..runs.max(1))
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
