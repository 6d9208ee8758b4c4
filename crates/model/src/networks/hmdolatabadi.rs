//! The network of hmdolatabadi/denoising_diffusion.

use burn::tensor::{Device, Tensor};
use unet::hmdolatabadi::{HmdolatabadiConfig, HmdolatabadiUnet};
use unet::{Activations, Dropout};

use super::{BackboneConfig, NetworkConfig};
use crate::backbone::{Backbone, Condition, Inputs, Signature};
use crate::{Error, Network};

/// The value of `_class_name` in `config.json`.
pub(super) const CLASS_NAME: &str = HmdolatabadiConfig::CLASS_NAME;

/// Parses the text of a `config.json`.
pub(super) fn read(text: &str) -> Result<NetworkConfig, Error> {
    Ok(HmdolatabadiConfig::from_json(text)?.into())
}

impl BackboneConfig for HmdolatabadiConfig {
    fn to_json(&self) -> String {
        HmdolatabadiConfig::to_json(self)
    }

    fn parameter_count(&self) -> usize {
        HmdolatabadiConfig::parameter_count(self)
    }

    fn activations(&self, height: usize, width: usize) -> Option<Activations> {
        Some(HmdolatabadiConfig::activations(self, height, width))
    }

    fn build(&self, seed: u64, device: &Device) -> Result<Network, Error> {
        Ok(HmdolatabadiUnet::new(self, seed, device)?.into())
    }
}

impl From<&HmdolatabadiConfig> for Signature {
    fn from(config: &HmdolatabadiConfig) -> Self {
        Self {
            size: config.sample_size.map(|size| size.height_width().into()),
            out_channels: config.out_channels(),
            ..Self::unconditional(config.in_channel)
        }
    }
}

impl Backbone for HmdolatabadiUnet {
    fn forward(&self, x: Tensor<4>, c_noise: &[f32], _condition: Condition, dropout: Option<&Dropout>) -> Tensor<4> {
        HmdolatabadiUnet::forward(self, x, c_noise, dropout)
    }

    fn checkpointed_gradients(
        &self,
        inputs: Inputs,
        loss: &mut dyn FnMut(Tensor<4>) -> Tensor<1>,
    ) -> Vec<Option<Tensor<1>>> {
        HmdolatabadiUnet::checkpointed_gradients(self, inputs.with_condition(|_| ()), loss)
    }

    fn signature(&self) -> Signature {
        HmdolatabadiUnet::config(self).into()
    }

    fn config(&self) -> String {
        HmdolatabadiUnet::config(self).to_json()
    }

    // `sample_size` is the training size, but any size works that all levels can halve.
    fn check_size(&self, height: usize, width: usize) -> Result<(), Error> {
        Ok(HmdolatabadiUnet::config(self).check_size(height, width)?)
    }
}
