//! The arguments of `SongUNet` and `DhariwalUNet`, as JSON.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use weights::Tensors;

use super::plan::{Layers, Resize, Role, plan};
use crate::error::Error;
use crate::json;
use crate::sample_size::check_multiple;

/// The class of a network of NVlabs/edm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EdmClass {
    /// DDPM++ or NCSN++ (Song et al. 2021).
    #[default]
    SongUnet,
    /// ADM (Dhariwal & Nichol 2021).
    DhariwalUnet,
}

impl EdmClass {
    /// Every class with the value of its `_class_name`.
    pub const NAMES: [(&'static str, Self); 2] = [("SongUNet", Self::SongUnet), ("DhariwalUNet", Self::DhariwalUnet)];

    /// Returns the value of `_class_name`.
    pub fn name(self) -> &'static str {
        Self::NAMES[usize::from(self == Self::DhariwalUnet)].0
    }
}

/// The embedding of the noise level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmbeddingType {
    /// Sines and cosines of fixed frequencies, as in DDPM++.
    #[default]
    Positional,
    /// Sines and cosines of random frequencies, as in NCSN++.
    Fourier,
}

/// The copies of the images that the encoder gets besides its first convolution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EncoderType {
    /// Nothing.
    #[default]
    Standard,
    /// Smaller copies of the images, added at each level.
    Skip,
    /// The sum of the previous level's result and a convolution of it, as in NCSN++.
    Residual,
}

/// The terms of the decoder's output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecoderType {
    /// The result of the finest level.
    #[default]
    Standard,
    /// The result of each level.
    Skip,
}

/// The configuration of [`EdmUnet`](super::EdmUnet): the arguments of the original's constructor, with their defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EdmConfig {
    /// The class, `_class_name`, which decides on the blocks and on the defaults.
    #[serde(skip)]
    pub class: EdmClass,
    /// Height and width of the images.
    pub img_resolution: usize,
    /// Channels of the images.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Number of classes, 0 for a network without labels.
    pub label_dim: usize,
    /// Width of the vectors that describe how an image was augmented, 0 for none. Without augmentation they are zero.
    pub augment_dim: usize,
    /// The width that the others are multiples of.
    pub model_channels: usize,
    /// Channels of each level, finest first, as multiples of `model_channels`.
    pub channel_mult: Vec<usize>,
    /// Width of the embedding, as a multiple of `model_channels`.
    pub channel_mult_emb: usize,
    /// Residual blocks of each level.
    pub num_blocks: usize,
    /// Sizes of the levels with attention.
    pub attn_resolutions: Vec<usize>,
    /// The probability of dropout.
    pub dropout: f64,
    /// The probability of training an image without its label. The trainer's own setting is used in its place.
    pub label_dropout: f64,
    /// The embedding of the noise level. This and the following are arguments of `SongUNet` only.
    pub embedding_type: EmbeddingType,
    /// Width of the embedding of the noise level, as a multiple of `model_channels`.
    pub channel_mult_noise: usize,
    /// The copies of the images that the encoder gets.
    pub encoder_type: EncoderType,
    /// The terms of the decoder's output.
    pub decoder_type: DecoderType,
    /// The filter of a change of size, in each direction.
    pub resample_filter: Vec<f64>,
}

/// The keys that only `SongUNet` has.
const SONG_ONLY: [&str; 5] =
    ["embedding_type", "channel_mult_noise", "encoder_type", "decoder_type", "resample_filter"];

impl Default for EdmConfig {
    fn default() -> Self {
        Self::of_class(EdmClass::SongUnet)
    }
}

impl EdmConfig {
    /// Returns the defaults of a class.
    pub fn of_class(class: EdmClass) -> Self {
        let song = class == EdmClass::SongUnet;
        Self {
            class,
            img_resolution: 32,
            in_channels: 3,
            out_channels: 3,
            label_dim: 0,
            augment_dim: 0,
            model_channels: if song { 128 } else { 192 },
            channel_mult: if song { vec![1, 2, 2, 2] } else { vec![1, 2, 3, 4] },
            channel_mult_emb: 4,
            num_blocks: if song { 4 } else { 3 },
            attn_resolutions: if song { vec![16] } else { vec![32, 16, 8] },
            dropout: 0.1,
            label_dropout: 0.0,
            embedding_type: EmbeddingType::Positional,
            channel_mult_noise: 1,
            encoder_type: EncoderType::Standard,
            decoder_type: DecoderType::Standard,
            resample_filter: vec![1.0, 1.0],
        }
    }

