//! Checkpoints: diffusers pipeline folders of the averaged parameters, which also hold the state of training.
//!
//! ```text
//! checkpoints/latest                 the name of the newest
//! checkpoints/best                   the name of the one with the best validation, if there was any
//! checkpoints/000010000/
//!   model_index.json  unet/  scheduler/     what diffusers reads; the parameters are the averages
//!   preprocessing.json                      how images are read for the model
//!   training/weights.safetensors            the parameters themselves
//!   training/optimizer.safetensors          Adam's moments
//!   training/power_ema.safetensors          the averages of train.ema_lengths, if there are any
//!   training/config.toml                    the configuration
//!   training/state.json                     everything else
//!   checksums.json                          of all of these
//! ```

use std::io;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use diffusion::SchedulerConfig;
use model::pipeline::{PipelineParts, Precision};
use model::{Network, NetworkConfig, Preprocessing};
use weights::atomic::{self, Existing};
use weights::pipeline::checkpoint_name;
use weights::{Metadata, Tensors, digest, pipeline};

use crate::Error;
use crate::config::TrainingConfig;
use crate::optimizer::Optimizer;
use crate::state::TrainState;

/// The network, optimizer and state of a run.
#[derive(Debug)]
pub struct Checkpoint {
    /// The network with the parameters themselves, not their averages.
    pub network: Network,
    /// Moments and averages.
    pub optimizer: Optimizer,
    /// The averages of `train.ema_lengths`, by name.
    pub power_ema: Tensors,
    /// Everything else.
    pub state: TrainState,
    /// The chain that the network was trained for.
    pub scheduler: SchedulerConfig,
}

/// The parts that a checkpoint is written from.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointParts<'a> {
    /// The network with the parameters themselves.
    pub network: &'a Network,
    /// Moments and averages.
    pub optimizer: &'a Optimizer,
    /// The averages of `train.ema_lengths`, by name.
    pub power_ema: &'a Tensors,
    /// Everything else.
    pub state: &'a TrainState,
    /// The chain.
    pub scheduler: &'a SchedulerConfig,
    /// The way in which images are read.
    pub preprocessing: &'a Preprocessing,
    /// The configuration of the run.
    pub config: &'a TrainingConfig,
}

/// More skipped steps than any run has.
const MOST_SKIPPED: u64 = 1 << 53;

/// More roll-backs than any run has.
const MOST_ROLLBACKS: u32 = 1 << 10;

/// Returns the folder of a run's checkpoint at a step.
pub fn folder(run: &Path, step: u64) -> PathBuf {
    run.join("checkpoints").join(checkpoint_name(step))
}

/// Writes `run/checkpoints/STEP`, completely or not at all, and points `latest` to it.
///
/// # Errors
/// If a file cannot be written; earlier checkpoints are then unchanged.
pub fn save(run: &Path, parts: &CheckpointParts) -> Result<PathBuf, Error> {
    let &CheckpointParts { network, optimizer, power_ema, state, scheduler, preprocessing, config } = parts;
    let configuration = config.to_toml()?;
    let checkpoints = run.join("checkpoints");
    std::fs::create_dir_all(&checkpoints).map_err(|source| Error::Write { path: checkpoints.clone(), source })?;
    let target = folder(run, state.step);
    let averages = network.tensors_of(optimizer.averages())?;
    atomic::write_folder(&target, Existing::Replace, |folder| {
        let config = &network.config();
        let precision = Precision::F32;
        PipelineParts { config, scheduler, preprocessing, tensors: &averages, precision }.write(folder)?;
        let training = folder.join("training");
        std::fs::create_dir(&training).map_err(|source| Error::Write { path: training.clone(), source })?;
        let write = |file: &str, tensors: &Tensors| {
            weights::write_safetensors(training.join(file), weights::views(tensors), &Metadata::new())
        };
        write("weights.safetensors", &network.tensors()?)?;
        write("optimizer.safetensors", &optimizer.tensors(network)?)?;
        if !power_ema.is_empty() {
            write("power_ema.safetensors", power_ema)?;
        }
        atomic::write_file(training.join("config.toml"), |file| file.write_all(configuration.as_bytes()))?;
        atomic::write_file(training.join("state.json"), |file| {
            serde_json::to_writer_pretty(&mut *file, state)?;
            file.write_all(b"\n")
        })?;
        digest::seal(folder)?;
        Ok::<_, Error>(())
    })?;
    pipeline::set_latest(&checkpoints, &checkpoint_name(state.step))?;
    if state.best.map(|(step, _)| step) == Some(state.step) {
        pipeline::set_best(&checkpoints, &checkpoint_name(state.step))?;
    }
    Ok(target)
}

