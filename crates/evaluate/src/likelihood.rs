//! The variational bound of images, term by term.

use burn::tensor::{Device, Tensor, TensorData};
use diffusion::bound::discretized_gaussian_nll;
use diffusion::variance::optimal_rate;
use diffusion::{Cdf, Clip, MseProfile, Node, NoiseSchedule, Prediction, ReverseStep, Variance, VariationalBound};
use random::{Random, Stream};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use unet::{Labels, Parameters, Unet};

use crate::Error;

/// Images to measure, N,H,W,C in [-1, 1], with a class each where the network has classes.
#[derive(Clone, Copy, Debug)]
pub struct Images<'a> {
    /// The pixels.
    pub pixels: &'a [f32],
    /// H, W, C.
    pub shape: [usize; 3],
    /// A class for each image.
    pub labels: Option<&'a [u32]>,
}

impl Images<'_> {
    /// (N, numbers of an image), if they fit the network.
    pub(crate) fn check(&self, unet: &Unet) -> Result<(usize, usize), Error> {
        let [height, width, channels] = self.shape;
        let size = height * width * channels;
        let n = self.pixels.len() / size.max(1);
        if n == 0 || self.pixels.len() != n * size {
            let found = self.pixels.len();
            return Err(Error::Request(format!("{found} numbers are no images of {height}x{width}x{channels}")));
        }
        unet.config().check_size(height, width)?;
        if channels != unet.config().in_channels {
            let expected = unet.config().in_channels;
            let message = format!("the images have {channels} channels, but the network takes {expected}");
            return Err(Error::Request(message));
        }
        unet.check_labels(n, self.labels.map(Labels::Classes))?;
        Ok((n, size))
    }
}

/// The mean, and its standard error.
pub(crate) fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    (mean, (variance / n).sqrt())
}

/// The chain whose bound is measured, and how.
#[derive(Clone, Debug)]
pub struct Chain<'a> {
    /// The chain that the network was trained for.
    pub schedule: &'a NoiseSchedule,
    /// What the network predicts.
    pub prediction: Prediction,
    /// The steps' variance.
    pub variance: Variance,
    /// Log-variances of the steps instead, in the order of `timesteps`, the decoder's last: one each, or one for each
    /// channel.
    pub log_variances: Option<&'a [Vec<f64>]>,
    /// Timesteps that the chain visits, descending.
    pub timesteps: &'a [usize],
    /// How x̂0 is clipped.
    pub clip_sample: Option<Clip>,
    /// Noise draws of each image and timestep.
    pub draws: usize,
    /// Noisy images that go through the network at once. Never changes a number.
    pub batch_size: usize,
    /// Seed of the noise: that of image i, draw d at t depends on these four alone.
    pub seed: u64,
}

/// One timestep of the bound, averaged over images and draws.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// t.
    pub timestep: usize,
    /// The term: KL of the reverse step from here, or at the last point the decoder's −log₂ p, in bits/dim.
    pub bits: f64,
    /// E‖x_0 − x̂0‖²/D, of images in [-1, 1].
    pub mse: f64,
    /// E‖ε − ε̂‖²/D of the network's own answer, not clipped.
    pub epsilon_mse: f64,
}

/// The bound of a set of images, in bits/dim.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Likelihood {
    /// The bound on −log₂ p(x_0)/D: the mean over the images.
    pub bits_per_dim: f64,
    /// Its standard error, from the spread over images.
    pub standard_error: f64,
    /// KL(q(x_T | x_0) ‖ N(0, I)).
    pub prior: f64,
    /// The terms above the last: what it takes to tell x at the last timestep, the prior included.
    pub rate: f64,
    /// The decoder's term.
    pub distortion: f64,
    /// Images.
    pub images: usize,
    /// Noise draws of each image and timestep.
    pub draws: usize,
    /// Evaluations of the network for an image's bound.
    pub evaluations: usize,
    /// The terms, from noise to data.
    pub points: Vec<Point>,
    /// The `mse` of the points by channel; empty for images of one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<Vec<f64>>,
    /// The bound of each image.
    pub each: Vec<f64>,
    /// The last term by the decoder's log-variance, ascending.
    pub decoder: Vec<(f64, f64)>,
}

