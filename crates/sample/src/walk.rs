//! From noise to images: a solver table's rows applied to a batch on a device.

use std::collections::VecDeque;

use burn::tensor::{Device, Tensor, TensorData};
use diffusion::preconditioning::epsilon_from_sample;
use diffusion::solver_table::Row;
use diffusion::{Clip, LinearMap, NoiseSchedule, SchedulerConfig, SolverTable};
use random::{Random, Stream};
use unet::{Labels, Parameters, Unet};

use crate::Error;
use crate::output::Images;

/// What to sample. Image i of the request is image `first_image + i` of its seed: it is the same whatever the batch size,
/// the number of images, or what was sampled before.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The seed of all noise.
    pub seed: u64,
    /// Number of the first image.
    pub first_image: u64,
    /// x_T for each image `[N,H,W,C]`, from [`initial_noise`] or from a file.
    pub noise: &'a Images,
    /// A class for each image, if the network has classes.
    pub labels: Option<&'a [u32]>,
    /// Images that go through the network at once.
    pub batch_size: usize,
    /// All images have the first one's noise until x at this timestep, and each its own from there on: several decodings
    /// of one x_t (Ho et al. 2020, figure 7).
    pub share_until: Option<f64>,
    /// Guidance towards the labels.
    pub guidance: Option<Guidance>,
}

/// Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598): the prediction is ε̂(none) + scale·(ε̂(class) − ε̂(none)),
/// two evaluations for one. Their w is scale − 1; a learned variance is that of the class.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guidance {
    /// 1 is the class alone, 0 no class.
    pub scale: f64,
    /// The label that stands for no class.
    pub null_label: u32,
    /// From which to which timestep, both included; elsewhere the class alone (Kynkäänniemi et al. 2024, arXiv 2404.07724).
    pub interval: (f64, f64),
}

/// A step of the walk, as the progress function sees it.
pub struct Step<'a> {
    /// Number of the batch's first image within the request.
    pub first: usize,
    /// Images in the batch.
    pub images: usize,
    /// The table's row that was applied.
    pub row: usize,
    /// Rows of the table.
    pub rows: usize,
    x: &'a Tensor<4>,
    sample: &'a Tensor<4>,
}

impl Step<'_> {
    /// The images after the step, x_s.
    pub fn x(&self) -> Images {
        images_of(self.x)
    }

    /// The network's present guess at the final images, x̂0.
    pub fn sample(&self) -> Images {
        images_of(self.sample)
    }
}

/// Standard normal x_T of images `first_image` and after, of `[H,W,C]`.
pub fn initial_noise(seed: u64, first_image: u64, count: usize, [height, width, channels]: [usize; 3]) -> Images {
    let random = Random::new(seed);
    let mut pixels = vec![0.0; count * height * width * channels];
    for (i, image) in pixels.chunks_mut((height * width * channels).max(1)).enumerate() {
        random.normals(Stream::InitialNoise, first_image + i as u64, 0, image);
    }
    Images { n: count, height, width, channels, pixels }
}

/// One image `[1,H,W,C]` noised to x_t, with the noise of each of the images that [`initial_noise`] numbers so: where an
/// image is to be made from another (SDEdit: Meng et al. 2022, arXiv 2108.01073).
///
/// # Panics
/// If t is not a timestep of the chain.
pub fn noised(image: &Images, schedule: &NoiseSchedule, t: usize, seed: u64, first_image: u64, count: usize) -> Images {
    let Images { height, width, channels, .. } = *image;
    let mut images = initial_noise(seed, first_image, count, [height, width, channels]);
    for noise in images.pixels.chunks_mut((height * width * channels).max(1)) {
        let epsilon = noise.to_vec();
        schedule.level(t).q_sample(&image.pixels, &epsilon, noise);
    }
    images
}

/// Walks from noise to images, `[N,H,W,C]` in about [-1, 1] and not clamped. `progress` is called after every row of
/// every batch and ends the walk by returning false.
///
/// # Errors
/// If sizes or labels do not fit the network, the prediction cannot be read at a row's noise level, values stop being
/// finite, or `progress` asked to stop.
pub fn walk(
    unet: &Unet,
    table: &SolverTable,
    scheduler: &SchedulerConfig,
    request: &Request,
    progress: impl FnMut(&Step) -> bool,
) -> Result<Images, Error> {
    let network = network(unet, request)?;
    walk_by(&network, &unet.device(), table, scheduler, request, progress, straight)
}

