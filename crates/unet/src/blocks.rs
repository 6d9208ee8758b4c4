//! Residual blocks, attention, and the levels made of them. Field names are diffusers' parameter names.

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use random::{Random, Stream};

use crate::config::{Config, DownBlockType, ResampleType, ResnetTimeScaleShift, UpBlockType};
use crate::layers::{ALMOST_ZERO, Conv2d, GroupNorm, Init, Linear, ONE};
use crate::ops::{self, Geometry};

/// Which random numbers a forward pass drops activations by. A mask depends on the seed, the step, the image's number
/// and the block alone.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    /// The run's randomness.
    pub random: Random,
    /// The training step.
    pub step: u64,
    /// Number of the batch's first image within the step.
    pub first_image: u64,
}

/// GN–SiLU–conv, time embedding, GN–SiLU–dropout–conv, and a shortcut (Ho et al. 2020, appendix B).
#[derive(Module, Debug)]
pub struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
    scale_shift: bool,
    output_scale: f64,
    dropout: f64,
    number: usize,
    #[module(skip)]
    resampling: Resampling,
}

/// What a residual block does to the size, on its way and on its shortcut.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Resampling {
    None,
    Down,
    Up,
}

impl Resampling {
    fn apply(self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::None => x,
            Self::Down => ops::average_pool2x(x),
            Self::Up => ops::upsample2x(x),
        }
    }
}

/// Counts residual blocks, so that each has its own dropout masks.
#[derive(Default)]
pub struct Numbering(usize);

impl ResnetBlock {
    fn new(
        init: &mut Init,
        config: &Config,
        numbering: &mut Numbering,
        c_in: usize,
        c_out: usize,
        output_scale: f64,
    ) -> Self {
        let (groups, epsilon) = (config.norm_num_groups, config.norm_eps);
        let scale_shift = config.resnet_time_scale_shift == ResnetTimeScaleShift::ScaleShift;
        let same = Geometry::same(3);
        numbering.0 += 1;
        Self {
            norm1: GroupNorm::new(init, c_in, groups, epsilon),
            conv1: Conv2d::new(init, c_in, c_out, 3, same, ONE),
            time_emb_proj: Linear::new(init, config.time_embed_dim(), if scale_shift { 2 * c_out } else { c_out }, ONE),
            norm2: GroupNorm::new(init, c_out, groups, epsilon),
            conv2: Conv2d::new(init, c_out, c_out, 3, same, ALMOST_ZERO),
            conv_shortcut: (c_in != c_out).then(|| Conv2d::new(init, c_in, c_out, 1, Geometry::same(1), ONE)),
            scale_shift,
            output_scale,
            dropout: config.dropout,
            number: numbering.0,
            resampling: Resampling::None,
        }
    }

    /// A block of the same channels that halves or doubles the size (Dhariwal & Nichol 2021).
    fn resampling(
        init: &mut Init,
        config: &Config,
        numbering: &mut Numbering,
        channels: usize,
        to: Resampling,
    ) -> Self {
        Self { resampling: to, ..Self::new(init, config, numbering, channels, channels, 1.0) }
    }

    /// x `[N,H,W,I]`, or its first channels and `skip` the last, emb `[N,time_embed_dim]` (after SiLU), result `[N,H,W,O]`.
    fn forward(&self, x: Tensor<4>, skip: Option<Tensor<4>>, emb: Tensor<2>, dropout: Option<&Dropout>) -> Tensor<4> {
        // Only the two convolutions that read the input can read it in two parts, and not where gradients want it joined.
        let (x, skip) = match (&self.conv_shortcut, self.resampling) {
            (Some(_), Resampling::None) if ops::reads_parts(&x.device()) => (x, skip),
            _ => (ops::joined(x, skip), None),
        };
        let time = self.time_emb_proj.forward(emb);
        let (shift, scale_shift) = if self.scale_shift { (None, Some(time)) } else { (Some(time), None) };
        let h = match self.resampling {
            Resampling::None => self.conv1.forward_normed(&self.norm1, x.clone(), skip.clone(), None, shift, None),
            Resampling::Down | Resampling::Up => {
                let h = self.resampling.apply(self.norm1.forward_silu(x.clone(), None));
                self.conv1.forward_with(h, shift, None)
            }
        };
        let x = self.resampling.apply(x);
        let shortcut = match &self.conv_shortcut {
            Some(conv) => conv.forward_joined(x, skip),
            None => x,
        };
        let y = match dropout.filter(|_| self.dropout > 0.0) {
            None => self.conv2.forward_normed(&self.norm2, h, None, scale_shift, None, Some(shortcut)),
            Some(dropout) => {
                let h = self.drop(self.norm2.forward_silu(h, scale_shift), dropout);
                self.conv2.forward_with(h, None, Some(shortcut))
            }
        };
        if self.output_scale == 1.0 { y } else { y.div_scalar(self.output_scale) }
    }

