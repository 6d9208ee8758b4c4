//! Schedules against closed forms, an independent computation, published numbers and invariants.

use ddpm_diffusion::{
    BetaSchedule, Error, Node, NoiseLevel, NoiseSchedule, Posterior, Prediction, Variance, beta_schedule, variance,
};
use proptest::prelude::*;

fn linear(steps: usize) -> NoiseSchedule {
    NoiseSchedule::new(BetaSchedule::Linear, 1e-4, 0.02, steps).unwrap()
}

#[track_caller]
fn close(found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() <= tolerance, "{found:e} is not {expected:e} to {tolerance:e}");
}

/// Ho et al.'s schedule with T = 1000, against numbers computed elsewhere.
#[test]
fn ho_numbers() {
    let s = linear(1000);
    close(s.alpha_cumprod(0), 0.9999, 1e-15);
    close(s.alpha_cumprod(499), 0.0785872, 5e-8);
    close(s.alpha_cumprod(999), 4.03583e-5, 5e-11);
    close(s.level(999).alpha, 0.00635282, 5e-9);
    close(s.betas()[0], 1e-4, 1e-18);
    close(s.betas()[1], 1.199199e-4, 5e-11);
    close(s.betas()[999], 0.02, 1e-17);
    assert_eq!(s.posterior(0).variance, 0.0);
    close(s.posterior(1).variance, 5.453188e-5, 5e-12);
    // Both fixed variances have ln β̃_1 at t = 0.
    for kind in [Variance::FixedSmall, Variance::FixedLarge] {
        let at_0 = kind.log_variance(&s, 0);
        close(at_0.min, -9.816725, 5e-7);
        close((0.5 * at_0.max).exp(), 0.00738457, 5e-9);
    }
    close(Variance::FixedSmall.log_variance(&s, 1).min, 5.453188e-5_f64.ln(), 1e-6);
    close(Variance::FixedLarge.log_variance(&s, 1).min, 1.199199e-4_f64.ln(), 1e-6);
    close(Variance::FixedLarge.diffusers_log_variance(s.alpha_cumprod(0), 1.0).min, 1e-4_f64.ln(), 1e-11);
    close(Variance::FixedSmall.diffusers_log_variance(s.alpha_cumprod(0), 1.0).min, 1e-20_f64.ln(), 1e-12);
    assert_eq!((s.posterior(0).coef_x0, s.posterior(0).coef_xt), (1.0, 0.0));
}

/// Every table, by different arithmetic: ᾱ as the exponential of a sum of logarithms, posteriors by precision
/// weighting.
#[test]
fn tables_equal_an_independent_computation() {
    for steps in [2, 10, 1000, 4000] {
        let s = linear(steps);
        let mut log_alpha_cumprod = 0.0_f64;
        for t in 0..steps {
            let beta = 1e-4 + (0.02 - 1e-4) * t as f64 / (steps - 1) as f64;
            let alpha_cumprod_prev = log_alpha_cumprod.exp();
            log_alpha_cumprod += (-beta).ln_1p();
            let alpha_cumprod = log_alpha_cumprod.exp();
            close(s.betas()[t], beta, 1e-15);
            close(s.alpha_cumprod(t), alpha_cumprod, 1e-12);
            close(s.previous_level(t).alpha_cumprod(), alpha_cumprod_prev, 1e-12);
            close(s.level(t).alpha, (0.5 * log_alpha_cumprod).exp(), 1e-12);
            close(s.level(t).sigma, (-log_alpha_cumprod.exp_m1()).sqrt(), 1e-12);
            let log_snr = log_alpha_cumprod - (-log_alpha_cumprod.exp_m1()).ln();
            close(s.log_snr(t), log_snr, 1e-10);
            close(s.snr(t) / log_snr.exp(), 1.0, 1e-10);
            if t > 0 {
                // Product of N(x_s; √ᾱ_s x_0, 1−ᾱ_s) and N(x_t; √α x_s, β) as functions of x_s.
                let (prior, likelihood) = (1.0 / (1.0 - alpha_cumprod_prev), (1.0 - beta) / beta);
                let precision = prior + likelihood;
                let p = s.posterior(t);
                close(p.variance, 1.0 / precision, 1e-12);
                close(p.log_variance_clipped, -precision.ln(), 1e-9);
                close(p.coef_x0, prior * alpha_cumprod_prev.sqrt() / precision, 1e-12);
                close(p.coef_xt, (1.0 - beta).sqrt() / beta / precision, 1e-12);
            }
        }
    }
}

