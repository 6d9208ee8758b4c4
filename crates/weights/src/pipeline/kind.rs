//! Checking that a pipeline denoises pixels by a chain of Ho et al.'s kind, by its `model_index.json` and its folders.
//!
//! A network of another kind of pipeline can have the same class and shapes, and would make meaningless images.

use crate::shown::shown;
use crate::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

/// The classes of pipelines that are read.
const READ: [&str; 3] = ["DDPMPipeline", "DDIMPipeline", "PNDMPipeline"];

/// Classes of pipelines that are refused, and what they are. Others are judged by their components.
const REFUSED: [(&str, &str); 10] = [
    ("LDMPipeline", LATENT),
    ("LatentDiffusionUncondPipeline", LATENT),
    ("LDMSuperResolutionPipeline", LATENT),
    ("StableDiffusionPipeline", "latent diffusion conditional on a text"),
    ("DiTPipeline", "a diffusion transformer of latents"),
    ("ScoreSdeVePipeline", "a variance-exploding process (Song et al. 2021)"),
    ("KarrasVePipeline", "a variance-exploding process (Karras et al. 2022)"),
    ("ConsistencyModelPipeline", "a consistency model, which maps noise to an image in one step"),
    ("DanceDiffusionPipeline", "a model of audio"),
    ("AudioDiffusionPipeline", "a model of spectrograms"),
];
const LATENT: &str = "latent diffusion: its network denoises latents of an autoencoder, not pixels";

/// The components of a pipeline that is read. `DDPMPipeline` and its relatives have no others.
const COMPONENTS: [&str; 2] = ["unet", "scheduler"];

/// The most keys that are listed because they are not used.
const MAX_NOTES: usize = 20;

/// Folders that only other kinds of pipelines have.
const FOLDERS: [&str; 21] = [
    "audio_encoder",
    "bert",
    "controlnet",
    "decoder",
    "feature_extractor",
    "image_encoder",
    "image_processor",
    "mel",
    "movq",
    "prior",
    "prior_prior",
    "safety_checker",
    "text_encoder",
    "text_encoder_2",
    "text_encoder_3",
    "tokenizer",
    "tokenizer_2",
    "transformer",
    "vae",
    "vocoder",
    "vqvae",
];

/// Checks the pipeline in the folder `root`. Returns what was assumed about it, for the user.
///
/// # Errors
/// If it is of another kind, or its `model_index.json` is damaged.
pub(super) fn check(root: &Path) -> Result<Vec<String>> {
    let path = root.join("model_index.json");
    let notes = if path.symlink_metadata().is_ok() { check_index(&path)? } else { Vec::new() };
    let has_config = |name: &&&str| {
        let files = std::fs::read_dir(root.join(name)).into_iter().flatten().flatten();
        files.into_iter().any(|file| file.file_name().to_string_lossy().ends_with("config.json"))
    };
    match FOLDERS.iter().find(has_config) {
        None => Ok(notes),
        Some(&folder) => Err(Error::file(root, format!("has a folder `{folder}`, so it is {OTHER_KIND}. {EXPECTED}"))),
    }
}

const OTHER_KIND: &str = "a pipeline of another kind, whose network denoises something other than pixels alone";
const EXPECTED: &str = "Supported are unconditional and class-conditional models of pixels: a DDPMPipeline, DDIMPipeline \
                        or PNDMPipeline";

/// Checks a `model_index.json`.
fn check_index(path: &Path) -> Result<Vec<String>> {
    let text = files::read_json_text(path).map_err(Error::read(path))?;
    let index: Map<String, Value> = serde_json::from_str(&text).map_err(|error| {
        let reason =
            format!("is not the JSON object of a diffusers pipeline ({}); download or write it again", shown(error));
        Error::file(path, reason)
    })?;
    // The class of a pipeline with code of its own is [file, class].
    let class =
        index.get("_class_name").and_then(|class| class.as_str().or_else(|| class.as_array()?.last()?.as_str()));
    let Some(class) = class else {
        return Err(Error::file(path, format!("does not name the class of the pipeline (`_class_name`). {EXPECTED}")));
    };
    let refuse = |what: &str| Err(Error::file(path, format!("`_class_name` is {}, {what}. {EXPECTED}", shown(class))));
    if let Some((_, what)) = REFUSED.iter().find(|(name, _)| *name == class) {
        return refuse(&format!("which is not supported: {what}"));
    }
    let own =
        || index.iter().filter(|(key, value)| !key.starts_with('_') && !COMPONENTS.contains(&&***key) && has(value));
    if let Some((component, _)) = own().find(|(_, value)| value.is_array()) {
        return refuse(&format!("and it has a component `{}`: {OTHER_KIND}", shown(component)));
    }
    let mut notes = Vec::new();
    if !READ.contains(&class) {
        notes.push(format!(
            "{}: the pipeline class {} is not known; its network and scheduler are used as those of a DDPMPipeline",
            path.display(),
            shown(class)
        ));
    }
    let unused = own().take(MAX_NOTES);
    notes.extend(
        unused.map(|(key, value)| format!("{}: `{}` = {} is not used", path.display(), shown(key), shown(value))),
    );
    if let more @ 1.. = own().count().saturating_sub(MAX_NOTES) {
        notes.push(format!("{}: {more} more keys are not used", path.display()));
    }
    Ok(notes)
}

/// Returns whether a value of `model_index.json` is set; a component that is left out is `[null, null]`.
fn has(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Array(parts) => parts.iter().any(|part| !part.is_null()),
        _ => true,
    }
}
