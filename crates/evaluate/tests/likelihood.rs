//! The bound of a small network with stored weights: against one image at a time computed here, against what the squared
//! error alone predicts, and for any batch size.

use burn::tensor::{Device, Tensor, TensorData};
use ddpm_evaluate::{Chain, Flow, Images, Likelihood, Trace, flow_likelihood, likelihood};
use diffusion::bound::discretized_gaussian_nll;
use diffusion::{BetaSchedule, Cdf, Clip, NoiseSchedule, Prediction, StepVariance, Variance};
use random::{Random, Stream};
use unet::{Config, Parameters, Unet};
use weights::read_safetensors;

fn network(name: &str) -> Unet {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../unet/tests/goldens").join(name);
    let config = Config::read(&folder.join("config.json")).unwrap();
    let (tensors, _) = read_safetensors(folder.join("weights.safetensors")).unwrap();
    Unet::new(&config, 0, &Device::flex()).unwrap().with_tensors(tensors).unwrap()
}

fn schedule() -> NoiseSchedule {
    NoiseSchedule::new(BetaSchedule::Linear, 1e-3, 0.2, 20).unwrap()
}

/// Three images of 8-bit values, both ends among them.
fn pixels(unet: &Unet) -> (Vec<f32>, [usize; 3]) {
    let shape = [16, 16, unet.config().in_channels];
    let size: usize = shape.iter().product();
    ((0..3 * size).map(|i| ((i * 7919 % 256) as f32) / 127.5 - 1.0).collect(), shape)
}

fn chain<'a>(schedule: &'a NoiseSchedule, timesteps: &'a [usize], variance: Variance) -> Chain<'a> {
    Chain {
        schedule,
        prediction: Prediction::Epsilon,
        variance,
        log_variances: None,
        timesteps,
        clip_sample: Some(Clip::Range(1.0)),
        draws: 1,
        batch_size: 7,
        seed: 3,
    }
}

fn all() -> Vec<usize> {
    (0..20).rev().collect()
}

fn measure(unet: &Unet, chain: &Chain) -> Likelihood {
    let (pixels, shape) = pixels(unet);
    likelihood(unet, Images { pixels: &pixels, shape, labels: None }, chain, |_, _| true).unwrap()
}

