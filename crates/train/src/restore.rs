//! Continues a run from a checkpoint: at its start, and after it diverged.

use std::path::Path;

use crate::Error;
use crate::checkpoint::{self, Checkpoint};
use crate::config::{ConfigChange, TrainingConfig};
use crate::event::Event;
use crate::images_digest::ImagesDigest;
use crate::observer::Context;
use crate::state::TrainState;

/// The number of roll-backs after which a run ends.
const ROLLBACK_LIMIT: u32 = 8;

/// Compares a configuration with that of the run in a folder, and returns the keys that change.
///
/// # Errors
/// If a key changes what the weights of the run mean, or the run has done more steps than the configuration has.
pub(crate) fn changes(config: &TrainingConfig, folder: &Path) -> Result<Vec<ConfigChange>, Error> {
    let path = folder.join("config.toml");
    let changes = if path.exists() { TrainingConfig::from_file(&path)?.changes(config)? } else { Vec::new() };
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

/// Continues from the newest intact checkpoint, if there is one.
pub(crate) fn resume(context: &mut Context) -> Result<(), Error> {
    let digest = ImagesDigest::new(&context.session.set)?;
    if let Some(checkpoint) = newest_checkpoint(context, |_| true)? {
        let folder = context.folder().display().to_string();
        context.session.trainer.restore(checkpoint).map_err(|error| {
            Error::Run(format!("{folder}: {error}; use another folder, or the configuration that the run started with"))
        })?;
        checkpoint::repair_pointers(context.folder(), context.trainer().state())?;
        let before = context.trainer().state().images.as_ref();
        if let Some(difference) = before.and_then(|before| before.difference(&digest)) {
            context.warn(format!("the images are not those that the run was trained on: {difference}"))?;
        }
    }
    context.session.trainer.state_mut().images = Some(digest);
    Ok(())
}

/// Goes back to the newest intact checkpoint of other parameters, with half the learning rate and other random numbers.
pub(crate) fn roll_back(context: &mut Context) -> Result<(), Error> {
    let TrainState { step: at, updates, skipped, skipped_in_a_row, rollbacks, .. } = *context.trainer().state();
    let rollbacks = rollbacks + 1;
    if rollbacks > ROLLBACK_LIMIT {
        return Err(Error::Run(format!(
            "training diverged {rollbacks} times despite smaller learning rates; the last good checkpoint is kept. \
             Try a smaller `train.learning_rate`, or a `train.grad_clip` such as 1"
        )));
    }
    // A checkpoint after the last update has the very parameters that fail.
    let Some(checkpoint) = newest_checkpoint(context, |saved| saved.updates < updates)? else {
        return Err(Error::Run(format!(
            "step {at}: {skipped_in_a_row} steps in a row were not finite, and there is no checkpoint to roll back to. \
             Try a smaller `train.learning_rate`, or a `train.grad_clip` such as 1"
        )));
    };
    let trainer = &mut context.session.trainer;
    let images = trainer.state().images.clone();
    trainer.restore(checkpoint)?;
    let state = trainer.state_mut();
    state.images = images;
    (state.rollbacks, state.skipped, state.skipped_in_a_row) = (rollbacks, skipped, 0);
    let step = state.step;
    context.warn(format!(
        "step {at}: {skipped_in_a_row} steps in a row were not finite; back to step {step} with half the learning rate"
    ))?;
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
