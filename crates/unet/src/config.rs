//! The configuration of the network: the keys of diffusers' `UNet2DModel`, read from and written to its `config.json`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::json;
use crate::sample_size::{SampleSize, check_multiple};

/// The embedding of timesteps as vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeEmbeddingType {
    /// Sines and cosines of geometrically spaced frequencies (Vaswani et al. 2017, §3.5).
    #[default]
    Positional,
    /// Sines and cosines of random frequencies times ln t (Song et al. 2021, "Score SDE").
    Fourier,
    /// A learned table with a row for each timestep.
    Learned,
}

/// The effect of the time embedding on the activations of a residual block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResnetTimeScaleShift {
    /// The embedding is added before the second normalization (Ho et al. 2020).
    #[default]
    Default,
    /// The embedding scales and shifts the output of the second normalization (Dhariwal & Nichol 2021).
    ScaleShift,
}

/// The embedding of class labels other than by a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassEmbedType {
    /// The label is embedded like a timestep, by layers of its own.
    Timestep,
    /// The label is a vector that is added to the time embedding.
    Identity,
}

/// The resampling layer of a level with attention. (For the other levels, the type of the level determines it.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResampleType {
    /// A convolution.
    #[default]
    Conv,
    /// A residual block.
    Resnet,
}

/// The type of the middle block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MidBlockType {
    /// Two residual blocks with attention between them.
    UNetMidBlock2D,
}

/// The type of a level of the down path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DownBlockType {
    /// Residual blocks.
    DownBlock2D,
    /// Residual blocks, each followed by self-attention.
    AttnDownBlock2D,
    /// Residual blocks, and one more that halves the size (Dhariwal & Nichol 2021).
    ResnetDownsampleBlock2D,
}

/// The type of a level of the up path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpBlockType {
    /// Residual blocks.
    UpBlock2D,
    /// Residual blocks, each followed by self-attention.
    AttnUpBlock2D,
    /// Residual blocks, and one more that doubles the size (Dhariwal & Nichol 2021).
    ResnetUpsampleBlock2D,
}

/// The configuration of a [`Unet`](crate::Unet), with the keys and defaults of diffusers' `UNet2DModel`.
///
/// ```
/// use ddpm_unet::{UnetConfig, DownBlockType, UpBlockType};
/// // Ho et al.'s CIFAR-10 network.
/// let config = UnetConfig::ddpm([32, 32, 3], &[128, 256, 256, 256], 2, &[16]);
/// assert_eq!(config.down_block_types[1], DownBlockType::AttnDownBlock2D);
/// assert_eq!(config.up_block_types[2], UpBlockType::AttnUpBlock2D);
/// assert_eq!(config.parameter_count(), 35_746_307);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UnetConfig {
    /// The size of the training images, or `None` if the network was trained for several sizes.
    pub sample_size: Option<SampleSize>,
    /// Input channels.
    pub in_channels: usize,
    /// Output channels: the input channels, or twice as many if the variance is learned.
    pub out_channels: usize,
    /// Maps the input x to 2x − 1 first.
    pub center_input_sample: bool,
    /// The embedding of timesteps.
    pub time_embedding_type: TimeEmbeddingType,
    /// Width of the time embedding; defaults to 4 × the first of `block_out_channels`.
    pub time_embedding_dim: Option<usize>,
    /// Shift in the frequencies: exponents are divided by (width/2 − freq_shift). 1 in Ho et al., 0 in OpenAI's code.
    pub freq_shift: f64,
    /// Puts cosines before sines.
    pub flip_sin_to_cos: bool,
    /// The type of the middle block, or `None` to omit it.
    pub mid_block_type: Option<MidBlockType>,
    /// The types of the levels of the down path, finest first.
    pub down_block_types: Vec<DownBlockType>,
    /// The types of the levels of the up path, coarsest first.
    pub up_block_types: Vec<UpBlockType>,
    /// Channels of each level, finest first.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks per level of the down path; levels of the up path have one more.
    pub layers_per_block: usize,
    /// Divisor of the residual sums in the middle block.
    pub mid_block_scale_factor: f64,
    /// Padding of the stride-2 convolutions: 1 on all sides, or 0 to pad one row and column at the bottom and right
    /// only, like TensorFlow's `SAME` and Ho et al.
    pub downsample_padding: usize,
    /// The downsampling layer of an `AttnDownBlock2D`.
    pub downsample_type: ResampleType,
    /// The upsampling layer of an `AttnUpBlock2D`.
    pub upsample_type: ResampleType,
    /// Dropout probability in the residual blocks.
    pub dropout: f64,
    /// Channels per attention head; defaults to a single head with all channels.
    pub attention_head_dim: Option<usize>,
    /// Groups of the group normalizations.
    pub norm_num_groups: usize,
    /// Groups of the normalization before the middle attention, if different.
    pub attn_norm_num_groups: Option<usize>,
    /// ε of the group normalizations.
    pub norm_eps: f64,
    /// The effect of the time embedding on residual blocks.
    pub resnet_time_scale_shift: ResnetTimeScaleShift,
    /// Adds attention to the middle block.
    pub add_attention: bool,
    /// The embedding of class labels, if not a table.
    pub class_embed_type: Option<ClassEmbedType>,
    /// Number of classes in the embedding table. Ignored if `class_embed_type` is set.
    pub num_class_embeds: Option<usize>,
    /// Number of rows in the table of a learned time embedding.
    pub num_train_timesteps: Option<usize>,
}

