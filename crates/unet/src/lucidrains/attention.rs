//! Linear and softmax attention with learned memory tokens.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::config::LucidrainsConfig;
use super::layers::{AttentionNorm, conv};
use crate::layers::{Conv2d, Init, normal_parameter};
use crate::ops::{self, Fusion};

/// Attention over pixels and learned memory tokens, with a residual connection.
#[derive(Module, Debug)]
pub struct MemoryAttention {
    norm: AttentionNorm,
    /// Keys and values of the memory, if there is one: `[2,heads,tokens,d]`, or `[2,heads,d,tokens]` of linear attention.
    mem_kv: Option<Param<Tensor<4>>>,
    to_qkv: Conv2d,
    to_out: ToOut,
    heads: usize,
    averages_values: bool,
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
    norm: AttentionNorm,
}

impl MemoryAttention {
    /// Creates an attention over `channels` channels with `heads` heads of `d` channels.
    pub(super) fn new(
        init: &mut Init,
        config: &LucidrainsConfig,
        [heads, d]: [usize; 2],
        channels: usize,
        is_full: bool,
    ) -> Self {
        let hidden = heads * d;
        let tokens = config.memory_tokens();
        let memory = if is_full { [2, heads, tokens, d] } else { [2, heads, d, tokens] };
        Self {
            norm: AttentionNorm::new(init, config.version, channels),
            mem_kv: (tokens > 0).then(|| normal_parameter(init, memory)),
            to_qkv: conv(init, 1, channels, 3 * hidden).without_bias(),
            to_out: match is_full {
                true => ToOut::Full(conv(init, 1, hidden, channels)),
                false => ToOut::Linear(NormedOutput {
                    projection: conv(init, 1, hidden, channels),
                    norm: AttentionNorm::new(init, config.version, channels),
                }),
            },
            heads,
            averages_values: config.version.averages_values(),
        }
    }

    /// Maps `[N,H,W,C]` to the same shape.
    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [n, h, w, _] = x.dims();
        let qkv = self.to_qkv.forward(self.norm.forward(x.clone()));
        let hidden = qkv.dims()[3] / 3;
        let part = |i: usize| qkv.clone().narrow(3, i * hidden, hidden).reshape([n, h * w, hidden]);
        let (q, mut k, mut v) = (part(0), part(1), part(2));
        drop(qkv);
        if let Some(mem_kv) = &self.mem_kv {
            let [memory_k, memory_v] = self.memory(mem_kv.val(), n);
            (k, v) = (Tensor::cat(vec![memory_k, k], 1), Tensor::cat(vec![memory_v, v], 1));
        }
        match &self.to_out {
            ToOut::Full(conv) => {
                let out = ops::attention(q, k, v, self.heads).reshape([n, h, w, hidden]);
                conv.forward_fused(out, Fusion { residual: Some(x), ..Fusion::default() })
            }
            ToOut::Linear(NormedOutput { projection, norm }) => {
                if self.averages_values {
                    v = v.div_scalar((h * w) as f64);
                }
                let out = ops::linear_attention(q, k, v, self.heads).reshape([n, h, w, hidden]);
                norm.forward(projection.forward(out)) + x
            }
        }
    }

    /// Returns keys and values of the memory, each `[n,tokens,heads·d]`.
    fn memory(&self, memory: Tensor<4>, n: usize) -> [Tensor<3>; 2] {
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
