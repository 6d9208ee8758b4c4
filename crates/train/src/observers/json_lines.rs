//! Writes `metrics.jsonl`.

use crate::Error;
use crate::event::Event;
use crate::observer::{Context, Observer};
use crate::records;

/// Writes the log to `metrics.jsonl`.
pub(crate) struct JsonLines;

impl Observer for JsonLines {
    fn on_event(&mut self, event: &Event, context: &mut Context) -> Result<(), Error> {
        match event {
            // Records after the step that the run continues from are removed.
            Event::Started { .. } | Event::RolledBack { .. } => records::write(context.folder(), context.records()),
            Event::Logged(record) => records::append(context.folder(), record),
            _ => Ok(()),
        }
    }
}
