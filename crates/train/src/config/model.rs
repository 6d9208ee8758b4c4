//! `[model]`: the keys of each class of networks.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use toml::{Table, Value};
use unet::edm::{DecoderType, EdmClass, EdmConfig, EmbeddingType, EncoderType};
use unet::hmdolatabadi::HmdolatabadiConfig;
use unet::lucidrains::{LucidrainsConfig, PerLevel, Version};
use unet::mlp::MlpConfig;

use super::{ResnetTimeScaleShift, TimeEmbeddingType};

/// `[model]`: the network. `class` selects one of these; image size and channels come from [`Data`](super::Data).
#[derive(Clone, Debug, PartialEq)]
pub enum Model {
    /// `UNet2DModel`, which is the default.
    Unet2d(UnetKeys),
    /// `LucidrainsUnet`.
    Lucidrains(LucidrainsKeys),
    /// `SongUNet`.
    Song(SongKeys),
    /// `DhariwalUNet`.
    Dhariwal(DhariwalKeys),
    /// `HmdolatabadiUNet`.
    Hmdolatabadi(HmdolatabadiKeys),
    /// `Mlp`, for points.
    Mlp(MlpKeys),
}

/// The network of diffusers' `UNet2DModel`, with its keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnetKeys {
    /// Channels of each level, from full resolution downwards. Each level has half the height and width of the one above.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks per level on the way down; on the way up there is one more.
    pub layers_per_block: usize,
    /// Heights in pixels of the levels with self-attention (Ho et al.'s `attn_resolutions`). The middle block always has
    /// it.
    pub attention_resolutions: Vec<usize>,
    /// Channels per attention head. Defaults to a single head.
    pub attention_head_dim: Option<usize>,
    /// Groups of each group normalization.
    pub norm_num_groups: usize,
    /// ε of the group normalizations: 1e-6 in Ho et al., 1e-5 in PyTorch.
    pub norm_eps: f64,
    /// Dropout before the second convolution of each residual block.
    pub dropout: f64,
    /// Padding of the stride-2 convolutions: 1 on all sides, or 0 for right and bottom only, as in Ho et al.
    pub downsample_padding: usize,
    /// Whether the cosines precede the sines in the time embedding. Ho et al. have the sines first.
    pub flip_sin_to_cos: bool,
    /// The embedding's frequencies fall to 1/10000 over (half its size − `freq_shift`): 1 in Ho et al., 0 in OpenAI's code.
    pub freq_shift: f64,
    /// The time embedding.
    pub time_embedding_type: TimeEmbeddingType,
    /// The way in which the time embedding enters a residual block.
    pub resnet_time_scale_shift: ResnetTimeScaleShift,
    /// Number of class embeddings. Defaults to none, or with [`Data::labels`](super::Data::labels) to the number that the
    /// data needs.
    pub num_class_embeds: Option<usize>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The network `Unet` of denoising-diffusion-pytorch, with the arguments of its constructor and their defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LucidrainsKeys {
    /// The version of the original that has the network: the oldest one with it.
    #[serde(skip_serializing_if = "is_default")]
    pub version: Version,
    /// Groups of the group normalization, which versions before 2 have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resnet_block_groups: Option<usize>,
    /// Whether the frequencies of the time embedding are learned.
    #[serde(skip_serializing_if = "is_default")]
    pub learned_sinusoidal_cond: bool,
    /// Whether the frequencies of the time embedding are random numbers, which are not trained.
    #[serde(skip_serializing_if = "is_default")]
    pub random_fourier_features: bool,
    /// Sines and cosines of learned and random frequencies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learned_sinusoidal_dim: Option<usize>,
    /// The width that the others are multiples of.
    pub dim: usize,
    /// Channels after the first convolution. Defaults to `dim`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_dim: Option<usize>,
    /// Channels of each level, finest first, as multiples of `dim`.
    pub dim_mults: Vec<usize>,
    /// Whether the network gets its previous prediction of x_0: in half of the training steps, and while sampling.
    pub self_condition: bool,
    /// The base of the frequencies of the time embedding.
    pub sinusoidal_pos_emb_theta: f64,
    /// Dropout after the first half of each residual block.
    pub dropout: f64,
    /// Channels of a head of attention: of all levels, or a list with those of each.
    pub attn_dim_head: PerLevel<usize>,
    /// Heads of attention: of all levels, or a list with those of each.
    pub attn_heads: PerLevel<usize>,
    /// Whether all levels have softmax attention in place of linear attention, or a list for each. Defaults to the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full_attn: Option<PerLevel<bool>>,
}

