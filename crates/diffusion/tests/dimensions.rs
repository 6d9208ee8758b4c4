//! Oracles in several dimensions: covariances, reverse kernels, products and conditional laws.

use ddpm_diffusion::oracle::{Component, Gaussian, Mixture, MultivariateGaussian, Product};
use ddpm_diffusion::{BetaSchedule, Node, NoiseSchedule, OdeSolver, Posterior, Prediction};

mod common;

#[track_caller]
fn close(found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() <= tolerance, "{found:e} is not {expected:e} to {tolerance:e}");
}

fn plane() -> Mixture {
    let component = |weight, mean: [f64; 2], variance| Component { weight, mean: mean.to_vec(), variance };
    Mixture::new(vec![
        component(1.0, [-1.0, 0.5], 0.1),
        component(2.0, [1.0, 0.0], 0.3),
        component(1.5, [0.2, -0.8], 0.05),
    ])
    .unwrap()
}

fn correlated() -> MultivariateGaussian {
    MultivariateGaussian::new(vec![0.3, -0.5], vec![vec![0.6, -0.4], vec![-0.4, 0.5]]).unwrap()
}

/// ∂²f/∂x_i∂x_j by central differences.
fn hessian(f: impl Fn(&[f64]) -> f64, x: &[f64], i: usize, j: usize) -> f64 {
    let h = 1e-3;
    let at = |by_i: f64, by_j: f64| {
        let mut x = x.to_vec();
        x[i] += by_i;
        x[j] += by_j;
        f(&x)
    };
    (at(h, h) - at(h, -h) - at(-h, h) + at(-h, -h)) / (4.0 * h * h)
}

/// Tweedie of second order: Cov[x_0 | x_t] = (1−ᾱ)/ᾱ (I + (1−ᾱ) ∇² log q).
#[test]
fn covariances_obey_tweedies_formula() {
    let (mixture, gaussian) = (plane(), correlated());
    for alpha in [0.8, 0.4, 0.1] {
        for x in [[0.2, -0.4], [-0.7, 0.3], [0.9, 0.6]] {
            let covariance = mixture.posterior_covariance(&x, alpha);
            let fixed = gaussian.posterior_covariance(alpha);
            for (i, j) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let tweedie =
                    |hessian: f64| (1.0 - alpha) / alpha * (f64::from(u8::from(i == j)) + (1.0 - alpha) * hessian);
                close(covariance[i][j], tweedie(hessian(|x| mixture.log_density(x, alpha), &x, i, j)), 1e-5);
                close(fixed[i][j], tweedie(hessian(|x| gaussian.log_density(x, alpha), &x, i, j)), 1e-5);
            }
            let trace = covariance[0][0] + covariance[1][1];
            close(trace / 2.0, mixture.posterior_variance(&x, alpha), 1e-13);
        }
    }
}

/// q(x_s | x_t) has the moments that follow from x̂0 and its covariance, and satisfies Bayes' rule pointwise.
#[test]
fn the_reverse_kernel_of_a_mixture() {
    let mixture = plane();
    let (t, s) = (0.2, 0.55);
    let posterior = Posterior::between(t, s);
    let x_t = [0.4, -0.3];
    let reverse = mixture.reverse(&x_t, t, s);
    let (sample, spread) = (mixture.sample(&x_t, t), mixture.posterior_covariance(&x_t, t));
    for i in 0..2 {
        close(reverse.mean()[i], posterior.coef_x0 * sample[i] + posterior.coef_xt * x_t[i], 1e-14);
        for (j, spread) in spread[i].iter().enumerate() {
            let own = if i == j { posterior.variance } else { 0.0 };
            close(reverse.covariance()[i][j], own + posterior.coef_x0.powi(2) * spread, 1e-14);
        }
    }
    // q(x_s | x_t) q(x_t) = q(x_t | x_s) q(x_s).
    let beta = 1.0 - t / s;
    for x_s in [[0.1, 0.2], [-0.6, 0.5], [0.8, -0.9]] {
        let forward: f64 = x_s
            .iter()
            .zip(x_t)
            .map(|(x_s, x_t)| Gaussian { mean: (t / s).sqrt() * x_s, variance: beta }.log_density(x_t, 1.0))
            .sum();
        let expected = forward + mixture.log_density(&x_s, s) - mixture.log_density(&x_t, t);
        close(reverse.log_density(&x_s, 1.0), expected, 1e-12);
    }
}