#[test]
fn every_rule_against_its_formula() {
    let close_all = |found: &[f64], expected: &[f64]| {
        assert_eq!(found.len(), expected.len());
        found.iter().zip(expected).for_each(|(&f, &e)| close(f, e, 1e-15));
    };
    close_all(&BetaSchedule::Linear.betas(0.1, 0.4, 4), &[0.1, 0.2, 0.3, 0.4]);
    close_all(&BetaSchedule::ScaledLinear.betas(0.01, 0.16, 4), &[0.01, 0.04, 0.09, 0.16]);
    close_all(&BetaSchedule::Const.betas(0.1, 0.4, 3), &[0.4, 0.4, 0.4]);
    close_all(&BetaSchedule::Jsd.betas(0.1, 0.4, 4), &[0.25, 1.0 / 3.0, 0.5, 1.0]);
    // Both ends are exact.
    for steps in 2..200 {
        let betas = BetaSchedule::Linear.betas(1e-4, 0.02, steps);
        assert_eq!((betas[0], betas[steps - 1]), (1e-4, 0.02));
    }
    let warm = BetaSchedule::Warmup10.betas(0.1, 0.4, 25);
    close_all(&warm[..3], &[0.1, 0.4, 0.4]); // int(25 · 0.1) = 2 steps from 0.1 to 0.4
    let warm = BetaSchedule::Warmup50.betas(0.1, 0.4, 9);
    close_all(&warm, &[0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4]);
    close_all(&BetaSchedule::Warmup10.betas(0.1, 0.4, 5), &[0.4; 5]);
    let logistic = |x: f64| 0.1 + 0.3 * (1.0 + (0.5 * x).tanh()) / 2.0;
    close_all(&BetaSchedule::Sigmoid.betas(0.1, 0.4, 5), &[-6.0, -3.0, 0.0, 3.0, 6.0].map(logistic));

    // Cosine: below the cap, ᾱ_t is the squared cosine relative to its value at 0.
    let s = NoiseSchedule::new(BetaSchedule::SquaredcosCapV2, 0.0, 0.0, 1000).unwrap();
    let cosine = |t: f64| ((t + 0.008) / 1.008 * std::f64::consts::PI / 2.0).cos().powi(2);
    for t in 0..999 {
        close(s.alpha_cumprod(t), cosine((t + 1) as f64 / 1000.0) / cosine(0.0), 1e-12);
    }
    assert_eq!(s.betas()[999], 0.999);

    // JSD: ᾱ_t = 1 − (t+1)/T, which ends at 0.
    let s = NoiseSchedule::new(BetaSchedule::Jsd, 0.0, 0.0, 8).unwrap();
    (0..8).for_each(|t| close(s.alpha_cumprod(t), 1.0 - (t + 1) as f64 / 8.0, 1e-15));
    assert_eq!((s.alpha_cumprod(7), s.log_snr(7)), (0.0, f64::NEG_INFINITY));

    close(beta_schedule::scaled_beta_range(1000).0, 1e-4, 1e-18);
    close(beta_schedule::scaled_beta_range(4000).1, 0.005, 1e-17);
}