/// What a walk asks: the output for x `[N,H,W,C]` at a timestep, with a class for each image where there are classes.
pub(crate) type Network<'a> = dyn Fn(Tensor<4>, f64, Option<&[u32]>) -> Tensor<4> + 'a;

/// A network as a walk asks it, if a request's sizes and labels fit it.
pub(crate) fn network<'a>(unet: &'a Unet, request: &Request) -> Result<Box<Network<'a>>, Error> {
    let Images { n, height, width, channels, .. } = *request.noise;
    let config = unet.config();
    config.check_size(height, width)?;
    if channels != config.in_channels {
        let expected = config.in_channels;
        return Err(Error::Request(format!("the noise has {channels} channels, but the network takes {expected}")));
    }
    unet.check_labels(n, request.labels.map(Labels::Classes))?;
    let of = |x: Tensor<4>, timestep: f64, labels: Option<&[u32]>| {
        let timesteps = vec![timestep as f32; x.dims()[0]];
        unet.forward(x, &timesteps, labels.map(Labels::Classes), None)
    };
    let Some(guidance) = request.guidance else {
        return Ok(Box::new(of));
    };
    if request.labels.is_none() {
        return Err(Error::Request("guidance is towards a class, and there are no labels".into()));
    }
    unet.check_labels(1, Some(Labels::Classes(&[guidance.null_label])))?;
    Ok(Box::new(move |x, timestep, labels| {
        let conditional = of(x.clone(), timestep, labels);
        let (from, to) = guidance.interval;
        if guidance.scale == 1.0 || !(from..=to).contains(&timestep) {
            return conditional;
        }
        let none = vec![guidance.null_label; x.dims()[0]];
        let unconditional = of(x, timestep, Some(&none)).narrow(3, 0, channels);
        let outputs = conditional.dims()[3];
        let difference = conditional.clone().narrow(3, 0, channels) - unconditional.clone();
        let guided = unconditional + difference.mul_scalar(guidance.scale);
        if outputs == channels {
            return guided;
        }
        Tensor::cat(vec![guided, conditional.narrow(3, channels, outputs - channels)], 3)
    }))
}

/// [`walk`] with anything that answers as a network, batch by batch along a `way` of its own.
pub(crate) fn walk_by(
    network: &Network,
    device: &Device,
    table: &SolverTable,
    scheduler: &SchedulerConfig,
    request: &Request,
    mut progress: impl FnMut(&Step) -> bool,
    way: impl Fn(&Batch, Tensor<4>, &mut Progress) -> Result<Tensor<4>, Error>,
) -> Result<Images, Error> {
    table.check()?;
    let Images { n, height, width, channels, .. } = *request.noise;
    if request.noise.pixels.len() != n * height * width * channels {
        return Err(Error::Request("the noise has not as many values as its shape says".into()));
    }
    if request.batch_size == 0 {
        return Err(Error::Request("a batch size of 0; expected at least 1".into()));
    }
    let per_image = height * width * channels;
    let shared_rows = request.share_until.map_or(0, |t| {
        // Row i leads to the timestep of row i + 1.
        table.rows.iter().skip(1).take_while(|row| row.node.timestep >= t).count()
    });
    let (schedule, prediction) = (scheduler.noise_schedule()?, scheduler.prediction_type);
    let maps = table
        .rows
        .iter()
        .map(|row| prediction.maps(row.node, prediction.previous_level(&schedule, row.node.timestep)?));
    let maps: Vec<_> = maps.collect::<Result<_, _>>()?;
    let mut pixels = Vec::with_capacity(n * per_image);
    for first in (0..n).step_by(request.batch_size) {
        let count = request.batch_size.min(n - first);
        let batch = Batch {
            network,
            table,
            maps: maps.clone(),
            labels: request.labels.map(|labels| &labels[first..][..count]),
            random: Random::new(request.seed),
            first_image: request.first_image + first as u64,
            shared: (shared_rows as u64, request.first_image),
            dims: [count, height, width, channels],
            device,
        };
        let noise = match request.share_until {
            Some(_) => request.noise.pixels[..per_image].repeat(count),
            None => request.noise.pixels[first * per_image..][..count * per_image].to_vec(),
        };
        let rows = table.rows.len();
        let x = way(&batch, batch.tensor(noise), &mut |row, x, sample| {
            progress(&Step { first, images: count, row, rows, x, sample })
        })?;
        if !x.clone().sum().into_scalar::<f32>().is_finite() {
            return Err(Error::NotFinite { timestep: table.rows[rows - 1].node.timestep });
        }
        pixels.extend(images_of(&x).pixels);
    }
    Ok(Images { n, height, width, channels, pixels })
}

