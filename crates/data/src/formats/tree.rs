//! The images of a split and their labels in a tree of files, in a folder or an archive. The first level of subfolders are
//! the classes, as in torchvision's `ImageFolder`, unless there is a label file.

use super::files::extension;
use super::labels::{self, ImageNames, LabelBytes, LabelFile, Labels, natural_order};
use super::parts;
use crate::encoded::{EncodedImages, OpenImage};
use crate::error::{Error, Result};
use crate::options::{LabelFrom, Split};
use crate::report::BadFile;
use crate::source::{Discovered, Source};
use ::files::Charge;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Extensions of supported image files.
pub(crate) const IMAGE_EXTENSIONS: [&str; 14] =
    ["png", "jpg", "jpeg", "jfif", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm", "pbm", "pnm", "pam"];

/// Extensions of unsupported image files, which are reported as bad files.
const UNSUPPORTED_EXTENSIONS: [&str; 10] = ["apng", "avif", "dng", "exr", "heic", "heif", "jp2", "jxl", "qoi", "tga"];

/// Ends of the names of archives, which are not searched for images when there are images next to them.
const ARCHIVES: [&str; 5] = [".zip", ".tar", ".tgz", ".tar.gz", ".parquet"];

/// Returns whether a name is that of an image, in a supported format or not.
pub(crate) fn is_image(name: &str) -> bool {
    let extension = extension(name);
    IMAGE_EXTENSIONS.contains(&&*extension) || UNSUPPORTED_EXTENSIONS.contains(&&*extension)
}

/// The files of a split, as indices into the names of all files.
pub(crate) struct SplitFiles {
    /// The folder of the split with a trailing slash, or an empty string.
    pub root: String,
    /// Whether the set has other parts, in other folders.
    pub divided: bool,
    pub images: Vec<usize>,
    /// Image files in unsupported formats.
    pub unsupported: Vec<usize>,
    /// Files and folders that cannot be read.
    pub bad: Vec<BadFile>,
    pub other_files: usize,
    /// The names of archives, whose contents are not read.
    pub archives: Vec<String>,
    pub labels: Option<Vec<u32>>,
    pub class_names: Vec<String>,
    pub generated: usize,
    pub warnings: Vec<String>,
    /// The memory of the names of all files.
    pub charge: Charge,
}

/// Selects the files of a split from the [normalized](super::files::normalized) names of all files of the set at `path`.
/// `read` returns the bytes of a file.
pub(crate) fn select(
    path: &Path,
    names: &[String],
    split: Split,
    label_from: &LabelFrom,
    read: &dyn Fn(usize) -> Result<LabelBytes>,
) -> Result<SplitFiles> {
    // Folders without images are not parts of the set.
    let pictures: Vec<&str> = names.iter().map(String::as_str).filter(|name| is_image(name)).collect();
    let top = common_root(&pictures);
    let part = parts::part_folder(&pictures, top, split);
    let divided = part.is_some();
    let root = match (part, split) {
        (Some(root), _) => root,
        (None, Split::Train) => top.to_owned(),
        (None, Split::Test) => {
            return Err(Error::NoHeldOut { path: path.to_owned(), expected: "folders train and test (or val)" });
        }
    };
    let (mut images, mut unsupported, mut other_files) = (Vec::new(), Vec::new(), 0);
    let mut archives = Vec::new();
    for (index, name) in names.iter().enumerate().filter(|(_, name)| !divided || name.starts_with(&root)) {
        match extension(name).as_str() {
            end if IMAGE_EXTENSIONS.contains(&end) => images.push(index),
            end if UNSUPPORTED_EXTENSIONS.contains(&end) => unsupported.push(index),
            _ => {
                other_files += 1;
                let is_archive = ARCHIVES.iter().any(|end| name.to_lowercase().ends_with(end));
                archives.extend(is_archive.then_some(name.as_str()));
            }
        }
    }
    let (mut warnings, archives_inside) = (Vec::new(), archives.iter().map(|&name| name.to_owned()).collect());
    if !divided {
        warnings.extend(parts::undivided_warning(&pictures, top));
    }
    if !archives.is_empty() && !images.is_empty() {
        let (n, archives) = (archives.len(), parts::list(archives.into_iter()));
        warnings.push(format!(
            "{n} archives next to the images are not read: {archives}; give the path of one to read the images in it"
        ));
    }

    let mut files = SplitFiles {
        root,
        divided,
        images,
        unsupported,
        bad: Vec::new(),
        other_files,
        labels: None,
        class_names: Vec::new(),
        generated: 0,
        warnings,
        archives: archives_inside,
        charge: Charge::default(),
    };
    match label_from {
        LabelFrom::FileName => files.labels_from_file_names(path, names)?,
        LabelFrom::Column(column) => files.labels_from_column(path, names, column, read)?,
        LabelFrom::Folder if files.labels_from_file(path, names, read)? => {}
        LabelFrom::Folder => files.labels_from_folders(names),
    }
    Ok(files)
}

/// Returns the folder that contains all files, with a trailing slash, or an empty string.
fn common_root<'a>(names: &[&'a str]) -> &'a str {
    let Some(&first) = names.first() else { return "" };
    let shared = |a: &str, b: &str| a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    let length = names.iter().fold(first.len(), |length, name| shared(&first[..length], name));
    &first[..first.as_bytes()[..length].iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1)]
}

