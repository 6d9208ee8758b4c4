//! The files of a model on disk, and the files that name a run's checkpoints.

mod hub_cache;
mod kind;

use crate::{Error, Result, atomic, builtin, digest, file};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Names of a U-Net's weights, in the order of preference.
const WEIGHTS: [&str; 3] = [
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.fp16.safetensors",
];
/// Names of a U-Net's weights as written by `torch.save`, used if no other weights exist.
const PICKLES: [&str; 3] = ["diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.bin", "diffusion_model.pt"];

/// The files of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFiles {
    /// The folder of the pipeline, the checkpoint, or the network alone.
    pub root: PathBuf,
    /// The `config.json` of the `UNet2DModel`.
    pub unet_config: PathBuf,
    /// Its weights, in a format that [`read_tensors`](crate::read_tensors) reads.
    pub unet_weights: PathBuf,
    /// The `scheduler_config.json`, if there is one.
    pub scheduler_config: Option<PathBuf>,
    /// The `model_index.json`, if there is one.
    pub model_index: Option<PathBuf>,
    /// Choices that were made among several files, and assumptions, for the user.
    pub notes: Vec<String>,
}

impl ModelFiles {
    fn with_note(mut self, note: String) -> Self {
        self.notes.insert(0, note);
        self
    }
}

/// Finds the files of the model at `path`, which can be:
///
/// - a diffusers pipeline with `model_index.json`, `unet/` and `scheduler/`, as this program's checkpoints are;
/// - a flat repository such as `google/ddpm-cifar10-32`, with all files in the root;
/// - a `unet/` folder with `config.json` and weights; the scheduler is searched for in its parent folder;
/// - a training checkpoint of diffusers, `checkpoint-N`, whose averaged weights in `unet_ema/` are preferred, or a folder
///   of them, which stands for the newest;
/// - a model in the cache of the Hugging Face hub, `models--OWNER--NAME`, or a cache with one model;
/// - `checkpoints/latest` or `checkpoints/best` of a run, which stands for the checkpoint that it names;
/// - a run, or its `checkpoints` folder, which stands for the checkpoint that `checkpoints/latest` names, or for a newer
///   one whose checksums are right, or for the newest complete one if it names none;
/// - a `.safetensors` file with a `config.json` in the same folder;
/// - `fashion`, if nothing of this name is there: the model in this crate ([`builtin`]).
///
/// # Errors
/// [`Error::NoModel`] lists the files that were looked for; [`Error::Import`] if the file must be imported first;
/// [`Error::File`] if the pipeline is of another kind, or the path is a pipe or a device.
pub fn locate(path: impl AsRef<Path>) -> Result<ModelFiles> {
    let path = path.as_ref();
    if builtin::is_builtin(path) {
        let note = format!("{} is the model in this program, clothes of 32x32 pixels", builtin::NAME);
        return Ok(locate_folder(&builtin::folder()?)?.with_note(note));
    }
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() && path.as_os_str() == builtin::NAME => {
            let note = format!("{} is the folder of this name here, not the model in this program", builtin::NAME);
            Ok(locate_folder(path)?.with_note(note))
        }
        Ok(metadata) if metadata.is_dir() => locate_folder(path),
        Ok(_) => {
            file::open(path)?;
            locate_file(path)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let text = path.to_string_lossy();
            let looks_like_repository = path.is_relative() && path.components().count() == 2;
            Err(no_model(
                path,
                match () {
                    () if text.contains("://") => "it is a URL; download the model, and give its folder",
                    () if text.starts_with('~') => {
                        "no such file or folder: the shell replaces ~ only at the start of an unquoted word; write it out"
                    }
                    () if looks_like_repository => {
                        "no such file or folder (a Hugging Face repository must be downloaded first: `hf download NAME \
                         --local-dir FOLDER`)"
                    }
                    () => "no such file or folder",
                },
            ))
        }
        Err(error) => Err(Error::read(path)(error)),
    }
}

/// Finds the files of a model and reads them. While a run is training, a checkpoint that was found can be removed before it
/// is read; then the run is looked at again.
///
/// # Errors
/// Those of [`locate`] and of `read`.
pub fn with_files<T, E: From<Error>>(
    path: impl AsRef<Path>,
    mut read: impl FnMut(&ModelFiles) -> Result<T, E>,
) -> Result<T, E> {
    const TRIES: usize = 20;
    let path = path.as_ref();
    for _ in 1..TRIES {
        match locate(path) {
            Ok(files) => match read(&files) {
                Err(_) if !files.root.exists() => {}
                result => return result,
            },
            Err(_) if path.join("checkpoints").is_dir() => std::thread::sleep(Duration::from_millis(10)),
            Err(error) => return Err(error.into()),
        }
    }
    read(&locate(path)?)
}

