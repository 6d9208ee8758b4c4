//! Inception-v3 of the Fréchet inception distance: the TensorFlow graph of 2015-12-05 with its 1008 logits, by the tensor
//! names of its conversion to PyTorch (`pt_inception-2015-12-05-6726825d.pth`). It differs from torchvision's in its pooling:
//! averages exclude the padding, and the last block takes the maximum.

use burn::tensor::Tensor;

use super::layers::{Convolution, NamedWeights, average_pool, global_average, max_pool, relu, tensor};
use super::{BatchFeatures, InputFormat};
use crate::Error;

/// The images that the network takes.
pub const INPUT: InputFormat = InputFormat { side: 299, offset: 127.5, scale: 127.5 };

/// The description of one layer of a branch.
enum LayerSpec {
    /// A convolution with its name, output channels and kernel; stride 1, padded to keep the size.
    Conv(&'static str, usize, [usize; 2]),
    /// A 3×3 convolution without padding, with its name, output channels and stride.
    Valid(&'static str, usize, usize),
    /// Two parallel convolutions, 1×3 and 3×1, with their names and the output channels of each.
    Fork(&'static str, &'static str, usize),
    /// Average pooling over 3×3.
    Average,
    /// Maximum pooling over 3×3, with its stride and padding.
    Max(usize, usize),
}
use LayerSpec::{Average, Conv, Fork, Max, Valid};

const K1: [usize; 2] = [1, 1];
const K3: [usize; 2] = [3, 3];
const ROW: [usize; 2] = [1, 7];
const COLUMN: [usize; 2] = [7, 1];

/// Parallel branches, each a sequence of layers.
type Branches = Vec<Vec<LayerSpec>>;

fn stem() -> Branches {
    vec![vec![
        Valid("Conv2d_1a_3x3", 32, 2),
        Valid("Conv2d_2a_3x3", 32, 1),
        Conv("Conv2d_2b_3x3", 64, K3),
        Max(2, 0),
        Conv("Conv2d_3b_1x1", 80, K1),
        Valid("Conv2d_4a_3x3", 192, 1),
        Max(2, 0),
    ]]
}

/// A block at 35×35, with `pool` channels in the pooled branch.
fn a(pool: usize) -> Branches {
    vec![
        vec![Conv("branch1x1", 64, K1)],
        vec![Conv("branch5x5_1", 48, K1), Conv("branch5x5_2", 64, [5, 5])],
        vec![Conv("branch3x3dbl_1", 64, K1), Conv("branch3x3dbl_2", 96, K3), Conv("branch3x3dbl_3", 96, K3)],
        vec![Average, Conv("branch_pool", pool, K1)],
    ]
}

/// The block from 35×35 to 17×17.
fn b() -> Branches {
    vec![
        vec![Valid("branch3x3", 384, 2)],
        vec![Conv("branch3x3dbl_1", 64, K1), Conv("branch3x3dbl_2", 96, K3), Valid("branch3x3dbl_3", 96, 2)],
        vec![Max(2, 0)],
    ]
}

/// A block at 17×17, with `c` channels between the 7-wide convolutions.
fn c(c: usize) -> Branches {
    vec![
        vec![Conv("branch1x1", 192, K1)],
        vec![Conv("branch7x7_1", c, K1), Conv("branch7x7_2", c, ROW), Conv("branch7x7_3", 192, COLUMN)],
        vec![
            Conv("branch7x7dbl_1", c, K1),
            Conv("branch7x7dbl_2", c, COLUMN),
            Conv("branch7x7dbl_3", c, ROW),
            Conv("branch7x7dbl_4", c, COLUMN),
            Conv("branch7x7dbl_5", 192, ROW),
        ],
        vec![Average, Conv("branch_pool", 192, K1)],
    ]
}

/// The block from 17×17 to 8×8.
fn d() -> Branches {
    vec![
        vec![Conv("branch3x3_1", 192, K1), Valid("branch3x3_2", 320, 2)],
        vec![
            Conv("branch7x7x3_1", 192, K1),
            Conv("branch7x7x3_2", 192, ROW),
            Conv("branch7x7x3_3", 192, COLUMN),
            Valid("branch7x7x3_4", 192, 2),
        ],
        vec![Max(2, 0)],
    ]
}

/// A block at 8×8, with its pooling.
fn e(pool: LayerSpec) -> Branches {
    vec![
        vec![Conv("branch1x1", 320, K1)],
        vec![Conv("branch3x3_1", 384, K1), Fork("branch3x3_2a", "branch3x3_2b", 384)],
        vec![
            Conv("branch3x3dbl_1", 448, K1),
            Conv("branch3x3dbl_2", 384, K3),
            Fork("branch3x3dbl_3a", "branch3x3dbl_3b", 384),
        ],
        vec![pool, Conv("branch_pool", 192, K1)],
    ]
}

fn blocks() -> Vec<(&'static str, Branches)> {
    vec![
        ("", stem()),
        ("Mixed_5b.", a(32)),
        ("Mixed_5c.", a(64)),
        ("Mixed_5d.", a(64)),
        ("Mixed_6a.", b()),
        ("Mixed_6b.", c(128)),
        ("Mixed_6c.", c(160)),
        (SPATIAL_BLOCK, c(160)),
        ("Mixed_6e.", c(192)),
        ("Mixed_7a.", d()),
        ("Mixed_7b.", e(Average)),
        ("Mixed_7c.", e(Max(1, 1))),
    ]
}

/// The block whose first branch is the TensorFlow graph's `mixed_6/conv` (its blocks `mixed`, `mixed_1` … are
/// `Mixed_5b`, `Mixed_5c` …).
const SPATIAL_BLOCK: &str = "Mixed_6d.";
/// The number of its channels in sFID (Nash et al. 2021), at 17×17 pixels: 2023 values.
const SPATIAL_CHANNELS: usize = 7;

const WIDTH: usize = 2048;
const CLASSES: usize = 1008;

/// A layer with its weights.
#[derive(Debug)]
enum Layer {
    Conv(Box<Convolution>),
    Fork(Box<[Convolution; 2]>),
    Average,
    Max(usize, usize),
}

impl Layer {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Layer::Conv(convolution) => relu(convolution.forward(x)),
            Layer::Fork(two) => relu(Tensor::cat(two.iter().map(|one| one.forward(x.clone())).collect(), 3)),
            Layer::Average => average_pool(x),
            Layer::Max(stride, zeros) => max_pool(x, *stride, *zeros),
        }
    }
}

