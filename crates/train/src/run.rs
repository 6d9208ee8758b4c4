//! A training run, from its first step to its last.

use std::time::Instant;

use burn::tensor::Device;

use crate::Error;
use crate::config::TrainingConfig;
use crate::event::{Event, Finished};
use crate::observer::{Context, Hooks};
use crate::restore::roll_back;
use crate::run_folder::RunFolder;
use crate::setup::set_up;

/// Trains a network in a folder, from the beginning or from the newest intact checkpoint there (see [`RunFolder`]). The folder gets the
/// configuration, a log, plots, sample grids and checkpoints; `hooks` are observers of the caller's and a channel of
/// commands.
///
/// ```no_run
/// use ddpm_train::{Event, Hooks, TrainingConfig, train};
///
/// let config = TrainingConfig::preset("fashion")?;
/// let hooks = Hooks::new().on_event(|event| {
///     if let Event::Logged(record) = event {
///         println!("step {}: loss {:.4}", record.step, record.loss);
///     }
/// });
/// let finished = train(&config, "runs/fashion", &burn::tensor::Device::flex(), hooks)?;
/// println!("{}", finished.checkpoint.display());
/// # Ok::<(), ddpm_train::Error>(())
/// ```
///
/// # Errors
/// Names the file or key at fault. Checkpoints that were written are kept.
pub fn train(
    config: &TrainingConfig,
    folder: impl Into<RunFolder>,
    device: &Device,
    hooks: Hooks,
) -> Result<Finished, Error> {
    let (mut session, mut observers) = set_up(config, &folder.into(), device, hooks)?;
    train_loop(&mut Context::new(&mut session, &mut observers))
}

fn train_loop(context: &mut Context) -> Result<Finished, Error> {
    let nonfinite_limit = context.config().train.nonfinite_limit;
    let mut batches = context.session.batches();
    while context.session.step() < context.session.steps() && !context.session.stopped {
        let start = Instant::now();
        let batch = match context.session.next_batch(&mut batches) {
            Ok(batch) => batch,
            Err(error) => return Err(interrupted(context, error)),
        };
        let Some(report) = context.session.do_step(&batch)? else {
            // A long step is given up: a batch system ends the program a few seconds after its signal.
            context.session.stopped = true;
            save(context, "stopped")?;
            context.session.agree()?;
            if let Some(reason) = context.session.spoiled.take() {
                roll_back(context, &reason)?;
            }
            break;
        };
        let seconds = start.elapsed().as_secs_f64();
        context.session.trainer.state_mut().seconds += seconds;

        if !report.updated {
            context.warn(format!(
                "step {}: loss {} and gradient norm {} are not finite; the step is skipped",
                report.step, report.loss, report.gradient_norm
            ))?;
        }
        let skipped = context.trainer().state().skipped_in_a_row;
        if skipped >= nonfinite_limit {
            roll_back(context, &format!("{skipped} steps in a row were not finite"))?;
            batches = context.session.batches();
            continue;
        }
        context.session.read_commands()?;
        // The observers validate, log, save a checkpoint and draw samples, in this order.
        context.emit(Event::Step { report, seconds })?;
        context.session.agree()?;
        if let Some(error) = context.session.failed_validation.take() {
            return Err(interrupted(context, error));
        }
        if let Some(reason) = context.session.spoiled.take() {
            roll_back(context, &reason)?;
            batches = context.session.batches();
        }
    }
    let finished = context.session.finished();
    context.emit(Event::Finished(finished.clone()))?;
    Ok(finished)
}

/// Saves the steps that were done and logged before an error, such as an image that can no longer be read, and returns the
/// error.
fn interrupted(context: &mut Context, error: Error) -> Error {
    // The first error is the one to report. What caused it may keep the checkpoint from being written.
    let _ = save(context, &error.to_string());
    // All processes have an error here, and the first of them to end would end the one that saves.
    let _ = context.trainer().communicator().barrier();
    error
}

/// Saves the steps that were done, unless a checkpoint has them.
fn save(context: &mut Context, reason: &str) -> Result<(), Error> {
    if context.session.is_saved() {
        return Ok(());
    }
    context.emit(Event::Interrupted { message: reason.to_owned() })
}
