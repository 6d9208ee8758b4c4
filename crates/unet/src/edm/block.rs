//! Residual blocks and the change of size.

use burn::module::Module;
use burn::tensor::Tensor;

use super::config::{EdmClass, EdmConfig};
use super::plan::{Layers, Resize};
use crate::layers::{Conv2d, GroupNorm, INIT_SCALE, Init, Linear, ZERO_INIT_SCALE};
use crate::ops::{self, Fusion, Geometry};
use crate::stages::Pass;

/// The factor of a sum of two terms in `SongUNet`, which keeps its variance.
pub(super) const HALF_VARIANCE: f64 = std::f64::consts::FRAC_1_SQRT_2;

/// A residual block, with attention and a change of size if configured.
#[derive(Module, Debug)]
pub struct EdmBlock {
    norm0: GroupNorm,
    conv0: Conv2d,
    affine: Linear,
    norm1: GroupNorm,
    conv1: Conv2d,
    skip: Option<Conv2d>,
    norm2: Option<GroupNorm>,
    qkv: Option<Conv2d>,
    proj: Option<Conv2d>,
    heads: usize,
    dropout: f64,
    number: usize,
    #[module(skip)]
    style: Style,
}

/// The differences between the classes, and the change of size.
#[derive(Clone, Debug)]
struct Style {
    resizing: Resizing,
    /// Scales and shifts the second normalization in place of shifting its input.
    scales: bool,
    /// The factor of each sum.
    scale: f64,
    in_channels: usize,
    out_channels: usize,
}

/// A change of size with its filter.
#[derive(Clone, Debug)]
pub(super) struct Resizing {
    pub resize: Resize,
    pub filter: Vec<f64>,
}

impl Resizing {
    pub fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        match self.resize {
            Resize::Keep => x,
            Resize::Down => ops::filter_down2x(x, &self.filter, (self.filter.len() - 1) / 2),
            Resize::Up => ops::filter_up2x(x, &self.filter),
        }
    }
}

impl EdmBlock {
    /// Creates a block; `number` tells its dropout masks from those of others.
    pub(super) fn new(init: &mut Init, config: &EdmConfig, layers: Layers, number: usize) -> Option<Self> {
        let Layers::Block { c_in, c_out, resize, has_attention } = layers else {
            return None;
        };
        let is_song = config.class == EdmClass::SongUnet;
        let norm = |init: &mut Init, channels: usize| group_norm(init, config, channels);
        // The weights of queries, keys and values have a fifth of the variance in `SongUNet`.
        let qkv_scale = if is_song { 0.2 } else { INIT_SCALE };
        let embedding = config.embedding_width();
        Some(Self {
            norm0: norm(init, c_in),
            conv0: conv(init, config, [3, c_in, c_out], INIT_SCALE),
            affine: linear(init, config, [embedding, config.affine_width(c_out)]),
            norm1: norm(init, c_out),
            conv1: conv(init, config, [3, c_out, c_out], ZERO_INIT_SCALE),
            skip: config.has_skip(c_in, c_out, resize).then(|| conv(init, config, [1, c_in, c_out], INIT_SCALE)),
            norm2: has_attention.then(|| norm(init, c_out)),
            qkv: has_attention.then(|| conv(init, config, [1, c_out, 3 * c_out], qkv_scale)),
            proj: has_attention.then(|| conv(init, config, [1, c_out, c_out], ZERO_INIT_SCALE)),
            heads: config.heads(c_out),
            dropout: config.dropout,
            number,
            style: Style {
                resizing: Resizing { resize, filter: config.resample_filter.clone() },
                scales: !is_song,
                scale: if is_song { HALF_VARIANCE } else { 1.0 },
                in_channels: c_in,
                out_channels: c_out,
            },
        })
    }

    /// Returns the channels of the input, with those of a skip connection if it takes one.
    pub(super) fn in_channels(&self) -> usize {
        self.style.in_channels
    }

    /// Returns the channels of the output.
    pub(super) fn out_channels(&self) -> usize {
        self.style.out_channels
    }

