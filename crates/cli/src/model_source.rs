//! The MODEL of a command.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;

use anyhow::anyhow;
use ddpm::weights::pipeline::{self, ModelFiles};
use ddpm::{Pipeline, model, weights};

use crate::{Global, inspect};

/// Finds the files of a model and reads them; prints, once, which were chosen among several and what was assumed.
pub fn with_files<T, E: From<weights::Error>>(
    path: &Path,
    mut read: impl FnMut(&ModelFiles) -> Result<T, E>,
) -> Result<T, E> {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    pipeline::with_files(path, |files| {
        for note in &files.notes {
            if SAID.lock().is_ok_and(|mut said| said.insert(note.clone())) {
                eprintln!("note: {note}");
            }
        }
        read(files)
    })
}

/// Reads a model.
pub fn load(path: &Path, global: &Global) -> anyhow::Result<Pipeline> {
    let device = global.device()?;
    with_files(path, |files| Pipeline::from_files(files, &device)).map_err(|error| match error {
        model::Error::Weights(_) if inspect::classifier(path).is_some() => anyhow!(
            "{}: is a classifier of `ddpm classifier`, not a model; --features of `ddpm evaluate` takes it",
            path.display()
        ),
        error => error.into(),
    })
}
