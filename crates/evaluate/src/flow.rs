//! The likelihood of images under the probability flow (Song et al. 2021, arXiv 2011.13456). It is exact but for the
//! solver's error, where the variational bound is a bound. It is the likelihood of dequantized images and of the
//! deterministic samplers' distribution.

use burn::tensor::{Tensor, TensorData};
use diffusion::{Node, NoiseSchedule, ProbabilityFlow, Values};
use model::{Condition, Denoiser, Images};
use mpi::Division;
use random::{Random, Stream};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::bound::{bits_per_point, check_images};
use crate::likelihood::mean_and_error;

/// The method that computes the divergence of the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    /// One backward pass for each of the D dimensions: for small images.
    Exact,
    /// Hutchinson's estimate vᵀJv with this number of vectors of ±1, which stay the same along the flow. It is unbiased.
    Hutchinson(usize),
}

/// The flow whose likelihood is computed.
#[derive(Clone, Debug)]
pub struct Flow<'a> {
    /// The noise schedule that the network was trained for.
    pub schedule: &'a NoiseSchedule,
    /// Steps of the Runge–Kutta method of order 4 from t = 0 to T−1; a step evaluates the network four times.
    pub steps: usize,
    /// The method that computes the divergence.
    pub trace: Trace,
    /// Draws of the dequantization noise and of the trace's vectors, for each image.
    pub draws: usize,
    /// Images that go through the network at once. It does not change any number.
    pub batch_size: usize,
    /// The seed of the draws.
    pub seed: u64,
    /// The kind of values of the data. 8-bit values are dequantized.
    pub values: Values,
    /// The processes that divide the batches. It does not change any number either.
    pub division: Division,
}

impl Flow<'_> {
    /// Returns a text that says what is computed.
    fn key(&self) -> String {
        let Self { steps, trace, draws, batch_size, seed, values, .. } = self;
        let values = if *values == Values::Bytes { String::new() } else { format!(" {values:?}") };
        format!("ode {steps} {trace:?} {draws} {batch_size} {seed}{values}")
    }
}

/// The likelihood of a set of images under the flow, in bits/dim.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowLikelihood {
    /// For points, E −log₂ p(x)/D. E −log₂ p(x + u)/D for 8-bit images x and u uniform over the width of a value: on average an upper bound on
    /// −log₂ P(x)/D.
    pub bits_per_dim: f64,
    /// −log₂ p of a point, D times `bits_per_dim`, in the units of the data. None for images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits_per_point: Option<f64>,
    /// The standard error of `bits_per_dim`, from the spread over images.
    pub standard_error: f64,
    /// The number of images.
    pub images: usize,
    /// Draws for each image.
    pub draws: usize,
    /// Evaluations of the network and its gradient for one draw.
    pub evaluations: usize,
    /// Bits/dim of each image.
    pub each: Vec<f64>,
}

