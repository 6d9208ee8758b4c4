//! The images of a split and their labels in a tree of files, in a folder or an archive. The first level of subfolders are
//! the classes, as in torchvision's `ImageFolder`, unless there is a label file.

use super::files::extension;
use super::labels::{self, LabelFile};
use crate::encoded::{EncodedImages, OpenImage};
use crate::error::{Error, Result};
use crate::options::Split;
use crate::report::BadFile;
use crate::source::{Discovered, Source};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Extensions of supported image files.
pub(crate) const IMAGE_EXTENSIONS: [&str; 6] = ["png", "jpg", "jpeg", "jfif", "webp", "gif"];

/// Extensions of unsupported image files, which are reported as bad files.
const UNSUPPORTED_EXTENSIONS: [&str; 16] = [
    "apng", "avif", "bmp", "dng", "exr", "heic", "heif", "jp2", "jxl", "pgm", "pnm", "ppm", "qoi", "tga", "tif", "tiff",
];

/// Names of the folders and shards of a split.
pub(crate) const TRAIN_NAMES: [&str; 2] = ["train", "training"];
pub(crate) const TEST_NAMES: [&str; 6] = ["test", "testing", "val", "valid", "validation", "eval"];

/// The files of a split, as indices into the names of all files.
pub(crate) struct SplitFiles {
    /// The folder of the split with a trailing slash, or an empty string.
    pub root: String,
    pub images: Vec<usize>,
    /// Image files in unsupported formats.
    pub unsupported: Vec<usize>,
    pub other_files: usize,
    pub labels: Option<Vec<u32>>,
    pub class_names: Vec<String>,
}

/// Selects the files of a split from the [normalized](super::files::normalized) names of all files of the set at `path`.
/// `read` returns the bytes of a file.
pub(crate) fn select(
    path: &Path,
    names: &[String],
    split: Split,
    read: &dyn Fn(usize) -> Result<Vec<u8>>,
) -> Result<SplitFiles> {
    let top = common_root(names);
    let root = match split_folder(names, top, split) {
        Some(root) => root,
        None => return Err(Error::NoHeldOut { path: path.to_owned(), expected: "folders train and test (or val)" }),
    };
    let (mut images, mut unsupported, mut other_files) = (Vec::new(), Vec::new(), 0);
    for (index, name) in names.iter().enumerate().filter(|(_, name)| name.starts_with(&root)) {
        match extension(name).as_str() {
            end if IMAGE_EXTENSIONS.contains(&end) => images.push(index),
            end if UNSUPPORTED_EXTENSIONS.contains(&end) => unsupported.push(index),
            _ => other_files += 1,
        }
    }

    let mut files = SplitFiles { root, images, unsupported, other_files, labels: None, class_names: Vec::new() };
    if !files.labels_from_file(path, names, top, read)? {
        files.labels_from_folders(names);
    }
    Ok(files)
}

/// Returns the folder that contains all files, with a trailing slash, or an empty string.
fn common_root(names: &[String]) -> &str {
    let Some(first) = names.first() else { return "" };
    let mut end = 0;
    while let Some(length) = first[end..].find('/') {
        let deeper = end + length + 1;
        if !names.iter().all(|name| name.starts_with(&first[..deeper])) {
            break;
        }
        end = deeper;
    }
    &first[..end]
}

/// Returns the folder of a split if the set has folders `train` and `test` or `val`. Otherwise returns `top` for the
/// training split.
fn split_folder(names: &[String], top: &str, split: Split) -> Option<String> {
    let folders: BTreeSet<&str> = names.iter().filter_map(|name| Some(name[top.len()..].split_once('/')?.0)).collect();
    let find = |wanted: &[&str]| {
        let folder = wanted.iter().find_map(|w| folders.iter().find(|folder| folder.eq_ignore_ascii_case(w)));
        folder.map(|folder| format!("{top}{folder}/"))
    };
    let is = |folder: &str, names: &[&str]| names.iter().any(|name| folder.eq_ignore_ascii_case(name));
    let divided = folders.iter().all(|folder| is(folder, &TRAIN_NAMES) || is(folder, &TEST_NAMES));
    match (find(&TRAIN_NAMES), split) {
        (Some(train), Split::Train) if divided => Some(train),
        (Some(_), Split::Test) if divided => find(&TEST_NAMES),
        (_, Split::Train) => Some(top.to_owned()),
        (_, Split::Test) => None,
    }
}

impl SplitFiles {
    /// Reads the label file in the folder of the split or the set. Returns whether there is one.
    fn labels_from_file(
        &mut self,
        path: &Path,
        names: &[String],
        top: &str,
        read: &dyn Fn(usize) -> Result<Vec<u8>>,
    ) -> Result<bool> {
        for folder in [self.root.as_str(), top] {
            for name in labels::LABEL_FILES {
                let Some(index) = names.iter().position(|other| other.strip_prefix(folder) == Some(name)) else {
                    continue;
                };
                let file = path.join(&names[index]);
                let labels = match labels::read(&file, &read(index)?)? {
                    LabelFile::Unrelated => continue,
                    LabelFile::Unlabeled => None,
                    LabelFile::Labeled(labels) => Some(labels),
                };
                self.other_files -= usize::from(names[index].starts_with(&self.root));
                if let Some(labels) = labels {
                    let label = |&image: &usize| names[image].strip_prefix(folder).and_then(|name| labels.get(name));
                    let labels: Vec<_> = self.images.iter().map(label).collect();
                    let first = |missing: usize| names[self.images[missing]].clone();
                    (self.labels, self.class_names) = labels::to_indices(&file, &labels, first)?;
                }
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Uses the subfolders as classes if there are at least two and every image is in a subfolder.
    fn labels_from_folders(&mut self, names: &[String]) {
        let class_of = |&image: &usize| Some(names[image].strip_prefix(&self.root)?.split_once('/')?.0);
        let Some(classes) = self.images.iter().map(class_of).collect::<Option<Vec<_>>>() else { return };
        let class_names: Vec<&str> = classes.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
        if class_names.len() > 1 {
            let label = |class| class_names.binary_search(class).map_or(0, |label| label as u32);
            self.labels = Some(classes.iter().map(label).collect());
            self.class_names = class_names.into_iter().map(str::to_owned).collect();
        }
    }

    /// Turns the split into a set. `open(images)` returns the function that opens image `i` of `images`; `bad` are files
    /// that cannot be read.
    pub fn into_discovered(
        self,
        format: &'static str,
        path: &Path,
        path_of: impl Fn(usize) -> PathBuf,
        mut bad: Vec<BadFile>,
        open: impl Fn(&[usize]) -> Box<OpenImage>,
    ) -> Result<Discovered> {
        bad.extend(self.unsupported.iter().map(|&index| {
            let path = path_of(index);
            let kind = extension(&path.to_string_lossy()).to_uppercase();
            BadFile { path, reason: format!("{kind} files are not supported; convert it to PNG, JPEG or WebP") }
        }));
        if self.images.is_empty() && bad.is_empty() {
            let message =
                format!("contains no image files; expected files with the extension {}", IMAGE_EXTENSIONS.join(", "));
            return Err(Error::Empty { path: path.to_owned(), message });
        }
        Ok(Discovered {
            format,
            files: self.images.len() + bad.len(),
            source: Source::Encoded(EncodedImages {
                open: open(&self.images),
                paths: self.images.iter().map(|&index| path_of(index)).collect(),
            }),
            labels: self.labels,
            class_names: self.class_names,
            bad,
            other_files: self.other_files,
        })
    }
}
