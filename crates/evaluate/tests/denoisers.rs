//! Likelihoods of denoisers that are more than a network: guided ones, and exact ones of known data.

use std::f64::consts::{E, LN_2, PI};

use crate::common::{denoiser, images, schedule};
use burn::tensor::Device;
use ddpm_evaluate::{Chain, Division, Flow, Likelihood, Trace, flow_likelihood, likelihood};
use diffusion::oracle::{Gaussian, Mixture};
use diffusion::variance::optimal_variance;
use diffusion::{Clip, Node, NoiseLevel, NoiseSchedule, Variance, timesteps};
use model::guidance::Guidance;
use model::{Denoiser, Images, Oracle};
use random::{Random, Stream};

fn chain<'a>(schedule: &'a NoiseSchedule, timesteps: &'a [usize]) -> Chain<'a> {
    Chain {
        schedule,
        variance: Variance::FixedLarge,
        log_variances: None,
        timesteps,
        clip_sample: None,
        values: Default::default(),
        draws: 1,
        batch_size: 16,
        seed: 3,
        division: Division::default(),
    }
}

/// Guidance of scale 1 is none, to the last bit; of scale 2, or to no class, it is another model.
#[test]
fn guided_denoisers_are_scored() {
    let (schedule, timesteps) = (schedule(), [19, 12, 4, 0]);
    let chain =
        Chain { variance: Variance::LearnedRange, clip_sample: Some(Clip::Range(1.0)), ..chain(&schedule, &timesteps) };
    let flow = Flow {
        schedule: &schedule,
        steps: 1,
        trace: Trace::Hutchinson(1),
        draws: 1,
        batch_size: 2,
        seed: 5,
        values: Default::default(),
        division: Division::default(),
    };
    let images = images(8, 3).with_labels(Some(vec![3, 0, 8]));
    let measure = |denoiser: &dyn Denoiser| {
        let bound = likelihood(denoiser, &images, &chain, |_, _| true).unwrap();
        (bound, flow_likelihood(denoiser, &images, &flow, |_, _| true).unwrap())
    };
    let unguided = measure(&denoiser("adm"));
    let guided = |guidance: Guidance| measure(&guidance.around(denoiser("adm")));
    assert_eq!(guided(Guidance::new(1.0, 9)), unguided);
    let twice = guided(Guidance::new(2.0, 9));
    for (a, b) in [(twice.0.bits_per_dim, unguided.0.bits_per_dim), (twice.1.bits_per_dim, unguided.1.bits_per_dim)] {
        assert!(a.is_finite() && (a - b).abs() > 1e-6, "{a} {b}");
    }
    // Outside its interval guidance changes nothing.
    let interval = guided(Guidance { interval: (4.0, 12.0), ..Guidance::new(2.0, 9) });
    let term = |result: &Likelihood, i: usize| result.points[i];
    assert_eq!(term(&interval.0, 0), term(&unguided.0, 0));
    assert_eq!(term(&interval.0, 1), term(&twice.0, 1));
    assert_eq!(term(&interval.0, 3), term(&unguided.0, 3));

    let unlabelled = images.clone().with_labels(None);
    let error = likelihood(&Guidance::new(2.0, 9).around(denoiser("adm")), &unlabelled, &chain, |_, _| true);
    assert!(error.unwrap_err().to_string().contains("a class for each image"));
}

/// 64 images of independent values; `value` makes one of a standard normal and a uniform number.
fn independent(value: impl Fn(f64, f64) -> f64) -> Images {
    let (n, size) = (64, 16 * 16);
    let random = Random::new(11);
    let mut pixels = Vec::with_capacity(n * size);
    for image in 0..n {
        let (mut normals, mut uniforms) = (vec![0.0; size], vec![0.0; size]);
        random.normals(Stream::InitialNoise, image as u64, 0, &mut normals);
        random.uniforms_f64(Stream::InitialNoise, image as u64, 1, &mut uniforms);
        pixels.extend(normals.iter().zip(uniforms).map(|(&z, u)| value(f64::from(z), u) as f32));
    }
    Images::new([n, 16, 16, 1], pixels)
}

