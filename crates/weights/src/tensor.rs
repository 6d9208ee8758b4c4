//! Tensors in memory.

use std::collections::BTreeMap;

/// A tensor: its shape and its values in row-major order, as many as the product of the shape.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tensor {
    /// The size of each dimension, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// The values.
    pub data: Vec<f32>,
}

/// Tensors by name, in the order of their names.
pub type Tensors = BTreeMap<String, Tensor>;

/// The `__metadata__` of a safetensors file: strings by name.
pub type Metadata = BTreeMap<String, String>;

/// Borrows `tensors` as the (name, shape, values) triples that [`write_safetensors`](crate::write_safetensors) takes.
pub fn views(tensors: &Tensors) -> impl Iterator<Item = (&str, &[usize], &[f32])> {
    tensors.iter().map(|(name, tensor)| (name.as_str(), &*tensor.shape, &*tensor.data))
}

/// The greatest number of dimensions that is read, as in TensorFlow (`TensorShape::MaxDimensions`). NumPy and torch have
/// 64.
pub(crate) const MAX_RANK: usize = 254;

/// Returns the number of values of a tensor of this shape, if it fits in `usize`.
pub(crate) fn elements(shape: &[usize]) -> Option<usize> {
    // A zero makes the tensor empty, even if the product of the other sizes overflows.
    if shape.contains(&0) { Some(0) } else { shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size)) }
}
