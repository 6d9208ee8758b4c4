//! The complete network.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData, activation};

use super::attention::MemoryAttention;
use super::config::LucidrainsConfig;
use super::layers::{LevelConv, ResidualBlock, conv};
use crate::blocks::Dropout;
use crate::checkpointing::{UnetInputs, checkpointed_gradients};
use crate::error::Error;
use crate::layers::{Conv2d, Embedding, INIT_SCALE, Init, Linear, normal_parameter};
use crate::ops;
use crate::parameters::Parameters;
use crate::stages::{EmbeddingUse, Forward, Pass, Stage, StageLayers, StageList};
use crate::time_embedding::sinusoidal;

/// The embedding of timesteps.
#[derive(Module, Debug)]
pub struct TimeMlp {
    frequencies: Option<Param<Tensor<1>>>,
    linear_1: Linear,
    linear_2: Linear,
}

/// The embedding of classes.
#[derive(Module, Debug)]
pub struct ClassMlp {
    class_1: Linear,
    class_2: Linear,
}

/// The conditions of a batch. The default has none.
#[derive(Clone, Debug, Default)]
pub struct LucidrainsCondition<'a> {
    /// The previous prediction of x_0, `[N,H,W,channels]`, for networks with self-conditioning.
    pub prediction: Option<Tensor<4>>,
    /// The class of each image, for networks with classes. `num_classes` means no class.
    pub classes: Option<&'a [u32]>,
}

/// A level of the way down or up.
#[derive(Module, Debug)]
pub struct UnetLevel {
    resnet1: ResidualBlock,
    resnet2: ResidualBlock,
    attention: MemoryAttention,
    resample: LevelConv,
}

/// The network `Unet` of denoising-diffusion-pytorch. Activations are in N,H,W,C.
#[derive(Module, Debug)]
pub struct LucidrainsUnet {
    init_conv: Conv2d,
    time_mlp: TimeMlp,
    classes_emb: Option<Embedding>,
    null_classes_emb: Option<Param<Tensor<1>>>,
    classes_mlp: Option<ClassMlp>,
    downs: Vec<UnetLevel>,
    mid_block1: ResidualBlock,
    mid_attn: MemoryAttention,
    mid_block2: ResidualBlock,
    ups: Vec<UnetLevel>,
    final_res_block: ResidualBlock,
    final_conv: Conv2d,
    #[module(skip)]
    config: LucidrainsConfig,
}

/// Names of fields that are other names or numbers in files, each as whole words of a path.
const NAMES: [(&str, &str); 12] = [
    ("frequencies", "0.weights"),
    ("linear_1", "1"),
    ("linear_2", "3"),
    ("class_1", "0"),
    ("class_2", "2"),
    ("mlp", "mlp.1"),
    ("resnet1", "0"),
    ("resnet2", "1"),
    ("attention", "2"),
    ("resized", "1"),
    ("projection", "0"),
    ("resample", "3"),
];

impl Parameters for LucidrainsUnet {
    fn name_of(&self, path: String) -> String {
        let words: Vec<&str> = path.split('.').collect();
        let shown = words.iter().enumerate().filter_map(|(i, &word)| match word {
            "kept" => None,
            // The normalization after linear attention is the second layer of `to_out`.
            "norm" if i > 0 && words[i - 1] == "to_out" => Some("1"),
            _ => Some(NAMES.iter().find(|(field, _)| *field == word).map_or(word, |(_, name)| name)),
        });
        shown.collect::<Vec<&str>>().join(".")
    }
}

