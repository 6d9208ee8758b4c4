//! Denoisers of bits, for binomial chains ([`diffusion::binomial`]). A bit is a pixel: 1 for a bit of 1, −1 for one of 0.

use burn::tensor::{Device, Tensor, TensorData};
use diffusion::{Bernoulli, NoiseSchedule};

use crate::backbone::{Condition, Network};
use crate::{Error, Images};

/// A model that predicts p(b_0 | b_t) of each bit. It is no [`Denoiser`](crate::Denoiser), whose noise is Gaussian.
pub trait BitDenoiser {
    /// Computes the logit of each bit of b_0, ln p(1)/p(0), from bits `[N,H,W,C]` as pixels of ±1. `timesteps` has t of each image.
    ///
    /// # Errors
    /// If the model cannot be evaluated there.
    fn logits(&self, b_t: Tensor<4>, timesteps: &[usize], condition: Condition) -> Result<Tensor<4>, Error>;

    /// Checks that images `[N,H,W,C]` and their condition match the model.
    ///
    /// # Errors
    /// If they do not; the error says what was expected.
    fn check(&self, shape: [usize; 4], condition: Condition) -> Result<(), Error>;

    /// Returns the device of the model.
    fn device(&self) -> Device;
}

/// A network that predicts logits, with the chain that it was trained for.
#[derive(Clone, Debug)]
pub struct NetworkBits {
    /// The network.
    pub network: Network,
    /// β_t and ᾱ_t.
    pub schedule: NoiseSchedule,
}

impl BitDenoiser for NetworkBits {
    fn logits(&self, b_t: Tensor<4>, timesteps: &[usize], condition: Condition) -> Result<Tensor<4>, Error> {
        let c_noise: Vec<f32> = timesteps.iter().map(|&t| t as f32).collect();
        Ok(self.network.forward(b_t, &c_noise, condition, None))
    }

    fn check(&self, shape: [usize; 4], condition: Condition) -> Result<(), Error> {
        self.network.check(shape, condition)
    }

    fn device(&self) -> Device {
        self.network.device()
    }
}

/// The exact prediction for known data, for tests: a function from b_t of one image and t to p(b_0 | b_t) of each bit.
#[derive(Clone, Debug)]
pub struct BitOracle<F> {
    predict: F,
    device: Device,
}

impl<F: Fn(&[bool], usize) -> Vec<Bernoulli>> BitOracle<F> {
    /// Creates an oracle that computes p(b_0 | b_t) by `predict`, in f64 on the host.
    pub fn new(predict: F, device: &Device) -> Self {
        Self { predict, device: device.clone() }
    }
}

impl<F: Fn(&[bool], usize) -> Vec<Bernoulli>> BitDenoiser for BitOracle<F> {
    fn logits(&self, b_t: Tensor<4>, timesteps: &[usize], _: Condition) -> Result<Tensor<4>, Error> {
        let images = Images::from_tensor(&b_t);
        // A probability of 0 is far below what a chain can tell from 0.
        let logit = |p: Bernoulli| p.logit().clamp(-100.0, 100.0) as f32;
        let each = images.each().zip(timesteps);
        let values = each.flat_map(|(image, &t)| (self.predict)(&bits_of(image), t)).map(logit).collect::<Vec<f32>>();
        Ok(Tensor::from_data(TensorData::new(values, images.shape()), &self.device))
    }

    fn check(&self, _: [usize; 4], condition: Condition) -> Result<(), Error> {
        match condition.labels {
            None => Ok(()),
            Some(_) => Err(Error::Input("this denoiser takes no labels".into())),
        }
    }

    fn device(&self) -> Device {
        self.device.clone()
    }
}

/// Returns the bits of pixels in [-1, 1]: 1 for pixels above 0, which are 8-bit values from 128 on.
pub fn bits_of(pixels: &[f32]) -> Vec<bool> {
    pixels.iter().map(|&pixel| pixel > 0.0).collect()
}

/// Returns bits as pixels: ±1.
pub fn pixels_of(bits: &[bool]) -> Vec<f32> {
    bits.iter().map(|&bit| if bit { 1.0 } else { -1.0 }).collect()
}

impl Images {
    /// Returns the images with every pixel replaced by its bit, as ±1.
    pub fn binarized(self) -> Self {
        Self { pixels: pixels_of(&bits_of(&self.pixels)), ..self }
    }
}
