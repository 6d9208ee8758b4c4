//! Models of bits: commands work with them, or refuse with the reason; and inpainting by products.

use crate::common::{Place, fails, json, mistaken, write_pngs};

/// The keys of a tiny run of bits.
const TINY: [&str; 13] = [
    "model.block_out_channels=[8]",
    "model.norm_num_groups=4",
    "model.layers_per_block=1",
    "diffusion.timesteps=12",
    "train.lr_schedule=constant",
    "train.batch_size=8",
    "train.log_every=5",
    "train.checkpoint_every=4",
    "train.sample_every=8",
    "train.samples=4",
    "train.evaluate_every=8",
    "train.evaluate_images=6",
    "sample.steps=6",
];

fn trained(place: &Place, out: &str, steps: usize, more: &[&str]) {
    let mut command = place.ddpm(&["train", "--preset", "heartbeat", "-o", out, "-q"]);
    command
        .args(TINY.iter().flat_map(|set| ["--set", set]))
        .args(["--set", &format!("train.steps={steps}")])
        .args(more)
        .assert()
        .success();
}

#[test]
fn a_run_of_bits_is_resumed_sampled_evaluated_and_inspected() {
    let place = Place::new();
    trained(&place, "whole", 8, &[]);
    trained(&place, "parts", 4, &[]);
    place.resume("parts", 8, &[]).arg("-q").assert().success();
    assert_eq!(place.weights("parts", 8), place.weights("whole", 8));

    for (out, batch) in [("a.npz", "2"), ("b.npz", "5")] {
        place.ddpm(&["sample", "whole", "-n", "5", "--batch-size", batch, "-q", "-o", out]).assert().success();
    }
    let read = |name: &str| {
        let set = ddpm::data::open(&place.path(name), &Default::default()).unwrap();
        (set.len(), set.shape(), set.read(0..5).unwrap())
    };
    let (a, b) = (read("a.npz"), read("b.npz"));
    assert_eq!((a.0, a.1, &a.2), (5, [1, 20, 1], &b.2));
    assert!(a.2.iter().all(|value| [0, 255].contains(value)));
    place.ddpm(&["sample", "whole", "-n", "2", "--steps", "3", "-q", "-o", "c.png"]).assert().success();

    let report = json(place.ddpm(&["evaluate", "whole", "-n", "10", "--draws", "2"]));
    let number = |key: &str| report["bits"][key].as_f64().unwrap();
    assert_eq!((number("dims"), number("images"), number("evaluations")), (20.0, 10.0, 12.0));
    assert!((number("bits_per_sequence") - 20.0 * number("bits_per_dim")).abs() < 1e-9);
    // No model is below the entropy of its data, and fair coins have 20 bits.
    assert!(number("bits_per_sequence") > 5f64.log2() && number("standard_error") > 0.0, "{report}");
    let report = json(place.ddpm(&["inspect", "whole"]));
    assert_eq!(report["scheduler"]["_class_name"], "BinomialScheduler");
    place.ddpm(&["inspect", "whole"]).assert().success();
}

#[test]
fn gaussian_options_are_refused_with_the_reason() {
    let place = Place::new();
    trained(&place, "bits", 4, &[]);
    write_pngs(&place.path("images"), 1, 20, image::ColorType::L8);
    let image = std::fs::read_dir(place.path("images")).unwrap().next().unwrap().unwrap().path();
    let image = image.to_str().unwrap();
    for command in [
        &["sample", "bits", "--sampler", "ddim", "-o", "x.png"][..],
        &["sample", "bits", "--share-until", "5", "-o", "x.png"],
        &["sample", "bits", "--clip-sample", "true", "-o", "x.png"],
        &["sample", "bits", "--from", image, "--at", "5", "-o", "x.png"],
        &["evaluate", "bits", "--metrics", "ode"],
        &["evaluate", "bits", "--schedule"],
        &["evaluate", "bits", "--denoising", "mt.json"],
        &["inpaint", "bits", image, image, "-o", "x.png"],
        &["interpolate", "bits", image, image, "-o", "x.png"],
        &["invert", "bits", image, "-o", "x.safetensors"],
    ] {
        let error = fails(place.ddpm(command), 1, &["binomial"]);
        assert!(error.contains("Gaussian"), "{command:?}: {error}");
    }
    for set in
        ["diffusion.offset_noise=0.1", "sample.sampler=ddim", "diffusion.prediction=epsilon", "diffusion.loss=hybrid"]
    {
        let key = set.split('=').next().unwrap();
        mistaken(place.ddpm(&["train", "--preset", "heartbeat", "--set", set, "-o", "no"]), &[key]);
    }
    // The weights of one kind of chain mean nothing in the other.
    let gaussian = ["--set", "diffusion.process=gaussian", "--set", "train.steps=8"];
    let mut resumed = place.ddpm(&["train", "-o", "bits", "--resume"]);
    resumed.args(gaussian);
    assert!(!resumed.output().unwrap().status.success());
}

#[test]
fn images_are_filled_in_by_products() {
    let place = Place::new();
    place.trained("run", 2, &[]);
    write_pngs(&place.path("images"), 8, 8, image::ColorType::L8);
    let image = std::fs::read_dir(place.path("images")).unwrap().next().unwrap().unwrap().path();
    let mask = image::GrayImage::from_fn(8, 8, |x, _| image::Luma([if x < 4 { 255 } else { 0 }]));
    mask.save(place.path("mask.png")).unwrap();
    let image = image.to_str().unwrap();
    let inpaint = |more: &[&str]| {
        let mut command = place.ddpm(&["inpaint", "run", image, "mask.png", "-n", "2", "-q", "-o", "out.npz"]);
        command.args(more);
        command
    };
    for more in [&["--factor", "constant"][..], &["--factor", "expected"], &["--sampler", "dpmpp-2m", "--steps", "3"]] {
        inpaint(&["--method", "product"]).args(more).assert().success();
    }
    mistaken(inpaint(&["--factor", "expected"]), &["--factor", "--method product"]);
    mistaken(inpaint(&["--method", "product", "--resample", "3"]), &["--resample", "--method replace"]);
}
