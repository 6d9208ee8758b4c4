//! The network of hmdolatabadi/denoising_diffusion, as it is.
//!
//! It is Ho et al.'s but for its attention, whose convolution makes four times the channels; these are split into three parts, of
//! which the last is a little smaller and not used. The attention averages the block's input itself. Besides, ε of the
//! normalizations is 1e-5, convolutions with stride 2 are padded on all sides, and levels have attention by their stride: the
//! published configurations ask for a stride of 16, which the networks do not have, so that only the middle has one.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::activations::Activations;
use crate::blocks::{BlockCounter, Dropout, ResnetBlock};
use crate::checkpointing::{UnetInputs, checkpointed_gradients};
use crate::config::UnetConfig;
use crate::error::Error;
use crate::json;
use crate::layers::{Conv2d, GroupNorm, INIT_SCALE, Init, ZERO_INIT_SCALE};
use crate::ops::{self, Fusion, Geometry};
use crate::parameters::Parameters;
use crate::sample_size::{SampleSize, check_multiple};
use crate::stages::{EmbeddingUse, Forward, Pass, Stage, StageLayers, StageList};
use crate::time_embedding::{TimestepEmbedding, sinusoidal};

/// The value of `_class_name`.
const CLASS: &str = "HmdolatabadiUNet";
/// Channels of the output; the original has no argument for it.
const OUT_CHANNELS: usize = 3;
/// Groups and ε of each normalization.
const GROUPS: usize = 32;
const EPSILON: f64 = 1e-5;

/// The configuration of [`HmdolatabadiUnet`]: the keys of `model` in the original's JSON files that describe the network, with
/// the values of its CIFAR-10 network. `sample_size` is this program's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HmdolatabadiConfig {
    /// Height and width of the training images.
    pub sample_size: Option<SampleSize>,
    /// Channels of the images. The output has three.
    pub in_channel: usize,
    /// The width that the others are multiples of.
    pub channel: usize,
    /// Channels of each level, finest first, as multiples of `channel`.
    pub channel_multiplier: Vec<usize>,
    /// Residual blocks of each level of the encoder.
    pub n_res_blocks: usize,
    /// Strides of the levels with attention: 1 for the finest, 2 for the next, 4, …
    pub attn_strides: Vec<usize>,
    /// The probability of dropout.
    pub dropout: f64,
    /// The side of the squares of pixels that are moved into channels before the first layer.
    pub fold: usize,
}

impl Default for HmdolatabadiConfig {
    fn default() -> Self {
        Self {
            sample_size: None,
            in_channel: 3,
            channel: 128,
            channel_multiplier: vec![1, 2, 2, 2],
            n_res_blocks: 2,
            attn_strides: vec![16],
            dropout: 0.1,
            fold: 1,
        }
    }
}

impl HmdolatabadiConfig {
    /// The value of `_class_name` in `config.json`.
    pub const CLASS_NAME: &str = CLASS;

