//! Reads and writes checkpoint files, without a machine-learning framework.
//!
//! - [`read_safetensors`] and [`write_safetensors`] read tensors of any dtype as f32, and write f32 (or f16);
//! - [`read_tensors`] and [`Archive`] also read `torch.save` files, TensorFlow checkpoints and sharded files, which
//!   they recognize by their contents;
//! - [`pickle`] decodes a Python pickle without running it;
//! - [`families`] converts networks of other code bases to diffusers' parameter names and configuration;
//! - [`names`] updates parameter names of older diffusers releases;
//! - [`pipeline`] finds the files of a model, and reads and writes the files that name a run's checkpoints;
//! - [`atomic`] writes files and folders completely or not at all;
//! - [`digest`] writes and verifies checksums of a checkpoint's files.
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
pub mod atomic;
mod budget;
pub mod builtin;
pub mod digest;
mod dtype;
mod error;
pub mod families;
mod file;
mod format;
mod lock;
pub mod names;
pub mod pickle;
pub mod pipeline;
mod safetensors;
mod shards;
mod shown;
mod tensor;
mod tensorflow;
mod torch;

pub use self::safetensors::{write_safetensors, write_safetensors_f16, write_safetensors_with};
pub use archive::{Archive, read_safetensors, read_tensors};
pub use error::{Error, Result};
pub use format::Format;
pub use lock::lock_folder;
pub use tensor::{Metadata, Tensor, Tensors, views};
pub use torch::{TorchFile, TorchValue, Values, write_state_dict, write_torch_value};
