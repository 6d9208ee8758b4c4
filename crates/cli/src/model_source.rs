//! The MODEL of a command.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;

use anyhow::bail;
use ddpm::weights::pipeline::{self, ModelFiles};
use ddpm::{Pipeline, weights};

use crate::{Global, inspect};

/// Finds the files of a model, and prints, once, which were chosen among several and what was assumed.
pub fn locate(path: &Path) -> weights::Result<ModelFiles> {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let files = pipeline::locate(path)?;
    for note in &files.notes {
        if SAID.lock().is_ok_and(|mut said| said.insert(note.clone())) {
            eprintln!("note: {note}");
        }
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
