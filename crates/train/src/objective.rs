//! The training loss: L_simple and its weightings, the variational bound, L_hybrid.

use burn::tensor::{Tensor, TensorData};
use diffusion::{Values, Variance, loss};
use model::denoiser::per_image;
use model::{Denoised, Images, Process};
use rayon::prelude::*;
use unet::ops;

use crate::Error;
use crate::bits;
use crate::config::LossNorm;

/// The loss that is minimized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossKind {
    /// The weighted squared error of the prediction (Ho et al. 2020, eq. 14, where all weights are 1), or another penalty
    /// of it ([`Objective::with_norm`]).
    SquaredError,
    /// The bound: one term for each image, times T, in bits/dim (eq. 5).
    Bound,
    /// The bound of a binomial chain (Sohl-Dickstein et al. 2015): one term for each image, times T, in bits/dim.
    BitBound,
    /// −log₂ p(b_0 | b_t) of a binomial chain in bits/dim, at every t with the same weight.
    BitCrossEntropy,
    /// The squared error, and the bound for the variance alone (Nichol & Dhariwal 2021, §3.1).
    Hybrid,
}

impl LossKind {
    /// Returns whether it is a loss of a binomial chain.
    fn is_of_bits(self) -> bool {
        matches!(self, Self::BitBound | Self::BitCrossEntropy)
    }
}

/// A loss over the timesteps of a process.
#[derive(Clone, Debug)]
pub struct Objective {
    process: Process,
    variance: Variance,
    kind: LossKind,
    weights: Vec<f64>,
    norm: LossNorm,
    huber_delta: f64,
    values: Values,
}

/// Noised images, and the numbers that they were made from.
#[derive(Clone, Debug)]
pub struct NoisedBatch {
    /// x_0 in [-1, 1], with labels.
    pub images: Images,
    /// The numbers that describe how each image was augmented; empty without augmentation.
    pub augment_labels: Vec<f32>,
    /// ε, in the order N,H,W,C; of a binomial chain, uniform numbers of [0, 1).
    pub epsilon: Vec<f32>,
    /// t of each image.
    pub timesteps: Vec<usize>,
    /// The weight of each image: 1, or 1/(T·p_t) with importance sampling of t.
    pub importance: Vec<f64>,
    /// The place of the first image in the global batch.
    pub first: usize,
}

impl NoisedBatch {
    /// Returns the images `first` to `first + count`.
    pub fn slice(&self, first: usize, count: usize) -> Self {
        let [size, width] = [self.images.pixels.len(), self.augment_labels.len()].map(|all| all / self.images.n.max(1));
        Self {
            images: self.images.slice(first, count),
            augment_labels: self.augment_labels[first * width..][..count * width].to_vec(),
            epsilon: self.epsilon[first * size..][..count * size].to_vec(),
            timesteps: self.timesteps[first..][..count].to_vec(),
            importance: self.importance[first..][..count].to_vec(),
            first: self.first + first,
        }
    }

    /// Calls `mix(t, x_0, ε, out)` for each image and returns all outputs, N,H,W,C.
    fn mix(&self, mix: impl Fn(usize, &[f32], &[f32], &mut [f32]) + Sync) -> Vec<f32> {
        let x0 = &self.images.pixels;
        let size = (x0.len() / self.images.n.max(1)).max(1);
        let mut mixed = vec![0.0; x0.len()];
        let images = mixed.par_chunks_mut(size).zip(x0.par_chunks(size)).zip(self.epsilon.par_chunks(size));
        images.zip(&self.timesteps).for_each(|(((mixed, x0), epsilon), &t)| mix(t, x0, epsilon, mixed));
        mixed
    }
}

/// The values of a loss.
#[derive(Clone, Debug)]
pub struct LossTerms {
    /// The mean to differentiate, `[1]`.
    pub mean: Tensor<1>,
    /// The loss of each image without weights: the squared or other error, or the bound's term in bits/dim.
    pub each: Tensor<1>,
    /// The loss of each image with the weight of its timestep but without that of importance sampling, whose memory it
    /// enters.
    pub weighted: Tensor<1>,
}

impl Objective {
    /// A loss of a process. `weights` are those of each timestep's squared error; `variance` is that of the reverse step
    /// and enters the bound only.
    ///
    /// # Errors
    /// If the number of weights is not T, or x_0 cannot be predicted at a timestep.
    pub fn new(process: Process, variance: Variance, kind: LossKind, weights: Vec<f64>) -> Result<Self, Error> {
        let total = process.schedule.len();
        if weights.len() != total {
            let found = weights.len();
            return Err(diffusion::Error::Length { name: "loss weights", found, expected: total }.into());
        }
        for node in process.nodes(&(0..total).collect::<Vec<_>>()) {
            process.check_node(node)?;
        }
        Ok(Self { process, variance, kind, weights, norm: LossNorm::L2, huber_delta: 1.0, values: Values::Bytes })
    }

