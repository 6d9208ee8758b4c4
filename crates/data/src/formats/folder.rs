//! Folders of image files, as torchvision's `ImageFolder` reads them: the first level of subfolders are the classes,
//! in the order of their names.

use super::{Format, file_name, visible};
use crate::encoded::Encoded;
use crate::error::{Error, Result};
use crate::options::{Options, Split};
use crate::set::{Found, Source};
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

pub(crate) const FORMAT: Format = Format {
    expected: "a folder of PNG, JPEG, WebP or GIF files (subfolders are classes), or one such file",
    recognise: |path| path.is_dir() || path.is_file() && READ.contains(&extension(path).as_str()),
    open,
};

const READ: [&str; 6] = ["png", "jpg", "jpeg", "jfif", "webp", "gif"];

/// Pictures that a user will miss if they are passed over in silence.
const NOT_READ: [&str; 16] = [
    "apng", "avif", "bmp", "dng", "exr", "heic", "heif", "jp2", "jxl", "pgm", "pnm", "ppm", "qoi", "tga", "tif", "tiff",
];

const TRAIN: [&str; 2] = ["train", "training"];
const TEST: [&str; 6] = ["test", "testing", "val", "valid", "validation", "eval"];

fn open(path: &Path, options: &Options) -> Result<Found> {
    let root = if path.is_file() { path.to_owned() } else { split_folder(path, options.split)? };
    let mut walk = Walk::default();
    match path.is_file() {
        true => walk.images.push(path.to_owned()),
        false => walk.folder(&root),
    }
    walk.bad.extend(walk.unread.drain(..).map(|file| {
        let kind = extension(&file).to_uppercase();
        (file, format!("{kind} files are not read; convert it to PNG, JPEG or WebP"))
    }));

    let class_of = |file: &PathBuf| {
        let below = file.strip_prefix(&root).ok()?.parent()?;
        Some(below.components().next()?.as_os_str().to_string_lossy().into_owned())
    };
    let classes: Option<Vec<String>> = walk.images.iter().map(class_of).collect();
    let class_names: BTreeSet<String> = classes.iter().flatten().cloned().collect();
    // Images beside the subfolders, or one subfolder for all: then the folders are no classes.
    let (labels, class_names) = match classes {
        Some(classes) if class_names.len() > 1 => {
            let class_names: Vec<String> = class_names.into_iter().collect();
            let label = |class| class_names.binary_search(class).map_or(0, |label| label as u32);
            (Some(classes.iter().map(label).collect()), class_names)
        }
        _ => (None, Vec::new()),
    };

    if walk.images.is_empty() && walk.bad.is_empty() {
        let message = format!("holds no image files; expected files that end in {}", READ.join(", "));
        return Err(Error::Empty { path: path.to_owned(), message });
    }
    let paths = walk.images.clone();
    Ok(Found {
        format: "image folder",
        files: walk.images.len() + walk.bad.len(),
        source: Source::Encoded(Encoded {
            names: walk.images,
            open: Box::new(move |index| Ok(Box::new(File::open(&paths[index])?))),
        }),
        labels,
        class_names,
        bad: walk.bad,
        other_files: walk.other_files,
    })
}

/// The subfolder of a split, if the set is divided into `train` and `test` or `val`, else the folder itself.
fn split_folder(path: &Path, split: Split) -> Result<PathBuf> {
    let folders: Vec<_> = visible(path)?.into_iter().filter(|entry| entry.is_dir()).collect();
    let find = |names: &[&str]| {
        names.iter().find_map(|name| folders.iter().find(|folder| file_name(folder) == *name)).cloned()
    };
    let divided = folders.iter().all(|f| TRAIN.contains(&&*file_name(f)) || TEST.contains(&&*file_name(f)));
    let no_held_out = || Error::NoHeldOut { path: path.to_owned(), expected: "folders train and test (or val)" };
    match (find(&TRAIN), split) {
        (Some(train), Split::Train) if divided => Ok(train),
        (Some(_), Split::Test) if divided => find(&TEST).ok_or_else(no_held_out),
        (_, Split::Train) => Ok(path.to_owned()),
        (_, Split::Test) => Err(no_held_out()),
    }
}

fn extension(path: &Path) -> String {
    path.extension().map(|end| end.to_string_lossy().to_lowercase()).unwrap_or_default()
}

#[derive(Default)]
struct Walk {
    images: Vec<PathBuf>,
    unread: Vec<PathBuf>,
    bad: Vec<(PathBuf, String)>,
    other_files: usize,
    /// Folders that were entered, so that a link in a circle ends.
    entered: BTreeSet<PathBuf>,
}

impl Walk {
    fn folder(&mut self, folder: &Path) {
        let entries = folder.canonicalize().map_err(|e| e.to_string()).and_then(|real| {
            if self.entered.insert(real) { visible(folder).map_err(|e| e.to_string()) } else { Ok(Vec::new()) }
        });
        let entries = match entries {
            Ok(entries) => entries,
            Err(reason) => return self.bad.push((folder.to_owned(), reason)),
        };
        for entry in entries {
            let end = extension(&entry);
            if entry.is_dir() {
                self.folder(&entry);
            } else if READ.contains(&end.as_str()) {
                self.images.push(entry);
            } else if NOT_READ.contains(&end.as_str()) {
                self.unread.push(entry);
            } else {
                self.other_files += 1;
            }
        }
    }
}
