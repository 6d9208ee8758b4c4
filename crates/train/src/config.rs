//! The configuration of a run: images, network, diffusion process, training and sampling.
//!
//! It is TOML in five sections, which are the five structs below. A key is a section and a field, as in
//! `train.batch_size`. Every configuration starts from a preset ([`DEFAULT_PRESET`] by default); a file replaces some of its
//! keys, and [`TrainingConfig::set`] replaces single ones.
//!
//! ```
//! use ddpm_train::TrainingConfig;
//! let mut config = TrainingConfig::preset("cifar10")?;
//! config.set("model.block_out_channels=[64, 128]")?;
//! config.set("diffusion.schedule=cosine")?;
//! config.validate()?;
//! let error = config.set("train.batchsize=8").unwrap_err();
//! assert_eq!(error.to_string(), "unknown key `train.batchsize`: did you mean `train.batch_size`?");
//! # Ok::<(), ddpm_train::ConfigError>(())
//! ```

mod changes;
mod error;
mod from_images;
mod hmdolatabadi;
mod keys;
mod model;
#[cfg(test)]
mod tests;
mod validate;

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

pub use changes::ConfigChange;
pub use data::{Background, BuiltinPoints, CropBox, Fit, LabelFrom};
pub use diffusion::{BetaSchedule as Schedule, Prediction, ProcessKind, Variance};
pub use error::ConfigError;
pub use from_images::stated_keys;
pub(crate) use model::EdmImages;
pub use model::{DhariwalKeys, HmdolatabadiKeys, LucidrainsKeys, MlpKeys, Model, SongKeys, UnetKeys};
pub use sample::Sampler;
pub use unet::{ResnetTimeScaleShift, SampleSize, TimeEmbeddingType};

/// The preset that a configuration starts from by default.
pub const DEFAULT_PRESET: &str = "fashion";

/// The built-in presets, `(name, TOML)`. Each states every key that is not optional, or names another preset and the keys
/// in which it differs.
pub const PRESETS: [(&str, &str); 23] = [
    ("fashion", include_str!("../presets/fashion.toml")),
    ("fashion-ho", include_str!("../presets/fashion-ho.toml")),
    ("fashion-hybrid", include_str!("../presets/fashion-hybrid.toml")),
    ("fashion-vlb", include_str!("../presets/fashion-vlb.toml")),
    ("fashion-vdm", include_str!("../presets/fashion-vdm.toml")),
    ("fashion-edm", include_str!("../presets/fashion-edm.toml")),
    ("cifar10-edm", include_str!("../presets/cifar10-edm.toml")),
    ("mnist", include_str!("../presets/mnist.toml")),
    ("mnist-binary", include_str!("../presets/mnist-binary.toml")),
    ("heartbeat", include_str!("../presets/heartbeat.toml")),
    ("emoji32", include_str!("../presets/emoji32.toml")),
    ("emoji64", include_str!("../presets/emoji64.toml")),
    ("cifar10", include_str!("../presets/cifar10.toml")),
    ("celebahq256", include_str!("../presets/celebahq256.toml")),
    ("lsun-bedroom", include_str!("../presets/lsun-bedroom.toml")),
    ("lsun-church", include_str!("../presets/lsun-church.toml")),
    ("lsun-cat", include_str!("../presets/lsun-cat.toml")),
    ("swissroll", include_str!("../presets/swissroll.toml")),
    ("moons", include_str!("../presets/moons.toml")),
    ("gaussians8", include_str!("../presets/gaussians8.toml")),
    ("checkerboard", include_str!("../presets/checkerboard.toml")),
    ("pinwheel", include_str!("../presets/pinwheel.toml")),
    ("spirals", include_str!("../presets/spirals.toml")),
];

/// The configuration of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingConfig {
    /// `[data]`: the images.
    pub data: Data,
    /// `[model]`: the network.
    pub model: Model,
    /// `[diffusion]`: the forward process, the prediction and the loss.
    pub diffusion: Diffusion,
    /// `[train]`: the optimizer, the length of the run, and its output.
    pub train: Train,
    /// `[sample]`: the sampler of the run's sample grids.
    pub sample: Sample,
}

