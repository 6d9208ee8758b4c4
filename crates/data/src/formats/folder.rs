//! Folders of image files, and single ones.

use super::tree::{self, READ};
use super::{Format, labels, visible};
use crate::error::{Error, Result};
use crate::options::{Options, Split};
use crate::set::Found;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

pub(crate) const FORMAT: Format = Format {
    expected: "a folder of PNG, JPEG, WebP or GIF files (subfolders are classes, unless there is a dataset.json, \
               metadata.jsonl or metadata.csv), or one such file",
    recognise: |path| {
        path.is_dir() || path.is_file() && READ.contains(&tree::extension(&super::file_name(path)).as_str())
    },
    open,
};

fn open(path: &Path, options: &Options) -> Result<Found> {
    let mut walk = Walk::default();
    let (root, split) = match path.is_file() {
        true => {
            walk.files.push(path.to_owned());
            (path.parent().unwrap_or(path), Split::Train)
        }
        false => {
            walk.folder(path);
            (path, options.split)
        }
    };
    let Walk { files, mut bad, .. } = walk;
    let below = |file: &Path| tree::normal(&file.strip_prefix(root).unwrap_or(file).to_string_lossy());
    let names: Vec<String> = files.iter().map(|file| below(file)).collect();
    let read = |index: usize| {
        let file = &files[index];
        labels::bytes(file, File::open(file).map_err(|e| Error::io(file, e))?)
    };
    let part = tree::part(root, &names, split, &read)?;
    bad.retain(|(folder, _)| format!("{}/", below(folder)).starts_with(&part.root) || folder == root);
    part.found(
        "image folder",
        path,
        |index| files[index].clone(),
        bad,
        |images| {
            let files: Vec<_> = images.iter().map(|&index| files[index].clone()).collect();
            Box::new(move |index| Ok(Box::new(File::open(&files[index])?)))
        },
    )
}

#[derive(Default)]
struct Walk {
    files: Vec<PathBuf>,
    /// Folders that could not be read.
    bad: Vec<(PathBuf, String)>,
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
            if entry.is_dir() { self.folder(&entry) } else { self.files.push(entry) }
        }
    }
}
