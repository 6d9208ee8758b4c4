//! Folders of image files, and single image files.

use super::files::{extension, list_visible, lower_file_name, normalized};
use super::labels;
use super::tree::{self, IMAGE_EXTENSIONS};
use crate::error::{Error, Result};
use crate::options::{ReadOptions, Split};
use crate::report::BadFile;
use crate::source::{Discovered, Format};
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

pub(crate) const FORMAT: Format = Format {
    expected: "a folder of PNG, JPEG, WebP or GIF files (subfolders are classes, unless there is a dataset.json, \
               metadata.jsonl or metadata.csv), or one such file",
    detect: |path| {
        path.is_dir() || path.is_file() && IMAGE_EXTENSIONS.contains(&extension(&lower_file_name(path)).as_str())
    },
    open,
};

fn open(path: &Path, options: &ReadOptions) -> Result<Discovered> {
    let mut walk = Walk::default();
    let (root, split) = match path.is_file() {
        true => {
            walk.files.push(path.to_owned());
            (path.parent().unwrap_or(path), Split::Train)
        }
        false => {
            walk.visit(path);
            (path, options.split)
        }
    };
    let Walk { files, mut bad, .. } = walk;
    let relative = |file: &Path| normalized(&file.strip_prefix(root).unwrap_or(file).to_string_lossy());
    let names: Vec<String> = files.iter().map(|file| relative(file)).collect();
    let read = |index: usize| {
        let file = &files[index];
        labels::read_bytes(file, File::open(file).map_err(|e| Error::io(file, e))?)
    };
    let mut part = tree::select(root, &names, split, &read)?;
    bad.retain(|bad| format!("{}/", relative(&bad.path)).starts_with(&part.root) || bad.path == root);
    part.bad = bad;
    part.into_discovered(
        "image folder",
        path,
        |index| files[index].clone(),
        |images| {
            let files: Vec<_> = images.iter().map(|&index| files[index].clone()).collect();
            Box::new(move |index| Ok(Box::new(File::open(&files[index])?)))
        },
    )
}

#[derive(Default)]
struct Walk {
    files: Vec<PathBuf>,
    /// Folders that cannot be read.
    bad: Vec<BadFile>,
    /// Visited folders, to stop at cycles of symbolic links.
    visited: BTreeSet<PathBuf>,
}

impl Walk {
    fn visit(&mut self, folder: &Path) {
        let entries = folder.canonicalize().map_err(|e| e.to_string()).and_then(|real| {
            if self.visited.insert(real) { list_visible(folder).map_err(|e| e.to_string()) } else { Ok(Vec::new()) }
        });
        let entries = match entries {
            Ok(entries) => entries,
            Err(reason) => return self.bad.push(BadFile { path: folder.to_owned(), reason }),
        };
        for entry in entries {
            if entry.is_dir() { self.visit(&entry) } else { self.files.push(entry) }
        }
    }
}