/// `[data]`: the images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Folder or file with the images, relative to the working directory. Defaults to the built-in set (Fashion-MNIST).
    pub path: Option<PathBuf>,
    /// The built-in points, in place of a path, for a network of points: `swissroll`, or with other noise and another seed
    /// `swissroll,noise=0.01,seed=3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub points: Option<BuiltinPoints>,
    /// Whether points are scaled to mean 0 and deviation 1 in each dimension, by the training part, and scaled back on output.
    /// Otherwise a network takes them as they are.
    #[serde(default, skip_serializing_if = "is_false")]
    pub standardize: bool,
    /// Height and width in pixels: one number for a square, or `[height, width]`.
    pub resolution: SampleSize,
    /// 1 (grey), 3 (RGB) or 4 (RGBA); of points, the number of their dimensions.
    pub channels: usize,
    /// Whether to mirror each training image left to right with probability ½.
    pub flip: bool,
    /// The probability of each augmentation that the network is told of: mirroring, scaling, rotation, shifts (Karras et al. 2022).
    /// It needs a network with `augment_dim = 9`. 0 for none.
    #[serde(default, skip_serializing_if = "is_none")]
    pub augment: f64,
    /// The part of each stored image that is used: `[left, top, width, height]` in pixels. Defaults to the whole image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crop: Option<CropBox>,
    /// The fit of images of another size.
    pub fit: Fit,
    /// Whether to train a class-conditional network on the images' labels.
    pub labels: bool,
    /// The source of labels: `folder` (a label file, or the subfolders), `filename` (`cat_001.png`) or `column:NAME` of a
    /// table. Defaults to `folder`.
    #[serde(default)]
    pub label_from: LabelFrom,
    /// Background of transparent images with 1 or 3 channels: `[r, g, b]` or `"#rrggbb"`. Defaults to white.
    #[serde(default)]
    pub background: Background,
    /// The numbers of a NumPy array that are black and white, such as `[-1, 1]`. Without it, arrays must be u8.
    pub range: Option<[f64; 2]>,
    /// Train on this many images of each class only. Defaults to all images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images_per_class: Option<usize>,
    /// Which images of each class those are: 0 the first ones, 1 the next as many, and so on.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub fold: usize,
}

/// `[diffusion]`: the forward process, the prediction and the loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Diffusion {
    /// The kind of noise: `gaussian`, or `binomial` for bits (pixels of 128 or more are 1), whose network predicts the logits of b_0.
    #[serde(default, skip_serializing_if = "ProcessKind::is_gaussian")]
    pub process: ProcessKind,
    /// T, the number of timesteps.
    pub timesteps: usize,
    /// The noise schedule from `beta_start` to `beta_end`.
    pub schedule: Schedule,
    /// The first β. It is not scaled with T.
    pub beta_start: f64,
    /// The last β.
    pub beta_end: f64,
    /// All T values of β, instead of a schedule (diffusers' `trained_betas`).
    pub betas: Option<Vec<f64>>,
    /// The prediction of the network.
    pub prediction: Prediction,
    /// The variance of the reverse process.
    pub variance: Variance,
    /// The loss.
    pub loss: Loss,
    /// γ of the loss `min_snr`.
    pub min_snr_gamma: f64,
    /// The weight of each timestep for the loss `weights`.
    pub loss_weights: Option<Vec<f64>>,
    /// The distribution of the timesteps of a batch.
    pub timestep_sampler: TimestepSampler,
    /// The mean of ln(σ/α) for the timestep sampler `log_normal` (EDM's P_mean).
    #[serde(default = "p_mean")]
    pub p_mean: f64,
    /// The deviation of ln(σ/α) for the timestep sampler `log_normal` (EDM's P_std).
    #[serde(default = "p_std")]
    pub p_std: f64,
    /// The penalty of the prediction's error, in every loss but the bound.
    #[serde(default)]
    pub loss_norm: LossNorm,
    /// δ of the norm `huber`.
    #[serde(default = "huber_delta")]
    pub huber_delta: f64,
    /// The deviation of a number that is added to all pixels of a channel of ε, one for each image and channel, so that the network
    /// learns to change the brightness of whole images (Guttenberg 2023). 0 for none.
    #[serde(default, skip_serializing_if = "is_no_offset")]
    pub offset_noise: f64,
}

fn is_false(value: &bool) -> bool {
    !*value
}

fn is_no_offset(value: &f64) -> bool {
    *value == 0.0
}

/// The penalty of an error e of the prediction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossNorm {
    /// e².
    #[default]
    L2,
    /// |e|.
    L1,
    /// PyTorch's `smooth_l1_loss` with `beta` = δ: e²/(2δ) where |e| < δ, else |e| − δ/2.
    Huber,
}

/// The loss.
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

