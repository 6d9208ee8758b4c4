//! Linear and softmax attention with learned memory tokens.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::config::{LucidrainsConfig, MEMORY_TOKENS};
use super::layers::conv;
use crate::layers::{Conv2d, Init, RmsNorm, normal_parameter};
use crate::ops::{self, Fusion};

/// Attention over pixels and learned memory tokens, with a residual connection.
#[derive(Module, Debug)]
pub struct MemoryAttention {
    norm: RmsNorm,
    /// Keys and values of the memory: `[2,heads,tokens,d]`, or `[2,heads,d,tokens]` of linear attention.
    mem_kv: Param<Tensor<4>>,
    to_qkv: Conv2d,
    to_out: ToOut,
    heads: usize,
}

/// The layers after an attention, which tell its kind.
#[derive(Module, Debug)]
pub enum ToOut {
    /// A convolution, after softmax attention.
    Full(Conv2d),
    /// A convolution and a normalization, after linear attention.
    Linear(NormedOutput),
}

/// A convolution and a normalization.
#[derive(Module, Debug)]
pub struct NormedOutput {
    projection: Conv2d,
    norm: RmsNorm,
}

impl MemoryAttention {
    /// Creates the attention of a level with `channels` channels.
    pub(super) fn new(
        init: &mut Init,
        config: &LucidrainsConfig,
        level: usize,
        channels: usize,
        is_full: bool,
    ) -> Self {
        let (heads, d) = (config.heads(level), config.head_dim(level));
        let hidden = heads * d;
        Self {
            norm: RmsNorm::new(init, channels),
            mem_kv: match is_full {
                true => normal_parameter(init, [2, heads, MEMORY_TOKENS, d]),
                false => normal_parameter(init, [2, heads, d, MEMORY_TOKENS]),
            },
            to_qkv: conv(init, 1, channels, 3 * hidden).without_bias(),
            to_out: match is_full {
                true => ToOut::Full(conv(init, 1, hidden, channels)),
                false => ToOut::Linear(NormedOutput {
                    projection: conv(init, 1, hidden, channels),
                    norm: RmsNorm::new(init, channels),
                }),
            },
            heads,
        }
    }

    /// Maps `[N,H,W,C]` to the same shape.
    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [n, h, w, _] = x.dims();
        let qkv = self.to_qkv.forward(self.norm.forward(x.clone()));
        let hidden = qkv.dims()[3] / 3;
        let part = |i: usize| qkv.clone().narrow(3, i * hidden, hidden).reshape([n, h * w, hidden]);
        let [memory_k, memory_v] = self.memory(n);
        let (q, k, v) = (part(0), Tensor::cat(vec![memory_k, part(1)], 1), Tensor::cat(vec![memory_v, part(2)], 1));
        match &self.to_out {
            ToOut::Full(conv) => {
                let out = ops::attention(q, k, v, self.heads).reshape([n, h, w, hidden]);
                conv.forward_fused(out, Fusion { residual: Some(x), ..Fusion::default() })
            }
            ToOut::Linear(NormedOutput { projection, norm }) => {
                let out = ops::linear_attention(q, k, v, self.heads).reshape([n, h, w, hidden]);
                norm.forward(projection.forward(out)) + x
            }
        }
    }

    /// Returns keys and values of the memory, each `[n,tokens,heads·d]`.
    fn memory(&self, n: usize) -> [Tensor<3>; 2] {
        let memory = self.mem_kv.val();
        // To [2,tokens,heads,d].
        let memory = match self.to_out {
            ToOut::Full(_) => memory.permute([0, 2, 1, 3]),
            ToOut::Linear(_) => memory.permute([0, 3, 1, 2]),
        };
        let [_, tokens, heads, d] = memory.dims();
        let memory = memory.reshape([2, tokens, heads * d]);
        [0, 1].map(|i| memory.clone().narrow(0, i, 1).expand([n, tokens, heads * d]))
    }
}
