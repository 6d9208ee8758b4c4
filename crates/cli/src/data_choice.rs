//! The choice of the images that a command reads, and the lines that describe them.

use std::path::Path;

use anyhow::{anyhow, bail};
use ddpm::Pipeline;
use ddpm::data::{Conversion, Dataset, ReadOptions, Reading, Split};
use ddpm::sample::Provenance;
use ddpm::train::ImagesDigest;

use crate::Global;
use crate::terminal::{say, warn};

/// The end of an error about images that are not known.
const WAY_OUT: &str = "give them with --data PATH, or --data builtin for the built-in images";

/// Returns the images of --data or, without it, those that the model was trained on.
pub fn of_model(given: Option<&Dataset>, pipeline: &Pipeline) -> anyhow::Result<Dataset> {
    match (given, pipeline.training_data()?) {
        (Some(given), _) => Ok(given.clone()),
        (None, Some(data)) => data.find().map_err(|error| anyhow!("{error} with --data")),
        (None, None) => {
            let root = pipeline.root.display();
            bail!("{root}: does not say which images it was trained on; {WAY_OUT}")
        }
    }
}

/// Returns the images of --data or, without it, those that the model of the samples was trained on.
pub fn of_samples(given: Option<&Dataset>, provenance: Option<&Provenance>, samples: &Path) -> anyhow::Result<Dataset> {
    let shown = samples.display();
    match (
        given,
        provenance.map(Provenance::find_data).transpose().map_err(|error| anyhow!("{shown}: {error}; {WAY_OUT}")),
    ) {
        (Some(given), _) => Ok(given.clone()),
        (None, found) => match found?.flatten() {
            Some(found) => Ok(found),
            None => bail!("{shown}: does not say which images its model was trained on; {WAY_OUT}"),
        },
    }
}

/// Prints which images are read and how they are fitted.
pub fn announce(role: &str, reading: &Reading, global: &Global) {
    say(format!("{role}: {reading}"), global);
}

/// Warns about images that are grey where the model's are in color, or the reverse.
pub fn warn_of_colors(reading: &Reading) {
    for (conversion, count) in reading.conversions() {
        let set = &reading.set;
        match conversion {
            Conversion::ToGrey => warn(format!("{set}: {count} images are in color, but are compared in grey")),
            Conversion::ToColor => warn(format!("{set}: {count} images are grey, but are compared as color images")),
            _ => {}
        }
    }
}

/// Warns if a model's own images are others than it was trained on, by their number and what its checkpoint says.
pub fn warn_of_other_images(pipeline: &Pipeline, dataset: &Dataset) -> anyhow::Result<()> {
    let Some(known) = pipeline.training_data()?.and_then(|data| data.images) else { return Ok(()) };
    let options = ReadOptions { split: Split::Train, ..pipeline.read_options(None) };
    // Reading the headers is enough, unless there are images that cannot be decoded.
    let mut set = dataset.open(&ReadOptions { memory_limit_bytes: 0, ..options.clone() })?;
    if set.len() != known {
        set = dataset.open(&options)?;
    }
    warn_of_count(set.name(), set.len(), known);
    // The classes may come from elsewhere than the folders, and are not needed here.
    let is_read_alike = |digest: &ImagesDigest| digest.count == set.len() && digest.classes == set.class_names();
    if let Some(before) = ImagesDigest::of_checkpoint(&pipeline.root).filter(is_read_alike)
        && let Some(difference) = before.difference(&ImagesDigest::new(&set)?)
    {
        warn(format!("{}: the images are not those that the model was trained on: {difference}", set.name()));
    }
    Ok(())
}

/// Warns if a set has another number of training images than a model was trained on.
pub fn warn_of_count(set: &str, found: usize, known: usize) {
    if found != known {
        warn(format!("{set}: has {found} training images, but the model was trained on {known}"));
    }
}
