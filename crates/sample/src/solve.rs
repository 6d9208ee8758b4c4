//! The sampling loop: applies the rows of a solver table to batches of images.

use std::collections::VecDeque;

use burn::tensor::{Device, Tensor, TensorData};
use diffusion::preconditioning::epsilon_from_sample;
use diffusion::solver_table::Row;
use diffusion::{Clip, SolverTable};
use model::{Condition, Denoiser, Images};
use random::{Random, Stream};

use crate::Error;

/// A request for samples. Image i of the request is image `first_image + i` of its seed. It does not depend on the
/// batch size, the number of images, or earlier requests.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The seed of all noise.
    pub seed: u64,
    /// The number of the first image.
    pub first_image: u64,
    /// x_T for each image `[N,H,W,C]`, from [`initial_noise`](crate::initial_noise) or a file, and a class for each
    /// image if the network has classes.
    pub noise: &'a Images,
    /// Images per batch.
    pub batch_size: usize,
    /// Noise shared by all images.
    pub shared: Option<SharedNoise>,
}

/// Noise shared by all images of a request until x at a timestep; from there on each image has its own. With the same
/// x_T for all images, they are samples from one x_t (Ho et al. 2020, figure 7).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SharedNoise {
    /// The timestep.
    pub until: f64,
    /// The number of the image that provides the noise.
    pub image: u64,
}

/// A step of sampling, passed to the progress function.
pub struct SamplerStep<'a> {
    /// The number of the batch's first image within the request.
    pub first: usize,
    /// Images in the batch.
    pub images: usize,
    /// The row of the table that was applied.
    pub row: usize,
    /// Number of rows of the table.
    pub rows: usize,
    pub(crate) x: &'a Tensor<4>,
    pub(crate) sample: &'a Tensor<4>,
}

impl SamplerStep<'_> {
    /// Returns the images after the step, x_s.
    pub fn x(&self) -> Images {
        Images::from_tensor(self.x)
    }

    /// Returns the current prediction of the final images, x̂0.
    pub fn sample(&self) -> Images {
        Images::from_tensor(self.sample)
    }
}

/// Samples images `[N,H,W,C]` with a solver table, from the noise of the request. Values are approximately in [-1, 1]
/// and not clamped. `progress` is called after each row of each batch; it returns `false` to cancel.
///
/// # Errors
/// If sizes or labels do not match the denoiser, x_0 cannot be predicted at the noise level of a row, values become NaN
/// or infinite, or `progress` returned `false`.
pub fn sample(
    denoiser: &dyn Denoiser,
    table: &SolverTable,
    request: &Request,
    progress: impl FnMut(&SamplerStep) -> bool,
) -> Result<Images, Error> {
    sample_by(denoiser, table, request, progress, sequential)
}

/// Computes [`sample`] with a custom strategy for each batch.
pub(crate) fn sample_by(
    denoiser: &dyn Denoiser,
    table: &SolverTable,
    request: &Request,
    mut progress: impl FnMut(&SamplerStep) -> bool,
    strategy: impl Fn(&Batch, Tensor<4>, &mut Progress) -> Result<Tensor<4>, Error>,
) -> Result<Images, Error> {
    let noise = request.noise;
    check(denoiser, table, noise)?;
    if request.batch_size == 0 {
        return Err(Error::Request("the batch size is 0; expected at least 1".into()));
    }
    // Row i ends at the timestep of row i + 1.
    let shared_rows = request.shared.map_or(0, |shared| {
        table.rows.iter().skip(1).take_while(|row| row.node.timestep >= shared.until).count() as u64
    });
    let rows = table.rows.len();
    let device = denoiser.device();
    let mut pixels = Vec::with_capacity(noise.pixels.len());
    for first in (0..noise.n).step_by(request.batch_size) {
        let count = request.batch_size.min(noise.n - first);
        let start = noise.slice(first, count);
        let batch = Batch {
            denoiser,
            table,
            condition: Condition::classes(start.labels.as_deref()),
            random: Random::new(request.seed),
            first_image: request.first_image + first as u64,
            shared: (shared_rows, request.shared.map_or(0, |shared| shared.image)),
            dims: start.shape(),
            device: &device,
        };
        let mut x = start.tensor(&device);
        if table.initial_scale != 1.0 {
            x = x.mul_scalar(table.initial_scale);
        }
        let x = strategy(&batch, x, &mut |row, x, sample| {
            progress(&SamplerStep { first, images: count, row, rows, x, sample })
        })?;
        if !x.clone().sum().into_scalar::<f32>().is_finite() {
            return Err(Error::NotFinite { timestep: table.rows[rows - 1].node.timestep });
        }
        pixels.extend(Images::from_tensor(&x).pixels);
    }
    Ok(Images { pixels, ..noise.clone() })
}

