//! A set of small images, and a small training configuration.
#![allow(dead_code, reason = "each test file uses some of it")]

use std::fs::File;
use std::path::Path;

use burn::tensor::Device;
use ddpm_train::{Trainer, TrainingConfig};

/// T of [`config`].
pub const TIMESTEPS: usize = 20;

/// Bytes that look random.
pub fn bytes(count: usize) -> Vec<u8> {
    (0..count as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// Writes an `.npz` of `n` images `[H,W,C]` of three classes, and returns the images' bytes.
pub fn write_images(path: &Path, n: usize, [height, width, channels]: [usize; 3]) -> Vec<u8> {
    let pixels = bytes(n * height * width * channels);
    let labels: Vec<u32> = (0..n as u32).map(|i| i % 3).collect();
    let shape = [n, height, width, channels];
    data::write_npz_images(File::create(path).unwrap(), &pixels, shape, Some(&labels)).unwrap();
    pixels
}

/// A network of a few thousand parameters for the images of `path`, without dropout.
pub fn config(path: &Path, sets: &[&str]) -> TrainingConfig {
    let tiny = [
        "data.resolution=4",
        "data.fit=crop",
        "model.block_out_channels=[8]",
        "model.norm_num_groups=4",
        "model.attention_resolutions=[]",
        "diffusion.timesteps=20",
        "diffusion.beta_start=0.01",
        "diffusion.beta_end=0.3",
        "sample.steps=3",
        "train.batch_size=4",
        "train.warmup_steps=0",
        "train.samples=0",
        "train.seed=7",
    ];
    let mut config = TrainingConfig::preset("fashion-ho").unwrap();
    config.data.path = Some(path.to_owned());
    tiny.iter().chain(sets).for_each(|set| config.set(set).unwrap());
    config.validate().unwrap();
    config
}

/// A trainer at its first step.
pub fn trainer(config: &TrainingConfig) -> Trainer {
    let network = config.network(&config.open(data::Split::Train).unwrap()).unwrap();
    Trainer::new(config, network.build(config.train.seed, &Device::flex().autodiff()).unwrap()).unwrap()
}

/// ᾱ_t of [`config`], from the definition.
pub fn alphas_cumprod() -> Vec<f64> {
    let mut product = 1.0;
    let beta = |t: usize| 0.01 + (0.3 - 0.01) * t as f64 / (TIMESTEPS - 1) as f64;
    (0..TIMESTEPS)
        .map(|t| {
            product *= 1.0 - beta(t);
            product
        })
        .collect()
}

/// Asserts that numbers agree to `tolerance` of `expected`.
#[track_caller]
pub fn assert_close(found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() <= tolerance * expected.abs(), "found {found}, expected {expected}");
}
