//! The numbers that a seed gives do not change unless the changelog says so: digests of weights, samples, likelihoods, an
//! import and an inpainting, compared with those on record in `fingerprints.json`.
//!
//! The record was written on a processor with AVX-512; every x86-64 processor gives the same. The C library of another kind of
//! processor may round elementary functions differently, so there the means and root mean squares are compared, to 1 %. `tools/fingerprints.sh` prints the figures of any binary.

use std::path::{Path, PathBuf};

use crate::common::{Place, files, noise};
use assert_cmd::Command;
use serde_json::{Map, Value, json};

/// Sampler names with the options that keep them short.
const SAMPLERS: [&[&str]; 20] = [
    &["ddpm", "--steps", "50"],
    &["ddpm", "--steps", "20", "--variance", "fixed_small", "--spacing", "trailing"],
    &["ddim", "--steps", "20"],
    &["ddim", "--steps", "20", "--eta", "0.5"],
    &["ddim", "--steps", "10", "--threshold", "0.995,1.5"],
    &["edm-sde"],
    &["dpmpp-1"],
    &["dpmpp-2m"],
    &["dpmpp-2m", "--spacing", "leading"],
    &["dpmpp-sde-2m"],
    &["dpmpp-3m"],
    &["dpmpp-3m-diffusers"],
    &["unipc-1"],
    &["unipc-2"],
    &["unipc-3", "--grid", "karras"],
    &["ipndm-4"],
    &["ipndm-2"],
    &["pndm"],
    &["deis-3"],
    &["heun"],
];

/// The program under test, or the one that `DDPM` names.
fn ddpm(place: &Place, arguments: &[&str]) -> Command {
    let program = std::env::var_os("DDPM").unwrap_or_else(|| env!("CARGO_BIN_EXE_ddpm").into());
    let mut command = Command::new(program);
    command.current_dir(place.path(".")).args(arguments).timeout(std::time::Duration::from_secs(600));
    command
}

