//! The networks `SongUNet` and `DhariwalUNet` of NVlabs/edm.

use burn::tensor::{Device, Tensor};
use unet::edm::{EdmClass, EdmConfig, EdmLabels, EdmUnet};
use unet::{Activations, Dropout, Labels};
use weights::Tensors;

use super::{BackboneConfig, NetworkConfig};
use crate::backbone::{Backbone, Condition, DataKind, Inputs, LabelKind, Signature};
use crate::{Error, Network};

/// The values of `_class_name` in `config.json`.
pub(super) const CLASS_NAMES: [&str; 2] = [EdmClass::NAMES[0].0, EdmClass::NAMES[1].0];

/// Parses the text of a `config.json`.
pub(super) fn read(text: &str) -> Result<NetworkConfig, Error> {
    Ok(EdmConfig::from_json(text)?.into())
}

impl BackboneConfig for EdmConfig {
    fn to_json(&self) -> String {
        EdmConfig::to_json(self)
    }

    fn parameter_count(&self) -> usize {
        EdmConfig::parameter_count(self)
    }

    fn activations(&self, height: usize, width: usize) -> Option<Activations> {
        Some(EdmConfig::activations(self, height, width))
    }

    fn build(&self, seed: u64, device: &Device) -> Result<Network, Error> {
        Ok(EdmUnet::new(self, seed, device)?.into())
    }
}

impl From<&EdmConfig> for Signature {
    fn from(config: &EdmConfig) -> Self {
        Self {
            kind: DataKind::Images,
            size: Some([config.img_resolution; 2]),
            in_channels: config.in_channels,
            out_channels: config.out_channels,
            // No class is a vector of zeros in the original.
            labels: match config.label_dim {
                0 => LabelKind::None,
                classes => LabelKind::OptionalClass(classes),
            },
            timesteps: None,
            takes_prediction: false,
        }
    }
}

impl Backbone for EdmUnet {
    fn forward(&self, x: Tensor<4>, c_noise: &[f32], condition: Condition, dropout: Option<&Dropout>) -> Tensor<4> {
        EdmUnet::forward(self, x, c_noise, labels_of(condition), dropout)
    }

    fn checkpointed_gradients(
        &self,
        inputs: Inputs,
        loss: &mut dyn FnMut(Tensor<4>) -> Tensor<1>,
    ) -> Vec<Option<Tensor<1>>> {
        EdmUnet::checkpointed_gradients(self, inputs.with_condition(labels_of), loss)
    }

    fn signature(&self) -> Signature {
        EdmUnet::config(self).into()
    }

    fn config(&self) -> String {
        EdmUnet::config(self).to_json()
    }

    fn buffers(&self) -> Tensors {
        EdmUnet::config(self).buffers()
    }

    // `img_resolution` is the training size, but any size works that all levels can halve.
    fn check_size(&self, height: usize, width: usize) -> Result<(), Error> {
        Ok(EdmUnet::config(self).check_size(height, width)?)
    }
}

/// Returns the network's form of a condition.
fn labels_of(condition: Condition<'_>) -> EdmLabels<'_> {
    let classes = match condition.labels {
        Some(Labels::Classes(classes)) => Some(classes),
        Some(Labels::Vectors(_)) | None => None,
    };
    EdmLabels { classes, augment: condition.augment_labels }
}