    /// Parses the text of a `config.json`.
    ///
    /// # Errors
    /// If a key or value is not supported; the error names it.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        let fixed: json::FixedKeys = &[("_class_name", &["\"HmdolatabadiUNet\""])];
        let keys = json::ClassKeys { class: CLASS, fixed, ignored: &[] };
        let config = json::read(text, &keys, &Self::default())?;
        config.validate()?;
        Ok(config)
    }

    /// Returns the configuration as the text of a `config.json`.
    pub fn to_json(&self) -> String {
        let mut value = serde_json::json!({ "_class_name": CLASS });
        if let (Some(all), Ok(serde_json::Value::Object(own))) = (value.as_object_mut(), serde_json::to_value(self)) {
            all.extend(own);
        }
        format!("{value:#}\n")
    }

    /// Returns the channels of the output.
    pub fn out_channels(&self) -> usize {
        OUT_CHANNELS
    }

    /// Returns the number of parameters of the network.
    pub fn parameter_count(&self) -> usize {
        let conv = |kernel: usize, c_in: usize, c_out: usize| (kernel * kernel * c_in + 1) * c_out;
        let time = 4 * self.channel;
        let resnet = |c_in: usize, c_out: usize| {
            let skip = if c_in == c_out { 0 } else { conv(1, c_in, c_out) };
            2 * (c_in + c_out) + conv(3, c_in, c_out) + conv(3, c_out, c_out) + (time + 1) * c_out + skip
        };
        let count = |part: &Layers| match *part {
            Layers::Stem { c_in } => conv(3, c_in, self.channel),
            Layers::Resample { channels, .. } => conv(3, channels, channels),
            Layers::Block { c_in, c_out, attends } => {
                let attention = if attends { 2 * c_out + conv(1, c_out, 4 * c_out) + conv(1, c_out, c_out) } else { 0 };
                resnet(c_in, c_out) + attention
            }
        };
        let plan = self.plan();
        let last = plan.last;
        let out = 2 * last + conv(3, last, OUT_CHANNELS * self.fold * self.fold);
        let parts = plan.down.iter().chain(&plan.mid).chain(&plan.up).map(count).sum::<usize>();
        (self.channel + 1) * time + (time + 1) * time + parts + out
    }

    /// Checks that the configuration describes a network.
    ///
    /// # Errors
    /// If it does not; the error names the key and the expected value.
    pub fn validate(&self) -> Result<(), Error> {
        let check = |ok: bool, message: String| if ok { Ok(()) } else { Err(Error::Config(message)) };
        let levels = self.channel_multiplier.len();
        check((1..=16).contains(&levels), format!("`channel_multiplier` has {levels} entries; expected 1 to 16"))?;
        for (key, value, most) in [
            ("in_channel", self.in_channel, 1 << 10),
            ("channel", self.channel, 1 << 16),
            ("n_res_blocks", self.n_res_blocks, 64),
            ("fold", self.fold, 64),
        ] {
            check((1..=most).contains(&value), format!("`{key}` is {value}; expected 1 to {most}"))?;
        }
        check(
            self.channel.is_multiple_of(GROUPS),
            format!("`channel` is {}; expected a multiple of {GROUPS}", self.channel),
        )?;
        for &multiplier in &self.channel_multiplier {
            let width = self.channel.saturating_mul(multiplier);
            check(
                (GROUPS..=1 << 16).contains(&width),
                format!(
                    "`channel_multiplier` has {multiplier}, so that a level has {width} channels; expected 32 to 65536"
                ),
            )?;
        }
        check((0.0..1.0).contains(&self.dropout), format!("`dropout` is {:?}; expected 0 ≤ p < 1", self.dropout))?;
        match self.sample_size {
            Some(SampleSize { height, width }) => self.check_size(height, width),
            None => Ok(()),
        }
    }

    /// Checks that images of this size can be folded and pass through all levels.
    ///
    /// # Errors
    /// If they cannot; the error names sizes that can.
    pub fn check_size(&self, height: usize, width: usize) -> Result<(), Error> {
        let fold = self.fold;
        if !height.is_multiple_of(fold) || !width.is_multiple_of(fold) {
            return Err(Error::Config(format!(
                "images of {height}x{width} cannot be folded: both sides must be multiples of {fold}"
            )));
        }
        check_multiple([height / fold, width / fold], self.channel_multiplier.len())
    }

    /// Counts the activations of images of a size, from the structure of the network. Parameters are not included.
    pub fn activations(&self, height: usize, width: usize) -> Activations {
        let mut all = Activations::default();
        let plan = self.plan();
        let mut pixels = (height * width) as f64 / (self.fold * self.fold) as f64;
        let mut channels = 0;
        let mut add = |all: &mut Activations, layers: &Layers| match *layers {
            Layers::Stem { c_in } => {
                let output = self.channel as f64 * pixels;
                all.add(output, output, output + c_in as f64 * pixels);
                channels = self.channel;
            }
            Layers::Resample { channels, is_up } => {
                let input = channels as f64 * pixels;
                pixels *= if is_up { 4.0 } else { 0.25 };
                let output = channels as f64 * pixels;
                // The enlarged input, and the output.
                all.add(if is_up { 2.0 * output } else { output }, output, input.max(output) + output);
            }
            Layers::Block { c_in, c_out, attends } => {
                let (from, to) = (c_in as f64, c_out as f64);
                // The concatenated input, the first convolution's output and the block's.
                let joined = if channels == c_in { 0.0 } else { from };
                let dropped = if self.dropout > 0.0 { 2.0 * to } else { 0.0 };
                // Queries, keys and values of 4/3 of the channels, their product and the output.
                let attended = if attends { 6.0 * to } else { 0.0 };
                all.add((joined + 2.0 * to + dropped + attended) * pixels, to * pixels, (from + to) * pixels);
                channels = c_out;
            }
        };
        plan.down.iter().for_each(|layers| add(&mut all, layers));
        all.skips = all.outputs;
        plan.mid.iter().chain(&plan.up).for_each(|layers| add(&mut all, layers));
        all
    }

    /// Lists the layers of encoder, middle and decoder.
    fn plan(&self) -> Plan {
        let last = self.channel_multiplier.len() - 1;
        let attends = |level: usize| self.attn_strides.contains(&(1 << level));
        let width_of = |level: usize| self.channel * self.channel_multiplier[level];
        let mut down = vec![Layers::Stem { c_in: self.in_channel * self.fold * self.fold }];
        let (mut skips, mut width) = (vec![self.channel], self.channel);
        for level in 0..=last {
            for _ in 0..self.n_res_blocks {
                down.push(Layers::Block { c_in: width, c_out: width_of(level), attends: attends(level) });
                width = width_of(level);
                skips.push(width);
            }
            if level < last {
                down.push(Layers::Resample { channels: width, is_up: false });
                skips.push(width);
            }
        }
        let mid = [true, false].map(|attends| Layers::Block { c_in: width, c_out: width, attends }).into();
        let mut up = Vec::new();
        for level in (0..=last).rev() {
            for _ in 0..=self.n_res_blocks {
                let c_in = width + skips.pop().unwrap_or(0);
                width = width_of(level);
                up.push(Layers::Block { c_in, c_out: width, attends: attends(level) });
            }
            if level > 0 {
                up.push(Layers::Resample { channels: width, is_up: true });
            }
        }
        Plan { down, mid, up, last: width }
    }

    /// Returns the configuration of the residual blocks, which are those of diffusers.
    fn blocks(&self) -> UnetConfig {
        UnetConfig {
            block_out_channels: vec![self.channel],
            norm_num_groups: GROUPS,
            norm_eps: EPSILON,
            dropout: self.dropout,
            ..UnetConfig::default()
        }
    }
}

