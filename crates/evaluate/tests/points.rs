//! The bound and the flow's likelihood of points, against mixtures whose density is known.

use burn::tensor::{Device, Tensor, TensorData, activation::softmax};
use ddpm_evaluate::{Chain, Division, Flow, Trace, flow_likelihood, likelihood};
use diffusion::oracle::{Component, Mixture};
use diffusion::{BetaSchedule, Node, NoiseSchedule, Values, Variance};
use model::{Condition, Denoised, Denoiser, Error, Images};
use random::{Random, Stream};

/// The exact denoiser of a mixture of normal distributions in the plane, in operations that can be differentiated.
#[derive(Clone)]
struct Exact(Mixture);

impl Denoiser for Exact {
    fn denoise(&self, x_t: Tensor<4>, nodes: &[Node], _: Condition) -> Result<Denoised, Error> {
        let [n, _, _, d] = x_t.dims();
        let device = x_t.device();
        let column = |f: &dyn Fn(Node) -> f64| {
            let values: Vec<f32> = (0..n).map(|i| f(nodes[if nodes.len() == 1 { 0 } else { i }]) as f32).collect();
            Tensor::<2>::from_data(TensorData::new(values, [n, 1]), &device)
        };
        let x = x_t.clone().reshape([n, d]);
        let (mut logits, mut means) = (Vec::new(), Vec::new());
        for Component { weight, mean, variance } in self.0.components() {
            let mean: Vec<f32> = mean.iter().map(|&m| m as f32).collect();
            let mean = Tensor::<2>::from_data(TensorData::new(mean, [1, d]), &device);
            let total = column(&|node| node.level.alpha.powi(2) * variance + node.level.sigma.powi(2));
            let error = x.clone() - column(&|node| node.level.alpha) * mean.clone();
            let square = (error.clone() * error.clone()).sum_dim(1) / total.clone();
            let constant = column(&|_| weight.ln()) - total.clone().log().mul_scalar(d as f64 / 2.0);
            logits.push(constant - square.mul_scalar(0.5));
            means.push(mean + error * column(&|node| node.level.alpha * variance) / total);
        }
        let shares = softmax(Tensor::cat(logits, 1), 1);
        let mut sample = Tensor::<2>::zeros([n, d], &device);
        for (k, mean) in means.into_iter().enumerate() {
            sample = sample + shares.clone().narrow(1, k, 1) * mean;
        }
        Ok(Denoised::from_sample(x_t, sample.reshape([n, 1, 1, d]), nodes))
    }

    fn check(&self, _: [usize; 4], _: Condition) -> Result<(), Error> {
        Ok(())
    }

    fn check_node(&self, _: Node) -> Result<(), Error> {
        Ok(())
    }

    fn device(&self) -> Device {
        Device::flex()
    }

    fn with_input_gradients(&self) -> Result<Box<dyn Denoiser>, Error> {
        Ok(Box::new(self.clone()))
    }
}

fn mixture() -> Mixture {
    let component = |weight: f64, mean: [f64; 2], variance: f64| Component { weight, mean: mean.to_vec(), variance };
    Mixture::new(vec![
        component(0.5, [1.1, 0.2], 0.04),
        component(0.3, [-0.9, 0.8], 0.09),
        component(0.2, [-0.4, -1.2], 0.02),
    ])
    .unwrap()
}

fn draw(mixture: &Mixture, n: usize) -> Images {
    let random = Random::new(1);
    let mut values = Vec::new();
    for i in 0..n {
        let mut z = [0.0f32; 2];
        random.normals(Stream::Noise, i as u64, 0, &mut z);
        let mut u = random.uniform(Stream::Label, i as u64, 0);
        let mut components = mixture.components().iter();
        let mut chosen = components.next().unwrap();
        while u >= chosen.weight {
            u -= chosen.weight;
            chosen = components.next().unwrap_or(chosen);
        }
        values.extend((0..2).map(|d| chosen.mean[d] as f32 + chosen.variance.sqrt() as f32 * z[d]));
    }
    Images::new([n, 1, 1, 2], values)
}

