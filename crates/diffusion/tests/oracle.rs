//! The oracles against their definitions: Bayes' rule by quadrature, Tweedie's formula, I-MMSE, the probability-flow
//! ODE.

use ddpm_diffusion::oracle::{Component, Gaussian, Mixture};

#[track_caller]
fn close(found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() <= tolerance, "{found:e} is not {expected:e} to {tolerance:e}");
}

const DATA: Gaussian = Gaussian { mean: 0.7, variance: 0.3 };

fn three() -> Mixture {
    Mixture::univariate(&[(0.3, -1.0, 0.05), (0.5, 0.4, 0.01), (0.2, 1.5, 0.2)]).unwrap()
}

/// (evidence, mean, variance) of x_0 given x_t, from prior × likelihood on a grid.
fn bayes(prior: impl Fn(f64) -> f64, x_t: f64, alpha_cumprod: f64) -> (f64, f64, f64) {
    let (signal, noise_variance) = (alpha_cumprod.sqrt(), 1.0 - alpha_cumprod);
    let step = 1e-3;
    let (mut mass, mut first, mut second) = (0.0, 0.0, 0.0);
    for x0 in (-8000..8000).map(|i| f64::from(i) * step) {
        let likelihood = (-0.5 * (x_t - signal * x0).powi(2) / noise_variance).exp()
            / (std::f64::consts::TAU * noise_variance).sqrt();
        let p = prior(x0) * likelihood * step;
        mass += p;
        first += p * x0;
        second += p * x0 * x0;
    }
    let mean = first / mass;
    (mass, mean, second / mass - mean * mean)
}

#[test]
fn gaussian_denoiser_is_bayes_rule() {
    for alpha_cumprod in [0.9, 0.3, 0.01] {
        for x_t in [-1.5, 0.2, 3.0] {
            let (evidence, mean, variance) = bayes(|x| DATA.log_density(x, 1.0).exp(), x_t, alpha_cumprod);
            close(DATA.log_density(x_t, alpha_cumprod), evidence.ln(), 1e-9);
            close(DATA.sample(x_t, alpha_cumprod), mean, 1e-10);
            close(DATA.mse(alpha_cumprod), variance, 1e-10);
            // x_t = √ᾱ x̂0 + √(1−ᾱ) ε̂
            let epsilon = DATA.epsilon(x_t, alpha_cumprod);
            close(alpha_cumprod.sqrt() * mean + (1.0 - alpha_cumprod).sqrt() * epsilon, x_t, 1e-10);
            // ε̂ = −√(1−ᾱ) ∇ log q
            let h = 1e-5;
            let score =
                (DATA.log_density(x_t + h, alpha_cumprod) - DATA.log_density(x_t - h, alpha_cumprod)) / (2.0 * h);
            close(epsilon, -(1.0 - alpha_cumprod).sqrt() * score, 1e-9);
        }
    }
    close(DATA.mse(0.5), 0.3 / 1.3, 1e-15);
    close(DATA.sample(0.123, 1.0), 0.123, 1e-15);
}

/// dI/dSNR = M/2 (Guo, Shamai & Verdú 2005).
#[test]
fn i_mmse() {
    let at_snr = |snr: f64| snr / (1.0 + snr);
    for snr in [0.01, 1.0, 50.0] {
        let h = 1e-5 * snr;
        let slope = (DATA.information(at_snr(snr + h)) - DATA.information(at_snr(snr - h))) / (2.0 * h);
        close(slope, DATA.mse(at_snr(snr)) / 2.0, 1e-8);
    }
    // The same for a mixture, whose information is h(x_t) − h(ε).
    let mixture = three();
    let information = |snr: f64| {
        let alpha = at_snr(snr);
        let entropy = -mixture.expectation(alpha, |x| mixture.log_density(&[x], alpha)).unwrap();
        entropy - 0.5 * (std::f64::consts::TAU * std::f64::consts::E * (1.0 - alpha)).ln()
    };
    for snr in [0.3, 5.0, 80.0] {
        let h = 1e-3 * snr;
        let slope = (information(snr + h) - information(snr - h)) / (2.0 * h);
        close(slope / (mixture.mse(at_snr(snr)).unwrap() / 2.0), 1.0, 1e-5);
    }
}

