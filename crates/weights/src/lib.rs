//! Checkpoint files, without a framework: what diffusers calls a pipeline folder, read and written.
//!
//! - [`read_safetensors`] and [`write_safetensors`]: tensors by name, any dtype in, f32 out;
//! - [`read_tensors`] and [`Archive`]: the same from torch's pickles, TensorFlow's checkpoints and shards, by content;
//! - [`pickle`]: what a pickle holds, found out without running it;
//! - [`whole`]: files and folders that appear complete or not at all;
//! - [`digest`]: checksums by which a torn or flipped checkpoint is recognised;
//! - [`families`]: networks of other code bases brought to diffusers' names;
//! - [`names`]: parameter names of older diffusers releases;
//! - [`pipeline`]: from what a user calls MODEL to the files that make it up.
//!
//! ```
//! use ddpm_weights::{Tensor, Tensors, read_safetensors, views, write_safetensors};
//!
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("diffusion_pytorch_model.safetensors");
//! let bias = Tensor { shape: vec![3], data: vec![0.0, 0.5, 1.0] };
//! let tensors = Tensors::from([("conv_out.bias".into(), bias)]);
//! write_safetensors(&path, views(&tensors), &Default::default())?;
//! assert_eq!(read_safetensors(&path)?.0, tensors);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod archive;
pub mod digest;
mod error;
pub mod families;
pub mod names;
pub mod pickle;
pub mod pipeline;
mod read;
mod tensorflow;
mod torch;
mod values;
pub mod whole;
mod write;

pub use archive::{Archive, Format, read_tensors};
pub use error::{Error, Result};
pub use read::read_safetensors;
pub use tensorflow::{TensorFlowFile, Variable, checkpoint_index, prefer_ema};
pub use torch::TorchFile;
pub use write::write_safetensors;

use std::collections::BTreeMap;

/// A tensor: its shape and its values in row-major order, as many as the product of the shape.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tensor {
    /// The size of each dimension, outermost first; empty for a single value.
    pub shape: Vec<usize>,
    /// The values.
    pub data: Vec<f32>,
}

/// Tensors by name, in the order of their names.
pub type Tensors = BTreeMap<String, Tensor>;

/// What a safetensors file says about itself: strings by name (its `__metadata__`).
pub type Metadata = BTreeMap<String, String>;

/// `tensors` as [`write_safetensors`] takes them.
pub fn views(tensors: &Tensors) -> impl Iterator<Item = (&str, &[usize], &[f32])> {
    tensors.iter().map(|(name, tensor)| (name.as_str(), &*tensor.shape, &*tensor.data))
}

/// The number of values of a tensor of this shape, if it fits `usize`.
fn elements(shape: &[usize]) -> Option<usize> {
    // A zero anywhere makes it empty, however large the rest.
    if shape.contains(&0) { Some(0) } else { shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size)) }
}