fn locate_file(path: &Path) -> Result<ModelFiles> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let folder = files::parent(path);
    if name == LATEST || name == BEST {
        match pointer(path)? {
            Some(checkpoint) if !folder.join(&checkpoint).is_dir() => Err(no_model(
                path,
                format!(
                    "the file names the checkpoint {checkpoint}, which is gone; name another one in {}",
                    folder.display()
                ),
            )),
            Some(checkpoint) => locate_folder(&folder.join(checkpoint)),
            None => Err(no_model(path, "the file names no checkpoint")),
        }
    } else if name == "model_index.json" || name == "config.json" {
        locate_folder(folder)
    } else if name.ends_with(".safetensors")
        || name.ends_with(".safetensors.index.json")
        || PICKLES.contains(&&*name) && folder.join("config.json").is_file()
    {
        network(folder, Some(path))
    } else if [".bin", ".pt", ".pth", ".ckpt", ".index"].iter().any(|extension| name.ends_with(extension)) {
        Err(Error::Import { path: path.to_owned() })
    } else {
        let is_archive = [".zip", ".tar", ".gz", ".tgz", ".xz", ".7z"].iter().any(|end| name.ends_with(end));
        Err(no_model(
            path,
            match is_archive {
                true => "it is an archive; unpack it, and give the folder",
                false => {
                    "expected a folder of diffusers or of a run, or a .safetensors file with its config.json (`ddpm import` \
                     reads checkpoints of other code bases)"
                }
            },
        ))
    }
}

fn locate_folder(path: &Path) -> Result<ModelFiles> {
    if let Some((snapshot, note)) = hub_cache::snapshot(path)? {
        return Ok(locate_folder(&snapshot)?.with_note(note));
    }
    let [unet, averages] = [path.join("unet"), path.join(AVERAGES)];
    if averages.is_dir() {
        let shown = averages.display();
        let note = match unet.is_dir() {
            true => format!("using the averaged weights, {shown}; name {} for those of the last step", unet.display()),
            false => format!("using the averaged weights, {shown}"),
        };
        return Ok(ModelFiles { root: path.to_owned(), ..network(&averages, None)?.with_note(note) });
    }
    if unet.is_dir() {
        let mut located = network(&unet, None)?;
        located.root = path.to_owned();
        located.model_index = existing(path.join("model_index.json"));
        if is_training_checkpoint(path) {
            located.notes.push(format!(
                "{} has no averaged weights ({AVERAGES}), so these are those of the last step",
                path.display()
            ));
        }
        let others = training_checkpoints(path);
        if let (Some((first, _)), Some((last, _))) = (others.first(), others.last()) {
            let (count, shown) = (others.len(), path.display());
            located.notes.push(format!(
                "using {shown}/unet; {shown} also has {count} training checkpoints, checkpoint-{first} to checkpoint-{last}"
            ));
        }
        return Ok(located);
    }
    if path.join("config.json").is_file() {
        return network(path, None);
    }
    let training = training_checkpoints(path);
    if let Some((_, newest)) = training.last() {
        let note = match &training[..] {
            [_] => format!("using {}", newest.display()),
            [(first, _), .., (_, _)] => {
                let count = training.len();
                format!(
                    "using {}, the newest of {count} training checkpoints (from checkpoint-{first})",
                    newest.display()
                )
            }
            [] => String::new(),
        };
        return Ok(locate_folder(newest)?.with_note(note));
    }
    let checkpoints_folder = path.join("checkpoints");
    let folder = if checkpoints_folder.is_dir() { &*checkpoints_folder } else { path };
    let numbered = checkpoints(folder)?;
    // If the named checkpoint was deleted since, the newest complete one is used instead.
    let named = latest(folder)?.map(|name| folder.join(name)).filter(|checkpoint| checkpoint.join("unet").is_dir());
    if let Some(named) = named {
        // A kill between writing a checkpoint and naming it leaves the older name.
        let newer =
            numbered.iter().rev().map(|(_, checkpoint)| checkpoint).take_while(|checkpoint| **checkpoint != named);
        let is_listed = numbered.iter().any(|(_, checkpoint)| *checkpoint == named);
        let is_named = |checkpoint: &&PathBuf| {
            let step = training_state_step(checkpoint);
            step.is_some_and(|step| {
                Some(&*checkpoint_name(step)) == checkpoint.file_name().and_then(|name| name.to_str())
            })
        };
        let is_whole = |checkpoint: &&PathBuf| {
            is_named(checkpoint) && digest::is_sealed(checkpoint) && digest::verify(checkpoint).is_ok()
        };
        return match newer.filter(|_| is_listed).find(is_whole) {
            Some(newer) => Ok(locate_folder(newer)?.with_note(format!(
                "using {}, which is newer than {}, the checkpoint that `latest` names",
                newer.display(),
                named.display()
            ))),
            None => locate_folder(&named),
        };
    }
    let newest_complete = numbered.iter().rev().find_map(|(_, checkpoint)| pipeline_of(checkpoint));
    newest_complete.ok_or_else(|| {
        let reason = "expected unet/config.json (a diffusers pipeline or a checkpoint), config.json (a network or a \
                      flat repository), or checkpoints/latest or checkpoints/NUMBER (a run)";
        no_model(path, reason)
    })
}

