//! Compares output, loss and all gradients with the `Unet` of denoising-diffusion-pytorch 2.3.4, and of older versions (PyTorch, float64).
//! `tools/goldens_lucidrains.py` writes the golden files; `tools/README.md` describes them.

mod common;

use burn::tensor::{Device, Tensor};
use common::{Golden, nchw};
use ddpm_unet::Parameters;
use ddpm_unet::lucidrains::{LucidrainsCondition, LucidrainsConfig, LucidrainsUnet};

const STORED: [&str; 11] = [
    "lucidrains",
    "lucidrains_options",
    "lucidrains_learned",
    "lucidrains_random",
    // The oldest version with each network, by versions 0.28.0, 1.5.8, 1.7.1, 1.8.15 and 1.11.1.
    "lucidrains_0.28",
    "lucidrains_0.32",
    "lucidrains_1.7",
    "lucidrains_1.7.4",
    "lucidrains_1.9",
    // With classes, by versions 2.3.4 and 1.5.8.
    "lucidrains_classes",
    "lucidrains_classes_0.32",
];

fn network(golden: &Golden, device: &Device) -> LucidrainsUnet {
    let config = LucidrainsConfig::from_json(&golden.config).unwrap();
    LucidrainsUnet::new(&config, 0, device).unwrap().with_tensors(golden.weights.clone()).unwrap()
}

#[test]
fn networks_match_the_original() {
    let device = Device::flex().autodiff();
    for name in STORED {
        let golden = Golden::read(name);
        let network = network(&golden, &device);
        let prediction = golden.results.contains_key("prediction").then(|| golden.images("prediction", &device));
        // Random frequencies are not trained.
        let classes: Option<Vec<u32>> =
            golden.results.get("classes").map(|classes| classes.data.iter().map(|&class| class as u32).collect());
        golden.check(&network, &["time_mlp.0.weights"], |x: Tensor<4>| {
            let condition = LucidrainsCondition { prediction: prediction.clone(), classes: classes.as_deref() };
            network.forward(x, &golden.results["t"].data, condition, None)
        });
    }
}

#[test]
fn a_configuration_keeps_what_it_says() {
    for name in STORED {
        let golden = Golden::read(name);
        let config = LucidrainsConfig::from_json(&golden.config).unwrap();
        assert_eq!(LucidrainsConfig::from_json(&config.to_json()).unwrap(), config, "{name}");
        // The configuration of version 2 has only the arguments of its constructor.
        assert_eq!(config.to_json().contains("resnet_block_groups"), name.contains('.'), "{name}");
        assert_eq!(config.to_json().contains("version"), name.contains('.'), "{name}");
        assert_eq!(config.parameter_count(), golden.parameter_count(), "{name}");
    }
}

/// Without a previous prediction, a network that is conditioned on it gets zeros, as in the original.
#[test]
fn an_absent_prediction_is_zero() {
    let device = Device::flex();
    let golden = Golden::read("lucidrains_options");
    let network = network(&golden, &device);
    let x = golden.images("x", &device);
    let condition = |prediction| LucidrainsCondition { prediction, classes: None };
    let run = |prediction| nchw(network.forward(x.clone(), &golden.results["t"].data, condition(prediction), None));
    assert_eq!(run(None), run(Some(x.zeros_like())));
    assert_ne!(run(None), run(Some(x.ones_like())));
}

/// The label after the classes, and no labels, are the original's null embedding.
#[test]
fn the_label_after_the_classes_means_no_class() {
    let device = Device::flex();
    let golden = Golden::read("lucidrains_classes");
    let network = network(&golden, &device);
    let x = golden.images("x", &device);
    let run = |classes| {
        let condition = LucidrainsCondition { prediction: None, classes };
        nchw(network.forward(x.clone(), &golden.results["t"].data, condition, None))
    };
    assert_eq!(run(None), run(Some(&[3, 3, 3])));
    assert_eq!(run(None), run(Some(&[7, 3, u32::MAX])));
    assert_ne!(run(None), run(Some(&[0, 1, 2])));
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
        (r#"{"version": "1.9", "dim": 12}"#, "`resnet_block_groups` is 8, which does not divide 12 channels"),
        (r#"{"version": "1.8"}"#, "`version`"),
        (r#"{"dropout": 1.0}"#, "`dropout` is 1.0"),
        (r#"{"num_classes": 3, "self_condition": true}"#, "`self_condition` is no argument of a network with classes"),
        (r#"{"num_classes": 3, "dropout": 0.1}"#, "`dropout` is no argument of a network with classes"),
        (r#"{"num_classes": 3, "attn_heads": [1, 2, 3, 4]}"#, "`attn_heads` and `attn_dim_head` are single numbers"),
        (r#"{"num_classes": 3000000}"#, "`num_classes` is 3000000"),
        (r#"{"sample_size": 28}"#, "images of 28x28 do not fit 4 levels"),
        (r#"{"_class_name": "Unet"}"#, "`_class_name` is \"Unet\"; expected \"LucidrainsUnet\""),
    ];
    for (text, expected) in errors {
        let error = LucidrainsConfig::from_json(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}
