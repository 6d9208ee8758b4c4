//! The bound of a small network with stored weights: compared with one image at a time computed here, with the prediction
//! from the squared error, and for any batch size.

use crate::common::{denoiser, images, schedule};
use burn::tensor::{Device, Tensor, TensorData};
use ddpm_evaluate::{Chain, Division, Likelihood, likelihood};
use diffusion::bound::discretized_gaussian_nll;
use diffusion::{Cdf, Clip, NoiseSchedule, StepVariance, Variance};
use model::{Condition, Images, NetworkDenoiser};
use random::{Random, Stream};

fn chain<'a>(schedule: &'a NoiseSchedule, timesteps: &'a [usize], variance: Variance) -> Chain<'a> {
    Chain {
        schedule,
        variance,
        log_variances: None,
        timesteps,
        clip_sample: Some(Clip::Range(1.0)),
        values: Default::default(),
        draws: 1,
        batch_size: 7,
        seed: 3,
        division: Division::default(),
    }
}

fn all() -> Vec<usize> {
    (0..20).rev().collect()
}

fn measure(denoiser: &NetworkDenoiser, chain: &Chain) -> Likelihood {
    likelihood(denoiser, &images(16, denoiser.network.signature().in_channels), chain, |_, _| true).unwrap()
}

/// From the definitions, one image and one timestep at a time.
#[test]
fn the_bound_is_that_of_its_definition() {
    let (denoiser, schedule) = (denoiser("ho"), schedule());
    let images = images(16, 3);
    let size = 16 * 16 * 3;
    let timesteps = all();
    let got = measure(&denoiser, &chain(&schedule, &timesteps, Variance::FixedSmall));
    assert_eq!((got.images, got.evaluations, got.points.len()), (3, 20, 20));
    for (image, x0) in images.each().enumerate() {
        let mut nats = 0.0;
        for t in 0..20 {
            let mut epsilon = vec![0.0f32; size];
            Random::new(3).normals(Stream::Evaluate, image as u64, t as u64, &mut epsilon);
            let diffusion::NoiseLevel { alpha: signal, sigma: noise } = schedule.level(t);
            let x_t: Vec<f32> = x0.iter().zip(&epsilon).map(|(x0, e)| signal as f32 * x0 + noise as f32 * e).collect();
            let input = Tensor::<4>::from_data(TensorData::new(x_t.clone(), [1, 16, 16, 3]), &Device::flex());
            let output = denoiser.network.forward(input, &[t as f32], Condition::default(), None);
            let output: Vec<f32> = output.into_data().iter::<f32>().collect();
            let posterior = schedule.posterior(t);
            for i in 0..size {
                let (x0, x_t) = (f64::from(x0[i]), f64::from(x_t[i]));
                let sample = ((x_t - noise * f64::from(output[i])) / signal).clamp(-1.0, 1.0);
                nats += if t == 0 {
                    discretized_gaussian_nll(x0, sample, schedule.posterior(1).variance.ln(), Cdf::Tanh)
                } else {
                    // KL of two Gaussians of the same variance.
                    0.5 * (posterior.coef_x0 * (x0 - sample)).powi(2) / posterior.variance
                };
            }
        }
        for x0 in x0 {
            let diffusion::NoiseLevel { alpha: signal, sigma: noise } = schedule.level(19);
            let mean = signal * f64::from(*x0);
            nats += 0.5 * (mean * mean + noise * noise - 1.0 - 2.0 * noise.ln());
        }
        let bits = nats / (size as f64 * std::f64::consts::LN_2);
        assert!((got.each[image] - bits).abs() < 1e-6 * bits, "{} {bits}", got.each[image]);
    }
    let mean = got.each.iter().sum::<f64>() / 3.0;
    assert!((got.bits_per_dim - mean).abs() < 1e-12);
    let terms: f64 = got.points.iter().map(|point| point.bits).sum();
    assert!((got.prior + terms - mean).abs() < 1e-9 && (got.rate + got.distortion - mean).abs() < 1e-9);
    let curve = got.rate_distortion();
    assert_eq!((curve[0].0, curve[0].1, curve[19].0), (19, got.prior, 0));
    assert!((curve[19].1 - got.rate).abs() < 1e-9);
}

