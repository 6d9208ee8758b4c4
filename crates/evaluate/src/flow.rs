//! The exact likelihood of a model's probability flow: no bound, but of dequantised images, and of another model, whose
//! samples are those of the deterministic samplers.

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use diffusion::{Node, NoiseLevel, NoiseSchedule, Prediction, ProbabilityFlow};
use random::{Random, Stream};
use serde::{Deserialize, Serialize};
use unet::{Labels, Parameters, Unet};

use crate::Error;
use crate::likelihood::{Images, mean_and_error};

/// How the divergence of the flow is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    /// One backward pass for each of D dimensions: for small images.
    Exact,
    /// Hutchinson's estimate vᵀJv with so many vectors of ±1, the same along the whole flow: unbiased.
    Hutchinson(usize),
}

/// The flow whose likelihood is computed, and how.
#[derive(Clone, Debug)]
pub struct Flow<'a> {
    /// The chain that the network was trained for.
    pub schedule: &'a NoiseSchedule,
    /// What the network predicts.
    pub prediction: Prediction,
    /// Steps of Runge and Kutta's method from t = 0 to T−1, four evaluations each.
    pub steps: usize,
    /// The divergence.
    pub trace: Trace,
    /// Draws of the dequantisation and of the trace's vectors, for each image.
    pub draws: usize,
    /// Images that go through the network at once. Never changes a number.
    pub batch_size: usize,
    /// Seed of the draws.
    pub seed: u64,
}

/// The likelihood of a set of images, in bits/dim.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowLikelihood {
    /// E −log₂ p(x + u)/D for 8-bit x and u uniform over a step of them: never below −log₂ P(x)/D on average.
    pub bits_per_dim: f64,
    /// Its standard error, from the spread over images.
    pub standard_error: f64,
    /// Images.
    pub images: usize,
    /// Draws for each image.
    pub draws: usize,
    /// Evaluations of the network and its gradient for a draw.
    pub evaluations: usize,
    /// Bits/dim of each image.
    pub each: Vec<f64>,
}

/// Computes the likelihood of 8-bit images under the probability flow. `progress` is told how many of how many evaluations
/// of one image are done, and ends the computation by returning false.
///
/// # Errors
/// If sizes or labels do not fit the network, for a prediction of the previous mean or a chain without signal at its end,
/// if numbers stop being finite, or if `progress` asked to stop.
pub fn flow_likelihood(
    unet: &Unet,
    images: Images,
    flow: &Flow,
    mut progress: impl FnMut(usize, usize) -> bool,
) -> Result<FlowLikelihood, Error> {
    let (n, size) = images.check(unet)?;
    let probes = match flow.trace {
        Trace::Exact => size,
        Trace::Hutchinson(probes) => probes,
    };
    if flow.draws == 0 || flow.batch_size == 0 || probes == 0 {
        return Err(Error::Request("draws, probes and the batch size must be at least 1".into()));
    }
    if flow.prediction == Prediction::PreviousMean {
        return Err(Error::Request("a prediction of the previous mean is known at whole timesteps only".into()));
    }
    // Gradients by the image are wanted, those by the parameters are not.
    let unet = unet.clone().train().no_grad();
    let evaluations = 4 * flow.steps * probes;
    let total = n * flow.draws * evaluations;
    let (mut done, mut each) = (0, vec![0.0; n]);
    let items: Vec<usize> = (0..n * flow.draws).collect();
    let signal = flow.schedule.alpha_cumprod(0).sqrt();
    for items in items.chunks(flow.batch_size) {
        let draws = Draws { random: Random::new(flow.seed), items, size };
        let uniforms = draws.uniforms();
        let points: Vec<f64> = items
            .iter()
            .flat_map(|item| &images.pixels[item / flow.draws * size..][..size])
            .zip(uniforms)
            .map(|(&x, u)| signal * (f64::from(x) + (u - 0.5) / 127.5))
            .collect();
        let labels: Option<Vec<u32>> =
            images.labels.map(|labels| items.iter().map(|item| labels[item / flow.draws]).collect());
        let batch = Batch { unet: &unet, shape: images.shape, prediction: flow.prediction, labels, draws };
        let density =
            ProbabilityFlow { schedule: flow.schedule, steps: flow.steps }.log_density(&points, size, |x, node| {
                let mut trace = vec![0.0; items.len()];
                let mut epsilon = Vec::new();
                for probe in 0..probes {
                    let v = match flow.trace {
                        Trace::Exact => batch.draws.axis(probe),
                        Trace::Hutchinson(_) => batch.draws.signs(probe),
                    };
                    let (answer, products) = batch.evaluate(x, node, v);
                    epsilon = answer;
                    let share = if flow.trace == Trace::Exact { 1.0 } else { 1.0 / probes as f64 };
                    trace.iter_mut().zip(products).for_each(|(trace, product)| *trace += share * product);
                    done += items.len();
                    if !progress(done, total) {
                        return Err(Error::Stopped);
                    }
                }
                Ok(match epsilon.iter().all(|value| value.is_finite()) {
                    true => (epsilon, trace),
                    false => {
                        return Err(Error::NotFinite {
                            image: items[0] / flow.draws,
                            timestep: node.timestep as usize,
                        });
                    }
                })
            })?;
        for (item, log_density) in items.iter().zip(density.log_density) {
            // In units of a step between 8-bit values, of the image and not of its scaled self.
            let nats = -log_density / size as f64 - signal.ln() + 127.5_f64.ln();
            each[item / flow.draws] += nats / std::f64::consts::LN_2 / flow.draws as f64;
        }
    }
    let (bits_per_dim, standard_error) = mean_and_error(&each);
    Ok(FlowLikelihood { bits_per_dim, standard_error, images: n, draws: flow.draws, evaluations, each })
}

