//! The configuration of a run: what to train on, which network, which diffusion, how long, and how to draw samples.
//!
//! It is TOML in five sections, which are the five structs below; a key is a section and a field, as in
//! `train.batch_size`. Every configuration starts as a preset ([`DEFAULT_PRESET`] if no other is named), a file replaces
//! some of its keys, and [`Config::set`] replaces single ones.
//!
//! ```
//! use ddpm_train::config::Config;
//! let mut config = Config::preset("cifar10")?;
//! config.set("model.block_out_channels=[64, 128]")?;
//! config.set("diffusion.schedule=cosine")?;
//! config.validate()?;
//! let error = config.set("train.batchsize=8").unwrap_err();
//! assert_eq!(error.to_string(), "unknown key `train.batchsize`: did you mean `train.batch_size`?");
//! # Ok::<(), ddpm_train::config::ConfigError>(())
//! ```

mod error;
mod keys;
#[cfg(test)]
mod tests;
mod validate;

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

pub use data::Fit;
pub use diffusion::{BetaSchedule as Schedule, Prediction, Variance};
pub use error::ConfigError;
pub use sample::Sampler;
pub use unet::{ResnetTimeScaleShift, TimeEmbeddingType};

/// The preset that a configuration starts from where nothing else is said.
pub const DEFAULT_PRESET: &str = "fashion";

/// The built-in presets, `(name, TOML)`. Each of them states every key that is not optional, or names another preset as a
/// configuration file does, and what it has of its own.
pub const PRESETS: [(&str, &str); 11] = [
    ("fashion", include_str!("../../../presets/fashion.toml")),
    ("fashion-hybrid", include_str!("../../../presets/fashion-hybrid.toml")),
    ("fashion-vlb", include_str!("../../../presets/fashion-vlb.toml")),
    ("fashion-vdm", include_str!("../../../presets/fashion-vdm.toml")),
    ("mnist", include_str!("../../../presets/mnist.toml")),
    ("emoji64", include_str!("../../../presets/emoji64.toml")),
    ("cifar10", include_str!("../../../presets/cifar10.toml")),
    ("celebahq256", include_str!("../../../presets/celebahq256.toml")),
    ("lsun-bedroom", include_str!("../../../presets/lsun-bedroom.toml")),
    ("lsun-church", include_str!("../../../presets/lsun-church.toml")),
    ("lsun-cat", include_str!("../../../presets/lsun-cat.toml")),
];

/// The whole configuration of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `[data]`: the images.
    pub data: Data,
    /// `[model]`: the network.
    pub model: Model,
    /// `[diffusion]`: the forward process, what the network predicts and what it is trained to minimise.
    pub diffusion: Diffusion,
    /// `[train]`: the optimizer, the length of the run and what it leaves behind.
    pub train: Train,
    /// `[sample]`: how images are drawn from the network.
    pub sample: Sample,
}

/// `[data]`: the images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Folder or file with the images, relative to the working directory. Absent: the built-in set (Fashion-MNIST).
    pub path: Option<PathBuf>,
    /// Height and width in pixels: one number for a square, or `[height, width]`.
    pub resolution: Resolution,
    /// 1 (grey), 3 (RGB) or 4 (RGBA).
    pub channels: usize,
    /// Mirror each training image left to right with probability ½.
    pub flip: bool,
    /// What happens to images of another size.
    pub fit: Fit,
    /// Train a class-conditional network on the images' labels.
    pub labels: bool,
}

/// Height and width of an image in pixels. In TOML one number for a square, or `[height, width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "SquareOrNot")]
pub struct Resolution {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

/// `[model]`: the network, in the words of diffusers' `UNet2DModel`. Image size and channels come from [`Data`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Channels of each level, from full resolution downwards; each level has half the height and width of the one above.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks per level on the way down; on the way up there is one more.
    pub layers_per_block: usize,
    /// Heights in pixels of the levels with self-attention (Ho et al.'s `attn_resolutions`). The middle always has it.
    pub attention_resolutions: Vec<usize>,
    /// Channels per attention head. Absent: a single head.
    pub attention_head_dim: Option<usize>,
    /// Groups of each group normalisation.
    pub norm_num_groups: usize,
    /// ε of the group normalisations: 1e-6 in Ho et al., 1e-5 in PyTorch.
    pub norm_eps: f64,
    /// Dropout before the second convolution of each residual block.
    pub dropout: f64,
    /// Padding of the stride-2 convolutions: 1 on all sides, or 0 for right and bottom only, as in Ho et al.
    pub downsample_padding: usize,
    /// Whether the cosines precede the sines in the time embedding; not so in Ho et al.
    pub flip_sin_to_cos: bool,
    /// The embedding's frequencies fall to 1/10000 over (half its size − this): 1 in Ho et al., 0 in OpenAI's code.
    pub freq_shift: f64,
    /// How a timestep becomes a vector.
    pub time_embedding_type: TimeEmbeddingType,
    /// How the time embedding enters a residual block.
    pub resnet_time_scale_shift: ResnetTimeScaleShift,
    /// Number of class embeddings. Absent: none, or with [`Data::labels`] as many as the data needs.
    pub num_class_embeds: Option<usize>,
}