    /// Parses the text of a `config.json`.
    ///
    /// # Errors
    /// If a key or value is not supported; the error names it.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        let class = serde_json::from_str::<Value>(text).ok().and_then(|keys| {
            let name = keys["_class_name"].as_str()?.to_owned();
            EdmClass::NAMES.iter().find(|(known, _)| *known == name).map(|(_, class)| *class)
        });
        let class = class.unwrap_or_default();
        let fixed: json::FixedKeys = &[("_class_name", &["\"SongUNet\"", "\"DhariwalUNet\""])];
        let defaults = Self::of_class(class);
        let keys = json::ClassKeys { class: class.name(), fixed, ignored: &[] };
        let mut config: Self = json::read(text, &keys, &defaults)?;
        config.class = class;
        if class == EdmClass::DhariwalUnet
            && let (Ok(found), Ok(defaults)) = (serde_json::to_value(&config), serde_json::to_value(&defaults))
            && let Some(key) = SONG_ONLY.into_iter().find(|key| found[key] != defaults[key])
        {
            return Err(Error::Config(format!("`{key}` is not a key of DhariwalUNet, but of SongUNet")));
        }
        config.validate()?;
        Ok(config)
    }

    /// Returns the configuration as the text of a `config.json`.
    pub fn to_json(&self) -> String {
        let mut value = serde_json::json!({ "_class_name": self.class.name() });
        if let (Some(all), Ok(Value::Object(mut own))) = (value.as_object_mut(), serde_json::to_value(self)) {
            own.retain(|key, _| self.class == EdmClass::SongUnet || !SONG_ONLY.contains(&key.as_str()));
            all.extend(own);
        }
        format!("{value:#}\n")
    }

    /// Returns the number of parameters of the network.
    pub fn parameter_count(&self) -> usize {
        let linear = |c_in: usize, c_out: usize| (c_in + 1) * c_out;
        let (noise, embedding) = (self.noise_width(), self.embedding_width());
        let frequencies = if self.embedding_type == EmbeddingType::Fourier { noise / 2 } else { 0 };
        let labels = match self.class {
            _ if self.label_dim == 0 => 0,
            EdmClass::SongUnet => linear(self.label_dim, noise),
            EdmClass::DhariwalUnet => self.label_dim * embedding,
        };
        let augment = self.augment_dim * noise;
        let mapping = frequencies + labels + augment + linear(noise, embedding) + linear(embedding, embedding);
        mapping + plan(self).pieces().map(|piece| self.count(piece.layers)).sum::<usize>()
    }

    fn count(&self, layers: Layers) -> usize {
        let conv = |kernel: usize, c_in: usize, c_out: usize| (kernel * kernel * c_in + 1) * c_out;
        match layers {
            Layers::Conv { kernel, c_in, c_out } => conv(kernel, c_in, c_out),
            Layers::Resize => 0,
            Layers::Norm { channels } => 2 * channels,
            Layers::Block { c_in, c_out, resize, has_attention } => {
                let affine = (self.embedding_width() + 1) * self.affine_width(c_out);
                let skip = if self.has_skip(c_in, c_out, resize) { conv(1, c_in, c_out) } else { 0 };
                let attention =
                    if has_attention { 2 * c_out + conv(1, c_out, 3 * c_out) + conv(1, c_out, c_out) } else { 0 };
                2 * (c_in + c_out) + conv(3, c_in, c_out) + conv(3, c_out, c_out) + affine + skip + attention
            }
        }
    }

    /// Returns the tensors that the original's state dictionary has besides the parameters: the filter of each change of size,
    /// `[1,1,taps,taps]`.
    pub fn buffers(&self) -> Tensors {
        let (filter, taps) = (&self.resample_filter, self.resample_filter.len());
        let sum: f64 = filter.iter().sum();
        let data = filter.iter().flat_map(|a| filter.iter().map(move |b| (a * b / (sum * sum)) as f32)).collect();
        let value = weights::Tensor { shape: vec![1, 1, taps, taps], data };
        let plan = plan(self);
        let names = plan.pieces().flat_map(|piece| match (piece.layers, piece.role) {
            (Layers::Block { resize: Resize::Keep, .. } | Layers::Norm { .. }, _) => Vec::new(),
            (Layers::Block { .. }, _) => [".conv0", ".skip"].map(|layer| format!("{}{layer}", piece.name)).to_vec(),
            (Layers::Resize, _) | (Layers::Conv { .. }, Role::AuxResidual) => vec![piece.name.clone()],
            (Layers::Conv { .. }, _) => Vec::new(),
        });
        let names: Vec<String> = names.map(|name| format!("{name}.resample_filter")).collect();
        names.into_iter().map(|name| (name, value.clone())).collect()
    }

    /// Checks that the configuration describes a network.
    ///
    /// # Errors
    /// If it does not; the error names the key and the expected value.
    pub fn validate(&self) -> Result<(), Error> {
        let check = |ok: bool, message: String| if ok { Ok(()) } else { Err(Error::Config(message)) };
        let levels = self.channel_mult.len();
        check((1..=16).contains(&levels), format!("`channel_mult` has {levels} entries; expected 1 to 16"))?;
        let numbers = [
            ("img_resolution", self.img_resolution, 1),
            ("in_channels", self.in_channels, 1),
            ("out_channels", self.out_channels, 1),
            ("label_dim", self.label_dim, 0),
            ("augment_dim", self.augment_dim, 0),
            ("model_channels", self.model_channels, 4),
            ("channel_mult_emb", self.channel_mult_emb, 1),
            ("channel_mult_noise", self.channel_mult_noise, 1),
        ];
        for (key, value, least) in numbers {
            check((least..=1 << 16).contains(&value), format!("`{key}` is {value}; expected {least} to 65536"))?;
        }
        let blocks = self.num_blocks;
        check((1..=64).contains(&blocks), format!("`num_blocks` is {blocks}; expected 1 to 64"))?;
        for &mult in &self.channel_mult {
            let width = self.model_channels.saturating_mul(mult);
            check(
                (4..=1 << 16).contains(&width),
                format!("`channel_mult` has {mult}, so that a level has {width} channels; expected 4 to 65536"),
            )?;
        }
        for (key, width) in [("channel_mult_noise", self.noise_width()), ("channel_mult_emb", self.embedding_width())] {
            check(width <= 1 << 20, format!("`model_channels`·`{key}` is {width}; expected at most 1048576"))?;
        }
        check(
            self.noise_width().is_multiple_of(2),
            format!("`model_channels`·`channel_mult_noise` is {}; expected an even number", self.noise_width()),
        )?;
        for (key, p) in [("dropout", self.dropout), ("label_dropout", self.label_dropout)] {
            check((0.0..1.0).contains(&p), format!("`{key}` is {p:?}; expected 0 ≤ p < 1"))?;
        }
        let filter = &self.resample_filter;
        check(
            matches!(filter.len(), 2 | 4 | 6 | 8) && filter.iter().all(|tap| tap.is_finite() && tap.abs() <= 1e6),
            format!("`resample_filter` is {filter:?}; expected 2, 4, 6 or 8 finite numbers"),
        )?;
        check(
            filter.iter().sum::<f64>().abs() > 1e-6,
            format!("`resample_filter` is {filter:?}; expected numbers whose sum is not 0"),
        )?;
        check_multiple([self.img_resolution; 2], levels)?;
        for piece in plan(self).pieces() {
            let (normed, attention) = match piece.layers {
                Layers::Block { c_in, c_out, has_attention, .. } => (vec![c_in, c_out], has_attention.then_some(c_out)),
                Layers::Norm { channels } => (vec![channels], None),
                Layers::Conv { .. } | Layers::Resize => continue,
            };
            for width in normed {
                let groups = self.groups(width);
                check(
                    width.is_multiple_of(groups),
                    format!("`{}` has {width} channels, which cannot be normalized in {groups} groups", piece.name),
                )?;
            }
            if let Some(width) = attention {
                check(
                    width.is_multiple_of(self.heads(width)),
                    format!(
                        "`{}` has attention with {width} channels, which its {} heads do not divide",
                        piece.name,
                        self.heads(width)
                    ),
                )?;
            }
        }
        Ok(())
    }

    /// Checks that images have the size of the network.
    ///
    /// # Errors
    /// If height or width is 0 or not a multiple of 2^(levels − 1).
    pub fn check_size(&self, height: usize, width: usize) -> Result<(), Error> {
        check_multiple([height, width], self.channel_mult.len())
    }

    /// Returns the width of the embedding of the noise level.
    pub(super) fn noise_width(&self) -> usize {
        self.model_channels * self.channel_mult_noise
    }

    /// Returns the width of the embedding that residual blocks receive.
    pub(super) fn embedding_width(&self) -> usize {
        self.model_channels * self.channel_mult_emb
    }

    /// Returns the groups of a normalization of `channels`: 32, or as many of at least four channels.
    pub(super) fn groups(&self, channels: usize) -> usize {
        (channels / 4).clamp(1, 32)
    }

    /// Returns the heads of an attention with `channels` channels. `DhariwalUNet` has heads of 64 channels.
    pub(super) fn heads(&self, channels: usize) -> usize {
        match self.class {
            EdmClass::SongUnet => 1,
            EdmClass::DhariwalUnet => channels / 64,
        }
    }

    /// Returns the outputs of a block's layer for the embedding: shifts, in `DhariwalUNet` scales and shifts.
    pub(super) fn affine_width(&self, channels: usize) -> usize {
        if self.class == EdmClass::SongUnet { channels } else { 2 * channels }
    }

    /// Returns whether a block has a convolution in its shortcut. In `SongUNet`, one that changes the size always has.
    pub(super) fn has_skip(&self, c_in: usize, c_out: usize, resize: Resize) -> bool {
        c_in != c_out || self.class == EdmClass::SongUnet && resize != Resize::Keep
    }
}
