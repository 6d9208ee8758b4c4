//! The cache of the Hugging Face hub: `hub/models--OWNER--NAME/`, with the names of branches in `refs/` and the files of
//! each commit in `snapshots/COMMIT/`, as links to `blobs/`.

use super::no_model;
use crate::shown::shown;
use crate::{Error, Result, file};
use std::fs;
use std::path::{Path, PathBuf};

/// The beginning of the name of a model's folder.
const MODEL: &str = "models--";

/// Returns the folder of a snapshot and a note that names it, if `path` is a model's folder in the cache, the folder
/// `hub` with one model, or the folder that `hub` is in.
///
/// # Errors
/// If there are several models or snapshots to choose from, or the one that `refs/main` names is missing.
pub(super) fn snapshot(path: &Path) -> Result<Option<(PathBuf, String)>> {
    let is_cached = is_model(path) || path.join("refs").is_dir() || path.join("blobs").is_dir();
    if is_cached && path.join("snapshots").is_dir() {
        return of_model(path).map(Some);
    }
    for hub in [path.to_owned(), path.join("hub")] {
        let models: Vec<PathBuf> = folders(&hub).into_iter().filter(|folder| is_model(folder)).collect();
        match &models[..] {
            [] => {}
            [model] => return of_model(model).map(Some),
            _ => return Err(no_model(path, format!("a cache of several models; name one of them: {}", list(&models)))),
        }
    }
    Ok(None)
}

/// Returns the snapshot of a model that `refs/main` names, or else the only one.
fn of_model(model: &Path) -> Result<(PathBuf, String)> {
    let snapshots = model.join("snapshots");
    let all = folders(&snapshots);
    let main = model.join("refs/main");
    let snapshot = if main.symlink_metadata().is_ok() {
        let text = files::read_text(&main).map_err(Error::read(&main))?;
        let commit = text.trim();
        let snapshot = snapshots.join(commit);
        if !file::is_name(commit) || !snapshot.is_dir() {
            let commit = shown(commit);
            let reason = format!(
                "refs/main names the snapshot `{commit}`, which is not in {}; download the model again, or name one \
                 of the snapshots there: {}",
                snapshots.display(),
                list(&all)
            );
            return Err(no_model(model, reason));
        }
        snapshot
    } else {
        match &all[..] {
            [one] => one.clone(),
            [] => return Err(no_model(model, "a cached model without snapshots; download it again")),
            _ => return Err(no_model(model, format!("it has several snapshots; name one of them: {}", list(&all)))),
        }
    };
    let note = format!("using the snapshot {}", snapshot.display());
    Ok((snapshot, note))
}

fn is_model(folder: &Path) -> bool {
    folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with(MODEL))
}

/// Returns the folders in a folder, sorted; none if it cannot be read.
fn folders(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut folders: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

/// Lists paths, up to ten of them.
fn list(paths: &[PathBuf]) -> String {
    let shown: Vec<String> = paths.iter().take(10).map(|path| path.display().to_string()).collect();
    match paths.len() {
        0 => "none".to_owned(),
        count if count > 10 => format!("{} and {} more", shown.join(", "), count - 10),
        _ => shown.join(", "),
    }
}