/// Returns the files of the checkpoint `folder`, if it is complete.
fn pipeline_of(folder: &Path) -> Option<ModelFiles> {
    if folder.join("unet").is_dir() { locate_folder(folder).ok() } else { None }
}

/// The folder of averaged weights in a training checkpoint of diffusers, beside `unet`.
const AVERAGES: &str = "unet_ema";

/// Lists the training checkpoints `checkpoint-N` of diffusers in a folder, by N.
fn training_checkpoints(folder: &Path) -> Vec<(u64, PathBuf)> {
    let paths = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let numbered = paths.filter_map(|path| Some((training_step(&path)?, path)));
    let mut found: Vec<_> =
        numbered.filter(|(_, path)| path.join("unet").is_dir() || path.join(AVERAGES).is_dir()).collect();
    found.sort();
    found
}

/// Returns N of a path `…/checkpoint-N`.
fn training_step(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("checkpoint-")?.parse().ok()
}

/// Returns whether a folder is a training checkpoint of diffusers: it has the state of the optimizer.
fn is_training_checkpoint(folder: &Path) -> bool {
    ["optimizer.bin", "random_states_0.pkl"].iter().any(|name| folder.join(name).is_file())
}

/// Finds the network in `folder`: its `config.json`, and its weights, unless `weights` names another file.
fn network(folder: &Path, weights: Option<&Path>) -> Result<ModelFiles> {
    let Surroundings { scheduler_config, notes } = surroundings(folder)?;
    let Some(unet_config) = usable(folder.join("config.json"))? else {
        return Err(match weights {
            Some(weights) => no_model(
                weights,
                format!(
                    "expected its config.json next to it, in {} (`ddpm import` reads checkpoints of other code bases)",
                    folder.display()
                ),
            ),
            None => no_model(folder, "it has no config.json of a UNet2DModel"),
        });
    };
    let mut unet_weights = weights.map(Path::to_owned);
    for name in [&WEIGHTS[..], &PICKLES].concat() {
        if unet_weights.is_none() {
            unet_weights = usable(folder.join(name))?;
        }
    }
    let Some(unet_weights) = unet_weights else {
        let names = [&WEIGHTS[..], &PICKLES].concat().join(", ");
        return Err(no_model(folder, format!("it has no weights; expected one of {names}")));
    };
    let model_index = existing(folder.join("model_index.json"));
    Ok(ModelFiles { root: folder.to_owned(), unet_config, unet_weights, scheduler_config, model_index, notes })
}

/// The process of a network, as its folder and the folders that it is in describe it.
pub(crate) struct Surroundings {
    pub scheduler_config: Option<PathBuf>,
    pub notes: Vec<String>,
}

/// Checks the pipeline that the network in `folder` is a part of, and finds its scheduler.
///
/// # Errors
/// If the pipeline is of another kind.
pub(crate) fn surroundings(folder: &Path) -> Result<Surroundings> {
    // `MODEL/unet` is the network of MODEL, so MODEL's scheduler belongs to it too.
    let mut notes = kind::check(if is_network(folder) { files::parent(folder) } else { folder })?;
    let scheduler_config = scheduler(folder)?;
    if scheduler_config.is_none() {
        notes.push(format!(
            "{} has no scheduler_config.json; assumed Ho et al.'s process: 1000 steps, linear betas from 0.0001 to 0.02, \
             the network predicts the noise",
            folder.display()
        ));
    }
    Ok(Surroundings { scheduler_config, notes })
}

/// Finds the scheduler of a network or pipeline in its folder, or in the folder of the pipeline that it is a part of.
fn scheduler(folder: &Path) -> Result<Option<PathBuf>> {
    for name in ["scheduler/scheduler_config.json", "scheduler_config.json"] {
        if let Some(found) = usable(folder.join(name))? {
            return Ok(Some(found));
        }
    }
    if is_network(folder) || training_step(folder).is_some() { scheduler(files::parent(folder)) } else { Ok(None) }
}

