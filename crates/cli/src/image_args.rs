//! Flags of the commands that start from images of the user's.

use std::path::Path;

use clap::Args;
use ddpm::data::{self, Fit, Part, Reading};
use ddpm::sample::portable_path;
use ddpm::{Images, Pipeline};

use crate::data_choice::{announce, warn_of_colors};
use crate::error::usage;
use crate::{Global, values};

/// Flags of the commands that start from images of the user's.
#[derive(Args)]
pub struct ImageArgs {
    /// Class of the images, by its name or label, if the network has classes
    #[arg(long, value_name = "CLASS")]
    pub label: Option<String>,
    /// Seed of the noise
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
    /// Images that go through the network at once; the result does not depend on it
    #[arg(long, default_value_t = 16, value_parser = values::positive, value_name = "B")]
    pub batch_size: usize,
    /// Fit of images of another size than the network's. Defaults to the fit that the model was trained with
    #[arg(long, value_parser = values::fit(), value_name = "FIT")]
    pub fit: Option<Fit>,
}

impl ImageArgs {
    /// Returns the class of the images.
    ///
    /// # Errors
    /// If it is unknown, or the network has classes and none is given.
    pub fn label(&self, pipeline: &Pipeline) -> anyhow::Result<Option<u32>> {
        if self.label.is_none() {
            check_without_class(pipeline, "--label")?;
        }
        self.label.as_deref().map(|class| pipeline.preprocessing.label(class)).transpose().map_err(usage)
    }

    /// Returns the class of each of n images.
    pub fn labels(&self, pipeline: &Pipeline, n: usize) -> anyhow::Result<Option<Vec<u32>>> {
        Ok(self.label(pipeline)?.map(|label| vec![label; n]))
    }
}

/// Checks that the network has no classes, for images that are given without theirs.
///
/// # Errors
/// If it has classes; the error names the flag.
pub fn check_without_class(pipeline: &Pipeline, flag: &str) -> anyhow::Result<()> {
    let Some(classes) = pipeline.classes() else { return Ok(()) };
    let count = classes.len();
    Err(usage(format!("the network has {count} classes; name that of the images with {flag} CLASS")))
}

/// Reads images as the model takes them, and says how they are fitted.
pub fn read(
    pipeline: &Pipeline,
    paths: &[impl AsRef<Path>],
    fit: Option<Fit>,
    global: &Global,
) -> anyhow::Result<(Images, Vec<Reading>)> {
    let images = pipeline.read_images(paths, fit)?;
    let mut readings = Vec::new();
    for path in paths {
        let options = pipeline.image_options(path.as_ref(), fit)?;
        let reading = Reading::new(&data::open(path.as_ref(), &options)?, &options).part(Part::All).first(1);
        announce("image", &reading, global);
        warn_of_colors(&reading);
        readings.push(reading);
    }
    Ok((images, readings))
}

/// Returns the name of a model or an image for files.
pub fn name_of(path: &Path) -> String {
    portable_path(path)
}

/// Returns text to be written into files.
pub fn info<const N: usize>(pairs: [(&str, String); N]) -> Vec<(String, String)> {
    pairs.map(|(key, value)| (key.to_owned(), value)).into()
}
