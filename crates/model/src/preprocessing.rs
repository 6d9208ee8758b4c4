//! The image preprocessing of a model. It is stored with the weights, so that evaluation uses the same pixels as
//! training.

use std::path::Path;

use data::Fit;
use serde::{Deserialize, Serialize};

use crate::{Error, Signature};

/// The name of the file in a pipeline's folder. diffusers ignores it.
pub const FILE: &str = "preprocessing.json";

/// The preprocessing of images for a model, and the label that means "no class".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocessing {
    /// Height and width of the images.
    pub resolution: Option<[usize; 2]>,
    /// Number of channels.
    pub channels: Option<usize>,
    /// The resizing of images with another size.
    pub fit: Fit,
    /// The label that means "no class", if the network was trained with label dropout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub null_label: Option<u32>,
}

impl Preprocessing {
    /// Reads the preprocessing of a pipeline's folder.
    ///
    /// It is read from `preprocessing.json`, or, for older runs, from the nearest `config.toml` in a parent folder.
    /// Without either, images are cropped to the network's size.
    ///
    /// # Errors
    /// If the file exists but cannot be read.
    pub fn read(folder: &Path, network: &Signature) -> Result<Self, Error> {
        let path = folder.join(FILE);
        let fail = |message: String| Error::Pipeline { path: path.clone(), message };
        let found = match weights::read_text(&path) {
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

    /// Derives it from the configuration of the run, for a checkpoint folder `RUN/checkpoints/STEP`.
    fn of_run(folder: &Path, network: &Signature) -> Option<Self> {
        /// The relevant keys of `config.toml`.
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

    /// Returns the options for reading a set's images.
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