    fn drop(&self, h: Tensor<4>, dropout: &Dropout) -> Tensor<4> {
        let dims = h.dims();
        let mut mask = vec![1.0; dims.iter().product()];
        for (i, image) in mask.chunks_mut((dims[1] * dims[2] * dims[3]).max(1)).enumerate() {
            let index = (self.number as u64) << 32 | (dropout.first_image + i as u64);
            dropout.random.dropout(Stream::Dropout, index, dropout.step, 0, self.dropout as f32, image);
        }
        let mask = Tensor::from_data(TensorData::new(mask, dims), &h.device());
        h.mul(mask)
    }
}

/// Self-attention over pixels with a residual sum.
#[derive(Module, Debug)]
pub struct AttentionBlock {
    group_norm: Option<GroupNorm>,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Vec<Linear>,
    heads: usize,
    output_scale: f64,
}

impl AttentionBlock {
    fn new(init: &mut Init, config: &Config, channels: usize, groups: Option<usize>, output_scale: f64) -> Self {
        let heads = config.heads(channels);
        let inner = heads * config.attention_head_dim.unwrap_or(channels);
        Self {
            group_norm: groups.map(|groups| GroupNorm::new(init, channels, groups, config.norm_eps)),
            to_q: Linear::new(init, channels, inner, ONE),
            to_k: Linear::new(init, channels, inner, ONE),
            to_v: Linear::new(init, channels, inner, ONE),
            to_out: vec![Linear::new(init, inner, channels, ALMOST_ZERO)],
            heads,
            output_scale,
        }
    }

    /// `[N,H,W,C]` to the same.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [n, h, w, c] = x.dims();
        let normed = match &self.group_norm {
            Some(norm) => norm.forward(x.clone()),
            None => x.clone(),
        };
        let rows = normed.reshape([n * h * w, c]);
        let tokens = |rows: Tensor<2>| {
            let inner = rows.dims()[1];
            rows.reshape([n, h * w, inner])
        };
        let q = tokens(self.to_q.forward(rows.clone()));
        let k = tokens(self.to_k.forward(rows.clone()));
        let v = tokens(self.to_v.forward(rows));
        let out = ops::attention(q, k, v, self.heads);
        let inner = out.dims()[2];
        let residual = Some(x.reshape([n * h * w, c]));
        let y = self.to_out[0].forward_with(out.reshape([n * h * w, inner]), residual).reshape([n, h, w, c]);
        if self.output_scale == 1.0 { y } else { y.div_scalar(self.output_scale) }
    }
}

/// What comes between two levels.
#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "a network has a handful of them")]
pub enum Sampler {
    /// A convolution.
    Conv(ConvSampler),
    /// A residual block.
    Resnet(ResnetBlock),
}

impl Sampler {
    fn down(&self) -> Layer<'_> {
        match self {
            Sampler::Conv(sampler) => Layer::Conv(&sampler.conv),
            Sampler::Resnet(block) => Layer::Resnet(block, None),
        }
    }

    fn up(&self) -> Layer<'_> {
        match self {
            Sampler::Conv(sampler) => Layer::UpsampleConv(&sampler.conv),
            Sampler::Resnet(block) => Layer::Resnet(block, None),
        }
    }
}

