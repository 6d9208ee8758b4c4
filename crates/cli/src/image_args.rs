//! Flags of the commands that start from images of the user's.

use clap::Args;
use ddpm::data::Fit;

use crate::values;

/// Flags of the commands that start from images of the user's.
#[derive(Args)]
pub struct ImageArgs {
    /// Class of the images, if the network has classes
    #[arg(long, value_name = "CLASS")]
    pub label: Option<u32>,
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
    /// Returns the class of each of n images.
    pub fn labels(&self, n: usize) -> Option<Vec<u32>> {
        self.label.map(|label| vec![label; n])
    }
}

/// Returns text to be written into files.
pub fn info<const N: usize>(pairs: [(&str, String); N]) -> Vec<(String, String)> {
    pairs.map(|(key, value)| (key.to_owned(), value)).into()
}