#[test]
fn respacing_keeps_the_noise_levels() {
    let s = linear(1000);
    let timesteps = [999, 700, 20, 3];
    let chain = s.respace(&timesteps).unwrap();
    assert_eq!(chain.len(), 4);
    for (i, &t) in timesteps.iter().rev().enumerate() {
        assert_eq!(chain.alpha_cumprod(i), s.alpha_cumprod(t));
    }
    close(chain.betas()[0], 1.0 - s.alpha_cumprod(3), 1e-15);
    close(chain.betas()[2], 1.0 - s.alpha_cumprod(700) / s.alpha_cumprod(20), 1e-15);
    close(
        chain.posterior(3).variance,
        {
            let (t, s) = (s.alpha_cumprod(999), s.alpha_cumprod(700));
            (1.0 - s) / (1.0 - t) * (1.0 - t / s)
        },
        1e-15,
    );
    assert_eq!(chain.posterior(0).log_variance_clipped, chain.posterior(1).variance.ln());
    let all: Vec<usize> = (0..1000).rev().collect();
    for (respaced, &beta) in s.respace(&all).unwrap().betas().iter().zip(s.betas()) {
        close(*respaced, beta, 1e-12);
    }
    let one = s.respace(&[999]).unwrap();
    close(one.posterior(0).log_variance_clipped, (1.0 - s.alpha_cumprod(999)).ln(), 1e-15);
}

#[test]
fn zero_terminal_snr() {
    let s = linear(1000).rescale_zero_terminal_snr().unwrap();
    assert_eq!((s.alpha_cumprod(999), s.snr(999), s.betas()[999]), (0.0, 0.0, 1.0));
    close(s.alpha_cumprod(0), 0.9999, 1e-15);
    // √ᾱ is an affine function of the old √ᾱ.
    let old = linear(1000);
    let slope = |t: usize| (s.level(t).alpha - s.level(0).alpha) / (old.level(t).alpha - old.level(0).alpha);
    close(slope(500), slope(999), 1e-12);
    assert!(linear(1).rescale_zero_terminal_snr().is_err());
}

#[test]
fn invalid_schedules_are_errors() {
    assert_eq!(NoiseSchedule::from_betas(vec![]), Err(Error::EmptySchedule));
    for (betas, t) in [(vec![0.1, 0.0], 1), (vec![-0.1], 0), (vec![1.0, 0.5], 0), (vec![0.1, 1.5], 1)] {
        let beta = betas[t];
        assert_eq!(NoiseSchedule::from_betas(betas), Err(Error::Beta { t, beta }));
    }
    assert!(matches!(NoiseSchedule::from_betas(vec![0.1, f64::NAN]), Err(Error::Beta { t: 1, .. })));
    assert!(matches!(NoiseSchedule::from_betas(vec![1e-30]), Err(Error::AlphaCumprod { t: 0, .. })));
    assert!(matches!(NoiseSchedule::from_betas(vec![0.999; 200]), Err(Error::AlphaCumprod { .. })));
    let message = NoiseSchedule::new(BetaSchedule::Linear, 0.5, 1.2, 10).unwrap_err().to_string();
    assert!(message.contains("betas[7] is 1.04"), "{message}");
    let s = linear(10);
    for timesteps in [&[3, 3][..], &[3, 5], &[10, 1], &[]] {
        assert!(s.respace(timesteps).is_err(), "{timesteps:?}");
    }
}

/// x_{t−1} drawn from the posterior of a noised x_t has the law q(x_{t−1}): Bayes' rule, in the moments and pointwise
/// in the densities.
#[test]
fn q_sample_then_posterior_is_bayes_rule() {
    let s = NoiseSchedule::new(BetaSchedule::Sigmoid, 1e-3, 0.3, 40).unwrap();
    let log_normal = |x: f64, mean: f64, variance: f64| {
        -0.5 * ((x - mean).powi(2) / variance + (std::f64::consts::TAU * variance).ln())
    };
    for t in 1..40 {
        let NoiseLevel { alpha: a, sigma: v } = s.level(t);
        let NoiseLevel { alpha: a_prev, sigma: v_prev } = s.level(t - 1);
        let p = s.posterior(t);
        close(p.coef_x0 + p.coef_xt * a, a_prev, 1e-12);
        close(p.coef_xt.powi(2) * v * v + p.variance, v_prev * v_prev, 1e-12);
        let beta = s.betas()[t];
        for (x0, xs, xt) in [(0.3, -0.2, 1.1), (-1.0, 0.7, 0.0), (0.9, 0.8, -2.0)] {
            // q(x_s | x_t, x_0) q(x_t | x_0) = q(x_t | x_s) q(x_s | x_0)
            let left = log_normal(xs, p.coef_x0 * x0 + p.coef_xt * xt, p.variance) + log_normal(xt, a * x0, v * v);
            let right = log_normal(xt, (1.0 - beta).sqrt() * xs, beta) + log_normal(xs, a_prev * x0, v_prev * v_prev);
            close(left, right, 1e-9 * left.abs().max(1.0));
        }
    }
}