/// The layers of a part of the network.
enum Layers {
    Stem { c_in: usize },
    Resample { channels: usize, is_up: bool },
    Block { c_in: usize, c_out: usize, attends: bool },
}

struct Plan {
    down: Vec<Layers>,
    mid: Vec<Layers>,
    up: Vec<Layers>,
    /// Channels of the last activation.
    last: usize,
}

/// A part of the network: a convolution, or a residual block with attention.
#[derive(Module, Debug)]
pub struct Part {
    conv: Option<Conv2d>,
    resblocks: Option<ResnetBlock>,
    attention: Option<UnevenAttention>,
}

impl Part {
    fn new(init: &mut Init, config: &HmdolatabadiConfig, counter: &mut BlockCounter, layers: &Layers) -> Self {
        let conv = |init: &mut Init, shape: [usize; 2], geometry: Geometry| Self {
            conv: Some(Conv2d::new(init, [3, 3, shape[0], shape[1]], geometry, INIT_SCALE)),
            resblocks: None,
            attention: None,
        };
        match *layers {
            Layers::Stem { c_in } => conv(init, [c_in, config.channel], Geometry::same(3)),
            Layers::Resample { channels, is_up: true } => conv(init, [channels; 2], Geometry::same(3)),
            Layers::Resample { channels, is_up: false } => {
                conv(init, [channels; 2], Geometry { stride: 2, before: 1, after: 1 })
            }
            Layers::Block { c_in, c_out, attends } => Self {
                conv: None,
                resblocks: Some(ResnetBlock::new(init, &config.blocks(), counter, [c_in, c_out], 1.0)),
                attention: attends.then(|| UnevenAttention::new(init, c_out)),
            },
        }
    }
}

/// Attention over pixels that averages its own input.
#[derive(Module, Debug)]
pub struct UnevenAttention {
    norm: GroupNorm,
    qkv: Conv2d,
    out: Conv2d,
}

