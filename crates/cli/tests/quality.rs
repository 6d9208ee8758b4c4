//! `ddpm evaluate` of samples beside real images, as a user calls it.

use std::collections::BTreeMap;
use std::path::Path;

use crate::common::*;
use ddpm::weights::{self, Metadata, Tensor, Tensors};
use predicates::str::contains;

const DATA: [&str; 2] = ["--data", "train-images-idx3-ubyte"];

/// 40 training images of 8×8, 20 unseen ones of other places, and the first training images again as samples.
fn place() -> Place {
    let place = Place::new();
    write_idx(&place.path("train-images-idx3-ubyte"), 40, 8);
    write_idx(&place.path("t10k-images-idx3-ubyte"), 20, 8);
    place
}

/// As OpenAI's files are.
fn write_samples(place: &Place, name: &str, images: &[u8], side: usize) {
    let mut bytes = std::io::Cursor::new(Vec::new());
    ddpm::data::write_npz_images(&mut bytes, images, [images.len() / (side * side), side, side, 1], None).unwrap();
    std::fs::write(place.path(name), bytes.into_inner()).unwrap();
}

fn bytes(count: usize) -> Vec<u8> {
    noise(count * 64).map(|v| (v * 255.0) as u8).collect()
}

/// EfficientNet-Lite0 with weights that mean nothing.
fn write_network(place: &Place) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../evaluate/tests/goldens/efficientnet.json");
    let shapes: BTreeMap<String, Vec<usize>> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let tensors: Tensors = shapes
        .into_iter()
        .map(|(name, shape)| {
            let fan_in: usize = shape.iter().skip(1).product();
            let scale = if shape.len() > 1 { (6.0 / fan_in as f32).sqrt() } else { 0.25 };
            let centre = if shape.len() == 1 && !name.ends_with("bias") && !name.ends_with("mean") { 1.0 } else { 0.0 };
            let data = noise(shape.iter().product()).map(|u| centre + scale * (2.0 * u - 1.0)).collect();
            (name, Tensor { shape, data })
        })
        .collect();
    weights::write_safetensors(place.path("lite0.safetensors"), weights::views(&tensors), &Metadata::new()).unwrap();
}

#[test]
fn copies_are_found_out_and_shown() {
    let place = place();
    let real = std::fs::read(place.path("train-images-idx3-ubyte")).unwrap();
    let images = &real[16..16 + 12 * 64];
    write_samples(&place, "copies.npz", images, 8);
    write_samples(&place, "noise.npz", &bytes(12), 8);
    let run = |samples: &str, more: &[&str]| {
        let command = [&["evaluate", samples, "--metrics", "nearest", "--quiet"], &DATA[..], more].concat();
        json(place.ddpm(&command))["nearest"]["pixels"].clone()
    };
    let copies = run("copies.npz", &["--neighbours", "near.png"]);
    assert_eq!((copies["median"].as_f64(), copies["samples"].as_u64()), (Some(0.0), Some(12)), "{copies}");
    assert!(copies["value"].as_f64() >= Some(0.5), "{copies}");
    // A sample and seven neighbours in each of ten rows.
    let sheet = image::open(place.path("near.png")).unwrap();
    assert!(sheet.width() >= 8 * 8 && sheet.height() >= 10 * 8);
    let noise = run("noise.npz", &["--samples", "10"]);
    assert_eq!((noise["copies"].as_f64(), noise["samples"].as_u64()), (Some(0.0), Some(10)), "{noise}");
    let mut table = place.ddpm(&["evaluate", "noise.npz", "--metrics", "nearest"]);
    table.args(DATA).assert().success().stdout(contains("nearest in pixels"));
}

#[test]
fn a_network_compares_samples_with_images_and_with_statistics() {
    let place = place();
    write_network(&place);
    write_samples(&place, "samples.npz", &bytes(24), 8);
    let network = ["--features", "lite0.safetensors", "--quiet"];
    let run = |more: &[&str]| json(place.ddpm(&[&["evaluate", "samples.npz"], &network[..], more].concat()));
    let report = run(&[&DATA[..], &["--metrics", "fd,kd,prdc", "--save-stats", "stats.npz"]].concat());
    let fd = &report["fd"];
    assert_eq!((fd["samples"].as_u64(), fd["floor_samples"].as_u64()), (Some(24), Some(20)), "{fd}");
    assert_eq!(fd["features"], "EfficientNet-Lite0");
    assert!(fd["value"].as_f64() > fd["floor"].as_f64() && fd["floor"].as_f64() > Some(0.0), "{fd}");
    assert!(report["kd"]["standard_error"].as_f64() > Some(0.0));
    assert!(report["prdc"]["floor"]["precision"].as_f64() > report["prdc"]["precision"].as_f64(), "{report}");
    // Of nothing but the statistics: the same distance, and no floor.
    let again = run(&["--metrics", "fd", "--reference", "stats.npz"]);
    let mut said = place.ddpm(&["evaluate", "samples.npz", "--features", "lite0.safetensors", "--metrics", "fd"]);
    said.args(["--reference", "stats.npz"]).assert().success().stderr(contains(
        "reference: stats.npz, statistics of train-images-idx3-ubyte (training part), 40 images, 8x8 grey",
    ));
    let other = ["--metrics", "fd", "--reference", "stats.npz", "--resize", "tensorflow1"];
    let other = place.ddpm(&[&["evaluate", "samples.npz"], &network[..], &other].concat());
    fails(other, 1, &["stats.npz", "resize pytorch-fid", "resize tensorflow1"]);
    let difference = again["fd"]["value"].as_f64().unwrap() / fd["value"].as_f64().unwrap() - 1.0;
    assert!(difference.abs() < 1e-9 && again["fd"]["floor"].is_null(), "{again}");
    let nearest = run(&[&DATA[..], &["--metrics", "nearest"]].concat());
    assert!(nearest["nearest"]["features"]["value"].is_number() && nearest["nearest"]["pixels"].is_object());
}

