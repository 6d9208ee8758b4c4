//! A small classifier of small images. Its features replace Inception's where those mean little: digits and clothes of 28×28
//! are not photographs of 299×299.

use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use unet::Parameters;
use unet::layers::{Conv2d, GroupNorm, INIT_SCALE, Init, Linear};
use unet::ops::Geometry;
use weights::{Metadata, Tensors};

use super::layers::global_average;
use super::{BatchFeatures, InputFormat};
use crate::Error;

/// Channels and stride of each 3×3 convolution.
const LAYERS: [(usize, usize); 5] = [(32, 1), (32, 2), (64, 1), (64, 2), (128, 1)];
const GROUPS: usize = 8;
const EPSILON: f64 = 1e-5;
/// The key of [`ClassifierInfo`] in a file's metadata.
const KEY: &str = "ddpm.classifier";

/// The set and the classes of a classifier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassifierInfo {
    /// The name of the set that it was trained on.
    pub set: String,
    /// Height and width of the images.
    pub side: usize,
    /// Channels of the images: 1 or 3.
    pub channels: usize,
    /// Names of the classes, by label.
    pub classes: Vec<String>,
    /// Accuracy on held-out images, if there are any.
    pub accuracy: Option<f64>,
}

/// Five convolutions, each with group normalization and SiLU, the mean over all pixels (128 features), and a linear layer.
#[derive(Module, Debug)]
pub struct Classifier {
    convs: Vec<Conv2d>,
    norms: Vec<GroupNorm>,
    linear: Linear,
}

impl Parameters for Classifier {}

impl Classifier {
    /// Builds a classifier with initial parameters that depend on the seed alone.
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

    /// Computes the features `[N,128]` of images `[N,H,W,C]` in [-1, 1].
    pub fn features(&self, mut x: Tensor<4>) -> Tensor<2> {
        for (conv, norm) in self.convs.iter().zip(&self.norms) {
            x = norm.forward_silu(conv.forward(x), None);
        }
        global_average(x)
    }

    /// Computes the logits `[N,classes]` from features.
    pub fn logits(&self, features: Tensor<2>) -> Tensor<2> {
        self.linear.forward(features)
    }

    /// Writes a `.safetensors` file for [`super::FeatureNetwork::read`].
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path, info: &ClassifierInfo) -> Result<(), Error> {
        let info = serde_json::to_string(info).map_err(|error| Error::Request(error.to_string()))?;
        let metadata = Metadata::from([(KEY.to_owned(), info)]);
        Ok(weights::write_safetensors(path, weights::views(&self.tensors()?), &metadata)?)
    }
}

/// A trained classifier with its information.
#[derive(Debug)]
pub(super) struct TrainedClassifier {
    classifier: Classifier,
    pub info: ClassifierInfo,
}

impl TrainedClassifier {
    /// Builds the classifier of a file from its tensors and metadata; `None` if the file is not a classifier's.
    ///
    /// # Errors
    /// If it is a classifier's, but damaged.
    pub fn new(name: &str, tensors: &Tensors, metadata: &Metadata, device: &Device) -> Result<Option<Self>, Error> {
        let Some(info) = metadata.get(KEY) else { return Ok(None) };
        let bad = |what: String| Error::Request(format!("{name}: a damaged classifier: {what}"));
        let info: ClassifierInfo = serde_json::from_str(info).map_err(|error| bad(error.to_string()))?;
        let (sides, classes) = (4..=1024, 1..=100_000);
        if !sides.contains(&info.side) || ![1, 3].contains(&info.channels) || !classes.contains(&info.classes.len()) {
            let ClassifierInfo { side, channels, classes, .. } = &info;
            return Err(bad(format!("{} classes of {side}x{side}x{channels}", classes.len())));
        }
        let classifier = Classifier::new(info.channels, info.classes.len(), 0, device);
        let classifier = classifier.with_tensors(tensors.clone()).map_err(|error| bad(error.to_string()))?;
        Ok(Some(Self { classifier, info }))
    }

    /// Returns the images that it takes.
    pub fn input(&self) -> InputFormat {
        InputFormat { side: self.info.side, offset: 127.5, scale: 127.5 }
    }

    /// Computes the features of images `[N,side,side,3]` in the format of [`TrainedClassifier::input`].
    pub fn forward(&self, x: Tensor<4>) -> BatchFeatures {
        let x = if self.info.channels == 1 { x.mean_dim(3) } else { x };
        BatchFeatures { pooled: self.classifier.features(x), spatial: None, logits: None }
    }
}
