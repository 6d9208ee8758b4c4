//! Events of a run.

use std::path::PathBuf;

use data::Reading;
use serde::Serialize;

use crate::config::ConfigChange;
use crate::metrics::Metrics;
use crate::records::LogRecord;
use crate::trainer::StepReport;

/// An event of a run. Events own their data, and serialize as JSON objects whose `event` is their name.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// The first step is about to begin.
    Started {
        /// The run's folder.
        run: PathBuf,
        /// A description of the images.
        data: String,
        /// The way in which they are read.
        reading: Box<Reading>,
        /// The held-out images of validations, and how they are read.
        validation: Option<Box<Reading>>,
        /// The number of images.
        images: usize,
        /// H, W, C of the images.
        shape: [usize; 3],
        /// Parameters of the network.
        parameters: usize,
        /// The memory that the run is expected to need in bytes, if the CPU trains.
        memory: Option<f64>,
        /// The device, on the CPU with the number of threads, and the number of ranks if there are several.
        device: String,
        /// Steps done by an earlier run in the folder.
        step: u64,
        /// Steps of the whole run.
        steps: u64,
    },
    /// A step is done. The step that causes a roll-back is not announced.
    Step {
        /// Its losses, gradient and learning rate.
        #[serde(flatten)]
        report: StepReport,
        /// Its duration, with the time spent waiting for images.
        seconds: f64,
    },
    /// A record is added to the log.
    Logged(LogRecord),
    /// A sample grid is being drawn.
    Sampling {
        /// Evaluations of the network so far.
        done: usize,
        /// Evaluations in total.
        total: usize,
    },
    /// A sample grid was written.
    Sampled {
        /// The PNG.
        path: PathBuf,
    },
    /// A validation is in progress.
    Validating {
        /// Its present part: held-out images, samples, features of either.
        part: String,
        /// Images or evaluations so far.
        done: usize,
        /// Images or evaluations in total.
        total: usize,
    },
    /// A validation is done.
    Validated {
        /// Its result.
        metrics: Metrics,
        /// Whether this is the best checkpoint so far.
        best: bool,
    },
    /// A checkpoint was written.
    Saved {
        /// Its folder.
        path: PathBuf,
    },
    /// The run continues from an earlier checkpoint, after too many consecutive steps were skipped.
    RolledBack {
        /// The checkpoint's step.
        step: u64,
    },
    /// A resumed run has another value of a key.
    Changed(ConfigChange),
    /// Something that the user should know, and that is not wrong.
    Notice {
        /// The text of the notice.
        message: String,
    },
    /// Something is wrong, but does not end the run.
    Warning {
        /// The problem.
        message: String,
    },
    /// The run ends before its last step, with an error or because it was stopped within a step; what was done is saved.
    Interrupted {
        /// The error, or `stopped`.
        message: String,
    },
    /// The run ends.
    Finished(Finished),
}

impl Event {
    /// A warning.
    pub(crate) fn warning(message: impl Into<String>) -> Self {
        Self::Warning { message: message.into() }
    }
}

/// The end of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Finished {
    /// The run's folder.
    pub run: PathBuf,
    /// Steps done.
    pub step: u64,
    /// Whether the run was stopped before its last step.
    pub stopped: bool,
    /// The newest sample grid.
    pub samples: Option<PathBuf>,
    /// The newest checkpoint.
    pub checkpoint: PathBuf,
    /// All records of the log.
    pub records: Vec<LogRecord>,
}