fn schedule(steps: usize) -> NoiseSchedule {
    // The same Σβ for any number of steps.
    NoiseSchedule::new(BetaSchedule::Linear, 0.02 / steps as f64, 20.0 / steps as f64, steps).unwrap()
}

/// −log₂ p of each point in the units of data that are e^log_scale times the points, per dimension.
fn exact_bits(mixture: &Mixture, points: &Images, log_scale: f64) -> Vec<f64> {
    let bits = |point: &[f32]| {
        let point: Vec<f64> = point.iter().map(|&x| f64::from(x)).collect();
        (log_scale - mixture.log_density(&point, 1.0) / 2.0) / std::f64::consts::LN_2
    };
    points.each().map(bits).collect()
}

/// The bound of the exact denoiser is above the entropy, and reaches it as the chain gets longer.
#[test]
fn the_bound_of_a_mixture_reaches_its_entropy() {
    let (mixture, log_scale) = (mixture(), 0.7);
    let points = draw(&mixture, 150);
    let exact = exact_bits(&mixture, &points, log_scale);
    let entropy = exact.iter().sum::<f64>() / 150.0;
    let gap = |steps: usize| {
        let schedule = schedule(steps);
        let timesteps: Vec<usize> = (0..steps).rev().collect();
        let chain = Chain {
            schedule: &schedule,
            variance: Variance::FixedLarge,
            log_variances: None,
            timesteps: &timesteps,
            clip_sample: None,
            values: Values::Reals { log_scale },
            draws: 4,
            batch_size: 4096,
            seed: 3,
            division: Division::default(),
        };
        let bound = likelihood(&Exact(mixture.clone()), &points, &chain, |_, _| true).unwrap();
        assert_eq!(bound.bits_per_point, Some(2.0 * bound.bits_per_dim));
        // The spread over noise draws, point by point, as the entropy of the same points is known.
        let differences: Vec<f64> = bound.each.iter().zip(&exact).map(|(bound, exact)| bound - exact).collect();
        let mean = differences.iter().sum::<f64>() / 150.0;
        assert!((mean - (bound.bits_per_dim - entropy)).abs() < 1e-9);
        let variance = differences.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / 150.0;
        (mean, (variance / 150.0).sqrt())
    };
    let ((short, error), (long, long_error)) = (gap(30), gap(600));
    assert!(short > 3.0 * error && short > 2.0 * long, "{short} ± {error}, {long} ± {long_error}");
    assert!(long > -3.0 * long_error && long < 0.03 + 3.0 * long_error, "{long} ± {long_error}");
}

/// The flow of the exact denoiser has the density of the data at the first noise level.
#[test]
fn the_flow_of_a_mixture_has_its_density() {
    let (mixture, log_scale) = (mixture(), -1.3);
    let points = draw(&mixture, 20);
    let schedule = schedule(400);
    let flow = Flow {
        schedule: &schedule,
        steps: 200,
        trace: Trace::Exact,
        draws: 1,
        batch_size: 64,
        seed: 0,
        values: Values::Reals { log_scale },
        division: Division::default(),
    };
    let found = flow_likelihood(&Exact(mixture.clone()), &points, &flow, |_, _| true).unwrap();
    assert_eq!(found.bits_per_point, Some(2.0 * found.bits_per_dim));
    let alpha_cumprod = schedule.alpha_cumprod(0);
    for (point, found) in points.each().zip(&found.each) {
        let at: Vec<f64> = point.iter().map(|&x| alpha_cumprod.sqrt() * f64::from(x)).collect();
        let nats = -(mixture.log_density(&at, alpha_cumprod) / 2.0) - 0.5 * alpha_cumprod.ln() + log_scale;
        let expected = nats / std::f64::consts::LN_2;
        assert!((found - expected).abs() < 5e-3, "{found} {expected}");
    }
    let exact = exact_bits(&mixture, &points, log_scale);
    let entropy = exact.iter().sum::<f64>() / 20.0;
    assert!((found.bits_per_dim - entropy).abs() < 5e-3, "{} {entropy}", found.bits_per_dim);
}
