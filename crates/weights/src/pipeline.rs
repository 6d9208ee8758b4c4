//! The files of a model on disk, and the files that name a run's checkpoints.

use crate::{Error, Result, atomic, file};
use std::fs;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

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
}

/// Finds the files of the model at `path`, which can be:
///
/// - a diffusers pipeline with `model_index.json`, `unet/` and `scheduler/`, as this program's checkpoints are;
/// - a flat repository such as `google/ddpm-cifar10-32`, with all files in the root;
/// - a `unet/` folder with `config.json` and weights; the scheduler is searched for in its parent folder;
/// - `checkpoints/latest` or `checkpoints/best` of a run, which stands for the checkpoint that it names;
/// - a run, or its `checkpoints` folder, which stands for the checkpoint that `checkpoints/latest` names, or for the
///   newest complete one;
/// - a `.safetensors` file with a `config.json` in the same folder.
///
/// # Errors
/// [`Error::NoModel`] lists the files that were looked for; [`Error::Import`] if the file must be imported first.
pub fn locate(path: impl AsRef<Path>) -> Result<ModelFiles> {
    let path = path.as_ref();
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => locate_file(path),
        Ok(_) => locate_folder(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let looks_like_repository = path.is_relative() && path.components().count() == 2;
            let hint = if looks_like_repository {
                " (a Hugging Face repository must be downloaded first: `hf download NAME --local-dir FOLDER`)"
            } else {
                ""
            };
            Err(no_model(path, format!("no such file or folder{hint}")))
        }
        Err(error) => Err(Error::read(path)(error)),
    }
}

fn locate_file(path: &Path) -> Result<ModelFiles> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let folder = file::parent(path);
    if name == LATEST || name == BEST {
        match pointer(path)? {
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
        Err(no_model(path, "expected a folder or a .safetensors file"))
    }
}

fn locate_folder(path: &Path) -> Result<ModelFiles> {
    let unet = path.join("unet");
    if unet.is_dir() {
        let mut located = network(&unet, None)?;
        located.root = path.to_owned();
        located.scheduler_config = scheduler(path);
        located.model_index = existing(path.join("model_index.json"));
        return Ok(located);
    }
    if path.join("config.json").is_file() {
        return network(path, None);
    }
    let checkpoints_folder = path.join("checkpoints");
    let folder = if checkpoints_folder.is_dir() { &*checkpoints_folder } else { path };
    if let Some(name) = latest(folder)? {
        // If the named checkpoint was deleted since, the newest complete one is used instead.
        let checkpoint = folder.join(name);
        if checkpoint.join("unet").is_dir() {
            return locate_folder(&checkpoint);
        }
    }
    let numbered = checkpoints(folder)?;
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

/// Finds the network in `folder`: its `config.json`, and its weights, unless `weights` names another file.
fn network(folder: &Path, weights: Option<&Path>) -> Result<ModelFiles> {
    let Some(unet_config) = existing(folder.join("config.json")) else {
        return Err(no_model(folder, "it has no config.json of a UNet2DModel"));
    };
    let find = |names: &[&str]| names.iter().find_map(|name| existing(folder.join(name)));
    let weights = weights.map(Path::to_owned).or_else(|| find(&WEIGHTS)).or_else(|| find(&PICKLES));
    let Some(unet_weights) = weights else {
        let names = [&WEIGHTS[..], &PICKLES].concat().join(", ");
        return Err(no_model(folder, format!("it has no weights; expected one of {names}")));
    };
    // `MODEL/unet` is the network of MODEL, so MODEL's scheduler belongs to it too.
    let is_unet = folder.file_name().is_some_and(|name| name == "unet");
    let scheduler_config = scheduler(folder).or_else(|| is_unet.then(|| scheduler(file::parent(folder)))?);
    let model_index = existing(folder.join("model_index.json"));
    Ok(ModelFiles { root: folder.to_owned(), unet_config, unet_weights, scheduler_config, model_index })
}

fn scheduler(root: &Path) -> Option<PathBuf> {
    existing(root.join("scheduler/scheduler_config.json")).or_else(|| existing(root.join("scheduler_config.json")))
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
        if name.bytes().all(|b| b.is_ascii_digit()) && path.is_dir() {
            found.extend(name.parse().ok().map(|number: u64| (number, path)));
        }
    }
    found.sort();
    Ok(found)
}

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
    if !path.is_file() {
        return Ok(None);
    }
    let mut text = String::new();
    let file = fs::File::open(path).map_err(Error::read(path))?;
    file.take(4096).read_to_string(&mut text).map_err(Error::read(path))?;
    let name = text.trim();
    let mut components = Path::new(name).components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(_)), None) => Ok(Some(name.to_owned())),
        _ => Err(Error::file(path, "expected the name of a checkpoint in the same folder, such as 000010000")),
    }
}

/// Writes the checkpoint name `name` to the file `latest` of `folder`.
///
/// # Errors
/// If it cannot be written.
pub fn set_latest(folder: impl AsRef<Path>, name: &str) -> Result<()> {
    atomic::write_file(folder.as_ref().join(LATEST), |file| writeln!(file, "{name}"))
}

/// Writes the checkpoint name `name` to the file `best` of `folder`.
///
/// # Errors
/// If it cannot be written.
pub fn set_best(folder: impl AsRef<Path>, name: &str) -> Result<()> {
    atomic::write_file(folder.as_ref().join(BEST), |file| writeln!(file, "{name}"))
}

/// Writes `folder/model_index.json`, which tells diffusers that the folder is a `DDPMPipeline` with this scheduler class.
///
/// # Errors
/// If it cannot be written.
pub fn write_model_index(folder: impl AsRef<Path>, scheduler: &str) -> Result<()> {
    let index = serde_json::json!({
        "_class_name": "DDPMPipeline",
        "_diffusers_version": "0.35.0",
        "scheduler": ["diffusers", scheduler],
        "unet": ["diffusers", "UNet2DModel"],
    });
    atomic::write_file(folder.as_ref().join("model_index.json"), |file| writeln!(file, "{index:#}"))
}
