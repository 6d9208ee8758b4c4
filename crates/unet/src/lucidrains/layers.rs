//! Residual blocks and resampling.

use burn::module::Module;
use burn::tensor::Tensor;

use super::config::LucidrainsConfig;
use super::version::Version;
use crate::layers::{Conv2d, GroupNorm, INIT_SCALE, Init, LayerNorm, Linear, RmsNorm};
use crate::ops::{self, Fusion, Geometry};
use crate::stages::{EmbeddingUse, Pass};

/// PyTorch's default, which the original has everywhere.
const EPSILON: f64 = 1e-5;

/// The normalization in a residual block.
#[derive(Module, Debug)]
pub enum BlockNorm {
    /// Of version 2.
    Rms(RmsNorm),
    /// Of earlier versions.
    Group(GroupNorm),
}

/// Conv–norm–SiLU, with a scale and shift before SiLU in the first block of two.
#[derive(Module, Debug)]
pub struct NormedConv {
    proj: Conv2d,
    norm: BlockNorm,
}

impl NormedConv {
    fn new(init: &mut Init, config: &LucidrainsConfig, [c_in, c_out]: [usize; 2]) -> Self {
        let proj = conv(init, 3, c_in, c_out);
        let norm = match config.version.has_group_norm() {
            true => BlockNorm::Group(GroupNorm::new(init, c_out, config.resnet_block_groups, EPSILON)),
            false => BlockNorm::Rms(RmsNorm::new(init, c_out)),
        };
        Self { proj, norm }
    }

    fn forward(&self, x: Tensor<4>, skip: Option<Tensor<4>>, scale_shift: Option<Tensor<2>>) -> Tensor<4> {
        let x = self.proj.forward_fused(x, Fusion { skip, ..Fusion::default() });
        match &self.norm {
            BlockNorm::Rms(norm) => norm.forward_silu(x, scale_shift),
            BlockNorm::Group(norm) => norm.forward_silu(x, scale_shift),
        }
    }
}

/// The normalization of an attention.
#[derive(Module, Debug)]
pub enum AttentionNorm {
    /// From version 1.7 on.
    Rms(RmsNorm),
    /// Of earlier versions.
    Layer(LayerNorm),
}

impl AttentionNorm {
    /// Creates a normalization of `channels`.
    pub(super) fn new(init: &mut Init, version: Version, channels: usize) -> Self {
        match version.has_layer_norm() {
            true => Self::Layer(LayerNorm::new(init, channels, EPSILON)),
            false => Self::Rms(RmsNorm::new(init, channels)),
        }
    }

    /// Maps `[N,H,W,C]` to the same shape.
    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Rms(norm) => norm.forward(x),
            Self::Layer(norm) => norm.forward(x),
        }
    }
}

/// Two blocks and a shortcut. Timestep and class scale and shift the first block.
#[derive(Module, Debug)]
pub struct ResidualBlock {
    mlp: Linear,
    block1: NormedConv,
    block2: NormedConv,
    res_conv: Option<Conv2d>,
    dropout: f64,
    number: usize,
}

impl ResidualBlock {
    /// Creates a block; `number` tells its dropout masks from those of others.
    pub(super) fn new(
        init: &mut Init,
        config: &LucidrainsConfig,
        number: &mut usize,
        [c_in, c_out]: [usize; 2],
    ) -> Self {
        *number += 1;
        Self {
            mlp: Linear::new(init, config.condition_width(), 2 * c_out, INIT_SCALE),
            block1: NormedConv::new(init, config, [c_in, c_out]),
            block2: NormedConv::new(init, config, [c_out, c_out]),
            res_conv: (c_in != c_out).then(|| conv(init, 1, c_in, c_out)),
            dropout: config.dropout,
            number: *number,
        }
    }

    /// Returns how the block uses the embedding. The shortcut's convolution adds the blocks to the inputs, and without it the inputs
    /// are added to the blocks.
    pub(super) fn embedding_use(&self) -> EmbeddingUse {
        if self.res_conv.is_some() { EmbeddingUse::BeforeInputs } else { EmbeddingUse::AfterInputs }
    }

    /// Maps `[N,H,W,I]` to `[N,H,W,O]`. If `skip` is given, x holds the first of the I channels and `skip` the last.
    pub(super) fn forward(&self, x: Tensor<4>, skip: Option<Tensor<4>>, pass: &Pass) -> Tensor<4> {
        let (x, skip) = if ops::fuses_concat(&x.device()) { (x, skip) } else { (ops::concat_skip(x, skip), None) };
        let scale_shift = Some(self.mlp.forward(pass.embedding.clone()));
        let mut h = self.block1.forward(x.clone(), skip.clone(), scale_shift);
        if let Some(dropout) = pass.dropout.filter(|_| self.dropout > 0.0) {
            h = dropout.apply(h, self.number, self.dropout);
        }
        let h = self.block2.forward(h, None, None);
        match &self.res_conv {
            Some(conv) => conv.forward_fused(x, Fusion { skip, residual: Some(h), ..Fusion::default() }),
            None => h + x,
        }
    }
}

/// The layer between two levels, or after the last one.
#[derive(Module, Debug)]
pub struct LevelConv {
    /// A convolution after space-to-depth downsampling, or after nearest-neighbor upsampling.
    resized: Option<Conv2d>,
    /// A convolution alone, which keeps the size or has a stride of 2.
    kept: Option<Conv2d>,
}

impl LevelConv {
    /// Creates the layer after a level on the way down.
    pub(super) fn down(init: &mut Init, is_strided: bool, [c_in, c_out]: [usize; 2], is_last: bool) -> Self {
        match is_last {
            true => Self { resized: None, kept: Some(conv(init, 3, c_in, c_out)) },
            false if is_strided => {
                let geometry = Geometry { stride: 2, before: 1, after: 1 };
                Self { resized: None, kept: Some(Conv2d::new(init, [4, 4, c_in, c_out], geometry, INIT_SCALE)) }
            }
            false => Self { resized: Some(conv(init, 1, 4 * c_in, c_out)), kept: None },
        }
    }

    /// Creates the layer after a level on the way up.
    pub(super) fn up(init: &mut Init, c_in: usize, c_out: usize, is_last: bool) -> Self {
        let conv = Some(conv(init, 3, c_in, c_out));
        if is_last { Self { resized: None, kept: conv } } else { Self { resized: conv, kept: None } }
    }

    /// Applies the layer, after `resize` if it is one that resamples.
    pub(super) fn forward(&self, x: Tensor<4>, resize: fn(Tensor<4>) -> Tensor<4>) -> Tensor<4> {
        match (&self.resized, &self.kept) {
            (Some(conv), _) => conv.forward(resize(x)),
            (None, Some(conv)) => conv.forward(x),
            (None, None) => x,
        }
    }
}

/// Creates a convolution that keeps the size.
pub(super) fn conv(init: &mut Init, kernel: usize, c_in: usize, c_out: usize) -> Conv2d {
    Conv2d::new(init, [kernel, kernel, c_in, c_out], Geometry::same(kernel), INIT_SCALE)
}
