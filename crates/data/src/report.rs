use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The files, sizes and channels that were found when a set was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadReport {
    /// Number of image files, including those that cannot be read.
    pub files: usize,
    /// Files and folders that cannot be read. Their images are not in the set.
    pub bad: Vec<BadFile>,
    /// Number of ignored files of other types.
    pub other_files: usize,
    /// Number of image files that this program wrote, such as samples. In a folder with other images they are skipped.
    pub generated: usize,
    /// Warnings about what may not be as intended: held-out images among the training images, class folders that do not
    /// count, skipped files of this program.
    pub warnings: Vec<String>,
    /// Number of images by (height, width), before resizing.
    pub sizes: BTreeMap<(usize, usize), usize>,
    /// Number of images with 1 (grey), 2 (grey and alpha), 3 (RGB) and 4 (RGBA) channels, before conversion.
    pub channels: BTreeMap<usize, usize>,
}

/// A file or folder that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct BadFile {
    /// The file or folder.
    #[serde(serialize_with = "as_text")]
    pub path: PathBuf,
    /// The reason why it cannot be read.
    pub reason: String,
}

/// Serializes a path as text, with replacement characters if it is not UTF-8.
fn as_text<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}
