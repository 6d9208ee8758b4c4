//! How fast this machine trains and samples a network.

use std::time::Instant;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use data::Split;
use diffusion::sampler_t::LossSecondMoment;
use serde::Serialize;
use train::checkpoint::State;
use train::config::{Config, TimestepSampler};
use train::optimizer::Optimizer;
use train::trainer::Trainer;
use unet::{Labels, Unet};

/// What was measured. Times are medians.
#[derive(Clone, Debug, Serialize)]
pub struct Speed {
    /// Parameters of the network.
    pub parameters: usize,
    /// Images of a step, and of a forward pass.
    pub batch: usize,
    /// Threads on the CPU.
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
    /// Hours of the configuration's whole training run at that speed.
    pub full_run_h: f64,
    /// The most memory that the process held while it trained, where the system tells.
    pub peak_bytes: Option<u64>,
}

/// Measures a configuration's network: `runs` times after `warmup` unmeasured ones.
///
/// # Errors
/// If the configuration does not describe a network.
pub fn bench(
    config: &Config,
    batch: usize,
    warmup: usize,
    runs: usize,
    device: &Device,
) -> Result<Speed, train::Error> {
    // A whole run sees so many images, whatever the batch that is measured.
    let run_images = config.train.steps * config.train.batch_size * config.train.gradient_accumulation;
    let mut config = config.clone();
    config.train.batch_size = batch;
    config.train.gradient_accumulation = 1;
    // The built-in images, brought to the preset's size: what they show does not matter to the clock.
    config.data.path = None;
    config.data.labels = false;
    let set = config.open(Split::Train)?;
    let autodiff = device.clone().autodiff();
    let unet = Unet::new(&config.network(&set)?, 0, &autodiff)?;
    let image = [set.height(), set.width(), set.channels()];
    let importance = match config.diffusion.timestep_sampler {
        TimestepSampler::Importance => Some(LossSecondMoment::new(config.diffusion.timesteps)?),
        _ => None,
    };
    let state = State { importance, ..State::default() };
    let parameters = unet.config().parameter_count();
    let trainer = Trainer {
        optimizer: Optimizer::new(&unet),
        unet,
        objective: config.objective()?,
        state,
        image,
        config: config.clone(),
        device: autodiff,
    };
    let size: usize = image.iter().product();
    let mut pixels = vec![0; batch * size];
    set.read(&(0..batch).map(|i| i % set.len()).collect::<Vec<_>>(), &mut pixels)?;
    let x0: Vec<f32> = pixels.iter().map(|&u| f32::from(u) / 127.5 - 1.0).collect();

    let images = train::Batch { x0: x0.clone(), labels: None };
    let mut failure = None;
    let mut slot = Some(trainer);
    let train_step_s = median(warmup, runs, || {
        if let Some(current) = slot.take() {
            match current.step(&images) {
                Ok((next, _)) => slot = Some(next),
                Err(error) => failure = Some(error),
            }
        }
    });
    if let Some(error) = failure {
        return Err(error);
    }
    // Before the forward passes, which keep filters in a form of their own.
    let peak_bytes = peak_bytes();

    let Some(trainer) = slot else {
        return Err(train::Error::Run("the benchmark lost its network".into()));
    };
    let inference = trainer.unet.valid();
    drop(trainer);
    let x = Tensor::<4>::from_data(TensorData::new(x0.clone(), [batch, image[0], image[1], image[2]]), device);
    let timesteps: Vec<f32> = (0..batch).map(|i| (i * 61 % config.diffusion.timesteps) as f32).collect();
    let forward_s = median(warmup, runs, || {
        // Reading a value waits for the device.
        inference.forward(x.clone(), &timesteps, None::<Labels>, None).slice([0..1, 0..1, 0..1, 0..1]).into_data();
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
    })
}

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

/// The peak of the resident set, as Linux counts it.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(1024 * kilobytes)
}
