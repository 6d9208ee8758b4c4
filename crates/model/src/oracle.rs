//! A [`Denoiser`] for data whose exact denoiser is known, for tests of samplers and likelihoods through the public API.

use burn::tensor::{Device, Tensor};
use diffusion::Node;

use crate::backbone::Condition;
use crate::{Denoised, Denoiser, Error, Images};

/// The exact denoiser of known data: a function from x_t of one image and its noise level to E[x_0 | x_t].
#[derive(Clone, Debug)]
pub struct Oracle<F> {
    sample: F,
    device: Device,
}

impl<F: Fn(&[f64], Node) -> Vec<f64>> Oracle<F> {
    /// Creates an oracle that computes E[x_0 | x_t] by `sample`, in f64 on the host.
    pub fn new(sample: F, device: &Device) -> Self {
        Self { sample, device: device.clone() }
    }
}

impl<F: Fn(&[f64], Node) -> Vec<f64>> Denoiser for Oracle<F> {
    fn denoise(&self, x_t: Tensor<4>, nodes: &[Node], _: Condition) -> Result<Denoised, Error> {
        let images = Images::from_tensor(&x_t);
        let mut pixels = Vec::with_capacity(images.pixels.len());
        for (i, image) in images.each().enumerate() {
            let x: Vec<f64> = image.iter().map(|&value| f64::from(value)).collect();
            let node = nodes[if nodes.len() == 1 { 0 } else { i }];
            pixels.extend((self.sample)(&x, node).into_iter().map(|value| value as f32));
        }
        let sample = Images { pixels, ..images }.tensor(&self.device);
        Ok(Denoised::from_sample(x_t, sample, nodes))
    }

    fn check(&self, _: [usize; 4], condition: Condition) -> Result<(), Error> {
        match condition.labels {
            None => Ok(()),
            Some(_) => Err(Error::Input("this denoiser takes no labels".into())),
        }
    }

    fn check_node(&self, _: Node) -> Result<(), Error> {
        Ok(())
    }

    fn device(&self) -> Device {
        self.device.clone()
    }
}