/// The reverse kernel maps the marginal at t to the marginal at s.
#[test]
fn gaussian_reverse_kernel() {
    let (t, s) = (0.2, 0.6);
    let (from, to) = (DATA.marginal(t), DATA.marginal(s));
    let at_mean = DATA.reverse(from.mean, t, s);
    let slope = DATA.reverse(from.mean + 1.0, t, s).mean - at_mean.mean;
    close(at_mean.mean, to.mean, 1e-14);
    close(slope * slope * from.variance + at_mean.variance, to.variance, 1e-14);
    // Cov(x_s, x_t) = √(ᾱ_t/ᾱ_s) Var x_s.
    close(slope * from.variance, (t / s).sqrt() * to.variance, 1e-14);
}

/// dx/dσ = ε̂ for x/√ᾱ and σ² = 1/SNR, by central differences along the exact flow.
#[test]
fn flows_solve_the_probability_flow_ode() {
    let alpha = |sigma: f64| 1.0 / (1.0 + sigma * sigma);
    let mixture = three();
    for sigma in [0.2, 1.0, 5.0] {
        let now = alpha(sigma);
        let h = 1e-4 * sigma;
        for x in [-0.8, 0.1, 0.9] {
            let slope = |flow: &dyn Fn(f64) -> f64| {
                let scaled = |sigma: f64| flow(alpha(sigma)) / alpha(sigma).sqrt();
                (scaled(sigma + h) - scaled(sigma - h)) / (2.0 * h)
            };
            close(slope(&|s| DATA.flow(x, now, s)), DATA.epsilon(x, now), 1e-6);
            close(slope(&|s| mixture.flow(x, now, s).unwrap()), mixture.epsilon(&[x], now)[0], 1e-6);
        }
        close(mixture.flow(0.3, now, now).unwrap(), 0.3, 1e-13);
    }
    // Forth and back, in both tails.
    for x in [-3.9, 0.2, 4.4] {
        let there = mixture.flow(x, 1e-4, 1.0).unwrap();
        close(mixture.flow(there, 1.0, 1e-4).unwrap(), x, 1e-9);
    }
}

#[test]
fn mixture_denoiser_is_bayes_rule() {
    let mixture = three();
    for alpha_cumprod in [0.95, 0.5, 0.02] {
        for x_t in [-1.2, 0.35, 0.6, 2.5] {
            let (evidence, mean, variance) = bayes(|x| mixture.log_density(&[x], 1.0).exp(), x_t, alpha_cumprod);
            close(mixture.log_density(&[x_t], alpha_cumprod), evidence.ln(), 1e-9);
            close(mixture.sample(&[x_t], alpha_cumprod)[0], mean, 1e-9);
            close(mixture.posterior_variance(&[x_t], alpha_cumprod), variance, 1e-9);
            let epsilon = mixture.epsilon(&[x_t], alpha_cumprod)[0];
            close(alpha_cumprod.sqrt() * mean + (1.0 - alpha_cumprod).sqrt() * epsilon, x_t, 1e-9);
        }
        // Tweedie: E x̂0 = E x_0, and M_t = E x_0² − E x̂0².
        let moment = |power| mixture.expectation(alpha_cumprod, |x| mixture.sample(&[x], alpha_cumprod)[0].powi(power));
        let data_moment = |power| mixture.expectation(1.0, |x| x.powi(power)).unwrap();
        close(moment(1).unwrap(), data_moment(1), 1e-10);
        close(mixture.mse(alpha_cumprod).unwrap(), data_moment(2) - moment(2).unwrap(), 1e-9);
    }
    close(mixture.expectation(0.4, |_| 1.0).unwrap(), 1.0, 1e-12);
    close(mixture.expectation(1.0, |x| x).unwrap(), -0.3 + 0.5 * 0.4 + 0.2 * 1.5, 1e-12);
}

