//! The arguments of `Unet.__init__`, as JSON.

use serde::{Deserialize, Serialize};

use super::version::Version;
use crate::error::Error;
use crate::json;
use crate::sample_size::{SampleSize, check_multiple};

/// The value of `_class_name`.
pub(super) const CLASS: &str = "LucidrainsUnet";

/// One value for all levels, or one for each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PerLevel<T> {
    /// The value of all levels.
    All(T),
    /// The values of the levels, finest first.
    Each(Vec<T>),
}

impl<T: Copy> PerLevel<T> {
    fn at(&self, level: usize) -> T {
        match self {
            Self::All(value) => *value,
            Self::Each(values) => values[level],
        }
    }

    fn has_levels(&self, levels: usize) -> bool {
        match self {
            Self::All(_) => true,
            Self::Each(values) => values.len() == levels,
        }
    }

    fn values(&self) -> &[T] {
        match self {
            Self::All(value) => std::slice::from_ref(value),
            Self::Each(values) => values,
        }
    }
}

/// The configuration of [`LucidrainsUnet`](super::LucidrainsUnet): the arguments of the original's constructor, with their
/// defaults. `sample_size` is this program's. `flash_attn` is accepted and has no effect, as it does not change the result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LucidrainsConfig {
    /// Height and width of the training images.
    pub sample_size: Option<SampleSize>,
    /// The version of the original that has this network; the key is this program's.
    pub version: Version,
    /// Groups of the group normalization in residual blocks, which versions before 2 have.
    pub resnet_block_groups: usize,
    /// The width that the others are multiples of. The original has no default.
    pub dim: usize,
    /// Channels after the first convolution, by default `dim`.
    pub init_dim: Option<usize>,
    /// Channels of the output, by default `channels`, or twice as many with `learned_variance`.
    pub out_dim: Option<usize>,
    /// Channels of each level, finest first, as multiples of `dim`.
    pub dim_mults: Vec<usize>,
    /// Channels of the images.
    pub channels: usize,
    /// Gives the network its previous prediction of x_0 as a second image.
    pub self_condition: bool,
    /// Doubles the channels of the output.
    pub learned_variance: bool,
    /// Embeds timesteps with learned frequencies.
    pub learned_sinusoidal_cond: bool,
    /// Embeds timesteps with random frequencies, which are not trained.
    pub random_fourier_features: bool,
    /// Sines and cosines of `learned_sinusoidal_cond` and `random_fourier_features`.
    pub learned_sinusoidal_dim: usize,
    /// The base of the frequencies of a sinusoidal embedding.
    pub sinusoidal_pos_emb_theta: f64,
    /// The probability of dropout, in the first half of a residual block.
    pub dropout: f64,
    /// Channels of a head of attention.
    pub attn_dim_head: PerLevel<usize>,
    /// Heads of attention.
    pub attn_heads: PerLevel<usize>,
    /// Levels with softmax attention in place of linear attention; by default the last one.
    pub full_attn: Option<PerLevel<bool>>,
    /// Number of classes. A network with classes is the `Unet` of `classifier_free_guidance.py`: it has strided convolutions
    /// between the levels, linear attention with four heads of 32 channels in all of them, and no memory tokens; `attn_dim_head`
    /// and `attn_heads` are those of the middle.
    pub num_classes: usize,
}

/// Arguments that only the network without classes has.
const WITHOUT_CLASSES: [&str; 4] = ["self_condition", "sinusoidal_pos_emb_theta", "dropout", "full_attn"];
/// Heads and channels of each in the levels of a network with classes.
const CLASS_HEADS: [usize; 2] = [4, 32];

impl Default for LucidrainsConfig {
    fn default() -> Self {
        Self {
            sample_size: None,
            version: Version::default(),
            resnet_block_groups: 8,
            dim: 64,
            init_dim: None,
            out_dim: None,
            dim_mults: vec![1, 2, 4, 8],
            channels: 3,
            self_condition: false,
            learned_variance: false,
            learned_sinusoidal_cond: false,
            random_fourier_features: false,
            learned_sinusoidal_dim: 16,
            sinusoidal_pos_emb_theta: 10_000.0,
            dropout: 0.0,
            attn_dim_head: PerLevel::All(32),
            attn_heads: PerLevel::All(4),
            full_attn: None,
            num_classes: 0,
        }
    }
}