/// ∫ q(x_s | x_t) q(x_t) dx_t = q(x_s), by quadrature in one dimension.
#[test]
fn the_reverse_kernel_maps_marginal_to_marginal() {
    let mixture = Mixture::univariate(&[(0.3, -1.0, 0.05), (0.5, 0.4, 0.01), (0.2, 1.5, 0.2)]).unwrap();
    for (t, s) in [(0.2, 0.6), (0.01, 0.9), (0.5, 1.0)] {
        for x_s in [-1.1, 0.0, 0.4, 1.3] {
            let carried =
                mixture.expectation(t, |x| mixture.reverse(&[x], t, s).log_density(&[x_s], 1.0).exp()).unwrap();
            close(carried, mixture.log_density(&[x_s], s).exp(), 1e-9);
        }
    }
}

/// A solver of fourth order against the exact flow, on three coordinates with mixtures of their own.
#[test]
fn the_flow_of_a_product() {
    let line = |components: &[(f64, f64, f64)]| Mixture::univariate(components).unwrap();
    let data = Product::new(vec![
        line(&[(0.4, -1.0, 0.1), (0.6, 0.8, 0.2)]),
        line(&[(1.0, 0.3, 0.5)]),
        line(&[(0.5, -0.6, 0.2), (0.5, 0.6, 0.2)]),
    ])
    .unwrap();
    let schedule = NoiseSchedule::new(BetaSchedule::Linear, 1e-4, 0.02, 1000).unwrap();
    let nodes: Vec<Node> =
        (0..=160).map(|i| Node::at(&schedule, schedule.timestep_of_lambda(-4.0 + 0.05 * f64::from(i)))).collect();
    let alpha = |t: f64| schedule.level_at(t).alpha_cumprod();
    let table = OdeSolver::Unipc3.table(&nodes, None).unwrap();
    let start = [0.7, -1.2, 0.05];
    let denoiser = common::denoiser(Prediction::Epsilon, |x, t| data.epsilon(x, alpha(t)));
    let end = table.run(&start, denoiser, |_| vec![]).unwrap();
    let (first, last) = (nodes[0].level.alpha_cumprod(), nodes[160].level.alpha_cumprod());
    let exact = data.flow(&start, first, last).unwrap();
    for (found, expected) in end.iter().zip(&exact) {
        close(*found, *expected, 1e-5);
    }
    // The second coordinate is a Gaussian.
    let one = Gaussian { mean: 0.3, variance: 0.5 };
    close(exact[1], one.flow(start[1], first, last), 1e-12);
    assert!(Product::new(vec![plane()]).is_err());
}

#[test]
fn gaussians_of_any_covariance() {
    let data = correlated();
    for alpha in [0.9, 0.3] {
        let x = [0.8, 0.1];
        let (sample, epsilon) = (data.sample(&x, alpha), data.epsilon(&x, alpha));
        for i in 0..2 {
            let at = |by: f64| {
                let mut x = x;
                x[i] += by;
                data.log_density(&x, alpha)
            };
            let score = (at(1e-5) - at(-1e-5)) / 2e-5;
            close(epsilon[i], -(1.0f64 - alpha).sqrt() * score, 1e-9);
            close(alpha.sqrt() * sample[i] + (1.0 - alpha).sqrt() * epsilon[i], x[i], 1e-14);
        }
    }
    // The density integrates to 1.
    let step = 0.02;
    let line = || (-300..300).map(|i| f64::from(i) * step);
    let mass: f64 = line().flat_map(|x| line().map(move |y| [x, y])).map(|x| data.log_density(&x, 0.6).exp()).sum();
    close(mass * step * step, 1.0, 1e-9);
    // Without correlations each coordinate is a Gaussian of its own.
    let data = MultivariateGaussian::new(vec![0.3, -0.5], vec![vec![0.6, 0.0], vec![0.0, 0.2]]).unwrap();
    let alone = Gaussian { mean: -0.5, variance: 0.2 };
    close(data.sample(&[1.0, 0.4], 0.3)[1], alone.sample(0.4, 0.3), 1e-14);
    close(data.posterior_covariance(0.3)[1][1], alone.mse(0.3), 1e-14);
    for wrong in [vec![vec![1.0]], vec![vec![1.0, 0.2], vec![0.1, 1.0]], vec![vec![1.0, 2.0], vec![2.0, 1.0]]] {
        assert!(MultivariateGaussian::new(vec![0.0, 0.0], wrong).is_err());
    }
}

