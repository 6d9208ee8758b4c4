//! Argument types of the operations.

use std::fmt;
use std::sync::Arc;

use burn::tensor::Tensor;

/// The stride and padding of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Stride in both directions.
    pub stride: usize,
    /// Zero padding before the first row and column.
    pub before: usize,
    /// Zero padding after the last row and column.
    pub after: usize,
}

impl Geometry {
    /// Creates the geometry with stride 1 in which a convolution with an odd `kernel` keeps the image size.
    pub fn same(kernel: usize) -> Self {
        Self { stride: 1, before: kernel / 2, after: kernel / 2 }
    }

    /// Returns the output size (height or width) for an input of size `size`.
    pub fn out(&self, size: usize, kernel: usize) -> usize {
        (size + self.before + self.after - kernel) / self.stride + 1
    }
}

/// The filter of a change of size by a factor of 2, in each direction.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    /// The weights.
    pub taps: Vec<f32>,
    /// The first tap at the first small pixel is at this many large pixels before the first one.
    pub margin: usize,
}

impl Filter {
    /// Creates a filter whose weights are proportional to `filter` and have the sum `sum`.
    pub fn new(filter: &[f64], sum: f64, margin: usize) -> Self {
        let total: f64 = filter.iter().sum();
        Self { taps: filter.iter().map(|tap| (sum * tap / total) as f32).collect(), margin }
    }

    /// Returns the small size (height or width) of a large one.
    pub fn small(&self, large: usize) -> usize {
        (large + 2 * self.margin - self.taps.len()) / 2 + 1
    }
}

/// Operations fused into a convolution: y = conv(norm(x)) + shift + residual.
#[derive(Clone, Debug, Default)]
pub struct Fusion {
    /// The last channels of the input, if x has only the first ones: a skip connection.
    pub skip: Option<Tensor<4>>,
    /// A normalization of the input.
    pub norm: Option<Norm>,
    /// A shift for each image `[N,O]`: the time embedding in a residual block.
    pub shift: Option<Tensor<2>>,
    /// A residual of the shape of the result.
    pub residual: Option<Tensor<4>>,
}

/// A parameter with its moments and its moving average. A step of Adam updates all of them.
#[derive(Clone, Debug)]
pub struct AdamState {
    /// The parameter.
    pub parameter: Tensor<1>,
    /// The first moment: the moving average of the gradient.
    pub moment1: Tensor<1>,
    /// The second moment: the moving average of the squared gradient.
    pub moment2: Tensor<1>,
    /// The exponential moving average of the parameter.
    pub average: Tensor<1>,
}

/// The parameters and options of a group normalization.
#[derive(Clone, Debug)]
pub struct Norm {
    /// Weights `[C]`.
    pub gamma: Tensor<1>,
    /// Biases `[C]`.
    pub beta: Tensor<1>,
    /// Scales and shifts per image `[N,2C]`, scales first.
    pub scale_shift: Option<Tensor<2>>,
    /// Groups, ε and activation.
    pub options: NormOptions,
}

/// The options of a group normalization.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormOptions {
    /// Number of groups.
    pub groups: usize,
    /// ε, added to the variance.
    pub epsilon: f64,
    /// Applies SiLU to the result.
    pub silu: bool,
}

/// A kind of attention: [`attention`](super::attention) or [`linear_attention`](super::linear_attention).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionKind {
    /// Every query looks at every key.
    Full,
    /// Every query looks at a context of all keys.
    Linear,
}

/// A function that is called with the gradient of each parameter as soon as the backward pass has computed it: with the
/// parameter's number, in the order of [`Parameters::flat_parameters`](crate::Parameters::flat_parameters), and its values.
#[derive(Clone)]
pub struct GradientObserver(Arc<Observe>);

type Observe = dyn Fn(usize, &[f32]) + Send + Sync;

impl GradientObserver {
    /// Calls a function on the thread of the backward pass, which waits for it.
    pub fn new(observe: impl Fn(usize, &[f32]) + Send + Sync + 'static) -> Self {
        Self(Arc::new(observe))
    }

    /// Calls the function.
    pub fn call(&self, parameter: usize, values: &[f32]) {
        (self.0)(parameter, values);
    }
}

impl fmt::Debug for GradientObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GradientObserver")
    }
}