/// Checks denoiser, table and noise before the first evaluation.
pub(crate) fn check(denoiser: &dyn Denoiser, table: &SolverTable, noise: &Images) -> Result<(), Error> {
    table.check()?;
    if noise.pixels.len() != noise.shape().iter().product::<usize>() {
        let (found, shape) = (noise.pixels.len(), noise.shape());
        return Err(Error::Request(format!("the noise has {found} values, but its shape is {shape:?}")));
    }
    denoiser.check(noise.shape(), Condition::classes(noise.labels.as_deref()))?;
    for row in &table.rows {
        denoiser.check_node(row.node)?;
        if row.learned_log_variance.is_some() && !denoiser.learns_variance() {
            let message = "the sampler's variance is learned, but the network has no output channels for it; use fixed_small or fixed_large";
            return Err(Error::Request(message.into()));
        }
    }
    Ok(())
}

/// Applies the rows in order.
fn sequential(batch: &Batch, mut x: Tensor<4>, progress: &mut Progress) -> Result<Tensor<4>, Error> {
    let mut history = History::default();
    for row in 0..batch.table.rows.len() {
        x = batch.step(row, row as u64, x, &mut history)?;
        if !progress(row, &x, &history.samples[0]) {
            return Err(Error::Stopped);
        }
    }
    Ok(x)
}

/// A function that is called with the row, the images after it and x̂0; it returns `false` to cancel.
pub(crate) type Progress<'a> = dyn FnMut(usize, &Tensor<4>, &Tensor<4>) -> bool + 'a;

/// Predictions of this and earlier rows, newest first.
#[derive(Default)]
pub(crate) struct History {
    pub samples: VecDeque<Tensor<4>>,
    epsilons: VecDeque<Tensor<4>>,
}

/// A batch of images during sampling.
pub(crate) struct Batch<'a> {
    denoiser: &'a dyn Denoiser,
    pub table: &'a SolverTable,
    condition: Condition<'a>,
    random: Random,
    first_image: u64,
    /// The number of first rows that share the noise of one image, and that image.
    shared: (u64, u64),
    pub dims: [usize; 4],
    device: &'a Device,
}

impl Batch<'_> {
    /// Applies a row to x; `noise` is the number of the row's noise.
    pub(crate) fn step(
        &self,
        index: usize,
        noise: u64,
        x: Tensor<4>,
        history: &mut History,
    ) -> Result<Tensor<4>, Error> {
        let (table, row) = (self.table, &self.table.rows[index]);
        let condition = Condition { prediction: history.samples.front(), ..self.condition };
        let denoised = self.denoiser.denoise(x.clone(), &[row.node], condition)?;
        let (mut sample, mut epsilon) = (denoised.sample(), denoised.epsilon());
        if let Some(clip) = table.clip_sample {
            sample = self.clipped(clip, sample);
            if table.epsilon_from_clipped {
                let map = epsilon_from_sample(row.node.level);
                epsilon = x.clone().mul_scalar(map.x) + sample.clone().mul_scalar(map.output);
            }
        }
        let History { samples, epsilons } = history;
        samples.push_front(sample);
        epsilons.push_front(epsilon);
        samples.truncate(table.history());
        epsilons.truncate(table.history());

        let mut next = x.mul_scalar(row.x);
        let terms = row.sample.iter().zip(&*samples).chain(row.epsilon.iter().zip(&*epsilons));
        for (&coefficient, past) in terms {
            if coefficient != 0.0 {
                next = next + past.clone().mul_scalar(coefficient);
            }
        }
        if row.is_noisy() {
            next = next + self.noise(noise, row, denoised.variance());
        }
        Ok(next)
    }

    /// Clips x̂0, separately for each image.
    fn clipped(&self, clip: Clip, sample: Tensor<4>) -> Tensor<4> {
        if let Clip::Range(bound) = clip {
            return sample.clamp(-bound, bound);
        }
        let [_, height, width, channels] = self.dims;
        let mut values: Vec<f64> = sample.to_data().iter::<f64>().collect();
        values.chunks_mut((height * width * channels).max(1)).for_each(|image| clip.apply(image));
        self.tensor(values.into_iter().map(|x| x as f32).collect())
    }

    /// Returns standard normal noise for each image of the batch.
    pub(crate) fn normals(&self, stream: Stream, step: u64) -> Tensor<4> {
        let [_, height, width, channels] = self.dims;
        let mut z = vec![0.0; self.dims.iter().product()];
        for (i, image) in z.chunks_mut((height * width * channels).max(1)).enumerate() {
            let (rows, one) = self.shared;
            let number = if step < rows { one } else { self.first_image + i as u64 };
            self.random.normals(stream, number, step, image);
        }
        self.tensor(z)
    }

    pub(crate) fn tensor(&self, values: Vec<f32>) -> Tensor<4> {
        Tensor::from_data(TensorData::new(values, self.dims), self.device)
    }

    /// Returns the noise of a row. If the variance is learned, v in [-1, 1] interpolates between two log-variances.
    fn noise(&self, step: u64, row: &Row, v: Option<&Tensor<4>>) -> Tensor<4> {
        let z = self.normals(Stream::SamplerNoise, step);
        let (Some((min, max)), Some(v)) = (row.learned_log_variance, v) else {
            return z.mul_scalar(row.noise);
        };
        let log_variance = v.clone().mul_scalar(0.5 * (max - min)).add_scalar(0.5 * (max + min));
        z * log_variance.mul_scalar(0.5).exp()
    }
}
