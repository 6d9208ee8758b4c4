//! The origin that generated images state, so that they are compared with the right real images.

use std::path::{Path, PathBuf};

use data::{CropBox, Dataset, Fit, read_npz_note};
use model::{Pipeline, TrainingData};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use weights::builtin;

use crate::output::{self, picture};

/// The keyword of the text chunk, or of the metadata, that stores it.
pub(crate) const KEYWORD: &str = "ddpm";
/// The name of the text file in an `.npz` that stores it.
pub(crate) const NOTE: &str = "ddpm.json";

/// The origin that generated images state: the model, the images that it was trained on, how those were fitted, and
/// the sampler.
///
/// It is JSON: a text chunk `ddpm` of a PNG, metadata `ddpm` of safetensors, and the file `ddpm.json` in an `.npz`, which
/// NumPy and evaluators ignore.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// The program and its version.
    pub program: String,
    /// The model's folder (see [`portable_path`]).
    pub model: String,
    /// The images that the model was trained on, if its run says so.
    pub data: Option<SourceData>,
    /// The part of those images that was used, if it was not the whole image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crop: Option<CropBox>,
    /// The fit of those images.
    pub fit: Fit,
    /// The height of the generated images.
    pub height: usize,
    /// Their width.
    pub width: usize,
    /// Their number of channels.
    pub channels: usize,
    /// The sampler.
    pub sampler: String,
    /// Evaluations of the network per image.
    pub steps: usize,
    /// The seed.
    pub seed: u64,
    /// The number of the first image.
    pub first: u64,
    /// The scale of classifier-free guidance.
    pub guidance: Option<f64>,
    /// A digest of everything that determines the images, except their number.
    pub identity: String,
}

/// The images that a model was trained on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceData {
    /// The name of the set.
    pub set: String,
    /// Its path (see [`portable_path`]). `None` is the built-in set.
    pub path: Option<String>,
    /// The number of its training images, by which another set at the path is noticed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<usize>,
}

impl Provenance {
    /// Describes images `[H,W,C]` of a pipeline.
    pub(crate) fn new(pipeline: &Pipeline, [height, width, channels]: [usize; 3]) -> Self {
        // Only those who compare the images need the data, and they get the error.
        let data = pipeline.training_data().ok().flatten();
        Self {
            program: concat!("ddpm ", env!("CARGO_PKG_VERSION")).to_owned(),
            model: model_name(&pipeline.root),
            data: data.map(|data| SourceData::from(&data)),
            crop: pipeline.preprocessing.crop,
            fit: pipeline.preprocessing.fit,
            height,
            width,
            channels,
            sampler: String::new(),
            steps: 0,
            seed: 0,
            first: 0,
            guidance: None,
            identity: String::new(),
        }
    }

    /// Returns how the images were drawn: sampler, steps, guidance and seed.
    pub fn how(&self) -> String {
        let guidance = self.guidance.map(|scale| format!("guidance {scale}, ")).unwrap_or_default();
        format!("{}, {} steps, {guidance}seed {}", self.sampler, self.steps, self.seed)
    }

    /// Reads what a file or a folder of images says; `None` if it says nothing, as images of other programs.
    ///
    /// # Errors
    /// If a folder holds images of several generations; the message names two of them.
    pub fn read(path: &Path) -> Result<Option<Self>, String> {
        if !path.is_dir() {
            return Ok(Self::of_file(path));
        }
        let Ok(images) = output::images_in(path) else { return Ok(None) };
        let all: Vec<Option<Self>> = images.par_iter().map(|path| Self::of_file(path)).collect();
        let identity = |of: &Option<Self>| of.as_ref().map(|of| of.identity.clone());
        match all.iter().position(|of| identity(of) != identity(&all[0])) {
            Some(other) => {
                let [a, b] = [&images[0], &images[other]].map(|path| path.display());
                Err(format!("{a} and {b} are of different models, samplers or seeds, or one of them is from elsewhere"))
            }
            None => Ok(all.into_iter().next().flatten()),
        }
    }

    fn of_file(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_string_lossy().to_lowercase();
        let text = match extension.as_str() {
            "npz" => read_npz_note(path, NOTE),
            "png" => picture::text(path, KEYWORD),
            _ => None,
        };
        serde_json::from_str(&text?).ok()
    }

    /// Finds the images that the model was trained on; `None` if that is unknown.
    ///
    /// # Errors
    /// If they are no longer there; the message names their path.
    pub fn find_data(&self) -> Result<Option<Dataset>, String> {
        let Some(data) = &self.data else { return Ok(None) };
        let Some(path) = &data.path else { return Ok(Some(Dataset::Builtin)) };
        if Path::new(path).exists() {
            return Ok(Some(Dataset::Path(path.into())));
        }
        // The run may know where they are.
        match TrainingData::of_model(Path::new(&self.model)).ok().flatten().map(|data| data.find()) {
            Some(Ok(found)) => Ok(Some(found)),
            _ => Err(format!("the images that {} was trained on are not at {path}", self.model)),
        }
    }

    /// Returns the JSON text.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl From<&TrainingData> for SourceData {
    fn from(data: &TrainingData) -> Self {
        let found = data.find().ok().and_then(|found| found.path().map(Path::to_owned));
        let path = found.as_ref().or(data.absolute.as_ref()).or(data.path.as_ref());
        Self { set: data.set.clone(), path: path.map(|path| portable_path(path)), images: data.images }
    }
}

/// Returns the name of a model for files: the path of its folder (see [`portable_path`]), or the [`NAME`](builtin::NAME) of the
/// model in the program, whose folder is another on each machine.
pub fn model_name(root: &Path) -> String {
    if builtin::is_folder(root) { builtin::NAME.to_owned() } else { portable_path(root) }
}

/// Returns a path in the same spelling whichever way it was given: relative to the working directory if it is inside,
/// otherwise absolute. So the files of two working directories with the same content have the same bytes.
pub fn portable_path(path: &Path) -> String {
    let (full, here) = (path.canonicalize().ok(), std::env::current_dir().and_then(|here| here.canonicalize()).ok());
    let inside = full.as_deref().zip(here.as_deref()).and_then(|(full, here)| full.strip_prefix(here).ok());
    let inside = inside.map(|path| if path == Path::new("") { Path::new(".") } else { path });
    let shown: PathBuf = inside.map(Path::to_owned).or(full).unwrap_or_else(|| path.to_owned());
    shown.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_spelling() {
        assert_eq!(portable_path(Path::new("./src")), "src");
        assert_eq!(portable_path(Path::new("src/../src/")), "src");
        assert_eq!(portable_path(&std::env::current_dir().unwrap().join("src")), "src");
        assert_eq!(portable_path(Path::new(".")), ".");
        assert!(Path::new(&portable_path(Path::new(".."))).is_absolute());
        assert_eq!(portable_path(Path::new("no/such")), "no/such");
    }
}
