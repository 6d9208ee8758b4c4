//! The examples run.
#![allow(dead_code, reason = "each example has a main of its own")]

use std::path::{Path, PathBuf};

use ddpm::prelude::*;

#[path = "../examples/custom_backbone.rs"]
mod custom_backbone;
#[path = "../examples/custom_denoiser.rs"]
mod custom_denoiser;
#[path = "../examples/custom_observer.rs"]
mod custom_observer;
#[path = "../examples/forward.rs"]
mod forward;
#[path = "../examples/inpaint.rs"]
mod inpaint;
#[path = "../examples/likelihood.rs"]
mod likelihood;
#[path = "../examples/sample.rs"]
mod sample;
#[path = "../examples/train.rs"]
mod train;

/// The keys of a tiny network.
const TINY: [&str; 7] = [
    "data.resolution=8",
    "model.block_out_channels=[8,8]",
    "model.norm_num_groups=4",
    "model.attention_resolutions=[4]",
    "diffusion.timesteps=50",
    "train.batch_size=4",
    "train.samples=0",
];

fn training() -> Training<'static> {
    TINY.iter().fold(Training::preset("fashion-ho").unwrap(), |training, key| training.set(key).unwrap())
}

/// A folder of six images.
fn photos(folder: &Path) -> PathBuf {
    let photos = folder.join("photos");
    std::fs::create_dir_all(&photos).unwrap();
    for i in 0..6u8 {
        let images =
            Images::new([1, 8, 8, 1], (0..64).map(|p| f32::from(((p * 37) as u8) ^ (i * 40)) / 127.5 - 1.0).collect());
        images.save(photos.join(format!("{i}.png"))).unwrap();
    }
    photos
}

/// The first example in the words of its test: its folder and its steps are smaller.
#[test]
fn a_run_trains_samples_and_scores() {
    let place = tempfile::tempdir().unwrap();
    let (photos, run, device) = (photos(place.path()), place.path().join("run"), ddpm::device(Some("cpu")).unwrap());
    training().data(&photos).set("train.steps=4").unwrap().run(&run, &device).unwrap();
    let pipeline = Pipeline::load(&run, &device).unwrap();
    let saved = pipeline.sample(16).sampler("dpmpp-2m").steps(5).save(place.path().join("grid.png")).unwrap();
    assert_eq!(saved.shape, [16, 8, 8, 1]);
    let held_out = pipeline.open_data(&photos, Split::Test).unwrap();
    let bits = pipeline.likelihood(&held_out).unwrap().bits_per_dim;
    assert!(bits > 0.0 && bits < 50.0, "{bits}");

    sample::run(&run, place.path()).unwrap();
    for file in ["four.png", "samples.npz", "denoising.gif"] {
        assert!(place.path().join(file).is_file(), "{file}");
    }
    let [bound, flow] = likelihood::run(&run, &photos).unwrap();
    assert!(bound.is_finite() && flow.is_finite(), "{bound} {flow}");
    let filled = inpaint::run(&run, &photos.join("0.png"), &place.path().join("filled.png")).unwrap();
    // The left half is the image's.
    let image = pipeline.read_images(&[photos.join("0.png")], None).unwrap();
    for filled in filled.each() {
        for (row, given) in filled.chunks(8).zip(image.pixels.chunks(8)) {
            assert_eq!(row[..4], given[..4]);
        }
    }
    let mean = custom_denoiser::run([&run, &run]).unwrap();
    let one = pipeline.sample(4).sampler("ddim").steps(10).run().unwrap();
    let worst = mean.pixels.iter().zip(&one.pixels).fold(0f32, |worst, (a, b)| worst.max((a - b).abs()));
    assert!(worst < 1e-4, "the mean of a model and itself is the model: {worst}");
}

/// Samples of the MLP lie on the two half circles of its data.
#[test]
fn a_network_of_its_own_learns_two_moons() {
    let (losses, points) = custom_backbone::run(2000).unwrap();
    assert!(losses[losses.len() - 1] < 0.75 * losses[0], "{losses:?}");
    let distance = |point: &[f32]| {
        let upper = ((point[0] + 0.5).hypot(point[1] + 0.25) - 1.0).abs();
        let lower = ((point[0] - 0.5).hypot(point[1] - 0.25) - 1.0).abs();
        upper.min(lower)
    };
    let mut distances: Vec<f32> = points.each().map(distance).collect();
    distances.sort_by(f32::total_cmp);
    let median = distances[distances.len() / 2];
    assert!(median < 0.12, "half of the points are within {median} of a half circle's circle");
}

#[test]
fn an_observer_of_its_own_sees_a_run() {
    let place = tempfile::tempdir().unwrap();
    let seen = custom_observer::run(training().set("train.steps=6").unwrap(), &place.path().join("run")).unwrap();
    assert!(seen > 0);
}

#[test]
fn the_forward_chain_ends_in_noise() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("forward.png");
    let ratios = forward::run(&path).unwrap();
    assert!(path.is_file() && ratios.is_sorted_by(|a, b| a > b), "{ratios:?}");
    // Ho et al., section 4: at T, x has 4e-5 of the signal's power.
    assert!((ratios[ratios.len() - 1] - 4.04e-5).abs() < 1e-7, "{ratios:?}");
}
