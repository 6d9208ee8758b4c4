//! Networks that make features of images, read from the files that people have.

mod classifier;
mod efficientnet;
mod inception;
mod layers;
mod resize;

use std::path::Path;

use burn::tensor::{Device, Tensor};
use weights::{Metadata, Tensors};

use crate::Error;
use crate::quality::Features;
use classifier::Trained;
pub use classifier::{About, Classifier};
use efficientnet::EfficientNet;
use inception::Inception;
use layers::{Weights, tensor};
pub use resize::Resize;

/// A network that makes vectors of images.
#[derive(Debug)]
pub struct FeatureNetwork {
    body: Body,
    resize: Resize,
    device: Device,
}

#[derive(Debug)]
enum Body {
    Inception(Box<Inception>),
    EfficientNet(Box<EfficientNet>),
    Classifier(Box<Trained>),
}

/// The images that a network takes: squares of (byte − `zero`)/`one`.
struct Input {
    side: usize,
    zero: f32,
    one: f32,
}

/// What a network gives for a batch.
struct Outputs {
    pooled: Tensor<2>,
    spatial: Option<Tensor<2>>,
    logits: Option<Tensor<2>>,
}

/// What a network gives for a set.
#[derive(Clone, Debug)]
pub struct Extracted {
    /// Averages over all places: Inception's 2048 (`pool_3`), EfficientNet-Lite0's 1280, a [`Classifier`]'s 128.
    pub pooled: Features,
    /// Inception's 7 channels at 17×17 places, for sFID.
    pub spatial: Option<Features>,
    /// Inception's 1008 logits without bias, for the Inception score.
    pub logits: Option<Features>,
}

impl FeatureNetwork {
    /// From a file (safetensors or torch's) with the weights of Inception-v3 (2015-12-05) or EfficientNet-Lite0, which are
    /// told apart by their names, or from one that [`Classifier::write`] made.
    ///
    /// # Errors
    /// If the file cannot be read, is another network's, or misses a tensor.
    pub fn read(path: &Path, device: &Device) -> Result<Self, Error> {
        let name = path.display().to_string();
        let (tensors, metadata) = match weights::Format::of(path)? {
            weights::Format::Safetensors => weights::read_safetensors(path)?,
            _ => (weights::read_tensors(path)?, Metadata::new()),
        };
        Self::new(&name, &tensors, &metadata, device)
    }

    /// As [`FeatureNetwork::read`], from tensors and metadata of a file that messages call `name`.
    ///
    /// # Errors
    /// If they are another network's, or one is missing or of another shape.
    pub fn new(name: &str, tensors: &Tensors, metadata: &Metadata, device: &Device) -> Result<Self, Error> {
        let weights = Weights { name, tensors, device };
        let has = |tensor| tensors.contains_key(tensor);
        let body = if let Some(classifier) = Trained::new(name, tensors, metadata, device)? {
            Body::Classifier(Box::new(classifier))
        } else if has("Mixed_7c.branch1x1.conv.weight") {
            Body::Inception(Box::new(Inception::new(&weights)?))
        } else if has("_conv_head.weight") {
            Body::EfficientNet(Box::new(EfficientNet::new(&weights)?))
        } else {
            let known = "expected Inception-v3 (`Mixed_7c.branch1x1.conv.weight`), EfficientNet-Lite0 (`_conv_head.weight`) or \
                         what `ddpm classifier` wrote";
            return Err(Error::Request(format!("{name}: is no network that makes features; {known}")));
        };
        Ok(Self { body, resize: Resize::default(), device: device.clone() })
    }

    /// The same network, to which images come in this way; before it is said, pytorch-fid's.
    pub fn with_resize(self, resize: Resize) -> Self {
        Self { resize, ..self }
    }

    /// What the network is called.
    pub fn name(&self) -> String {
        match &self.body {
            Body::Inception(_) => "Inception-v3".to_owned(),
            Body::EfficientNet(_) => "EfficientNet-Lite0".to_owned(),
            Body::Classifier(classifier) => format!("classifier of {}", classifier.about.set),
        }
    }

    /// Whether a Fréchet distance of its features is a FID.
    pub fn is_inception(&self) -> bool {
        matches!(self.body, Body::Inception(_))
    }

    /// What a Fréchet distance of its features is called. The name of FID is Inception's alone.
    pub fn distance_name(&self) -> String {
        if self.is_inception() { "FID".to_owned() } else { format!("FD ({})", self.name()) }
    }

    /// The features of `count` images of `[H,W,C]`, of which `read` gives some by their first number and how many, as
    /// bytes N,H,W,C. Grey is taken as equal colours, transparency as over white. `progress` is told how many are done,
    /// and stops by returning false.
    ///
    /// # Errors
    /// What `read` returns; if a feature is not finite; or [`Error::Stopped`].
    pub fn extract(
        &self,
        count: usize,
        [height, width, channels]: [usize; 3],
        batch: usize,
        mut read: impl FnMut(usize, usize) -> Result<Vec<u8>, Error>,
        mut progress: impl FnMut(usize) -> bool,
    ) -> Result<Extracted, Error> {
        let mut all: [Option<(Vec<f32>, usize)>; 3] = Default::default();
        for first in (0..count).step_by(batch.max(1)) {
            let some = batch.max(1).min(count - first);
            let outputs = self.forward(&coloured(read(first, some)?, channels), [height, width]);
            let outputs = [Some(outputs.pooled), outputs.spatial, outputs.logits];
            for (all, output) in all.iter_mut().zip(outputs) {
                if let Some(output) = output {
                    let (values, _) = all.get_or_insert_with(|| (Vec::new(), output.dims()[1]));
                    values.extend(output.into_data().iter::<f32>());
                }
            }
            if !progress(first + some) {
                return Err(Error::Stopped);
            }
        }
        let [pooled, spatial, logits] =
            all.map(|all| all.map(|(values, width)| Features::new(values, width)).transpose());
        let pooled = pooled?.ok_or_else(|| Error::Request("no images to make features of".into()))?;
        Ok(Extracted { pooled, spatial: spatial?, logits: logits? })
    }

    fn forward(&self, images: &[u8], size: [usize; 2]) -> Outputs {
        let Input { side, zero, one } = match (&self.body, self.resize) {
            // TensorFlow's graph has (x − 128)/128, its conversion 2x/255 − 1.
            (Body::Inception(_), Resize::TensorFlow1) => Input { zero: 128.0, one: 128.0, ..inception::INPUT },
            (Body::Inception(_), Resize::Centres) => inception::INPUT,
            (Body::EfficientNet(_), _) => efficientnet::INPUT,
            (Body::Classifier(network), _) => network.input(),
        };
        let pixels = resize::resized(images, size, side, self.resize, zero, one);
        let n = pixels.len() / (side * side * 3);
        let x = tensor(pixels, [n, side, side, 3], &self.device);
        match &self.body {
            Body::Inception(network) => network.forward(x),
            Body::EfficientNet(network) => network.forward(x),
            Body::Classifier(network) => network.forward(x),
        }
    }
}

/// Bytes of any number of channels as RGB.
fn coloured(bytes: Vec<u8>, channels: usize) -> Vec<u8> {
    let over_white = |value: u8, alpha: u8| {
        let (value, alpha) = (u32::from(value), u32::from(alpha));
        ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8
    };
    match channels {
        3 => bytes,
        4 => bytes.as_chunks().0.iter().flat_map(|&[r, g, b, a]| [r, g, b].map(|value| over_white(value, a))).collect(),
        _ => bytes.into_iter().flat_map(|grey| [grey; 3]).collect(),
    }
}