    /// Replaces the squared error by another penalty; `huber_delta` is δ of [`LossNorm::Huber`].
    pub fn with_norm(self, norm: LossNorm, huber_delta: f64) -> Self {
        Self { norm, huber_delta, ..self }
    }

    /// Sets the kind of values of the data: the bound's last term is a density for real numbers.
    pub fn with_values(self, values: Values) -> Self {
        Self { values, ..self }
    }

    /// Returns whether the chain is binomial: images are bits, as pixels of ±1.
    pub fn is_of_bits(&self) -> bool {
        self.kind.is_of_bits()
    }

    /// Returns the process that is trained. That of a binomial chain has its noise schedule, and the network's input as it is.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Computes x_t = α_t·x_0 + σ_t·ε.
    pub fn q_sample(&self, noised: &NoisedBatch) -> Images {
        let schedule = &self.process.schedule;
        let pixels = noised.mix(|t, x0, epsilon, x_t| match self.kind.is_of_bits() {
            true => bits::q_sample(schedule, t, (x0, epsilon), x_t),
            false => schedule.level(t).q_sample(x0, epsilon, x_t),
        });
        Images::new(noised.images.shape(), pixels)
    }

    /// Computes the loss of a network's output `[N,H,W,C]`, or `[N,H,W,2C]` with a learned variance, for x_t
    /// `[N,H,W,C]`.
    ///
    /// # Panics
    /// If the shapes do not agree.
    pub fn loss(&self, output: Tensor<4>, x_t: &Tensor<4>, noised: &NoisedBatch) -> LossTerms {
        let device = output.device();
        let nodes = self.process.nodes(&noised.timesteps);
        let denoised =
            self.process.denoised(x_t.clone(), &nodes, output).expect("Objective::new checked every timestep");
        let column = |values: Vec<f64>| Tensor::<1>::from_floats(floats(&values).as_slice(), &device);
        let weights = || column(noised.timesteps.iter().map(|&t| self.weights[t]).collect());
        let (each, weighted) = match self.kind {
            LossKind::SquaredError => {
                let each = self.error(&denoised, noised);
                (each.clone(), each * weights())
            }
            LossKind::Bound => {
                let each = image_mean(self.bound(&denoised, noised));
                (each.clone(), each.mul_scalar(self.process.schedule.len() as f64))
            }
            LossKind::BitBound => {
                let output = denoised.output().clone();
                let schedule = &self.process.schedule;
                let each = image_mean(bits::bound(schedule, output, denoised.x_t(), noised));
                (each.clone(), each.mul_scalar(schedule.len() as f64))
            }
            LossKind::BitCrossEntropy => {
                let each = image_mean(bits::cross_entropy(denoised.output().clone(), noised));
                (each.clone(), each)
            }
            LossKind::Hybrid => {
                let each = self.error(&denoised, noised);
                let detached = denoised.output().clone().detach();
                let bound = image_mean(self.bound(&denoised.with_output(detached), noised));
                let scale = loss::hybrid_vb_scale(self.process.schedule.len());
                (each.clone(), each * weights() + bound.mul_scalar(scale))
            }
        };
        let importance = column(noised.importance.clone());
        let mean = ops::row_means((weighted.clone() * importance).reshape([1, noised.images.n]));
        LossTerms { mean, each: each.inner(), weighted: weighted.inner() }
    }

    /// The penalty of each image's error, in terms of the network's output.
    fn error(&self, denoised: &Denoised, noised: &NoisedBatch) -> Tensor<1> {
        let Process { schedule, prediction } = &self.process;
        let target = noised.mix(|t, x0, epsilon, out| prediction.target(schedule, t).mix(x0, epsilon, out));
        let output = denoised.output().clone();
        let target = Tensor::from_data(TensorData::new(target, output.dims()), &output.device());
        let error = output - target;
        image_mean(match self.norm {
            LossNorm::L2 => error.clone() * error,
            LossNorm::L1 => error.abs(),
            LossNorm::Huber => {
                // With c = min(|e|, δ), both branches are c²/(2δ) + (|e| − c), without a mask.
                let size = error.abs();
                let capped = size.clone().clamp_max(self.huber_delta);
                (capped.clone() * capped.clone()).mul_scalar(0.5 / self.huber_delta) + (size - capped)
            }
        })
    }