/// `[diffusion]`: the forward process, what the network predicts and what it is trained to minimise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Diffusion {
    /// T, the number of timesteps.
    pub timesteps: usize,
    /// How β runs from `beta_start` to `beta_end`.
    pub schedule: Schedule,
    /// The first β. Not scaled with T.
    pub beta_start: f64,
    /// The last β.
    pub beta_end: f64,
    /// All T of them, in place of a schedule (diffusers' `trained_betas`).
    pub betas: Option<Vec<f64>>,
    /// What the network's output stands for.
    pub prediction: Prediction,
    /// The variance of the reverse process.
    pub variance: Variance,
    /// What is minimised.
    pub loss: Loss,
    /// γ of the loss `min_snr`.
    pub min_snr_gamma: f64,
    /// The weight of each timestep for the loss `weights`.
    pub loss_weights: Option<Vec<f64>>,
    /// How the timesteps of a batch are drawn.
    pub timestep_sampler: TimestepSampler,
}

/// What is minimised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// The mean squared error of the prediction (Ho et al. 2020, eq. 14).
    LSimple,
    /// The variational bound's term of the timestep (Ho et al. 2020, eq. 5).
    Vlb,
    /// `l_simple`, and the bound for the variance alone (Nichol & Dhariwal 2021, eq. 16).
    Hybrid,
    /// `l_simple` weighted by the signal-to-noise ratio, cut off at γ (Hang et al. 2023).
    MinSnr,
    /// `l_simple` weighted by [`Diffusion::loss_weights`].
    Weights,
}

/// How the timesteps of a batch are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepSampler {
    /// Each independently and uniformly.
    Uniform,
    /// Evenly spaced over the batch from one random offset (Kingma et al. 2021, VDM).
    LowDiscrepancy,
    /// By the root mean square of each timestep's recent losses (Nichol & Dhariwal 2021, eq. 18).
    Importance,
}

/// `[train]`: the optimizer (Adam), the length of the run and what it leaves behind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// Steps of the optimizer.
    pub steps: usize,
    /// Images per pass through the network.
    pub batch_size: usize,
    /// Passes per step of the optimizer, which thus sees `batch_size` times as many images.
    pub gradient_accumulation: usize,
    /// Adam's step size after the warm-up.
    pub learning_rate: f64,
    /// Adam's decay of the mean gradient.
    pub beta1: f64,
    /// Adam's decay of the mean squared gradient.
    pub beta2: f64,
    /// Adam's ε.
    pub adam_eps: f64,
    /// Steps over which the learning rate rises linearly from 0.
    pub warmup_steps: usize,
    /// The gradient's greatest norm over all parameters; a longer one is shortened to it. 0: none.
    pub grad_clip: f64,
    /// Decay of the parameters' exponential moving average, which samples are drawn from.
    pub ema_decay: f64,
    /// Let the decay rise to `ema_decay` as (1+n)/(10+n) over the steps n, so that short runs are not noise.
    pub ema_warmup: bool,
    /// Share of the labels that are hidden in training, for classifier-free guidance (Ho & Salimans 2022).
    pub label_dropout: f64,
    /// Compute each part of the network twice instead of keeping what is inside it for the backward pass: less memory,
    /// more time. Checkpoints and configurations from before it was there leave it off.
    #[serde(default)]
    pub gradient_checkpointing: bool,
    /// Steps between measurements of held-out images, which choose the best checkpoint. 0: none. Checkpoints and
    /// configurations from before it was there leave it off, as with the next.
    #[serde(default)]
    pub evaluate_every: usize,
    /// How many held-out images are measured, the first ones.
    #[serde(default = "evaluate_images")]
    pub evaluate_images: usize,
    /// A file of a network that makes features ([`evaluate::network::FeatureNetwork`]): the Fréchet distance of samples to
    /// the training images is measured too, and chooses the best checkpoint. Absent: not.
    pub evaluate_features: Option<PathBuf>,
    /// How many samples it is of, drawn as `[sample]` says.
    #[serde(default = "evaluate_samples")]
    pub evaluate_samples: usize,
    /// An `.npz` with `mu` and `sigma` of the training images' features. Absent: they are made when they are first needed.
    pub evaluate_reference: Option<PathBuf>,
    /// Seed of all the run's randomness.
    pub seed: u64,
    /// Steps between lines of the log.
    pub log_every: usize,
    /// Steps between grids of samples. 0: none.
    pub sample_every: usize,
    /// Steps between checkpoints. 0: only one at the end.
    pub checkpoint_every: usize,
    /// How many of the newest checkpoints stay on disk.
    pub keep_checkpoints: usize,
    /// After so many steps in a row whose loss or gradient is not finite, the run goes back to the last checkpoint.
    pub nonfinite_limit: usize,
    /// Images in a grid of samples. 0: no grids.
    pub samples: usize,
}

