//! The log of a run: records, and their file `metrics.jsonl` with one JSON object per line.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use weights::atomic;

use crate::Error;

/// The file of a run's records.
pub const FILE: &str = "metrics.jsonl";

/// The bytes of a line that are read; what is longer is not a record.
const MAX_LINE: u64 = 1 << 20;

/// One line of `metrics.jsonl`: means over the steps since the previous line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogRecord {
    /// Steps done.
    pub step: u64,
    /// The weighted loss.
    pub loss: f64,
    /// The unweighted loss by quarter of the chain, early t first; null if no t was in a quarter.
    pub loss_q: [Option<f64>; 4],
    /// The norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// The learning rate of the last step.
    pub learning_rate: f64,
    /// The training speed.
    pub images_per_second: f64,
    /// Seconds of training so far.
    pub seconds: f64,
    /// Steps skipped so far because the loss or a gradient was not finite.
    pub skipped: u64,
    /// Bits/dim of held-out images, if they were computed after this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<f64>,
    /// The Fréchet distance between samples and training images, if it was computed after this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frechet_distance: Option<f64>,
    /// The keys of the configuration that were changed when the run was resumed after the previous record, each with its
    /// old and its new value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub changed: BTreeMap<String, [String; 2]>,
}

/// Reads the records of a run up to a step. Later ones are left over from a crash; an incomplete line is ignored.
///
/// # Errors
/// If the file exists but cannot be read.
pub fn read(run: &Path, step: u64) -> Result<Vec<LogRecord>, Error> {
    let path = run.join(FILE);
    let (file, _) = match files::open_regular(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(Error::Read { path, source }),
    };
    let (mut file, mut line, mut records) = (BufReader::new(file), Vec::new(), Vec::new());
    loop {
        line.clear();
        // The longest line has every key in `changed`: a few kilobytes.
        let read = file.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
        if read.map_err(|source| Error::Read { path: path.clone(), source })? == 0 {
            return Ok(records);
        }
        records.extend(serde_json::from_slice(&line).ok().filter(|record: &LogRecord| record.step <= step));
    }
}

/// Writes all records of a run.
///
/// # Errors
/// If the file cannot be written; it is then unchanged.
pub fn write(run: &Path, records: &[LogRecord]) -> Result<(), Error> {
    Ok(atomic::replace_file(run.join(FILE), |file| {
        records.iter().try_for_each(|record| writeln!(file, "{}", serde_json::to_string(record)?))
    })?)
}

/// Appends a record.
///
/// # Errors
/// If the file cannot be written.
pub fn append(run: &Path, record: &LogRecord) -> Result<(), Error> {
    let path = run.join(FILE);
    let write = || {
        let line = serde_json::to_string(record)?;
        writeln!(OpenOptions::new().append(true).create(true).open(&path)?, "{line}")
    };
    write().map_err(|source| Error::Write { path: path.clone(), source })
}