/// Returns the folder of a file, with a trailing slash, or an empty string.
fn folder_of(name: &str) -> &str {
    &name[..name.rfind('/').map_or(0, |slash| slash + 1)]
}

impl SplitFiles {
    /// Reads the label file in the folder of the split, or in one that contains it. Returns whether there is one.
    fn labels_from_file(
        &mut self,
        path: &Path,
        names: &[String],
        read: &dyn Fn(usize) -> Result<LabelBytes>,
    ) -> Result<bool> {
        let rank = |name: &str| labels::LABEL_FILES.iter().position(|file| *file == name);
        // Innermost first, and in one folder in the order of preference.
        let mut files: Vec<(usize, &str, usize)> = (0..names.len())
            .filter_map(|index| {
                let folder = folder_of(&names[index]);
                let rank = rank(&names[index][folder.len()..])?;
                self.root.starts_with(folder).then_some((rank, folder, index))
            })
            .collect();
        files.sort_by_key(|&(rank, folder, index)| (std::cmp::Reverse(folder.len()), rank, index));
        // Of entries with the same name, as archives can have, the first one counts.
        files.dedup_by_key(|&mut (rank, folder, _)| (rank, folder));
        for (_, folder, index) in files {
            let file = path.join(&names[index]);
            let labels = match labels::read(&file, || read(index), None)? {
                LabelFile::Unrelated(columns) => {
                    // A `dataset.json` of another tool is an error already.
                    self.warnings.push(format!(
                        "{} has no column file_name, so it gives no labels; its columns are {columns} (separated by \
                         commas)",
                        file.display()
                    ));
                    continue;
                }
                LabelFile::Unlabeled => None,
                LabelFile::Labeled(labels) => Some(labels),
            };
            self.set_labels_of_file(&file, names, (index, folder), labels, true)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Reads the labels from a column of `metadata.csv`, `metadata.jsonl` or the only other table in the same folder.
    fn labels_from_column(
        &mut self,
        path: &Path,
        names: &[String],
        column: &str,
        read: &dyn Fn(usize) -> Result<LabelBytes>,
    ) -> Result<()> {
        let mut tables: Vec<(&str, usize)> = (0..names.len())
            .filter(|&index| ["csv", "jsonl"].contains(&&*extension(&names[index])))
            .map(|index| (folder_of(&names[index]), index))
            .filter(|(folder, _)| self.root.starts_with(folder))
            .collect();
        // The innermost folder with tables counts. The sort is stable.
        tables.sort_by_key(|(folder, _)| std::cmp::Reverse(folder.len()));
        let Some(&(folder, _)) = tables.first() else {
            let message = format!("has no table with the column {column:?}; expected metadata.csv or metadata.jsonl");
            return Err(Error::malformed(path, message));
        };
        tables.retain(|&(other, _)| other == folder);
        let metadata = tables.iter().find(|&&(_, index)| names[index][folder.len()..].starts_with("metadata."));
        let index = match (metadata, &tables[..]) {
            (Some(&(_, index)), _) | (None, &[(_, index)]) => index,
            (None, several) => {
                let tables = parts::list(several.iter().map(|&(_, index)| names[index].as_str()));
                let message = format!("has several tables: {tables}; name the one with the labels metadata.csv");
                return Err(Error::malformed(path, message));
            }
        };
        let file = path.join(&names[index]);
        let LabelFile::Labeled(labels) = labels::read(&file, || read(index), Some(column))? else {
            return Err(Error::malformed(&file, format!("has no labels in the column {column:?}")));
        };
        self.set_labels_of_file(&file, names, (index, folder), Some(labels), false)
    }

    /// Sets the labels that a label file, `(index, folder)`, has for the images.
    fn set_labels_of_file(
        &mut self,
        file: &Path,
        names: &[String],
        (index, folder): (usize, &str),
        labels: Option<Labels>,
        exact: bool,
    ) -> Result<()> {
        self.other_files -= usize::from(!self.divided || names[index].starts_with(&self.root));
        let Some(labels) = labels else { return Ok(()) };
        let relative = self.images.iter().map(|&image| names[image].strip_prefix(folder).unwrap_or_default());
        let images = ImageNames::new(relative, exact);
        let labels: Vec<_> = (0..self.images.len()).map(|image| images.find(image, &labels.names)).collect();
        let first = |missing: usize| names[self.images[missing]].clone();
        (self.labels, self.class_names) = labels::to_indices(file, &labels, first)?;
        Ok(())
    }

    /// Uses the subfolders as classes if there are at least two and every image is in a subfolder.
    fn labels_from_folders(&mut self, names: &[String]) {
        let class_of = |image: usize| Some(names[image].strip_prefix(&self.root)?.split_once('/')?.0);
        let mut class_names: Vec<&str> = self.images.iter().filter_map(|&image| class_of(image)).collect();
        class_names.sort_by(|a, b| natural_order(a, b));
        class_names.dedup();
        if class_names.len() < 2 {
            return;
        }
        let loose: Vec<usize> = self.images.iter().copied().filter(|&image| class_of(image).is_none()).collect();
        if let Some(&first) = loose.first() {
            let others =
                if loose.len() > 1 { format!(" and {} more images lie", loose.len() - 1) } else { " lies".into() };
            let (first, folders) = (names[first].escape_debug(), parts::list(class_names.into_iter()));
            self.warnings.push(format!(
                "the folders {folders} are not read as classes, because {first}{others} next to them; move such images \
                 into a folder of their class, or away"
            ));
            return;
        }
        let label: HashMap<&str, u32> = class_names.iter().copied().zip(0..).collect();
        self.labels = Some(self.images.iter().filter_map(|&image| label.get(class_of(image)?).copied()).collect());
        self.class_names = class_names.into_iter().map(str::to_owned).collect();
    }

    /// Uses the part of each file name before the first `_` as class, the convention of OpenAI's code.
    fn labels_from_file_names(&mut self, path: &Path, names: &[String]) -> Result<()> {
        let class_of = |&image: &usize| {
            let file = names[image].rsplit('/').next()?;
            file.split_once('_').map(|(class, _)| class.to_owned()).filter(|class| !class.is_empty())
        };
        let classes: Vec<Option<String>> = self.images.iter().map(class_of).collect();
        if let Some(missing) = classes.iter().position(Option::is_none) {
            let name = names[self.images[missing]].escape_debug();
            let message =
                format!("labels from file names need names such as cat_001.png; {name} has no class before a `_`");
            return Err(Error::malformed(path, message));
        }
        let classes: Vec<String> = classes.into_iter().flatten().collect();
        let mut class_names = classes.clone();
        class_names.sort_by(|a, b| natural_order(a, b));
        class_names.dedup();
        let label: HashMap<&str, u32> = class_names.iter().map(String::as_str).zip(0..).collect();
        self.labels = Some(classes.iter().map(|class| label[class.as_str()]).collect());
        self.class_names = class_names;
        Ok(())
    }

    /// Turns the split into a set. `open(images)` returns the function that opens image `i` of `images`.
    pub fn into_discovered(
        self,
        format: &'static str,
        path: &Path,
        path_of: impl Fn(usize) -> PathBuf,
        open: impl Fn(&[usize]) -> Box<OpenImage>,
    ) -> Result<Discovered> {
        let mut bad = self.bad;
        bad.extend(self.unsupported.iter().map(|&index| {
            let path = path_of(index);
            let kind = extension(&path.to_string_lossy()).to_uppercase();
            BadFile { path, reason: format!("{kind} files are not supported; convert it to PNG, JPEG or WebP") }
        }));
        if self.images.is_empty() && bad.is_empty() {
            let mut message =
                format!("contains no image files; expected files with the extension {}", IMAGE_EXTENSIONS.join(", "));
            if !self.archives.is_empty() {
                let archives = parts::list(self.archives.iter().map(String::as_str));
                message.push_str(&format!("; it contains archives, which are read by their own paths: {archives}"));
            }
            self.warnings.iter().for_each(|warning| message.push_str(&format!("; {warning}")));
            return Err(Error::Empty { path: path.to_owned(), message });
        }
        let images = EncodedImages {
            open: open(&self.images),
            paths: self.images.iter().map(|&index| path_of(index)).collect(),
        };
        Ok(Discovered {
            files: self.images.len() + bad.len(),
            labels: self.labels,
            class_names: self.class_names,
            bad,
            other_files: self.other_files,
            generated: self.generated,
            warnings: self.warnings,
            charge: self.charge,
            ..Discovered::new(format, Source::Encoded(images))
        })
    }
}
