//! How a set of images is brought to a model, kept beside its weights so that whoever scores the model later sees the
//! pixels that it was trained on.

use std::path::Path;

use data::Fit;
use serde::{Deserialize, Serialize};

use crate::{Error, Signature};

/// The file in a pipeline's folder. diffusers ignores it.
pub const FILE: &str = "preprocessing.json";

/// How images are read for a model, and which label means "no class".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocessing {
    /// Height and width.
    pub resolution: Option<[usize; 2]>,
    /// Channels.
    pub channels: Option<usize>,
    /// What happens to images of another size.
    pub fit: Fit,
    /// The label that stands for no class, where the network was trained with dropped labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub null_label: Option<u32>,
}

impl Preprocessing {
    /// Reads what a pipeline's folder says: its `preprocessing.json`, or for runs of before the `config.toml` nearest
    /// above it. Without either, images are cropped to the network's size.
    ///
    /// # Errors
    /// If the file is there but cannot be read.
    pub fn read(folder: &Path, network: &Signature) -> Result<Self, Error> {
        let path = folder.join(FILE);
        let fail = |message: String| Error::Pipeline { path: path.clone(), message };
        let found = match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map_err(|error| fail(error.to_string()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Self::of_run(folder, network).unwrap_or_default()
            }
            Err(error) => return Err(fail(format!("cannot be read: {error}"))),
        };
        Ok(Self {
            resolution: found.resolution.or(network.size),
            channels: found.channels.or(Some(network.in_channels)),
            ..found
        })
    }

    /// From the configuration of the run that a checkpoint belongs to, `RUN/checkpoints/STEP`.
    fn of_run(folder: &Path, network: &Signature) -> Option<Self> {
        /// The keys of `config.toml` that matter here.
        #[derive(Deserialize)]
        struct Run {
            data: Data,
            train: Train,
        }
        #[derive(Deserialize)]
        struct Data {
            fit: Fit,
        }
        #[derive(Deserialize)]
        struct Train {
            label_dropout: f64,
        }
        let folder = std::fs::canonicalize(folder).ok()?;
        let run: Run = folder.ancestors().take(4).find_map(|folder| {
            let text = std::fs::read_to_string(folder.join("config.toml")).ok()?;
            toml::from_str(&text).ok()
        })?;
        let null_label = network.classes().filter(|_| run.train.label_dropout > 0.0).map(|classes| classes as u32 - 1);
        Some(Self { fit: run.data.fit, null_label, ..Self::default() })
    }

    /// Returns the options that read a set's images for the model.
    pub fn read_options(&self) -> data::ReadOptions {
        data::ReadOptions {
            resolution: self.resolution.map(Into::into),
            channels: self.channels,
            fit: self.fit,
            ..data::ReadOptions::default()
        }
    }

    /// Returns the text of `preprocessing.json`.
    pub(crate) fn to_json(self) -> String {
        format!("{:#}\n", serde_json::json!(self))
    }
}