impl UnevenAttention {
    fn new(init: &mut Init, channels: usize) -> Self {
        let conv = |init: &mut Init, c_out: usize, scale: f64| {
            Conv2d::new(init, [1, 1, channels, c_out], Geometry::same(1), scale)
        };
        Self {
            norm: GroupNorm::new(init, channels, GROUPS, EPSILON),
            qkv: conv(init, 4 * channels, INIT_SCALE),
            out: conv(init, channels, ZERO_INIT_SCALE),
        }
    }

    /// Maps `[N,H,W,C]` to the same shape.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [n, h, w, c] = x.dims();
        let norm = Some(self.norm.plain());
        let qkv = self.qkv.forward_fused(x.clone(), Fusion { norm, ..Fusion::default() });
        // `torch.chunk` rounds up: 4·C channels are two parts of this width, and a smaller one that is not used.
        let width = (4 * c).div_ceil(3);
        let part = |i: usize| qkv.clone().narrow(3, i * width, width).reshape([n, h * w, width]);
        // The scores are divided by √C, not by the root of their width, and averaged is the input: it gets the width of the
        // keys by zeros.
        let q = part(0).mul_scalar((width as f64 / c as f64).sqrt());
        let tokens = x.clone().reshape([n, h * w, c]);
        let zeros = Tensor::zeros([n, h * w, width - c], &x.device());
        let v = Tensor::cat(vec![tokens, zeros], 2);
        let averaged = ops::attention(q, part(1), v, 1).narrow(2, 0, c).reshape([n, h, w, c]);
        self.out.forward_fused(averaged, Fusion { residual: Some(x), ..Fusion::default() })
    }
}

/// The network of hmdolatabadi/denoising_diffusion. Activations are in N,H,W,C.
#[derive(Module, Debug)]
pub struct HmdolatabadiUnet {
    embedding: TimestepEmbedding,
    down: Vec<Part>,
    mid: Vec<Part>,
    up: Vec<Part>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
    #[module(skip)]
    config: HmdolatabadiConfig,
}

/// Names of fields that are other names or numbers in files, each as a whole word of a path.
const NAMES: [(&str, &str); 4] =
    [("linear_1", "1"), ("linear_2", "3"), ("time_emb_proj", "time.1"), ("conv_shortcut", "skip")];

impl Parameters for HmdolatabadiUnet {
    fn name_of(&self, path: String) -> String {
        let words: Vec<&str> = path.split('.').collect();
        let renamed = |word: &str| {
            NAMES.iter().find(|(field, _)| *field == word).map_or(word.to_owned(), |(_, name)| (*name).to_owned())
        };
        match words[..] {
            ["embedding", ..] => format!("time.{}.{}", renamed(words[1]), words[2]),
            ["norm_out", last] => format!("out.0.{last}"),
            ["conv_out", last] => format!("out.2.{last}"),
            // The first layer stands alone, those that change the size are in a sequence: after nothing, or after upsampling.
            ["down", "0", "conv", last] => format!("down.0.{last}"),
            ["down", index, "conv", last] => format!("down.{index}.0.{last}"),
            ["up", index, "conv", last] => format!("up.{index}.1.{last}"),
            _ => words.into_iter().map(renamed).collect::<Vec<_>>().join("."),
        }
    }
}

impl HmdolatabadiUnet {
    /// Creates a network with initial weights drawn from `seed`, with the variances of the original.
    ///
    /// # Errors
    /// If the configuration is invalid.
    pub fn new(config: &HmdolatabadiConfig, seed: u64, device: &Device) -> Result<Self, Error> {
        config.validate()?;
        let init = &mut Init::new(seed, device);
        let counter = &mut BlockCounter::default();
        let plan = config.plan();
        let embedding = TimestepEmbedding::new(init, config.channel, 4 * config.channel);
        let mut parts = |layers: Vec<Layers>| -> Vec<Part> {
            layers.iter().map(|layers| Part::new(init, config, counter, layers)).collect()
        };
        let (down, mid, up) = (parts(plan.down), parts(plan.mid), parts(plan.up));
        let out = [3, 3, plan.last, OUT_CHANNELS * config.fold * config.fold];
        Ok(Self {
            embedding,
            down,
            mid,
            up,
            norm_out: GroupNorm::new(init, plan.last, GROUPS, EPSILON),
            conv_out: Conv2d::new(init, out, Geometry::same(3), ZERO_INIT_SCALE),
            config: config.clone(),
        })
    }