impl LucidrainsConfig {
    /// The value of `_class_name` in `config.json`.
    pub const CLASS_NAME: &str = CLASS;

    /// Parses the text of a `config.json`.
    ///
    /// # Errors
    /// If a key or value is not supported; the error names it.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        let fixed: json::FixedKeys = &[("_class_name", &["\"LucidrainsUnet\""])];
        let keys = json::ClassKeys { class: CLASS, fixed, ignored: &["flash_attn"] };
        let config = json::read(text, &keys, &Self::default())?;
        config.validate()?;
        Ok(config)
    }

    /// Returns the configuration as the text of a `config.json`.
    pub fn to_json(&self) -> String {
        let mut value = serde_json::json!({ "_class_name": CLASS });
        if let (Some(all), Ok(serde_json::Value::Object(own))) = (value.as_object_mut(), serde_json::to_value(self)) {
            all.extend(own);
            // The constructor of version 2 has no such arguments.
            if self.version == Version::V2 {
                all.retain(|key, _| key != "version" && key != "resnet_block_groups");
            }
            if self.num_classes > 0 {
                all.retain(|key, _| !WITHOUT_CLASSES.contains(&key.as_str()));
            } else {
                all.retain(|key, _| key != "num_classes");
            }
        }
        format!("{value:#}\n")
    }

    /// Returns the number of parameters of the network.
    pub fn parameter_count(&self) -> usize {
        let version = self.version;
        let conv = |kernel: usize, c_in: usize, c_out: usize| kernel * kernel * c_in * c_out + c_out;
        let linear = |c_in: usize, c_out: usize| c_in * c_out + c_out;
        let resnet = |c_in: usize, c_out: usize| {
            let shortcut = if c_in == c_out { 0 } else { conv(1, c_in, c_out) };
            let norms = if version.has_group_norm() { 4 * c_out } else { 2 * c_out };
            linear(self.condition_width(), 2 * c_out) + conv(3, c_in, c_out) + conv(3, c_out, c_out) + norms + shortcut
        };
        let attention = |[heads, d]: [usize; 2], c: usize, is_full: bool| {
            let hidden = heads * d;
            let normed = if is_full { 0 } else { c };
            c + 2 * hidden * self.memory_tokens() + 3 * c * hidden + conv(1, hidden, c) + normed
        };
        let (first, levels) = (self.first_width(), self.dim_mults.len());
        let images = if self.self_condition { 2 * self.channels } else { self.channels };
        let (frequencies, embedded) = match self.has_frequencies() {
            true => (self.learned_sinusoidal_dim / 2, self.learned_sinusoidal_dim + 1),
            false => (0, self.dim),
        };
        let time = frequencies + linear(embedded, self.time_width()) + linear(self.time_width(), self.time_width());
        let mid = self.width(levels - 1);
        let ends = conv(7, images, first) + resnet(2 * first, first) + conv(1, first, self.out_channels());
        let middle = 2 * resnet(mid, mid) + attention(self.mid_heads(), mid, true);
        let level = |level: usize| {
            let (c_in, c_out) = (self.width_before(level), self.width(level));
            let is_full = self.has_full_attention(level);
            let down = match level + 1 == levels {
                true => conv(3, c_in, c_out),
                false if self.has_strided_convs() => conv(4, c_in, c_out),
                false => conv(1, 4 * c_in, c_out),
            };
            2 * (resnet(c_in, c_in) + resnet(c_out + c_in, c_out))
                + attention(self.heads(level), c_in, is_full)
                + attention(self.heads(level), c_out, is_full)
                + down
                + conv(3, c_out, c_in)
        };
        let classes = match self.num_classes {
            0 => 0,
            classes => {
                let width = self.time_width();
                (classes + 1) * self.dim + linear(self.dim, width) + linear(width, width)
            }
        };
        time + classes + ends + middle + (0..levels).map(level).sum::<usize>()
    }

    /// Checks that the configuration describes a network.
    ///
    /// # Errors
    /// If it does not; the error names the key and the expected value.
    pub fn validate(&self) -> Result<(), Error> {
        let check = |ok: bool, message: String| if ok { Ok(()) } else { Err(Error::Config(message)) };
        let levels = self.dim_mults.len();
        check((1..=16).contains(&levels), format!("`dim_mults` has {levels} entries; expected 1 to 16"))?;
        let numbers = [
            ("dim", self.dim),
            ("init_dim", self.init_dim.unwrap_or(1)),
            ("out_dim", self.out_dim.unwrap_or(1)),
            ("channels", self.channels),
        ];
        let named =
            |key: &'static str, values: &[usize]| values.iter().map(move |&value| (key, value)).collect::<Vec<_>>();
        let lists = [
            named("dim_mults", &self.dim_mults),
            named("attn_dim_head", self.attn_dim_head.values()),
            named("attn_heads", self.attn_heads.values()),
        ];
        for (key, value) in numbers.into_iter().chain(lists.concat()) {
            check((1..=1 << 16).contains(&value), format!("`{key}` is {value}; expected 1 to 65536"))?;
        }
        let per_level = [
            ("attn_dim_head", self.attn_dim_head.has_levels(levels)),
            ("attn_heads", self.attn_heads.has_levels(levels)),
            (
                "full_attn",
                self.full_attn.as_ref().is_none_or(|full| full.has_levels(levels) || full.values().is_empty()),
            ),
        ];
        for (key, fits) in per_level {
            check(
                fits,
                format!("`{key}`: expected one value, or one for each of the {levels} entries of `dim_mults`"),
            )?;
        }
        for level in 0..levels {
            let (width, hidden) = (self.width(level), self.heads(level).into_iter().product::<usize>());
            check(width <= 1 << 16, format!("`dim`·`dim_mults[{level}]` is {width}; expected at most 65536"))?;
            check(hidden <= 1 << 16, format!("`attn_heads`·`attn_dim_head` is {hidden}; expected at most 65536"))?;
        }
        if self.version.has_group_norm() {
            let groups = self.resnet_block_groups;
            let divides = |width: usize| groups > 0 && width.is_multiple_of(groups);
            let uneven = (0..levels).flat_map(|level| [self.width_before(level), self.width(level)]);
            if let Some(width) = uneven.into_iter().find(|&width| !divides(width)) {
                let message = format!("`resnet_block_groups` is {groups}, which does not divide {width} channels");
                return Err(Error::Config(message));
            }
        }
        if self.num_classes > 0 {
            let classes = self.num_classes;
            check(classes <= 1 << 20, format!("`num_classes` is {classes}; expected at most 1048576"))?;
            let defaults = Self::default();
            let is_default = [
                self.self_condition == defaults.self_condition,
                self.sinusoidal_pos_emb_theta == defaults.sinusoidal_pos_emb_theta,
                self.dropout == defaults.dropout,
                self.full_attn == defaults.full_attn,
            ];
            for (key, is_default) in WITHOUT_CLASSES.into_iter().zip(is_default) {
                check(is_default, format!("`{key}` is no argument of a network with classes; leave it out"))?;
            }
            let is_one = matches!((&self.attn_heads, &self.attn_dim_head), (PerLevel::All(_), PerLevel::All(_)));
            check(is_one, "`attn_heads` and `attn_dim_head` are single numbers in a network with classes".into())?;
            let [heads, d] = self.mid_heads();
            check(
                heads * d <= 1 << 16,
                format!("`attn_heads`·`attn_dim_head` is {}; expected at most 65536", heads * d),
            )?;
        }
        check((0.0..1.0).contains(&self.dropout), format!("`dropout` is {:?}; expected 0 ≤ p < 1", self.dropout))?;
        let theta = self.sinusoidal_pos_emb_theta;
        check(
            theta > 1.0 && theta.is_finite(),
            format!("`sinusoidal_pos_emb_theta` is {theta:?}; expected more than 1"),
        )?;
        if self.has_frequencies() {
            let dim = self.learned_sinusoidal_dim;
            check(
                dim.is_multiple_of(2) && (2..=1 << 16).contains(&dim),
                format!("`learned_sinusoidal_dim` is {dim}; expected an even number from 2 to 65536"),
            )?;
        } else {
            check(
                self.dim.is_multiple_of(2) && self.dim >= 4,
                format!("`dim` is {}; expected an even number, 4 or more", self.dim),
            )?;
        }
        if let Some(size) = self.sample_size {
            size.check(self.dim_mults.len())?;
        }
        Ok(())
    }

    /// Checks that images of this size can pass through all levels.
    ///
    /// # Errors
    /// If height or width is 0 or not a multiple of 2^(levels − 1).
    pub fn check_size(&self, height: usize, width: usize) -> Result<(), Error> {
        check_multiple([height, width], self.dim_mults.len())
    }

    /// Returns whether timesteps are embedded with learned or random frequencies.
    pub(super) fn has_frequencies(&self) -> bool {
        self.learned_sinusoidal_cond || self.random_fourier_features
    }

    /// Returns the channels after the first convolution.
    pub(super) fn first_width(&self) -> usize {
        self.init_dim.unwrap_or(self.dim)
    }

    /// Returns the channels of a level's output.
    pub(super) fn width(&self, level: usize) -> usize {
        self.dim * self.dim_mults[level]
    }

    /// Returns the channels of a level's residual blocks on the way down.
    pub(super) fn width_before(&self, level: usize) -> usize {
        if level == 0 { self.first_width() } else { self.width(level - 1) }
    }

    /// Returns the width of the embedding of timesteps.
    pub(super) fn time_width(&self) -> usize {
        4 * self.dim
    }

    /// Returns a parameter's name in the original code. Before version 1.8, and in the network with classes, an attention was
    /// inside a normalization and a residual connection.
    pub fn original_name(&self, name: &str) -> String {
        let is_wrapped = self.num_classes > 0 || self.version < Version::V1_7_4;
        let mut words: Vec<&str> = name.split('.').collect();
        let at = match words[..] {
            ["downs" | "ups", _, "2", ..] => 3,
            ["mid_attn", ..] => 1,
            _ => return name.to_owned(),
        };
        match words.get(at) {
            Some(&"norm") if is_wrapped => words.insert(at, "fn"),
            Some(_) if is_wrapped => words.splice(at..at, ["fn", "fn"]).for_each(drop),
            _ => (),
        }
        words.join(".")
    }

    /// Returns the channels of the output.
    pub fn out_channels(&self) -> usize {
        self.out_dim.unwrap_or(if self.learned_variance { 2 * self.channels } else { self.channels })
    }

    /// Returns the width of the embedding of classes, 0 without.
    pub(super) fn class_width(&self) -> usize {
        if self.num_classes > 0 { 4 * self.dim } else { 0 }
    }

    /// Returns the width of what scales and shifts residual blocks.
    pub(super) fn condition_width(&self) -> usize {
        self.time_width() + self.class_width()
    }

    /// Returns whether levels are joined by strided convolutions.
    pub(super) fn has_strided_convs(&self) -> bool {
        self.num_classes > 0 || self.version.has_strided_convs()
    }

    /// Returns the number of memory tokens in each attention.
    pub(super) fn memory_tokens(&self) -> usize {
        if self.num_classes > 0 { 0 } else { self.version.memory_tokens() }
    }

    /// Returns the heads of a level's attention, and the channels of each.
    pub(super) fn heads(&self, level: usize) -> [usize; 2] {
        match self.num_classes {
            0 => [self.attn_heads.at(level), self.attn_dim_head.at(level)],
            _ => CLASS_HEADS,
        }
    }

    /// Returns the heads of the attention in the middle, and the channels of each.
    pub(super) fn mid_heads(&self) -> [usize; 2] {
        let last = self.dim_mults.len() - 1;
        [self.attn_heads.at(last), self.attn_dim_head.at(last)]
    }

    /// Returns whether a level has softmax attention. As in the original, `False` and an empty list mean the default.
    pub(super) fn has_full_attention(&self, level: usize) -> bool {
        match &self.full_attn {
            _ if self.num_classes > 0 => false,
            Some(PerLevel::Each(each)) if !each.is_empty() => each[level],
            Some(PerLevel::All(true)) => true,
            _ => level + 1 == self.dim_mults.len(),
        }
    }
}