#[test]
fn a_mixture_of_one_is_a_gaussian() {
    let one = Mixture::univariate(&[(3.0, DATA.mean, DATA.variance)]).unwrap();
    assert_eq!(one.components()[0].weight, 1.0);
    for (x, a) in [(0.3, 0.7), (-2.0, 0.1)] {
        close(one.sample(&[x], a)[0], DATA.sample(x, a), 1e-14);
        close(one.epsilon(&[x], a)[0], DATA.epsilon(x, a), 1e-14);
        close(one.log_density(&[x], a), DATA.log_density(x, a), 1e-14);
        close(one.mse(a).unwrap(), DATA.mse(a), 1e-12);
        close(one.flow(x, a, 0.9).unwrap(), DATA.flow(x, a, 0.9), 1e-12);
    }
    let (below, above) = one.cdf(DATA.mean - 6.0 * DATA.variance.sqrt(), 1.0).unwrap();
    close(below, 9.865_876_450_376_98e-10, 1e-23);
    close(below + above, 1.0, 1e-15);
}

#[test]
fn mixtures_in_two_dimensions() {
    let component = |weight, mean: [f64; 2], variance| Component { weight, mean: mean.to_vec(), variance };
    let mixture = Mixture::new(vec![component(1.0, [-1.0, 0.5], 0.1), component(3.0, [1.0, 0.0], 0.3)]).unwrap();
    let (x, a) = ([0.2, -0.4], 0.5);
    let r = mixture.responsibilities(&x, a);
    close(r[0] + r[1], 1.0, 1e-15);
    // Tweedie in each direction.
    for i in 0..2 {
        let shifted = |by: f64| {
            let mut x = x;
            x[i] += by;
            mixture.log_density(&x, a)
        };
        let score = (shifted(1e-5) - shifted(-1e-5)) / 2e-5;
        close(mixture.epsilon(&x, a)[i], -(1.0_f64 - a).sqrt() * score, 1e-9);
        close(mixture.sample(&x, a)[i], (x[i] + (1.0 - a) * score) / a.sqrt(), 1e-9);
    }
    // Tweedie, second order: Tr Cov = (1−ᾱ)/ᾱ (D + (1−ᾱ) Δ log q).
    let h = 1e-4;
    let laplacian: f64 = (0..2)
        .map(|i| {
            let at = |by: f64| {
                let mut x = x;
                x[i] += by;
                mixture.log_density(&x, a)
            };
            (at(h) - 2.0 * at(0.0) + at(-h)) / (h * h)
        })
        .sum();
    close(mixture.posterior_variance(&x, a), (1.0 - a) / a * (2.0 + (1.0 - a) * laplacian) / 2.0, 1e-6);
    assert_eq!(mixture.dims(), 2);
    assert!(mixture.cdf(0.0, a).is_err() && mixture.flow(0.0, a, 1.0).is_err() && mixture.mse(a).is_err());
}

#[test]
fn invalid_mixtures_are_errors() {
    assert!(Mixture::new(vec![]).is_err());
    for wrong in [(0.0, 1.0, 1.0), (1.0, 1.0, 0.0), (f64::NAN, 1.0, 1.0), (1.0, 1.0, f64::INFINITY)] {
        assert!(Mixture::univariate(&[wrong]).is_err(), "{wrong:?}");
    }
    let component = |mean: Vec<f64>| Component { weight: 1.0, mean, variance: 1.0 };
    assert!(Mixture::new(vec![component(vec![0.0]), component(vec![0.0, 1.0])]).is_err());
}