impl Default for LucidrainsKeys {
    fn default() -> Self {
        Self::of(LucidrainsConfig::default())
    }
}

impl LucidrainsKeys {
    /// Returns the keys that describe a network.
    pub(crate) fn of(config: LucidrainsConfig) -> Self {
        let has_groups = config.version != Version::default();
        let has_frequencies = config.learned_sinusoidal_cond || config.random_fourier_features;
        Self {
            version: config.version,
            resnet_block_groups: has_groups.then_some(config.resnet_block_groups),
            learned_sinusoidal_cond: config.learned_sinusoidal_cond,
            random_fourier_features: config.random_fourier_features,
            learned_sinusoidal_dim: has_frequencies.then_some(config.learned_sinusoidal_dim),
            dim: config.dim,
            init_dim: config.init_dim,
            dim_mults: config.dim_mults,
            self_condition: config.self_condition,
            sinusoidal_pos_emb_theta: config.sinusoidal_pos_emb_theta,
            dropout: config.dropout,
            attn_dim_head: config.attn_dim_head,
            attn_heads: config.attn_heads,
            full_attn: config.full_attn,
        }
    }

    /// Returns the network for images of a size, with or without a learned variance.
    pub(crate) fn network(&self, size: unet::SampleSize, channels: usize, learned_variance: bool) -> LucidrainsConfig {
        let (keys, defaults) = (self.clone(), LucidrainsConfig::default());
        LucidrainsConfig {
            version: keys.version,
            resnet_block_groups: keys.resnet_block_groups.unwrap_or(defaults.resnet_block_groups),
            learned_sinusoidal_cond: keys.learned_sinusoidal_cond,
            random_fourier_features: keys.random_fourier_features,
            learned_sinusoidal_dim: keys.learned_sinusoidal_dim.unwrap_or(defaults.learned_sinusoidal_dim),
            sample_size: Some(size),
            channels,
            learned_variance,
            dim: keys.dim,
            init_dim: keys.init_dim,
            dim_mults: keys.dim_mults,
            self_condition: keys.self_condition,
            sinusoidal_pos_emb_theta: keys.sinusoidal_pos_emb_theta,
            dropout: keys.dropout,
            attn_dim_head: keys.attn_dim_head,
            attn_heads: keys.attn_heads,
            full_attn: keys.full_attn,
            ..defaults
        }
    }
}

/// The network `SongUNet` of NVlabs/edm, with the arguments of its constructor and their defaults, which are those of DDPM++.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SongKeys {
    /// The width that the others are multiples of.
    pub model_channels: usize,
    /// Channels of each level, finest first, as multiples of `model_channels`.
    pub channel_mult: Vec<usize>,
    /// Width of the embedding, as a multiple of `model_channels`.
    pub channel_mult_emb: usize,
    /// Residual blocks of each level.
    pub num_blocks: usize,
    /// Heights in pixels of the levels with attention.
    pub attn_resolutions: Vec<usize>,
    /// Dropout before the second convolution of each residual block.
    pub dropout: f64,
    /// Width of the layer for vectors that describe augmentation, 9 for `data.augment`. Without augmentation, it is not trained.
    pub augment_dim: usize,
    /// The embedding of the noise level.
    pub embedding_type: EmbeddingType,
    /// Width of the embedding of the noise level, as a multiple of `model_channels`.
    pub channel_mult_noise: usize,
    /// The copies of the images that the encoder gets.
    pub encoder_type: EncoderType,
    /// The terms of the output.
    pub decoder_type: DecoderType,
    /// The filter of a change of size, in each direction.
    pub resample_filter: Vec<f64>,
}

