//! The network [`Mlp`], for points.

use burn::tensor::{Device, Tensor};
use unet::mlp::{Mlp, MlpConfig};
use unet::{Dropout, Labels};

use super::{BackboneConfig, NetworkConfig};
use crate::backbone::{Backbone, Condition, DataKind, LabelKind, Signature};
use crate::{Error, Network};

/// The value of `_class_name` in `config.json`.
pub(super) const CLASS_NAME: &str = MlpConfig::CLASS_NAME;

/// Parses the text of a `config.json`.
pub(super) fn read(text: &str) -> Result<NetworkConfig, Error> {
    Ok(MlpConfig::from_json(text)?.into())
}

impl BackboneConfig for MlpConfig {
    fn to_json(&self) -> String {
        MlpConfig::to_json(self)
    }

    fn parameter_count(&self) -> usize {
        MlpConfig::parameter_count(self)
    }

    fn build(&self, seed: u64, device: &Device) -> Result<Network, Error> {
        Ok(Mlp::new(self, seed, device)?.into())
    }
}

impl From<&MlpConfig> for Signature {
    fn from(config: &MlpConfig) -> Self {
        Self {
            kind: DataKind::Points,
            size: Some([1, 1]),
            out_channels: config.out_dims,
            labels: match config.num_class_embeds {
                0 => LabelKind::None,
                rows => LabelKind::Classes(rows),
            },
            ..Self::unconditional(config.dims)
        }
    }
}

impl Backbone for Mlp {
    fn forward(&self, x: Tensor<4>, c_noise: &[f32], condition: Condition, _dropout: Option<&Dropout>) -> Tensor<4> {
        let classes = match condition.labels {
            Some(Labels::Classes(classes)) => Some(classes),
            Some(Labels::Vectors(_)) | None => None,
        };
        Mlp::forward(self, x, c_noise, classes)
    }

    fn signature(&self) -> Signature {
        Mlp::config(self).into()
    }

    fn config(&self) -> String {
        Mlp::config(self).to_json()
    }
}
