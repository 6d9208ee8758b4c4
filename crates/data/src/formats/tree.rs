//! Image files in folders, on disk or packed into an archive: which of them belong to a part, and what their classes
//! are. The first level of subfolders are the classes, as in torchvision's `ImageFolder`, unless a file of labels
//! lies beside them.

use super::labels::{self, Told};
use crate::encoded::{Encoded, Open};
use crate::error::{Error, Result};
use crate::options::{Options, Split};
use crate::set::{Found, Source};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Ends of the names of files that are read.
pub(crate) const READ: [&str; 6] = ["png", "jpg", "jpeg", "jfif", "webp", "gif"];

/// Pictures that a user will miss if they are passed over in silence.
const NOT_READ: [&str; 16] = [
    "apng", "avif", "bmp", "dng", "exr", "heic", "heif", "jp2", "jxl", "pgm", "pnm", "ppm", "qoi", "tga", "tif", "tiff",
];

/// What the parts of a set are called.
pub(crate) const TRAIN: [&str; 2] = ["train", "training"];
pub(crate) const TEST: [&str; 6] = ["test", "testing", "val", "valid", "validation", "eval"];

/// The files of a part of a set, as indices of the names that were given.
pub(crate) struct Part {
    /// The folder of the part with its slash, or nothing.
    pub root: String,
    pub images: Vec<usize>,
    /// Pictures of kinds that are not read.
    pub unread: Vec<usize>,
    pub other_files: usize,
    pub labels: Option<Vec<u32>>,
    pub class_names: Vec<String>,
}

/// A name inside a set in the one spelling that is compared: parts with slashes between them, none of them `.`.
/// What it becomes is never opened, so that `..` leads nowhere.
pub(crate) fn normal(name: &str) -> String {
    name.split(['/', '\\']).filter(|part| !part.is_empty() && *part != ".").collect::<Vec<_>>().join("/")
}

/// Whether a name is that of a hidden file, or of what macOS leaves in archives.
pub(crate) fn is_hidden(name: &str) -> bool {
    name.split('/').any(|part| part.starts_with('.') && part != ".." || part.eq_ignore_ascii_case("__macosx"))
}

pub(crate) fn extension(name: &str) -> String {
    let file = name.rsplit('/').next().unwrap_or(name);
    file.rsplit_once('.').map(|(_, end)| end.to_lowercase()).unwrap_or_default()
}

/// Finds a part of the set at `path` among the [`normal`] names of its files; `read` gives a file's bytes.
pub(crate) fn part(
    path: &Path,
    names: &[String],
    split: Split,
    read: &dyn Fn(usize) -> Result<Vec<u8>>,
) -> Result<Part> {
    let top = unwrapped(names);
    let root = match split_folder(names, top, split) {
        Some(root) => root,
        None => return Err(Error::NoHeldOut { path: path.to_owned(), expected: "folders train and test (or val)" }),
    };
    let (mut images, mut unread, mut other_files) = (Vec::new(), Vec::new(), 0);
    for (index, name) in names.iter().enumerate().filter(|(_, name)| name.starts_with(&root)) {
        match extension(name).as_str() {
            end if READ.contains(&end) => images.push(index),
            end if NOT_READ.contains(&end) => unread.push(index),
            _ => other_files += 1,
        }
    }

    let mut part = Part { root, images, unread, other_files, labels: None, class_names: Vec::new() };
    if !part.told(path, names, top, read)? {
        part.folders(names);
    }
    Ok(part)
}

/// The folders that hold one folder and nothing else, with a slash, as archives are often packed.
fn unwrapped(names: &[String]) -> &str {
    let Some(first) = names.first() else { return "" };
    let mut end = 0;
    while let Some(length) = first[end..].find('/') {
        let deeper = end + length + 1;
        if !names.iter().all(|name| name.starts_with(&first[..deeper])) {
            break;
        }
        // A lone `train` is the part that there is.
        end = deeper;
    }
    &first[..end]
}

/// The folder of a split, if the set is divided into `train` and `test` or `val`, else the set's own.
fn split_folder(names: &[String], top: &str, split: Split) -> Option<String> {
    let folders: BTreeSet<&str> = names.iter().filter_map(|name| Some(name[top.len()..].split_once('/')?.0)).collect();
    let find = |wanted: &[&str]| {
        let folder = wanted.iter().find_map(|w| folders.iter().find(|folder| folder.eq_ignore_ascii_case(w)));
        folder.map(|folder| format!("{top}{folder}/"))
    };
    let is = |folder: &str, names: &[&str]| names.iter().any(|name| folder.eq_ignore_ascii_case(name));
    let divided = folders.iter().all(|folder| is(folder, &TRAIN) || is(folder, &TEST));
    match (find(&TRAIN), split) {
        (Some(train), Split::Train) if divided => Some(train),
        (Some(_), Split::Test) if divided => find(&TEST),
        (_, Split::Train) => Some(top.to_owned()),
        (_, Split::Test) => None,
    }
}