fn succeed(place: &Place, arguments: &[&str]) -> Vec<u8> {
    let output = ddpm(place, arguments).output().unwrap();
    assert!(output.status.success(), "ddpm {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// FNV-1a with 64 bits.
fn digest(bytes: impl IntoIterator<Item = u8>) -> String {
    let hash = bytes
        .into_iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    format!("{hash:016x}")
}

/// A digest of some numbers, their mean and their root mean square.
fn of_numbers(values: &[f64], bytes: impl IntoIterator<Item = u8>) -> Value {
    let n = values.len() as f64;
    let (mean, rms) = (values.iter().sum::<f64>() / n, (values.iter().map(|v| v * v).sum::<f64>() / n).sqrt());
    json!({ "digest": digest(bytes), "numbers": values.len(), "mean": mean, "rms": rms })
}

/// Every tensor of a file, in the order of their names.
fn of_tensors(path: &Path) -> Value {
    let (tensors, _) = ddpm::weights::read_safetensors(path).unwrap();
    let values: Vec<f32> = tensors.values().flat_map(|tensor| tensor.data.iter().copied()).collect();
    let wide: Vec<f64> = values.iter().map(|&v| f64::from(v)).collect();
    of_numbers(&wide, values.iter().flat_map(|v| v.to_bits().to_le_bytes()))
}

/// Every number below a JSON value, in order.
fn numbers(value: &Value, all: &mut Vec<f64>) {
    match value {
        Value::Number(number) => all.push(number.as_f64().unwrap()),
        Value::Array(values) => values.iter().for_each(|value| numbers(value, all)),
        Value::Object(values) => values.values().for_each(|value| numbers(value, all)),
        _ => {}
    }
}

fn of_json(values: &[&Value]) -> Value {
    let mut all = Vec::new();
    values.iter().for_each(|value| numbers(value, &mut all));
    of_numbers(&all, all.iter().flat_map(|v| v.to_bits().to_le_bytes()))
}

/// A color ramp, and a mask of its right half.
fn write_pictures(place: &Place) {
    let pixels: Vec<u8> = noise(28 * 28).enumerate().map(|(i, v)| (i % 28 * 8) as u8 + (v * 20.0) as u8).collect();
    image::save_buffer(place.path("photo.png"), &pixels, 28, 28, image::ColorType::L8).unwrap();
    let mask: Vec<u8> = (0..28 * 28).map(|i| if i % 28 < 14 { 0 } else { 255 }).collect();
    image::save_buffer(place.path("mask.png"), &mask, 28, 28, image::ColorType::L8).unwrap();
}

fn family(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../unet/tests/goldens/families").join(name)
}

fn measure() -> Map<String, Value> {
    let place = Place::new();
    let mut found = Map::new();
    let set = ["train.steps=50", "train.checkpoint_every=0", "train.sample_every=0", "data.flip=true"];
    let train: Vec<&str> = ["train", "--preset", "fashion-ho", "--quiet", "--out", "run"]
        .into_iter()
        .chain(set.iter().flat_map(|s| ["--set", s]))
        .collect();
    succeed(&place, &train);
    let checkpoint = place.path("run/checkpoints/000000050");
    for file in files(&checkpoint).into_iter().filter(|file| file.ends_with(".safetensors")) {
        found.insert(format!("train {file}"), of_tensors(&checkpoint.join(&file)));
    }
    let out = place.path("samples.safetensors");
    for sampler in SAMPLERS {
        let arguments =
            ["sample", "run", "-q", "-n", "8", "--batch-size", "5", "-o", "samples.safetensors", "--sampler"];
        succeed(&place, &[&arguments[..], sampler].concat());
        found.insert(format!("sample {}", sampler.join(" ")), of_tensors(&out));
    }

    let evaluated = succeed(&place, &["evaluate", "run", "-q", "--metrics", "nll,ode", "-n", "4", "--json"]);
    let evaluated: Value = serde_json::from_slice(&evaluated).unwrap();
    let (nll, ode) = (&evaluated["nll"], &evaluated["ode"]);
    let terms =
        ["bits_per_dim", "standard_error", "prior", "rate", "distortion", "each", "decoder"].map(|key| &nll[key]);
    found.insert("evaluate nll".into(), of_json(&terms));
    let points = nll["points"].as_array().unwrap();
    let points: Vec<&Value> =
        points.iter().flat_map(|point| ["timestep", "bits", "mse", "epsilon_mse"].map(|key| &point[key])).collect();
    found.insert("evaluate nll points".into(), of_json(&points));
    found.insert("evaluate ode".into(), of_json(&["bits_per_dim", "standard_error", "each"].map(|key| &ode[key])));

    write_pictures(&place);
    let inpaint = ["inpaint", "run", "photo.png", "mask.png", "-q", "-n", "3", "--steps", "20", "--resample", "2"];
    succeed(&place, &[&inpaint[..], &["-o", "samples.safetensors"]].concat());
    found.insert("inpaint".into(), of_tensors(&out));
    succeed(&place, &["invert", "run", "photo.png", "-q", "--steps", "20", "-o", "samples.safetensors"]);
    found.insert("invert".into(), of_tensors(&out));
    let from =
        ["sample", "run", "-q", "-n", "2", "--from", "photo.png", "--at", "400", "--sampler", "ddim", "--steps", "20"];
    succeed(&place, &[&from[..], &["-o", "samples.safetensors"]].concat());
    found.insert("sample --from".into(), of_tensors(&out));

    let import = family("guided.pt");
    let import = ["import", import.to_str().unwrap(), "-q", "-o", "imported", "--heads", "2", "--timesteps", "50"];
    succeed(&place, &import);
    found.insert("import".into(), of_tensors(&place.path("imported/unet/diffusion_pytorch_model.safetensors")));
    let conditional = Path::new(env!("CARGO_MANIFEST_DIR")).join("../unet/tests/goldens/adm/weights.safetensors");
    let guided = ["-q", "-n", "2", "--steps", "5", "--size", "16", "--guidance", "2", "--null-label", "0"];
    succeed(&place, &[&["sample", conditional.to_str().unwrap(), "-o", "samples.safetensors"], &guided[..]].concat());
    found.insert("sample --guidance".into(), of_tensors(&out));
    found
}

fn close(found: &Value, expected: &Value, key: &str, scale: f64) -> bool {
    (found[key].as_f64().unwrap() - expected[key].as_f64().unwrap()).abs() <= 0.01 * scale
}

#[test]
fn the_numbers_of_a_seed_are_those_on_record() {
    let record = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fingerprints.json");
    let found = measure();
    if std::env::var_os("DDPM").is_some() {
        println!("{}", serde_json::to_string_pretty(&found).unwrap());
        return;
    }
    let expected: Map<String, Value> = serde_json::from_str(&std::fs::read_to_string(record).unwrap()).unwrap();
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, expected) in &expected {
        let found = &found[name];
        if cfg!(target_arch = "x86_64") {
            assert_eq!(found, expected, "{name}");
        } else {
            let rms = expected["rms"].as_f64().unwrap();
            assert_eq!(found["numbers"], expected["numbers"], "{name}");
            assert!(close(found, expected, "rms", rms) && close(found, expected, "mean", rms), "{name}: {found}");
        }
    }
}