    /// Returns the configuration of the network.
    pub fn config(&self) -> &HmdolatabadiConfig {
        &self.config
    }

    /// Computes the output of the network for noisy images.
    ///
    /// x is `[N,H,W,in_channel]`, the result `[N,H,W,3]`. Dropout is applied only if `dropout` is given, as in training.
    ///
    /// # Panics
    /// If shapes do not match. Check sizes with [`HmdolatabadiConfig::check_size`] first.
    pub fn forward(&self, x: Tensor<4>, timesteps: &[f32], dropout: Option<&Dropout>) -> Tensor<4> {
        self.output(self.begin(x, timesteps, dropout).run())
    }

    /// Computes the gradients of `loss(self.forward(…))`, as [`Unet::checkpointed_gradients`](crate::Unet::checkpointed_gradients).
    ///
    /// # Panics
    /// As [`HmdolatabadiUnet::forward`], and if the network is not on an autodiff device.
    pub fn checkpointed_gradients(
        &self,
        inputs: UnetInputs<()>,
        loss: impl FnOnce(Tensor<4>) -> Tensor<1>,
    ) -> Vec<Option<Tensor<1>>> {
        let UnetInputs { x, timesteps, condition: (), dropout, observer } = inputs;
        let forward = self.begin(x, timesteps, dropout);
        checkpointed_gradients(self, forward, observer, |x| loss(self.output(x)))
    }

    fn begin<'a>(
        &'a self,
        x: Tensor<4>,
        timesteps: &[f32],
        dropout: Option<&'a Dropout>,
    ) -> Forward<'a, PartLayers<'a>> {
        assert_eq!(x.dims()[0], timesteps.len(), "expected one timestep per image");
        let width = self.config.channel;
        let rows = sinusoidal(timesteps, width, 10_000.0);
        let rows = Tensor::from_data(TensorData::new(rows, [timesteps.len(), width]), &x.device());
        // Every residual block starts with this SiLU.
        let embedding = ops::silu(self.embedding.forward(rows));
        let x = ops::space_to_depth(x, self.config.fold);
        Forward { x, stages: self.stages(), pass: Pass { embedding, dropout } }
    }

    fn stages(&self) -> Vec<Stage<PartLayers<'_>>> {
        let mut list = StageList::new();
        let layers = |part, is_up| PartLayers { part, is_up };
        for part in &self.down {
            list.then(layers(part, false), None);
            list.push_skip();
        }
        self.mid.iter().for_each(|part| list.then(layers(part, false), None));
        for part in &self.up {
            let skip = if part.conv.is_none() { list.pop_skip() } else { None };
            list.then(layers(part, true), skip);
        }
        list.finish()
    }

    fn output(&self, x: Tensor<4>) -> Tensor<4> {
        let norm = Some(self.norm_out.with_silu(None));
        let output = self.conv_out.forward_fused(x, Fusion { norm, ..Fusion::default() });
        ops::depth_to_space(output, self.config.fold)
    }
}

/// The layers of a stage: a part, whose convolution comes after upsampling on the way up.
struct PartLayers<'a> {
    part: &'a Part,
    is_up: bool,
}

impl StageLayers for PartLayers<'_> {
    fn forward(&self, x: Tensor<4>, skip: Option<Tensor<4>>, pass: &Pass) -> Tensor<4> {
        let Part { conv, resblocks, attention } = self.part;
        let x = match (conv, resblocks) {
            (Some(conv), _) if self.is_up => conv.forward(ops::upsample2x(x)),
            (Some(conv), _) => conv.forward(x),
            (None, Some(resnet)) => resnet.forward(x, skip, pass),
            (None, None) => x,
        };
        match attention {
            Some(attention) => attention.forward(x),
            None => x,
        }
    }

    fn forward_untracked(&self, x: Tensor<4>, skip: Option<Tensor<4>>, pass: &Pass) -> Tensor<4> {
        PartLayers { part: &self.part.valid(), ..*self }.forward(x, skip, pass)
    }

    fn embedding(&self) -> EmbeddingUse {
        if self.part.resblocks.is_some() { EmbeddingUse::AfterInputs } else { EmbeddingUse::None }
    }
}
