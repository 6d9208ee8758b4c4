//! Folders of image files, and single image files. The memory is in proportion to the names of the files.

use super::files::{extension, list_entries, lower_file_name, relative_name};
use super::tree::{self, IMAGE_EXTENSIONS};
use super::{labels, parts};
use crate::encoded::ImageBytes;
use crate::error::{Error, Result};
use crate::generated::{MARKED_EXTENSIONS, is_generated, is_run};
use crate::memory::{Meter, entry_bytes};
use crate::options::{ReadOptions, Split};
use crate::report::BadFile;
use crate::source::{Discovered, Format};
use ::files::Unchanged;
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub(crate) const FORMAT: Format = Format {
    expected: "a folder of PNG, JPEG, WebP, GIF, BMP, TIFF or PNM files (subfolders are classes, unless there is a dataset.json, \
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
    let Walk { mut files, mut bad, runs, .. } = walk;
    let mut meter = Meter::default();
    let names_bytes = files.iter().map(|file| 2 * entry_bytes(file.as_os_str().len())).sum();
    meter.add(names_bytes).map_err(|e| Error::memory(path, e))?;
    let relative = |file: &Path| relative_name(root, file);
    let (generated, skipped) = skip_own_output(&mut files, &runs, &relative);
    let names: Vec<String> = files.iter().map(|file| relative(file)).collect();
    let read = |index: usize| {
        let file = &files[index];
        let (source, length) = ::files::open_regular(file).map_err(|e| Error::io(file, e))?;
        labels::read_bytes(file, source, length)
    };
    let mut part = tree::select(root, &names, split, &options.label_from, &read)?;
    bad.retain(|bad| !part.divided || format!("{}/", relative(&bad.path)).starts_with(&part.root) || bad.path == root);
    part.bad = bad;
    part.generated = part.images.iter().filter(|&&index| generated.contains(&files[index])).count();
    part.warnings.extend(skipped);
    part.charge = meter.into_charge();
    part.into_discovered(
        "image folder",
        path,
        |index| files[index].clone(),
        |images| {
            let files: Vec<_> = images.iter().map(|&index| (files[index].clone(), Unchanged::default())).collect();
            Box::new(move |index| {
                let (path, unchanged) = &files[index];
                let (file, length) = unchanged.open(path)?;
                Ok(ImageBytes { source: Box::new(file), length })
            })
        },
    )
}

/// Removes the images that this program wrote, unless there are no others, in which case they are returned. Also returns
/// a warning if it skipped any, or training runs.
fn skip_own_output(
    files: &mut Vec<PathBuf>,
    runs: &[PathBuf],
    relative: &impl Fn(&Path) -> String,
) -> (BTreeSet<PathBuf>, Vec<String>) {
    let list = |paths: &mut dyn Iterator<Item = &PathBuf>| {
        let names: Vec<String> = paths.map(|path| relative(path)).collect();
        parts::list(names.iter().map(String::as_str))
    };
    let mut warnings = Vec::new();
    if !runs.is_empty() {
        warnings.push(format!("skipped training runs in the folder of the images: {}", list(&mut runs.iter())));
    }
    let can_be_marked = |file: &&PathBuf| MARKED_EXTENSIONS.contains(&&*extension(&lower_file_name(file)));
    let generated: BTreeSet<PathBuf> =
        files.par_iter().filter(can_be_marked).filter(|file| is_generated(file)).cloned().collect();
    let images = files.iter().filter(|file| tree::is_image(&lower_file_name(file))).count();
    if generated.is_empty() || generated.len() == images {
        return (generated, warnings);
    }
    files.retain(|file| !generated.contains(file));
    warnings.push(format!(
        "skipped {} of {images} images because this program wrote them: {}; to read them too, give a folder with no other \
         images",
        generated.len(),
        list(&mut generated.iter())
    ));
    (BTreeSet::new(), warnings)
}

#[derive(Default)]
struct Walk {
    files: Vec<PathBuf>,
    /// Folders that cannot be read.
    bad: Vec<BadFile>,
    /// Folders of training runs, which are not entered.
    runs: Vec<PathBuf>,
    /// Visited folders, to stop at cycles of symbolic links.
    visited: BTreeSet<PathBuf>,
}

impl Walk {
    fn visit(&mut self, folder: &Path) {
        let entries = folder.canonicalize().map_err(|e| e.to_string()).and_then(|real| {
            if self.visited.insert(real) { list_entries(folder).map_err(|e| e.to_string()) } else { Ok(Vec::new()) }
        });
        let entries = match entries {
            Ok(entries) => entries,
            Err(reason) => return self.bad.push(BadFile { path: folder.to_owned(), reason }),
        };
        for (entry, special) in entries {
            if let Some(kind) = special {
                if tree::is_image(&lower_file_name(&entry)) {
                    self.bad.push(BadFile { path: entry, reason: format!("is {kind}, not a file") });
                }
            } else if !entry.is_dir() {
                self.files.push(entry);
            } else if is_run(&entry) {
                self.runs.push(entry);
            } else {
                self.visit(&entry);
            }
        }
    }
}
