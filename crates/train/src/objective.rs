//! The training loss: L_simple and its weightings, the variational bound, L_hybrid.

use burn::tensor::{Device, Tensor, TensorData};
use diffusion::{LinearMap, Node, NoiseSchedule, Prediction, Variance, loss};
use rayon::prelude::*;

/// What is minimised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Minimised {
    /// The weighted squared error of the prediction (Ho et al. 2020, eq. 14, where all weights are 1).
    SquaredError,
    /// The bound: one term for each image, times T, in bits/dim (eq. 5).
    Bound,
    /// The squared error, and the bound for the variance alone (Nichol & Dhariwal 2021, §3.1).
    Hybrid,
}

/// A loss over a chain.
#[derive(Clone, Debug)]
pub struct Objective {
    /// The chain.
    pub schedule: NoiseSchedule,
    /// What the network predicts.
    pub prediction: Prediction,
    /// The reverse step's variance; it matters to the bound only.
    pub variance: Variance,
    /// What is minimised.
    pub minimised: Minimised,
    /// Weight of each timestep's squared error.
    pub weights: Vec<f64>,
}

/// Noisy images and what made them, N,H,W,C.
#[derive(Clone, Debug)]
pub struct Noisy {
    /// N, H, W, C.
    pub dims: [usize; 4],
    /// The images in [-1, 1].
    pub x0: Vec<f32>,
    /// The noise ε.
    pub epsilon: Vec<f32>,
    /// t of each image.
    pub timesteps: Vec<usize>,
    /// Weight of each image: 1, or 1/(T·p_t) where t is drawn by importance.
    pub importance: Vec<f64>,
}

impl Noisy {
    fn per_image(&self) -> usize {
        self.dims[1] * self.dims[2] * self.dims[3]
    }

    /// `mix(t, x0, ε, out)` of each image.
    fn mix(&self, mix: impl Fn(usize, &[f32], &[f32], &mut [f32]) + Sync) -> Vec<f32> {
        let size = self.per_image().max(1);
        let mut mixed = vec![0.0; self.x0.len()];
        let images = mixed.par_chunks_mut(size).zip(self.x0.par_chunks(size)).zip(self.epsilon.par_chunks(size));
        images.zip(&self.timesteps).for_each(|(((mixed, x0), epsilon), &t)| mix(t, x0, epsilon, mixed));
        mixed
    }
}

/// A loss with what is reported of it.
pub struct Loss {
    /// The mean to differentiate, `[1]`.
    pub mean: Tensor<1>,
    /// Each image's loss without weights: the squared error, or the bound's term in bits/dim.
    pub each: Tensor<1>,
    /// Each image's loss as it is minimised, but for the weight of its importance: what an importance sampler remembers.
    pub weighted: Tensor<1>,
}

impl Objective {
    /// x_t = √ᾱ_t x0 + √(1−ᾱ_t) ε.
    pub fn q_sample(&self, noisy: &Noisy) -> Vec<f32> {
        noisy.mix(|t, x0, epsilon, x_t| self.schedule.level(t).q_sample(x0, epsilon, x_t))
    }

    /// The loss of the network's output `[N,H,W,C]`, or `[N,H,W,2C]` where the variance is learned.
    pub fn loss(&self, output: Tensor<4>, x_t: &Tensor<4>, noisy: &Noisy) -> Loss {
        let device = output.device();
        let [n, h, w, channels] = noisy.dims;
        let (output, v) = if output.dims()[3] == 2 * channels {
            (output.clone().narrow(3, 0, channels), Some(output.narrow(3, channels, channels)))
        } else {
            (output, None)
        };
        let target = noisy.mix(|t, x0, epsilon, out| self.prediction.target(&self.schedule, t).mix(x0, epsilon, out));
        let image_mean = |x: Tensor<4>| x.reshape([n, h * w * channels]).mean_dim(1).reshape([n]);
        let squared_error = || {
            let error = output.clone() - Tensor::from_data(TensorData::new(target, noisy.dims), &device);
            image_mean(error.clone() * error)
        };
        let column = |values: Vec<f64>| Tensor::<1>::from_floats(floats(&values).as_slice(), &device);
        let weights = || column(noisy.timesteps.iter().map(|&t| self.weights[t]).collect());
        let (each, weighted) = match self.minimised {
            Minimised::SquaredError => {
                let each = squared_error();
                (each.clone(), each * weights())
            }
            Minimised::Bound => {
                let each = image_mean(self.bound(output, v, x_t, noisy));
                (each.clone(), each.mul_scalar(self.schedule.len() as f64))
            }
            Minimised::Hybrid => {
                let each = squared_error();
                let bound = image_mean(self.bound(output.clone().detach(), v, x_t, noisy));
                let scale = loss::hybrid_vb_scale(self.schedule.len());
                (each.clone(), each * weights() + bound.mul_scalar(scale))
            }
        };
        let importance = column(noisy.importance.clone());
        Loss { mean: (weighted.clone() * importance).mean(), each: each.inner(), weighted: weighted.inner() }
    }

