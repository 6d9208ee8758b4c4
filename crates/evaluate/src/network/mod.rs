//! Networks that compute features of images, read from the files that exist for them.

mod classifier;
mod efficientnet;
mod inception;
mod layers;
mod resize;

use std::path::Path;

use burn::tensor::{Device, Tensor};
use mpi::Division;
use weights::{Metadata, Tensors};

use crate::quality::Features;
use crate::{Error, ImageSource};
use classifier::TrainedClassifier;
pub use classifier::{Classifier, ClassifierInfo};
use efficientnet::EfficientNet;
use inception::Inception;
use layers::{NamedWeights, tensor};
pub use resize::Resize;

/// The features of a batch: pooled, spatial and logits, each with its width.
type Parts = [Option<(usize, Vec<f32>)>; 3];

/// A network that computes feature vectors of images.
#[derive(Debug)]
pub struct FeatureNetwork {
    architecture: Architecture,
    resize: Resize,
    batch_size: usize,
    division: Division,
    /// The CRC-32 of its tensors.
    digest: String,
    device: Device,
}

#[derive(Debug)]
enum Architecture {
    Inception(Box<Inception>),
    EfficientNet(Box<EfficientNet>),
    Classifier(Box<TrainedClassifier>),
}

/// The images that a network takes: squares of (byte − `offset`)/`scale`.
#[derive(Clone, Copy)]
struct InputFormat {
    side: usize,
    offset: f32,
    scale: f32,
}

/// The features of a batch.
struct BatchFeatures {
    pooled: Tensor<2>,
    spatial: Option<Tensor<2>>,
    logits: Option<Tensor<2>>,
}

/// The features of a set of images.
#[derive(Clone, Debug)]
pub struct Extracted {
    /// Channels averaged over all pixels: Inception's 2048 (`pool_3`), EfficientNet-Lite0's 1280, a [`Classifier`]'s 128.
    pub pooled: Features,
    /// Inception's first 7 channels at 17×17 pixels (`mixed_6/conv`), for sFID.
    pub spatial: Option<Features>,
    /// Inception's 1008 logits without bias, for the Inception score.
    pub logits: Option<Features>,
}

impl FeatureNetwork {
    /// Reads a file (safetensors or PyTorch) with the weights of Inception-v3 (2015-12-05) or EfficientNet-Lite0, which the
    /// tensors' names identify, or a file of [`Classifier::write`].
    ///
    /// # Errors
    /// If the file cannot be read, is of another network, or lacks a tensor.
    pub fn read(path: &Path, device: &Device) -> Result<Self, Error> {
        let name = path.display().to_string();
        let (tensors, metadata) = match weights::Format::of(path)? {
            weights::Format::Safetensors => weights::read_safetensors(path)?,
            _ => (weights::read_tensors(path)?, Metadata::new()),
        };
        Self::new(&name, &tensors, &metadata, device)
    }

    /// Builds a network from the tensors and metadata of a file. Errors call the file `name`.
    ///
    /// # Errors
    /// If the tensors are of another network, or one is missing or has another shape.
    pub fn new(name: &str, tensors: &Tensors, metadata: &Metadata, device: &Device) -> Result<Self, Error> {
        // Clamped activations would hide an infinite weight.
        if let Some((tensor, _)) = tensors.iter().find(|(_, tensor)| tensor.data.iter().any(|v| !v.is_finite())) {
            return Err(Error::Request(format!("{name}: the weights {tensor} are not finite: the file is damaged")));
        }
        let mut digest = crc32fast::Hasher::new();
        for (tensor, values) in tensors {
            digest.update(tensor.as_bytes());
            values.data.iter().for_each(|value| digest.update(&value.to_le_bytes()));
        }
        let weights = NamedWeights { name, tensors, device };
        let has = |tensor| tensors.contains_key(tensor);
        let architecture = if let Some(classifier) = TrainedClassifier::new(name, tensors, metadata, device)? {
            Architecture::Classifier(Box::new(classifier))
        } else if has("Mixed_7c.branch1x1.conv.weight") {
            Architecture::Inception(Box::new(Inception::new(&weights)?))
        } else if has("_conv_head.weight") {
            Architecture::EfficientNet(Box::new(EfficientNet::new(&weights)?))
        } else {
            let known = "expected Inception-v3 (`Mixed_7c.branch1x1.conv.weight`), EfficientNet-Lite0 (`_conv_head.weight`) or \
                         a file of `ddpm classifier`";
            return Err(Error::Request(format!("{name}: is not a supported feature network; {known}")));
        };
        Ok(Self {
            architecture,
            resize: Resize::default(),
            batch_size: 16,
            division: Division::default(),
            digest: format!("{:08x}", digest.finalize()),
            device: device.clone(),
        })
    }

    /// Sets how images are resized; as in pytorch-fid by default.
    pub fn with_resize(self, resize: Resize) -> Self {
        Self { resize, ..self }
    }

    /// Sets how many images go through the network at once; 16 by default. It does not change any number.
    pub fn with_batch_size(self, batch_size: usize) -> Self {
        Self { batch_size: batch_size.max(1), ..self }
    }

    /// Divides the batches between processes, all of which get the features.
    pub fn divided(self, division: Division) -> Self {
        Self { division, ..self }
    }

