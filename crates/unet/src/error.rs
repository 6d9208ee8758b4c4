//! The error type of this crate.

use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration that does not describe a network.
    #[error("invalid network configuration: {0}")]
    Config(String),
    /// An invalid configuration in a file.
    #[error("{path}: {source}")]
    ConfigFile {
        /// The file.
        path: PathBuf,
        /// The error in it.
        source: Box<Error>,
    },
    /// A file that cannot be read.
    #[error("{path}: cannot be read: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The underlying error.
        source: std::io::Error,
    },
    /// A parameter that the back end cannot read.
    #[error("cannot read parameter `{0}` from the device: {1}")]
    Device(String, String),
    /// A tensor whose shape does not match the configuration.
    #[error("tensor `{name}` has shape {found:?}; the configuration expects {expected:?}")]
    Shape {
        /// The tensor's name in diffusers.
        name: String,
        /// The shape in the file.
        found: Vec<usize>,
        /// The shape in the network.
        expected: Vec<usize>,
    },
    /// Tensors that do not match the parameters of the configuration.
    #[error("the weights do not match the configuration: {}", names(missing, unexpected))]
    Names {
        /// Parameters without a tensor.
        missing: Vec<String>,
        /// Tensors without a parameter.
        unexpected: Vec<String>,
    },
    /// Class labels that do not match the network.
    #[error("class labels: {0}")]
    Labels(String),
}

fn names(missing: &[String], unexpected: &[String]) -> String {
    let some = |names: &[String]| match names {
        [] => String::new(),
        [one] => one.clone(),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
    };
    match (missing.is_empty(), unexpected.is_empty()) {
        (false, true) => format!("missing {}", some(missing)),
        (true, _) => format!("unexpected {}", some(unexpected)),
        (false, false) => format!("missing {}; unexpected {}", some(missing), some(unexpected)),
    }
}
