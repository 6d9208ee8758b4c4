//! The MODEL of a command.

use std::path::Path;

use anyhow::bail;
use ddpm::weights::pipeline::{self, ModelFiles};
use ddpm::{Pipeline, weights};

use crate::{Global, inspect};

/// Finds the files of a model, and prints which were chosen among several and what was assumed.
pub fn locate(path: &Path) -> weights::Result<ModelFiles> {
    let files = pipeline::locate(path)?;
    for note in &files.notes {
        eprintln!("note: {note}");
    }
    Ok(files)
}

/// Reads a model.
pub fn load(path: &Path, global: &Global) -> anyhow::Result<Pipeline> {
    let device = global.device()?;
    let files = match locate(path) {
        Err(_) if inspect::classifier(path).is_some() => bail!(
            "{}: is a classifier of `ddpm classifier`, not a model; --features of `ddpm evaluate` takes it",
            path.display()
        ),
        files => files?,
    };
    Ok(Pipeline::from_files(&files, &device)?)
}