    /// The bound's term of every pixel in bits, `[N,H,W,C]`: KL(q(x_{t−1}|x_t,x_0) ‖ p(x_{t−1}|x_t)), and −log₂ p(x_0|x_1)
    /// of 8-bit images at t = 0 (Ho et al. 2020, eq. 5 and 13). x̂0 is not clipped, as in their training.
    fn bound(&self, denoised: &Denoised, noised: &NoisedBatch) -> Tensor<4> {
        let x_t = denoised.x_t();
        let device = x_t.device();
        let per_image = |value: &dyn Fn(usize) -> f64| {
            per_image(&noised.timesteps.iter().map(|&t| value(t)).collect::<Vec<_>>(), &device)
        };
        let schedule = &self.process.schedule;
        let x0 = noised.images.tensor(&device);

        let mean = |x0: Tensor<4>| {
            x0 * per_image(&|t| schedule.posterior(t).coef_x0)
                + x_t.clone() * per_image(&|t| schedule.posterior(t).coef_xt)
        };
        let sample = denoised.sample();
        let (true_mean, mean) = (mean(x0.clone()), mean(sample));
        let true_log_variance = per_image(&|t| schedule.posterior(t).log_variance_clipped);
        let range = |t: usize| self.variance.log_variance(schedule, t);
        let log_variance = match (self.variance, denoised.variance()) {
            (Variance::Learned, Some(v)) => v.clone(),
            (Variance::LearnedRange, Some(v)) => {
                v.clone() * per_image(&|t| 0.5 * (range(t).max - range(t).min))
                    + per_image(&|t| 0.5 * (range(t).max + range(t).min))
            }
            _ => per_image(&|t| range(t).max).expand(noised.images.shape()),
        };

        let difference = true_mean - mean.clone();
        let kl = ((true_log_variance.clone() - log_variance.clone()).exp() - true_log_variance
            + log_variance.clone()
            + difference.clone() * difference * log_variance.clone().neg().exp())
        .sub_scalar(1.0)
        .mul_scalar(0.5);
        let decoder = match self.values {
            Values::Bytes => discretized_gaussian_nll(x0, &noised.images, mean, log_variance),
            Values::Reals { log_scale } => gaussian_nll(x0, mean, log_variance).add_scalar(log_scale),
        };
        let at_zero = per_image(&|t| f64::from(u8::from(t == 0)));
        let nats = decoder * at_zero.clone() + kl * at_zero.neg().add_scalar(1.0);
        nats.div_scalar(std::f64::consts::LN_2)
    }
}

/// The mean over all values of each image: `[N,H,W,C]` to `[N]`.
fn image_mean(x: Tensor<4>) -> Tensor<1> {
    let [n, h, w, c] = x.dims();
    ops::row_means(x.reshape([n, h * w * c]))
}

fn floats(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&v| v as f32).collect()
}

/// −ln p(x_0) of the density of each number.
fn gaussian_nll(x0: Tensor<4>, mean: Tensor<4>, log_variance: Tensor<4>) -> Tensor<4> {
    let error = x0 - mean;
    let squares = error.clone() * error * log_variance.clone().neg().exp();
    (squares + log_variance).add_scalar((2.0 * std::f64::consts::PI).ln()).mul_scalar(0.5)
}

/// −ln p(x_0) of the bin of each 8-bit value (Ho et al. 2020, eq. 13), with the reference code's tanh for Φ and its floor.
fn discretized_gaussian_nll(x0: Tensor<4>, images: &Images, mean: Tensor<4>, log_variance: Tensor<4>) -> Tensor<4> {
    let device = x0.device();
    let inverse_deviation = log_variance.mul_scalar(-0.5).exp();
    let centred = x0 - mean;
    let cdf = |half_bin: f64| {
        let z = centred.clone().add_scalar(half_bin) * inverse_deviation.clone();
        let cubic = z.clone() * z.clone() * z.clone();
        let inner = (z + cubic.mul_scalar(0.044715)).mul_scalar((2.0 / std::f64::consts::PI).sqrt());
        inner.tanh().add_scalar(1.0).mul_scalar(0.5)
    };
    let (above, below) = (cdf(1.0 / 255.0), cdf(-1.0 / 255.0));
    let log = |p: Tensor<4>| p.clamp_min(1e-12).log();
    let mask = |which: &dyn Fn(f32) -> bool| {
        let values: Vec<f32> = images.pixels.iter().map(|&x| f32::from(u8::from(which(x)))).collect();
        Tensor::<4>::from_data(TensorData::new(values, images.shape()), &device)
    };
    let first = log(above.clone()) * mask(&|x| x < -0.999);
    let last = log(below.clone().neg().add_scalar(1.0)) * mask(&|x| x > 0.999);
    let middle = log(above - below) * mask(&|x| (-0.999..=0.999).contains(&x));
    (first + last + middle).neg()
}