    /// The bound's term of every pixel in bits, `[N,H,W,C]`: KL(q(x_{t−1}|x_t,x_0) ‖ p(x_{t−1}|x_t)), and −log₂ p(x_0|x_1)
    /// of 8-bit images at t = 0 (Ho et al. 2020, eq. 5 and 13). x̂0 is not clipped, as in training there.
    fn bound(&self, output: Tensor<4>, v: Option<Tensor<4>>, x_t: &Tensor<4>, noisy: &Noisy) -> Tensor<4> {
        let device = output.device();
        let per_image = |value: &dyn Fn(usize) -> f64| {
            let values: Vec<f32> = noisy.timesteps.iter().map(|&t| value(t) as f32).collect();
            Tensor::<4>::from_data(TensorData::new(values, [noisy.dims[0], 1, 1, 1]), &device)
        };
        let schedule = &self.schedule;
        let x0 = Tensor::<4>::from_data(TensorData::new(noisy.x0.clone(), noisy.dims), &device);

        let to_sample = |t: usize| to_sample(self.prediction, schedule, t);
        let sample = x_t.clone() * per_image(&|t| to_sample(t).x) + output * per_image(&|t| to_sample(t).output);
        let mean = |x0: Tensor<4>| {
            x0 * per_image(&|t| schedule.posterior(t).coef_x0)
                + x_t.clone() * per_image(&|t| schedule.posterior(t).coef_xt)
        };
        let (true_mean, mean) = (mean(x0.clone()), mean(sample));
        let true_log_variance = per_image(&|t| schedule.posterior(t).log_variance_clipped);
        let range = |t: usize| self.variance.log_variance(schedule, t);
        let log_variance = match (self.variance, v) {
            (Variance::Learned, Some(v)) => v,
            (Variance::LearnedRange, Some(v)) => {
                v * per_image(&|t| 0.5 * (range(t).max - range(t).min))
                    + per_image(&|t| 0.5 * (range(t).max + range(t).min))
            }
            _ => per_image(&|t| range(t).max).expand(noisy.dims),
        };

        let difference = true_mean - mean.clone();
        let kl = ((true_log_variance.clone() - log_variance.clone()).exp() - true_log_variance
            + log_variance.clone()
            + difference.clone() * difference * log_variance.clone().neg().exp())
        .sub_scalar(1.0)
        .mul_scalar(0.5);
        let decoder = discretized_gaussian_nll(x0, noisy, mean, log_variance, &device);
        let at_zero = per_image(&|t| f64::from(u8::from(t == 0)));
        let nats = decoder * at_zero.clone() + kl * at_zero.neg().add_scalar(1.0);
        nats.div_scalar(std::f64::consts::LN_2)
    }
}

/// The map from x_t and the network's output to x̂0.
fn to_sample(prediction: Prediction, schedule: &NoiseSchedule, t: usize) -> LinearMap {
    let node = Node { timestep: t as f64, level: schedule.level(t) };
    prediction.preconditioning(node, schedule.previous_level(t)).sample_map()
}

fn floats(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&v| v as f32).collect()
}

/// −ln p(x_0) of the bin of each 8-bit value (Ho et al. 2020, eq. 13), with the reference code's tanh for Φ and its floor.
fn discretized_gaussian_nll(
    x0: Tensor<4>,
    noisy: &Noisy,
    mean: Tensor<4>,
    log_variance: Tensor<4>,
    device: &Device,
) -> Tensor<4> {
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
        let values: Vec<f32> = noisy.x0.iter().map(|&x| f32::from(u8::from(which(x)))).collect();
        Tensor::<4>::from_data(TensorData::new(values, noisy.dims), device)
    };
    let first = log(above.clone()) * mask(&|x| x < -0.999);
    let last = log(below.clone().neg().add_scalar(1.0)) * mask(&|x| x > 0.999);
    let middle = log(above - below) * mask(&|x| (-0.999..=0.999).contains(&x));
    (first + last + middle).neg()
}

#[cfg(test)]
mod tests {
    use super::*;
    use diffusion::{BetaSchedule, Cdf, ReverseStep, VariationalBound};

    fn objective(minimised: Minimised, prediction: Prediction, variance: Variance) -> Objective {
        let schedule = NoiseSchedule::new(BetaSchedule::Linear, 1e-4, 0.02, 100).unwrap();
        Objective { weights: vec![1.0; schedule.len()], schedule, prediction, variance, minimised }
    }