/// The network `DhariwalUNet` of NVlabs/edm, with the arguments of its constructor and their defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DhariwalKeys {
    /// The width that the others are multiples of.
    pub model_channels: usize,
    /// Channels of each level, finest first, as multiples of `model_channels`.
    pub channel_mult: Vec<usize>,
    /// Width of the embedding, as a multiple of `model_channels`.
    pub channel_mult_emb: usize,
    /// Residual blocks of each level.
    pub num_blocks: usize,
    /// Heights in pixels of the levels with attention, in heads of 64 channels.
    pub attn_resolutions: Vec<usize>,
    /// Dropout before the second convolution of each residual block.
    pub dropout: f64,
    /// Width of the layer for vectors that describe augmentation, 9 for `data.augment`. Without augmentation, it is not trained.
    pub augment_dim: usize,
}

impl Default for SongKeys {
    fn default() -> Self {
        Self::of(EdmConfig::of_class(EdmClass::SongUnet))
    }
}

impl Default for DhariwalKeys {
    fn default() -> Self {
        Self::of(EdmConfig::of_class(EdmClass::DhariwalUnet))
    }
}

/// The network of hmdolatabadi/denoising_diffusion, with the keys of its configuration and the values for CIFAR-10.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HmdolatabadiKeys {
    /// The width that the others are multiples of.
    pub channel: usize,
    /// Channels of each level, finest first, as multiples of `channel`.
    pub channel_multiplier: Vec<usize>,
    /// Residual blocks of each level of the encoder.
    pub n_res_blocks: usize,
    /// Strides of the levels with attention: 1 for the finest, 2 for the next, 4, …
    pub attn_strides: Vec<usize>,
    /// Dropout before the second convolution of each residual block.
    pub dropout: f64,
    /// The side of the squares of pixels that are moved into channels before the first layer.
    pub fold: usize,
}

impl Default for HmdolatabadiKeys {
    fn default() -> Self {
        Self::of(HmdolatabadiConfig::default())
    }
}

impl HmdolatabadiKeys {
    /// Returns the keys that describe a network.
    pub(crate) fn of(config: HmdolatabadiConfig) -> Self {
        Self {
            channel: config.channel,
            channel_multiplier: config.channel_multiplier,
            n_res_blocks: config.n_res_blocks,
            attn_strides: config.attn_strides,
            dropout: config.dropout,
            fold: config.fold,
        }
    }

    /// Returns the network for images of a size.
    pub(crate) fn network(&self, size: unet::SampleSize, channels: usize) -> HmdolatabadiConfig {
        let keys = self.clone();
        HmdolatabadiConfig {
            sample_size: Some(size),
            in_channel: channels,
            channel: keys.channel,
            channel_multiplier: keys.channel_multiplier,
            n_res_blocks: keys.n_res_blocks,
            attn_strides: keys.attn_strides,
            dropout: keys.dropout,
            fold: keys.fold,
        }
    }
}

/// The network [`Mlp`](unet::mlp::Mlp), for points.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MlpKeys {
    /// Width of the hidden layers.
    pub hidden: usize,
    /// Residual blocks.
    pub blocks: usize,
    /// Sines and cosines of the timestep.
    pub time_embed_dim: usize,
    /// The frequencies 1, 2, 4 … of the sines and cosines of the input; 0 for none.
    pub input_frequencies: usize,
}

impl Default for MlpKeys {
    fn default() -> Self {
        Self::of(MlpConfig::default())
    }
}

impl MlpKeys {
    /// Returns the keys that describe a network.
    pub(crate) fn of(config: MlpConfig) -> Self {
        let MlpConfig { hidden, blocks, time_embed_dim, input_frequencies, .. } = config;
        Self { hidden, blocks, time_embed_dim, input_frequencies }
    }

    /// Returns the network for points of `dims` dimensions, with a table of `num_class_embeds` classes.
    pub(crate) fn network(&self, dims: usize, num_class_embeds: usize, learned_variance: bool) -> MlpConfig {
        let Self { hidden, blocks, time_embed_dim, input_frequencies } = *self;
        let out_dims = if learned_variance { 2 * dims } else { dims };
        MlpConfig { dims, out_dims, hidden, blocks, time_embed_dim, input_frequencies, num_class_embeds }
    }
}