impl Likelihood {
    /// What [`MseProfile`] needs, if all timesteps were measured.
    pub fn denoising(&self) -> MseProfile {
        MseProfile {
            mse: self.points.iter().rev().map(|point| point.mse).collect(),
            channels: self.channels.iter().rev().cloned().collect(),
            prior: self.prior,
            decoder: self.decoder.clone(),
            images: self.images,
        }
    }

    /// The bound that the same chain has under its best variances: what the squared error alone decides, and so the fairest
    /// figure to tell better weights from worse.
    ///
    /// # Errors
    /// If the points are not timesteps of the chain.
    pub fn best_bits(&self, schedule: &NoiseSchedule) -> Result<f64, Error> {
        let timesteps: Vec<usize> = self.points.iter().map(|point| point.timestep).collect();
        schedule.respace(&timesteps)?;
        let alpha = |t: usize| schedule.alpha_cumprod(t);
        let steps = self.points.windows(2);
        let rates = steps.map(|pair| optimal_rate(alpha(pair[0].timestep), alpha(pair[1].timestep), pair[0].mse));
        let decoder = self.decoder.iter().map(|&(_, bits)| bits).fold(f64::INFINITY, f64::min);
        Ok(self.prior + rates.sum::<f64>() / std::f64::consts::LN_2 + decoder)
    }

    /// The rate–distortion curve of progressive decoding (Ho et al. 2020, section 4.3 and figure 5): for each point, t, the
    /// bits/dim that were paid to tell x_t, and the root mean squared error of x̂0 in pixel values of 0 to 255.
    pub fn rate_distortion(&self) -> Vec<(usize, f64, f64)> {
        let mut rate = self.prior;
        let mut curve = Vec::with_capacity(self.points.len());
        for point in &self.points {
            curve.push((point.timestep, rate, 127.5 * point.mse.sqrt()));
            rate += point.bits;
        }
        curve
    }
}

/// Log-variances at which the decoder is measured: 10^−7 to 10^−1, fine enough to interpolate to 10⁻⁴ bits.
fn decoder_log_variances() -> Vec<f64> {
    (-161..=-23).map(|i| f64::from(i) / 10.0).collect()
}

/// What one noisy image gave.
struct Measured {
    bits: f64,
    /// By channel.
    mse: Vec<f64>,
    epsilon_mse: f64,
    decoder: Vec<f64>,
}

