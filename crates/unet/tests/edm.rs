//! Compares output, loss and all gradients with `SongUNet` and `DhariwalUNet` of NVlabs/edm (PyTorch, float64).
//! `tools/goldens_edm.py` writes the golden files; `tools/README.md` describes them.

mod common;

use burn::tensor::{Device, Tensor};
use common::{Golden, nchw};
use ddpm_unet::Parameters;
use ddpm_unet::edm::{EdmConfig, EdmLabels, EdmUnet};

const STORED: [&str; 5] = ["edm_ddpmpp", "edm_ncsnpp", "edm_skip", "edm_residual", "edm_adm"];

fn network(golden: &Golden, device: &Device) -> EdmUnet {
    let config = EdmConfig::from_json(&golden.config).unwrap();
    EdmUnet::new(&config, 0, device).unwrap().with_tensors(golden.weights.clone()).unwrap()
}

fn classes(golden: &Golden) -> Option<Vec<u32>> {
    golden.results.get("classes").map(|classes| classes.data.iter().map(|&class| class as u32).collect())
}

#[test]
fn networks_match_the_original() {
    let device = Device::flex().autodiff();
    for name in STORED {
        let golden = Golden::read(name);
        let (network, classes) = (network(&golden, &device), classes(&golden));
        let augment = golden.results.get("augment_labels").map(|labels| &*labels.data);
        let labels = EdmLabels { classes: classes.as_deref(), augment };
        // Random frequencies are not trained.
        golden.check(&network, &["map_noise.freqs"], |x: Tensor<4>| {
            network.forward(x, &golden.results["c_noise"].data, labels, None)
        });
    }
}

#[test]
fn a_configuration_keeps_what_it_says() {
    for name in STORED {
        let golden = Golden::read(name);
        let config = EdmConfig::from_json(&golden.config).unwrap();
        assert_eq!(EdmConfig::from_json(&config.to_json()).unwrap(), config, "{name}");
        assert_eq!(config.parameter_count(), golden.parameter_count(), "{name}");
    }
}

/// PyTorch counts 55,733,891, 56,397,827 and 295,899,267 parameters in the original's networks for CIFAR-10 and ImageNet. The
/// 128 random frequencies of the second are a buffer there.
#[test]
fn published_networks_have_their_numbers_of_parameters() {
    let count = |text: &str| EdmConfig::from_json(text).unwrap().parameter_count();
    let ddpmpp = r#"{"_class_name": "SongUNet", "channel_mult": [2, 2, 2], "augment_dim": 9}"#;
    assert_eq!(count(ddpmpp), 55_733_891);
    let ncsnpp = r#"{"_class_name": "SongUNet", "channel_mult": [2, 2, 2], "augment_dim": 9, "embedding_type": "fourier",
        "channel_mult_noise": 2, "encoder_type": "residual", "resample_filter": [1, 3, 3, 1]}"#;
    assert_eq!(count(ncsnpp), 56_397_827 + 128);
    let adm = r#"{"_class_name": "DhariwalUNet", "img_resolution": 64, "label_dim": 1000}"#;
    assert_eq!(count(adm), 295_899_267);
}

/// A class of `label_dim` is that of no label at all.
#[test]
fn the_last_class_means_no_class() {
    let device = Device::flex();
    for name in ["edm_ddpmpp", "edm_adm"] {
        let golden = Golden::read(name);
        let network = network(&golden, &device);
        let x = golden.images("x", &device);
        let last = network.config().label_dim as u32;
        let run = |class: Option<u32>| {
            let classes = class.map(|class| vec![class; x.dims()[0]]);
            let labels = EdmLabels { classes: classes.as_deref(), augment: None };
            nchw(network.forward(x.clone(), &golden.results["c_noise"].data, labels, None))
        };
        assert_eq!(run(None), run(Some(last)), "{name}");
        assert_ne!(run(None), run(Some(0)), "{name}");
    }
}

#[test]
fn mistakes_are_named() {
    let errors = [
        (r#"{"_class_name": "SongUNet", "blocks": 3}"#, "`blocks` (with value 3) is not a supported key of SongUNet"),
        (r#"{"_class_name": "DhariwalUNet", "encoder_type": "skip"}"#, "`encoder_type` is not a key of DhariwalUNet"),
        (r#"{"model_channels": 2}"#, "`model_channels` is 2; expected 4 to 65536"),
        (
            r#"{"model_channels": 36, "channel_mult": [4]}"#,
            "`enc.32x32_block0` has 144 channels, which cannot be normalized in 32 groups",
        ),
        (r#"{"channel_mult": []}"#, "`channel_mult` has 0 entries"),
        (r#"{"img_resolution": 20}"#, "images of 20x20 do not fit 4 levels"),
        (r#"{"resample_filter": [1, 2, 1]}"#, "`resample_filter` is [1.0, 2.0, 1.0]"),
        (r#"{"resample_filter": [1, -1]}"#, "expected numbers whose sum is not 0"),
        (r#"{"dropout": 1.0}"#, "`dropout` is 1.0"),
        (
            r#"{"_class_name": "DhariwalUNet", "model_channels": 224, "channel_mult": [1]}"#,
            "attention with 224 channels, which its 3 heads do not divide",
        ),
        (
            r#"{"_class_name": "EDMPrecond"}"#,
            "`_class_name` is \"EDMPrecond\"; expected \"SongUNet\" or \"DhariwalUNet\"",
        ),
    ];
    for (text, expected) in errors {
        let error = EdmConfig::from_json(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}