#[test]
fn predictions_are_inverse_to_their_targets() {
    for s in [linear(1000), NoiseSchedule::new(BetaSchedule::SquaredcosCapV2, 0.0, 0.0, 50).unwrap()] {
        for (_, prediction) in Prediction::NAMES {
            for t in [0, 1, s.len() / 2, s.len() - 2] {
                let (x0, epsilon) = (0.37, -1.21);
                let node = Node { timestep: t as f64, level: s.level(t) };
                let x_t = node.level.alpha * x0 + node.level.sigma * epsilon;
                let target = prediction.target(&s, t);
                let output = target.sample * x0 + target.epsilon * epsilon;
                let previous = prediction.previous_level(&s, node.timestep).unwrap();
                assert_eq!(previous, s.previous_level(t));
                let (to_sample, to_epsilon) = prediction.maps(node, previous).unwrap();
                close(to_sample.apply(x_t, output), x0, 1e-9);
                close(to_epsilon.apply(x_t, output), epsilon, 1e-9);
                let row = prediction.preconditioning(node, previous);
                assert_eq!(row.sample_map(), to_sample);
                if !prediction.is_edm() {
                    assert_eq!((row.c_in, row.c_noise), (1.0, node.timestep));
                }
            }
        }
    }
    // The targets in numbers, with α = 0.6 and σ = 0.8.
    let s = NoiseSchedule::from_betas(vec![0.64]).unwrap();
    let target = |prediction: Prediction| prediction.target(&s, 0);
    close(target(Prediction::VPrediction).sample, -0.8, 1e-15);
    close(target(Prediction::VPrediction).epsilon, 0.6, 1e-15);
    assert_eq!((target(Prediction::Epsilon).sample, target(Prediction::Epsilon).epsilon), (0.0, 1.0));
    assert_eq!((target(Prediction::Sample).sample, target(Prediction::Sample).epsilon), (1.0, 0.0));
    // The previous mean at t = 0 is the data.
    close(target(Prediction::PreviousMean).sample, 1.0, 1e-15);
    close(target(Prediction::PreviousMean).epsilon, 0.0, 1e-15);
}

/// Against the formulas of Karras et al. (2022, table 1), which are those of y = x/α with the noise σ/α. For data of the
/// deviation ½, the network's input and its target have variance 1 at each noise level.
#[test]
fn edm_has_the_preconditioning_of_the_paper() {
    let chain = NoiseSchedule::new(BetaSchedule::Karras, 0.0, 0.0, 1000).unwrap();
    let ratio = |t: usize| chain.level(t).noise_ratio();
    close(ratio(0), 0.002, 1e-12);
    close(ratio(999), 80.0, 1e-9);
    let root = |t: usize| ratio(t).powf(1.0 / 7.0);
    close(root(333), root(0) + (root(999) - root(0)) / 3.0, 1e-9);
    for t in [0, 1, 300, 600, 999] {
        let node = Node { timestep: t as f64, level: chain.level(t) };
        let (sigma, alpha) = (ratio(t), node.level.alpha);
        let row = Prediction::Edm.preconditioning(node, NoiseLevel::DATA);
        let total = sigma * sigma + 0.25;
        close(row.c_skip * alpha, 0.25 / total, 1e-12);
        close(row.c_out, sigma * 0.5 / total.sqrt(), 1e-12);
        close(row.c_in * alpha, 1.0 / total.sqrt(), 1e-12);
        close(row.c_noise, sigma.ln() / 4.0, 1e-9);
        // Of x_0 with variance ¼ and ε with variance 1.
        close(row.c_in.powi(2) * (0.25 * alpha.powi(2) + node.level.sigma.powi(2)), 1.0, 1e-12);
        let target = Prediction::Edm.target(&chain, t);
        close(0.25 * target.sample.powi(2) + target.epsilon.powi(2), 1.0, 1e-12);
        // EDM's weight of the error of x̂0, (σ² + ¼)/(σ/2)², is 1 in terms of the output.
        close(total / (0.5 * sigma).powi(2) * row.c_out.powi(2), 1.0, 1e-12);
    }
}