/// Measures the bound of images. `progress` is told how many of how many noisy images are done after each batch, and ends
/// the evaluation by returning false.
///
/// # Errors
/// If sizes or labels do not fit the network, a timestep is not the chain's, the prediction is not finite, or `progress`
/// asked to stop.
pub fn likelihood(
    unet: &Unet,
    images: Images,
    chain: &Chain,
    mut progress: impl FnMut(usize, usize) -> bool,
) -> Result<Likelihood, Error> {
    let (n, size) = images.check(unet)?;
    if chain.draws == 0 || chain.batch_size == 0 {
        return Err(Error::Request("draws and the batch size must be at least 1".into()));
    }
    let config = unet.config();
    if chain.log_variances.is_none() && chain.variance.is_learned() && config.out_channels != 2 * config.in_channels {
        let message =
            format!("the variance {} is learned, but the network answers with the mean alone", chain.variance);
        return Err(Error::Request(message));
    }
    let device = unet.device();
    let sub_chain = chain.schedule.respace(chain.timesteps)?;
    let channels = images.shape[2];
    let fits = |given: &[Vec<f64>]| {
        given.len() == chain.timesteps.len() && given.iter().all(|each| [1, channels].contains(&each.len()))
    };
    if !chain.log_variances.is_none_or(fits) {
        let message = "there must be as many log-variances as timesteps, one each or one for each channel";
        return Err(Error::Request(message.into()));
    }
    let measure = Measure { unet, images, chain, sub_chain: &sub_chain, device: &device };

    let steps = chain.timesteps.len();
    let candidates = decoder_log_variances();
    let per_image = steps * chain.draws;
    let total = n * per_image;
    let mut points = vec![(0.0, vec![0.0; channels], 0.0); steps];
    let mut each = vec![0.0; n];
    let mut decoder = vec![0.0; candidates.len()];
    for first in (0..total).step_by(chain.batch_size) {
        let batch: Vec<usize> = (first..(first + chain.batch_size).min(total)).collect();
        for (&item, measured) in batch.iter().zip(measure.batch(&batch, &candidates)?) {
            let (image, row) = (item / per_image, item % per_image / chain.draws);
            each[image] += measured.bits / chain.draws as f64;
            let point = &mut points[row];
            point.0 += measured.bits;
            point.1.iter_mut().zip(&measured.mse).for_each(|(sum, mse)| *sum += mse);
            point.2 += measured.epsilon_mse;
            decoder.iter_mut().zip(&measured.decoder).for_each(|(sum, bits)| *sum += bits);
        }
        if !progress(first + batch.len(), total) {
            return Err(Error::Stopped);
        }
    }

    let bound = VariationalBound::new(&sub_chain, Cdf::Tanh);
    let priors = images.pixels.par_chunks(size).map(|x0| bound.prior(x0)).collect::<Result<Vec<_>, _>>()?;
    each.iter_mut().zip(&priors).for_each(|(each, prior)| *each += prior);
    let (prior, _) = mean_and_error(&priors);
    let (bits_per_dim, standard_error) = mean_and_error(&each);
    let measurements = (n * chain.draws) as f64;
    let by_channel: Vec<Vec<f64>> =
        points.iter().map(|(_, mse, _)| mse.iter().map(|mse| mse / measurements).collect()).collect();
    let points: Vec<Point> = points
        .into_iter()
        .zip(chain.timesteps)
        .map(|((bits, mse, epsilon_mse), &timestep)| Point {
            timestep,
            bits: bits / measurements,
            mse: mse.iter().sum::<f64>() / (channels as f64 * measurements),
            epsilon_mse: epsilon_mse / measurements,
        })
        .collect();
    let distortion = points[steps - 1].bits;
    Ok(Likelihood {
        bits_per_dim,
        standard_error,
        prior,
        rate: bits_per_dim - distortion,
        distortion,
        images: n,
        draws: chain.draws,
        evaluations: steps,
        points,
        channels: if channels > 1 { by_channel } else { Vec::new() },
        each,
        decoder: candidates.into_iter().zip(decoder.into_iter().map(|bits| bits / measurements)).collect(),
    })
}

/// What every batch needs.
struct Measure<'a> {
    unet: &'a Unet,
    images: Images<'a>,
    chain: &'a Chain<'a>,
    sub_chain: &'a NoiseSchedule,
    device: &'a Device,
}