/// Computes the likelihood of 8-bit images, scaled to [-1, 1], or of points under the probability flow. `progress(done, total)` is
/// called after each evaluation, both counted for single images; return `false` to cancel.
///
/// # Errors
/// If sizes or labels do not fit the denoiser, it cannot be differentiated or evaluated between whole timesteps, the
/// schedule has no signal at its end, numbers stop being finite, or `progress` returned `false`.
pub fn flow_likelihood(
    denoiser: &dyn Denoiser,
    images: &Images,
    flow: &Flow,
    mut progress: impl FnMut(usize, usize) -> bool,
) -> Result<FlowLikelihood, Error> {
    check_images(denoiser, images)?;
    let size = images.pixels.len() / images.n;
    let probes = match flow.trace {
        Trace::Exact => size,
        Trace::Hutchinson(probes) => probes,
    };
    if flow.draws == 0 || flow.batch_size == 0 || probes == 0 {
        return Err(Error::Request("draws, probes and the batch size must be at least 1".into()));
    }
    // The solver stops at fractional timesteps.
    denoiser.check_node(Node::at(flow.schedule, 0.5))?;
    let denoiser = denoiser.with_input_gradients()?;

    let evaluations = 4 * flow.steps * probes;
    let total = images.n * flow.draws * evaluations;
    let mut each = vec![0.0; images.n];
    let items: Vec<usize> = (0..images.n * flow.draws).collect();
    let batches: Vec<&[usize]> = items.chunks(flow.batch_size).collect();
    let alpha = flow.schedule.alpha_cumprod(0).sqrt();
    let finished = flow.division.run(
        || flow.key(),
        batches.len(),
        |number| {
            let items = batches[number];
            let work = (flow.batch_size * evaluations, total);
            let (mut done, total) = flow.division.progress(number, batches.len(), work);
            let batch = FlowBatch { denoiser: &*denoiser, images, flow, items, size };
            let points = batch.points(alpha);
            let solver = ProbabilityFlow { schedule: flow.schedule, steps: flow.steps };
            let density = solver.log_density(&points, size, |x, node| {
                batch.epsilon_and_trace((x, node), probes, || {
                    done += items.len();
                    progress(done, total)
                })
            });
            match density {
                Ok(density) => Ok(Some(Ok(density.log_density))),
                // All processes that divide the work report it alike.
                Err(Error::NotFinite { image, timestep }) => Ok(Some(Err((image, timestep)))),
                Err(Error::Stopped) => Ok(None),
                Err(error) => Err(error),
            }
        },
        |number, densities: Result<Vec<f64>, (usize, usize)>| {
            let densities = densities.map_err(|(image, timestep)| Error::NotFinite { image, timestep })?;
            if densities.len() != batches[number].len() {
                return Err(Error::Request(format!("the results of batch {number} are not those of this evaluation")));
            }
            for (item, log_density) in batches[number].iter().zip(densities) {
                // Per width of an 8-bit value, and for x_0 instead of α·x_0.
                // Of points, a unit of the data has the length e^log_scale.
                let unit = match flow.values {
                    Values::Bytes => 127.5_f64.ln(),
                    Values::Reals { log_scale } => log_scale,
                };
                let nats = -log_density / size as f64 - alpha.ln() + unit;
                each[item / flow.draws] += nats / std::f64::consts::LN_2 / flow.draws as f64;
            }
            Ok(true)
        },
    )?;
    if !finished {
        return Err(Error::Stopped);
    }
    let (bits_per_dim, standard_error) = mean_and_error(&each);
    let bits_per_point = bits_per_point(flow.values, size, bits_per_dim);
    Ok(FlowLikelihood {
        bits_per_dim,
        bits_per_point,
        standard_error,
        images: images.n,
        draws: flow.draws,
        evaluations,
        each,
    })
}

/// Images that go through the network together. An item is a draw of an image, with the number image·draws + draw.
struct FlowBatch<'a> {
    denoiser: &'a dyn Denoiser,
    images: &'a Images,
    flow: &'a Flow<'a>,
    items: &'a [usize],
    /// Values of an image.
    size: usize,
}