impl Default for UnetConfig {
    fn default() -> Self {
        use DownBlockType::{AttnDownBlock2D, DownBlock2D};
        use UpBlockType::{AttnUpBlock2D, UpBlock2D};
        Self {
            sample_size: None,
            in_channels: 3,
            out_channels: 3,
            center_input_sample: false,
            time_embedding_type: TimeEmbeddingType::Positional,
            time_embedding_dim: None,
            freq_shift: 0.0,
            flip_sin_to_cos: true,
            mid_block_type: Some(MidBlockType::UNetMidBlock2D),
            down_block_types: vec![DownBlock2D, AttnDownBlock2D, AttnDownBlock2D, AttnDownBlock2D],
            up_block_types: vec![AttnUpBlock2D, AttnUpBlock2D, AttnUpBlock2D, UpBlock2D],
            block_out_channels: vec![224, 448, 672, 896],
            layers_per_block: 2,
            mid_block_scale_factor: 1.0,
            downsample_padding: 1,
            downsample_type: ResampleType::Conv,
            upsample_type: ResampleType::Conv,
            dropout: 0.0,
            attention_head_dim: Some(8),
            norm_num_groups: 32,
            attn_norm_num_groups: None,
            norm_eps: 1e-5,
            resnet_time_scale_shift: ResnetTimeScaleShift::Default,
            add_attention: true,
            class_embed_type: None,
            num_class_embeds: None,
            num_train_timesteps: None,
        }
    }
}

