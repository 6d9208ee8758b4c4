//! The variational bound and the loss weights against closed forms.

use std::f64::consts::LN_2;

use ddpm_diffusion::{
    BetaSchedule, Cdf, LossWeight, NoiseLevel, NoiseSchedule, Prediction, ReverseStep, Values, VariationalBound,
    bound::{discretized_gaussian_nll, gaussian_nll, normal_kl},
    loss::hybrid_vb_scale,
    oracle::Gaussian,
    variance::{optimal_rate, optimal_variance},
};

const CDFS: [Cdf; 2] = [Cdf::Tanh, Cdf::Erf];

fn linear(steps: usize) -> NoiseSchedule {
    NoiseSchedule::new(BetaSchedule::Linear, 1e-4, 0.02, steps).unwrap()
}

#[track_caller]
fn close(found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() <= tolerance, "{found:e} is not {expected:e} to {tolerance:e}");
}

fn pixel(byte: u32) -> f64 {
    byte as f64 / 127.5 - 1.0
}

#[test]
fn kl_of_gaussians() {
    assert_eq!(normal_kl(0.3, -1.0, 0.3, -1.0), 0.0);
    // ∫ p ln(p/q) by quadrature.
    let (m1, l1, m2, l2) = (0.4, -0.7, -0.9, 0.5_f64);
    let log_density = |x: f64, m: f64, l: f64| -0.5 * ((x - m).powi(2) * (-l).exp() + l);
    let step = 1e-3;
    let integral: f64 = (-10_000..10_000)
        .map(|i| f64::from(i) * step)
        .map(|x| {
            let (p, q) = (log_density(x, m1, l1), log_density(x, m2, l2));
            p.exp() * (p - q) * step / std::f64::consts::TAU.sqrt()
        })
        .sum();
    close(normal_kl(m1, l1, m2, l2), integral, 1e-10);
}

#[test]
fn cdfs_against_known_values() {
    close(Cdf::Erf.at(1.0), 0.841344746068543, 1e-15);
    close(Cdf::Erf.at(-6.0), 9.865_876_450_376_98e-10, 1e-23);
    // The tanh approximation at z = 1: ½(1 + tanh(√(2/π)·1.044715)).
    close(Cdf::Tanh.at(1.0), 0.5 * (1.0 + (0.797_884_560_802_865_4_f64 * 1.044715).tanh()), 1e-15);
    let worst =
        (-600..600).map(|i| f64::from(i) / 100.0).map(|z| (Cdf::Tanh.at(z) - Cdf::Erf.at(z)).abs()).fold(0.0, f64::max);
    assert!((1.7e-4..1.9e-4).contains(&worst), "{worst:e}");
    for cdf in CDFS {
        assert_eq!((cdf.at(f64::INFINITY), cdf.at(f64::NEG_INFINITY)), (1.0, 0.0));
        for z in [-4.0, -0.3, 0.0, 1.7] {
            close(cdf.at(z) + cdf.at(-z), 1.0, 1e-15);
        }
    }
}

#[test]
fn the_discretised_decoder_sums_to_one() {
    for cdf in CDFS {
        for (mean, log_variance) in [(0.0, -9.8), (0.31, -5.0), (-1.0, -3.0), (1.7, -1.0), (0.99, 4.0), (0.0, -14.0)] {
            let total: f64 =
                (0..256).map(|b| (-discretized_gaussian_nll(pixel(b), mean, log_variance, cdf)).exp()).sum();
            // The floor of 1e-12 per bin is part of the reference code.
            close(total, 1.0, if cdf == Cdf::Tanh { 3e-10 } else { 1e-12 });
        }
    }
    // A bin in the middle: Φ((1/255)/σ) − Φ(−(1/255)/σ) at σ = 1/255.
    let mass = (-discretized_gaussian_nll(0.2, 0.2, 2.0 * (1.0_f64 / 255.0).ln(), Cdf::Erf)).exp();
    close(mass, 0.682689492137086, 1e-12);
    // Half the mass of an edge bin lies beyond the edge.
    let mass = (-discretized_gaussian_nll(1.0, 1.0, 2.0 * (1.0_f64 / 255.0).ln(), Cdf::Erf)).exp();
    close(mass, 0.841344746068543, 1e-12);
    // The values next to the edges have bins of ordinary width.
    let inner = discretized_gaussian_nll(pixel(254), 5.0, 0.0, Cdf::Erf);
    assert!(inner > discretized_gaussian_nll(pixel(255), 5.0, 0.0, Cdf::Erf) + 10.0);
}