/// Removes the checkpoints of a run before that of a state, except for the best one, the newest, so that `keep` are left, and
/// those that are read-only.
///
/// # Errors
/// If one cannot be removed.
pub fn remove_old(run: &Path, state: &TrainState, keep: usize) -> Result<(), Error> {
    let all = pipeline::checkpoints(run.join("checkpoints"))?;
    let best = state.best.map(|(step, _)| step);
    if keep >= all.len() {
        return Ok(());
    }
    let is_old = |(step, folder): &&(u64, PathBuf)| *step < state.step && is_of_step(*step, folder);
    let old = all.iter().rev().filter(is_old).skip(keep.saturating_sub(1));
    for (_, old) in old.filter(|(step, _)| Some(*step) != best) {
        // Who wants to keep a checkpoint takes its write permission away.
        if !std::fs::metadata(old).is_ok_and(|folder| folder.permissions().readonly()) {
            atomic::remove_folder(old)?;
        }
    }
    Ok(())
}

/// Points `latest` and `best` of a run to the checkpoints of a state, which an interruption between writing a checkpoint and
/// pointing to it can leave behind.
///
/// # Errors
/// If they cannot be written.
pub fn repair_pointers(run: &Path, state: &TrainState) -> Result<(), Error> {
    let checkpoints = run.join("checkpoints");
    let newest = checkpoint_name(state.step);
    if pipeline::latest(&checkpoints).ok().flatten() != Some(newest.clone()) {
        pipeline::set_latest(&checkpoints, &newest)?;
    }
    match state.best {
        Some((step, _)) if folder(run, step).is_dir() => pipeline::set_best(&checkpoints, &checkpoint_name(step))?,
        _ => {}
    }
    Ok(())
}

/// Reads a checkpoint folder onto a device.
///
/// # Errors
/// Names the file that is missing, damaged or inconsistent.
pub fn load(folder: &Path, device: &Device) -> Result<Checkpoint, Error> {
    // A user who edits a file on purpose removes the list of checksums.
    if digest::is_sealed(folder) {
        digest::verify(folder)?;
    }
    let read_text =
        |path: &Path| files::read_json_text(path).map_err(|source| Error::Read { path: path.to_owned(), source });
    let invalid =
        |path: &Path, reason: &dyn std::fmt::Display| Error::Checkpoint(format!("{}: {reason}", path.display()));
    let read = |file: &str| {
        let path = folder.join(file);
        let (tensors, _) = weights::read_safetensors(&path)?;
        model::pipeline::check_finite(&path, &tensors)?;
        Ok::<_, Error>(tensors)
    };
    let path = folder.join("unet/config.json");
    let config = NetworkConfig::from_json(&read_text(&path)?).map_err(|error| invalid(&path, &error))?;
    let path = folder.join("training/state.json");
    let text = files::read_text_up_to(&path, pipeline::MAX_STATE)
        .map_err(|source| Error::Read { path: path.clone(), source })?;
    let state: TrainState = serde_json::from_str(&text).map_err(|error| invalid(&path, &error))?;
    // Steps are counted again after a roll-back, skipped ones are not forgotten.
    let TrainState { step, updates, skipped, .. } = state;
    if updates > step || skipped > MOST_SKIPPED {
        return Err(invalid(&path, &format!("{updates} updates and {skipped} skipped steps in {step} steps")));
    }
    let rollbacks = state.halvings().max(state.attempts());
    if rollbacks > MOST_ROLLBACKS {
        return Err(invalid(&path, &format!("{rollbacks} roll-backs; expected {MOST_ROLLBACKS} or fewer")));
    }
    match step_of(folder) {
        Some(step) if step != state.step => {
            let message = format!("is of step {}, but its folder's name says {step}: move the folder away", state.step);
            return Err(invalid(&path, &message));
        }
        _ => {}
    }
    let mut network = config.build(0, device)?;
    network.set_tensors(read("training/weights.safetensors")?)?;
    let moments = read("training/optimizer.safetensors")?;
    let averages = read("unet/diffusion_pytorch_model.safetensors")?;
    let optimizer = Optimizer::from_tensors(&network, moments, averages)?;
    let scheduler = model::pipeline::read_scheduler(&folder.join("scheduler/scheduler_config.json"))?;
    let has_power_ema = folder.join("training/power_ema.safetensors").exists();
    let power_ema = if has_power_ema { read("training/power_ema.safetensors")? } else { Tensors::new() };
    Ok(Checkpoint { network, optimizer, power_ema, state, scheduler })
}