#[cfg(test)]
mod tests {
    use super::*;

    use burn::tensor::Device;
    use diffusion::{BetaSchedule, Cdf, LinearMap, Node, NoiseSchedule, Prediction, ReverseStep, VariationalBound};

    fn objective(kind: LossKind, prediction: Prediction, variance: Variance) -> Objective {
        let schedule = NoiseSchedule::new(BetaSchedule::Linear, 1e-4, 0.02, 100).unwrap();
        Objective::new(Process { schedule, prediction }, variance, kind, vec![1.0; 100]).unwrap()
    }

    fn noised(timesteps: Vec<usize>) -> NoisedBatch {
        let len = 4 * timesteps.len();
        // 8-bit values, both ends among them.
        let pixels = (0..len).map(|i| ((i * 85) % 256) as f32 / 127.5 - 1.0).collect();
        NoisedBatch {
            augment_labels: Vec::new(),
            images: Images::new([timesteps.len(), 2, 2, 1], pixels),
            epsilon: (0..len).map(|i| ((i * 7919 % 101) as f32 - 50.0) / 30.0).collect(),
            importance: vec![1.0; timesteps.len()],
            timesteps,
            first: 0,
        }
    }

    /// The map from x_t and the network's output to x̂0.
    fn to_sample(process: &Process, t: usize) -> LinearMap {
        let node = Node { timestep: t as f64, level: process.schedule.level(t) };
        process.prediction.preconditioning(node, process.schedule.previous_level(t)).sample_map()
    }

    /// Against crate `diffusion`, in f64, for every prediction and variance and at t = 0 too.
    #[test]
    fn the_bound_is_that_of_crate_diffusion() {
        let device = Device::flex();
        for (_, prediction) in Prediction::NAMES {
            for variance in [Variance::FixedSmall, Variance::FixedLarge, Variance::Learned, Variance::LearnedRange] {
                let values = if variance.is_learned() { Values::Bytes } else { Values::Reals { log_scale: 0.25 } };
                let objective = objective(LossKind::Bound, prediction, variance).with_values(values);
                let noised = noised(vec![0, 1, 40, 99]);
                let channels = if variance.is_learned() { 2 } else { 1 };
                let output: Vec<f32> = (0..16 * channels).map(|i| ((i * 31 % 17) as f32 - 8.0) / 40.0).collect();
                let x_t = objective.q_sample(&noised);
                let tensor = Tensor::<4>::from_data(TensorData::new(output.clone(), [4, 2, 2, channels]), &device);
                let loss = objective.loss(tensor, &x_t.tensor(&device), &noised);
                let each: Vec<f64> = loss.each.into_data().iter::<f64>().collect();

                let schedule = &objective.process().schedule;
                let bound = VariationalBound::new(schedule, Cdf::Tanh).of(values);
                for (i, &t) in noised.timesteps.iter().enumerate() {
                    let pixels = 4 * i..4 * i + 4;
                    let map = to_sample(objective.process(), t);
                    let posterior = schedule.posterior(t);
                    let (mut mean, mut log_variance) = (Vec::new(), Vec::new());
                    for p in pixels.clone() {
                        let x_t = f64::from(x_t.pixels[p]);
                        let x0 = map.apply(x_t, output[p * channels].into());
                        mean.push(posterior.coef_x0 * x0 + posterior.coef_xt * x_t);
                        log_variance.push(match variance {
                            Variance::Learned => f64::from(output[p * channels + 1]),
                            Variance::LearnedRange => {
                                variance.log_variance(schedule, t).interpolate(output[p * channels + 1].into())
                            }
                            _ => variance.log_variance(schedule, t).max,
                        });
                    }
                    let f64s = |v: &[f32]| v[pixels.clone()].iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
                    let (x0, x_t) = (f64s(&noised.images.pixels), f64s(&x_t.pixels));
                    let step = ReverseStep { mean: &mean, log_variance: &log_variance };
                    let expected = bound.term(t, &x0, &x_t, step).unwrap();
                    let scale = expected.abs().max(1.0);
                    assert!(
                        (each[i] - expected).abs() < 2e-3 * scale,
                        "{prediction} {variance} t={t}: {} {expected}",
                        each[i]
                    );
                }
            }
        }
    }

