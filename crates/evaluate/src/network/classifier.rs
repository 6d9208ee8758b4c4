//! A small network that tells the classes of a set of small images apart. Its features stand where Inception's say little:
//! digits and clothes of 28×28 are no photographs of 299×299.

use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use unet::Parameters;
use unet::layers::{Conv2d, GroupNorm, INIT_SCALE, Init, Linear};
use unet::ops::Geometry;
use weights::{Metadata, Tensors};

use super::layers::global_average;
use super::{Input, Outputs};
use crate::Error;

/// Channels and stride of each convolution of 3×3.
const LAYERS: [(usize, usize); 5] = [(32, 1), (32, 2), (64, 1), (64, 2), (128, 1)];
const GROUPS: usize = 8;
const EPSILON: f64 = 1e-5;
/// Where a file's metadata says what the classifier is of.
const KEY: &str = "ddpm.classifier";

/// What a classifier is of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// The set that it was trained on.
    pub set: String,
    /// Height and width of its images.
    pub side: usize,
    /// Their channels: 1, or 3.
    pub channels: usize,
    /// Its classes, by label.
    pub classes: Vec<String>,
    /// Share of held-out images whose class it tells, where there are any.
    pub accuracy: Option<f64>,
}

/// Five convolutions, each with group normalisation and SiLU, the mean over all places (128 features), and a linear layer.
#[derive(Module, Debug)]
pub struct Classifier {
    convs: Vec<Conv2d>,
    norms: Vec<GroupNorm>,
    linear: Linear,
}

impl Parameters for Classifier {}

impl Classifier {
    /// A new one.
    pub fn new(channels: usize, classes: usize, seed: u64, device: &Device) -> Self {
        let mut init = Init::new(seed, device);
        let (mut convs, mut norms, mut width) = (Vec::new(), Vec::new(), channels);
        for (c_out, stride) in LAYERS {
            let geometry = Geometry { stride, ..Geometry::same(3) };
            convs.push(Conv2d::new(&mut init, width, c_out, 3, geometry, INIT_SCALE));
            norms.push(GroupNorm::new(&mut init, c_out, GROUPS, EPSILON));
            width = c_out;
        }
        Self { convs, norms, linear: Linear::new(&mut init, width, classes, INIT_SCALE) }
    }

    /// Features `[N,128]` of images `[N,H,W,C]` in [-1, 1].
    pub fn features(&self, mut x: Tensor<4>) -> Tensor<2> {
        for (conv, norm) in self.convs.iter().zip(&self.norms) {
            x = norm.forward_silu(conv.forward(x), None);
        }
        global_average(x)
    }

    /// Logits `[N,classes]` of features.
    pub fn logits(&self, features: Tensor<2>) -> Tensor<2> {
        self.linear.forward(features)
    }

    /// Writes a `.safetensors` that [`super::FeatureNetwork::read`] takes.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, path: &Path, about: &About) -> Result<(), Error> {
        let about = serde_json::to_string(about).map_err(|error| Error::Request(error.to_string()))?;
        let metadata = Metadata::from([(KEY.to_owned(), about)]);
        Ok(weights::write_safetensors(path, weights::views(&self.tensors()?), &metadata)?)
    }
}

/// A classifier that was trained, with what it is of.
#[derive(Debug)]
pub(super) struct Trained {
    classifier: Classifier,
    pub about: About,
}

impl Trained {
    /// From a file's tensors and metadata; `None` if it is no classifier's.
    ///
    /// # Errors
    /// If it is one, but damaged.
    pub fn new(name: &str, tensors: &Tensors, metadata: &Metadata, device: &Device) -> Result<Option<Self>, Error> {
        let Some(about) = metadata.get(KEY) else { return Ok(None) };
        let bad = |what: String| Error::Request(format!("{name}: a damaged classifier: {what}"));
        let about: About = serde_json::from_str(about).map_err(|error| bad(error.to_string()))?;
        let (sides, classes) = (4..=1024, 1..=100_000);
        if !sides.contains(&about.side) || ![1, 3].contains(&about.channels) || !classes.contains(&about.classes.len())
        {
            let About { side, channels, classes, .. } = &about;
            return Err(bad(format!("{} classes of {side}x{side}x{channels}", classes.len())));
        }
        let classifier = Classifier::new(about.channels, about.classes.len(), 0, device);
        let classifier = classifier.with_tensors(tensors.clone()).map_err(|error| bad(error.to_string()))?;
        Ok(Some(Self { classifier, about }))
    }

    /// How wide its images are.
    pub fn input(&self) -> Input {
        Input { side: self.about.side, zero: 127.5, one: 127.5 }
    }

    /// From images `[N,side,side,3]` scaled as [`Trained::input`] says.
    pub fn forward(&self, x: Tensor<4>) -> Outputs {
        let x = if self.about.channels == 1 { x.mean_dim(3) } else { x };
        Outputs { pooled: self.classifier.features(x), spatial: None, logits: None }
    }
}