    /// Returns the name of the network.
    pub fn name(&self) -> String {
        match &self.architecture {
            Architecture::Inception(_) => "Inception-v3".to_owned(),
            Architecture::EfficientNet(_) => "EfficientNet-Lite0".to_owned(),
            Architecture::Classifier(classifier) => format!("classifier of {}", classifier.info.set),
        }
    }

    /// Returns the name of the network, and how it resizes images: features are comparable if both are the same.
    pub fn protocol(&self) -> String {
        let resize = match self.resize {
            Resize::PyTorch => "pytorch-fid",
            Resize::TensorFlow1 => "tensorflow1",
        };
        format!("{} (resize {resize})", self.name())
    }

    /// Whether the network is Inception-v3, whose Fréchet distance is the FID.
    pub fn is_inception(&self) -> bool {
        matches!(self.architecture, Architecture::Inception(_))
    }

    /// Returns the name of the Fréchet distance of its features: FID for Inception only.
    pub fn distance_name(&self) -> String {
        if self.is_inception() { "FID".to_owned() } else { format!("FD ({})", self.name()) }
    }

    /// Computes the features of images. Grey images are converted to RGB, and transparent ones are put on white.
    /// `progress(done, total)` is called after each batch; return `false` to cancel.
    ///
    /// # Errors
    /// If an image cannot be read, a feature is not finite, images that differ all have the same features, there are no
    /// images, or `progress` returned `false`.
    pub fn extract(
        &self,
        images: &ImageSource,
        mut progress: impl FnMut(usize, usize) -> bool,
    ) -> Result<Extracted, Error> {
        let (count, [height, width, channels]) = (images.count(), images.shape());
        let mut all: [Option<(Vec<f32>, usize)>; 3] = Default::default();
        let mut differ = false;
        let mut first_image = Vec::new();
        let (size, batches) = (self.batch_size, count.div_ceil(self.batch_size));
        // Images that cannot be read are an error of the computation.
        let division = self.division.about(|| images.key().unwrap_or_default());
        let finished = division.run(
            || format!("features {} {} {size}", self.protocol(), self.digest),
            batches,
            |batch| {
                let range = batch * size..count.min((batch + 1) * size);
                let bytes = images.read(range.clone())?;
                if first_image.is_empty() {
                    first_image = if range.start == 0 { bytes.clone() } else { images.read(0..1)? };
                    first_image.truncate(height * width * channels);
                }
                let differ = bytes.chunks_exact(first_image.len()).any(|image| image != first_image);
                let features = self.forward(&to_rgb(bytes, channels), [height, width]);
                let parts = [Some(features.pooled), features.spatial, features.logits]
                    .map(|part| part.map(|part| (part.dims()[1], part.into_data().iter::<f32>().collect::<Vec<_>>())));
                let (before, total) = division.progress(batch, batches, (size, count));
                Ok::<_, Error>(progress(before + range.len(), total).then_some((parts, differ)))
            },
            |batch, (parts, differs): (Parts, bool)| {
                differ |= differs;
                for (all, part) in all.iter_mut().zip(parts) {
                    let Some((width, values)) = part else { continue };
                    let (known, known_width) = all.get_or_insert_with(|| (Vec::new(), width));
                    if *known_width != width || width == 0 || !values.len().is_multiple_of(width) {
                        return Err(Error::Request(format!("the features of batch {batch} are not of this network")));
                    }
                    known.extend(values);
                }
                Ok(true)
            },
        )?;
        if !finished {
            return Err(Error::Stopped);
        }
        let [pooled, spatial, logits] =
            all.map(|all| all.map(|(values, width)| Features::new(values, width)).transpose());
        let pooled = pooled?.ok_or_else(|| Error::Request("there are no images to compute features of".into()))?;
        let is_constant = pooled.rows().all(|row| Some(row) == pooled.rows().next());
        if differ && is_constant {
            let name = self.name();
            return Err(Error::Request(format!(
                "{name}: {count} images that differ all have the same features: its weights are damaged"
            )));
        }
        Ok(Extracted { pooled, spatial: spatial?, logits: logits? })
    }

    fn forward(&self, images: &[u8], size: [usize; 2]) -> BatchFeatures {
        let format = match (&self.architecture, self.resize) {
            // TensorFlow's graph has (x − 128)/128, its conversion 2x/255 − 1.
            (Architecture::Inception(_), Resize::TensorFlow1) => {
                InputFormat { offset: 128.0, scale: 128.0, ..inception::INPUT }
            }
            (Architecture::Inception(_), Resize::PyTorch) => inception::INPUT,
            (Architecture::EfficientNet(_), _) => efficientnet::INPUT,
            (Architecture::Classifier(network), _) => network.input(),
        };
        let side = format.side;
        let pixels = resize::resized(images, size, format, self.resize);
        let n = pixels.len() / (side * side * 3);
        let x = tensor(pixels, [n, side, side, 3], &self.device);
        match &self.architecture {
            Architecture::Inception(network) => network.forward(x),
            Architecture::EfficientNet(network) => network.forward(x),
            Architecture::Classifier(network) => network.forward(x),
        }
    }
}

/// Converts pixels of 1, 3 or 4 channels to RGB.
fn to_rgb(bytes: Vec<u8>, channels: usize) -> Vec<u8> {
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