#[test]
fn likelihoods_far_from_the_mean() {
    let far = discretized_gaussian_nll(-0.5, 0.5, -12.0, Cdf::Tanh);
    close(far, 12.0 * 10.0_f64.ln(), 1e-12);
    assert!(discretized_gaussian_nll(-0.5, f64::NAN, -12.0, Cdf::Tanh).is_nan());
    // The exact distribution function has no floor: Φ(−20) ≈ 2.754e-89.
    let exact = discretized_gaussian_nll(1.0, 1.0 - 1.0 / 255.0 - 20.0, 0.0, Cdf::Erf);
    close(exact, -2.7536241186061556e-89_f64.ln(), 1e-9);
    // The same in the right tail.
    let exact = discretized_gaussian_nll(-1.0, -1.0 + 1.0 / 255.0 + 20.0, 0.0, Cdf::Erf);
    close(exact, -2.7536241186061556e-89_f64.ln(), 1e-9);
}

/// The expected term, a quadratic in (x_0, ε) under N(m, s²) × N(0, 1), by a quadrature of four points, which is exact.
fn expected_term(bound: &VariationalBound, data: Gaussian, t: usize, log_variance: f64) -> f64 {
    let s = bound.schedule;
    let NoiseLevel { alpha, sigma } = s.level(t);
    let posterior = s.posterior(t);
    let mut sum = 0.0;
    for (u, z) in [(1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0)] {
        let x0 = data.mean + data.variance.sqrt() * u;
        let xt = alpha * x0 + sigma * z;
        let mean = posterior.coef_x0 * data.sample(xt, s.alpha_cumprod(t)) + posterior.coef_xt * xt;
        sum += bound.term(t, &[x0], &[xt], ReverseStep { mean: &[mean], log_variance: &[log_variance] }).unwrap();
    }
    sum / 4.0
}

/// With the exact denoiser and the optimal variance, each KL is the gain in information I(x_0; x_{t−1}) − I(x_0; x_t).
#[test]
fn each_term_is_the_gain_in_information() {
    for data in [Gaussian { mean: 0.3, variance: 0.35 }, Gaussian { mean: 0.0, variance: 1.0 }] {
        for schedule in [linear(1000), linear(1000).respace(&[999, 801, 400, 120, 33, 4, 0]).unwrap()] {
            let bound = VariationalBound::new(&schedule, Cdf::Erf);
            let mut total = 0.0;
            for t in 1..schedule.len() {
                let (now, prev) = (schedule.alpha_cumprod(t), schedule.alpha_cumprod(t - 1));
                let variance = optimal_variance(now, prev, data.mse(now));
                let term = expected_term(&bound, data, t, variance.ln());
                close(term, optimal_rate(now, prev, data.mse(now)) / LN_2, 1e-10);
                close(term, (data.information(prev) - data.information(now)) / LN_2, 1e-10);
                // Any other variance costs more.
                assert!(expected_term(&bound, data, t, variance.ln() + 0.1) > term + 1e-4);
                assert!(expected_term(&bound, data, t, variance.ln() - 0.1) > term + 1e-4);
                total += term;
            }
            let last = schedule.alpha_cumprod(schedule.len() - 1);
            let expected = data.information(schedule.alpha_cumprod(0)) - data.information(last);
            close(total, expected / LN_2, 1e-10);
        }
    }
}