/// A distribution of the timesteps of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepSampler {
    /// Each independently and uniformly.
    Uniform,
    /// Evenly spaced over the batch from one random offset (Kingma et al. 2021, VDM).
    LowDiscrepancy,
    /// In proportion to the root mean square of each timestep's recent losses (Nichol & Dhariwal 2021, eq. 18).
    Importance,
    /// Each independently: the timestep that is nearest to a normally distributed ln(σ/α) (Karras et al. 2022, table 1).
    LogNormal,
}

/// `[train]`: the optimizer (Adam), the length of the run, and its output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// Steps of the optimizer.
    pub steps: usize,
    /// Images per pass through the network.
    pub batch_size: usize,
    /// Passes per step of the optimizer. A step sees `batch_size` × `gradient_accumulation` images.
    pub gradient_accumulation: usize,
    /// Adam's learning rate after the warm-up.
    pub learning_rate: f64,
    /// The learning rate after the warm-up.
    #[serde(default)]
    pub lr_schedule: LrSchedule,
    /// The steps after which `inverse_sqrt` begins to lower the learning rate.
    #[serde(default = "lr_reference_steps")]
    pub lr_reference_steps: usize,
    /// Decay of Adam's first moment.
    pub beta1: f64,
    /// Decay of Adam's second moment.
    pub beta2: f64,
    /// Adam's ε.
    pub adam_eps: f64,
    /// Weight decay of AdamW (Loshchilov & Hutter 2019), of all parameters: each step first multiplies them by
    /// 1 − learning rate · `weight_decay`. 0 is Adam.
    #[serde(default)]
    pub weight_decay: f64,
    /// Steps over which the learning rate rises linearly from 0.
    pub warmup_steps: usize,
    /// The maximum norm of the gradient over all parameters; longer gradients are scaled down to it. 0 disables clipping.
    pub grad_clip: f64,
    /// Decay of the parameters' exponential moving average, which samples are drawn from.
    pub ema_decay: f64,
    /// Whether the decay rises to `ema_decay` as (1+n)/(10+n) over the steps n, so that short runs do not average in the
    /// initial parameters.
    pub ema_warmup: bool,
    /// Half-life of the moving average in images, instead of `ema_decay` and `ema_warmup` (Karras et al. 2022).
    pub ema_half_life: Option<f64>,
    /// The greatest half-life relative to the images seen so far.
    #[serde(default = "ema_rampup", skip_serializing_if = "is_ema_rampup")]
    pub ema_rampup: f64,
    /// Lengths σ_rel of averages by power functions, of which snapshots are kept, for `ddpm export --ema-length` (Karras et al.
    /// 2024, EDM2, which has 0.05 and 0.1). Empty for none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ema_lengths: Vec<f64>,
    /// The number of these snapshots over the run.
    #[serde(default = "ema_snapshots", skip_serializing_if = "is_ema_snapshots")]
    pub ema_snapshots: usize,
    /// Probability with which a label is dropped, for classifier-free guidance (Ho & Salimans 2022).
    pub label_dropout: f64,
    /// Whether to recompute activations in the backward pass: less memory, more time. Defaults to false in files that
    /// predate the key.
    #[serde(default)]
    pub gradient_checkpointing: bool,
    /// Steps between validations, which select the best checkpoint. 0 disables them. Defaults to 0 in files that predate
    /// the key.
    #[serde(default)]
    pub evaluate_every: usize,
    /// Number of held-out images of a validation.
    #[serde(default = "evaluate_images")]
    pub evaluate_images: usize,
    /// Seed of a random choice of these images. Defaults to the first ones.
    pub evaluate_seed: Option<u64>,
    /// The file of a feature network ([`evaluate::network::FeatureNetwork`]). With it, a validation also computes the
    /// Fréchet distance between samples and training images, which then selects the best checkpoint.
    pub evaluate_features: Option<PathBuf>,
    /// Number of samples of that distance, drawn as `[sample]` says.
    #[serde(default = "evaluate_samples")]
    pub evaluate_samples: usize,
    /// An `.npz` with `mu` and `sigma` of the training images' features. Defaults to computing them at the first
    /// validation.
    pub evaluate_reference: Option<PathBuf>,
    /// Seed of all randomness of the run.
    pub seed: u64,
    /// Steps between records of the log.
    pub log_every: usize,
    /// Steps between sample grids. 0 disables them.
    pub sample_every: usize,
    /// Steps between checkpoints. 0 saves only one, at the end.
    pub checkpoint_every: usize,
    /// The number of newest checkpoints to keep.
    pub keep_checkpoints: usize,
    /// Number of consecutive steps with a loss or gradient that is not finite after which the run rolls back to the last
    /// checkpoint.
    pub nonfinite_limit: usize,
    /// Images in a sample grid. 0 disables sample grids.
    pub samples: usize,
    /// A model whose weights the run starts from: a run, a checkpoint or a diffusers folder. Defaults to random weights.
    pub init_from: Option<PathBuf>,
}

