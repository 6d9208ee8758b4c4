//! Small networks with stored weights, and images for them.
#![allow(missing_docs, dead_code, reason = "each test file uses a part")]

use burn::tensor::Device;
use diffusion::{BetaSchedule, NoiseSchedule, Prediction};
use model::{Images, Network, NetworkDenoiser, Process};
use unet::{Parameters, Unet, UnetConfig};
use weights::read_safetensors;

pub fn network(name: &str) -> Network {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../unet/tests/goldens").join(name);
    let config = UnetConfig::read(&folder.join("config.json")).unwrap();
    let (tensors, _) = read_safetensors(folder.join("weights.safetensors")).unwrap();
    Unet::new(&config, 0, &Device::flex()).unwrap().with_tensors(tensors).unwrap().into()
}

pub fn schedule() -> NoiseSchedule {
    NoiseSchedule::new(BetaSchedule::Linear, 1e-3, 0.2, 20).unwrap()
}

pub fn denoiser_of(name: &str, prediction: Prediction) -> NetworkDenoiser {
    Process { schedule: schedule(), prediction }.denoiser(network(name))
}

pub fn denoiser(name: &str) -> NetworkDenoiser {
    denoiser_of(name, Prediction::Epsilon)
}

/// Three images of 8-bit values, both ends among them.
pub fn images(side: usize, channels: usize) -> Images {
    let size = side * side * channels;
    let pixels = (0..3 * size).map(|i| ((i * 7919 % 256) as f32) / 127.5 - 1.0).collect();
    Images::new([3, side, side, channels], pixels)
}
