//! Arguments of the operations.

use burn::tensor::Tensor;

/// Stride and padding of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Step between outputs, in pixels, both ways.
    pub stride: usize,
    /// Zeros before the first row and column.
    pub before: usize,
    /// Zeros after the last row and column.
    pub after: usize,
}

impl Geometry {
    /// Stride 1, as many zeros on each side as keep a `kernel`×`kernel` convolution's size.
    pub fn same(kernel: usize) -> Self {
        Self { stride: 1, before: kernel / 2, after: kernel / 2 }
    }

    /// Rows (or columns) of the output.
    pub fn out(&self, size: usize, kernel: usize) -> usize {
        (size + self.before + self.after - kernel) / self.stride + 1
    }
}

/// A group normalisation: its parameters, what scales and shifts it, and whether SiLU follows.
#[derive(Clone, Debug)]
pub struct Norm {
    /// `[C]`.
    pub gamma: Tensor<1>,
    /// `[C]`.
    pub beta: Tensor<1>,
    /// `[N,2C]`, scales first.
    pub scale_shift: Option<Tensor<2>>,
    /// Groups, ε and activation.
    pub options: NormOptions,
}

/// The options of a group normalisation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormOptions {
    /// Groups of channels.
    pub groups: usize,
    /// Added to the variance.
    pub epsilon: f64,
    /// Whether SiLU follows.
    pub silu: bool,
}