/// The learning rate after the warm-up, as a factor of `train.learning_rate`. s is the number of steps done, w that of the
/// warm-up, and S is `train.steps`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LrSchedule {
    /// 1.
    #[default]
    Constant,
    /// (1 + cos(π·(s − w)/(S − w)))/2: diffusers' and transformers' `cosine`.
    Cosine,
    /// (S − s)/(S − w): diffusers' and transformers' `linear`.
    Linear,
    /// 1/√max(s/`train.lr_reference_steps`, 1) (Karras et al. 2024, EDM2).
    InverseSqrt,
}

impl Train {
    /// Returns the learning rate of the step after `done` steps.
    pub fn scheduled_rate(&self, done: u64) -> f64 {
        let (done, warmup, steps) = (done as f64, self.warmup_steps as f64, self.steps as f64);
        let ramp = if warmup == 0.0 { 1.0 } else { ((done + 1.0) / warmup).min(1.0) };
        let progress = ((done - warmup) / (steps - warmup).max(1.0)).clamp(0.0, 1.0);
        let factor = match self.lr_schedule {
            LrSchedule::Constant => 1.0,
            LrSchedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            LrSchedule::Linear => 1.0 - progress,
            LrSchedule::InverseSqrt => (done / self.lr_reference_steps as f64).max(1.0).sqrt().recip(),
        };
        self.learning_rate * ramp * factor
    }
}

/// `[sample]`: the sampler of the run's sample grids.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// The sampler: any of `ddpm sample`.
    pub sampler: Sampler,
    /// Steps of the sampler. Defaults to all T; 20 for samplers of higher order.
    pub steps: Option<usize>,
    /// η of DDIM: 0 adds no noise, 1 as much as DDPM. Other samplers ignore it.
    pub eta: f64,
    /// Whether to clip every prediction of x_0 to [−1, 1].
    pub clip_sample: bool,
    /// Images that go through the network at once. It does not change any image.
    pub batch_size: usize,
    /// Scale of classifier-free guidance. 1 disables it.
    #[serde(default = "no_guidance")]
    pub guidance: f64,
    /// First and last timestep of the guidance. Defaults to all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guidance_interval: Option<(f64, f64)>,
}

fn evaluate_samples() -> usize {
    1000
}

fn is_zero(fold: &usize) -> bool {
    *fold == 0
}

/// serde passes references.
fn is_none(probability: &f64) -> bool {
    *probability == 0.0
}

fn no_guidance() -> f64 {
    1.0
}

fn evaluate_images() -> usize {
    64
}

/// EDM's.
fn ema_rampup() -> f64 {
    0.05
}

fn is_ema_rampup(value: &f64) -> bool {
    *value == ema_rampup()
}

fn ema_snapshots() -> usize {
    32
}

fn is_ema_snapshots(value: &usize) -> bool {
    *value == ema_snapshots()
}

fn p_mean() -> f64 {
    -1.2
}

fn p_std() -> f64 {
    1.2
}

fn huber_delta() -> f64 {
    1.0
}

/// That of EDM2's smaller networks.
fn lr_reference_steps() -> usize {
    70_000
}

impl TrainingConfig {
    /// Returns the built-in preset `name`.
    ///
    /// # Errors
    /// If there is no such preset; the error lists all of them.
    pub fn preset(name: &str) -> Result<Self, ConfigError> {
        read(preset_table(name)?)
    }

