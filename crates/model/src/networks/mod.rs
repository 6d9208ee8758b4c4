//! The supported networks: one file and one entry of `NETWORKS` each.

mod edm;
mod hmdolatabadi;
mod lucidrains;
mod mlp;
mod unet2d;

use std::fmt::Debug;
use std::sync::Arc;

use burn::tensor::Device;
use serde_json::Value;
use unet::Activations;

use crate::{Error, Network};

/// The networks by `_class_name`, each with the function that reads its `config.json`. The first entry also reads files
/// without a `_class_name`, as in flat repositories of 2022.
const NETWORKS: [(&str, ReadConfig); 6] = [
    (unet2d::CLASS_NAME, unet2d::read),
    (lucidrains::CLASS_NAME, lucidrains::read),
    (edm::CLASS_NAMES[0], edm::read),
    (edm::CLASS_NAMES[1], edm::read),
    (hmdolatabadi::CLASS_NAME, hmdolatabadi::read),
    (mlp::CLASS_NAME, mlp::read),
];

type ReadConfig = fn(&str) -> Result<NetworkConfig, Error>;

/// The configuration of one class of networks.
pub trait BackboneConfig: Debug + Send + Sync + 'static {
    /// Returns the text of `config.json`, with the class under `_class_name`.
    fn to_json(&self) -> String;

    /// Returns the number of parameters of the network.
    fn parameter_count(&self) -> usize;

    /// Counts the activations of images of a size, or returns `None` if they are not known, so that memory is not estimated.
    fn activations(&self, _height: usize, _width: usize) -> Option<Activations> {
        None
    }

    /// Creates the network with initial parameters drawn from `seed`.
    ///
    /// # Errors
    /// If the configuration is invalid.
    fn build(&self, seed: u64, device: &Device) -> Result<Network, Error>;
}

/// The configuration of a network of any class.
#[derive(Clone, Debug)]
pub struct NetworkConfig(Arc<dyn BackboneConfig>);

impl NetworkConfig {
    /// Parses the text of a `config.json`.
    ///
    /// # Errors
    /// If the class or a key is not supported; the error names it.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        // Some editors begin a file with a byte order mark.
        let text = text.trim_start_matches('\u{feff}');
        let class =
            serde_json::from_str::<Value>(text).ok().and_then(|value| Some(value["_class_name"].as_str()?.to_owned()));
        let find = |class: &str| NETWORKS.iter().find(|(name, _)| *name == class);
        // If the class is missing or unknown, the first network reads the file; its error names the expected class.
        let (_, read) = class.as_deref().and_then(find).unwrap_or(&NETWORKS[0]);
        read(text)
    }

    /// Returns the configuration as the text of `config.json`.
    pub fn to_json(&self) -> String {
        self.0.to_json()
    }

    /// Returns the number of parameters of the network.
    pub fn parameter_count(&self) -> usize {
        self.0.parameter_count()
    }

    /// See [`BackboneConfig::activations`].
    pub fn activations(&self, height: usize, width: usize) -> Option<Activations> {
        self.0.activations(height, width)
    }

    /// Creates the network with initial parameters drawn from `seed`.
    ///
    /// # Errors
    /// If the configuration is invalid.
    pub fn build(&self, seed: u64, device: &Device) -> Result<Network, Error> {
        self.0.build(seed, device)
    }
}

impl<C: BackboneConfig> From<C> for NetworkConfig {
    fn from(config: C) -> Self {
        Self(Arc::new(config))
    }
}

impl PartialEq for NetworkConfig {
    fn eq(&self, other: &Self) -> bool {
        self.to_json() == other.to_json()
    }
}
