//! Readers of the supported formats, one file each; `open.rs` lists them.

pub(crate) mod array;
pub(crate) mod cifar;
pub(crate) mod files;
pub(crate) mod folder;
pub(crate) mod idx;
pub(crate) mod labels;
pub(crate) mod mat;
pub(crate) mod npy;
pub(crate) mod npz;
#[cfg(feature = "parquet")]
pub(crate) mod parquet;
pub(crate) mod parts;
pub(crate) mod shards;
pub(crate) mod tar;
pub(crate) mod tree;
pub(crate) mod unsupported;
pub(crate) mod zip;