/// The exact solution of inpainting: p(x_b | x_a) p(x_a) = p(x), and its denoiser is that of x with no noise on x_a.
#[test]
fn conditional_laws() {
    let covariance = vec![vec![0.6, -0.4, 0.1], vec![-0.4, 0.5, 0.05], vec![0.1, 0.05, 0.3]];
    let data = MultivariateGaussian::new(vec![0.3, -0.5, 0.1], covariance).unwrap();
    let (known, x_b) = (0.9, [-0.7, 0.4]);
    let rest = data.conditional(&[None, Some(known), None]).unwrap();
    let of_known = Gaussian { mean: -0.5, variance: 0.5 };
    let whole = data.log_density(&[x_b[0], known, x_b[1]], 1.0);
    close(rest.log_density(&x_b, 1.0) + of_known.log_density(known, 1.0), whole, 1e-12);
    // Conditioning on two coordinates at once, and one after the other.
    let at_once = data.conditional(&[None, Some(known), Some(0.2)]).unwrap();
    let one_by_one = rest.conditional(&[None, Some(0.2)]).unwrap();
    close(at_once.mean()[0], one_by_one.mean()[0], 1e-14);
    close(at_once.covariance()[0][0], one_by_one.covariance()[0][0], 1e-14);
    assert!(data.conditional(&[None, None]).is_err() && data.conditional(&[Some(0.0); 3]).is_err());

    // E[x_b | x_b noised, x_a] on a grid, in two dimensions.
    let data = correlated();
    let rest = data.conditional(&[Some(known), None]).unwrap();
    let (alpha, x_t) = (0.3_f64, 0.2);
    let (mut mass, mut first) = (0.0, 0.0);
    for x in (-8000..8000).map(|i| f64::from(i) * 1e-3) {
        let noise = Gaussian { mean: alpha.sqrt() * x, variance: 1.0 - alpha };
        let p = (data.log_density(&[known, x], 1.0) + noise.log_density(x_t, 1.0)).exp();
        mass += p;
        first += p * x;
    }
    close(rest.sample(&[x_t], alpha)[0], first / mass, 1e-10);
}

/// Replacing the known part at every step does not sample x_b given x_a, since the denoiser sees x_a only with noise.
/// Exact, by propagation of the mean and variance of x_b.
#[test]
fn replacement_alone_is_not_the_posterior() {
    let data = correlated();
    let known = 0.9;
    let exact = data.conditional(&[Some(known), None]).unwrap();
    let schedule = NoiseSchedule::new(BetaSchedule::Linear, 1e-4, 0.02, 1000).unwrap();
    let (mut mean, mut variance) = (0.0, 1.0);
    for t in (0..1000).rev() {
        let (alpha, posterior) = (schedule.alpha_cumprod(t), schedule.posterior(t));
        // x̂0 of b is at + by_a x_a + by_b x_b.
        let denoiser = |x: [f64; 2]| data.sample(&x, alpha)[1];
        let at = denoiser([0.0, 0.0]);
        let (by_a, by_b) = (denoiser([1.0, 0.0]) - at, denoiser([0.0, 1.0]) - at);
        let gain = posterior.coef_x0 * by_b + posterior.coef_xt;
        mean = gain * mean + posterior.coef_x0 * (at + by_a * alpha.sqrt() * known);
        let missed = posterior.coef_x0.powi(2) * (by_a * by_a * (1.0 - alpha) + data.posterior_covariance(alpha)[1][1]);
        variance = gain * gain * variance + missed + posterior.variance;
    }
    let (wanted, unknown) = (exact.mean()[0], data.mean()[1]);
    println!(
        "mean {mean:.4}, wanted {wanted:.4}, without x_a {unknown}; variance {variance:.4}, wanted {:.4}",
        exact.covariance()[0][0]
    );
    let share = (mean - unknown) / (wanted - unknown);
    assert!((0.3..0.95).contains(&share), "{share}");
}
