//! Residual blocks, attention, and the levels composed of them. Field names are the parameter names of diffusers.

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use random::{Random, Stream};

use crate::config::{DownBlockType, ResampleType, ResnetTimeScaleShift, UnetConfig, UpBlockType};
use crate::layers::{Conv2d, GroupNorm, INIT_SCALE, Init, Linear, ZERO_INIT_SCALE};
use crate::ops::{self, Fusion, Geometry};
use crate::stages::{EmbeddingUse, Pass, StageLayers, StageList};

/// The source of the dropout masks of a forward pass. A mask depends only on the seed, the step, the image and the
/// block.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    /// The random numbers of the run.
    pub random: Random,
    /// The training step.
    pub step: u64,
    /// The number of the first image of the batch within the step.
    pub first_image: u64,
}

impl Dropout {
    /// Sets activations `[N,H,W,C]` of block number `block` to zero with probability p, and divides the others by 1 − p.
    pub(crate) fn apply(&self, h: Tensor<4>, block: usize, p: f64) -> Tensor<4> {
        let dims = h.dims();
        let mut mask = vec![1.0; dims.iter().product()];
        for (i, image) in mask.chunks_mut((dims[1] * dims[2] * dims[3]).max(1)).enumerate() {
            let index = (block as u64) << 32 | (self.first_image + i as u64);
            self.random.dropout(Stream::Dropout, index, self.step, p as f32).apply(0, image);
        }
        let mask = Tensor::from_data(TensorData::new(mask, dims), &h.device());
        h.mul(mask)
    }
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
    resize: Resize,
}

/// The resampling inside a residual block, on both its branch and its shortcut.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Resize {
    None,
    Down,
    Up,
}

impl Resize {
    fn apply(self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::None => x,
            Self::Down => ops::average_pool2x(x),
            Self::Up => ops::upsample2x(x),
        }
    }
}

/// Numbers the residual blocks, so that each has its own dropout masks.
#[derive(Default)]
pub struct BlockCounter(usize);

impl ResnetBlock {
    pub(crate) fn new(
        init: &mut Init,
        config: &UnetConfig,
        counter: &mut BlockCounter,
        [c_in, c_out]: [usize; 2],
        output_scale: f64,
    ) -> Self {
        let (groups, epsilon) = (config.norm_num_groups, config.norm_eps);
        let scale_shift = config.resnet_time_scale_shift == ResnetTimeScaleShift::ScaleShift;
        let same = Geometry::same(3);
        counter.0 += 1;
        Self {
            norm1: GroupNorm::new(init, c_in, groups, epsilon),
            conv1: Conv2d::new(init, [3, 3, c_in, c_out], same, INIT_SCALE),
            time_emb_proj: Linear::new(
                init,
                config.time_embed_dim(),
                if scale_shift { 2 * c_out } else { c_out },
                INIT_SCALE,
            ),
            norm2: GroupNorm::new(init, c_out, groups, epsilon),
            conv2: Conv2d::new(init, [3, 3, c_out, c_out], same, ZERO_INIT_SCALE),
            conv_shortcut: (c_in != c_out)
                .then(|| Conv2d::new(init, [1, 1, c_in, c_out], Geometry::same(1), INIT_SCALE)),
            scale_shift,
            output_scale,
            dropout: config.dropout,
            number: counter.0,
            resize: Resize::None,
        }
    }

    /// Creates a block that keeps the channels and halves or doubles the size (Dhariwal & Nichol 2021).
    fn with_resize(
        init: &mut Init,
        config: &UnetConfig,
        counter: &mut BlockCounter,
        channels: usize,
        to: Resize,
    ) -> Self {
        Self { resize: to, ..Self::new(init, config, counter, [channels; 2], 1.0) }
    }

