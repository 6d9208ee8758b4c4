//! Every sampler on data whose denoiser is known in closed form, through the function that users call.

use burn::tensor::Device;
use ddpm_sample::{Request, Sampler, SamplerOptions, initial_noise, sample};
use diffusion::oracle::Gaussian;
use diffusion::{Node, SchedulerConfig};
use model::{Images, Oracle};

const DATA: Gaussian = Gaussian { mean: 0.3, variance: 0.25 };

fn scheduler() -> SchedulerConfig {
    SchedulerConfig { clip_sample: false, ..SchedulerConfig::default() }
}

fn denoiser() -> Oracle<impl Fn(&[f64], Node) -> Vec<f64>> {
    let exact = |x: &[f64], node: Node| x.iter().map(|&x| DATA.sample(x, node.level.alpha_cumprod())).collect();
    Oracle::new(exact, &Device::flex())
}

fn samples(sampler: Sampler, steps: usize, noise: &Images) -> Images {
    let table = sampler.table(&scheduler(), SamplerOptions { steps: Some(steps), ..Default::default() }).unwrap();
    let request = Request { seed: 3, first_image: 0, noise, batch_size: 500, shared: None };
    sample(&denoiser(), &table, &request, |_| true).unwrap()
}

/// Deterministic samplers follow the probability flow, whose map from noise to data is linear for a Gaussian.
#[test]
fn deterministic_samplers_follow_the_flow() {
    let noise = initial_noise(3, 0, 2, [2, 2, 1]);
    let last = scheduler().noise_schedule().unwrap().alpha_cumprod(999);
    let mut tested = 0;
    for name in Sampler::names() {
        let sampler: Sampler = name.parse().unwrap();
        if ["ddpm", "edm-sde", "dpmpp-sde-2m"].contains(name) {
            continue;
        }
        // 40 steps; first-order samplers get 400.
        let steps = if ["ddim", "dpmpp-1", "unipc-1", "ipndm-1"].contains(name) { 400 } else { 40 };
        let images = samples(sampler, steps, &noise);
        let worst = noise.pixels.iter().zip(&images.pixels).fold(0f64, |worst, (&noise, &image)| {
            worst.max((DATA.flow(noise.into(), last, 1.0) - f64::from(image)).abs())
        });
        println!("{name}: {worst:.1e}");
        assert!(worst < 0.02, "{name}: {worst}");
        tested += 1;
    }
    assert!(tested >= 14, "{tested}");
}

/// Stochastic samplers reach the data's mean and variance.
#[test]
fn stochastic_samplers_reach_the_data() {
    for name in ["ddpm", "edm-sde", "dpmpp-sde-2m"] {
        let noise = initial_noise(3, 0, 500, [8, 8, 1]);
        let images = samples(name.parse().unwrap(), if name == "ddpm" { 250 } else { 60 }, &noise);
        let n = images.pixels.len() as f64;
        let mean = images.pixels.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let variance = images.pixels.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
        println!("{name}: {mean:.4} {variance:.4}");
        // 32,000 numbers: a standard error of .003 of the mean and .002 of the variance, and a few steps' bias.
        assert!(
            (mean - DATA.mean).abs() < 0.015 && (variance - DATA.variance).abs() < 0.02,
            "{name}: {mean} {variance}"
        );
    }
}

/// All T steps for `ddpm` and `ddim`; 20, or T if that is less, for samplers of higher order.
#[test]
fn steps_have_defaults() {
    for (timesteps, name, expected) in
        [(1000, "ddpm", 1000), (30, "ddim", 30), (1000, "dpmpp-2m", 20), (1000, "unipc-3", 20), (12, "deis-3", 12)]
    {
        let scheduler = SchedulerConfig { num_train_timesteps: timesteps, ..scheduler() };
        let sampler: Sampler = name.parse().unwrap();
        let table = sampler.table(&scheduler, SamplerOptions::default()).unwrap();
        assert_eq!(table.rows.len(), expected, "{name}");
    }
}
