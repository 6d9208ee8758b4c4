//! Needs of a run: parameters, memory and time, before it is started.

use std::time::Instant;

use burn::tensor::Device;
use data::{ImageSet, Split};
use files::{MemoryLimit, memory_limit};
use model::{Images, NetworkConfig};
use serde::Serialize;

use crate::Error;
use crate::config::TrainingConfig;
use crate::data_loader::Batch;
use crate::memory::{MemoryEstimate, image_bytes};
use crate::trainer::Trainer;

/// Whole steps are measured, twice, if they take less than this many seconds.
const LONGEST_STEP: f64 = 4.0;
/// A step of one image is repeated if it takes less than this many seconds.
const SHORT_STEP: f64 = 1.0;

/// The needs of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// The images, or why they cannot be read; then their number of classes and their memory are not known.
    pub data: String,
    /// Parameters of the network.
    pub parameters: usize,
    /// The memory of the run, if the CPU trains.
    pub memory: Option<MemoryEstimate>,
    /// The bytes that this process may use.
    pub memory_limit: Option<u64>,
    /// The source of that limit.
    pub memory_limit_source: Option<String>,
    /// Seconds of a step; `None` if a single image does not fit into memory.
    pub step_seconds: Option<f64>,
    /// Whether a whole step was measured. Otherwise it is the time of a step of one image, times the images.
    pub measured: bool,
}

impl Plan {
    /// Checks that the run fits into memory. Returns a warning if it only might.
    ///
    /// # Errors
    /// As [`MemoryEstimate::check`].
    pub fn check_memory(&self) -> Result<Option<String>, Error> {
        match (&self.memory, self.memory_limit) {
            (Some(memory), Some(bytes)) => {
                let source = self.memory_limit_source.clone().unwrap_or_default();
                memory.check(&MemoryLimit { bytes, source })
            }
            _ => Ok(None),
        }
    }
}

impl TrainingConfig {
    /// Estimates what a run would take, and measures a step of it on the device, with its images or, if they cannot be
    /// read, with the built-in ones. Nothing is written.
    ///
    /// # Errors
    /// If the configuration does not describe a network or a loss.
    pub fn plan(&self, device: &Device) -> Result<Plan, Error> {
        self.validate()?;
        let (set, data, bytes) = match self.open(Split::Train) {
            Ok(set) => {
                let (data, bytes) = (set.describe(), image_bytes(&set));
                (set, data, bytes)
            }
            // The built-in images are no points.
            Err(error) if self.model.is_of_points() => return Err(error),
            Err(error) => {
                let mut builtin = self.clone();
                builtin.data.path = None;
                (builtin.open(Split::Train)?, error.to_string(), 0.0)
            }
        };
        let network = self.network(&set)?;
        let is_cpu = unet::ops::is_cpu(device);
        let estimate = |config: &Self| is_cpu.then(|| config.memory_estimate(&network, bytes)).flatten();
        let limit = memory_limit();
        let fits = |config: &Self| match (estimate(config), &limit) {
            (Some(memory), Some(limit)) => memory.total() < limit.bytes as f64,
            _ => true,
        };
        let mut one = self.clone();
        (one.train.batch_size, one.train.gradient_accumulation) = (1, 1);
        let (step_seconds, measured) = match fits(&one) {
            true => self.measure(&network, &set, device, fits(self))?,
            false => (None, false),
        };
        Ok(Plan {
            data,
            parameters: network.parameter_count(),
            memory: estimate(self),
            memory_limit: limit.as_ref().map(|limit| limit.bytes),
            memory_limit_source: limit.map(|limit| limit.source),
            step_seconds,
            measured,
        })
    }

    /// Returns the seconds of a step, and whether a whole step was measured: if `whole` allows it and it is short.
    fn measure(
        &self,
        network: &NetworkConfig,
        set: &ImageSet,
        device: &Device,
        whole: bool,
    ) -> Result<(Option<f64>, bool), Error> {
        let network = network.build(self.train.seed, &device.clone().autodiff())?;
        let mut trainer = Trainer::new(self, network)?;
        let mut seconds = |batch_size: usize, count: usize| {
            trainer.set_batch_size(batch_size);
            let indices: Vec<usize> = (0..count).map(|i| i % set.len()).collect();
            let mut images = Images::read(set, &indices)?;
            images.labels = images.labels.filter(|_| self.data.labels);
            let start = Instant::now();
            trainer.step(&Batch::whole(images))?;
            Ok::<_, Error>(start.elapsed().as_secs_f64())
        };
        let images = self.train.batch_size * self.train.gradient_accumulation;
        // The first step of a size also allocates memory.
        let mut one = seconds(1, 1)?;
        if one < SHORT_STEP {
            one = seconds(1, 1)?;
        }
        let predicted = one * images as f64;
        if predicted > LONGEST_STEP || !whole {
            return Ok((Some(predicted), false));
        }
        seconds(self.train.batch_size, images)?;
        Ok((Some(seconds(self.train.batch_size, images)?), true))
    }
}