/// `[sample]`: how images are drawn from the network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// The way from noise to image: any of `ddpm sample`.
    pub sampler: Sampler,
    /// Steps of the sampler. Absent: all T, or 20 for a sampler of few steps.
    pub steps: Option<usize>,
    /// η of DDIM: 0 draws no noise on the way, 1 as much as DDPM. DDPM ignores it.
    pub eta: f64,
    /// Clip every prediction of the image to [−1, 1].
    pub clip_sample: bool,
    /// Images that are drawn at the same time. Never changes an image.
    pub batch_size: usize,
    /// Scale of the classifier-free guidance towards the classes. 1: none.
    #[serde(default = "no_guidance")]
    pub guidance: f64,
}

fn evaluate_samples() -> usize {
    1000
}

fn no_guidance() -> f64 {
    1.0
}

fn evaluate_images() -> usize {
    64
}

impl Config {
    /// The built-in preset `name`. An unknown name is an error that lists the known ones.
    pub fn preset(name: &str) -> Result<Self, ConfigError> {
        read(preset_table(name)?)
    }

    /// The configuration in the TOML file `path`, not yet [validated](Self::validate).
    ///
    /// A key `preset = "NAME"` at the top of the file names the preset whose keys it replaces; without one that is
    /// [`DEFAULT_PRESET`], unless the file states every key that is not optional, and so stands for itself. Errors name the file and, where there is one, the line.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|error| ConfigError::Read { path: path.to_owned(), error })?;
        Self::from_toml(&text).map_err(|error| ConfigError::In {
            path: path.to_owned(),
            line: error.line_in(&text),
            error: Box::new(error),
        })
    }

    /// The configuration of the run that a checkpoint is of, if there is one: the `config.toml` nearest above its folder.
    pub fn of_checkpoint(folder: &Path) -> Option<Self> {
        // RUN/checkpoints/STEP, or what a path into it names.
        let folder = fs::canonicalize(folder).ok()?;
        folder.ancestors().take(4).find_map(|folder| Self::from_file(&folder.join("config.toml")).ok())
    }

    /// The configuration in a TOML text, as [`from_file`](Self::from_file) reads it.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let mut given: Table = toml::from_str(text).map_err(ConfigError::syntax)?;
        let base = match given.remove("preset") {
            None => {
                if let Ok(complete) = read(given.clone()) {
                    return Ok(complete);
                }
                DEFAULT_PRESET.to_owned()
            }
            Some(Value::String(name)) => name,
            Some(other) => return Err(ConfigError::value("preset", format!("expected a name, got {other}"))),
        };
        keys::check(&given)?;
        read(merged(preset_table(&base)?, given))
    }

    /// Replaces one key: `train.steps=2000`, `model.block_out_channels=[64, 128]`, `data.path=photos`.
    ///
    /// The value is written as in TOML, but words need no quotes. Without a value (`data.path=`) an optional key becomes
    /// absent. On an error the configuration stays as it was.
    pub fn set(&mut self, assignment: &str) -> Result<(), ConfigError> {
        let (key, text) = assignment
            .split_once('=')
            .map(|(key, text)| (key.trim(), text.trim()))
            .ok_or_else(|| ConfigError::Assignment(assignment.to_owned()))?;
        let (section, name) = keys::split(key)?;
        let replaced = |value: Option<Value>| -> Result<Self, ConfigError> {
            let mut table = self.to_table()?;
            if let Some(Value::Table(values)) = table.get_mut(section) {
                match value {
                    Some(value) => values.insert(name.to_owned(), value),
                    None => values.remove(name),
                };
            }
            read(table)
        };
        let word = || replaced(Some(Value::String(text.to_owned())));
        *self = match text.parse::<Value>() {
            _ if text.is_empty() => {
                replaced(None).map_err(|_| ConfigError::value(key, "needs a value after `=`".to_owned()))?
            }
            // A folder may be called 2024: what is not right as a number may be right as a word.
            Ok(value) => replaced(Some(value)).or_else(|error| word().map_err(|_| error))?,
            Err(_) => word()?,
        };
        Ok(())
    }

    /// Checks what no single key's type can: ranges, and that the keys agree with each other. The error names the first
    /// key that is wrong and what it may be.
    pub fn validate(&self) -> Result<(), ConfigError> {
        validate::validate(self)
    }

    /// The whole configuration as TOML, which [`from_toml`](Self::from_toml) reads back to the same. Optional keys that
    /// are absent stay so.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        let mut text = String::new();
        for (section, values) in self.to_table()? {
            text += &format!("{}[{section}]\n", if text.is_empty() { "" } else { "\n" });
            for (name, value) in values.as_table().into_iter().flatten() {
                text += &match value {
                    // 1e-8 and not 0.00000001.
                    Value::Float(number) if number.is_finite() => format!("{name} = {number:?}\n"),
                    value => format!("{name} = {value}\n"),
                };
            }
        }
        Ok(text)
    }

    fn to_table(&self) -> Result<Table, ConfigError> {
        Table::try_from(self).map_err(|e| ConfigError::Write(e.to_string()))
    }
}