/// Inception-v3.
#[derive(Debug)]
pub struct Inception {
    blocks: Vec<(&'static str, Vec<Vec<Layer>>)>,
    /// `[2048,1008]`.
    classifier: Tensor<2>,
}

impl Inception {
    /// Builds the network.
    ///
    /// # Errors
    /// Names the tensor that is missing or has another shape.
    pub fn new(weights: &NamedWeights) -> Result<Self, Error> {
        let mut built = Vec::new();
        let mut channels = 3;
        for (block, branches) in blocks() {
            let mut layers = Vec::new();
            let mut joined = 0;
            for branch in branches {
                let mut width = channels;
                let chain = branch.into_iter().map(|spec| layer(weights, block, spec, &mut width));
                layers.push(chain.collect::<Result<Vec<_>, _>>()?);
                joined += width;
            }
            built.push((block, layers));
            channels = joined;
        }
        let classifier = weights.get("fc.weight", &[CLASSES, WIDTH])?;
        let classifier = tensor(classifier.to_vec(), [CLASSES, WIDTH], weights.device).transpose();
        Ok(Self { blocks: built, classifier })
    }

    /// Computes the features of images `[N,299,299,3]` in [-1, 1].
    pub fn forward(&self, mut x: Tensor<4>) -> BatchFeatures {
        let mut spatial = None;
        for (block, branches) in &self.blocks {
            let outputs: Vec<Tensor<4>> =
                branches.iter().map(|branch| branch.iter().fold(x.clone(), |x, layer| layer.forward(x))).collect();
            if *block == SPATIAL_BLOCK {
                spatial = outputs.first().map(|first| {
                    let [n, h, w, _] = first.dims();
                    first.clone().narrow(3, 0, SPATIAL_CHANNELS).reshape([n, h * w * SPATIAL_CHANNELS])
                });
            }
            x = Tensor::cat(outputs, 3);
        }
        let pooled = global_average(x);
        // Without the bias, as in the code of Salimans et al. and its successors.
        let logits = pooled.clone().matmul(self.classifier.clone());
        BatchFeatures { pooled, spatial, logits: Some(logits) }
    }
}

/// Builds a layer. `width` is the number of channels before the layer, and is updated to that after it.
fn layer(weights: &NamedWeights, block: &str, spec: LayerSpec, width: &mut usize) -> Result<Layer, Error> {
    let c_in = *width;
    let mut conv = |name: &str, c_out: usize, kernel, stride, same| {
        *width = c_out;
        let names = (format!("{block}{name}.conv"), format!("{block}{name}.bn"));
        Convolution::new(weights, (&names.0, &names.1), [c_in, c_out], kernel, stride, same)
    };
    Ok(match spec {
        Conv(name, c_out, kernel) => Layer::Conv(Box::new(conv(name, c_out, kernel, 1, true)?)),
        Valid(name, c_out, stride) => Layer::Conv(Box::new(conv(name, c_out, K3, stride, false)?)),
        Fork(a, b, c_out) => {
            let fork = [conv(a, c_out, [1, 3], 1, true)?, conv(b, c_out, [3, 1], 1, true)?];
            *width = 2 * c_out;
            Layer::Fork(Box::new(fork))
        }
        Average => Layer::Average,
        Max(stride, zeros) => Layer::Max(stride, zeros),
    })
}
