//! MSE profiles in files: JSON that `ddpm evaluate --denoising` writes and `ddpm sample --denoising` reads.

use std::path::Path;

use diffusion::{MseProfile, NoiseSchedule};
use model::Pipeline;
use sample::model_digest;
use serde::{Deserialize, Serialize};

use crate::Error;

/// The model that a profile was measured on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeasuredModel {
    /// The digest of its network, parameters and scheduler ([`model_digest`]).
    pub digest: String,
    /// The folder where it was.
    pub path: String,
}

impl MeasuredModel {
    /// Identifies a model.
    pub fn of(pipeline: &Pipeline) -> Self {
        Self { digest: model_digest(pipeline), path: pipeline.root.display().to_string() }
    }
}

/// The contents of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProfileFile {
    /// The model that was measured; `None` in files of early versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<MeasuredModel>,
    /// The profile.
    #[serde(flatten)]
    pub profile: MseProfile,
}

/// Reads a profile, and checks that it fits a schedule and was measured on `model`. A file that does not say on which model
/// it was measured is accepted.
///
/// # Errors
/// Names the file, and what is wrong.
pub fn read_mse_profile(
    path: impl AsRef<Path>,
    schedule: &NoiseSchedule,
    model: &MeasuredModel,
) -> Result<ProfileFile, Error> {
    let path = path.as_ref();
    let fail = |message: String| Error::Request(format!("{}: {message}", path.display()));
    let text = files::read_json_text(path).map_err(|error| fail(format!("cannot be read: {error}")))?;
    let file: ProfileFile = serde_json::from_str(&text)
        .map_err(|error| fail(format!("is not a profile of `ddpm evaluate --denoising`: {error}")))?;
    if let Some(other) = file.model.as_ref().filter(|other| other.digest != model.digest) {
        return Err(fail(format!(
            "was measured on another model, {} (digest {}); this is {} (digest {}). Measure it with `ddpm evaluate MODEL \
             --denoising FILE`",
            other.path, other.digest, model.path, model.digest
        )));
    }
    file.profile.check(schedule).map_err(|error| fail(format!("does not fit the model: {error}")))?;
    Ok(file)
}

/// Writes a profile and the model that it was measured on, completely or not at all.
///
/// # Errors
/// If the file cannot be written.
pub fn write_mse_profile(path: impl AsRef<Path>, profile: &MseProfile, model: &MeasuredModel) -> Result<(), Error> {
    let file = ProfileFile { model: Some(model.clone()), profile: profile.clone() };
    let text = serde_json::to_string(&file).map_err(|error| Error::Request(error.to_string()))?;
    Ok(weights::atomic::write_file(path.as_ref(), |file| file.write_all(text.as_bytes()))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_survives_its_file_and_errors_name_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mt.json");
        let schedule = NoiseSchedule::from_betas(vec![0.1, 0.2]).unwrap();
        let profile = MseProfile {
            mse: vec![0.1, 0.3],
            channels: vec![],
            prior: 0.01,
            decoder: vec![(-5.0, 1.0), (-4.0, 2.0)],
            images: 3,
        };
        let model = MeasuredModel { digest: "0123".into(), path: "runs/a".into() };
        write_mse_profile(&path, &profile, &model).unwrap();
        let read = read_mse_profile(&path, &schedule, &model).unwrap();
        assert_eq!((&read.profile, read.model.as_ref()), (&profile, Some(&model)));
        let other = MeasuredModel { digest: "4567".into(), path: "runs/b".into() };
        let refused = read_mse_profile(&path, &schedule, &other).unwrap_err().to_string();
        assert!(refused.contains("runs/a (digest 0123); this is runs/b (digest 4567)"), "{refused}");
        // A file of an early version.
        std::fs::write(&path, serde_json::to_string(&profile).unwrap()).unwrap();
        let read = read_mse_profile(&path, &schedule, &other).unwrap();
        assert_eq!((read.profile, read.model), (profile, None));
        let longer = NoiseSchedule::from_betas(vec![0.1; 3]).unwrap();
        let error = |path: &Path, schedule| read_mse_profile(path, schedule, &model).unwrap_err().to_string();
        assert!(error(&path, &longer).contains("mt.json: does not fit"));
        std::fs::write(&path, "{\"mse\": [0.1").unwrap();
        assert!(error(&path, &schedule).contains("mt.json: is not a profile"));
        assert!(error(&folder.path().join("no.json"), &schedule).contains("no.json: cannot be read"));
    }
}
