//! Models below the folder, and the one in the program. One of them is in memory at a time.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use axum::http::StatusCode;
use ddpm::model::{NetworkConfig, Sampling};
use ddpm::weights::{builtin, pipeline};
use ddpm::{Device, Pipeline, files};
use serde::Serialize;

use crate::api::Failure;
use crate::folder::Folder;

/// The models, of which the last one that was used is kept.
pub struct Models {
    folder: Folder,
    device: Device,
    loaded: Mutex<Option<Loaded>>,
}

struct Loaded {
    name: String,
    /// The file of the weights and its time: training replaces it.
    weights: (PathBuf, Option<SystemTime>),
    pipeline: Arc<Pipeline>,
}

/// The description of a model for the page.
#[derive(Debug, Serialize)]
pub struct Info {
    /// The name that requests have.
    model: String,
    /// H, W and C of its images, if it is for one size.
    size: Option<[usize; 2]>,
    channels: usize,
    parameters: usize,
    timesteps: usize,
    /// The classes that it draws.
    classes: Vec<Class>,
    /// Whether guidance is possible.
    guides: bool,
    /// The sampler that is used where none is named, and its steps.
    sampler: String,
    steps: Option<usize>,
    sampling: Option<Sampling>,
    /// Whether its training images are known, and can be found.
    has_data: bool,
}

/// A class of a model.
#[derive(Debug, Serialize)]
struct Class {
    label: u32,
    /// Its name, or its number.
    name: String,
}

/// Returns the name of a class, or its number where it has none.
pub fn class_name(pipeline: &Pipeline, label: u32) -> String {
    pipeline.preprocessing.class_names().get(label as usize).cloned().unwrap_or_else(|| label.to_string())
}

/// Copies of the parameters that a model needs in memory while it is read.
const COPIES: u64 = 3;

impl Models {
    /// The models of a folder.
    pub fn new(folder: Folder, device: Device) -> Self {
        Self { folder, device, loaded: Mutex::default() }
    }

    /// Returns a model. It is read if it is not in memory, or was written since.
    ///
    /// # Errors
    /// If there is no such model, it cannot be read, or it does not fit into memory.
    pub fn load(&self, name: &str) -> Result<Arc<Pipeline>, Failure> {
        let path = if self.folder.is_builtin(name) { builtin::folder()? } else { self.folder.find(name)? };
        let located = pipeline::locate(&path)?;
        let modified = std::fs::metadata(&located.unet_weights).and_then(|file| file.modified()).ok();
        let weights = (located.unet_weights.clone(), modified);
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = loaded.as_ref().filter(|loaded| loaded.name == name && loaded.weights == weights) {
            return Ok(loaded.pipeline.clone());
        }
        *loaded = None;
        check_memory(&located.unet_config, &self.folder)?;
        let pipeline = Arc::new(Pipeline::load(&path, &self.device)?);
        *loaded = Some(Loaded { name: name.to_owned(), weights, pipeline: pipeline.clone() });
        Ok(pipeline)
    }

    /// Describes a model.
    ///
    /// # Errors
    /// As [`Models::load`].
    pub fn info(&self, name: &str) -> Result<Info, Failure> {
        let pipeline = self.load(name)?;
        let signature = pipeline.network.signature();
        let sampling = pipeline.sampling.clone();
        let (sampler, steps) = ddpm::sample::Sampler::of_model(&pipeline.scheduler, sampling.as_ref())?;
        let classes = pipeline.classes().unwrap_or_default();
        Ok(Info {
            model: name.to_owned(),
            size: pipeline.preprocessing.resolution.or(signature.size),
            channels: signature.in_channels,
            parameters: pipeline.network.parameter_count(),
            timesteps: pipeline.scheduler.num_train_timesteps,
            classes: classes.into_iter().map(|label| Class { label, name: class_name(&pipeline, label) }).collect(),
            guides: pipeline.preprocessing.null_label.is_some(),
            sampler: sampler.name().to_owned(),
            steps,
            sampling,
            has_data: pipeline.training_data().ok().flatten().is_some_and(|data| data.find().is_ok()),
        })
    }
}

/// Refuses a network whose parameters alone do not fit into memory, before it is built.
fn check_memory(config: &Path, folder: &Folder) -> Result<(), Failure> {
    let fail =
        |error: String| Failure::new(StatusCode::UNPROCESSABLE_ENTITY, format!("{}: {error}", folder.name_of(config)));
    let text = files::read_json_text(config).map_err(|error| fail(error.to_string()))?;
    let parameters = NetworkConfig::from_json(&text).map_err(|error| fail(error.to_string()))?.parameter_count();
    let needed = (parameters as u64).saturating_mul(4 * COPIES);
    match files::memory_limit() {
        Some(limit) if needed > limit.bytes => Err(fail(format!(
            "a network of {parameters} parameters takes {:.1} GB of memory to read, and there are {:.1} GB",
            needed as f64 / 1e9,
            limit.bytes as f64 / 1e9
        ))),
        _ => Ok(()),
    }
}

/// The most folders that are looked into for runs and models.
const MOST_FOLDERS: usize = 20_000;
/// The most levels below the studio's folder.
const MOST_LEVELS: usize = 6;

/// Returns the folders below the studio's that `is_wanted` picks, whose contents are not looked into. Links and hidden folders are
/// skipped.
pub fn search(folder: &Folder, is_wanted: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let (mut found, mut looked) = (Vec::new(), 0);
    let mut waiting = vec![(folder.path().to_owned(), 0)];
    while let Some((path, level)) = waiting.pop() {
        looked += 1;
        if is_wanted(&path) {
            found.push(path);
            continue;
        }
        let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let folders = folders.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'));
        if level < MOST_LEVELS && looked < MOST_FOLDERS {
            waiting.extend(folders.map(|entry| (entry.path(), level + 1)));
        }
    }
    found.sort();
    found
}

/// A model of the list.
#[derive(Debug, Serialize)]
pub struct Entry {
    model: String,
    /// `program`, `run` or `folder`.
    kind: &'static str,
}

/// Returns the names of all models.
pub fn list(folder: &Folder) -> Vec<Entry> {
    let of_program =
        folder.is_builtin(builtin::NAME).then(|| Entry { model: builtin::NAME.to_owned(), kind: "program" });
    let is_run = |path: &Path| path.join("checkpoints/latest").is_file();
    let found = search(folder, |path| is_run(path) || path.join("model_index.json").is_file());
    let entry =
        |path: PathBuf| Entry { kind: if is_run(&path) { "run" } else { "folder" }, model: folder.name_of(&path) };
    of_program.into_iter().chain(found.into_iter().map(entry)).collect()
}
