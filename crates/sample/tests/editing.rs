//! The parts of sampling from given images and noise, each recomputed from its definition.

use std::collections::BTreeMap;

use burn::tensor::Device;
use ddpm_sample::{
    Inversion, Request, Sampler, SamplerOptions, SharedNoise, initial_noise, inversion_tables, invert, noised,
    read_noise, sample,
};
use diffusion::oracle::Gaussian;
use diffusion::{Node, SchedulerConfig, SolverTable};
use model::{Images, Oracle};
use weights::{Metadata, Tensor};

const DATA: Gaussian = Gaussian { mean: 0.3, variance: 0.25 };

fn scheduler() -> SchedulerConfig {
    SchedulerConfig { clip_sample: false, ..SchedulerConfig::default() }
}

fn denoiser() -> Oracle<impl Fn(&[f64], Node) -> Vec<f64>> {
    let exact = |x: &[f64], node: Node| x.iter().map(|&x| DATA.sample(x, node.level.alpha_cumprod())).collect();
    Oracle::new(exact, &Device::flex())
}

/// `numpy.arange(24).reshape(2, 3, 2, 2).transpose(0, 2, 3, 1)`
#[test]
fn noise_files_have_channels_before_pixels() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("noise.safetensors");
    let noise = Tensor { shape: vec![2, 3, 2, 2], data: (0..24u8).map(f32::from).collect() };
    let tensors = BTreeMap::from([("noise".to_owned(), noise)]);
    weights::write_safetensors(&path, weights::views(&tensors), &Metadata::new()).unwrap();
    let images = read_noise(&path).unwrap();
    assert_eq!(images.shape(), [2, 2, 2, 3]);
    assert_eq!(images.pixels[..6], [0.0, 4.0, 8.0, 1.0, 5.0, 9.0]);
    assert_eq!(images.pixels[12..18], [12.0, 16.0, 20.0, 13.0, 17.0, 21.0]);
}

/// x_t = √ᾱ_t·x_0 + √(1−ᾱ_t)·ε of one image, with the ε of each.
#[test]
fn image_to_image_starts_from_x_t() {
    let schedule = scheduler().noise_schedule().unwrap();
    let image = Images::new([1, 1, 2, 1], vec![0.5, -1.0]);
    let noise = initial_noise(1, 0, 3, [1, 2, 1]);
    let alpha_cumprod = schedule.alpha_cumprod(250);
    let x_t = noised(&image, schedule.level(250), noise.clone());
    assert_eq!(x_t.shape(), [3, 1, 2, 1]);
    for (i, (x_t, epsilon)) in x_t.pixels.iter().zip(&noise.pixels).enumerate() {
        let x0 = f64::from(image.pixels[i % 2]);
        let expected = alpha_cumprod.sqrt() * x0 + (1.0 - alpha_cumprod).sqrt() * f64::from(*epsilon);
        assert!((f64::from(*x_t) - expected).abs() < 1e-6);
    }
}

/// Images with the same x_T are equal down to x at the timestep, and differ from the next row on.
#[test]
fn shared_noise_ends_at_its_timestep() {
    let options = SamplerOptions { steps: Some(10), ..Default::default() };
    let table = Sampler::Ddpm.table(&scheduler(), options).unwrap();
    let one = initial_noise(3, 0, 1, [2, 2, 1]);
    let noise = Images::new([3, 2, 2, 1], one.pixels.repeat(3));
    // Row 3 ends at the timestep of row 4.
    let until = table.rows[4].node.timestep;
    for (until, last) in [(until, 3), (until + 0.5, 2), (until - 0.5, 3)] {
        let shared = Some(SharedNoise { until, image: 0 });
        let request = Request { seed: 3, first_image: 0, noise: &noise, batch_size: 3, shared };
        let mut equal = Vec::new();
        sample(&denoiser(), &table, &request, |step| {
            let x = step.x();
            equal.push(x.slice(0, 1).pixels == x.slice(1, 1).pixels && x.slice(1, 1).pixels == x.slice(2, 1).pixels);
            true
        })
        .unwrap();
        let expected: Vec<bool> = (0..10).map(|row| row <= last).collect();
        assert_eq!(equal, expected, "{until}");
    }
}

#[test]
fn inversion_goes_up_and_down_the_same_timesteps() {
    let (up, down) = inversion_tables(&scheduler(), 500, 10).unwrap();
    let timesteps = |table: &SolverTable| table.rows.iter().map(|row| row.node.timestep).collect::<Vec<f64>>();
    assert_eq!(timesteps(&down), [500.0, 444.0, 333.0, 222.0, 111.0, 0.0]);
    assert_eq!(timesteps(&up), [0.0, 111.0, 222.0, 333.0, 444.0]);
}

/// The latents are those of the probability flow, which is linear for a Gaussian; the errors are those of the returned
/// images.
#[test]
fn latents_are_those_of_the_flow() {
    let pixels: Vec<f32> = (0..12).map(|i| (i * 5 % 11) as f32 / 5.0 - 1.0).collect();
    let images = Images::new([3, 2, 2, 1], pixels);
    let inversion = Inversion { at: 700, steps: 1000, batch_size: 2 };
    let inverted = invert(&denoiser(), &scheduler(), (&images, inversion), |_, _| true).unwrap();
    let alpha_cumprod = scheduler().noise_schedule().unwrap().alpha_cumprod(700);
    for (latent, image) in inverted.latents.pixels.iter().zip(&images.pixels) {
        let expected = DATA.flow((*image).into(), 1.0, alpha_cumprod);
        assert!((f64::from(*latent) - expected).abs() < 0.02, "{latent} {expected}");
    }
    let pairs = images.each().zip(inverted.reconstruction.each()).zip(inverted.latents.each());
    for (i, ((image, back), latent)) in pairs.enumerate() {
        let square = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(b.clamp(-1.0, 1.0))).powi(2);
        // A pixel value of 0 to 255 is 127.5 times as wide.
        let rmse = 127.5 * (image.iter().zip(back).map(square).sum::<f64>() / 4.0).sqrt();
        assert!((inverted.rmse[i] - rmse).abs() < 1e-4 && rmse < 2.0, "{} {rmse}", inverted.rmse[i]);
        let rms = (latent.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / 4.0).sqrt();
        assert!((inverted.latent_rms[i] - rms).abs() < 1e-6);
    }
}