    /// Maps x `[N,H,W,I]` and the embedding `[N,E]` to `[N,H′,W′,O]`. If `skip` is given, x holds the first of the I channels
    /// and `skip` the last.
    pub(super) fn forward(&self, x: Tensor<4>, skip: Option<Tensor<4>>, pass: &Pass) -> Tensor<4> {
        let (x, skip) = match &self.skip {
            Some(_) if ops::fuses_concat(&x.device()) => (x, skip),
            _ => (ops::concat_skip(x, skip), None),
        };
        let Style { resizing, scales, scale, .. } = &self.style;
        let affine = self.affine.forward(pass.embedding.clone());
        let (shift, scale_shift) = if *scales { (None, Some(affine)) } else { (Some(affine), None) };
        let h = match resizing.resize {
            Resize::Keep => {
                let norm = Some(self.norm0.with_silu(None));
                self.conv0.forward_fused(x.clone(), Fusion { skip: skip.clone(), norm, shift, residual: None })
            }
            Resize::Down | Resize::Up => {
                let h = resizing.apply(self.norm0.forward_silu(x.clone(), None));
                self.conv0.forward_fused(h, Fusion { shift, ..Fusion::default() })
            }
        };
        let x = resizing.apply(x);
        let shortcut = match &self.skip {
            Some(conv) => conv.forward_fused(x, Fusion { skip, ..Fusion::default() }),
            None => x,
        };
        let added = Fusion { residual: Some(shortcut), ..Fusion::default() };
        let x = match pass.dropout.filter(|_| self.dropout > 0.0) {
            None => self.conv1.forward_fused(h, Fusion { norm: Some(self.norm1.with_silu(scale_shift)), ..added }),
            Some(dropout) => {
                let h = dropout.apply(self.norm1.forward_silu(h, scale_shift), self.number, self.dropout);
                self.conv1.forward_fused(h, added)
            }
        };
        self.attend(scaled(x, *scale))
    }

    /// Adds the attention over pixels, if there is one.
    fn attend(&self, x: Tensor<4>) -> Tensor<4> {
        let (Some(norm), Some(qkv), Some(proj)) = (&self.norm2, &self.qkv, &self.proj) else {
            return x;
        };
        let [n, h, w, c] = x.dims();
        // Each channel of a head has its query, key and value side by side.
        let norm = Some(norm.plain());
        let all = qkv.forward_fused(x.clone(), Fusion { norm, ..Fusion::default() }).reshape([n, h * w, c, 3]);
        let [q, k, v] = [0, 1, 2].map(|i| all.clone().narrow(3, i, 1).reshape([n, h * w, c]));
        drop(all);
        let attended = ops::attention(q, k, v, self.heads).reshape([n, h, w, c]);
        let residual = Some(x);
        scaled(proj.forward_fused(attended, Fusion { residual, ..Fusion::default() }), self.style.scale)
    }
}

fn scaled(x: Tensor<4>, factor: f64) -> Tensor<4> {
    if factor == 1.0 { x } else { x.mul_scalar(factor) }
}

/// Creates a normalization with the groups and ε of the class.
pub(super) fn group_norm(init: &mut Init, config: &EdmConfig, channels: usize) -> GroupNorm {
    let epsilon = if config.class == EdmClass::SongUnet { 1e-6 } else { 1e-5 };
    GroupNorm::new(init, channels, config.groups(channels), epsilon)
}

/// Creates a convolution that keeps the size. Initial weights are uniform: in `SongUNet` with variance 1/fan_avg times
/// `scale`, in `DhariwalUNet` with variance 1/(3·fan_in), or zero.
pub(super) fn conv(init: &mut Init, config: &EdmConfig, shape: [usize; 3], scale: f64) -> Conv2d {
    let [kernel, c_in, c_out] = shape;
    let scale = class_scale(config, [c_in, c_out], scale);
    Conv2d::new(init, [kernel, kernel, c_in, c_out], Geometry::same(kernel), scale)
}

/// Creates a linear layer, as [`conv`].
pub(super) fn linear(init: &mut Init, config: &EdmConfig, [c_in, c_out]: [usize; 2]) -> Linear {
    Linear::new(init, c_in, c_out, class_scale(config, [c_in, c_out], INIT_SCALE))
}

/// Returns the variance of initial weights times fan_avg.
fn class_scale(config: &EdmConfig, [c_in, c_out]: [usize; 2], scale: f64) -> f64 {
    match config.class {
        EdmClass::SongUnet => scale,
        EdmClass::DhariwalUnet if scale == ZERO_INIT_SCALE => 0.0,
        EdmClass::DhariwalUnet => (c_in + c_out) as f64 / (6 * c_in) as f64,
    }
}
