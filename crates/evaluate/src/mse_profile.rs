//! MSE profiles in files: JSON that `ddpm evaluate --denoising` writes and `ddpm sample --denoising` reads.

use std::path::Path;

use diffusion::{MseProfile, NoiseSchedule};

use crate::Error;

/// Reads a profile, and checks that it fits a schedule.
///
/// # Errors
/// Names the file, and what is wrong.
pub fn read_mse_profile(path: impl AsRef<Path>, schedule: &NoiseSchedule) -> Result<MseProfile, Error> {
    let path = path.as_ref();
    let fail = |message: String| Error::Request(format!("{}: {message}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| fail(format!("cannot be read: {error}")))?;
    let profile: MseProfile = serde_json::from_str(&text)
        .map_err(|error| fail(format!("is not a profile of `ddpm evaluate --denoising`: {error}")))?;
    profile.check(schedule).map_err(|error| fail(format!("does not fit the model: {error}")))?;
    Ok(profile)
}

/// Writes a profile, completely or not at all.
///
/// # Errors
/// If the file cannot be written.
pub fn write_mse_profile(path: impl AsRef<Path>, profile: &MseProfile) -> Result<(), Error> {
    let text = serde_json::to_string(profile).map_err(|error| Error::Request(error.to_string()))?;
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
        write_mse_profile(&path, &profile).unwrap();
        assert_eq!(read_mse_profile(&path, &schedule).unwrap(), profile);
        let longer = NoiseSchedule::from_betas(vec![0.1; 3]).unwrap();
        let error = |path: &Path, schedule| read_mse_profile(path, schedule).unwrap_err().to_string();
        assert!(error(&path, &longer).contains("mt.json: does not fit"));
        std::fs::write(&path, "{\"mse\": [0.1").unwrap();
        assert!(error(&path, &schedule).contains("mt.json: is not a profile"));
        assert!(error(&folder.path().join("no.json"), &schedule).contains("no.json: cannot be read"));
    }
}
