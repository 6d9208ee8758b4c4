//! What can go wrong with a network and its files.

use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration that does not describe a network.
    #[error("network configuration: {0}")]
    Config(String),
    /// The same, from a file.
    #[error("{path}: {source}")]
    ConfigFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<Error>,
    },
    /// A file that cannot be read.
    #[error("{path}: cannot be read: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A parameter that a back end does not hand over.
    #[error("parameter {0} cannot be read from the device: {1}")]
    Device(String, String),
    /// A tensor of another shape than the configuration's.
    #[error("tensor {name} has shape {found:?}, but the configuration asks for {expected:?}")]
    Shape {
        /// diffusers' name.
        name: String,
        /// The file's shape.
        found: Vec<usize>,
        /// The network's.
        expected: Vec<usize>,
    },
    /// Tensors that the configuration does not agree with.
    #[error("the weights do not fit the configuration: {}", names(missing, unexpected))]
    Names {
        /// Parameters without a tensor.
        missing: Vec<String>,
        /// Tensors without a parameter.
        unexpected: Vec<String>,
    },
    /// Class labels that do not fit the network.
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
