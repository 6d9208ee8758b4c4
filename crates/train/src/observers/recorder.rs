//! Averages steps into records of the log.

use std::collections::BTreeMap;

use crate::Error;
use crate::config::ConfigChange;
use crate::event::Event;
use crate::metrics::Metrics;
use crate::observer::{Context, Observer};
use crate::records::LogRecord;
use crate::trainer::StepReport;

/// Emits a record every `train.log_every` steps, after each validation, at the end and before an early end.
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
    /// The number and the learning rate of the last step.
    last: (u64, f64),
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
                if due {
                    self.record(metrics.unwrap_or_default(), context)?;
                }
            }
            Event::Interrupted { .. } => self.record(Metrics::default(), context)?,
            Event::RolledBack { .. } => (self.window, self.metrics) = Default::default(),
            _ => {}
        }
        Ok(())
    }
}

impl Recorder {
    /// Emits the record of the steps since the last one. Without an update there is no loss to record.
    fn record(&mut self, metrics: Metrics, context: &mut Context) -> Result<(), Error> {
        if self.window.updates == 0 {
            return Ok(());
        }
        let state = context.trainer().state();
        let record = LogRecord {
            seconds: state.seconds,
            skipped: state.skipped,
            held_out: metrics.bits_per_dim,
            frechet_distance: metrics.frechet.map(|frechet| frechet.value),
            changed: std::mem::take(&mut self.changed),
            ..std::mem::take(&mut self.window).record()
        };
        context.emit(Event::Logged(record))
    }
}

impl Window {
    /// Adds a step. One without an update counts for the speed only.
    fn add(&mut self, report: &StepReport, seconds: f64, timesteps: usize) {
        self.images += report.losses.len();
        self.seconds += seconds;
        self.last = (report.step, report.learning_rate);
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

    /// Returns the means.
    fn record(self) -> LogRecord {
        let mean = |sum: f64| sum / self.updates as f64;
        let (step, learning_rate) = self.last;
        LogRecord {
            step,
            loss: mean(self.loss),
            loss_q: self.quarters.map(|(sum, count)| (count > 0).then(|| sum / count as f64)),
            gradient_norm: mean(self.gradient_norm),
            learning_rate,
            images_per_second: self.images as f64 / self.seconds.max(1e-9),
            seconds: 0.0,
            skipped: 0,
            held_out: None,
            frechet_distance: None,
            changed: BTreeMap::new(),
        }
    }
}
