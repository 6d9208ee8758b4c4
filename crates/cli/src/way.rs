//! What the commands share that start from images of the user's.

use std::path::Path;
use std::time::Duration;

use clap::Args;
use ddpm::data;
use ddpm::train::Config;
use ddpm::{Images, Pipeline, output};

use crate::sample::word;
use crate::terminal::Progress;
use crate::usage;

/// Flags of a way through the chain.
#[derive(Args)]
pub struct Way {
    /// Class of the images, where the network has classes
    #[arg(long, value_name = "CLASS")]
    pub label: Option<u32>,
    /// Seed of the noise
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
    /// Images that go through the network at once; never changes an image
    #[arg(long, default_value_t = 16, value_name = "B")]
    pub batch_size: usize,
    /// How images of another size are brought to the network's: crop or pad; by default as the run that made it did
    #[arg(long, value_name = "FIT")]
    pub fit: Option<String>,
}

impl Way {
    pub fn check(&self) -> anyhow::Result<()> {
        if self.batch_size == 0 {
            return Err(usage("--batch-size must be at least 1"));
        }
        Ok(())
    }

    /// The class of each of n images.
    pub fn labels(&self, n: usize) -> Option<Vec<u32>> {
        self.label.map(|label| vec![label; n])
    }
}

/// How images are to be read for a network: of its size, and fitted to it as --fit says, or as the run that trained it did.
pub fn data_options(pipeline: &Pipeline, fit: Option<&str>) -> anyhow::Result<data::ReadOptions> {
    let fit = match word::<data::Fit>("--fit", fit)? {
        Some(fit) => fit,
        None => Config::of_checkpoint(&pipeline.root).map(|config| config.data.fit).unwrap_or_default(),
    };
    Ok(data::ReadOptions { fit, ..pipeline.data_options() })
}

/// Image files as the network wants them, all in one.
pub fn read(paths: &[impl AsRef<Path>], pipeline: &Pipeline, fit: Option<&str>) -> anyhow::Result<Images> {
    let options = data_options(pipeline, fit)?;
    let mut all: Option<Images> = None;
    for path in paths {
        let set = data::open(path.as_ref(), &options)?;
        let [height, width, channels] = set.shape();
        let image = Images { n: 1, height, width, channels, pixels: output::from_u8(&set.read([0])?) };
        match &mut all {
            None => all = Some(image),
            Some(all) if all.shape()[1..] == image.shape()[1..] => {
                all.n += 1;
                all.pixels.extend(image.pixels);
            }
            Some(all) => anyhow::bail!(
                "{}: {height}x{width}x{channels}, but the image before it is {}x{}x{}",
                path.as_ref().display(),
                all.height,
                all.width,
                all.channels
            ),
        }
    }
    all.ok_or_else(|| usage("no image is given"))
}

/// Shows how many steps of how many are done.
pub fn show(progress: &mut Progress, done: usize, of: usize) {
    progress.set_total(of as u64);
    progress.set(done as u64, String::new);
    progress.line_every(Duration::from_secs(10), || format!("{done}/{of} steps"));
}

/// A PNG's text chunks.
pub fn info<const N: usize>(pairs: [(&str, String); N]) -> [(String, String); N] {
    pairs.map(|(key, value)| (key.to_owned(), value))
}
