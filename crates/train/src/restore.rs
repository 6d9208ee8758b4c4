//! Continues a run from a checkpoint: at its start, and after it diverged.

use std::path::Path;

use data::Dataset;
use model::TrainingData;

use crate::Error;
use crate::checkpoint::{self, Checkpoint};
use crate::config::{ConfigChange, TrainingConfig};
use crate::event::Event;
use crate::images_digest::ImagesDigest;
use crate::observer::Context;
use crate::records;
use crate::state::TrainState;

/// The number of roll-backs after which a run ends.
const ROLLBACK_LIMIT: u32 = 8;
/// The key that roll-backs halve.
const RATE: &str = "train.learning_rate";

/// Compares a configuration with that of the weights of the run in a folder, and returns the keys that change.
///
/// # Errors
/// If a key changes what the weights of the run mean, or the run has done more steps than the configuration has.
pub(crate) fn changes(config: &TrainingConfig, folder: &Path) -> Result<Vec<ConfigChange>, Error> {
    let mut changes = match checkpoint::configuration(folder)? {
        Some(before) => before.changes(config)?,
        None => Vec::new(),
    };
    // The same images, from another working directory or after a move.
    let found = TrainingData::of_model(folder).ok().flatten().and_then(|data| data.find().ok());
    if let (Some(found), Some(path)) = (found.as_ref().and_then(Dataset::path), &config.data.path)
        && found.canonicalize().ok() == path.canonicalize().ok()
    {
        changes.retain(|change| change.key != "data.path");
    }
    // Without a checkpoint there are no weights, and the run begins again.
    let Some(done) = checkpoint::steps_done(folder) else { return Ok(changes) };
    let shown = folder.display();
    let fixed: Vec<String> = changes
        .iter()
        .filter(|change| !change.is_free())
        .map(|change| format!("`{}` {} → {}", change.key, change.old, change.new))
        .collect();
    if !fixed.is_empty() {
        return Err(Error::Run(format!(
            "{shown}: a resumed run cannot change {}, since its weights were trained with the old value; resume it with \
             that, or begin a new run from these weights in another folder, with `train.init_from`",
            fixed.join(", ")
        )));
    }
    let steps = config.train.steps as u64;
    if steps < done {
        return Err(Error::Run(format!(
            "{shown}: `train.steps` is {steps}, but the run has done {done} steps; expected {done} or more"
        )));
    }
    Ok(changes)
}

/// Continues from the newest intact checkpoint, if there is one. `changes` are the keys that have other values now;
/// `digest` is that of the images; `sets_rate` says that the learning rate was set, to the same value or another one.
pub(crate) fn resume(
    context: &mut Context,
    changes: &[ConfigChange],
    digest: ImagesDigest,
    sets_rate: bool,
) -> Result<(), Error> {
    if let Some(checkpoint) = newest_checkpoint(context, |_| true)? {
        let folder = context.folder().display().to_string();
        context.session.trainer.restore(checkpoint).map_err(|error| {
            Error::Run(format!("{folder}: {error}; use another folder, or the configuration that the run started with"))
        })?;
        let state = context.session.trainer.state_mut();
        let (rollbacks, sets_rate) = (state.rollbacks, sets_rate || changes.iter().any(|change| change.key == RATE));
        state.attempts = Some(if changes.is_empty() && !sets_rate { state.attempts() } else { 0 });
        state.halvings = Some(if sets_rate { 0 } else { state.halvings() });
        if state.halvings() > 0 {
            let rate = context.config().train.learning_rate;
            let now = rate * 0.5f64.powi(context.trainer().state().halvings() as i32);
            context.warn(format!(
                "the learning rate is {now:.3e}, not {rate:.3e} as configured, after {rollbacks} roll-backs; \
                 `{RATE}={rate:e}` sets it"
            ))?;
        }
        checkpoint::repair_pointers(context.folder(), context.trainer().state())?;
        let before = context.trainer().state().images.as_ref();
        if let Some(difference) = before.and_then(|before| before.difference(&digest)) {
            context.warn(format!("the images are not those that the run was trained on: {difference}"))?;
        }
    } else if !records::read(context.folder(), u64::MAX)?.is_empty() {
        let message = "the run was interrupted before its first checkpoint, and begins again".to_owned();
        context.emit(Event::Notice { message })?;
    }
    context.session.trainer.state_mut().images = Some(digest);
    Ok(())
}

/// Goes back to the newest intact checkpoint of other parameters, with half the learning rate and other random numbers.
///
/// # Errors
/// If there is no such checkpoint, if it was done too often, or if the run is to stop.
pub(crate) fn roll_back(context: &mut Context, reason: &str) -> Result<(), Error> {
    let before = context.trainer().state().clone();
    let (at, updates) = (before.step, before.updates);
    let attempts = before.attempts() + 1;
    if context.session.stopped {
        return Err(Error::Run(format!(
            "stopped at step {at}, where {reason}; these weights were not saved, and the checkpoints before are kept"
        )));
    }
    if attempts > ROLLBACK_LIMIT {
        return Err(Error::Run(format!(
            "training diverged {attempts} times despite smaller learning rates; the last good checkpoint is kept. \
             Resume with a smaller `{RATE}`, or a `train.grad_clip` such as 1"
        )));
    }
    if context.is_root() {
        // A checkpoint after the last update has the very parameters that fail.
        let Some(checkpoint) = newest_checkpoint(context, |saved| saved.updates < updates)? else {
            return Err(Error::Run(format!(
                "step {at}: {reason}, and there is no checkpoint to roll back to. Try a smaller `{RATE}`, or a \
                 `train.grad_clip` such as 1"
            )));
        };
        let trainer = &mut context.session.trainer;
        trainer.restore(checkpoint)?;
        let state = trainer.state_mut();
        state.images = before.images.clone();
        (state.rollbacks, state.skipped, state.skipped_in_a_row) = (before.rollbacks + 1, before.skipped, 0);
        (state.attempts, state.halvings) = (Some(attempts), Some(before.halvings() + 1));
    }
    context.session.trainer.share()?;
    let step = context.session.step();
    context.warn(format!("step {at}: {reason}; back to step {step} with half the learning rate"))?;
    context.emit(Event::RolledBack { step })
}

/// Reads the newest intact checkpoint that is accepted. If there are only corrupt ones, that is an error: a new run would
/// replace them.
fn newest_checkpoint(context: &mut Context, accept: impl Fn(&TrainState) -> bool) -> Result<Option<Checkpoint>, Error> {
    let device = context.trainer().network().device().autodiff();
    let mut warnings = Vec::new();
    let found = checkpoint::newest(context.folder(), &device, accept, |path, error| {
        // Most errors name the file already.
        let (path, error) = (path.display().to_string(), error.to_string());
        let prefix = if error.contains(&path) { String::new() } else { format!("{path}: ") };
        warnings.push(format!("{prefix}{error}; this checkpoint is skipped"));
    });
    let corrupt = warnings.len();
    for warning in warnings {
        context.warn(warning)?;
    }
    match found? {
        None if corrupt > 0 => Err(Error::Run(format!(
            "{}: all checkpoints are corrupt ({corrupt}); restore one, or start again in another folder",
            context.folder().join("checkpoints").display()
        ))),
        found => Ok(found),
    }
}