/// With the exact reverse kernel and a decoder of variance Var[x_0 | x_t at t = 0], the bound is
/// H(x_0) + KL(q(x_T) ‖ N(0, 1)) for any number of steps.
#[test]
fn the_bound_is_the_entropy() {
    let data = Gaussian { mean: 0.3, variance: 0.35 };
    for steps in [1000, 28, 12] {
        let timesteps = ddpm_diffusion::TimestepSpacing::Linspace.timesteps(1000, steps, 0).unwrap();
        let schedule = linear(1000).respace(&timesteps).unwrap();
        let bound = VariationalBound::new(&schedule, Cdf::Erf);
        // The prior is quadratic in x_0, so two points give its exact mean.
        let deviation = data.variance.sqrt();
        let prior = bound.prior(&[data.mean + deviation, data.mean - deviation]).unwrap() * LN_2;
        let last = schedule.alpha_cumprod(steps - 1);
        let end = data.marginal(last);
        let kl = normal_kl(end.mean, end.variance.ln(), 0.0, 0.0);
        close(prior, data.information(last) + kl, 1e-12);
        let rates: f64 = (1..steps)
            .map(|t| {
                let (now, prev) = (schedule.alpha_cumprod(t), schedule.alpha_cumprod(t - 1));
                expected_term(&bound, data, t, optimal_variance(now, prev, data.mse(now)).ln()) * LN_2
            })
            .sum();
        let entropy = |variance: f64| 0.5 * (std::f64::consts::TAU * std::f64::consts::E * variance).ln();
        let decoder = entropy(data.mse(schedule.alpha_cumprod(0)));
        close(prior + rates + decoder, entropy(data.variance) + kl, 1e-10);
    }
}

#[test]
fn the_prior_term() {
    let schedule = linear(1000);
    let bound = VariationalBound::new(&schedule, Cdf::Tanh);
    let prior = |x0: &[f64]| bound.prior(x0).unwrap();
    // 5.9e-10 + 2.9e-5 E[x_0²] bits/dim for Ho et al.'s schedule.
    close(prior(&[0.0, 0.0]), 5.9e-10, 5e-12);
    close(prior(&[1.0, -1.0]), 2.91e-5, 2e-8);
    close(prior(&[1.0, 0.0]), (prior(&[1.0]) + prior(&[0.0])) / 2.0, 1e-18);
    assert!(bound.prior::<f64>(&[]).is_err());
}

#[test]
fn slices_of_wrong_length_are_errors() {
    let schedule = linear(10);
    let bound = VariationalBound::new(&schedule, Cdf::Tanh);
    let (two, three): (&[f32], &[f32]) = (&[0.0; 2], &[0.0; 3]);
    let term = |t, x0, xt, mean, log_variance| bound.term(t, x0, xt, ReverseStep { mean, log_variance });
    assert!(term(1, two, two, two, two).is_ok());
    // A single log-variance applies to all elements.
    assert_eq!(term(1, two, two, two, &[-3.0]), term(1, two, two, two, &[-3.0, -3.0]));
    let message = |result: Result<f64, ddpm_diffusion::Error>| result.unwrap_err().to_string();
    assert_eq!(message(term(1, two, three, two, two)), "xt has 3 entries, expected 2");
    assert_eq!(message(term(1, two, two, three, two)), "mean has 3 entries, expected 2");
    assert_eq!(message(term(1, two, two, two, three)), "log_variance has 3 entries, expected 2");
    assert!(term(1, two, two, two, &[]).is_err());
    assert_eq!(message(term(1, &[], &[], &[], &[0.0])), "xt has 0 entries, expected 1");
    assert!(term(10, two, two, two, two).is_err());
}

