//! Networks that make features of images, read from the files that people have.

mod efficientnet;
mod inception;
mod layers;
mod resize;

use std::path::Path;

use burn::tensor::{Device, Tensor};
use weights::Tensors;

use crate::Error;
use crate::quality::Features;
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
    /// Averages over all places: Inception's 2048 (`pool_3`), EfficientNet-Lite0's 1280.
    pub pooled: Features,
    /// Inception's 7 channels at 17×17 places, for sFID.
    pub spatial: Option<Features>,
    /// Inception's 1008 logits without bias, for the Inception score.
    pub logits: Option<Features>,
}

impl FeatureNetwork {
    /// From a safetensors file with the weights of Inception-v3 (2015-12-05) or EfficientNet-Lite0, which are told apart by
    /// their names.
    ///
    /// # Errors
    /// If the file cannot be read, is another network's, or misses a tensor.
    pub fn read(path: &Path, device: &Device) -> Result<Self, Error> {
        let name = path.display().to_string();
        if path.extension().is_none_or(|extension| !extension.eq_ignore_ascii_case("safetensors")) {
            // Where reading torch's pickles comes in.
            let message = "expected a .safetensors file; convert a .pth once in Python: `safetensors.torch.save_file(\
                           {k: v.contiguous() for k, v in torch.load(PTH, weights_only=True).items()}, OUT)`";
            return Err(Error::Request(format!("{name}: {message}")));
        }
        let (tensors, _) = weights::read_safetensors(path)?;
        Self::new(&name, &tensors, device)
    }

    /// As [`FeatureNetwork::read`], from tensors of a file that messages call `name`.
    ///
    /// # Errors
    /// If they are another network's, or one is missing or of another shape.
    pub fn new(name: &str, tensors: &Tensors, device: &Device) -> Result<Self, Error> {
        let weights = Weights { name, tensors, device };
        let has = |tensor| tensors.contains_key(tensor);
        let body = if has("Mixed_7c.branch1x1.conv.weight") {
            Body::Inception(Box::new(Inception::new(&weights)?))
        } else if has("_conv_head.weight") {
            Body::EfficientNet(Box::new(EfficientNet::new(&weights)?))
        } else {
            let known =
                "expected Inception-v3 (`Mixed_7c.branch1x1.conv.weight`) or EfficientNet-Lite0 (`_conv_head.weight`)";
            return Err(Error::Request(format!("{name}: is no network that makes features; {known}")));
        };
        Ok(Self { body, resize: Resize::default(), device: device.clone() })
    }

    /// The same network, to which images come in this way; before it is said, pytorch-fid's.
    pub fn with_resize(self, resize: Resize) -> Self {
        Self { resize, ..self }
    }

    /// What the network is called.
    pub fn name(&self) -> &'static str {
        match self.body {
            Body::Inception(_) => "Inception-v3",
            Body::EfficientNet(_) => "EfficientNet-Lite0",
        }
    }

    /// Whether a Fréchet distance of its features is a FID.
    pub fn is_inception(&self) -> bool {
        matches!(self.body, Body::Inception(_))
    }

    /// The features of `count` images of `[H,W,3]`, of which `read` gives some by their first number and how many, as
    /// bytes N,H,W,C. `progress` is told how many are done, and stops by returning false.
    ///
    /// # Errors
    /// What `read` returns; if a feature is not finite; or [`Error::Stopped`].
    pub fn extract(
        &self,
        count: usize,
        size: [usize; 2],
        batch: usize,
        mut read: impl FnMut(usize, usize) -> Result<Vec<u8>, Error>,
        mut progress: impl FnMut(usize) -> bool,
    ) -> Result<Extracted, Error> {
        let mut all: [Option<(Vec<f32>, usize)>; 3] = Default::default();
        for first in (0..count).step_by(batch.max(1)) {
            let some = batch.max(1).min(count - first);
            let outputs = self.forward(&read(first, some)?, size);
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
        };
        let pixels = resize::resized(images, size, side, self.resize, zero, one);
        let n = pixels.len() / (side * side * 3);
        let x = tensor(pixels, [n, side, side, 3], &self.device);
        match &self.body {
            Body::Inception(network) => network.forward(x),
            Body::EfficientNet(network) => network.forward(x),
        }
    }
}
