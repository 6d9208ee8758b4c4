//! The sampler and guidance of a model's run, so that commands that sample the model use the same.

use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Error;

/// The section `[sample]` of a run's configuration, as far as it decides what samples look like.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Sampling {
    /// The name of the sampler.
    pub sampler: String,
    /// The number of steps. `None` is the sampler's default.
    #[serde(default)]
    pub steps: Option<usize>,
    /// The noise of DDIM, from 0 to 1.
    #[serde(default)]
    pub eta: f64,
    /// The scale of classifier-free guidance; 1 is none.
    #[serde(default = "no_guidance")]
    pub guidance: f64,
    /// The first and last timestep of the guidance. `None` is all.
    #[serde(default)]
    pub guidance_interval: Option<(f64, f64)>,
}

fn no_guidance() -> f64 {
    1.0
}

impl Sampling {
    /// The configuration in the folder of a checkpoint.
    pub const FILE: &str = "training/config.toml";

    /// Reads the configuration in the folder of a checkpoint, or that of its run. Returns `None` for
    /// a model that no run of this program wrote.
    ///
    /// # Errors
    /// If the file exists but cannot be read.
    pub fn of_model(root: &Path) -> Result<Option<Self>, Error> {
        #[derive(Deserialize)]
        struct Run {
            sample: Option<Sampling>,
        }
        let root = root.canonicalize().unwrap_or_else(|_| root.to_owned());
        let run = root.parent().filter(|folder| folder.ends_with("checkpoints")).and_then(Path::parent);
        let places = [Some(root.join(Self::FILE)), run.map(|run| run.join("config.toml"))];
        for path in places.into_iter().flatten() {
            let fail = |message: String| Error::Pipeline { path: path.clone(), message };
            match files::read_text_up_to(&path, files::MAX_TOML) {
                Ok(text) => {
                    let Run { sample } = toml::from_str(&text).map_err(|error| fail(error.message().to_owned()))?;
                    return Ok(sample);
                }
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
                Err(error) => return Err(fail(format!("cannot be read: {error}"))),
            }
        }
        Ok(None)
    }
}
