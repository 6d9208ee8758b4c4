//! The variational bound of Ho et al. (2020, eq. 5), measured term by term.

use diffusion::{Cdf, Clip, Node, NoiseSchedule, ReverseStep, Values, Variance, VariationalBound};
use model::denoiser::DenoisedImage;
use model::{Condition, Denoiser, Images};
use mpi::Division;
use random::{Random, Stream};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::likelihood::{BoundTerm, Likelihood, mean_and_error};

/// The chain whose bound is measured, and the noise that measures it.
#[derive(Clone, Debug)]
pub struct Chain<'a> {
    /// The noise schedule that the network was trained for.
    pub schedule: &'a NoiseSchedule,
    /// The variance of reverse steps.
    pub variance: Variance,
    /// Log-variances that replace `variance`, in the order of `timesteps`, the decoder's last: one for all channels, or
    /// one for each.
    pub log_variances: Option<&'a [Vec<f64>]>,
    /// The timesteps of the chain, descending.
    pub timesteps: &'a [usize],
    /// The clip of x̂0.
    pub clip_sample: Option<Clip>,
    /// The kind of values of the data, which decides the decoder's term.
    pub values: Values,
    /// Noise draws for each image and timestep.
    pub draws: usize,
    /// Noisy images that go through the network at once. It does not change any number.
    pub batch_size: usize,
    /// The seed of the noise. The noise of image i and draw d at t depends on (seed, i, d, t) alone.
    pub seed: u64,
    /// The processes that divide the batches. It does not change any number either.
    pub division: Division,
}

impl Chain<'_> {
    /// Returns a text that says what is measured.
    fn key(&self) -> String {
        let Self { variance, log_variances, timesteps, clip_sample, values, draws, batch_size, seed, .. } = self;
        let values = if *values == Values::Bytes { String::new() } else { format!(" {values:?}") };
        format!("nll {variance} {log_variances:?} {timesteps:?} {clip_sample:?} {draws} {batch_size} {seed}{values}")
    }
}

/// Returns `steps` evenly spaced timesteps from T−1 to 0, rounded down; all of them if there are fewer.
pub fn even_timesteps(num_train_timesteps: usize, steps: usize) -> Vec<usize> {
    let steps = steps.min(num_train_timesteps);
    (0..steps).rev().map(|i| i * (num_train_timesteps - 1) / (steps - 1).max(1)).collect()
}

/// Measures the bound of images in [-1, 1], or of points. `progress(done, total)` is called after each batch of noisy images; return
/// `false` to cancel.
///
/// # Errors
/// If sizes or labels do not fit the denoiser, x_0 cannot be predicted at a timestep, a timestep is not in the schedule, a
/// prediction is not finite, or `progress` returned `false`.
pub fn likelihood(
    denoiser: &dyn Denoiser,
    images: &Images,
    chain: &Chain,
    mut progress: impl FnMut(usize, usize) -> bool,
) -> Result<Likelihood, Error> {
    check_images(denoiser, images)?;
    check_chain(denoiser, images, chain)?;
    let sub_chain = chain.schedule.respace(chain.timesteps)?;
    for &t in chain.timesteps {
        denoiser.check_node(node(chain, t))?;
    }
    let measurement = Measurement { images, chain, sub_chain: &sub_chain };
    let mut sums = Sums::new(images, chain);
    let (total, size) = (images.n * measurement.items_per_image(), chain.batch_size);
    let batches = total.div_ceil(size);
    let decoder = decoder_log_variances().count();
    let items = |batch: usize| batch * size..(batch * size + size).min(total);
    let finished = chain.division.run(
        || chain.key(),
        batches,
        |batch| {
            let measured = measurement.batch(denoiser, &items(batch).collect::<Vec<_>>())?;
            let (before, total) = chain.division.progress(batch, batches, (size, total));
            Ok::<_, Error>(progress(before + measured.len(), total).then_some(measured))
        },
        |batch, measured: Vec<Measured>| {
            let fits = |one: &Measured| one.mse.len() == images.channels && [0, decoder].contains(&one.decoder.len());
            if measured.len() != items(batch).len() || !measured.iter().all(fits) {
                return Err(Error::Request(format!("the results of batch {batch} are not those of this evaluation")));
            }
            for (item, measured) in items(batch).zip(measured) {
                sums.add(measurement.place(item), &measured)?;
            }
            Ok(true)
        },
    )?;
    if !finished {
        return Err(Error::Stopped);
    }
    let bound = VariationalBound::new(&sub_chain, Cdf::Tanh);
    let size = images.pixels.len() / images.n;
    let priors = images.pixels.par_chunks(size).map(|x0| bound.prior(x0)).collect::<Result<Vec<_>, _>>()?;
    Ok(sums.likelihood(&priors))
}