    /// Maps x `[N,H,W,I]` and the embedding `[N,time_embed_dim]` to `[N,H,W,O]`.
    ///
    /// If `skip` is given, x holds the first of the I channels and `skip` the last.
    pub(crate) fn forward(&self, x: Tensor<4>, skip: Option<Tensor<4>>, pass: &Pass) -> Tensor<4> {
        // Only the two convolutions that read the input accept it in two parts, and autodiff needs a single tensor.
        let (x, skip) = match (&self.conv_shortcut, self.resize) {
            (Some(_), Resize::None) if ops::fuses_concat(&x.device()) => (x, skip),
            _ => (ops::concat_skip(x, skip), None),
        };
        let time = self.time_emb_proj.forward(pass.embedding.clone());
        let (shift, scale_shift) = if self.scale_shift { (None, Some(time)) } else { (Some(time), None) };
        let h = match self.resize {
            Resize::None => {
                let norm = Some(self.norm1.with_silu(None));
                self.conv1.forward_fused(x.clone(), Fusion { skip: skip.clone(), norm, shift, residual: None })
            }
            Resize::Down | Resize::Up => {
                let h = self.resize.apply(self.norm1.forward_silu(x.clone(), None));
                self.conv1.forward_fused(h, Fusion { shift, ..Fusion::default() })
            }
        };
        let x = self.resize.apply(x);
        let shortcut = match &self.conv_shortcut {
            Some(conv) => conv.forward_fused(x, Fusion { skip, ..Fusion::default() }),
            None => x,
        };
        let added = Fusion { residual: Some(shortcut), ..Fusion::default() };
        let y = match pass.dropout.filter(|_| self.dropout > 0.0) {
            None => {
                let norm = Some(self.norm2.with_silu(scale_shift));
                self.conv2.forward_fused(h, Fusion { norm, ..added })
            }
            Some(dropout) => {
                let h = self.drop(self.norm2.forward_silu(h, scale_shift), dropout);
                self.conv2.forward_fused(h, added)
            }
        };
        if self.output_scale == 1.0 { y } else { y.div_scalar(self.output_scale) }
    }

    fn drop(&self, h: Tensor<4>, dropout: &Dropout) -> Tensor<4> {
        dropout.apply(h, self.number, self.dropout)
    }
}

/// Self-attention over pixels with a residual connection.
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
    fn new(init: &mut Init, config: &UnetConfig, channels: usize, groups: Option<usize>, output_scale: f64) -> Self {
        let heads = config.heads(channels);
        let inner = heads * config.attention_head_dim.unwrap_or(channels);
        Self {
            group_norm: groups.map(|groups| GroupNorm::new(init, channels, groups, config.norm_eps)),
            to_q: Linear::new(init, channels, inner, INIT_SCALE),
            to_k: Linear::new(init, channels, inner, INIT_SCALE),
            to_v: Linear::new(init, channels, inner, INIT_SCALE),
            to_out: vec![Linear::new(init, inner, channels, ZERO_INIT_SCALE)],
            heads,
            output_scale,
        }
    }

    /// Maps `[N,H,W,C]` to the same shape.
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

/// The downsampling or upsampling layer between two levels.
#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "a network has a handful of them")]
pub enum Resample {
    /// A convolution, with stride 2 or after nearest-neighbor upsampling.
    Conv(ResampleConv),
    /// A residual block.
    Resnet(ResnetBlock),
}

impl Resample {
    fn down(&self) -> Layer<'_> {
        match self {
            Resample::Conv(resample) => Layer::Conv(&resample.conv),
            Resample::Resnet(block) => Layer::Resnet(block, None),
        }
    }

    fn up(&self) -> Layer<'_> {
        match self {
            Resample::Conv(resample) => Layer::UpsampleConv(&resample.conv),
            Resample::Resnet(block) => Layer::Resnet(block, None),
        }
    }
}

/// A convolution with stride 2 or after nearest-neighbor upsampling.
#[derive(Module, Debug)]
pub struct ResampleConv {
    conv: Conv2d,
}

/// A level of the down path.
#[derive(Module, Debug)]
pub struct DownBlock {
    resnets: Vec<ResnetBlock>,
    attentions: Vec<AttentionBlock>,
    downsamplers: Vec<Resample>,
}