/// The random numbers of some items (image·draws + draw), of `size` dimensions each.
struct Draws<'a> {
    random: Random,
    items: &'a [usize],
    size: usize,
}

impl Draws<'_> {
    fn uniforms(&self) -> Vec<f64> {
        let mut all = vec![0.0; self.items.len() * self.size];
        for (out, &item) in all.chunks_mut(self.size).zip(self.items) {
            self.random.uniforms_f64(Stream::Dequantize, item as u64, 0, out);
        }
        all
    }

    /// Vectors of ±1.
    fn signs(&self, probe: usize) -> Vec<f32> {
        let mut bits = vec![0; self.size];
        let mut all = Vec::with_capacity(self.items.len() * self.size);
        for &item in self.items {
            self.random.bits(Stream::Trace, item as u64, probe as u64, &mut bits);
            all.extend(bits.iter().map(|bits| if bits >> 31 == 0 { 1.0 } else { -1.0 }));
        }
        all
    }

    /// The unit vector of a dimension, for each item.
    fn axis(&self, dimension: usize) -> Vec<f32> {
        (0..self.items.len() * self.size).map(|i| if i % self.size == dimension { 1.0 } else { 0.0 }).collect()
    }
}

struct Batch<'a> {
    unet: &'a Unet,
    shape: [usize; 3],
    prediction: Prediction,
    labels: Option<Vec<u32>>,
    draws: Draws<'a>,
}

impl Batch<'_> {
    /// ε̂ of all images, and vᵀ(∂ε̂/∂x)v of each.
    fn evaluate(&self, x: &[f64], node: Node, v: Vec<f32>) -> (Vec<f64>, Vec<f64>) {
        let [height, width, channels] = self.shape;
        let n = self.draws.items.len();
        let dims = [n, height, width, channels];
        let device = self.unet.device().autodiff();
        let input: Vec<f32> = x.iter().map(|&x| x as f32).collect();
        let input = Tensor::<4>::from_data(TensorData::new(input, dims), &device).require_grad();
        let v_tensor = Tensor::<4>::from_data(TensorData::new(v.clone(), dims), &device);
        let labels = self.labels.as_deref().map(Labels::Classes);
        let output = self.unet.forward(input.clone(), &vec![node.timestep as f32; n], labels, None);
        // A learned variance is no part of the flow.
        let output = output.narrow(3, 0, channels);
        let gradients = (output.clone() * v_tensor).sum().backward();
        let output: Vec<f64> = output.inner().into_data().iter::<f64>().collect();
        let products: Vec<f64> = match input.grad(&gradients) {
            Some(gradient) => gradient.into_data().iter::<f64>().collect(),
            None => vec![0.0; x.len()],
        };
        let map = self.prediction.epsilon_map(node, NoiseLevel::DATA);
        let epsilon = x.iter().zip(&output).map(|(&x, &output)| map.apply(x, output)).collect();
        let size = self.draws.size;
        let trace = products.chunks(size).zip(v.chunks(size)).map(|(products, v)| {
            let terms = products
                .iter()
                .zip(v)
                .map(|(product, &v)| f64::from(v) * (map.x * f64::from(v) + map.output * product));
            terms.sum()
        });
        (epsilon, trace.collect())
    }
}
