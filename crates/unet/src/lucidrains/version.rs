//! What versions of the original computed.

use serde::{Deserialize, Serialize};

/// A version of denoising-diffusion-pytorch: the first with its network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Version {
    /// Strided convolutions of 4×4 pixels between the levels. Its convolutions are standardized, as up to 1.7.1.
    #[serde(rename = "0.28")]
    V0_28,
    /// Space-to-depth downsampling.
    #[serde(rename = "0.32")]
    V0_32,
    /// RMS normalization in attention, in place of layer normalization.
    #[serde(rename = "1.7")]
    V1_7,
    /// Linear attention without a division by the number of pixels.
    #[serde(rename = "1.7.4")]
    V1_7_4,
    /// Memory tokens in attention.
    #[serde(rename = "1.9")]
    V1_9,
    /// RMS normalization in residual blocks, in place of group normalization.
    #[default]
    #[serde(rename = "2")]
    V2,
}

impl Version {
    /// Returns whether levels are joined by strided convolutions.
    pub(super) fn has_strided_convs(self) -> bool {
        self < Self::V0_32
    }

    /// Returns whether attention has layer normalization.
    pub(super) fn has_layer_norm(self) -> bool {
        self < Self::V1_7
    }

    /// Returns whether linear attention divides its values by their number.
    pub(super) fn averages_values(self) -> bool {
        self < Self::V1_7_4
    }

    /// Returns the number of memory tokens in each attention, for which the original has no argument.
    pub(super) fn memory_tokens(self) -> usize {
        if self < Self::V1_9 { 0 } else { 4 }
    }

    /// Returns whether residual blocks have group normalization.
    pub(super) fn has_group_norm(self) -> bool {
        self < Self::V2
    }
}