/// Returns whether a folder is the network of the pipeline in its parent folder, by its name.
fn is_network(folder: &Path) -> bool {
    folder.file_name().is_some_and(|name| name == "unet" || name == AVERAGES)
}

/// Returns a path if it is a file.
///
/// # Errors
/// If it is something else: a pipe, a folder, or a link to a file that is missing.
fn usable(path: PathBuf) -> Result<Option<PathBuf>> {
    if fs::symlink_metadata(&path).is_err() {
        return Ok(None);
    }
    file::open(&path).map(|_| Some(path))
}

fn existing(path: PathBuf) -> Option<PathBuf> {
    path.is_file().then_some(path)
}

fn no_model(path: &Path, reason: impl ToString) -> Error {
    Error::NoModel { path: path.to_owned(), reason: reason.to_string() }
}

/// Lists the numbered folders in `folder` (a run's `checkpoints`), oldest first, as numbers and paths.
///
/// # Errors
/// If the folder cannot be read.
pub fn checkpoints(folder: impl AsRef<Path>) -> Result<Vec<(u64, PathBuf)>> {
    let folder = folder.as_ref();
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::read(folder))? {
        let path = entry.map_err(Error::read(folder))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // Only the names that a run writes: `8` beside `000000008` is somebody's copy.
        if let Ok(number) = name.parse::<u64>()
            && name == checkpoint_name(number)
            && path.is_dir()
        {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Returns the name of a run's checkpoint: its step in nine digits or more.
pub fn checkpoint_name(step: u64) -> String {
    format!("{step:09}")
}

/// Returns the step that the state of training in a checkpoint says, if there is one.
pub fn training_state_step(checkpoint: impl AsRef<Path>) -> Option<u64> {
    #[derive(serde::Deserialize)]
    struct State {
        step: u64,
    }
    let text = files::read_text_up_to(checkpoint.as_ref().join("training/state.json"), MAX_STATE).ok()?;
    serde_json::from_str::<State>(&text).ok().map(|state| state.step)
}

/// The longest `state.json` in bytes: importance sampling remembers ten losses for each of up to 10⁶ timesteps.
pub const MAX_STATE: u64 = 512 << 20;

/// Returns the checkpoint name in the file `latest` of `folder` (a run's `checkpoints`), if the file exists.
///
/// # Errors
/// If it cannot be read or holds anything but a name.
pub fn latest(folder: impl AsRef<Path>) -> Result<Option<String>> {
    pointer(&folder.as_ref().join(LATEST))
}

const LATEST: &str = "latest";
const BEST: &str = "best";

/// Reads a file that holds the name of a checkpoint in the same folder.
fn pointer(path: &Path) -> Result<Option<String>> {
    // A pipe, a folder or a link to a missing file is an error of `read_text`.
    if path.symlink_metadata().is_err() {
        return Ok(None);
    }
    let text = files::read_text(path).map_err(Error::read(path))?;
    match text.trim() {
        name if file::is_name(name) => Ok(Some(name.to_owned())),
        _ => Err(Error::file(path, "expected the name of a checkpoint in the same folder, such as 000010000")),
    }
}

/// Writes the checkpoint name `name` to the file `latest` of `folder`.
///
/// # Errors
/// If it cannot be written.
pub fn set_latest(folder: impl AsRef<Path>, name: &str) -> Result<()> {
    atomic::replace_file(folder.as_ref().join(LATEST), |file| writeln!(file, "{name}"))
}

/// Writes the checkpoint name `name` to the file `best` of `folder`.
///
/// # Errors
/// If it cannot be written.
pub fn set_best(folder: impl AsRef<Path>, name: &str) -> Result<()> {
    atomic::replace_file(folder.as_ref().join(BEST), |file| writeln!(file, "{name}"))
}

/// Writes `folder/model_index.json`, which tells diffusers that the folder is a `DDPMPipeline` with a network and a scheduler of
/// these classes. What that pipeline cannot sample is of the library `ddpm`, so that diffusers refuses the folder: a network
/// that diffusers does not have, and `EDMEulerScheduler`, whose steps need the network's input scaled.
///
/// # Errors
/// If it cannot be written.
pub fn write_model_index(folder: impl AsRef<Path>, network: &str, scheduler: &str) -> Result<()> {
    let library = |is_known: bool| if is_known { "diffusers" } else { "ddpm" };
    let index = serde_json::json!({
        "_class_name": "DDPMPipeline",
        "_diffusers_version": "0.35.0",
        "scheduler": [library(scheduler != "EDMEulerScheduler"), scheduler],
        "unet": [library(network == "UNet2DModel"), network],
    });
    atomic::write_file(folder.as_ref().join("model_index.json"), |file| writeln!(file, "{index:#}"))
}
