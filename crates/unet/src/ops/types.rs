//! Argument types of the operations.

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
