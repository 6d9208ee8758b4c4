//! Flags of the commands that start from images of the user's.

use clap::Args;
use ddpm::Pipeline;
use ddpm::data::Fit;

use crate::error::usage;
use crate::values;

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
    /// How images of another size are fitted to the network's. Defaults to the fit that the model was trained with
    #[arg(long, value_parser = values::fit(), value_name = "FIT")]
    pub fit: Option<Fit>,
}

impl ImageArgs {
    /// Returns the class of the images.
    pub fn label(&self, pipeline: &Pipeline) -> anyhow::Result<Option<u32>> {
        self.label.as_deref().map(|class| pipeline.preprocessing.label(class)).transpose().map_err(usage)
    }

    /// Returns the class of each of n images.
    pub fn labels(&self, pipeline: &Pipeline, n: usize) -> anyhow::Result<Option<Vec<u32>>> {
        Ok(self.label(pipeline)?.map(|label| vec![label; n]))
    }
}

/// Returns text to be written into files.
pub fn info<const N: usize>(pairs: [(&str, String); N]) -> Vec<(String, String)> {
    pairs.map(|(key, value)| (key.to_owned(), value)).into()
}