impl LucidrainsUnet {
    /// Creates a network with initial weights drawn from `seed`, of Ho et al.'s variance.
    ///
    /// # Errors
    /// If the configuration is invalid.
    pub fn new(config: &LucidrainsConfig, seed: u64, device: &Device) -> Result<Self, Error> {
        config.validate()?;
        let init = &mut Init::new(seed, device);
        let number = &mut 0;
        let levels = config.dim_mults.len();
        let (first, time_width) = (config.first_width(), config.time_width());
        let images = if config.self_condition { 2 * config.channels } else { config.channels };
        let init_conv = conv(init, 7, images, first);
        let frequencies = config.has_frequencies().then(|| {
            let frequencies = normal_parameter(init, [config.learned_sinusoidal_dim / 2]);
            if config.random_fourier_features { frequencies.set_require_grad(false) } else { frequencies }
        });
        let embedded = if config.has_frequencies() { config.learned_sinusoidal_dim + 1 } else { config.dim };
        let time_mlp = TimeMlp {
            frequencies,
            linear_1: Linear::new(init, embedded, time_width, INIT_SCALE),
            linear_2: Linear::new(init, time_width, time_width, INIT_SCALE),
        };
        let (mut classes_emb, mut null_classes_emb, mut classes_mlp) = (None, None, None);
        if config.num_classes > 0 {
            let width = config.class_width();
            classes_emb = Some(Embedding::new(init, config.num_classes, config.dim));
            null_classes_emb = Some(normal_parameter(init, [config.dim]));
            classes_mlp = Some(ClassMlp {
                class_1: Linear::new(init, config.dim, width, INIT_SCALE),
                class_2: Linear::new(init, width, width, INIT_SCALE),
            });
        }
        let mut downs = Vec::new();
        for level in 0..levels {
            let (c_in, c_out) = (config.width_before(level), config.width(level));
            downs.push(UnetLevel {
                resnet1: ResidualBlock::new(init, config, number, [c_in, c_in]),
                resnet2: ResidualBlock::new(init, config, number, [c_in, c_in]),
                attention: MemoryAttention::new(
                    init,
                    config,
                    config.heads(level),
                    c_in,
                    config.has_full_attention(level),
                ),
                resample: LevelConv::down(init, config.has_strided_convs(), [c_in, c_out], level + 1 == levels),
            });
        }
        let mid = config.width(levels - 1);
        let mid_block1 = ResidualBlock::new(init, config, number, [mid, mid]);
        let mid_attn = MemoryAttention::new(init, config, config.mid_heads(), mid, true);
        let mid_block2 = ResidualBlock::new(init, config, number, [mid, mid]);
        let mut ups = Vec::new();
        for level in (0..levels).rev() {
            let (c_in, c_out) = (config.width_before(level), config.width(level));
            ups.push(UnetLevel {
                resnet1: ResidualBlock::new(init, config, number, [c_out + c_in, c_out]),
                resnet2: ResidualBlock::new(init, config, number, [c_out + c_in, c_out]),
                attention: MemoryAttention::new(
                    init,
                    config,
                    config.heads(level),
                    c_out,
                    config.has_full_attention(level),
                ),
                resample: LevelConv::up(init, c_out, c_in, level == 0),
            });
        }
        Ok(Self {
            init_conv,
            time_mlp,
            classes_emb,
            null_classes_emb,
            classes_mlp,
            downs,
            mid_block1,
            mid_attn,
            mid_block2,
            ups,
            final_res_block: ResidualBlock::new(init, config, number, [2 * first, first]),
            final_conv: conv(init, 1, first, config.out_channels()),
            config: config.clone(),
        })
    }

    /// Returns the configuration of the network.
    pub fn config(&self) -> &LucidrainsConfig {
        &self.config
    }

    /// Computes the output of the network for noisy images.
    ///
    /// x is `[N,H,W,channels]`, the result `[N,H,W,out_channels]`. A network with self-conditioning takes an absent prediction
    /// for zeros, one with classes takes absent classes for none; others ignore them. Dropout is applied only if `dropout` is
    /// given, as in training.
    ///
    /// # Panics
    /// If shapes do not match. Check sizes with [`LucidrainsConfig::check_size`] first.
    pub fn forward(
        &self,
        x: Tensor<4>,
        timesteps: &[f32],
        condition: LucidrainsCondition,
        dropout: Option<&Dropout>,
    ) -> Tensor<4> {
        self.final_conv.forward(self.begin(x, timesteps, condition, dropout).run())
    }

    /// Computes the gradients of `loss(self.forward(…))`, as [`Unet::checkpointed_gradients`](crate::Unet::checkpointed_gradients).
    ///
    /// # Panics
    /// As [`LucidrainsUnet::forward`], and if the network is not on an autodiff device.
    pub fn checkpointed_gradients(
        &self,
        inputs: UnetInputs<LucidrainsCondition>,
        loss: impl FnOnce(Tensor<4>) -> Tensor<1>,
    ) -> Vec<Option<Tensor<1>>> {
        let UnetInputs { x, timesteps, condition, dropout, observer } = inputs;
        let forward = self.begin(x, timesteps, condition, dropout);
        checkpointed_gradients(self, forward, observer, |x| loss(self.final_conv.forward(x)))
    }