/// From the definitions, one image and one timestep at a time.
#[test]
fn the_bound_is_that_of_its_definition() {
    let (unet, schedule) = (network("ho"), schedule());
    let (pixels, shape) = pixels(&unet);
    let size: usize = shape.iter().product();
    let timesteps = all();
    let got = measure(&unet, &chain(&schedule, &timesteps, Variance::FixedSmall));
    assert_eq!((got.images, got.evaluations, got.points.len()), (3, 20, 20));
    for (image, x0) in pixels.chunks(size).enumerate() {
        let mut nats = 0.0;
        for t in 0..20 {
            let mut epsilon = vec![0.0f32; size];
            Random::new(3).normals(Stream::Evaluate, image as u64, t as u64, &mut epsilon);
            let diffusion::NoiseLevel { alpha: signal, sigma: noise } = schedule.level(t);
            let x_t: Vec<f32> = x0.iter().zip(&epsilon).map(|(x0, e)| signal as f32 * x0 + noise as f32 * e).collect();
            let input = Tensor::<4>::from_data(
                TensorData::new(x_t.clone(), [1, shape[0], shape[1], shape[2]]),
                &Device::flex(),
            );
            let answer: Vec<f32> = unet.forward(input, &[t as f32], None, None).into_data().iter::<f32>().collect();
            let posterior = schedule.posterior(t);
            for i in 0..size {
                let (x0, x_t) = (f64::from(x0[i]), f64::from(x_t[i]));
                let sample = ((x_t - noise * f64::from(answer[i])) / signal).clamp(-1.0, 1.0);
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
    let (unet, schedule) = (network("ho"), schedule());
    let whole = all();
    let denoising = measure(&unet, &chain(&schedule, &whole, Variance::FixedSmall)).denoising();
    let best = denoising.best_timesteps(&schedule, 6).unwrap();
    for timesteps in [whole.clone(), vec![19, 14, 9, 4, 0], best] {
        for kind in [Variance::FixedSmall, Variance::FixedLarge] {
            let measured = measure(&unet, &chain(&schedule, &timesteps, kind)).bits_per_dim;
            let predicted = denoising.bits(&schedule, &timesteps, StepVariance::Fixed(kind)).unwrap();
            assert!((measured - predicted).abs() < 1e-3, "{kind} {timesteps:?}: {measured} {predicted}");
        }
        let log_variances: Vec<_> =
            denoising.log_variances(&schedule, &timesteps).unwrap().into_iter().map(|v| vec![v]).collect();
        let given = Chain { log_variances: Some(&log_variances), ..chain(&schedule, &timesteps, Variance::FixedSmall) };
        let measured = measure(&unet, &given).bits_per_dim;
        let predicted = denoising.bits(&schedule, &timesteps, StepVariance::Optimal).unwrap();
        let fixed = measure(&unet, &chain(&schedule, &timesteps, Variance::FixedLarge)).best_bits(&schedule).unwrap();
        assert!((fixed - predicted).abs() < 1e-9, "whatever variance it was measured with: {fixed} {predicted}");
        assert!((measured - predicted).abs() < 1e-9, "{timesteps:?}: {measured} {predicted}");
        // By channel likewise, and never for more.
        let by_channel = denoising.log_variances_by_channel(&schedule, &timesteps).unwrap();
        let given = Chain { log_variances: Some(&by_channel), ..chain(&schedule, &timesteps, Variance::FixedSmall) };
        let per_channel = measure(&unet, &given).bits_per_dim;
        let predicted = denoising.bits(&schedule, &timesteps, StepVariance::PerChannel).unwrap();
        assert!((per_channel - predicted).abs() < 1e-9, "{timesteps:?}: {per_channel} {predicted}");
        assert!(per_channel < measured);
    }
}

#[test]
fn no_number_depends_on_the_batch_size() {
    let (unet, schedule) = (network("ho"), schedule());
    let timesteps = vec![19, 10, 0];
    let with = |batch_size, draws| {
        measure(&unet, &Chain { batch_size, draws, ..chain(&schedule, &timesteps, Variance::FixedLarge) })
    };
    assert_eq!(with(1, 2), with(5, 2));
    assert_eq!(with(1, 2), with(64, 2));
    assert_ne!(with(1, 1).each, with(1, 2).each);
}

/// Where the variance is learned, v at ±1 is β or β̃, and between the two the log-variance is.
#[test]
fn learned_variances_are_read_per_pixel() {
    let (unet, schedule) = (network("learned_range"), schedule());
    let timesteps = all();
    let bits = |variance| measure(&unet, &chain(&schedule, &timesteps, variance)).bits_per_dim;
    let (learned, small) = (bits(Variance::LearnedRange), bits(Variance::FixedSmall));
    assert!(learned.is_finite() && (learned - small).abs() > 1e-6);
}

#[test]
fn what_does_not_fit_is_refused() {
    let (unet, schedule) = (network("ho"), schedule());
    let (pixels, shape) = pixels(&unet);
    let timesteps = all();
    let good = chain(&schedule, &timesteps, Variance::FixedSmall);
    let images = Images { pixels: &pixels, shape, labels: None };
    let refused =
        |images: Images, chain: &Chain| likelihood(&unet, images, chain, |_, _| true).unwrap_err().to_string();
    assert!(refused(Images { pixels: &pixels[1..], ..images }, &good).contains("no images"));
    assert!(refused(Images { pixels: &[], ..images }, &good).contains("no images"));
    assert!(refused(images, &Chain { draws: 0, ..good.clone() }).contains("at least 1"));
    assert!(refused(images, &Chain { timesteps: &[20, 0], ..good.clone() }).contains("20"));
    assert!(refused(images, &Chain { log_variances: Some(&[vec![0.0]]), ..good.clone() }).contains("as many"));
    assert!(refused(images, &Chain { variance: Variance::LearnedRange, ..good.clone() }).contains("learned"));
    assert!(likelihood(&unet, images, &good, |_, _| false).is_err());
}

fn small_flow(schedule: &NoiseSchedule, trace: Trace) -> Flow<'_> {
    Flow { schedule, prediction: Prediction::Epsilon, steps: 4, trace, draws: 1, batch_size: 2, seed: 5 }
}

/// One small image and a network of any size: the learned_range one takes 12×12 of one channel.
fn flow_bits(name: &str, side: usize, flow: &Flow) -> Vec<f64> {
    let unet = network(name);
    let shape = [side, side, unet.config().in_channels];
    let size: usize = shape.iter().product();
    let pixels: Vec<f32> = (0..3 * size).map(|i| ((i * 7919 % 256) as f32) / 127.5 - 1.0).collect();
    let images = Images { pixels: &pixels, shape, labels: None };
    flow_likelihood(&unet, images, flow, |_, _| true).unwrap().each
}

/// Hutchinson's estimate has the exact trace as its mean, and neither depends on the batch.
#[test]
fn the_flows_trace_is_estimated_without_bias() {
    let schedule = schedule();
    let bits = |flow: &Flow| flow_bits("learned_range", 4, flow);
    let exact = bits(&small_flow(&schedule, Trace::Exact));
    let estimate = bits(&small_flow(&schedule, Trace::Hutchinson(200)));
    let one = small_flow(&schedule, Trace::Hutchinson(1));
    let spread = exact.iter().zip(bits(&one)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    for (exact, estimate) in exact.iter().zip(&estimate) {
        assert!((exact - estimate).abs() < 0.3 * spread && spread > 1e-6, "{exact} {estimate} {spread}");
    }
    assert_eq!(bits(&one), bits(&Flow { batch_size: 3, ..one.clone() }));
    assert_ne!(bits(&one), bits(&Flow { seed: 6, ..one.clone() }));
}

/// The exact trace against central differences of the network, through the likelihood of one step.
#[test]
fn the_flows_density_is_that_of_finite_differences() {
    let (unet, schedule) = (network("learned_range"), schedule());
    let shape = [4, 4, 1];
    let pixels: Vec<f32> = (0..16).map(|i| ((i * 79 % 256) as f32) / 127.5 - 1.0).collect();
    let flow = small_flow(&schedule, Trace::Exact);
    let got = flow_likelihood(&unet, Images { pixels: &pixels, shape, labels: None }, &flow, |_, _| true).unwrap();

    let epsilon = |x: &[f64], t: f64| -> Vec<f64> {
        let x: Vec<f32> = x.iter().map(|&x| x as f32).collect();
        let input = Tensor::<4>::from_data(TensorData::new(x, [1, 4, 4, 1]), &Device::flex());
        unet.forward(input, &[t as f32], None, None).narrow(3, 0, 1).into_data().iter::<f64>().collect()
    };
    let mut uniforms = vec![0.0; 16];
    Random::new(5).uniforms_f64(Stream::Dequantize, 0, 0, &mut uniforms);
    let signal = schedule.alpha_cumprod(0).sqrt();
    let points: Vec<f64> =
        pixels.iter().zip(uniforms).map(|(&x, u)| signal * (f64::from(x) + (u - 0.5) / 127.5)).collect();
    let probability_flow = diffusion::ProbabilityFlow { schedule: &schedule, steps: 4 };
    let density = probability_flow
        .log_density(&points, 16, |x, node| {
            let h = 1e-2;
            let trace: f64 = (0..16)
                .map(|i| {
                    let moved = |by: f64| {
                        let mut x = x.to_vec();
                        x[i] += by;
                        epsilon(&x, node.timestep)[i]
                    };
                    (moved(h) - moved(-h)) / (2.0 * h)
                })
                .sum();
            Ok::<_, diffusion::Error>((epsilon(x, node.timestep), vec![trace]))
        })
        .unwrap();
    let nats = -density.log_density[0] / 16.0 - signal.ln() + 127.5_f64.ln();
    let expected = nats / std::f64::consts::LN_2;
    assert!((got.bits_per_dim - expected).abs() < 2e-4, "{} {expected}", got.bits_per_dim);
}