    /// Reads the TOML file `path`, without [validating](Self::validate) it.
    ///
    /// A key `preset = "NAME"` at the top of the file names the preset whose keys it replaces. It defaults to
    /// [`DEFAULT_PRESET`]; a file that states every key that is not optional needs no preset.
    ///
    /// # Errors
    /// Names the file, the key and, if it is known, the line.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = files::read_text_up_to(path, files::MAX_TOML)
            .map_err(|error| ConfigError::Read { path: path.to_owned(), error })?;
        Self::from_toml(&text).map_err(|error| ConfigError::In {
            path: path.to_owned(),
            line: error.line_in(&text),
            error: Box::new(error),
        })
    }

    /// Parses a TOML text, as [`from_file`](Self::from_file) does, or a configuration of hmdolatabadi/denoising_diffusion, which is
    /// JSON.
    ///
    /// # Errors
    /// Names the key.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let mut given = table_of(text)?;
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
    /// The value is written as in TOML, but words need no quotes. An empty value (`data.path=`) removes an optional key.
    ///
    /// # Errors
    /// If the key is unknown or the value has the wrong type; the configuration is then unchanged.
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
                    Some(value) if key == "model.class" => {
                        change_class(values, &value);
                        values.insert(name.to_owned(), value)
                    }
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
            // A folder may be called 2024: a value that is wrong as a number may be right as a string.
            Ok(value) => replaced(Some(value)).or_else(|error| word().map_err(|_| error))?,
            Err(_) => word()?,
        };
        Ok(())
    }

    /// Checks ranges, and that the keys agree with each other.
    ///
    /// # Errors
    /// Names the first key that is wrong and the values that it accepts.
    pub fn validate(&self) -> Result<(), ConfigError> {
        validate::validate(self)
    }

    /// Returns the whole configuration as TOML, which [`from_toml`](Self::from_toml) reads back.
    ///
    /// # Errors
    /// If a value cannot be written as TOML: a seed above 2^63 − 1.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        let mut text = String::new();
        for (section, values) in self.to_table()? {
            text += &format!("{}[{section}]\n", if text.is_empty() { "" } else { "\n" });
            for (name, value) in values.as_table().into_iter().flatten() {
                text += &format!("{name} = {}\n", shown(value));
            }
        }
        Ok(text)
    }

    fn to_table(&self) -> Result<Table, ConfigError> {
        Table::try_from(self).map_err(|e| ConfigError::Write(e.to_string()))
    }
}

/// Returns a value as TOML.
fn shown(value: &Value) -> String {
    match value {
        // 1e-8 and not 0.00000001.
        Value::Float(number) if number.is_finite() => format!("{number:?}"),
        value => value.to_string(),
    }
}

/// Returns the number of steps that the run of a checkpoint was configured for: `train.steps` of the nearest `config.toml`
/// above the checkpoint's folder, if there is one.
pub fn planned_steps(checkpoint: &Path) -> Option<u64> {
    // RUN/checkpoints/STEP, or a path into it.
    let folder = fs::canonicalize(checkpoint).ok()?;
    let config = |folder: &Path| TrainingConfig::from_file(&folder.join("config.toml")).ok();
    Some(folder.ancestors().take(4).find_map(config)?.train.steps as u64)
}

/// Parses a text into the keys that it states.
fn table_of(text: &str) -> Result<Table, ConfigError> {
    // Some editors begin a file with a byte order mark.
    let text = text.trim_start_matches('\u{feff}');
    if text.trim_start().starts_with('{') {
        return hmdolatabadi::table(text);
    }
    toml::from_str(text).map_err(ConfigError::syntax)
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

/// Replaces the keys of a network by the defaults of a class, if it is another one: those of the default preset, or none.
fn change_class(model: &mut Table, class: &Value) {
    let Some(class) = class.as_str().filter(|class| *class != model::class_of(model)) else { return };
    let default = preset_table(DEFAULT_PRESET).ok().and_then(|mut preset| preset.remove("model"));
    *model = match default {
        Some(Value::Table(keys)) if model::class_of(&keys) == class => keys,
        _ => Table::new(),
    };
}

/// Replaces some keys of a configuration.
fn merged(mut table: Table, given: Table) -> Table {
    for (section, values) in given {
        if let (Some(Value::Table(all)), Value::Table(some)) = (table.get_mut(&section), values) {
            if let (true, Some(class)) = (section == "model", some.get("class")) {
                change_class(all, class);
            }
            all.extend(some);
        }
    }
    table
}

fn read(mut table: Table) -> Result<TrainingConfig, ConfigError> {
    keys::check(&table)?;
    if let Some(Value::Table(keys)) = table.get_mut("model") {
        // First, so that errors about the other keys know their positions.
        let class = keys.remove("class").unwrap_or_else(|| Value::String(model::class_of(keys).to_owned()));
        let others = std::mem::take(keys);
        keys.insert("class".to_owned(), class);
        keys.extend(others);
        keys::check_class(keys)?;
    }
    serde_path_to_error::deserialize(Value::Table(table.clone()))
        .map_err(|e| error::wrong_value(&table, &e.path().to_string(), e.inner().message()))
}
