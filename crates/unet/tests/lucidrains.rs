//! Compares output, loss and all gradients with the `Unet` of denoising-diffusion-pytorch 2.3.4 (PyTorch, float64).
//! `tools/goldens_lucidrains.py` writes the golden files; `tools/README.md` describes them.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use ddpm_unet::Parameters;
use ddpm_unet::lucidrains::{LucidrainsConfig, LucidrainsUnet};
use weights::{Tensors, read_safetensors};

const STORED: [&str; 4] = ["lucidrains", "lucidrains_options", "lucidrains_learned", "lucidrains_random"];

/// Returns the configuration, the weights and the results of a golden.
fn golden(name: &str) -> (LucidrainsConfig, Tensors, Tensors) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name);
    let config = LucidrainsConfig::from_json(&std::fs::read_to_string(folder.join("config.json")).unwrap()).unwrap();
    let read = |file: &str| read_safetensors(folder.join(file)).unwrap().0;
    (config, read("weights.safetensors"), read("golden.safetensors"))
}

/// Converts a golden tensor from N,C,H,W to N,H,W,C.
fn nhwc(tensor: &weights::Tensor, device: &Device) -> Tensor<4> {
    let shape: [usize; 4] = tensor.shape.clone().try_into().unwrap();
    Tensor::from_data(TensorData::new(tensor.data.clone(), shape), device).permute([0, 2, 3, 1])
}

fn nchw(tensor: Tensor<4>) -> Vec<f32> {
    tensor.permute([0, 3, 1, 2]).into_data().iter::<f32>().collect()
}

/// Returns the largest difference relative to the largest value.
fn relative(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len());
    assert!(got.iter().all(|v| v.is_finite()));
    let scale = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    got.iter().zip(expected).fold(0f32, |m, (g, e)| m.max((g - e).abs())) / scale
}

fn check(name: &str, device: &Device) {
    let device = device.clone().autodiff();
    let (config, weights, golden) = golden(name);
    let network = LucidrainsUnet::new(&config, 0, &device).unwrap().with_tensors(weights).unwrap();
    let x = nhwc(&golden["x"], &device).require_grad();
    let prediction = golden.get("prediction").map(|prediction| nhwc(prediction, &device));
    let output = network.forward(x.clone(), &golden["t"].data, prediction, None);
    let error = output.clone() - nhwc(&golden["target"], &device);
    let loss = (error.clone() * error).mean();
    let mut gradients = loss.backward();

    let output = relative(&nchw(output.inner()), &golden["output"].data);
    let loss = (loss.into_scalar::<f32>() - golden["loss"].data[0]).abs() / golden["loss"].data[0];
    let mut worst = (relative(&nchw(x.grad(&gradients).unwrap()), &golden["grad.x"].data), "x".to_owned());
    let flat = network.flat_parameters();
    let taken = network.take_gradients(&mut gradients);
    let trained: Vec<bool> = taken.iter().map(Option::is_some).collect();
    let values = taken.into_iter().zip(&flat).map(|(gradient, flat)| gradient.unwrap_or(flat.values.zeros_like()));
    let found = network.tensors_of(values).unwrap();
    for (flat, trained) in flat.iter().zip(trained) {
        // Random frequencies are not trained.
        let Some(expected) = golden.get(&format!("grad.{}", flat.name)) else {
            assert!(!trained && flat.name == "time_mlp.0.weights", "{name}: {}", flat.name);
            continue;
        };
        assert_eq!(found[&flat.name].shape, expected.shape, "{name}: {}", flat.name);
        let error = relative(&found[&flat.name].data, &expected.data);
        if error > worst.0 {
            worst = (error, flat.name.clone());
        }
    }
    println!("{name}: output {output:.1e}, loss {loss:.1e}, worst gradient {:.1e} {}", worst.0, worst.1);
    assert!(output <= 1e-5, "{name}: output is off by {output:e}");
    assert!(loss <= 1e-5, "{name}: loss is off by {loss:e}");
    assert!(worst.0 <= 1e-5, "{name}: the gradient of {} is off by {:e}", worst.1, worst.0);
}

#[test]
fn networks_match_the_original() {
    for name in STORED {
        check(name, &Device::flex());
    }
}

#[test]
fn a_configuration_keeps_what_it_says() {
    for name in STORED {
        let (config, weights, _) = golden(name);
        assert_eq!(LucidrainsConfig::from_json(&config.to_json()).unwrap(), config, "{name}");
        let count = weights.values().map(|tensor| tensor.data.len()).sum::<usize>();
        assert_eq!(config.parameter_count(), count, "{name}");
    }
}

/// Without a previous prediction, a network that is conditioned on it gets zeros, as in the original.
#[test]
fn an_absent_prediction_is_zero() {
    let device = Device::flex();
    let (config, weights, golden) = golden("lucidrains_options");
    let network = LucidrainsUnet::new(&config, 0, &device).unwrap().with_tensors(weights).unwrap();
    let x = nhwc(&golden["x"], &device);
    let run = |prediction| nchw(network.forward(x.clone(), &golden["t"].data, prediction, None));
    assert_eq!(run(None), run(Some(x.zeros_like())));
    assert_ne!(run(None), run(Some(x.ones_like())));
}

#[test]
fn mistakes_are_named() {
    let errors = [
        (r#"{"dim": 8, "dims": 3}"#, "`dims` (with value 3) is not a supported key of LucidrainsUnet"),
        (r#"{"dim": 0}"#, "`dim` is 0; expected 1 to 65536"),
        (r#"{"dim": 5}"#, "`dim` is 5; expected an even number"),
        (r#"{"dim_mults": []}"#, "`dim_mults` has 0 entries"),
        (r#"{"dim_mults": [1, 2], "attn_heads": [1, 2, 3]}"#, "`attn_heads`: expected one value"),
        (r#"{"dim": 65536, "dim_mults": [65536]}"#, "`dim`·`dim_mults[0]` is 4294967296"),
        (r#"{"dropout": 1.0}"#, "`dropout` is 1.0"),
        (r#"{"sample_size": 28}"#, "images of 28x28 do not fit 4 levels"),
        (r#"{"_class_name": "Unet"}"#, "`_class_name` is \"Unet\"; expected \"LucidrainsUnet\""),
    ];
    for (text, expected) in errors {
        let error = LucidrainsConfig::from_json(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}