    fn begin<'a>(
        &'a self,
        x: Tensor<4>,
        timesteps: &[f32],
        condition: LucidrainsCondition,
        dropout: Option<&'a Dropout>,
    ) -> Forward<'a, LevelLayers<'a>> {
        let LucidrainsCondition { prediction, classes } = condition;
        assert_eq!(x.dims()[0], timesteps.len(), "expected one timestep per image");
        let x = match self.config.self_condition {
            true => ops::concat(prediction.unwrap_or_else(|| x.zeros_like()), x),
            false => x,
        };
        let time = self.time(timesteps, &x.device());
        let condition = match self.classes(classes, timesteps.len()) {
            Some(classes) => Tensor::cat(vec![time, classes], 1),
            None => time,
        };
        Forward { x, stages: self.stages(), pass: Pass { embedding: ops::silu(condition), dropout } }
    }

    /// Returns the stages from the input image to the last activation.
    fn stages(&self) -> Vec<Stage<LevelLayers<'_>>> {
        use LevelLayers::{AttentionBlock, Block, BlockAttention, Down, Input, Up};
        let mut list = StageList::new();
        list.then(Input(&self.init_conv), None);
        list.push_skip();
        for level in &self.downs {
            list.then(Block(&level.resnet1), None);
            list.push_skip();
            list.then(BlockAttention(&level.resnet2, &level.attention), None);
            list.push_skip();
            list.then(Down(&level.resample), None);
        }
        list.then(Block(&self.mid_block1), None);
        list.then(AttentionBlock(&self.mid_attn, &self.mid_block2), None);
        for level in &self.ups {
            let skip = list.pop_skip();
            list.then(Block(&level.resnet1), skip);
            let skip = list.pop_skip();
            list.then(BlockAttention(&level.resnet2, &level.attention), skip);
            list.then(Up(&level.resample), None);
        }
        let first = list.pop_skip();
        list.then(Block(&self.final_res_block), first);
        list.finish()
    }

    /// Computes the embedding of classes, `[N, 4·dim]`, of networks that have them.
    fn classes(&self, classes: Option<&[u32]>, images: usize) -> Option<Tensor<2>> {
        let (table, null, mlp) =
            (self.classes_emb.as_ref()?, self.null_classes_emb.as_ref()?, self.classes_mlp.as_ref()?);
        let none = self.config.num_classes as u32;
        let rows: Vec<i64> = match classes {
            Some(classes) => classes.iter().map(|&class| i64::from(class.min(none))).collect(),
            None => vec![i64::from(none); images],
        };
        let all = Tensor::cat(vec![table.table(), null.val().unsqueeze::<2>()], 0);
        let rows = Tensor::from_data(TensorData::from(rows.as_slice()), &all.device());
        let hidden = activation::gelu(mlp.class_1.forward(all.select(0, rows)));
        Some(mlp.class_2.forward(hidden))
    }

    /// Computes the embedding of timesteps, `[N, 4·dim]`.
    fn time(&self, timesteps: &[f32], device: &Device) -> Tensor<2> {
        let n = timesteps.len();
        let embedded = match &self.time_mlp.frequencies {
            None => {
                let rows = sinusoidal(timesteps, self.config.dim, self.config.sinusoidal_pos_emb_theta);
                Tensor::from_data(TensorData::new(rows, [n, self.config.dim / 2 * 2]), device)
            }
            Some(frequencies) => {
                let t = Tensor::<2>::from_data(TensorData::new(timesteps.to_vec(), [n, 1]), device);
                let arguments = (t.clone() * frequencies.val().unsqueeze::<2>()).mul_scalar(std::f64::consts::TAU);
                Tensor::cat(vec![t, arguments.clone().sin(), arguments.cos()], 1)
            }
        };
        let hidden = activation::gelu(self.time_mlp.linear_1.forward(embedded));
        self.time_mlp.linear_2.forward(hidden)
    }
}

/// The layers of a stage.
enum LevelLayers<'a> {
    Input(&'a Conv2d),
    Block(&'a ResidualBlock),
    BlockAttention(&'a ResidualBlock, &'a MemoryAttention),
    AttentionBlock(&'a MemoryAttention, &'a ResidualBlock),
    Down(&'a LevelConv),
    Up(&'a LevelConv),
}

impl StageLayers for LevelLayers<'_> {
    fn forward(&self, x: Tensor<4>, skip: Option<Tensor<4>>, pass: &Pass) -> Tensor<4> {
        match self {
            Self::Input(conv) => conv.forward(x),
            Self::Block(block) => block.forward(x, skip, pass),
            Self::BlockAttention(block, attention) => attention.forward(block.forward(x, skip, pass)),
            Self::AttentionBlock(attention, block) => block.forward(attention.forward(x), skip, pass),
            Self::Down(conv) => conv.forward(x, |x| ops::space_to_depth(x, 2)),
            Self::Up(conv) => conv.forward(x, ops::upsample2x),
        }
    }

    fn forward_untracked(&self, x: Tensor<4>, skip: Option<Tensor<4>>, pass: &Pass) -> Tensor<4> {
        match *self {
            Self::Input(conv) => LevelLayers::Input(&conv.valid()).forward(x, skip, pass),
            Self::Block(block) => LevelLayers::Block(&block.valid()).forward(x, skip, pass),
            Self::BlockAttention(block, attention) => {
                LevelLayers::BlockAttention(&block.valid(), &attention.valid()).forward(x, skip, pass)
            }
            Self::AttentionBlock(attention, block) => {
                LevelLayers::AttentionBlock(&attention.valid(), &block.valid()).forward(x, skip, pass)
            }
            Self::Down(conv) => LevelLayers::Down(&conv.valid()).forward(x, skip, pass),
            Self::Up(conv) => LevelLayers::Up(&conv.valid()).forward(x, skip, pass),
        }
    }

    fn embedding(&self) -> EmbeddingUse {
        match self {
            Self::Block(block) | Self::BlockAttention(block, _) | Self::AttentionBlock(_, block) => {
                block.embedding_use()
            }
            Self::Input(_) | Self::Down(_) | Self::Up(_) => EmbeddingUse::None,
        }
    }
}