impl FlowBatch<'_> {
    /// Returns the dequantized images, scaled by `alpha`.
    fn points(&self, alpha: f64) -> Vec<f64> {
        let image = |item: &usize| &self.images.pixels[item / self.flow.draws * self.size..][..self.size];
        if self.flow.values != Values::Bytes {
            return self.items.iter().flat_map(image).map(|&x| alpha * f64::from(x)).collect();
        }
        let random = Random::new(self.flow.seed);
        let mut uniforms = vec![0.0; self.items.len() * self.size];
        for (out, &item) in uniforms.chunks_mut(self.size).zip(self.items) {
            random.uniforms_f64(Stream::Dequantize, item as u64, 0, out);
        }
        let pixels = self.items.iter().flat_map(image);
        pixels.zip(uniforms).map(|(&x, u)| alpha * (f64::from(x) + (u - 0.5) / 127.5)).collect()
    }

    /// Computes ε̂ of all images, and tr ∂ε̂/∂x of each. `progress` is called after each probe.
    fn epsilon_and_trace(
        &self,
        (x, node): (&[f64], Node),
        probes: usize,
        mut progress: impl FnMut() -> bool,
    ) -> Result<(Vec<f64>, Vec<f64>), Error> {
        let mut trace = vec![0.0; self.items.len()];
        let mut epsilon = Vec::new();
        for probe in 0..probes {
            let (v, weight) = match self.flow.trace {
                Trace::Exact => (self.axis(probe), 1.0),
                Trace::Hutchinson(_) => (self.signs(probe), 1.0 / probes as f64),
            };
            let (prediction, products) = self.differentiate(x, node, v)?;
            epsilon = prediction;
            trace.iter_mut().zip(products).for_each(|(trace, product)| *trace += weight * product);
            if !progress() {
                return Err(Error::Stopped);
            }
        }
        if epsilon.iter().all(|value| value.is_finite()) {
            return Ok((epsilon, trace));
        }
        Err(Error::NotFinite { image: self.items[0] / self.flow.draws, timestep: node.timestep as usize })
    }

    /// Computes ε̂ of all images, and vᵀ(∂ε̂/∂x)v of each.
    fn differentiate(&self, x: &[f64], node: Node, v: Vec<f32>) -> Result<(Vec<f64>, Vec<f64>), Error> {
        let Images { height, width, channels, ref labels, .. } = *self.images;
        let dims = [self.items.len(), height, width, channels];
        let device = self.denoiser.device().autodiff();
        let x_t: Vec<f32> = x.iter().map(|&x| x as f32).collect();
        let x_t = Tensor::<4>::from_data(TensorData::new(x_t, dims), &device).require_grad();
        let direction = Tensor::<4>::from_data(TensorData::new(v.clone(), dims), &device);
        let label = |labels: &Vec<u32>| self.items.iter().map(|item| labels[item / self.flow.draws]).collect();
        let labels: Option<Vec<u32>> = labels.as_ref().map(label);
        let denoised = self.denoiser.denoise(x_t.clone(), &[node], Condition::classes(labels.as_deref()))?;
        let output = denoised.output().clone();
        let gradients = (output.clone() * direction).sum().backward();
        let output: Vec<f64> = output.inner().into_data().iter::<f64>().collect();
        let products: Vec<f64> = match x_t.grad(&gradients) {
            Some(gradient) => gradient.into_data().iter::<f64>().collect(),
            None => vec![0.0; x.len()],
        };
        // The linear map to ε̂ is applied in f64, to the output and to its derivative alike.
        let map = |i: usize| denoised.maps(i / self.size).epsilon;
        let epsilon = (0..x.len()).map(|i| map(i).apply(x[i], output[i])).collect();
        let term = |i: usize| f64::from(v[i]) * (map(i).x * f64::from(v[i]) + map(i).output * products[i]);
        let trace = (0..dims[0]).map(|image| (image * self.size..(image + 1) * self.size).map(term).sum());
        Ok((epsilon, trace.collect()))
    }

    /// Returns a vector of ±1 for each item.
    fn signs(&self, probe: usize) -> Vec<f32> {
        let random = Random::new(self.flow.seed);
        let mut bits = vec![0; self.size];
        let mut all = Vec::with_capacity(self.items.len() * self.size);
        for &item in self.items {
            random.bits(Stream::Trace, item as u64, probe as u64, &mut bits);
            all.extend(bits.iter().map(|bits| if bits >> 31 == 0 { 1.0 } else { -1.0 }));
        }
        all
    }

    /// Returns the unit vector of a dimension, for each item.
    fn axis(&self, dimension: usize) -> Vec<f32> {
        (0..self.items.len() * self.size).map(|i| if i % self.size == dimension { 1.0 } else { 0.0 }).collect()
    }
}
