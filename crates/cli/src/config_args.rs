//! Flags that make a configuration.

use std::path::PathBuf;

use clap::Args;
use clap::builder::PossibleValuesParser;
use ddpm::train::TrainingConfig;
use ddpm::train::config::{DEFAULT_PRESET, PRESETS};

use crate::error::usage;

/// Parses the name of a preset.
pub fn preset() -> PossibleValuesParser {
    PRESETS.map(|(name, _)| name).into()
}

/// Flags that make a configuration.
#[derive(Args)]
#[command(next_help_heading = "Configuration")]
pub struct ConfigArgs {
    /// Start from a preset
    #[arg(long, value_parser = preset(), conflicts_with = "config", value_name = "NAME")]
    pub preset: Option<String>,
    /// Start from a TOML file (which may name a preset: `preset = "cifar10"`)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The images: a folder, IDX, CIFAR binary, .npz … Defaults to the preset's, or the built-in ones
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    /// Set a key of the configuration, e.g. --set train.batch_size=32 --set model.block_out_channels=[64,128]
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl ConfigArgs {
    /// Returns the name of a run that is given no other.
    pub fn name(&self) -> String {
        match (&self.preset, &self.config) {
            (Some(preset), _) => preset.clone(),
            (None, Some(file)) => file.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            (None, None) => DEFAULT_PRESET.to_owned(),
        }
    }

    /// Reads the preset or file and applies the other flags.
    pub fn read(&self) -> anyhow::Result<TrainingConfig> {
        self.apply(match (&self.preset, &self.config) {
            (_, Some(file)) => TrainingConfig::from_file(file)?,
            (Some(preset), None) => TrainingConfig::preset(preset).map_err(usage)?,
            (None, None) => TrainingConfig::preset(DEFAULT_PRESET)?,
        })
    }

    /// Applies --data and --set to a configuration.
    pub fn apply(&self, mut config: TrainingConfig) -> anyhow::Result<TrainingConfig> {
        if let Some(data) = &self.data {
            config.data.path = Some(data.clone());
        }
        for assignment in &self.set {
            config.set(assignment).map_err(usage)?;
        }
        Ok(config)
    }
}