/// Against the formulas of Karras et al. (2022, table 1) and their references, for y = x/α with the noise σ/α.
#[test]
fn other_preconditioners_are_those_of_the_paper() {
    let chain =
        |prediction: Prediction| NoiseSchedule::new(prediction.own_schedule().unwrap(), 0.0, 0.0, 1000).unwrap();
    let row = |prediction: Prediction, chain: &NoiseSchedule, t: usize| {
        let node = Node { timestep: t as f64, level: chain.level(t) };
        (node.level.alpha, node.level.noise_ratio(), prediction.preconditioning(node, NoiseLevel::DATA))
    };
    // σ(t)² + 1 = exp(∫β), β(s) = 0.1 + 19.9 s, as a sum over small steps. c_in of y is 1/√(σ² + 1), that is α.
    let vp = chain(Prediction::EdmVp);
    for t in [0, 1, 250, 500, 999] {
        let time = 1e-5 + (1.0 - 1e-5) * t as f64 / 999.0;
        let integral: f64 =
            (0..1000).map(|i| (0.1 + 19.9 * time * (f64::from(i) + 0.5) / 1000.0) * time / 1000.0).sum();
        let (alpha, sigma, row) = row(Prediction::EdmVp, &vp, t);
        close(sigma, (integral.exp() - 1.0).sqrt(), 1e-9 * sigma.max(1.0));
        close(row.c_noise, 999.0 * time, 1e-6);
        close(alpha * row.c_in, 1.0 / (sigma * sigma + 1.0).sqrt(), 1e-12);
        close(alpha * row.c_skip, 1.0, 1e-12);
        close(row.c_out, -sigma, 1e-9 * sigma);
    }
    let ve = chain(Prediction::EdmVe);
    for (t, expected) in [(0, 0.02), (333, (0.02f64 * 0.02 * 100.0).cbrt()), (999, 100.0)] {
        let (alpha, sigma, row) = row(Prediction::EdmVe, &ve, t);
        close(sigma, expected, 1e-9 * sigma.max(1.0));
        close(row.c_noise, (expected / 2.0).ln(), 1e-8);
        close(alpha * row.c_in, 1.0, 1e-12);
        close(alpha * row.c_skip, 1.0, 1e-12);
        close(row.c_out, sigma, 1e-9 * sigma);
    }
    // The recursion of Karras et al. (2022, appendix C.3): u_M = 0, and u_j from u_{j+1}; the timestep is M − 1 − j.
    let iddpm = chain(Prediction::EdmIddpm);
    let bar = |j: f64| (0.5 * std::f64::consts::PI * j / 1000.0 / 1.008).sin().powi(2);
    let mut u = 0.0f64;
    for t in 0..1000 {
        let j = 999.0 - f64::from(t);
        u = ((u * u + 1.0) / (bar(j) / bar(j + 1.0)).max(0.001) - 1.0).sqrt();
        let (alpha, sigma, row) = row(Prediction::EdmIddpm, &iddpm, t as usize);
        close(sigma, u, 1e-7 * u.max(1.0));
        assert_eq!(row.c_noise, f64::from(t));
        close(alpha * row.c_in, 1.0 / (sigma * sigma + 1.0).sqrt(), 1e-12);
    }
    // Between two levels it is the nearer one.
    let [low, high] = [400, 401].map(|t| iddpm.level(t).noise_ratio());
    for (share, expected) in [(0.49, 400.0), (0.51, 401.0)] {
        let level = NoiseLevel::from_noise_ratio(low + share * (high - low));
        let row = Prediction::EdmIddpm.preconditioning(Node { timestep: 400.5, level }, NoiseLevel::DATA);
        assert_eq!(row.c_noise, expected);
    }
    assert_eq!((iddpm.nearest_timestep(0.0), iddpm.nearest_timestep(1e9)), (0, 999));
}

