//! Estimates the memory of a run before it begins, and refuses what cannot fit.

use burn::tensor::Device;
use data::ImageSet;
use files::MemoryLimit;
use model::NetworkConfig;
use model::memory::{PROGRAM, TOLERANCE};
use mpi::tree;
use serde::Serialize;

use crate::Error;
use crate::config::TrainingConfig;

/// Copies of the parameters: themselves, gradient, two moments and average, and two more while a checkpoint is written.
const COPIES: f64 = 7.0;
// Working memory of the gradients and of a recomputed stage, in units of `Activations::working`. They are
// fitted to measured peaks (docs/performance.md): freed blocks of one size do not serve for those of another.
const GRADIENTS: f64 = 2.1;
const RECOMPUTED: f64 = 3.7;

/// The memory that a run is expected to need, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct MemoryEstimate {
    /// Parameters, gradient, moments and average, and copies of them while a checkpoint is written.
    pub parameters: f64,
    /// Activations of a pass through the network: in training, or in sampling if those are more.
    pub activations: f64,
    /// The training images in memory.
    pub images: f64,
    /// The program itself.
    pub program: f64,
}

impl MemoryEstimate {
    /// Returns the sum.
    pub fn total(&self) -> f64 {
        self.parameters + self.activations + self.images + self.program
    }

    /// Compares the estimate with a limit. Returns a warning if it is above the limit, but perhaps too high.
    ///
    /// # Errors
    /// If the run cannot fit; the error names the estimate, the limit and the keys that help.
    pub fn check(&self, limit: &MemoryLimit) -> Result<Option<String>, Error> {
        let (total, most) = (self.total(), limit.bytes as f64);
        let gb = |bytes: f64| format!("{:.2} GB", bytes / 1e9);
        let message = format!(
            "the run needs about {} of memory ({} for parameters and optimizer, {} for activations, {} for images), but {} \
             is {}; lower `train.batch_size` (with a higher `train.gradient_accumulation`, a step sees as many images), \
             set `train.gradient_checkpointing` = true, or make the network or `data.resolution` smaller",
            gb(total),
            gb(self.parameters),
            gb(self.activations),
            gb(self.images),
            limit.source,
            gb(most)
        );
        match total {
            total if total / (1.0 + TOLERANCE) > most => Err(Error::Run(message)),
            total if total > most => Ok(Some(message)),
            _ => Ok(None),
        }
    }
}

impl TrainingConfig {
    /// Estimates the memory of a run on the CPU whose images take `images` bytes. Returns `None` if the activations of the network
    /// are not known.
    pub fn memory_estimate(&self, network: &NetworkConfig, images: f64) -> Option<MemoryEstimate> {
        let (height, width) = self.data.resolution.height_width();
        let count = network.activations(height, width)?;
        // The sums of the left siblings on the way down the tree of passes.
        let copies =
            COPIES + f64::from(self.train.gradient_accumulation.max(1).ilog2()) + self.train.ema_lengths.len() as f64;
        let train = self.train.batch_size as f64
            * if self.train.gradient_checkpointing {
                count.outputs + count.largest + RECOMPUTED * count.working
            } else {
                count.stored + GRADIENTS * count.working
            };
        let grids = if self.train.sample_every > 0 { self.train.samples } else { 0 };
        let sampling = count.inference(grids.min(self.sample.batch_size) as f64);
        let floats = |count: f64| 4.0 * count;
        Some(MemoryEstimate {
            parameters: floats(copies * network.parameter_count() as f64),
            activations: floats(train.max(sampling)),
            images,
            program: PROGRAM,
        })
    }
}

/// Returns the bytes of a set that is in memory.
pub(crate) fn image_bytes(set: &ImageSet) -> f64 {
    let per_image: usize = set.shape().into_iter().product();
    let bytes = if set.points().is_some() { size_of::<f32>() } else { 1 };
    if set.is_streamed() { 0.0 } else { set.len() as f64 * (bytes * per_image) as f64 }
}

/// Copies of the gradient that are sent to other processes and received from them.
const SENT: f64 = 3.0;

/// Estimates the memory of each process of a run, and compares it with the limit if it is the CPU that trains.
pub(crate) fn check(
    config: &TrainingConfig,
    network: &NetworkConfig,
    set: &ImageSet,
    (device, processes): (&Device, usize),
) -> Result<(Option<MemoryEstimate>, Option<String>), Error> {
    if !unet::ops::is_cpu(device) {
        return Ok((None, None));
    }
    let passes = config.train.gradient_accumulation;
    let subtrees = (0..processes).map(|rank| tree::subtrees(passes, &tree::share(passes, rank, processes)).len());
    let copies = SENT + subtrees.max().unwrap_or(1) as f64 - 1.0;
    let sent = if processes > 1 { 4.0 * copies * network.parameter_count() as f64 } else { 0.0 };
    let estimate = config.memory_estimate(network, image_bytes(set));
    let estimate = estimate.map(|estimate| MemoryEstimate { parameters: estimate.parameters + sent, ..estimate });
    let warning = match (&estimate, files::memory_limit()) {
        (Some(estimate), Some(limit)) => estimate.check(&limit)?,
        // The activations are not known, but the parameters alone may not fit.
        (None, Some(limit)) => {
            let parameters = 4.0 * COPIES * network.parameter_count() as f64 + sent;
            let least = MemoryEstimate { parameters, activations: 0.0, images: image_bytes(set), program: PROGRAM };
            least.check(&limit)?
        }
        (_, None) => None,
    };
    Ok((estimate, warning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_far_above_the_limit_is_refused_and_what_is_near_is_a_warning() {
        let estimate = MemoryEstimate { parameters: 1e9, activations: 2e9, images: 0.5e9, program: 0.0 };
        let check = |bytes| estimate.check(&MemoryLimit { bytes, source: "the limit of `ulimit -v`".into() });
        let error = check(2_000_000_000).unwrap_err().to_string();
        for word in ["3.50 GB", "2.00 GB", "`ulimit -v`", "train.batch_size", "train.gradient_accumulation"] {
            assert!(error.contains(word), "{error}");
        }
        assert!(check(3_000_000_000).unwrap().unwrap().contains("3.00 GB"));
        assert_eq!(check(4_000_000_000).unwrap(), None);
    }

    #[test]
    fn the_estimate_grows_with_what_the_keys_say() {
        let total = |sets: &[&str]| {
            let mut config = TrainingConfig::preset("cifar10").unwrap();
            config.data.path = None;
            sets.iter().for_each(|set| config.set(set).unwrap());
            let network = config.network(&config.open(data::Split::Test).unwrap()).unwrap();
            config.memory_estimate(&network, 0.0).unwrap().total()
        };
        let base = total(&[]);
        assert!(total(&["train.batch_size=64"]) < 0.6 * base);
        assert!(total(&["train.gradient_checkpointing=true"]) < 0.8 * base);
        assert!(total(&["train.gradient_accumulation=2"]) > base);
        assert!(total(&["train.gradient_accumulation=8"]) > total(&["train.gradient_accumulation=4"]));
        assert!(total(&["data.resolution=64"]) > 3.0 * base);
        let grid = ["train.batch_size=1", "train.samples=256", "sample.batch_size=256"];
        assert!(total(&grid) > total(&["train.batch_size=1", "train.samples=0"]));
    }
}