/// Checks images against a denoiser before any work is done.
pub(crate) fn check_images(denoiser: &dyn Denoiser, images: &Images) -> Result<(), Error> {
    let Images { n, height, width, channels, .. } = *images;
    let (found, expected) = (images.pixels.len(), n * height * width * channels);
    if expected == 0 {
        return Err(Error::Request(format!("there are no images to evaluate: their shape is {:?}", images.shape())));
    }
    if found != expected {
        let message = format!("the images have {found} values, but {n} of {height}x{width}x{channels} have {expected}");
        return Err(Error::Request(message));
    }
    Ok(denoiser.check(images.shape(), Condition::classes(images.labels.as_deref()))?)
}

fn check_chain(denoiser: &dyn Denoiser, images: &Images, chain: &Chain) -> Result<(), Error> {
    if chain.draws == 0 || chain.batch_size == 0 {
        return Err(Error::Request("draws and the batch size must be at least 1".into()));
    }
    match chain.log_variances {
        None if chain.variance.is_learned() && !denoiser.learns_variance() => {
            let variance = chain.variance;
            Err(Error::Request(format!("the variance {variance} is learned, but the network has no variance channels")))
        }
        None => Ok(()),
        Some(given) => {
            let fits = |each: &Vec<f64>| [1, images.channels].contains(&each.len());
            if given.len() == chain.timesteps.len() && given.iter().all(fits) {
                return Ok(());
            }
            let message = "there must be as many log-variances as timesteps, one for all channels or one for each";
            Err(Error::Request(message.into()))
        }
    }
}

fn node(chain: &Chain, t: usize) -> Node {
    Node { timestep: t as f64, level: chain.schedule.level(t) }
}

/// Returns the bits of a point of D dimensions; none for images.
pub(crate) fn bits_per_point(values: Values, dims: usize, bits_per_dim: f64) -> Option<f64> {
    (values != Values::Bytes).then_some(dims as f64 * bits_per_dim)
}

/// Returns the log-variances at which the decoder's term is measured: variances of 10⁻⁷ to 10⁻¹, dense enough to
/// interpolate to 10⁻⁴ bits.
fn decoder_log_variances() -> impl Iterator<Item = f64> {
    (-161..=-23).map(|i| f64::from(i) / 10.0)
}

/// The inputs of every batch. An item is a noisy image, with the number (image·steps + row)·draws + draw.
struct Measurement<'a> {
    images: &'a Images,
    chain: &'a Chain<'a>,
    sub_chain: &'a NoiseSchedule,
}

/// The position of an item: its image, and the row of its timestep.
#[derive(Clone, Copy)]
struct Place {
    image: usize,
    row: usize,
}

/// The result for one noisy image.
#[derive(Serialize, Deserialize)]
struct Measured {
    bits: f64,
    /// By channel.
    mse: Vec<f64>,
    epsilon_mse: f64,
    /// The decoder's term by log-variance, at the last timestep.
    decoder: Vec<f64>,
}