/// The previous mean is defined between two timesteps of the training chain; other predictions at every noise level.
#[test]
fn previous_levels() {
    let s = linear(10);
    assert_eq!((s.previous_level(0), s.previous_level(4)), (NoiseLevel::DATA, s.level(3)));
    for timestep in [3.5, -1.0, 10.0] {
        let message = Prediction::PreviousMean.previous_level(&s, timestep).unwrap_err().to_string();
        assert!(message.contains("previous_mean") && message.contains(&format!("t = {timestep}")), "{message}");
        assert!(Prediction::Epsilon.previous_level(&s, timestep).is_ok());
    }
    assert_eq!(Prediction::PreviousMean.previous_level(&s, 9.0).unwrap(), s.level(8));
}

#[test]
fn learned_variances() {
    let s = linear(100);
    let range = Variance::LearnedRange.log_variance(&s, 40);
    assert_eq!(range.interpolate(-1.0), s.posterior(40).variance.ln());
    assert_eq!(range.interpolate(1.0), s.betas()[40].ln());
    close(range.interpolate(0.5), 0.75 * range.max + 0.25 * range.min, 1e-14);
    close(range.interpolate(0.3 + 1e-3) - range.interpolate(0.3), 0.5 * (range.max - range.min) * 1e-3, 1e-12);
    assert_eq!(Variance::LearnedRange.log_variance(&s, 0).min, s.posterior(1).variance.ln());
    assert_eq!(Variance::LearnedRange.log_variance(&s, 0).max, s.betas()[0].ln());
    // With `learned`, v is the log-variance.
    assert_eq!(Variance::Learned.diffusers_log_variance(0.5, 0.7), Variance::Learned.log_variance(&s, 7));
    for v in [-9.5, -1.0, 0.0, 2.0] {
        close(Variance::Learned.log_variance(&s, 7).interpolate(v), v, 1e-14);
    }
    let learned: Vec<bool> = Variance::NAMES.iter().map(|(_, v)| v.is_learned()).collect();
    assert_eq!(learned, [false, false, true, true]);
}

/// Ho et al. section 3.2: β̃ is optimal for data at a point, β for data of unit variance.
#[test]
fn the_optimal_variance_spans_the_fixed_ones() {
    let s = linear(1000);
    for (t, prev) in [(1, 0), (500, 499), (999, 30), (640, 639)] {
        let (now, before) = (s.alpha_cumprod(t), s.alpha_cumprod(prev));
        let posterior = Posterior::between(now, before);
        close(variance::optimal_variance(now, before, 0.0), posterior.variance, 1e-16);
        close(variance::optimal_variance(now, before, 1.0 - now), 1.0 - now / before, 1e-14);
        let mse = 0.37;
        let ratio = variance::optimal_variance(now, before, mse) / posterior.variance;
        close(ratio, 1.0 + (s.snr(prev) - s.snr(t)) * mse, 1e-9 * ratio);
        close(variance::optimal_rate(now, before, mse), 0.5 * ratio.ln(), 1e-9);
    }
    close(variance::optimal_variance(s.alpha_cumprod(5), 1.0, 0.02), 0.02, 1e-15);
}

/// Every variant has a name, which is also its serialized form.
#[test]
fn names() {
    fn round_trip<T>(names: &[(&str, T)])
    where
        T: std::fmt::Display + std::str::FromStr<Err = Error> + PartialEq + std::fmt::Debug + Copy,
        T: serde::Serialize + serde::de::DeserializeOwned,
    {
        for &(name, value) in names {
            assert_eq!(value.to_string(), name);
            assert_eq!(name.parse::<T>().unwrap(), value);
            assert_eq!(serde_json::to_string(&value).unwrap(), format!("\"{name}\""));
            assert_eq!(serde_json::from_str::<T>(&format!("\"{name}\"")).unwrap(), value);
        }
        assert!("nothing".parse::<T>().unwrap_err().to_string().contains(names[0].0));
    }
    round_trip(&BetaSchedule::NAMES);
    round_trip(&Prediction::NAMES);
    round_trip(&Variance::NAMES);
    round_trip(&ddpm_diffusion::TimestepSpacing::NAMES);
    let alias =
        |name: &str| (name.parse::<BetaSchedule>().unwrap(), serde_json::from_str(&format!("\"{name}\"")).unwrap());
    assert_eq!(alias("cosine"), (BetaSchedule::SquaredcosCapV2, BetaSchedule::SquaredcosCapV2));
    assert_eq!(alias("quad"), (BetaSchedule::ScaledLinear, BetaSchedule::ScaledLinear));
    assert_eq!("fixed_large_log".parse(), Ok(Variance::FixedLarge));
    assert_eq!("fixed_small_log".parse(), Ok(Variance::FixedSmall));
}

