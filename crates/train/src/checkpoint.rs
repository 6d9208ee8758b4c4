//! Checkpoints: diffusers pipeline folders of the averaged weights, with what training needs to go on beside them.
//!
//! ```text
//! checkpoints/latest                 the name of the newest
//! checkpoints/best                   the name of the one that measured best, where something is measured
//! checkpoints/000010000/
//!   model_index.json  unet/  scheduler/     what diffusers reads; the weights are the averages
//!   training/weights.safetensors            the weights themselves
//!   training/optimizer.safetensors          Adam's moments
//!   training/state.json                     everything else
//!   checksums.json                          of all of these
//! ```

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use diffusion::SchedulerConfig;
use diffusion::timestep_sampler::LossSecondMoment;
use serde::{Deserialize, Serialize};
use unet::{Parameters, Unet};
use weights::atomic::{self, Existing};
use weights::{Metadata, digest, pipeline};

use crate::Error;
use crate::measure::BestBy;
use crate::optimizer::Optimizer;

/// What training needs besides tensors. All randomness is addressed by seed and step, so there is no more to keep.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Steps done.
    pub step: u64,
    /// Updates done: steps less those skipped. Adam's bias correction counts these.
    pub updates: u64,
    /// Steps skipped because the loss or a gradient was not finite.
    pub skipped: u64,
    /// Of these, how many since the last step that was not skipped.
    pub skipped_in_a_row: usize,
    /// Returns to an earlier checkpoint after too many skipped steps in a row.
    pub rollbacks: u32,
    /// Seconds of training so far.
    pub seconds: f64,
    /// The losses that the importance sampler remembers.
    pub importance: Option<LossSecondMoment>,
    /// The step at which the figure that chooses was least, and that figure.
    #[serde(default)]
    pub best: Option<(u64, f64)>,
    /// Which figure chooses.
    #[serde(default)]
    pub best_by: BestBy,
}

/// A training run's tensors and state.
pub struct Checkpoint {
    /// The weights themselves, not the averages.
    pub unet: Unet,
    /// Moments and averages.
    pub optimizer: Optimizer,
    /// Everything else.
    pub state: State,
}

fn name(step: u64) -> String {
    format!("{step:09}")
}

/// Writes `run/checkpoints/STEP`, whole or not at all, points `latest` to it and removes all but the newest `keep`.
///
/// # Errors
/// If a file cannot be written; earlier checkpoints are then as they were.
pub fn save(
    run: &Path,
    unet: &Unet,
    optimizer: &Optimizer,
    scheduler: &SchedulerConfig,
    state: &State,
    keep: usize,
) -> Result<PathBuf, Error> {
    let checkpoints = run.join("checkpoints");
    std::fs::create_dir_all(&checkpoints).map_err(|source| Error::Write { path: checkpoints.clone(), source })?;
    let target = checkpoints.join(name(state.step));
    let averages = unet.tensors_of(optimizer.averages())?;
    atomic::write_folder(&target, Existing::Replace, |folder| {
        sample::write_pipeline(folder, unet.config(), scheduler, &averages)?;
        let training = folder.join("training");
        std::fs::create_dir(&training).map_err(|source| Error::Write { path: training.clone(), source })?;
        let write = |file: &str, tensors: &weights::Tensors| {
            weights::write_safetensors(training.join(file), weights::views(tensors), &Metadata::new())
        };
        write("weights.safetensors", &unet.tensors()?)?;
        write("optimizer.safetensors", &optimizer.tensors(unet)?)?;
        atomic::write_file(training.join("state.json"), |file| {
            serde_json::to_writer_pretty(&mut *file, state)?;
            file.write_all(b"\n")
        })?;
        digest::seal(folder)?;
        Ok::<_, Error>(())
    })?;
    pipeline::set_latest(&checkpoints, &name(state.step))?;
    let best = state.best.map(|(step, _)| step);
    if best == Some(state.step) {
        pipeline::set_best(&checkpoints, &name(state.step))?;
    }
    // Only now that the new one is whole may old ones go.
    let all = pipeline::checkpoints(&checkpoints)?;
    let old = all.iter().rev().filter(|(step, _)| *step < state.step).skip(keep.saturating_sub(1));
    for (_, old) in old.filter(|(step, _)| Some(*step) != best) {
        std::fs::remove_dir_all(old).map_err(|source| Error::Write { path: old.clone(), source })?;
    }
    Ok(target)
}

/// Reads a checkpoint folder onto a device.
///
/// # Errors
/// Names the file that is missing, damaged or does not fit.
pub fn load(folder: &Path, device: &Device) -> Result<Checkpoint, Error> {
    // Without a list of checksums, whoever changed a file on purpose removed it.
    if digest::is_sealed(folder) {
        digest::verify(folder)?;
    }
    let config = unet::Config::read(&folder.join("unet/config.json"))?;
    let read = |file: &str| weights::read_safetensors(folder.join(file)).map(|(tensors, _)| tensors);
    let training = folder.join("training");
    let state = training.join("state.json");
    let text = std::fs::read_to_string(&state).map_err(|source| Error::Read { path: state.clone(), source })?;
    let state: State =
        serde_json::from_str(&text).map_err(|e| Error::Checkpoint(format!("{}: {e}", state.display())))?;
    let unet = Unet::new(&config, 0, device)?.with_tensors(read("training/weights.safetensors")?)?;
    let moments = read("training/optimizer.safetensors")?;
    let averages = read("unet/diffusion_pytorch_model.safetensors")?;
    let optimizer = Optimizer::from_tensors(&unet, moments, averages, &device.clone().without_autodiff())?;
    Ok(Checkpoint { unet, optimizer, state })
}

/// The newest whole checkpoint of a run that is `wanted`, if there is one. Each that is torn or damaged is reported and
/// passed over.
///
/// # Errors
/// If the folder cannot be read.
pub fn newest(
    run: &Path,
    device: &Device,
    wanted: impl Fn(&State) -> bool,
    mut damaged: impl FnMut(&Path, &Error),
) -> Result<Option<Checkpoint>, Error> {
    let checkpoints = run.join("checkpoints");
    if !checkpoints.is_dir() {
        return Ok(None);
    }
    for (_, folder) in pipeline::checkpoints(&checkpoints)?.into_iter().rev() {
        match load(&folder, device) {
            Ok(checkpoint) if wanted(&checkpoint.state) => return Ok(Some(checkpoint)),
            Ok(_) => {}
            Err(error) => damaged(&folder, &error),
        }
    }
    Ok(None)
}