impl Measure<'_> {
    /// Item number (image·steps + row)·draws + draw.
    fn batch(&self, items: &[usize], candidates: &[f64]) -> Result<Vec<Measured>, Error> {
        let chain = self.chain;
        let [height, width, channels] = self.images.shape;
        let size = height * width * channels;
        let per_image = chain.timesteps.len() * chain.draws;
        let random = Random::new(chain.seed);
        let (mut noisy, mut noise) = (vec![0.0f32; items.len() * size], vec![0.0f32; items.len() * size]);
        let pairs = noisy.par_chunks_mut(size).zip(noise.par_chunks_mut(size)).zip(items);
        pairs.for_each(|((x_t, epsilon), item)| {
            let (image, rest) = (item / per_image, item % per_image);
            let (t, draw) = (chain.timesteps[rest / chain.draws], rest % chain.draws);
            random.normals(Stream::Evaluate, (image * chain.draws + draw) as u64, t as u64, epsilon);
            let x0 = &self.images.pixels[image * size..][..size];
            chain.schedule.level(t).q_sample(x0, epsilon, x_t);
        });
        let row = |item: usize| item % per_image / chain.draws;
        let timesteps: Vec<f32> = items.iter().map(|&item| chain.timesteps[row(item)] as f32).collect();
        let labels: Option<Vec<u32>> =
            self.images.labels.map(|labels| items.iter().map(|item| labels[item / per_image]).collect());
        let x =
            Tensor::<4>::from_data(TensorData::new(noisy.clone(), [items.len(), height, width, channels]), self.device);
        let output = self.unet.forward(x, &timesteps, labels.as_deref().map(Labels::Classes), None);
        let doubled = output.dims()[3] == 2 * channels;
        let output: Vec<f32> = output.into_data().iter::<f32>().collect();
        let width = if doubled { 2 * channels } else { channels };
        let measured = items.par_iter().enumerate().map(|(i, &item)| {
            let output = &output[i * size / channels * width..][..size / channels * width];
            let (x_t, epsilon) = (&noisy[i * size..][..size], &noise[i * size..][..size]);
            self.item(item / per_image, row(item), output, doubled, x_t, epsilon, candidates)
        });
        measured.collect()
    }

    #[expect(clippy::too_many_arguments, reason = "one noisy image and what came of it")]
    fn item(
        &self,
        image: usize,
        row: usize,
        output: &[f32],
        doubled: bool,
        x_t: &[f32],
        epsilon: &[f32],
        candidates: &[f64],
    ) -> Result<Measured, Error> {
        let chain = self.chain;
        let channels = self.images.shape[2];
        let size = x_t.len();
        let x0 = &self.images.pixels[image * size..][..size];
        let t = chain.timesteps[row];
        let index = chain.timesteps.len() - 1 - row;
        // The network's own chain turns its output into x̂0 and ε̂, the sub-chain makes the step.
        let node = Node { timestep: t as f64, level: chain.schedule.level(t) };
        let previous = chain.schedule.previous_level(t);
        let to_sample = chain.prediction.preconditioning(node, previous).sample_map();
        let to_epsilon = chain.prediction.epsilon_map(node, previous);
        let posterior = self.sub_chain.posterior(index);
        let range = chain.variance.log_variance(self.sub_chain, index);
        let given = chain.log_variances.map(|log_variances| log_variances[row].as_slice());
        let (mut mean, mut log_variance) = (Vec::with_capacity(size), Vec::new());
        let place = |i: usize| if doubled { i / channels * 2 * channels + i % channels } else { i };
        let sample = |i: usize| to_sample.apply(f64::from(x_t[i]), f64::from(output[place(i)]));
        let mut samples: Vec<f64> = (0..size).map(sample).collect();
        if let Some(clip) = chain.clip_sample {
            clip.apply(&mut samples);
        }
        let (mut mse, mut epsilon_mse) = (vec![0.0; channels], 0.0);
        for (i, &sample) in samples.iter().enumerate() {
            let at = place(i);
            let (x, answer) = (f64::from(x_t[i]), f64::from(output[at]));
            epsilon_mse += (to_epsilon.apply(x, answer) - f64::from(epsilon[i])).powi(2);
            mse[i % channels] += (sample - f64::from(x0[i])).powi(2);
            mean.push(posterior.coef_x0 * sample + posterior.coef_xt * x);
            if given.is_none() && chain.variance.is_learned() && doubled {
                let v = f64::from(output[at + channels]);
                log_variance.push(if chain.variance == Variance::Learned { v } else { range.interpolate(v) });
            }
        }
        if !(mse.iter().all(|mse| mse.is_finite()) && epsilon_mse.is_finite()) {
            return Err(Error::NotFinite { image, timestep: t });
        }
        if log_variance.is_empty() {
            log_variance = match given {
                None => vec![range.max],
                Some(&[one]) => vec![one],
                Some(each) => each.repeat(size / channels),
            };
        }
        let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        let (x0, x_t) = (wide(x0), wide(x_t));
        let step = ReverseStep { mean: &mean, log_variance: &log_variance };
        let bits = VariationalBound::new(self.sub_chain, Cdf::Tanh).term(index, &x0, &x_t, step)?;
        let decoder = match index {
            0 => candidates
                .iter()
                .map(|&log_variance| {
                    let nats = x0
                        .iter()
                        .zip(&samples)
                        .map(|(&x0, &sample)| discretized_gaussian_nll(x0, sample, log_variance, Cdf::Tanh));
                    nats.sum::<f64>() / (size as f64 * std::f64::consts::LN_2)
                })
                .collect(),
            _ => Vec::new(),
        };
        let pixels = (size / channels) as f64;
        mse.iter_mut().for_each(|mse| *mse /= pixels);
        Ok(Measured { bits, mse, epsilon_mse: epsilon_mse / size as f64, decoder })
    }
}
