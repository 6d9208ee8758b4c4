//! Saves snapshots of the averages by power functions.

use crate::Error;
use crate::event::Event;
use crate::observer::{Context, Observer};
use crate::power_ema;

/// Saves `train.ema_snapshots` snapshots, evenly over the run, and removes those of steps that are done again.
pub(crate) struct EmaSnapshots;

impl Observer for EmaSnapshots {
    fn on_event(&mut self, event: &Event, context: &mut Context) -> Result<(), Error> {
        let train = &context.config().train;
        if train.ema_lengths.is_empty() {
            return Ok(());
        }
        match event {
            Event::Started { step, .. } | Event::RolledBack { step } => {
                power_ema::remove_after(context.folder(), *step)
            }
            Event::Step { .. } => {
                let every = train.steps.div_ceil(train.ema_snapshots).max(1);
                let state = context.trainer().state();
                let due =
                    (context.is_due(every) || context.is_last()) && state.skipped_in_a_row == 0 && state.updates > 0;
                if !due {
                    return Ok(());
                }
                power_ema::save(context.folder(), &context.trainer().power_averages()?, state.step, state.updates)
            }
            _ => Ok(()),
        }
    }
}