#[test]
fn loss_weights() {
    // SNR: 9, 2.25 (= 9/4), then 1.
    let schedule =
        NoiseSchedule::from_betas(vec![0.1, 1.0 - 0.692307692307692 / 0.9, 1.0 - 0.5 / 0.692307692307692]).unwrap();
    let weights = |weight: LossWeight, prediction| weight.weights(&schedule, prediction).unwrap();
    let min_snr = LossWeight::MinSnr { gamma: 2.0 };
    assert_eq!(weights(LossWeight::Simple, Prediction::VPrediction), [1.0; 3]);
    for (prediction, expected) in [
        (Prediction::Epsilon, [2.0 / 9.0, 2.0 / 2.25, 1.0]),
        (Prediction::Sample, [2.0, 2.0, 1.0]),
        (Prediction::VPrediction, [2.0 / 10.0, 2.0 / 3.25, 0.5]),
    ] {
        for (found, expected) in weights(min_snr.clone(), prediction).into_iter().zip(expected) {
            close(found, expected, 1e-12);
        }
    }
    assert!(min_snr.weights(&schedule, Prediction::PreviousMean).is_err());
    assert!(LossWeight::MinSnr { gamma: 0.0 }.weights(&schedule, Prediction::Epsilon).is_err());
    let list = LossWeight::List(vec![0.0, 2.0, 1.0]);
    assert_eq!(weights(list.clone(), Prediction::Epsilon), [0.0, 2.0, 1.0]);
    assert!(LossWeight::List(vec![1.0]).weights(&schedule, Prediction::Epsilon).is_err());
    for wrong in [-1.0, f64::NAN, f64::INFINITY] {
        assert!(LossWeight::List(vec![1.0, wrong, 1.0]).weights(&schedule, Prediction::Epsilon).is_err());
    }
    // At zero SNR.
    let jsd = NoiseSchedule::new(BetaSchedule::Jsd, 0.0, 0.0, 4).unwrap();
    assert_eq!(min_snr.weights(&jsd, Prediction::Epsilon).unwrap()[3], 1.0);
    assert_eq!(min_snr.weights(&jsd, Prediction::Sample).unwrap()[3], 0.0);
    for (weight, json) in [
        (LossWeight::Simple, r#""simple""#),
        (min_snr, r#"{"min_snr":{"gamma":2.0}}"#),
        (list, r#"{"list":[0.0,2.0,1.0]}"#),
    ] {
        assert_eq!(serde_json::to_string(&weight).unwrap(), json);
        assert_eq!(serde_json::from_str::<LossWeight>(json).unwrap(), weight);
    }
    assert_eq!((hybrid_vb_scale(4000), hybrid_vb_scale(1000)), (4.0, 1.0));
}

/// The decoder of real numbers is a density: it integrates to 1, and a unit of the data shifts it by its logarithm.
#[test]
fn the_decoder_of_real_numbers_is_a_density() {
    let (mean, log_variance): (f64, f64) = (0.3, -1.7);
    let density = |x: f64| (-gaussian_nll(x, mean, log_variance)).exp();
    let step = 1e-3;
    let moment = |f: &dyn Fn(f64) -> f64| {
        (-8000..8000).map(|i| f64::from(i) * step).map(|x| f(x) * density(x)).sum::<f64>() * step
    };
    assert!((moment(&|_| 1.0) - 1.0).abs() < 1e-9);
    assert!((moment(&|x| x) - mean).abs() < 1e-9);
    assert!((moment(&|x| (x - mean).powi(2)) - log_variance.exp()).abs() < 1e-9);
    let nll = |values: Values| values.decoder_nll(0.1, mean, log_variance, Cdf::Tanh);
    let scaled = nll(Values::Reals { log_scale: 0.8 });
    assert!((scaled - nll(Values::Reals { log_scale: 0.0 }) - 0.8).abs() < 1e-12);
    // A bin of 2/255 of a smooth density has nearly its mass.
    let bin = nll(Values::Bytes) + (2.0f64 / 255.0).ln();
    assert!((bin - nll(Values::Reals { log_scale: 0.0 })).abs() < 1e-2, "{bin}");
    let schedule = NoiseSchedule::new(BetaSchedule::Linear, 1e-4, 0.02, 50).unwrap();
    let bound = VariationalBound::new(&schedule, Cdf::Tanh).of(Values::Reals { log_scale: 0.8 });
    let term =
        bound.term(0, &[0.1, 0.1], &[0.0, 0.0], ReverseStep { mean: &[mean, mean], log_variance: &[log_variance] });
    assert!((term.unwrap() * std::f64::consts::LN_2 - scaled).abs() < 1e-12);
}
