//! The safetensors format: the length of a header, the JSON header of names, dtypes, shapes and offsets, then the
//! values.

mod header;
mod read;
mod write;

pub(crate) use read::{MAX_HEADER, read};
pub use write::{write_safetensors, write_safetensors_f16, write_safetensors_with};
