//! Saves checkpoints.

use crate::Error;
use crate::checkpoint::{self, CheckpointParts};
use crate::command::Command;
use crate::event::Event;
use crate::observer::{Context, Observer};

/// Saves checkpoints: every `train.checkpoint_every` steps, after the best validation, on request and at the end.
#[derive(Default)]
pub(crate) struct Checkpoints {
    /// Whether a checkpoint is due.
    due: bool,
}

impl Observer for Checkpoints {
    fn on_event(&mut self, event: &Event, context: &mut Context) -> Result<(), Error> {
        match event {
            Event::Validated { best: true, .. } => self.due = true,
            Event::Step { .. } => {
                let train = &context.config().train;
                let keep = train.keep_checkpoints;
                self.due |= context.is_due(train.checkpoint_every) || context.is_requested(Command::Save);
                // While steps are skipped, the parameters may be those that a roll-back has to undo. So a checkpoint
                // waits, and one at the end does not replace better ones.
                let skips = context.trainer().state().skipped_in_a_row > 0;
                if (self.due && !skips) || context.is_last() {
                    self.due = false;
                    save(context, if skips { usize::MAX } else { keep })?;
                }
            }
            Event::RolledBack { .. } => self.due = false,
            Event::Interrupted { .. } => save(context, usize::MAX)?,
            _ => {}
        }
        Ok(())
    }
}

/// Saves a checkpoint, unless its weights are of no use.
fn save(context: &mut Context, keep: usize) -> Result<(), Error> {
    context.session.spoiled = context.trainer().unusable()?;
    if context.session.spoiled.is_some() {
        return Ok(());
    }
    let (trainer, scheduler) = (context.trainer(), context.config().scheduler());
    let power_ema = trainer.power_averages()?;
    let parts = CheckpointParts {
        network: trainer.network(),
        optimizer: trainer.optimizer(),
        power_ema: &power_ema,
        state: trainer.state(),
        scheduler: &scheduler,
        preprocessing: &context.session.preprocessing,
        config: context.config(),
    };
    let path = checkpoint::save(context.folder(), &parts)?;
    context.emit(Event::Saved { path })?;
    // The new one is complete, so an old one that cannot be removed ends nothing.
    match checkpoint::remove_old(context.folder(), context.trainer().state(), keep) {
        Err(error) => context.warn(format!("an old checkpoint cannot be removed: {error}")),
        Ok(()) => Ok(()),
    }
}
