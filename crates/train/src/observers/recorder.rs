//! Averages steps into records of the log.

use std::collections::BTreeMap;

use crate::Error;
use crate::config::ConfigChange;
use crate::event::Event;
use crate::metrics::Metrics;
use crate::observer::{Context, Observer};
use crate::records::LogRecord;
use crate::trainer::StepReport;

/// Emits a record every `train.log_every` steps, after each validation and at the end.
#[derive(Default)]
pub(crate) struct Recorder {
    window: Window,
    metrics: Option<Metrics>,
    changed: BTreeMap<String, [String; 2]>,
}

/// Sums over the steps since the last record.
#[derive(Default)]
struct Window {
    updates: usize,
    images: usize,
    seconds: f64,
    loss: f64,
    gradient_norm: f64,
    quarters: [(f64, usize); 4],
}

impl Observer for Recorder {
    fn on_event(&mut self, event: &Event, context: &mut Context) -> Result<(), Error> {
        match event {
            Event::Changed(ConfigChange { key, old, new }) => {
                self.changed.insert(key.clone(), [old.clone(), new.clone()]);
            }
            Event::Validated { metrics, .. } => self.metrics = Some(metrics.clone()),
            Event::Step { report, seconds } => {
                let config = context.config();
                self.window.add(report, *seconds, config.diffusion.timesteps);
                let metrics = self.metrics.take();
                let due = context.is_due(config.train.log_every) || context.is_last() || metrics.is_some();
                // Without an update there is no loss to record.
                if due && self.window.updates > 0 {
                    let state = context.trainer().state();
                    let metrics = metrics.unwrap_or_default();
                    let record = LogRecord {
                        seconds: state.seconds,
                        skipped: state.skipped,
                        held_out: metrics.bits_per_dim,
                        frechet_distance: metrics.frechet.map(|frechet| frechet.value),
                        changed: std::mem::take(&mut self.changed),
                        ..std::mem::take(&mut self.window).record(report)
                    };
                    context.emit(Event::Logged(record))?;
                }
            }
            Event::RolledBack { .. } => (self.window, self.metrics) = Default::default(),
            _ => {}
        }
        Ok(())
    }
}

impl Window {
    /// Adds a step. One without an update counts for the speed only.
    fn add(&mut self, report: &StepReport, seconds: f64, timesteps: usize) {
        self.images += report.losses.len();
        self.seconds += seconds;
        if !report.updated {
            return;
        }
        self.updates += 1;
        self.loss += report.loss;
        self.gradient_norm += report.gradient_norm;
        for &(t, loss) in &report.losses {
            let (sum, count) = &mut self.quarters[(4 * t / timesteps).min(3)];
            *sum += loss;
            *count += 1;
        }
    }

    /// Returns the means; `last` is the last step.
    fn record(self, last: &StepReport) -> LogRecord {
        let mean = |sum: f64| sum / self.updates as f64;
        LogRecord {
            step: last.step,
            loss: mean(self.loss),
            loss_q: self.quarters.map(|(sum, count)| (count > 0).then(|| sum / count as f64)),
            gradient_norm: mean(self.gradient_norm),
            learning_rate: last.learning_rate,
            images_per_second: self.images as f64 / self.seconds.max(1e-9),
            seconds: 0.0,
            skipped: 0,
            held_out: None,
            frechet_distance: None,
            changed: BTreeMap::new(),
        }
    }
}