/// Row after row.
fn straight(batch: &Batch, mut x: Tensor<4>, progress: &mut Progress) -> Result<Tensor<4>, Error> {
    let mut history = History::default();
    for row in 0..batch.table.rows.len() {
        x = batch.step(row, row as u64, x, &mut history)?;
        if !progress(row, &x, &history.samples[0]) {
            return Err(Error::Stopped);
        }
    }
    Ok(x)
}

/// Told the row, the images after it and x̂0; false ends the walk.
pub(crate) type Progress<'a> = dyn FnMut(usize, &Tensor<4>, &Tensor<4>) -> bool + 'a;

/// Predictions of this and earlier rows, the newest first.
#[derive(Default)]
pub(crate) struct History {
    pub samples: VecDeque<Tensor<4>>,
    epsilons: VecDeque<Tensor<4>>,
}

/// What one batch needs on its way.
pub(crate) struct Batch<'a> {
    network: &'a Network<'a>,
    pub table: &'a SolverTable,
    maps: Vec<(LinearMap, LinearMap)>,
    labels: Option<&'a [u32]>,
    random: Random,
    first_image: u64,
    /// So many rows of noise are those of one image.
    shared: (u64, u64),
    pub dims: [usize; 4],
    device: &'a Device,
}

impl Batch<'_> {
    /// x after a row; `noise` is the number of its noise.
    pub(crate) fn step(
        &self,
        index: usize,
        noise: u64,
        x: Tensor<4>,
        history: &mut History,
    ) -> Result<Tensor<4>, Error> {
        let (table, row, (to_sample, to_epsilon)) = (self.table, &self.table.rows[index], self.maps[index]);
        let output = (self.network)(x.clone(), row.node.timestep, self.labels);
        let channels = self.dims[3];
        let (output, v) = if output.dims()[3] == 2 * channels {
            (output.clone().narrow(3, 0, channels), Some(output.narrow(3, channels, channels)))
        } else {
            (output, None)
        };
        let mut sample = linear(to_sample, &x, &output);
        let mut epsilon = linear(to_epsilon, &x, &output);
        if let Some(clip) = table.clip_sample {
            sample = self.clipped(clip, sample);
            if table.epsilon_from_clipped {
                epsilon = linear(epsilon_from_sample(row.node.level), &x, &sample);
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
            next = next + self.noise(noise, row, v)?;
        }
        Ok(next)
    }

    /// x̂0 clipped, image by image.
    fn clipped(&self, clip: Clip, sample: Tensor<4>) -> Tensor<4> {
        if let Clip::Range(bound) = clip {
            return sample.clamp(-bound, bound);
        }
        let [_, height, width, channels] = self.dims;
        let mut values: Vec<f64> = sample.to_data().iter::<f64>().collect();
        values.chunks_mut((height * width * channels).max(1)).for_each(|image| clip.apply(image));
        self.tensor(values.into_iter().map(|x| x as f32).collect())
    }

    /// Standard normals of each image of the batch.
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

    /// The row's noise. Where the variance is learned, v in [-1, 1] mixes its two log-variances.
    fn noise(&self, step: u64, row: &Row, v: Option<Tensor<4>>) -> Result<Tensor<4>, Error> {
        let z = self.normals(Stream::SamplerNoise, step);
        let Some((min, max)) = row.learned_log_variance else {
            return Ok(z.mul_scalar(row.noise));
        };
        let Some(v) = v else {
            let message = "the sampler's variance is learned, but the network has no second half of output channels";
            return Err(Error::Request(message.into()));
        };
        let log_variance = v.mul_scalar(0.5 * (max - min)).add_scalar(0.5 * (max + min));
        Ok(z * log_variance.mul_scalar(0.5).exp())
    }
}

fn linear(map: LinearMap, x: &Tensor<4>, output: &Tensor<4>) -> Tensor<4> {
    match (map.x, map.output) {
        (0.0, 1.0) => output.clone(),
        (0.0, scale) => output.clone().mul_scalar(scale),
        (scale_x, scale) => x.clone().mul_scalar(scale_x) + output.clone().mul_scalar(scale),
    }
}

fn images_of(x: &Tensor<4>) -> Images {
    let [n, height, width, channels] = x.dims();
    Images { n, height, width, channels, pixels: x.to_data().iter::<f32>().collect() }
}