/// The squared error at every t says what any chain costs: exactly, with the same noise.
#[test]
fn shorter_chains_cost_what_the_squared_error_predicts() {
    let (denoiser, schedule) = (denoiser("ho"), schedule());
    let whole = all();
    let profile = measure(&denoiser, &chain(&schedule, &whole, Variance::FixedSmall)).mse_profile();
    let best = profile.best_timesteps(&schedule, 6).unwrap();
    for timesteps in [whole.clone(), vec![19, 14, 9, 4, 0], best] {
        for kind in [Variance::FixedSmall, Variance::FixedLarge] {
            let measured = measure(&denoiser, &chain(&schedule, &timesteps, kind)).bits_per_dim;
            let predicted = profile.bits(&schedule, &timesteps, StepVariance::Fixed(kind)).unwrap();
            assert!((measured - predicted).abs() < 1e-3, "{kind} {timesteps:?}: {measured} {predicted}");
        }
        let log_variances: Vec<_> =
            profile.log_variances(&schedule, &timesteps).unwrap().into_iter().map(|v| vec![v]).collect();
        let given = Chain { log_variances: Some(&log_variances), ..chain(&schedule, &timesteps, Variance::FixedSmall) };
        let measured = measure(&denoiser, &given).bits_per_dim;
        let predicted = profile.bits(&schedule, &timesteps, StepVariance::Optimal).unwrap();
        let fixed =
            measure(&denoiser, &chain(&schedule, &timesteps, Variance::FixedLarge)).optimal_bits(&schedule).unwrap();
        assert!((fixed - predicted).abs() < 1e-9, "whatever variance it was measured with: {fixed} {predicted}");
        assert!((measured - predicted).abs() < 1e-9, "{timesteps:?}: {measured} {predicted}");
        // By channel likewise, and never for more.
        let by_channel = profile.log_variances_by_channel(&schedule, &timesteps).unwrap();
        let given = Chain { log_variances: Some(&by_channel), ..chain(&schedule, &timesteps, Variance::FixedSmall) };
        let per_channel = measure(&denoiser, &given).bits_per_dim;
        let predicted = profile.bits(&schedule, &timesteps, StepVariance::PerChannel).unwrap();
        assert!((per_channel - predicted).abs() < 1e-9, "{timesteps:?}: {per_channel} {predicted}");
        assert!(per_channel < measured);
    }
}

#[test]
fn no_number_depends_on_the_batch_size() {
    let (denoiser, schedule) = (denoiser("ho"), schedule());
    let timesteps = vec![19, 10, 0];
    let with = |batch_size, draws| {
        measure(&denoiser, &Chain { batch_size, draws, ..chain(&schedule, &timesteps, Variance::FixedLarge) })
    };
    assert_eq!(with(1, 2), with(5, 2));
    assert_eq!(with(1, 2), with(64, 2));
    assert_ne!(with(1, 1).each, with(1, 2).each);
}

/// A learned variance is β or β̃ at v = ±1; between the two, its logarithm is interpolated.
#[test]
fn learned_variances_are_read_per_pixel() {
    let (denoiser, schedule) = (denoiser("learned_range"), schedule());
    let timesteps = all();
    let bits = |variance| measure(&denoiser, &chain(&schedule, &timesteps, variance)).bits_per_dim;
    let (learned, small) = (bits(Variance::LearnedRange), bits(Variance::FixedSmall));
    assert!(learned.is_finite() && (learned - small).abs() > 1e-6);
}

