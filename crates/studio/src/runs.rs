//! Runs below the folder: logs, sample grids, configurations, checkpoints. Their files are looked at again and again, so that runs of
//! other processes are seen as they grow, but never more often for many clients than for one.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use ddpm::files;
use ddpm::train::{LogRecord, TrainingConfig, records, steps_done};
use ddpm::weights::pipeline;
use serde::Serialize;
use serde_json::{Value, json};

use crate::api::Failure;
use crate::folder::Folder;
use crate::models::search;

/// The time between two looks at the files of a run.
pub const LOOKS: Duration = Duration::from_millis(700);

/// A run of the list.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Run {
    /// The name that requests have.
    pub run: String,
    /// The step of the newest record.
    pub step: u64,
    /// Steps of the whole run.
    pub steps: u64,
    /// Whether a process is training there.
    pub trains: bool,
    /// Seconds until its end at the present speed, if it trains.
    pub seconds_left: Option<f64>,
    /// When its log was last written, in seconds since 1970.
    pub written: Option<u64>,
    /// The last loss and the last validations.
    pub loss: Option<f64>,
    pub held_out: Option<f64>,
    pub frechet_distance: Option<f64>,
}

/// A checkpoint of a run.
#[derive(Debug, Serialize)]
pub struct Checkpoint {
    step: u64,
    bytes: u64,
    best: bool,
}

/// Everything about a run but its log.
#[derive(Debug, Serialize)]
pub struct Details {
    #[serde(flatten)]
    run: Run,
    /// The text of its configuration.
    config: String,
    /// The keys and values of its configuration.
    keys: Vec<(String, String)>,
    checkpoints: Vec<Checkpoint>,
    /// The steps that have a grid of samples.
    samples: Vec<u64>,
}

/// Returns whether a folder is that of a run.
fn is_run(path: &Path) -> bool {
    path.join("config.toml").is_file() && (path.join("checkpoints").is_dir() || path.join(records::FILE).is_file())
}

/// A value that is computed at most once in [`LOOKS`], whoever asks for it.
struct Fresh<T>(Mutex<Option<(Instant, T)>>);

impl<T> Default for Fresh<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T: Clone> Fresh<T> {
    /// Returns the value; `look` computes it from the one before.
    fn get<E>(&self, look: impl FnOnce(Option<&T>) -> Result<T, E>) -> Result<T, E> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, value)) = known.as_ref().filter(|(at, _)| at.elapsed() < LOOKS) {
            return Ok(value.clone());
        }
        let value = look(known.as_ref().map(|(_, value)| value))?;
        *known = Some((Instant::now(), value.clone()));
        Ok(value)
    }
}

/// A value for each of some paths.
struct FreshAt<T>(Mutex<HashMap<PathBuf, Arc<Fresh<T>>>>);

impl<T> Default for FreshAt<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> FreshAt<T> {
    fn at(&self, path: &Path) -> Arc<Fresh<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(path.to_owned()).or_default().clone()
    }

    /// Forgets the values of other paths.
    fn keep(&self, paths: &[PathBuf]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|path, _| paths.contains(path));
    }
}

/// The log of a run, which is read again when its file has changed.
#[derive(Clone)]
struct Log {
    stamp: Option<(u64, SystemTime)>,
    records: Arc<Vec<LogRecord>>,
}

impl Log {
    fn read(run: &Path, before: Option<&Self>) -> Result<Self, Failure> {
        let stamp = std::fs::metadata(run.join(records::FILE)).ok();
        let stamp = stamp.and_then(|data| Some((data.len(), data.modified().ok()?)));
        match before {
            Some(log) if stamp.is_some() && log.stamp == stamp => Ok(log.clone()),
            _ => Ok(Self { stamp, records: Arc::new(records::read(run, u64::MAX)?) }),
        }
    }
}

/// The runs below a folder.
pub struct Runs {
    folder: Folder,
    list: Fresh<Arc<Vec<Run>>>,
    logs: FreshAt<Log>,
    details: FreshAt<Arc<Value>>,
}

impl Runs {
    /// The runs below a folder.
    pub fn new(folder: Folder) -> Self {
        Self { folder, list: Fresh::default(), logs: FreshAt::default(), details: FreshAt::default() }
    }

    /// Returns all runs, the one that was written last first.
    pub fn list(&self) -> Arc<Vec<Run>> {
        let Ok(list) = self.list.get(|_| {
            let paths = search(&self.folder, is_run);
            self.logs.keep(&paths);
            self.details.keep(&paths);
            let mut runs: Vec<Run> = paths.iter().filter_map(|path| self.describe(path).ok()).collect();
            runs.sort_by_key(|run| std::cmp::Reverse((run.trains, run.written)));
            Ok::<_, Infallible>(Arc::new(runs))
        });
        list
    }