fn preset_table(name: &str) -> Result<Table, ConfigError> {
    let (_, text) =
        PRESETS.iter().find(|(known, _)| *known == name).ok_or_else(|| ConfigError::unknown_preset(name))?;
    let mut table: Table = toml::from_str(text).map_err(ConfigError::syntax)?;
    match table.remove("preset") {
        Some(Value::String(base)) => Ok(merged(preset_table(&base)?, table)),
        _ => Ok(table),
    }
}

/// A configuration with some of its keys replaced.
fn merged(mut table: Table, given: Table) -> Table {
    for (section, values) in given {
        if let (Some(Value::Table(all)), Value::Table(some)) = (table.get_mut(&section), values) {
            all.extend(some);
        }
    }
    table
}

fn read(table: Table) -> Result<Config, ConfigError> {
    keys::check(&table)?;
    serde_path_to_error::deserialize(Value::Table(table.clone()))
        .map_err(|e| error::wrong_value(&table, &e.path().to_string(), e.inner().message()))
}

impl From<Resolution> for SquareOrNot {
    fn from(Resolution { height, width }: Resolution) -> Self {
        if height == width { Self::Square(height) } else { Self::Rectangle([height, width]) }
    }
}

/// How a resolution is written.
#[derive(Serialize)]
#[serde(untagged)]
enum SquareOrNot {
    Square(usize),
    Rectangle([usize; 2]),
}

impl<'de> Deserialize<'de> for Resolution {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Resolution;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a whole number, or [height, width]")
            }

            fn visit_i64<E: serde::de::Error>(self, side: i64) -> Result<Resolution, E> {
                let wrong = |_| E::invalid_value(serde::de::Unexpected::Signed(side), &self);
                let side = usize::try_from(side).map_err(wrong)?;
                Ok(Resolution { height: side, width: side })
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut sides: A) -> Result<Resolution, A::Error> {
                let wrong = |n| serde::de::Error::invalid_length(n, &self);
                let height = sides.next_element()?.ok_or_else(|| wrong(0))?;
                let width = sides.next_element()?.ok_or_else(|| wrong(1))?;
                match sides.next_element::<serde::de::IgnoredAny>()? {
                    None => Ok(Resolution { height, width }),
                    Some(_) => Err(wrong(3)),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