#[test]
fn what_does_not_fit_is_refused() {
    let (denoiser, schedule) = (denoiser("ho"), schedule());
    let timesteps = all();
    let good = chain(&schedule, &timesteps, Variance::FixedSmall);
    let images = images(16, 3);
    let refused =
        |images: &Images, chain: &Chain| likelihood(&denoiser, images, chain, |_, _| true).unwrap_err().to_string();
    assert!(refused(&Images { pixels: images.pixels[1..].to_vec(), ..images.clone() }, &good).contains("values"));
    assert!(refused(&Images::default(), &good).contains("no images"));
    assert!(refused(&Images::new([1, 16, 16, 1], vec![0.0; 256]), &good).contains("1 channels"));
    assert!(refused(&images.clone().with_labels(Some(vec![0; 3])), &good).contains("no classes"));
    assert!(refused(&images, &Chain { draws: 0, ..good.clone() }).contains("at least 1"));
    assert!(refused(&images, &Chain { timesteps: &[20, 0], ..good.clone() }).contains("20"));
    assert!(refused(&images, &Chain { timesteps: &[], ..good.clone() }).contains("timestep"));
    assert!(refused(&images, &Chain { log_variances: Some(&[vec![0.0]]), ..good.clone() }).contains("as many"));
    assert!(refused(&images, &Chain { variance: Variance::LearnedRange, ..good.clone() }).contains("learned"));
    assert!(likelihood(&denoiser, &images, &good, |_, _| false).is_err());
}

/// The squared errors of every term, by channel and in pixel values, and the standard error, from the definitions.
#[test]
fn errors_are_those_of_their_definitions() {
    let (denoiser, schedule) = (denoiser("ho"), schedule());
    let images = images(16, 3);
    let (size, draws, timesteps) = (16 * 16 * 3, 2, [19, 7, 0]);
    let got = measure(&denoiser, &Chain { draws, ..chain(&schedule, &timesteps, Variance::FixedLarge) });
    let curve = got.rate_distortion();
    let mut rate = got.prior;
    for (row, &t) in timesteps.iter().enumerate() {
        let (mut channels, mut epsilon_mse) = ([0.0; 3], 0.0);
        for (image, x0) in images.each().enumerate() {
            for draw in 0..draws {
                let mut epsilon = vec![0.0f32; size];
                Random::new(3).normals(Stream::Evaluate, (image * draws + draw) as u64, t as u64, &mut epsilon);
                let diffusion::NoiseLevel { alpha, sigma } = schedule.level(t);
                let x_t: Vec<f32> =
                    x0.iter().zip(&epsilon).map(|(x0, e)| alpha as f32 * x0 + sigma as f32 * e).collect();
                let input = Tensor::<4>::from_data(TensorData::new(x_t.clone(), [1, 16, 16, 3]), &Device::flex());
                let output = denoiser.network.forward(input, &[t as f32], Condition::default(), None);
                for (i, output) in output.into_data().iter::<f64>().enumerate() {
                    let sample = ((f64::from(x_t[i]) - sigma * output) / alpha).clamp(-1.0, 1.0);
                    channels[i % 3] += (sample - f64::from(x0[i])).powi(2) / (size * 2) as f64;
                    epsilon_mse += (output - f64::from(epsilon[i])).powi(2) / (size * 6) as f64;
                }
            }
        }
        let mse = channels.iter().sum::<f64>() / 3.0;
        let (point, (curve_t, curve_rate, rmse)) = (got.points[row], curve[row]);
        assert_eq!((point.timestep, curve_t), (t, t));
        for (found, expected) in [(point.mse, mse), (point.epsilon_mse, epsilon_mse), (rmse, 127.5 * mse.sqrt())] {
            assert!((found - expected).abs() < 1e-5 * expected, "t={t}: {found} {expected}");
        }
        for (found, expected) in got.channels[row].iter().zip(channels) {
            assert!((found - expected).abs() < 1e-5 * expected, "t={t}: {found} {expected}");
        }
        assert!((curve_rate - rate).abs() < 1e-9);
        rate += point.bits;
    }
    let squares: f64 = got.each.iter().map(|bits| (bits - got.bits_per_dim).powi(2)).sum();
    assert!((got.standard_error - (squares / 2.0 / 3.0).sqrt()).abs() < 1e-12);
}