/// With the exact denoiser and the optimal variances the bound is tight: the entropy of the data, but for the information
/// that the last x_t still has and the price of the prior.
#[test]
fn an_exact_gaussian_costs_its_entropy() {
    let schedule = schedule();
    let data = Gaussian { mean: 0.1, variance: 0.04 };
    let images = independent(|z, _| data.mean + data.variance.sqrt() * z);
    let oracle = Oracle::new(move |x, node: Node| data.denoise(x, node.level).sample, &Device::flex());
    let alpha = |t: usize| schedule.alpha_cumprod(t);
    for timesteps in [timesteps::all(20), vec![19, 11, 5, 0]] {
        let steps = timesteps
            .windows(2)
            .map(|pair| optimal_variance(alpha(pair[0]), alpha(pair[1]), data.mse(alpha(pair[0]))).ln());
        let log_variances: Vec<_> = steps.chain([data.mse(alpha(0)).ln()]).map(|one| vec![one]).collect();
        let chain = Chain { log_variances: Some(&log_variances), draws: 4, ..chain(&schedule, &timesteps) };
        let got = likelihood(&oracle, &images, &chain, |_, _| true).unwrap();

        for point in &got.points {
            let mse = data.mse(alpha(point.timestep));
            let epsilon_mse = mse * alpha(point.timestep) / (1.0 - alpha(point.timestep));
            assert!((point.mse / mse - 1.0).abs() < 0.055, "{point:?} {mse}");
            assert!((point.epsilon_mse / epsilon_mse - 1.0).abs() < 0.045, "{point:?} {epsilon_mse}");
        }
        let information = |t: usize| data.information(alpha(t)) / LN_2;
        for (point, pair) in got.points.iter().zip(timesteps.windows(2)) {
            let expected = information(pair[1]) - information(pair[0]);
            assert!((point.bits - expected).abs() < 0.045 * expected, "{point:?} {expected}");
        }
        let NoiseLevel { alpha, sigma } = schedule.level(19);
        let second_moment = data.mean * data.mean + data.variance;
        let prior = 0.5 * (alpha * alpha * second_moment + sigma * sigma - 1.0 - 2.0 * sigma.ln()) / LN_2;
        assert!((got.prior - prior).abs() < 0.02 * prior, "{} {prior}", got.prior);
        // In units of an 8-bit value's width.
        let entropy = 0.5 * (2.0 * PI * E * data.variance).log2() + 127.5f64.log2();
        let expected = prior - information(19) + entropy;
        let (bits, error) = (got.bits_per_dim, got.standard_error);
        assert!(error < 0.015 && (bits - expected).abs() < 4.0 * error, "{bits} ± {error}, expected {expected}");
        let optimal = got.optimal_bits(&schedule).unwrap();
        assert!((optimal - expected).abs() < 4.0 * error, "{optimal} ± {error}, expected {expected}");
    }
}

/// The squared error of the exact denoiser of a mixture, which is not linear in x_t, by quadrature.
#[test]
fn an_exact_mixture_has_its_squared_error() {
    let schedule = schedule();
    let data = Mixture::univariate(&[(0.4, -0.5, 0.01), (0.6, 0.4, 0.04)]).unwrap();
    let images = independent(|z, u| if u < 0.4 { -0.5 + 0.1 * z } else { 0.4 + 0.2 * z });
    let exact = data.clone();
    let sample = move |x: &[f64], node: Node| {
        x.iter().flat_map(|&x| exact.sample(&[x], node.level.alpha_cumprod())).collect::<Vec<f64>>()
    };
    let oracle = Oracle::new(sample, &Device::flex());
    let timesteps = [19, 14, 9, 4, 0];
    let got = likelihood(&oracle, &images, &Chain { draws: 4, ..chain(&schedule, &timesteps) }, |_, _| true).unwrap();
    for point in &got.points {
        let mse = data.mse(schedule.alpha_cumprod(point.timestep)).unwrap();
        assert!((point.mse / mse - 1.0).abs() < 0.05, "{point:?} {mse}");
    }
}