impl Part {
    /// Takes the labels of a file beside the images, in the part's folder or above it; whether there is one.
    fn told(
        &mut self,
        path: &Path,
        names: &[String],
        top: &str,
        read: &dyn Fn(usize) -> Result<Vec<u8>>,
    ) -> Result<bool> {
        for folder in [self.root.as_str(), top] {
            for file in labels::FILES {
                let Some(index) = names.iter().position(|name| name.strip_prefix(folder) == Some(file)) else {
                    continue;
                };
                let place = path.join(&names[index]);
                let told = match labels::read(&place, &read(index)?)? {
                    Told::Nothing => continue,
                    Told::NoLabels => None,
                    Told::Labels(told) => Some(told),
                };
                self.other_files -= usize::from(names[index].starts_with(&self.root));
                if let Some(told) = told {
                    let label = |&image: &usize| names[image].strip_prefix(folder).and_then(|name| told.get(name));
                    let labels: Vec<_> = self.images.iter().map(label).collect();
                    let first = |missing: usize| names[self.images[missing]].clone();
                    (self.labels, self.class_names) = labels::classes(&place, &labels, first)?;
                }
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes the subfolders as classes, unless there are images beside them, or only one.
    fn folders(&mut self, names: &[String]) {
        let class_of = |&image: &usize| Some(names[image].strip_prefix(&self.root)?.split_once('/')?.0);
        let Some(classes) = self.images.iter().map(class_of).collect::<Option<Vec<_>>>() else { return };
        let class_names: Vec<&str> = classes.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
        if class_names.len() > 1 {
            let label = |class| class_names.binary_search(class).map_or(0, |label| label as u32);
            self.labels = Some(classes.iter().map(label).collect());
            self.class_names = class_names.into_iter().map(str::to_owned).collect();
        }
    }

    /// The set, whose image `i` is opened by `open(images[i])`; `bad` is what else could not be read.
    pub fn found(
        self,
        format: &'static str,
        path: &Path,
        place: impl Fn(usize) -> PathBuf,
        mut bad: Vec<(PathBuf, String)>,
        open: impl Fn(&[usize]) -> Box<Open>,
    ) -> Result<Found> {
        bad.extend(self.unread.iter().map(|&index| {
            let file = place(index);
            let kind = extension(&file.to_string_lossy()).to_uppercase();
            (file, format!("{kind} files are not read; convert it to PNG, JPEG or WebP"))
        }));
        if self.images.is_empty() && bad.is_empty() {
            let message = format!("holds no image files; expected files that end in {}", READ.join(", "));
            return Err(Error::Empty { path: path.to_owned(), message });
        }
        Ok(Found {
            format,
            files: self.images.len() + bad.len(),
            source: Source::Encoded(Encoded {
                open: open(&self.images),
                names: self.images.iter().map(|&index| place(index)).collect(),
            }),
            labels: self.labels,
            class_names: self.class_names,
            bad,
            other_files: self.other_files,
        })
    }
}

/// Whether a folder is one of shards: it has some, and no images beside them.
pub(crate) fn are_shards(folder: &Path, ends: &[&str]) -> bool {
    let is_image = |file: &PathBuf| READ.contains(&extension(&super::file_name(file)).as_str());
    shards_in(folder, ends).is_ok_and(|shards| !shards.is_empty())
        && super::visible(folder).is_ok_and(|files| !files.iter().any(is_image))
}

/// The shards of a set in files that end in one of `ends`: the file itself, or those of a folder, of its `data` and of
/// its parts' folders, whose names say to which part they belong (`train-00000-of-00002`, `imagenet_val_07`).
pub(crate) fn shards(path: &Path, ends: &[&str], options: &Options) -> Result<Vec<PathBuf>> {
    let is_named = |file: &Path, name: &str| {
        let below = file.strip_prefix(path).ok().filter(|below| below.parent().is_some());
        let text = below.unwrap_or(Path::new(file.file_name().unwrap_or_default())).to_string_lossy().to_lowercase();
        text.split(|c: char| !c.is_ascii_alphabetic()).any(|word| word == name)
    };
    let files = if path.is_dir() { shards_in(path, ends)? } else { vec![path.to_owned()] };
    let held_out = TEST.iter().find(|name| files.iter().any(|file| is_named(file, name)));
    let is_held_out = |file: &Path| TEST.iter().any(|name| is_named(file, name));
    match (options.split, held_out) {
        (Split::Test, Some(name)) => Ok(files.into_iter().filter(|file| is_named(file, name)).collect()),
        (Split::Test, None) => {
            Err(Error::NoHeldOut { path: path.to_owned(), expected: "files with test or val in their names" })
        }
        // A set of one part is what it is, whatever that is called.
        (Split::Train, _) if files.iter().all(|file| is_held_out(file)) => Ok(files),
        (Split::Train, _) => Ok(files.into_iter().filter(|file| !is_held_out(file)).collect()),
    }
}

/// Every shard in the folder, in the order of their names.
pub(crate) fn shards_in(folder: &Path, ends: &[&str]) -> Result<Vec<PathBuf>> {
    let is_part = |name: &str| name == "data" || TRAIN.contains(&name) || TEST.contains(&name);
    let mut files = Vec::new();
    for entry in super::visible(folder)? {
        let name = super::file_name(&entry);
        if entry.is_dir() && is_part(&name) {
            files.extend(super::visible(&entry)?);
        } else {
            files.push(entry);
        }
    }
    files.retain(|file| ends.iter().any(|end| super::file_name(file).ends_with(end)) && file.is_file());
    Ok(files)
}