/// Returns the keys of `UNet2DModel` with a fixed value, and the accepted spellings of that value.
fn fixed_keys() -> [(&'static str, &'static [&'static str]); 2] {
    [("act_fn", &["\"silu\"", "\"swish\""]), ("_class_name", &["\"UNet2DModel\""])]
}

/// The name of the class in Python.
const CLASS: &str = "UNet2DModel";

/// The settings of diffusers' `EMAModel`, which its `save_pretrained` adds to the configuration of averaged weights. They
/// have no effect on the network.
const EMA_KEYS: [&str; 7] =
    ["decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup", "inv_gamma", "power"];

impl UnetConfig {
    /// Creates the configuration of Ho et al. (2020), "DDPM": one attention head, sines before cosines, padding at the
    /// bottom and right, ε of 1e-6.
    ///
    /// `image` is the shape of an image, `[H,W,C]`; `channels` are those of each level, finest first. The levels whose
    /// height is in `attention_resolutions` have attention.
    pub fn ddpm(
        image: [usize; 3],
        channels: &[usize],
        layers_per_block: usize,
        attention_resolutions: &[usize],
    ) -> Self {
        let [height, width, image_channels] = image;
        Self {
            sample_size: Some(SampleSize { height, width }),
            in_channels: image_channels,
            out_channels: image_channels,
            freq_shift: 1.0,
            flip_sin_to_cos: false,
            layers_per_block,
            downsample_padding: 0,
            attention_head_dim: None,
            norm_eps: 1e-6,
            ..Self::default()
        }
        .with_levels(channels, height, attention_resolutions)
    }

    /// Sets the channels of the levels, and attention on the levels whose height is in `attention_resolutions`.
    pub fn with_levels(mut self, channels: &[usize], height: usize, attention_resolutions: &[usize]) -> Self {
        let attends = |level: usize| attention_resolutions.contains(&(height >> level));
        let levels = 0..channels.len();
        self.block_out_channels = channels.to_vec();
        self.down_block_types = levels
            .clone()
            .map(|i| if attends(i) { DownBlockType::AttnDownBlock2D } else { DownBlockType::DownBlock2D })
            .collect();
        self.up_block_types = levels
            .rev()
            .map(|i| if attends(i) { UpBlockType::AttnUpBlock2D } else { UpBlockType::UpBlock2D })
            .collect();
        self
    }

    /// Reads diffusers' `config.json`.
    ///
    /// # Errors
    /// If the file cannot be read or is not JSON, if a key or value is not supported (the error names it), or if
    /// [`UnetConfig::validate`] fails.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = files::read_json_text(path).map_err(|source| Error::Read { path: path.into(), source })?;
        Self::from_json(&text).map_err(|error| Error::ConfigFile { path: path.into(), source: Box::new(error) })
    }

    /// Parses the text of diffusers' `config.json`.
    ///
    /// # Errors
    /// As [`UnetConfig::read`].
    pub fn from_json(text: &str) -> Result<Self, Error> {
        let keys = json::ClassKeys { class: CLASS, fixed: &fixed_keys(), ignored: &EMA_KEYS };
        let config = json::read(text, &keys, &Self::default())?;
        config.validate()?;
        Ok(config)
    }

    /// Returns the configuration as the text of diffusers' `config.json`.
    pub fn to_json(&self) -> String {
        let mut value = serde_json::json!({ "_class_name": "UNet2DModel", "_diffusers_version": "0.35.0" });
        for (key, accepted) in fixed_keys() {
            value[key] = serde_json::from_str(accepted[0]).unwrap_or_default();
        }
        if let (Some(all), Ok(serde_json::Value::Object(own))) = (value.as_object_mut(), serde_json::to_value(self)) {
            all.extend(own);
            // diffusers computes with the written number, so write the integer 1 instead of 1.0.
            if self.freq_shift.fract() == 0.0 {
                all.insert("freq_shift".into(), (self.freq_shift as i64).into());
            }
        }
        format!("{value:#}\n")
    }

    /// Checks that the configuration describes a network.
    ///
    /// # Errors
    /// If it does not; the error names the key and the expected value.
    pub fn validate(&self) -> Result<(), Error> {
        let check = |ok: bool, message: String| if ok { Ok(()) } else { Err(Error::Config(message)) };
        let levels = self.block_out_channels.len();
        check(levels >= 1, "`block_out_channels` is empty; expected the channels of at least one level".into())?;
        check(levels <= 16, format!("`block_out_channels` has {levels} levels; at most 16 are supported"))?;
        for (key, len) in
            [("down_block_types", self.down_block_types.len()), ("up_block_types", self.up_block_types.len())]
        {
            check(len == levels, format!("`{key}` has {len} entries, but `block_out_channels` has {levels}"))?;
        }
        for (key, value) in [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("layers_per_block", self.layers_per_block),
            ("norm_num_groups", self.norm_num_groups),
            ("attention_head_dim", self.attention_head_dim.unwrap_or(1)),
            ("num_class_embeds", self.num_class_embeds.unwrap_or(1)),
            ("time_embedding_dim", self.time_embedding_dim.unwrap_or(1)),
            ("attn_norm_num_groups", self.attn_norm_num_groups.unwrap_or(1)),
            ("num_train_timesteps", self.num_train_timesteps.unwrap_or(1)),
        ] {
            check((1..=1 << 16).contains(&value), format!("`{key}` is {value}; expected 1 to 65536"))?;
        }
        check(
            self.downsample_padding <= 1,
            format!("`downsample_padding` is {}; expected 0 or 1", self.downsample_padding),
        )?;
        check((0.0..1.0).contains(&self.dropout), format!("`dropout` is {:?}; expected 0 ≤ p < 1", self.dropout))?;
        // In f32, an ε that is far smaller is 0, and a variance is lost beside one that is far larger.
        check(
            (1e-12..=1.0).contains(&self.norm_eps),
            format!("`norm_eps` is {:?}; expected 1e-12 to 1", self.norm_eps),
        )?;
        check(
            (1e-3..=1e3).contains(&self.mid_block_scale_factor),
            format!("`mid_block_scale_factor` is {:?}; expected 0.001 to 1000", self.mid_block_scale_factor),
        )?;
        check(
            (0.0..=65536.0).contains(&self.freq_shift),
            format!("`freq_shift` is {:?}; expected 0 or more, below half of `block_out_channels[0]`", self.freq_shift),
        )?;
        check(
            self.time_embedding_type != TimeEmbeddingType::Learned || self.num_train_timesteps.is_some(),
            "`time_embedding_type` = \"learned\" requires `num_train_timesteps`".into(),
        )?;
        for (level, &channels) in self.block_out_channels.iter().enumerate() {
            let key = format!("`block_out_channels[{level}]` = {channels}");
            check((1..=1 << 16).contains(&channels), format!("{key}; expected 1 to 65536"))?;
            check(
                channels % self.norm_num_groups == 0,
                format!("{key} is not a multiple of `norm_num_groups` = {}", self.norm_num_groups),
            )?;
            if let Some(head_dim) = self.attention_head_dim
                && (self.attends(level) || (level + 1 == levels && self.add_attention))
            {
                check(channels >= head_dim, format!("{key} is less than `attention_head_dim` = {head_dim}"))?;
            }
        }
        if let (Some(groups), Some(&last)) = (self.attn_norm_num_groups, self.block_out_channels.last()) {
            check(
                last % groups == 0,
                format!("`attn_norm_num_groups` = {groups} does not divide the {last} channels of the last level"),
            )?;
        }
        let first = self.block_out_channels[0];
        check(
            self.time_embedding_type != TimeEmbeddingType::Positional || (first / 2) as f64 > self.freq_shift,
            format!(
                "half of `block_out_channels[0]` = {first} must be greater than `freq_shift` = {}",
                self.freq_shift
            ),
        )?;
        if let Some(size) = self.sample_size {
            size.check(self.block_out_channels.len())?;
        }
        Ok(())
    }

    /// Checks that images of this size can pass through all levels.
    ///
    /// # Errors
    /// If height or width is 0 or not a multiple of 2^(levels − 1).
    pub fn check_size(&self, height: usize, width: usize) -> Result<(), Error> {
        check_multiple([height, width], self.block_out_channels.len())
    }

    /// Returns whether level `level` (0 is the finest) has attention on the down or up path.
    fn attends(&self, level: usize) -> bool {
        let up = self.up_block_types.len() - 1 - level;
        self.down_block_types[level] == DownBlockType::AttnDownBlock2D
            || self.up_block_types[up] == UpBlockType::AttnUpBlock2D
    }

    /// Returns the width of the time embedding.
    pub fn time_embed_dim(&self) -> usize {
        self.time_embedding_dim.unwrap_or(4 * self.block_out_channels[0])
    }

    /// Returns the input width of the first linear layer of the time embedding.
    pub(crate) fn time_proj_dim(&self) -> usize {
        match self.time_embedding_type {
            TimeEmbeddingType::Positional | TimeEmbeddingType::Learned => self.block_out_channels[0],
            TimeEmbeddingType::Fourier => 2 * self.block_out_channels[0],
        }
    }

    /// Returns the groups of the normalization before the middle attention. Like diffusers, omits this normalization if
    /// the time embedding scales and shifts, unless `attn_norm_num_groups` is set.
    pub(crate) fn mid_attention_groups(&self) -> Option<usize> {
        self.attn_norm_num_groups.or(match self.resnet_time_scale_shift {
            ResnetTimeScaleShift::Default => Some(self.norm_num_groups),
            ResnetTimeScaleShift::ScaleShift => None,
        })
    }

    /// Returns the number of attention heads of a block with `channels` channels.
    pub(crate) fn heads(&self, channels: usize) -> usize {
        channels / self.attention_head_dim.unwrap_or(channels)
    }

    /// Returns the downsampling layer of level `level` of the down path.
    pub(crate) fn downsample(&self, level: usize) -> ResampleType {
        match self.down_block_types[level] {
            DownBlockType::DownBlock2D => ResampleType::Conv,
            DownBlockType::AttnDownBlock2D => self.downsample_type,
            DownBlockType::ResnetDownsampleBlock2D => ResampleType::Resnet,
        }
    }

    /// Returns the upsampling layer of level `index` of the up path, counted from the coarsest.
    pub(crate) fn upsample(&self, index: usize) -> ResampleType {
        match self.up_block_types[index] {
            UpBlockType::UpBlock2D => ResampleType::Conv,
            UpBlockType::AttnUpBlock2D => self.upsample_type,
            UpBlockType::ResnetUpsampleBlock2D => ResampleType::Resnet,
        }
    }

    /// Returns the number of parameters without building the network.
    pub fn parameter_count(&self) -> usize {
        let conv = |i: usize, o: usize, k: usize| i * o * k * k + o;
        let linear = |i: usize, o: usize| i * o + o;
        let temb = self.time_embed_dim();
        let widths = &self.block_out_channels;
        let resnet = |i: usize, o: usize| {
            let time = match self.resnet_time_scale_shift {
                ResnetTimeScaleShift::Default => o,
                ResnetTimeScaleShift::ScaleShift => 2 * o,
            };
            2 * i + conv(i, o, 3) + linear(temb, time) + 2 * o + conv(o, o, 3) + if i != o { conv(i, o, 1) } else { 0 }
        };
        let attention = |c: usize, norm: bool| {
            let inner = self.heads(c) * self.attention_head_dim.unwrap_or(c);
            3 * linear(c, inner) + linear(inner, c) + if norm { 2 * c } else { 0 }
        };
        let resample = |c: usize, kind: ResampleType| match kind {
            ResampleType::Conv => conv(c, c, 3),
            ResampleType::Resnet => resnet(c, c),
        };
        let mut count = linear(self.time_proj_dim(), temb) + linear(temb, temb);
        count += match self.time_embedding_type {
            TimeEmbeddingType::Positional => 0,
            TimeEmbeddingType::Fourier => widths[0],
            TimeEmbeddingType::Learned => self.num_train_timesteps.unwrap_or(0) * widths[0],
        };
        count += match (self.class_embed_type, self.num_class_embeds) {
            (Some(ClassEmbedType::Timestep), _) => linear(self.time_proj_dim(), temb) + linear(temb, temb),
            (Some(ClassEmbedType::Identity), _) | (None, None) => 0,
            (None, Some(classes)) => classes * temb,
        };
        count += conv(self.in_channels, widths[0], 3);
        let (mut skips, mut channels) = (vec![widths[0]], widths[0]);
        for (level, &out) in widths.iter().enumerate() {
            for _ in 0..self.layers_per_block {
                count += resnet(channels, out);
                if self.down_block_types[level] == DownBlockType::AttnDownBlock2D {
                    count += attention(out, true);
                }
                channels = out;
                skips.push(channels);
            }
            if level + 1 < widths.len() {
                count += resample(channels, self.downsample(level));
                skips.push(channels);
            }
        }
        if self.mid_block_type.is_some() {
            count += 2 * resnet(channels, channels);
            if self.add_attention {
                count += attention(channels, self.mid_attention_groups().is_some());
            }
        }
        for (index, &out) in widths.iter().rev().enumerate() {
            for _ in 0..=self.layers_per_block {
                count += resnet(channels + skips.pop().unwrap_or(0), out);
                if self.up_block_types[index] == UpBlockType::AttnUpBlock2D {
                    count += attention(out, true);
                }
                channels = out;
            }
            if index + 1 < widths.len() {
                count += resample(channels, self.upsample(index));
            }
        }
        count + 2 * channels + conv(channels, self.out_channels, 3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paper_networks_have_the_published_parameter_counts() {
        assert_eq!(UnetConfig::ddpm([32, 32, 3], &[128, 256, 256, 256], 2, &[16]).parameter_count(), 35_746_307);
        assert_eq!(
            UnetConfig::ddpm([256, 256, 3], &[128, 128, 256, 256, 512, 512], 2, &[16]).parameter_count(),
            113_673_219
        );
        // A learned variance doubles the outputs of the last convolution.
        let learned = UnetConfig { out_channels: 6, ..UnetConfig::ddpm([32, 32, 3], &[128, 256, 256, 256], 2, &[16]) };
        assert_eq!(learned.parameter_count(), 35_749_766);
        // The network of the ten-minute benchmark (docs/performance.md).
        let race = UnetConfig { norm_num_groups: 16, ..UnetConfig::ddpm([32, 32, 1], &[32, 64, 64], 1, &[8]) };
        assert_eq!(race.parameter_count(), 1_112_801);
    }

    #[test]
    fn json_round_trips() {
        let config = UnetConfig { num_class_embeds: Some(10), ..UnetConfig::ddpm([32, 32, 3], &[32, 64], 1, &[16]) };
        assert_eq!(UnetConfig::from_json(&config.to_json()).unwrap(), config);
    }

    #[test]
    fn reads_the_old_hub_config() {
        let text = r#"{ "_class_name": "UNet2DModel", "_diffusers_version": "0.0.4", "act_fn": "silu",
            "attention_head_dim": null, "block_out_channels": [128, 256, 256, 256], "center_input_sample": false,
            "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
            "downsample_padding": 0, "flip_sin_to_cos": false, "freq_shift": 1, "in_channels": 3,
            "layers_per_block": 2, "mid_block_scale_factor": 1, "norm_eps": 1e-06, "norm_num_groups": 32,
            "out_channels": 3, "sample_size": 32, "time_embedding_type": "positional",
            "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"] }"#;
        assert_eq!(
            UnetConfig::from_json(text).unwrap(),
            UnetConfig::ddpm([32, 32, 3], &[128, 256, 256, 256], 2, &[16])
        );
    }

    #[test]
    fn errors_name_the_unsupported_key() {
        let message = |text: &str| UnetConfig::from_json(text).unwrap_err().to_string();
        assert!(message(r#"{"act_fn": "gelu"}"#).contains("`act_fn` is \"gelu\""));
        assert!(message(r#"{"attention_type": "linear"}"#).contains("`attention_type`"));
        assert!(message(r#"{"block_out_channels": [32, -1]}"#).contains("`block_out_channels`"));
        assert!(message(r#"{"norm_num_groups": 48}"#).contains("`norm_num_groups` = 48"));
        assert!(message(r#"{"down_block_types": ["CrossAttnDownBlock2D"]}"#).contains("`down_block_types`"));
        assert!(message(r#"{"sample_size": 36}"#).contains("multiples of 8"));
        assert!(message("[1]").contains("JSON object"));
    }

    #[test]
    fn values_out_of_range_are_named_with_the_range() {
        for (key, value, expected) in [
            ("norm_eps", "1e300", "1e-12 to 1"),
            ("norm_eps", "0", "1e-12 to 1"),
            ("norm_eps", "1e-300", "1e-12 to 1"),
            ("mid_block_scale_factor", "-1", "0.001 to 1000"),
            ("mid_block_scale_factor", "0", "0.001 to 1000"),
            ("dropout", "1", "0 ≤ p < 1"),
            ("dropout", "-0.5", "0 ≤ p < 1"),
            ("freq_shift", "-1e300", "0 or more"),
            ("in_channels", "0", "1 to 65536"),
            ("in_channels", "-3", "whole number, 1 or more"),
            ("layers_per_block", "1.5", "whole number, 1 or more"),
            ("sample_size", "-32", "whole number, 1 or more"),
            ("sample_size", "0", "multiples of 8"),
            ("sample_size", "68719476736", "at most 65536"),
            ("downsample_padding", "2", "0 or 1"),
            ("norm_num_groups", "1e300", "norm_num_groups"),
        ] {
            let message = UnetConfig::from_json(&format!("{{\"{key}\": {value}}}")).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
            assert!(message.contains(&format!("`{key}`")) || key == "sample_size", "{message}");
        }
    }

    /// `EMAModel.save_pretrained` of diffusers 0.42.
    #[test]
    fn settings_of_averages_are_not_the_networks() {
        let ema = r#"{"decay": 0.9999, "inv_gamma": 1.0, "min_decay": 0.0, "optimization_step": 500, "power": 0.75,
            "update_after_step": 0, "use_ema_warmup": true}"#;
        assert_eq!(UnetConfig::from_json(ema).unwrap(), UnetConfig::default());
    }
}
