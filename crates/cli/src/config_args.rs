//! Flags that make a configuration.

use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Args;
use clap::builder::PossibleValuesParser;
use ddpm::data::{self, Dataset};
use ddpm::train::config::{ConfigChange, DEFAULT_PRESET, PRESETS, stated_keys};
use ddpm::train::{Error, TrainingConfig};

use crate::Global;
use crate::error::usage;
use crate::terminal::say;

/// Parses the name of a preset.
pub fn preset() -> PossibleValuesParser {
    PRESETS.map(|(name, _)| name).into()
}

/// The images that each preset expects.
const PRESET_DATA: [(&str, &str); 10] = [
    ("mnist", "the IDX files of MNIST (train-images-idx3-ubyte and so on, as they are or as .gz)"),
    ("mnist-binary", "the IDX files of MNIST (train-images-idx3-ubyte and so on, as they are or as .gz)"),
    ("emoji32", "a folder of PNG files for each category"),
    ("emoji64", "a folder of PNG files for each category"),
    ("cifar10", "the binary version of CIFAR-10 (the folder cifar-10-batches-bin, or cifar-10-binary.tar.gz)"),
    ("cifar10-edm", "the binary version of CIFAR-10 (the folder cifar-10-batches-bin, or cifar-10-binary.tar.gz)"),
    ("celebahq256", "a folder or archive of the 30,000 images"),
    ("lsun-bedroom", "a folder or archive of the images, exported from their LMDB"),
    ("lsun-church", "a folder or archive of the images, exported from their LMDB"),
    ("lsun-cat", "a folder or archive of the images, exported from their LMDB"),
];

/// Flags that make a configuration.
#[derive(Args)]
#[command(next_help_heading = "Configuration")]
pub struct ConfigArgs {
    /// Start from a preset
    #[arg(long, value_parser = preset(), conflicts_with = "config", value_name = "NAME")]
    pub preset: Option<String>,
    /// Start from a TOML file (which may name a preset: `preset = "cifar10"`), or from a JSON file of
    /// hmdolatabadi/denoising_diffusion
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The images: a folder, IDX, CIFAR binary, .npz …, or `builtin`; or points: .npy, .npz, .csv, or `builtin:NAME`, such as
    /// builtin:swissroll. Defaults to the preset's, or the built-in ones.
    /// Without --preset, resolution, channels and fit are chosen by the images, except for keys that are set
    #[arg(long, value_name = "PATH")]
    pub data: Option<Dataset>,
    /// Set a key of the configuration, e.g. --set train.batch_size=32 --set model.block_out_channels=[64,128]
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl ConfigArgs {
    /// Returns whether --set names a key.
    pub fn sets(&self, key: &str) -> bool {
        self.set.iter().any(|set| set.split_once('=').is_some_and(|(name, _)| name.trim() == key))
    }

    /// Returns the name of a run that is given no other.
    pub fn name(&self) -> String {
        match (&self.preset, &self.config) {
            (Some(preset), _) => preset.clone(),
            (None, Some(file)) => file.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            (None, None) => DEFAULT_PRESET.to_owned(),
        }
    }

    /// Reads the configuration of a new run. With `--set train.init_from=MODEL` and neither a preset nor a file, the
    /// network and its noise schedule are those of the model.
    pub fn read_for_training(&self, global: &Global, dry_run: bool) -> anyhow::Result<TrainingConfig> {
        let given = self.given()?;
        let Some(source) = given.train.init_from.clone().filter(|_| self.preset.is_none() && self.config.is_none())
        else {
            if !dry_run {
                self.check_data(&given)?;
            }
            return self.fit_to_images(given, global);
        };
        let mut default = TrainingConfig::preset(DEFAULT_PRESET)?;
        default.without_labels(&[]);
        let mut taken = default.clone();
        taken.take_from(&source)?;
        let changes = default.changes(&taken)?;
        // The keys of the default network, if the model has another one.
        let is_gone = |change: &ConfigChange| change.key.starts_with("model.") && change.new == "none";
        let shown = changes.iter().filter(|change| change.key != "train.init_from" && !is_gone(change));
        for ConfigChange { key, new, .. } in shown {
            say(format!("from {}: {key} = {new}", source.display()), global);
        }
        self.apply(taken)
    }

    /// Checks that there are images where a preset expects them.
    fn check_data(&self, config: &TrainingConfig) -> anyhow::Result<()> {
        let Some(preset) = self.preset.as_deref() else { return Ok(()) };
        let expected = TrainingConfig::preset(preset)?.data.path.filter(|path| path != Path::new(Dataset::HEARTBEAT));
        match expected {
            Some(path) if config.data.path.as_ref() == Some(&path) && !path.exists() => {
                let (_, images) = PRESET_DATA.iter().find(|(name, _)| *name == preset).unwrap_or(&("", "its images"));
                bail!("preset `{preset}`: {}: not found; it expects {images} there, or at --data PATH", path.display());
            }
            _ => Ok(()),
        }
    }

    /// Reads the preset or file and applies the other flags. Without a preset, keys of the images that are not stated
    /// are chosen by the images, and printed.
    pub fn read(&self, global: &Global) -> anyhow::Result<TrainingConfig> {
        self.fit_to_images(self.given()?, global)
    }

    /// Reads the preset or file and applies the other flags.
    fn given(&self) -> anyhow::Result<TrainingConfig> {
        self.apply(match (&self.preset, &self.config) {
            (_, Some(file)) => TrainingConfig::from_file(file)?,
            (Some(preset), None) => TrainingConfig::preset(preset).map_err(usage)?,
            (None, None) => TrainingConfig::preset(DEFAULT_PRESET)?,
        })
    }

    /// Lets the images choose the keys about images that neither a preset nor the user states, and prints them.
    fn fit_to_images(&self, mut config: TrainingConfig, global: &Global) -> anyhow::Result<TrainingConfig> {
        let (stated, by_preset) = self.stated_keys()?;
        let chosen = config.decide_rest(&stated, by_preset).map_err(|error| match error {
            // It begins with the name of the option, which is that of the key.
            Error::Data(data::Error::Argument(message)) => usage(format!("data.{message}")),
            error => error.into(),
        })?;
        if !chosen.is_empty() {
            say(format!("chosen by the images: {} (change with --set)", chosen.join(" ")), global);
        }
        Ok(config)
    }

    /// Returns the keys of --set and of the file, and whether a preset states the others.
    fn stated_keys(&self) -> anyhow::Result<(Vec<String>, bool)> {
        let (of_file, names_preset) = self.config.as_deref().map(stated_keys).transpose()?.unwrap_or_default();
        let set = self.set.iter().filter_map(|set| set.split_once('=')).map(|(key, _)| key.trim().to_owned());
        Ok((of_file.into_iter().chain(set).collect(), names_preset || self.preset.is_some()))
    }

    /// Returns whether a preset decided the value of a key, and not the user or the images.
    pub fn is_of_preset(&self, key: &str) -> bool {
        self.stated_keys().is_ok_and(|(stated, by_preset)| by_preset && !stated.iter().any(|stated| stated == key))
    }

    /// Applies --data and --set to a configuration.
    pub fn apply(&self, mut config: TrainingConfig) -> anyhow::Result<TrainingConfig> {
        if let Some(data) = &self.data {
            config.data.path = data.path().map(Path::to_owned);
            config.data.points = match data {
                Dataset::Points(points) => Some(*points),
                Dataset::Builtin | Dataset::Heartbeat | Dataset::Path(_) => None,
            };
        }
        for assignment in &self.set {
            config.set(assignment).map_err(usage)?;
        }
        Ok(config)
    }
}
