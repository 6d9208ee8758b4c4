//! Compares output, loss and all gradients with the network of hmdolatabadi/denoising_diffusion (PyTorch, float64).
//! `tools/goldens_hmdolatabadi.py` writes the golden files; `tools/README.md` describes them.

mod common;

use burn::tensor::{Device, Tensor};
use common::Golden;
use ddpm_unet::Parameters;
use ddpm_unet::hmdolatabadi::{HmdolatabadiConfig, HmdolatabadiUnet};

const STORED: [&str; 2] = ["hmdolatabadi", "hmdolatabadi_fold"];

#[test]
fn networks_match_the_original() {
    let device = Device::flex().autodiff();
    for name in STORED {
        let golden = Golden::read(name);
        let config = HmdolatabadiConfig::from_json(&golden.config).unwrap();
        let network = HmdolatabadiUnet::new(&config, 0, &device).unwrap().with_tensors(golden.weights.clone()).unwrap();
        golden.check(&network, &[], |x: Tensor<4>| network.forward(x, &golden.results["t"].data, None));
    }
}

#[test]
fn a_configuration_keeps_what_it_says() {
    for name in STORED {
        let golden = Golden::read(name);
        let config = HmdolatabadiConfig::from_json(&golden.config).unwrap();
        assert_eq!(HmdolatabadiConfig::from_json(&config.to_json()).unwrap(), config, "{name}");
        assert_eq!(config.parameter_count(), golden.parameter_count(), "{name}");
    }
    // PyTorch counts these parameters in the networks of the original's two configurations.
    assert_eq!(HmdolatabadiConfig::default().parameter_count(), 34_493_699);
    let celeba = HmdolatabadiConfig { channel_multiplier: vec![1, 1, 2, 2, 4, 4], ..HmdolatabadiConfig::default() };
    assert_eq!(celeba.parameter_count(), 115_249_155);
}

#[test]
fn mistakes_are_named() {
    let errors = [
        (r#"{"channels": 8}"#, "`channels` (with value 8) is not a supported key of HmdolatabadiUNet"),
        (r#"{"channel": 48}"#, "`channel` is 48; expected a multiple of 32"),
        (r#"{"channel_multiplier": [0]}"#, "`channel_multiplier` has 0"),
        (r#"{"fold": 0}"#, "`fold` is 0; expected 1 to 64"),
        (r#"{"fold": 3, "sample_size": 32}"#, "images of 32x32 cannot be folded"),
        (r#"{"sample_size": 28}"#, "images of 28x28 do not fit 4 levels"),
        (r#"{"dropout": -0.5}"#, "`dropout` is -0.5"),
    ];
    for (text, expected) in errors {
        let error = HmdolatabadiConfig::from_json(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}
