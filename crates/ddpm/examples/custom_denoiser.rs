//! A denoiser around another: the mean of two models' outputs, which samples like any model.
//!
//!     cargo run --release -p ddpm --example custom_denoiser MODEL MODEL

use std::path::Path;

use burn::tensor::{Device, Tensor};
use ddpm::diffusion::Node;
use ddpm::model::{Condition, Denoised, Denoiser, Error};
use ddpm::prelude::*;
use ddpm::sample::{Request, Sampler, SamplerOptions, initial_noise, sample};

/// Averages the outputs of two denoisers of the same process.
struct Mean<D> {
    of: [D; 2],
}

impl<D: Denoiser> Denoiser for Mean<D> {
    fn denoise(&self, x_t: Tensor<4>, nodes: &[Node], condition: Condition) -> Result<Denoised, Error> {
        let a = self.of[0].denoise(x_t.clone(), nodes, condition)?;
        let b = self.of[1].denoise(x_t, nodes, condition)?;
        let mean = (a.output().clone() + b.output().clone()).mul_scalar(0.5);
        Ok(a.with_output(mean))
    }

    fn check(&self, shape: [usize; 4], condition: Condition) -> Result<(), Error> {
        self.of.iter().try_for_each(|of| of.check(shape, condition))
    }

    fn check_node(&self, node: Node) -> Result<(), Error> {
        self.of.iter().try_for_each(|of| of.check_node(node))
    }

    fn device(&self) -> Device {
        self.of[0].device()
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let models: Vec<String> = std::env::args().skip(1).collect();
    let [a, b] = &models[..] else { return Err("usage: custom_denoiser MODEL MODEL".into()) };
    run([a.as_ref(), b.as_ref()])?.save("mean.png")?;
    Ok(())
}

/// Samples four images from the mean of two models.
pub fn run(models: [&Path; 2]) -> Result<Images, Box<dyn std::error::Error>> {
    let device = ddpm::device(Some("cpu"))?;
    let [a, b] = [Pipeline::load(models[0], &device)?, Pipeline::load(models[1], &device)?];
    let denoiser = Mean { of: [a.denoiser()?, b.denoiser()?] };
    let options = SamplerOptions { steps: Some(10), ..Default::default() };
    let table = Sampler::Ddim { eta: 0.0 }.table(&a.scheduler, options)?;
    let [height, width] = a.network.signature().size.ok_or("the model does not say its size")?;
    let noise = initial_noise(0, 0, 4, [height, width, a.network.signature().in_channels]);
    let request = Request { seed: 0, first_image: 0, noise: &noise, batch_size: 4, shared: None };
    Ok(sample(&denoiser, &table, &request, |_| true)?)
}