/// A convolution, of stride 2 or after an enlargement.
#[derive(Module, Debug)]
pub struct ConvSampler {
    conv: Conv2d,
}

/// A level of the down path.
#[derive(Module, Debug)]
pub struct DownBlock {
    resnets: Vec<ResnetBlock>,
    attentions: Vec<AttentionBlock>,
    downsamplers: Vec<Sampler>,
}

impl DownBlock {
    /// Level `level` from the finest; its first residual block takes `c_in` channels.
    pub(crate) fn new(init: &mut Init, config: &Config, numbering: &mut Numbering, level: usize, c_in: usize) -> Self {
        let c_out = config.block_out_channels[level];
        let layers = config.layers_per_block;
        let resnets = (0..layers)
            .map(|j| ResnetBlock::new(init, config, numbering, if j == 0 { c_in } else { c_out }, c_out, 1.0))
            .collect();
        let attentions = match config.down_block_types[level] {
            DownBlockType::AttnDownBlock2D => layers,
            DownBlockType::DownBlock2D | DownBlockType::ResnetDownsampleBlock2D => 0,
        };
        let last = level + 1 == config.block_out_channels.len();
        let padding = config.downsample_padding;
        let geometry = Geometry { stride: 2, before: padding, after: 1 };
        Self {
            resnets,
            attentions: (0..attentions)
                .map(|_| AttentionBlock::new(init, config, c_out, Some(config.norm_num_groups), 1.0))
                .collect(),
            downsamplers: (0..usize::from(!last))
                .map(|_| match config.downsample(level) {
                    ResampleType::Conv => {
                        Sampler::Conv(ConvSampler { conv: Conv2d::new(init, c_out, c_out, 3, geometry, ONE) })
                    }
                    ResampleType::Resnet => {
                        Sampler::Resnet(ResnetBlock::resampling(init, config, numbering, c_out, Resampling::Down))
                    }
                })
                .collect(),
        }
    }

    /// Every output goes to the up path too.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        let layers = self.resnets.iter().enumerate().map(|(j, resnet)| Layer::Resnet(resnet, self.attentions.get(j)));
        layers.chain(self.downsamplers.iter().map(Sampler::down)).map(|layer| Piece {
            layer,
            joins: false,
            leaves: true,
        })
    }
}

/// The middle: two residual blocks with attention between them.
#[derive(Module, Debug)]
pub struct MidBlock {
    resnets: Vec<ResnetBlock>,
    attentions: Vec<AttentionBlock>,
}

impl MidBlock {
    pub(crate) fn new(init: &mut Init, config: &Config, numbering: &mut Numbering, channels: usize) -> Self {
        let scale = config.mid_block_scale_factor;
        let mut resnet = |init: &mut Init| ResnetBlock::new(init, config, numbering, channels, channels, scale);
        let first = resnet(init);
        let attentions = (0..usize::from(config.add_attention))
            .map(|_| AttentionBlock::new(init, config, channels, config.mid_attention_groups(), scale))
            .collect();
        Self { resnets: vec![first, resnet(init)], attentions }
    }

    pub(crate) fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        // The attention, where there is one, comes between the two residual blocks.
        let layers = self.resnets.iter().enumerate().map(|(j, resnet)| Layer::Resnet(resnet, self.attentions.get(j)));
        layers.map(|layer| Piece { layer, joins: false, leaves: false })
    }
}

/// A level of the up path.
#[derive(Module, Debug)]
pub struct UpBlock {
    resnets: Vec<ResnetBlock>,
    attentions: Vec<AttentionBlock>,
    upsamplers: Vec<Sampler>,
}

