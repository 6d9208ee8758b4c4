//! A network with its noise schedule, read from and written to diffusers pipeline folders.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use diffusion::SchedulerConfig;
use unet::{Config, Parameters, Unet};
use weights::families::{Imported, Options};
use weights::whole::{self, Existing};
use weights::{Tensors, digest, names, pipeline as folders};

use crate::Error;

/// A denoising diffusion model: what diffusers calls a `DDPMPipeline`.
#[derive(Debug)]
pub struct Pipeline {
    /// The network.
    pub unet: Unet,
    /// The chain it was trained for.
    pub scheduler: SchedulerConfig,
    /// Where it was read from.
    pub root: PathBuf,
}

impl Pipeline {
    /// Reads a model: a run, a checkpoint, a diffusers folder, a flat `google/ddpm-*` repository or a `unet` folder
    /// (see [`weights::pipeline::locate`]).
    ///
    /// # Errors
    /// Names the file, key or tensor that is missing, damaged, unsupported or of another shape.
    pub fn load(path: &Path, device: &Device) -> Result<Self, Error> {
        let located = folders::locate(path)?;
        if digest::is_sealed(&located.root) {
            digest::verify(&located.root)?;
        }
        let config = Config::read(&located.unet_config)?;
        let scheduler = match &located.scheduler_config {
            Some(path) => read_scheduler(path)?,
            None => SchedulerConfig::default(),
        };
        let tensors = weights::read_tensors(&located.unet_weights)?;
        let tensors = names::modernize(&located.unet_weights, tensors)?;
        // A configuration that asks for far more than its weights is not worth building a network for.
        let (asked, held) = (config.parameter_count(), tensors.values().map(|t| t.data.len()).sum::<usize>());
        if asked / 2 > held + (1 << 20) {
            let message = format!("describes a network of {asked} parameters, but the weights beside it are {held}");
            return Err(Error::Pipeline { path: located.unet_config, message });
        }
        let unet = Unet::new(&config, 0, device)?
            .with_tensors(tensors)
            .map_err(|error| Error::Pipeline { path: located.unet_weights.clone(), message: error.to_string() })?;
        let pipeline = Self { unet, scheduler, root: located.root };
        pipeline.check().map_err(|message| Error::Pipeline { path: located.unet_config, message })?;
        Ok(pipeline)
    }

    /// Reads a network of another code base (see [`weights::families`]) and makes it a pipeline. What was found and assumed on
    /// the way comes with it, its tensors moved into the network.
    ///
    /// # Errors
    /// Names the file, tensor or key that is missing, damaged or not supported.
    pub fn import(path: &Path, options: &Options, device: &Device) -> Result<(Self, Imported), Error> {
        let mut imported = weights::families::import(path, options)?;
        let fail = |message: String| Error::Pipeline { path: path.to_owned(), message };
        let config = Config::from_json(&imported.config.to_string()).map_err(|error| fail(error.to_string()))?;
        let scheduler =
            SchedulerConfig::from_json(&imported.scheduler.to_string()).map_err(|error| fail(error.to_string()))?;
        let unet = Unet::new(&config, 0, device)?
            .with_tensors(std::mem::take(&mut imported.tensors))
            .map_err(|error| fail(error.to_string()))?;
        let pipeline = Self { unet, scheduler, root: path.to_owned() };
        pipeline.check().map_err(fail)?;
        Ok((pipeline, imported))
    }

    /// Writes the pipeline as a folder of diffusers', whole or not at all. Nothing may be there yet.
    ///
    /// # Errors
    /// If something is, or a file cannot be written.
    pub fn export(&self, folder: &Path) -> Result<(), Error> {
        let tensors = self.unet.tensors()?;
        whole::write_folder(folder, Existing::Refuse, |folder| {
            write(folder, self.unet.config(), &self.scheduler, &tensors)
        })
    }

    /// How a set is to be read so that its images fit the network.
    pub fn data_options(&self) -> data::ReadOptions {
        let config = self.unet.config();
        data::ReadOptions {
            resolution: config.sample_size.map(|size| size.height_width()),
            channels: Some(config.in_channels),
            ..data::ReadOptions::default()
        }
    }

    /// Whether network and chain go together: a learned variance needs twice the output channels.
    fn check(&self) -> Result<(), String> {
        let config = self.unet.config();
        let steps = self.scheduler.num_train_timesteps;
        if let Some(rows) = config.num_train_timesteps.filter(|&rows| rows < steps) {
            return Err(format!("`num_train_timesteps` is {rows}, but the scheduler's is {steps}"));
        }
        let learned = self.scheduler.variance_type.is_learned();
        let expected = if learned { 2 * config.in_channels } else { config.in_channels };
        if config.out_channels == expected || config.out_channels == 2 * config.in_channels {
            return Ok(());
        }
        Err(format!(
            "`out_channels` is {}; with {} input channels and variance_type {} it should be {expected}",
            config.out_channels, config.in_channels, self.scheduler.variance_type
        ))
    }
}

/// Reads a `scheduler_config.json`.
///
/// # Errors
/// Names the file and the key that is not supported.
pub fn read_scheduler(path: &Path) -> Result<SchedulerConfig, Error> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| Error::Pipeline { path: path.into(), message: format!("cannot be read: {e}") })?;
    SchedulerConfig::from_json(&text).map_err(|e| Error::Pipeline { path: path.into(), message: e.to_string() })
}

/// Writes a pipeline into a folder that exists: `model_index.json`, `unet/` and `scheduler/`, which
/// `DDPMPipeline.from_pretrained` reads. `tensors` are the network's, by diffusers' names.
///
/// # Errors
/// If a file cannot be written.
pub fn write(folder: &Path, config: &Config, scheduler: &SchedulerConfig, tensors: &Tensors) -> Result<(), Error> {
    let create = |name: &str| {
        let path = folder.join(name);
        std::fs::create_dir_all(&path)
            .map_err(|e| Error::Pipeline { path: path.clone(), message: format!("cannot be created: {e}") })?;
        Ok::<_, Error>(path)
    };
    let unet = create("unet")?;
    whole::write_file(unet.join("config.json"), |file| file.write_all(config.to_json().as_bytes()))?;
    let path = unet.join("diffusion_pytorch_model.safetensors");
    weights::write_safetensors(path, weights::views(tensors), &weights::Metadata::new())?;
    let json = scheduler.to_json()?;
    whole::write_file(create("scheduler")?.join("scheduler_config.json"), |file| file.write_all(json.as_bytes()))?;
    folders::write_model_index(folder)?;
    Ok(())
}
