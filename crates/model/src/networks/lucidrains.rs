//! The network `Unet` of denoising-diffusion-pytorch.

use burn::tensor::{Device, Tensor};
use unet::lucidrains::{LucidrainsCondition, LucidrainsConfig, LucidrainsUnet};
use unet::{Activations, Dropout, Labels};

use super::{BackboneConfig, NetworkConfig};
use crate::backbone::{Backbone, Condition, DataKind, Inputs, LabelKind, Signature};
use crate::{Error, Network};

/// The value of `_class_name` in `config.json`.
pub(super) const CLASS_NAME: &str = LucidrainsConfig::CLASS_NAME;

/// Parses the text of a `config.json`.
pub(super) fn read(text: &str) -> Result<NetworkConfig, Error> {
    Ok(LucidrainsConfig::from_json(text)?.into())
}

impl BackboneConfig for LucidrainsConfig {
    fn to_json(&self) -> String {
        LucidrainsConfig::to_json(self)
    }

    fn parameter_count(&self) -> usize {
        LucidrainsConfig::parameter_count(self)
    }

    fn activations(&self, height: usize, width: usize) -> Option<Activations> {
        Some(LucidrainsConfig::activations(self, height, width))
    }

    fn build(&self, seed: u64, device: &Device) -> Result<Network, Error> {
        Ok(LucidrainsUnet::new(self, seed, device)?.into())
    }
}

impl From<&LucidrainsConfig> for Signature {
    fn from(config: &LucidrainsConfig) -> Self {
        Self {
            kind: DataKind::Images,
            size: config.sample_size.map(|size| size.height_width().into()),
            in_channels: config.channels,
            out_channels: config.out_channels(),
            labels: match config.num_classes {
                0 => LabelKind::None,
                classes => LabelKind::OptionalClass(classes),
            },
            timesteps: None,
            takes_prediction: config.self_condition,
        }
    }
}

impl Backbone for LucidrainsUnet {
    fn forward(&self, x: Tensor<4>, c_noise: &[f32], condition: Condition, dropout: Option<&Dropout>) -> Tensor<4> {
        LucidrainsUnet::forward(self, x, c_noise, condition_of(condition), dropout)
    }

    fn checkpointed_gradients(
        &self,
        inputs: Inputs,
        loss: &mut dyn FnMut(Tensor<4>) -> Tensor<1>,
    ) -> Vec<Option<Tensor<1>>> {
        LucidrainsUnet::checkpointed_gradients(self, inputs.with_condition(condition_of), loss)
    }

    fn signature(&self) -> Signature {
        LucidrainsUnet::config(self).into()
    }

    fn config(&self) -> String {
        LucidrainsUnet::config(self).to_json()
    }

    fn original_name(&self, name: &str) -> String {
        LucidrainsUnet::config(self).original_name(name)
    }

    // `sample_size` is the training size, but any size works that all levels can halve.
    fn check_size(&self, height: usize, width: usize) -> Result<(), Error> {
        Ok(LucidrainsUnet::config(self).check_size(height, width)?)
    }
}

/// Returns the network's form of a condition.
fn condition_of(condition: Condition<'_>) -> LucidrainsCondition<'_> {
    let classes = match condition.labels {
        Some(Labels::Classes(classes)) => Some(classes),
        Some(Labels::Vectors(_)) | None => None,
    };
    LucidrainsCondition { prediction: condition.prediction.cloned(), classes }
}
