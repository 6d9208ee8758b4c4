//! What is logged: one line of JSON for every `log_every` steps, TensorBoard events, and a plot of the loss.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use weights::atomic;

use crate::Error;
use crate::plot::{self, Chart, Series};
use crate::tensorboard::EventWriter;
use crate::trainer::Report;

/// A line of `metrics.jsonl`: means over the steps since the line before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Steps done.
    pub step: u64,
    /// The weighted loss.
    pub loss: f64,
    /// The unweighted loss by quarter of the chain, early t first; null where no t fell.
    pub loss_q: [Option<f64>; 4],
    /// The gradient's norm before clipping.
    pub gradient_norm: f64,
    /// The learning rate of the last of the steps.
    pub learning_rate: f64,
    /// Training speed.
    pub images_per_second: f64,
    /// Seconds of training so far.
    pub seconds: f64,
    /// Steps skipped so far because something was not finite.
    pub skipped: u64,
    /// Bits/dim of held-out images after this step, where they were measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<f64>,
    /// The Fréchet distance of samples to the training images after this step, where it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frechet_distance: Option<f64>,
}

/// Sums of reports until a record is due.
#[derive(Default)]
pub struct Window {
    moved: usize,
    images: usize,
    loss: f64,
    gradient_norm: f64,
    quarters: [(f64, usize); 4],
}

impl Window {
    /// Adds a step. Those that were skipped count for speed only.
    pub fn add(&mut self, report: &Report, timesteps: usize) {
        self.images += report.each.len();
        if !report.moved {
            return;
        }
        self.moved += 1;
        self.loss += report.loss;
        self.gradient_norm += report.gradient_norm;
        for &(t, loss) in &report.each {
            let (sum, count) = &mut self.quarters[(4 * t / timesteps).min(3)];
            *sum += loss;
            *count += 1;
        }
    }

    /// Whether no step was added that moved the parameters, so that there is no loss to record.
    pub fn is_empty(&self) -> bool {
        self.moved == 0
    }

    /// The record of what was added over `elapsed` seconds.
    pub fn record(&self, step: u64, learning_rate: f64, elapsed: f64, seconds: f64, skipped: u64) -> Record {
        let mean = |sum: f64| sum / self.moved as f64;
        Record {
            step,
            loss: mean(self.loss),
            loss_q: self.quarters.map(|(sum, count)| (count > 0).then(|| sum / count as f64)),
            gradient_norm: mean(self.gradient_norm),
            learning_rate,
            images_per_second: self.images as f64 / elapsed.max(1e-9),
            seconds,
            skipped,
            held_out: None,
            frechet_distance: None,
        }
    }
}

/// A curve of a run: its file, its axis and whether that is logarithmic, and what it is of.
type Curve = (&'static str, &'static str, bool, fn(&Record) -> Option<f64>);
const LOSS: &str = "loss.png";
const CURVES: [Curve; 3] = [
    (LOSS, "loss", true, |record| Some(record.loss)),
    ("bits_per_dim.png", "bits/dim of held-out images", false, |record| record.held_out),
    ("frechet_distance.png", "Fréchet distance of samples", true, |record| record.frechet_distance),
];

/// A run's logs.
pub struct Logs {
    path: PathBuf,
    run: PathBuf,
    name: String,
    events: EventWriter,
    records: Vec<Record>,
}

impl Logs {
    /// Opens the logs of a run at a step. Lines of later steps, which a crash left, are dropped.
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub fn open(run: &Path, name: &str, step: u64) -> Result<Self, Error> {
        let path = run.join("metrics.jsonl");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(Error::Read { path, source }),
        };
        // A line that a crash cut short is one that does not parse.
        let records: Vec<Record> = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .filter(|record: &Record| record.step <= step)
            .collect();
        atomic::write_file(&path, |file| {
            records.iter().try_for_each(|record| writeln!(file, "{}", serde_json::to_string(record)?))
        })?;
        let events = EventWriter::create(run, step + 1)?;
        Ok(Self { path, run: run.to_owned(), name: name.to_owned(), events, records })
    }

    /// Writes a record.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn record(&mut self, record: Record) -> Result<(), Error> {
        let write = |source| Error::Write { path: self.path.clone(), source };
        let line = serde_json::to_string(&record).map_err(|e| write(e.into()))?;
        let mut file = OpenOptions::new().append(true).create(true).open(&self.path).map_err(write)?;
        writeln!(file, "{line}").map_err(write)?;
        let mut scalars = vec![
            ("train/loss", record.loss as f32),
            ("train/gradient_norm", record.gradient_norm as f32),
            ("train/learning_rate", record.learning_rate as f32),
            ("train/images_per_second", record.images_per_second as f32),
        ];
        let names = ["train/loss_q0", "train/loss_q1", "train/loss_q2", "train/loss_q3"];
        scalars.extend(names.into_iter().zip(record.loss_q).filter_map(|(name, loss)| Some((name, loss? as f32))));
        scalars.extend(record.held_out.map(|bits| ("held_out/bits_per_dim", bits as f32)));
        scalars.extend(record.frechet_distance.map(|distance| ("samples/frechet_distance", distance as f32)));
        self.events.scalars(record.step, &scalars)?;
        self.records.push(record);
        Ok(())
    }

    /// Adds a picture of samples, a PNG, to the events.
    ///
    /// # Errors
    /// If the picture or the events cannot be read or written.
    pub fn picture(&mut self, step: u64, path: &Path) -> Result<(), Error> {
        let read = |source| Error::Read { path: path.into(), source };
        let png = std::fs::read(path).map_err(read)?;
        let (width, height) = image::image_dimensions(path).map_err(|e| read(std::io::Error::other(e)))?;
        self.events.image(step, "samples", &png, width, height)?;
        Ok(())
    }

    /// Draws the loss so far, and what was measured on the way.
    ///
    /// # Errors
    /// If a picture cannot be written.
    pub fn plot(&self) -> Result<(), Error> {
        for (file, y, log_y, value) in CURVES {
            let points: Vec<_> = self.records.iter().filter_map(|r| Some((r.step as f64, value(r)?))).collect();
            if points.len() >= 2 {
                let chart = Chart { title: &self.name, x: "step", y, log_y, smooth: file == LOSS };
                plot::chart(&self.run.join(file), &chart, &[Series { name: String::new(), points }])?;
            }
        }
        Ok(())
    }

    /// The records so far.
    pub fn records(&self) -> &[Record] {
        &self.records
    }
}