/// Reads the newest intact checkpoint of a run that `accept` accepts, if there is one. `damaged` is called with each one
/// that cannot be read, which is skipped.
///
/// # Errors
/// If the folder, or a checkpoint in it, cannot be accessed.
pub fn newest(
    run: &Path,
    device: &Device,
    accept: impl Fn(&TrainState) -> bool,
    mut damaged: impl FnMut(&Path, &Error),
) -> Result<Option<Checkpoint>, Error> {
    let checkpoints = run.join("checkpoints");
    if !checkpoints.is_dir() {
        return Ok(None);
    }
    for (_, folder) in pipeline::checkpoints(&checkpoints)?.into_iter().rev() {
        match load(&folder, device) {
            Ok(checkpoint) if accept(&checkpoint.state) => return Ok(Some(checkpoint)),
            Ok(_) => {}
            // It may be whole, and the run would replace it.
            Err(error) if is_inaccessible(&error) => return Err(error),
            Err(error) => damaged(&folder, &error),
        }
    }
    Ok(None)
}

/// Returns the steps that a run has done, from the name of its newest checkpoint; `None` if there is no run.
pub fn steps_done(run: &Path) -> Option<u64> {
    let all = pipeline::checkpoints(run.join("checkpoints")).ok()?;
    let is_there = |(step, folder): &&(u64, PathBuf)| folder.join("unet").is_dir() && is_of_step(*step, folder);
    all.iter().rev().find(is_there).map(|(step, _)| *step)
}

/// Returns the configuration of the newest checkpoint of a run that has one, undamaged, or else that of the run's
/// `config.toml`; `None` if there is neither. Only that of a checkpoint is safe from edits by hand.
///
/// # Errors
/// Names the file and the key.
pub fn configuration(run: &Path) -> Result<Option<TrainingConfig>, Error> {
    const FILE: &str = "training/config.toml";
    let all = pipeline::checkpoints(run.join("checkpoints")).unwrap_or_default();
    for (_, folder) in all.iter().rev().filter(|(step, folder)| is_of_step(*step, folder)) {
        let is_whole = !digest::is_sealed(folder) || digest::verify_files(folder, |name| name == FILE).is_ok();
        if folder.join(FILE).exists() && is_whole {
            return Ok(Some(TrainingConfig::from_file(&folder.join(FILE))?));
        }
    }
    let path = run.join("config.toml");
    Ok(if path.exists() { Some(TrainingConfig::from_file(&path)?) } else { None })
}

/// Returns whether a checkpoint is that of the step in its name, and not a copy of another one.
fn is_of_step(step: u64, folder: &Path) -> bool {
    pipeline::training_state_step(folder).is_none_or(|of| of == step)
}

/// Returns the step in the name of a run's checkpoint folder.
fn step_of(folder: &Path) -> Option<u64> {
    folder.file_name()?.to_str()?.parse().ok()
}

/// Returns whether a file cannot be read for a reason outside of it, such as a missing permission.
fn is_inaccessible(error: &Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            const EIO: i32 = 5;
            let of_disk = cfg!(unix) && error.raw_os_error() == Some(EIO);
            return of_disk || files::is_shortage(error) || error.kind() == io::ErrorKind::PermissionDenied;
        }
        cause = error.source();
    }
    false
}
