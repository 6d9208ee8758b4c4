//! Training runs, by a builder.

use std::path::Path;
use std::sync::mpsc::Receiver;

use burn::tensor::Device;
use train::config::DEFAULT_PRESET;
use train::{Command, Event, Finished, Hooks, Observer, RunFolder, TrainingConfig};

use crate::Error;

/// A training run that is still to be started: a preset or a configuration, changed step by step.
///
/// ```no_run
/// use ddpm::Training;
/// # fn main() -> Result<(), ddpm::Error> {
/// let device = ddpm::device(None)?;
/// let finished = Training::of_images("photos")?.set("train.steps=5000")?.run("runs/photos", &device)?;
/// println!("{}", finished.checkpoint.display());
/// # Ok(())
/// # }
/// ```
pub struct Training<'a> {
    config: TrainingConfig,
    hooks: Hooks<'a>,
}

impl<'a> Training<'a> {
    /// Starts from a built-in preset.
    ///
    /// # Errors
    /// Lists the presets if there is none of this name.
    pub fn preset(name: &str) -> Result<Self, Error> {
        Ok(Self::config(TrainingConfig::preset(name)?))
    }

    /// Starts from the default preset, for images of a folder, an archive or any other set: resolution, channels and fit
    /// are chosen by the images, as by `ddpm train --data PATH` (see [`TrainingConfig::fit_to_images`]).
    ///
    /// # Errors
    /// If the images cannot be read.
    pub fn of_images(path: impl AsRef<Path>) -> Result<Self, Error> {
        let mut config = TrainingConfig::preset(DEFAULT_PRESET)?;
        config.data.path = Some(path.as_ref().to_owned());
        config.fit_to_images(&[])?;
        Ok(Self::config(config))
    }

    /// Starts from a configuration file (TOML).
    ///
    /// # Errors
    /// Names the file, and the key that is wrong.
    pub fn file(path: impl AsRef<Path>) -> Result<Self, Error> {
        Ok(Self::config(TrainingConfig::from_file(path.as_ref())?))
    }

    /// Starts from a configuration.
    pub fn config(config: TrainingConfig) -> Self {
        Self { config, hooks: Hooks::new() }
    }

    /// Sets the training images: a folder, an archive, or any other set that is read.
    pub fn data(mut self, path: impl AsRef<Path>) -> Self {
        self.config.data.path = Some(path.as_ref().to_owned());
        self
    }

    /// Sets a key of the configuration: `train.steps=5000`, `model.block_out_channels=[64, 128]`.
    ///
    /// # Errors
    /// Names the key that is unknown, and the nearest one; or the value that is wrong.
    pub fn set(mut self, assignment: &str) -> Result<Self, Error> {
        self.config.set(assignment)?;
        Ok(self)
    }

    /// Adds an observer.
    pub fn observe(self, observer: impl Observer + 'a) -> Self {
        Self { hooks: self.hooks.observe(observer), ..self }
    }

    /// Calls a function with each event.
    pub fn on_event(self, callback: impl FnMut(&Event) + 'a) -> Self {
        Self { hooks: self.hooks.on_event(callback), ..self }
    }

    /// Takes commands from a channel while it runs: stop, save now, sample now.
    pub fn commands(self, commands: Receiver<Command>) -> Self {
        Self { hooks: self.hooks.commands(commands), ..self }
    }

    /// Trains in a folder, from the beginning or from the newest checkpoint there.
    ///
    /// # Errors
    /// Names the file or key at fault. Checkpoints that were written are kept.
    pub fn run(self, folder: impl Into<RunFolder>, device: &Device) -> Result<Finished, Error> {
        Ok(train::train(&self.config, folder, device, self.hooks)?)
    }
}