impl DownBlock {
    /// Creates the level with number `level`, counted from the finest. Its first residual block has `c_in` input
    /// channels.
    pub(crate) fn new(
        init: &mut Init,
        config: &UnetConfig,
        counter: &mut BlockCounter,
        level: usize,
        c_in: usize,
    ) -> Self {
        let c_out = config.block_out_channels[level];
        let layers = config.layers_per_block;
        let resnets = (0..layers)
            .map(|j| ResnetBlock::new(init, config, counter, [if j == 0 { c_in } else { c_out }, c_out], 1.0))
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
                    ResampleType::Conv => Resample::Conv(ResampleConv {
                        conv: Conv2d::new(init, [3, 3, c_out, c_out], geometry, INIT_SCALE),
                    }),
                    ResampleType::Resnet => {
                        Resample::Resnet(ResnetBlock::with_resize(init, config, counter, c_out, Resize::Down))
                    }
                })
                .collect(),
        }
    }

    /// Adds the stages. The output of each is a skip connection.
    pub(crate) fn add_stages<'a>(&'a self, list: &mut StageList<Layer<'a>>) {
        let layers = self.resnets.iter().enumerate().map(|(j, resnet)| Layer::Resnet(resnet, self.attentions.get(j)));
        for layer in layers.chain(self.downsamplers.iter().map(Resample::down)) {
            list.then(layer, None);
            list.push_skip();
        }
    }
}

/// The middle block: two residual blocks, with attention between them if configured.
#[derive(Module, Debug)]
pub struct MidBlock {
    resnets: Vec<ResnetBlock>,
    attentions: Vec<AttentionBlock>,
}

impl MidBlock {
    pub(crate) fn new(init: &mut Init, config: &UnetConfig, counter: &mut BlockCounter, channels: usize) -> Self {
        let scale = config.mid_block_scale_factor;
        let mut resnet = |init: &mut Init| ResnetBlock::new(init, config, counter, [channels; 2], scale);
        let first = resnet(init);
        let attentions = (0..usize::from(config.add_attention))
            .map(|_| AttentionBlock::new(init, config, channels, config.mid_attention_groups(), scale))
            .collect();
        Self { resnets: vec![first, resnet(init)], attentions }
    }

    pub(crate) fn add_stages<'a>(&'a self, list: &mut StageList<Layer<'a>>) {
        // The attention, if there is one, belongs to the first residual block.
        for (j, resnet) in self.resnets.iter().enumerate() {
            list.then(Layer::Resnet(resnet, self.attentions.get(j)), None);
        }
    }
}

/// A level of the up path.
#[derive(Module, Debug)]
pub struct UpBlock {
    resnets: Vec<ResnetBlock>,
    attentions: Vec<AttentionBlock>,
    upsamplers: Vec<Resample>,
}

impl UpBlock {
    /// Creates the level with number `index`, counted from the coarsest. Its input has `channels` channels; `skips` is
    /// the stack of the channels of the skip connections.
    pub(crate) fn new(
        init: &mut Init,
        config: &UnetConfig,
        counter: &mut BlockCounter,
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
                ResnetBlock::new(init, config, counter, [c_in, c_out], 1.0)
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
                        let conv = Conv2d::new(init, [3, 3, c_out, c_out], Geometry::same(3), INIT_SCALE);
                        Resample::Conv(ResampleConv { conv })
                    }
                    ResampleType::Resnet => {
                        Resample::Resnet(ResnetBlock::with_resize(init, config, counter, c_out, Resize::Up))
                    }
                })
                .collect(),
        }
    }

    /// Adds the stages. Residual blocks read the skip connections, last first.
    pub(crate) fn add_stages<'a>(&'a self, list: &mut StageList<Layer<'a>>) {
        for (j, resnet) in self.resnets.iter().enumerate() {
            let skip = list.pop_skip();
            list.then(Layer::Resnet(resnet, self.attentions.get(j)), skip);
        }
        self.upsamplers.iter().for_each(|resample| list.then(resample.up(), None));
    }
}