    /// L_hybrid's gradient reaches the mean through the squared error alone.
    #[test]
    fn hybrid_stops_the_bounds_gradient_at_the_mean() {
        let device = Device::flex().autodiff();
        let noised = noised(vec![0, 30]);
        let gradient = |kind| {
            let objective = objective(kind, Prediction::Epsilon, Variance::LearnedRange);
            let values: Vec<f32> = (0..16).map(|i| i as f32 / 20.0 - 0.4).collect();
            let output = Tensor::<4>::from_data(TensorData::new(values, [2, 2, 2, 2]), &device).require_grad();
            let x_t = objective.q_sample(&noised).tensor(&device);
            let loss = objective.loss(output.clone(), &x_t, &noised);
            let gradient = output.grad(&loss.mean.backward()).unwrap();
            gradient.into_data().iter::<f32>().collect::<Vec<_>>()
        };
        let (simple, hybrid) = (gradient(LossKind::SquaredError), gradient(LossKind::Hybrid));
        for i in (0..16).step_by(2) {
            assert_eq!(simple[i], hybrid[i]);
            assert_eq!(simple[i + 1], 0.0);
            assert_ne!(hybrid[i + 1], 0.0);
        }
    }

    /// Each norm against its formula in f64, on both sides of δ, and its gradient against finite differences.
    #[test]
    fn norms_and_their_gradients_are_their_formulas() {
        let device = Device::flex().autodiff();
        let noised = noised(vec![3, 70]);
        let penalty = |norm, delta: f64, e: f64| match norm {
            LossNorm::L2 => e * e,
            LossNorm::L1 => e.abs(),
            LossNorm::Huber if e.abs() < delta => 0.5 * e * e / delta,
            LossNorm::Huber => e.abs() - 0.5 * delta,
        };
        for (norm, delta) in [(LossNorm::L2, 1.0), (LossNorm::L1, 1.0), (LossNorm::Huber, 1.0), (LossNorm::Huber, 0.3)]
        {
            let objective =
                objective(LossKind::SquaredError, Prediction::Epsilon, Variance::FixedSmall).with_norm(norm, delta);
            let values: Vec<f32> = noised.epsilon.iter().enumerate().map(|(i, e)| e + 0.4 * (i as f32 - 3.6)).collect();
            let output = Tensor::<4>::from_data(TensorData::new(values.clone(), [2, 2, 2, 1]), &device).require_grad();
            let x_t = objective.q_sample(&noised).tensor(&device);
            let loss = objective.loss(output.clone(), &x_t, &noised);
            let errors: Vec<f64> = values.iter().zip(&noised.epsilon).map(|(v, e)| f64::from(v - e)).collect();
            let each: Vec<f64> = loss.each.clone().into_data().iter::<f64>().collect();
            for (each, errors) in each.iter().zip(errors.chunks(4)) {
                let expected = errors.iter().map(|&e| penalty(norm, delta, e)).sum::<f64>() / 4.0;
                assert!((each - expected).abs() < 1e-5, "{norm:?} {delta}: {each} {expected}");
            }
            let gradient = output.grad(&loss.mean.backward()).unwrap();
            for (found, &e) in gradient.into_data().iter::<f64>().zip(&errors) {
                let h = 1e-4;
                let expected = (penalty(norm, delta, e + h) - penalty(norm, delta, e - h)) / (2.0 * h) / 8.0;
                assert!((found - expected).abs() < 1e-4, "{norm:?} {delta} at {e}: {found} {expected}");
            }
        }
    }

    /// The output that the map to x̂0 takes to x_0 has no error.
    #[test]
    fn the_target_is_the_output_of_a_perfect_network() {
        let device = Device::flex();
        for (_, prediction) in Prediction::NAMES {
            let objective = objective(LossKind::SquaredError, prediction, Variance::FixedSmall);
            let noised = noised(vec![3, 70]);
            let x_t = objective.q_sample(&noised);
            let output = (0..8)
                .map(|p| {
                    let map = to_sample(objective.process(), noised.timesteps[p / 4]);
                    ((f64::from(noised.images.pixels[p]) - map.x * f64::from(x_t.pixels[p])) / map.output) as f32
                })
                .collect();
            let output = Images::new([2, 2, 2, 1], output).tensor(&device);
            let loss = objective.loss(output, &x_t.tensor(&device), &noised).mean.into_scalar::<f32>();
            assert!(loss < 1e-6, "{prediction}: {loss}");
        }
    }
}