/// The properties of a network of EDM that the data decide.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EdmImages {
    /// Height and width.
    pub size: usize,
    pub channels: usize,
    /// Number of classes, 0 for none.
    pub classes: usize,
    /// Whether the network has channels for a variance, as those of `iDDPMPrecond`.
    pub has_variance: bool,
}

impl EdmImages {
    fn config(self, class: EdmClass) -> EdmConfig {
        let Self { size, channels, classes, has_variance } = self;
        EdmConfig {
            img_resolution: size,
            in_channels: channels,
            out_channels: if has_variance { 2 * channels } else { channels },
            label_dim: classes,
            ..EdmConfig::of_class(class)
        }
    }
}

impl SongKeys {
    /// Returns the keys that describe a network.
    pub(crate) fn of(config: EdmConfig) -> Self {
        Self {
            model_channels: config.model_channels,
            channel_mult: config.channel_mult,
            channel_mult_emb: config.channel_mult_emb,
            num_blocks: config.num_blocks,
            attn_resolutions: config.attn_resolutions,
            dropout: config.dropout,
            augment_dim: config.augment_dim,
            embedding_type: config.embedding_type,
            channel_mult_noise: config.channel_mult_noise,
            encoder_type: config.encoder_type,
            decoder_type: config.decoder_type,
            resample_filter: config.resample_filter,
        }
    }

    /// Returns the network for images.
    pub(crate) fn network(&self, images: EdmImages) -> EdmConfig {
        let keys = self.clone();
        EdmConfig {
            model_channels: keys.model_channels,
            channel_mult: keys.channel_mult,
            channel_mult_emb: keys.channel_mult_emb,
            num_blocks: keys.num_blocks,
            attn_resolutions: keys.attn_resolutions,
            dropout: keys.dropout,
            augment_dim: keys.augment_dim,
            embedding_type: keys.embedding_type,
            channel_mult_noise: keys.channel_mult_noise,
            encoder_type: keys.encoder_type,
            decoder_type: keys.decoder_type,
            resample_filter: keys.resample_filter,
            ..images.config(EdmClass::SongUnet)
        }
    }
}

impl DhariwalKeys {
    /// Returns the keys that describe a network.
    pub(crate) fn of(config: EdmConfig) -> Self {
        Self {
            model_channels: config.model_channels,
            channel_mult: config.channel_mult,
            channel_mult_emb: config.channel_mult_emb,
            num_blocks: config.num_blocks,
            attn_resolutions: config.attn_resolutions,
            dropout: config.dropout,
            augment_dim: config.augment_dim,
        }
    }

    /// Returns the network for images.
    pub(crate) fn network(&self, images: EdmImages) -> EdmConfig {
        let keys = self.clone();
        EdmConfig {
            model_channels: keys.model_channels,
            channel_mult: keys.channel_mult,
            channel_mult_emb: keys.channel_mult_emb,
            num_blocks: keys.num_blocks,
            attn_resolutions: keys.attn_resolutions,
            dropout: keys.dropout,
            augment_dim: keys.augment_dim,
            ..images.config(EdmClass::DhariwalUnet)
        }
    }
}

/// The values of `class`.
pub(super) const CLASSES: [&str; 6] = [
    UNET,
    LucidrainsConfig::CLASS_NAME,
    EdmClass::NAMES[0].0,
    EdmClass::NAMES[1].0,
    HmdolatabadiConfig::CLASS_NAME,
    MlpConfig::CLASS_NAME,
];

const UNET: &str = "UNet2DModel";

/// Returns the class of a table `[model]`.
pub(super) fn class_of(table: &Table) -> &str {
    table.get("class").and_then(Value::as_str).unwrap_or(UNET)
}