/// The layers of a stage of [`Unet`](crate::Unet).
pub(crate) enum Layer<'a> {
    Conv(&'a Conv2d),
    Resnet(&'a ResnetBlock, Option<&'a AttentionBlock>),
    UpsampleConv(&'a Conv2d),
}

impl StageLayers for Layer<'_> {
    fn forward(&self, x: Tensor<4>, skip: Option<Tensor<4>>, pass: &Pass) -> Tensor<4> {
        match self {
            Layer::Conv(conv) => conv.forward_fused(x, Fusion { skip, ..Fusion::default() }),
            Layer::UpsampleConv(conv) => conv.forward(ops::upsample2x(x)),
            Layer::Resnet(resnet, attention) => {
                let x = resnet.forward(x, skip, pass);
                match attention {
                    Some(attention) => attention.forward(x),
                    None => x,
                }
            }
        }
    }

    fn forward_untracked(&self, x: Tensor<4>, skip: Option<Tensor<4>>, pass: &Pass) -> Tensor<4> {
        match self {
            Layer::Conv(conv) => Layer::Conv(&conv.valid()).forward(x, skip, pass),
            Layer::UpsampleConv(conv) => Layer::UpsampleConv(&conv.valid()).forward(x, skip, pass),
            Layer::Resnet(resnet, attention) => {
                let (resnet, attention) = (resnet.valid(), attention.map(|attention| attention.valid()));
                Layer::Resnet(&resnet, attention.as_ref()).forward(x, skip, pass)
            }
        }
    }

    fn embedding(&self) -> EmbeddingUse {
        match self {
            Layer::Resnet(..) => EmbeddingUse::AfterInputs,
            Layer::Conv(_) | Layer::UpsampleConv(_) => EmbeddingUse::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    /// Each value is kept with probability 1 − p and divided by it. A mask depends on block, step and image alone.
    #[test]
    fn dropout_keeps_the_mean_and_has_a_mask_for_each_block_step_and_image() {
        let device = Device::flex();
        let config = UnetConfig { dropout: 0.25, norm_num_groups: 4, ..UnetConfig::ddpm([16, 16, 1], &[8], 1, &[]) };
        let (init, counter) = (&mut Init::new(0, &device), &mut BlockCounter::default());
        let blocks = [0; 2].map(|_| ResnetBlock::new(init, &config, counter, [8, 8], 1.0));
        const SIZE: usize = 16 * 16 * 8;
        let masks = |block: &ResnetBlock, step: u64, first_image: u64| {
            let dropout = Dropout { random: Random::new(1), step, first_image };
            let ones = Tensor::<4>::ones([2, 16, 16, 8], &device);
            let values: Vec<f32> = block.drop(ones, &dropout).into_data().iter::<f32>().collect();
            [values[..SIZE].to_vec(), values[SIZE..].to_vec()]
        };
        let [first, second] = masks(&blocks[0], 3, 0);
        assert_eq!(masks(&blocks[0], 3, 1)[0], second);
        let all = [first, second, masks(&blocks[0], 4, 0)[0].clone(), masks(&blocks[1], 3, 0)[0].clone()];
        for (i, mask) in all.iter().enumerate() {
            assert!(mask.iter().all(|&x| x == 0.0 || (x - 4.0 / 3.0).abs() < 1e-6));
            let dropped = mask.iter().filter(|&&x| x == 0.0).count() as f64;
            // Four standard deviations.
            assert!((dropped - 0.25 * SIZE as f64).abs() < 4.0 * (0.1875 * SIZE as f64).sqrt(), "{dropped}");
            for other in &all[..i] {
                let equal = mask.iter().zip(other).filter(|(a, b)| a == b).count() as f64;
                // Independent masks agree with probability (3/4)² + (1/4)².
                assert!((equal - 0.625 * SIZE as f64).abs() < 4.0 * (0.2344 * SIZE as f64).sqrt(), "{equal}");
            }
        }
    }
}
