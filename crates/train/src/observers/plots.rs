//! Plots the log.

use crate::Error;
use crate::event::Event;
use crate::observer::{Context, Observer};
use crate::plot::{self, Chart, Series};
use crate::records::LogRecord;

/// Plots the loss and the validation metrics so far, with each sample grid and at the end.
pub(crate) struct Plots;

/// A plot of one value of the records.
struct Curve {
    file: &'static str,
    y: &'static str,
    log_y: bool,
    smooth: bool,
    value: fn(&LogRecord) -> Option<f64>,
}

const CURVES: [Curve; 3] = [
    Curve { file: "loss.png", y: "loss", log_y: true, smooth: true, value: |record| Some(record.loss) },
    Curve {
        file: "bits_per_dim.png",
        y: "bits/dim of held-out images",
        log_y: false,
        smooth: false,
        value: |record| record.held_out,
    },
    Curve {
        file: "frechet_distance.png",
        y: "Fréchet distance of samples",
        log_y: true,
        smooth: false,
        value: |record| record.frechet_distance,
    },
];

impl Observer for Plots {
    fn on_event(&mut self, event: &Event, context: &mut Context) -> Result<(), Error> {
        let (Event::Sampled { .. } | Event::Finished(_)) = event else { return Ok(()) };
        let title = &context.folder().display().to_string();
        for Curve { file, y, log_y, smooth, value } in CURVES {
            let points: Vec<_> =
                context.records().iter().filter_map(|record| Some((record.step as f64, value(record)?))).collect();
            if points.len() >= 2 {
                let chart = Chart { title, x: "step", y, log_y, smooth };
                plot::chart(&context.folder().join(file), &chart, &[Series { name: String::new(), points }])?;
            }
        }
        Ok(())
    }
}