impl Model {
    /// Returns the name of the class.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Unet2d(_) => UNET,
            Self::Lucidrains(_) => LucidrainsConfig::CLASS_NAME,
            Self::Song(_) => EdmClass::SongUnet.name(),
            Self::Dhariwal(_) => EdmClass::DhariwalUnet.name(),
            Self::Hmdolatabadi(_) => HmdolatabadiConfig::CLASS_NAME,
            Self::Mlp(_) => MlpConfig::CLASS_NAME,
        }
    }

    /// Returns whether the network is one of points.
    pub fn is_of_points(&self) -> bool {
        matches!(self, Self::Mlp(_))
    }

    /// Returns the network of NVlabs/edm for images, if it is one.
    pub(crate) fn edm(&self, images: EdmImages) -> Option<EdmConfig> {
        match self {
            Self::Unet2d(_) | Self::Lucidrains(_) | Self::Hmdolatabadi(_) | Self::Mlp(_) => None,
            Self::Song(keys) => Some(keys.network(images)),
            Self::Dhariwal(keys) => Some(keys.network(images)),
        }
    }

    /// Reads the keys of a class.
    fn of_class<'de, D: Deserializer<'de>>(class: &str, keys: D) -> Result<Self, D::Error> {
        match class {
            UNET => UnetKeys::deserialize(keys).map(Self::Unet2d),
            LucidrainsConfig::CLASS_NAME => LucidrainsKeys::deserialize(keys).map(Self::Lucidrains),
            HmdolatabadiConfig::CLASS_NAME => HmdolatabadiKeys::deserialize(keys).map(Self::Hmdolatabadi),
            MlpConfig::CLASS_NAME => MlpKeys::deserialize(keys).map(Self::Mlp),
            class if class == EdmClass::SongUnet.name() => SongKeys::deserialize(keys).map(Self::Song),
            class if class == EdmClass::DhariwalUnet.name() => DhariwalKeys::deserialize(keys).map(Self::Dhariwal),
            _ => Err(de::Error::unknown_variant(class, &CLASSES)),
        }
    }

    /// Returns the keys of a `UNet2DModel`, if it is one.
    pub fn unet(&self) -> Option<&UnetKeys> {
        match self {
            Self::Unet2d(keys) => Some(keys),
            Self::Lucidrains(_) | Self::Song(_) | Self::Dhariwal(_) | Self::Hmdolatabadi(_) | Self::Mlp(_) => None,
        }
    }

    /// Returns the probability of dropout.
    pub(crate) fn dropout(&self) -> f64 {
        match self {
            Self::Unet2d(keys) => keys.dropout,
            Self::Lucidrains(keys) => keys.dropout,
            Self::Song(keys) => keys.dropout,
            Self::Dhariwal(keys) => keys.dropout,
            Self::Hmdolatabadi(keys) => keys.dropout,
            Self::Mlp(_) => 0.0,
        }
    }

    /// Returns the number of levels.
    pub(crate) fn levels(&self) -> usize {
        match self {
            Self::Unet2d(keys) => keys.block_out_channels.len(),
            Self::Lucidrains(keys) => keys.dim_mults.len(),
            Self::Song(keys) => keys.channel_mult.len(),
            Self::Dhariwal(keys) => keys.channel_mult.len(),
            Self::Hmdolatabadi(keys) => keys.channel_multiplier.len(),
            Self::Mlp(_) => 1,
        }
    }
}

/// The keys, preceded by `class` unless it is the default.
impl Serialize for Model {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Tagged<'a, K> {
            class: &'a str,
            #[serde(flatten)]
            keys: &'a K,
        }
        let class = self.class();
        match self {
            Self::Unet2d(keys) => keys.serialize(serializer),
            Self::Lucidrains(keys) => Tagged { class, keys }.serialize(serializer),
            Self::Song(keys) => Tagged { class, keys }.serialize(serializer),
            Self::Dhariwal(keys) => Tagged { class, keys }.serialize(serializer),
            Self::Hmdolatabadi(keys) => Tagged { class, keys }.serialize(serializer),
            Self::Mlp(keys) => Tagged { class, keys }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Model {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ModelVisitor)
    }
}

struct ModelVisitor;

impl<'de> Visitor<'de> for ModelVisitor {
    type Value = Model;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("the keys of a network")
    }

    /// If `class` is the first key, the others are read in place, so that errors know their position.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Model, A::Error> {
        let mut read = Table::new();
        while let Some(key) = map.next_key::<String>()? {
            if key == "class" && read.is_empty() {
                let class: String = map.next_value()?;
                return Model::of_class(&class, MapAccessDeserializer::new(map));
            }
            read.insert(key, map.next_value()?);
        }
        let class = class_of(&read).to_owned();
        read.remove("class");
        Model::of_class(&class, Value::Table(read)).map_err(de::Error::custom)
    }
}