impl Measurement<'_> {
    fn items_per_image(&self) -> usize {
        self.chain.timesteps.len() * self.chain.draws
    }

    fn place(&self, item: usize) -> Place {
        let per_image = self.items_per_image();
        Place { image: item / per_image, row: item % per_image / self.chain.draws }
    }

    fn x0(&self, image: usize) -> &[f32] {
        let size = self.images.pixels.len() / self.images.n;
        &self.images.pixels[image * size..][..size]
    }

    fn batch(&self, denoiser: &dyn Denoiser, items: &[usize]) -> Result<Vec<Measured>, Error> {
        let Self { images, chain, .. } = *self;
        let size = images.pixels.len() / images.n;
        let random = Random::new(chain.seed);
        let (mut noisy, mut noise) = (vec![0.0f32; items.len() * size], vec![0.0f32; items.len() * size]);
        let pairs = noisy.par_chunks_mut(size).zip(noise.par_chunks_mut(size)).zip(items);
        pairs.for_each(|((x_t, epsilon), &item)| {
            let Place { image, row } = self.place(item);
            let (t, draw) = (chain.timesteps[row], item % chain.draws);
            random.normals(Stream::Evaluate, (image * chain.draws + draw) as u64, t as u64, epsilon);
            chain.schedule.level(t).q_sample(self.x0(image), epsilon, x_t);
        });
        let nodes: Vec<Node> = items.iter().map(|&item| node(chain, chain.timesteps[self.place(item).row])).collect();
        let label = |labels: &Vec<u32>| items.iter().map(|&item| labels[self.place(item).image]).collect();
        let x_t = Images { n: items.len(), pixels: noisy, labels: images.labels.as_ref().map(label), ..*images };
        let condition = Condition::classes(x_t.labels.as_deref());
        let denoised = denoiser.denoise(x_t.tensor(&denoiser.device()), &nodes, condition)?.images();
        let measured = denoised.into_par_iter().zip(items).enumerate().map(|(i, (denoised, &item))| {
            let part = i * size..(i + 1) * size;
            self.item(self.place(item), denoised, &x_t.pixels[part.clone()], &noise[part])
        });
        measured.collect()
    }

    fn item(&self, place: Place, denoised: DenoisedImage, x_t: &[f32], epsilon: &[f32]) -> Result<Measured, Error> {
        let (chain, x0, channels) = (self.chain, self.x0(place.image), self.images.channels);
        // The schedule of training made x_t, the sub-chain makes the step.
        let index = chain.timesteps.len() - 1 - place.row;
        let posterior = self.sub_chain.posterior(index);
        let mut samples = denoised.sample;
        if let Some(clip) = chain.clip_sample {
            clip.apply(&mut samples);
        }
        let (mut mse, mut epsilon_mse, mut mean) = (vec![0.0; channels], 0.0, Vec::with_capacity(samples.len()));
        for (i, &sample) in samples.iter().enumerate() {
            epsilon_mse += (denoised.epsilon[i] - f64::from(epsilon[i])).powi(2);
            mse[i % channels] += (sample - f64::from(x0[i])).powi(2);
            mean.push(posterior.coef_x0 * sample + posterior.coef_xt * f64::from(x_t[i]));
        }
        let log_variance = self.log_variance(place.row, denoised.variance, samples.len());
        let widened = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        let (x0, x_t) = (widened(x0), widened(x_t));
        let step = ReverseStep { mean: &mean, log_variance: &log_variance };
        let bits = VariationalBound::new(self.sub_chain, Cdf::Tanh).of(chain.values).term(index, &x0, &x_t, step)?;
        let decoder = if index == 0 { decoder_terms(&x0, &samples, chain.values) } else { Vec::new() };
        let pixels = (samples.len() / channels) as f64;
        mse.iter_mut().for_each(|mse| *mse /= pixels);
        Ok(Measured { bits, mse, epsilon_mse: epsilon_mse / samples.len() as f64, decoder })
    }

    /// Returns the log-variance of a step: one number for all values of an image, or one for each. `v` holds the
    /// network's variance channels.
    fn log_variance(&self, row: usize, v: Option<Vec<f64>>, size: usize) -> Vec<f64> {
        let chain = self.chain;
        let range = chain.variance.log_variance(self.sub_chain, chain.timesteps.len() - 1 - row);
        match (chain.log_variances.map(|given| given[row].as_slice()), v) {
            (Some(&[one]), _) => vec![one],
            (Some(by_channel), _) => by_channel.repeat(size / by_channel.len()),
            (None, Some(v)) if chain.variance == Variance::Learned => v,
            (None, Some(v)) if chain.variance.is_learned() => v.into_iter().map(|v| range.interpolate(v)).collect(),
            (None, _) => vec![range.max],
        }
    }
}