/// A metric draws the images that `ddpm sample` draws.
#[test]
fn a_model_draws_its_samples_itself() {
    let place = place();
    place.trained("run", 4, &[]);
    let drawn = ["sample", "run", "-n", "9", "--sampler", "ddim", "--steps", "5", "-o", "drawn.npz", "--quiet"];
    place.ddpm(&drawn).assert().success();
    let run = |source: &str, more: &[&str]| {
        let command = [&["evaluate", source, "--metrics", "nearest", "--quiet"], &DATA[..], more].concat();
        json(place.ddpm(&command))["nearest"].clone()
    };
    let itself = run("run", &["--samples", "9", "--sampler-steps", "5", "--batch-size", "4"]);
    assert_eq!(itself, run("drawn.npz", &[]));
    // Beside the bound, in one object.
    let mut both = place.ddpm(&["evaluate", "run", "--metrics", "nll,nearest", "--samples", "3", "-n", "2", "--quiet"]);
    both.args(DATA).args(["--sampler-steps", "2"]);
    let both = json(both);
    assert!(both["nll"]["bits_per_dim"].is_number() && both["nearest"]["pixels"]["samples"] == 3);
}

#[test]
fn mistakes_are_named() {
    let place = place();
    write_samples(&place, "samples.npz", &bytes(12), 8);
    write_network(&place);
    std::fs::write(place.path("network.pth"), b"PK").unwrap();
    std::fs::write(place.path("torn.safetensors"), b"PK").unwrap();
    let refused = |more: &[&str], status: i32, words: &[&str]| {
        let command = [&["evaluate", "samples.npz"], &DATA[..], more].concat();
        fails(place.ddpm(&command), status, words);
    };
    refused(&["--metrics", "fid"], 2, &["--features", "Inception"]);
    refused(&["--metrics", "fid", "--features", "lite0.safetensors"], 1, &["EfficientNet-Lite0", "fd"]);
    refused(&["--metrics", "fd", "--features", "network.pth"], 1, &["network.pth"]);
    refused(&["--metrics", "fd", "--features", "torn.safetensors"], 1, &["torn.safetensors"]);
    refused(&["--metrics", "fd", "--features", "nowhere.safetensors"], 1, &["nowhere.safetensors"]);
    refused(&["--metrics", "nearest", "--samples", "13"], 1, &["samples.npz", "12", "13"]);
    let none = [&["evaluate", "samples.npz", "--metrics", "nearest", "--samples", "0"], &DATA[..]].concat();
    mistaken(place.ddpm(&none), &["--samples", "at least 1"]);
    refused(&["--metrics", "fd", "--neighbours", "x.png", "--features", "x"], 2, &["--neighbours"]);
    let reference = ["--metrics", "fd", "--features", "lite0.safetensors", "--reference", "samples.npz"];
    refused(&reference, 1, &["samples.npz", "mu"]);
    fails(place.ddpm(&["evaluate", "nowhere", "--metrics", "nearest"]), 1, &["nowhere"]);
}

/// With classes and guidance too: classes in turn, and none of them the one that stands for none.
#[test]
fn a_conditional_model_draws_guided_samples() {
    let place = Place::new();
    let sets = [
        "data.labels=true",
        "train.label_dropout=0.2",
        "sample.guidance=2",
        "train.steps=6",
        "train.learning_rate=0.05",
        "train.ema_decay=0.1",
    ];
    let sets: Vec<&str> = TINY.iter().chain(&sets).flat_map(|set| ["--set", set]).collect();
    place.ddpm(&["train", "--preset", "fashion-ho", "--out", "run", "--quiet"]).args(sets).assert().success();
    let drawn = |more: &[&str]| {
        let command = ["sample", "run", "-n", "12", "--sampler", "ddim", "--steps", "3", "-o", "drawn.npz", "--quiet"];
        place.ddpm(&[&command[..], more].concat()).assert().success();
        let command = ["evaluate", "drawn.npz", "--metrics", "nearest", "--fit", "pad", "--quiet"];
        json(place.ddpm(&command))["nearest"].clone()
    };
    let itself = |more: &[&str]| {
        let command = ["evaluate", "run", "--metrics", "nearest", "--samples", "12", "--sampler-steps", "3", "--quiet"];
        json(place.ddpm(&[&command[..], more].concat()))["nearest"].clone()
    };
    let guided = itself(&["--guidance", "3", "--batch-size", "5"]);
    assert_eq!(guided, drawn(&["--guidance", "3"]));
    assert_ne!(guided, itself(&[]));
    // Both are guided as the run's [sample] says.
    assert_eq!(itself(&[]), drawn(&[]));
    assert_ne!(itself(&[]), drawn(&["--guidance", "1"]));
}