#[test]
fn schedules_are_serialized_as_betas() {
    let s = linear(37);
    let json = serde_json::to_string(&s).unwrap();
    assert_eq!(serde_json::from_str::<NoiseSchedule>(&json).unwrap(), s);
    assert!(serde_json::from_str::<NoiseSchedule>("[0.1, 2.0]").unwrap_err().to_string().contains("betas[1]"));
}

fn any_schedule() -> impl Strategy<Value = (BetaSchedule, NoiseSchedule)> {
    let rules = BetaSchedule::NAMES.map(|(_, rule)| rule);
    (proptest::sample::select(rules.to_vec()), 2_usize..4000, 1e-5..1e-3_f64, 1e-3..0.05_f64).prop_map(
        |(rule, steps, start, end)| (rule, NoiseSchedule::new(rule, start, end, steps).expect("a valid schedule")),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn invariants((rule, s) in any_schedule()) {
        // JSD ends at ᾱ = 0.
        let last = if rule == BetaSchedule::Jsd { s.len() - 1 } else { s.len() };
        for t in 0..s.len() {
            prop_assert!(s.betas()[t] > 0.0 && s.betas()[t] <= 1.0);
            prop_assert!(s.level(t).alpha < s.previous_level(t).alpha);
            let NoiseLevel { alpha, sigma } = s.level(t);
            prop_assert!((alpha * alpha + sigma * sigma - 1.0).abs() < 1e-14);
            prop_assert!(t == 0 || s.snr(t) < s.snr(t - 1));
            let p = s.posterior(t);
            prop_assert!(p.log_variance_clipped.is_finite() && p.coef_x0 > 0.0 && p.coef_xt >= 0.0);
            prop_assert!(p.variance >= 0.0 && p.variance <= s.betas()[t] * (1.0 + 1e-9));
        }
        for t in 0..last {
            prop_assert!(s.alpha_cumprod(t) > 0.0 && s.log_snr(t).is_finite());
            for (_, prediction) in Prediction::NAMES {
                let node = Node { timestep: t as f64, level: s.level(t) };
                let row = prediction.preconditioning(node, s.previous_level(t));
                prop_assert!(row.c_skip.is_finite() && row.c_out.is_finite());
            }
        }
    }

    #[test]
    fn zero_terminal_snr_keeps_the_order((rule, s) in any_schedule()) {
        prop_assume!(rule != BetaSchedule::Jsd);
        let zero = s.rescale_zero_terminal_snr().unwrap();
        prop_assert_eq!(zero.alpha_cumprod(s.len() - 1), 0.0);
        prop_assert!((1..s.len()).all(|t| zero.alpha_cumprod(t) < zero.alpha_cumprod(t - 1)));
        prop_assert!((0..s.len()).all(|t| zero.alpha_cumprod(t) <= s.alpha_cumprod(t) + 1e-15));
    }
}

#[test]
fn log_snr_runs_evenly_between_vdms_end_points() {
    let schedule = NoiseSchedule::new(BetaSchedule::LogSnr, 0.0, 0.0, 1000).unwrap();
    for (t, expected) in [(0, 13.3), (999, -5.0), (333, 13.3 - 18.3 / 3.0)] {
        assert!((schedule.log_snr(t) - expected).abs() < 1e-8, "{t}: {}", schedule.log_snr(t));
    }
}

#[test]
fn schedules_say_whether_they_take_a_beta_range() {
    for (name, schedule) in BetaSchedule::NAMES {
        let depends = schedule.betas(1e-4, 0.02, 100) != schedule.betas(2e-4, 0.03, 100);
        assert_eq!(schedule.takes_beta_range(), depends, "{name}");
    }
}