/// Returns the decoder's −log₂ p/D of one image for each of [`decoder_log_variances`].
fn decoder_terms(x0: &[f64], samples: &[f64], values: Values) -> Vec<f64> {
    let term = |log_variance: f64| {
        let nats = x0.iter().zip(samples).map(|(&x0, &x)| values.decoder_nll(x0, x, log_variance, Cdf::Tanh));
        nats.sum::<f64>() / (x0.len() as f64 * std::f64::consts::LN_2)
    };
    decoder_log_variances().map(term).collect()
}

/// Sums over all noisy images.
struct Sums<'a> {
    chain: &'a Chain<'a>,
    points: Vec<Measured>,
    /// The bound of each image, without the prior.
    each: Vec<f64>,
    decoder: Vec<f64>,
}

impl<'a> Sums<'a> {
    fn new(images: &Images, chain: &'a Chain) -> Self {
        let zero = || Measured { bits: 0.0, mse: vec![0.0; images.channels], epsilon_mse: 0.0, decoder: Vec::new() };
        Self {
            chain,
            points: chain.timesteps.iter().map(|_| zero()).collect(),
            each: vec![0.0; images.n],
            decoder: vec![0.0; decoder_log_variances().count()],
        }
    }

    fn add(&mut self, Place { image, row }: Place, measured: &Measured) -> Result<(), Error> {
        if !(measured.mse.iter().all(|mse| mse.is_finite()) && measured.epsilon_mse.is_finite()) {
            return Err(Error::NotFinite { image, timestep: self.chain.timesteps[row] });
        }
        self.each[image] += measured.bits / self.chain.draws as f64;
        let point = &mut self.points[row];
        point.bits += measured.bits;
        point.mse.iter_mut().zip(&measured.mse).for_each(|(sum, mse)| *sum += mse);
        point.epsilon_mse += measured.epsilon_mse;
        self.decoder.iter_mut().zip(&measured.decoder).for_each(|(sum, bits)| *sum += bits);
        Ok(())
    }

    fn likelihood(self, priors: &[f64]) -> Likelihood {
        let Self { chain, points, mut each, decoder } = self;
        each.iter_mut().zip(priors).for_each(|(each, prior)| *each += prior);
        let (prior, _) = mean_and_error(priors);
        let (bits_per_dim, standard_error) = mean_and_error(&each);
        let (images, steps) = (each.len(), points.len());
        let count = (images * chain.draws) as f64;
        let channels: Vec<Vec<f64>> =
            points.iter().map(|point| point.mse.iter().map(|mse| mse / count).collect()).collect();
        let term = |(point, &timestep): (&Measured, &usize)| BoundTerm {
            timestep,
            bits: point.bits / count,
            mse: point.mse.iter().sum::<f64>() / (point.mse.len() as f64 * count),
            epsilon_mse: point.epsilon_mse / count,
        };
        let points: Vec<BoundTerm> = points.iter().zip(chain.timesteps).map(term).collect();
        let distortion = points[steps - 1].bits;
        Likelihood {
            bits_per_dim,
            bits_per_point: bits_per_point(chain.values, channels[0].len(), bits_per_dim),
            standard_error,
            prior,
            rate: bits_per_dim - distortion,
            distortion,
            images,
            draws: chain.draws,
            evaluations: steps,
            points,
            channels: if channels[0].len() > 1 { channels } else { Vec::new() },
            each,
            decoder: decoder_log_variances().zip(decoder.into_iter().map(|bits| bits / count)).collect(),
        }
    }
}