impl UpBlock {
    /// Level number `index` from the coarsest. `channels` come from below; `skips` holds the channels of the down
    /// path's outputs, the last first to go.
    pub(crate) fn new(
        init: &mut Init,
        config: &Config,
        numbering: &mut Numbering,
        index: usize,
        channels: usize,
        skips: &mut Vec<usize>,
    ) -> Self {
        let levels = config.block_out_channels.len();
        let c_out = config.block_out_channels[levels - 1 - index];
        let layers = config.layers_per_block + 1;
        let resnets = (0..layers)
            .map(|j| {
                let from_below = if j == 0 { channels } else { c_out };
                let c_in = from_below + skips.pop().unwrap_or(0);
                ResnetBlock::new(init, config, numbering, c_in, c_out, 1.0)
            })
            .collect();
        let attentions = match config.up_block_types[index] {
            UpBlockType::AttnUpBlock2D => layers,
            UpBlockType::UpBlock2D | UpBlockType::ResnetUpsampleBlock2D => 0,
        };
        Self {
            resnets,
            attentions: (0..attentions)
                .map(|_| AttentionBlock::new(init, config, c_out, Some(config.norm_num_groups), 1.0))
                .collect(),
            upsamplers: (0..usize::from(index + 1 < levels))
                .map(|_| match config.upsample(index) {
                    ResampleType::Conv => {
                        let conv = Conv2d::new(init, c_out, c_out, 3, Geometry::same(3), ONE);
                        Sampler::Conv(ConvSampler { conv })
                    }
                    ResampleType::Resnet => {
                        Sampler::Resnet(ResnetBlock::resampling(init, config, numbering, c_out, Resampling::Up))
                    }
                })
                .collect(),
        }
    }

    /// Residual blocks take what the down path left, the last first.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        let resnet = |(j, resnet)| Layer::Resnet(resnet, self.attentions.get(j));
        let layers = self.resnets.iter().enumerate().map(resnet);
        let joined = layers.map(|layer| Piece { layer, joins: true, leaves: false });
        let up = self.upsamplers.iter().map(Sampler::up);
        joined.chain(up.map(|layer| Piece { layer, joins: false, leaves: false }))
    }
}

/// A part of the network from one activation to the next.
pub(crate) struct Piece<'a> {
    pub layer: Layer<'a>,
    /// Its input is joined with the last output that was left and not taken yet.
    pub joins: bool,
    /// Its output is left for the up path.
    pub leaves: bool,
}

/// What a piece computes.
pub(crate) enum Layer<'a> {
    Conv(&'a Conv2d),
    Resnet(&'a ResnetBlock, Option<&'a AttentionBlock>),
    UpsampleConv(&'a Conv2d),
}

impl Layer<'_> {
    /// [`Layer::forward`] off the autodiff graph. The layer's own copy without autodiff lives as long as this call, and so
    /// do the filters that it prepares.
    pub(crate) fn forward_untracked(
        &self,
        x: Tensor<4>,
        skip: Option<Tensor<4>>,
        emb: &Tensor<2>,
        dropout: Option<&Dropout>,
    ) -> Tensor<4> {
        match self {
            Layer::Conv(conv) => Layer::Conv(&conv.valid()).forward(x, skip, emb, dropout),
            Layer::UpsampleConv(conv) => Layer::UpsampleConv(&conv.valid()).forward(x, skip, emb, dropout),
            Layer::Resnet(resnet, attention) => {
                let (resnet, attention) = (resnet.valid(), attention.map(|attention| attention.valid()));
                Layer::Resnet(&resnet, attention.as_ref()).forward(x, skip, emb, dropout)
            }
        }
    }

    /// `skip` is what was left by the piece's partner on the down path.
    pub(crate) fn forward(
        &self,
        x: Tensor<4>,
        skip: Option<Tensor<4>>,
        emb: &Tensor<2>,
        dropout: Option<&Dropout>,
    ) -> Tensor<4> {
        match self {
            Layer::Conv(conv) => conv.forward_joined(x, skip),
            Layer::UpsampleConv(conv) => conv.forward(ops::upsample2x(x)),
            Layer::Resnet(resnet, attention) => {
                let x = resnet.forward(x, skip, emb.clone(), dropout);
                match attention {
                    Some(attention) => attention.forward(x),
                    None => x,
                }
            }
        }
    }
}