    /// Returns the folder of a run.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn find(&self, run: &str) -> Result<PathBuf, Failure> {
        let path = self.folder.find(run)?;
        if is_run(&path) { Ok(path) } else { Err(Failure::new(StatusCode::NOT_FOUND, format!("{run}: is not a run"))) }
    }

    /// Returns the records of a run.
    ///
    /// # Errors
    /// If there is no such run, or its log cannot be read.
    pub fn records(&self, run: &str) -> Result<Arc<Vec<LogRecord>>, Failure> {
        self.log(&self.find(run)?)
    }

    fn log(&self, path: &Path) -> Result<Arc<Vec<LogRecord>>, Failure> {
        Ok(self.logs.at(path).get(|before| Log::read(path, before))?.records)
    }

    fn describe(&self, path: &Path) -> Result<Run, Failure> {
        let config = TrainingConfig::from_file(&path.join("config.toml"))?;
        let all = self.log(path)?;
        let last = all.last();
        let step = last.map(|record| record.step).max(steps_done(path)).unwrap_or(0);
        let steps = config.train.steps as u64;
        let trains = trains(path);
        let images = (config.train.batch_size * config.train.gradient_accumulation) as f64;
        let left = |record: &LogRecord| steps.saturating_sub(step) as f64 * images / record.images_per_second;
        let newest = |value: fn(&LogRecord) -> Option<f64>| all.iter().rev().find_map(value);
        Ok(Run {
            run: self.folder.name_of(path),
            step,
            steps,
            trains,
            seconds_left: last.filter(|_| trains).map(left).filter(|seconds| seconds.is_finite()),
            written: written(&path.join(records::FILE)),
            loss: last.map(|record| record.loss),
            held_out: newest(|record| record.held_out),
            frechet_distance: newest(|record| record.frechet_distance),
        })
    }

    /// Returns what is known about a run.
    ///
    /// # Errors
    /// If there is no such run, or its files cannot be read.
    pub fn details(&self, run: &str) -> Result<Details, Failure> {
        self.look(run, &self.find(run)?)
    }

    /// Returns the same for those who follow the run: as it was at the last look.
    ///
    /// # Errors
    /// As [`Runs::details`].
    pub fn followed(&self, run: &str) -> Result<Arc<Value>, Failure> {
        let path = self.find(run)?;
        self.details.at(&path).get(|_| Ok(Arc::new(json!(self.look(run, &path)?))))
    }

    fn look(&self, run: &str, path: &Path) -> Result<Details, Failure> {
        let file = path.join("config.toml");
        let read = |error: std::io::Error| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, format!("{run}: {error}"));
        let config = files::read_text_up_to(&file, files::MAX_TOML).map_err(read)?;
        let parsed = TrainingConfig::from_file(&file)?;
        Ok(Details {
            run: self.describe(path)?,
            config,
            keys: keys(&parsed)?,
            checkpoints: checkpoints(path),
            samples: samples(path),
        })
    }

    /// Reads the sample grid of a step.
    ///
    /// # Errors
    /// If there is no such run or grid.
    pub fn sample_grid(&self, run: &str, step: u64) -> Result<Vec<u8>, Failure> {
        let path = self.find(run)?.join("samples").join(format!("{}.png", pipeline::checkpoint_name(step)));
        let missing = |_| Failure::new(StatusCode::NOT_FOUND, format!("{run}: has no samples of step {step}"));
        let (mut file, _) = files::open_regular(&path).map_err(missing)?;
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut file, &mut bytes).map_err(missing)?;
        Ok(bytes)
    }
}

fn written(path: &Path) -> Option<u64> {
    let time: SystemTime = std::fs::metadata(path).ok()?.modified().ok()?;
    Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

/// Returns whether a process holds the lock of a run. It is taken for a moment, which a run that starts waits for.
fn trains(path: &Path) -> bool {
    let locked = |file: &std::fs::File| matches!(file.try_lock(), Err(std::fs::TryLockError::WouldBlock));
    std::fs::File::open(path).is_ok_and(|file| locked(&file))
}

/// Returns the keys of a configuration with their values, for comparisons.
fn keys(config: &TrainingConfig) -> Result<Vec<(String, String)>, Failure> {
    let text = config.to_toml()?;
    let table: toml::Table = toml::from_str(&text).map_err(|error| Failure::internal(error.message()))?;
    let sections = table.iter().filter_map(|(section, values)| Some((section, values.as_table()?)));
    Ok(sections
        .flat_map(|(section, keys)| {
            keys.iter().map(move |(key, value)| (format!("{section}.{key}"), value.to_string()))
        })
        .collect())
}

fn checkpoints(run: &Path) -> Vec<Checkpoint> {
    let folder = run.join("checkpoints");
    let best = files::read_text(folder.join("best")).ok().map(|name| name.trim().to_owned());
    let all = pipeline::checkpoints(&folder).unwrap_or_default();
    let checkpoint = |(step, path): (u64, PathBuf)| Checkpoint {
        step,
        bytes: size_of(&path),
        best: best.as_deref().is_some_and(|best| path.ends_with(best)),
    };
    all.into_iter().map(checkpoint).collect()
}

/// Returns the bytes of the files in a folder of two levels.
fn size_of(folder: &Path) -> u64 {
    let entries = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten();
    let size =
        |entry: std::fs::DirEntry| entry.metadata().map_or(0, |data| if data.is_file() { data.len() } else { 0 });
    let inside = entries(folder).filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    entries(folder).map(size).sum::<u64>() + inside.flat_map(|entry| entries(&entry.path())).map(size).sum::<u64>()
}

/// Returns the steps of a run's sample grids.
fn samples(run: &Path) -> Vec<u64> {
    let entries = std::fs::read_dir(run.join("samples")).into_iter().flatten().flatten();
    let step = |entry: std::fs::DirEntry| Path::new(&entry.file_name()).file_stem()?.to_str()?.parse().ok();
    let mut steps: Vec<u64> = entries.filter_map(step).collect();
    steps.sort_unstable();
    steps
}
