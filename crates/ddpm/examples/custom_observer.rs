//! An observer of its own: it draws the loss as a line of blocks, and stops the run when the loss is low enough.
//!
//!     cargo run --release -p ddpm --example custom_observer

use std::path::Path;
use std::sync::mpsc::{Sender, channel};

use ddpm::prelude::*;
use ddpm::train::{Command, Context, Error, Event, Observer};

/// Draws the loss of each log record, from 1 (█) to 0 (▁).
struct Sparkline {
    line: String,
    stop_below: f64,
    commands: Sender<Command>,
}

impl Observer for Sparkline {
    fn on_event(&mut self, event: &Event, _: &mut Context) -> Result<(), Error> {
        if let Event::Logged(record) = event {
            let height = (record.loss * 8.0).clamp(0.0, 7.0) as usize;
            self.line.extend("▁▂▃▄▅▆▇█".chars().nth(height));
            eprintln!("{}", self.line);
            if record.loss < self.stop_below {
                // The run saves a checkpoint and ends after this step.
                let _ = self.commands.send(Command::Stop);
            }
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    run(Training::preset("fashion-ho")?, "runs/observed".as_ref()).map(drop)
}

/// Trains until the loss is below 0.1; returns the number of records.
pub fn run(training: Training, folder: &Path) -> Result<usize, Box<dyn std::error::Error>> {
    let (commands, receiver) = channel();
    let observer = Sparkline { line: String::new(), stop_below: 0.1, commands };
    let finished = training.commands(receiver).observe(observer).run(folder, &ddpm::device(Some("cpu"))?)?;
    println!("{} after {} steps", finished.checkpoint.display(), finished.step);
    Ok(finished.records.len())
}