    fn noisy(timesteps: Vec<usize>) -> Noisy {
        let dims = [timesteps.len(), 2, 2, 1];
        let len = 4 * timesteps.len();
        Noisy {
            dims,
            // 8-bit values, both ends among them.
            x0: (0..len).map(|i| ((i * 85) % 256) as f32 / 127.5 - 1.0).collect(),
            epsilon: (0..len).map(|i| ((i * 7919 % 101) as f32 - 50.0) / 30.0).collect(),
            importance: vec![1.0; timesteps.len()],
            timesteps,
        }
    }

    /// Against crate `diffusion`, in f64, for every prediction and variance and at t = 0 too.
    #[test]
    fn the_bound_is_that_of_crate_diffusion() {
        let device = Device::flex();
        for prediction in [Prediction::Epsilon, Prediction::Sample, Prediction::VPrediction, Prediction::PreviousMean] {
            for variance in [Variance::FixedSmall, Variance::FixedLarge, Variance::Learned, Variance::LearnedRange] {
                let objective = objective(Minimised::Bound, prediction, variance);
                let noisy = noisy(vec![0, 1, 40, 99]);
                let channels = if variance.is_learned() { 2 } else { 1 };
                let output: Vec<f32> = (0..16 * channels).map(|i| ((i * 31 % 17) as f32 - 8.0) / 40.0).collect();
                let x_t = objective.q_sample(&noisy);
                let tensor = |v: &[f32], c| Tensor::<4>::from_data(TensorData::new(v.to_vec(), [4, 2, 2, c]), &device);
                let loss = objective.loss(tensor(&output, channels), &tensor(&x_t, 1), &noisy);
                let each: Vec<f64> = loss.each.into_data().iter::<f64>().collect();

                let schedule = &objective.schedule;
                let bound = VariationalBound::new(schedule, Cdf::Tanh);
                for (i, &t) in noisy.timesteps.iter().enumerate() {
                    let pixels = 4 * i..4 * i + 4;
                    let map = to_sample(prediction, schedule, t);
                    let posterior = schedule.posterior(t);
                    let (mut mean, mut log_variance) = (Vec::new(), Vec::new());
                    for p in pixels.clone() {
                        let x0 = map.apply(x_t[p].into(), output[p * channels].into());
                        mean.push(posterior.coef_x0 * x0 + posterior.coef_xt * f64::from(x_t[p]));
                        log_variance.push(match variance {
                            Variance::Learned => f64::from(output[p * channels + 1]),
                            Variance::LearnedRange => {
                                variance.log_variance(schedule, t).interpolate(output[p * channels + 1].into())
                            }
                            _ => variance.log_variance(schedule, t).max,
                        });
                    }
                    let f64s = |v: &[f32]| v[pixels.clone()].iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
                    let (x0, x_t) = (f64s(&noisy.x0), f64s(&x_t));
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
        let noisy = noisy(vec![0, 30]);
        let gradient = |minimised| {
            let objective = objective(minimised, Prediction::Epsilon, Variance::LearnedRange);
            let values: Vec<f32> = (0..16).map(|i| i as f32 / 20.0 - 0.4).collect();
            let output = Tensor::<4>::from_data(TensorData::new(values, [2, 2, 2, 2]), &device).require_grad();
            let x_t = TensorData::new(objective.q_sample(&noisy), noisy.dims);
            let loss = objective.loss(output.clone(), &Tensor::from_data(x_t, &device), &noisy);
            let gradient = output.grad(&loss.mean.backward()).unwrap();
            gradient.into_data().iter::<f32>().collect::<Vec<_>>()
        };
        let (simple, hybrid) = (gradient(Minimised::SquaredError), gradient(Minimised::Hybrid));
        for i in (0..16).step_by(2) {
            assert_eq!(simple[i], hybrid[i]);
            assert_eq!(simple[i + 1], 0.0);
            assert_ne!(hybrid[i + 1], 0.0);
        }
    }

    /// With every target the perfect output has no error.
    #[test]
    fn targets_are_what_a_perfect_network_answers() {
        let device = Device::flex();
        for prediction in [Prediction::Epsilon, Prediction::Sample, Prediction::VPrediction, Prediction::PreviousMean] {
            let objective = objective(Minimised::SquaredError, prediction, Variance::FixedSmall);
            let noisy = noisy(vec![3, 70]);
            let x_t = objective.q_sample(&noisy);
            let output: Vec<f32> = (0..8)
                .map(|p| {
                    let t = noisy.timesteps[p / 4];
                    let schedule = &objective.schedule;
                    // The output that the map to x̂0 takes to x_0.
                    let map = to_sample(prediction, schedule, t);
                    ((f64::from(noisy.x0[p]) - map.x * f64::from(x_t[p])) / map.output) as f32
                })
                .collect();
            let tensor = |v: Vec<f32>| Tensor::<4>::from_data(TensorData::new(v, [2, 2, 2, 1]), &device);
            let loss = objective.loss(tensor(output), &tensor(x_t), &noisy).mean.into_scalar::<f32>();
            assert!(loss < 1e-6, "{prediction}: {loss}");
        }
    }
}
