//! The network `UNet2DModel` of diffusers.

use burn::tensor::{Device, Tensor};
use unet::{Activations, ClassEmbedType, Dropout, Unet};

use super::{BackboneConfig, NetworkConfig};
use crate::backbone::{Backbone, Condition, DataKind, Inputs, LabelKind, Signature};
use crate::{Error, Network};

/// The value of `_class_name` in `config.json`.
pub(super) const CLASS_NAME: &str = "UNet2DModel";

/// Parses the text of a `config.json`.
pub(super) fn read(text: &str) -> Result<NetworkConfig, Error> {
    Ok(unet::UnetConfig::from_json(text)?.into())
}

impl BackboneConfig for unet::UnetConfig {
    fn to_json(&self) -> String {
        unet::UnetConfig::to_json(self)
    }

    fn parameter_count(&self) -> usize {
        unet::UnetConfig::parameter_count(self)
    }

    fn activations(&self, height: usize, width: usize) -> Option<Activations> {
        Some(unet::UnetConfig::activations(self, height, width))
    }

    fn build(&self, seed: u64, device: &Device) -> Result<Network, Error> {
        Ok(Unet::new(self, seed, device)?.into())
    }
}

impl From<&unet::UnetConfig> for Signature {
    fn from(config: &unet::UnetConfig) -> Self {
        Self {
            kind: DataKind::Images,
            size: config.sample_size.map(|size| size.height_width().into()),
            in_channels: config.in_channels,
            out_channels: config.out_channels,
            labels: match (config.class_embed_type, config.num_class_embeds) {
                (None, None) => LabelKind::None,
                (None, Some(classes)) => LabelKind::Classes(classes),
                (Some(ClassEmbedType::Timestep), _) => LabelKind::AnyClass,
                (Some(ClassEmbedType::Identity), _) => LabelKind::Vectors(config.time_embed_dim()),
            },
            timesteps: config.num_train_timesteps,
            takes_prediction: false,
        }
    }
}

impl Backbone for Unet {
    fn forward(&self, x: Tensor<4>, c_noise: &[f32], condition: Condition, dropout: Option<&Dropout>) -> Tensor<4> {
        Unet::forward(self, x, c_noise, condition.labels, dropout)
    }

    fn signature(&self) -> Signature {
        Unet::config(self).into()
    }

    fn config(&self) -> String {
        Unet::config(self).to_json()
    }

    // `sample_size` is the training size, but any size works that all levels can halve.
    fn check_size(&self, height: usize, width: usize) -> Result<(), Error> {
        Ok(Unet::config(self).check_size(height, width)?)
    }

    fn checkpointed_gradients(
        &self,
        inputs: Inputs,
        loss: &mut dyn FnMut(Tensor<4>) -> Tensor<1>,
    ) -> Vec<Option<Tensor<1>>> {
        Unet::checkpointed_gradients(self, inputs.with_condition(|condition| condition.labels), loss)
    }
}
