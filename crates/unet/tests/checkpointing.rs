//! Gradient checkpointing changes no bit of a gradient, in any network.

mod common;

use burn::tensor::{Device, Tensor};
use common::Golden;
use ddpm_unet::edm::{EdmConfig, EdmLabels, EdmUnet};
use ddpm_unet::hmdolatabadi::{HmdolatabadiConfig, HmdolatabadiUnet};
use ddpm_unet::lucidrains::{LucidrainsCondition, LucidrainsConfig, LucidrainsUnet};
use ddpm_unet::{ClassEmbedType, Dropout, Labels, Parameters, Unet, UnetConfig, UnetInputs};

/// A golden with dropout masks: both forward passes must have the same.
struct Case {
    golden: Golden,
    device: Device,
    dropout: Dropout,
}

impl Case {
    fn new(name: &str) -> Self {
        let dropout = Dropout { random: random::Random::new(3), step: 5, first_image: 0 };
        Self { golden: Golden::read(name), device: Device::flex().autodiff(), dropout }
    }

    fn classes(&self, name: &str) -> Option<Vec<u32>> {
        let labels = self.golden.results.get(name)?;
        Some(labels.data.iter().map(|&label| label as u32).collect())
    }

    fn inputs<'a, C>(&'a self, timesteps: &str, condition: C) -> UnetInputs<'a, C> {
        UnetInputs {
            // From the data, as in training.
            x: self.golden.images("x", &self.device).inner().autodiff(),
            timesteps: &self.golden.results[timesteps].data,
            condition,
            dropout: Some(&self.dropout),
            observer: None,
        }
    }

    fn loss(&self, output: Tensor<4>) -> Tensor<1> {
        let error = output - self.golden.images("target", &self.device);
        (error.clone() * error).mean()
    }

    fn compare<N: Parameters>(&self, network: &N, output: Tensor<4>, checkpointed: Vec<Option<Tensor<1>>>) {
        let whole = network.take_gradients(&mut self.loss(output).backward());
        compare(&self.golden.name, network, [whole, checkpointed]);
    }
}

/// Compares the bits of the gradients of all parameters.
fn compare<N: Parameters>(name: &str, network: &N, [whole, checkpointed]: [Vec<Option<Tensor<1>>>; 2]) {
    assert_eq!(whole.len(), checkpointed.len());
    let (mut trained, mut differing) = (0, Vec::new());
    for ((whole, checkpointed), flat) in whole.into_iter().zip(checkpointed).zip(network.flat_parameters()) {
        let bits = |tensor: Tensor<1>| tensor.into_data().iter::<f32>().map(f32::to_bits).collect::<Vec<_>>();
        let (whole, checkpointed) = (whole.map(bits), checkpointed.map(bits));
        differing.extend((whole != checkpointed).then_some(flat.name));
        trained += usize::from(whole.is_some());
    }
    assert!(differing.is_empty(), "{name}: of {trained} gradients, those of {differing:?} differ");
    assert!(trained > 10, "{name}: {trained} gradients");
}

#[test]
fn diffusers_networks() {
    for name in ["ho", "defaults", "adm", "attn_resample", "fourier", "odd", "learned_time"] {
        let case = Case::new(name);
        let config = UnetConfig { dropout: 0.3, ..UnetConfig::from_json(&case.golden.config).unwrap() };
        let network = Unet::new(&config, 0, &case.device).unwrap().with_tensors(case.golden.weights.clone()).unwrap();
        let classes = case.classes("labels");
        let labels = match config.class_embed_type {
            Some(ClassEmbedType::Identity) => Some(Labels::Vectors(&case.golden.results["labels"].data)),
            _ => classes.as_deref().map(Labels::Classes),
        };
        let UnetInputs { x, timesteps, .. } = case.inputs("t", labels);
        let output = network.forward(x, timesteps, labels, Some(&case.dropout));
        let checkpointed = network.checkpointed_gradients(case.inputs("t", labels), |output| case.loss(output));
        case.compare(&network, output, checkpointed);
    }
}

#[test]
fn lucidrains_networks() {
    let names = [
        "lucidrains",
        "lucidrains_options",
        "lucidrains_learned",
        "lucidrains_0.28",
        "lucidrains_1.7",
        "lucidrains_1.9",
        "lucidrains_classes",
    ];
    for name in names {
        let case = Case::new(name);
        let mut config = LucidrainsConfig::from_json(&case.golden.config).unwrap();
        config.dropout = if config.num_classes > 0 { 0.0 } else { 0.3 };
        let network = LucidrainsUnet::new(&config, 0, &case.device).unwrap();
        let network = network.with_tensors(case.golden.weights.clone()).unwrap();
        let prediction =
            || case.golden.results.get("prediction").map(|_| case.golden.images("prediction", &case.device));
        let classes = case.classes("classes");
        let condition = || LucidrainsCondition { prediction: prediction(), classes: classes.as_deref() };
        let UnetInputs { x, timesteps, .. } = case.inputs("t", ());
        let output = network.forward(x, timesteps, condition(), Some(&case.dropout));
        let inputs = case.inputs("t", condition());
        case.compare(&network, output, network.checkpointed_gradients(inputs, |output| case.loss(output)));
    }
}

#[test]
fn edm_networks() {
    for name in ["edm_ddpmpp", "edm_ncsnpp", "edm_skip", "edm_residual", "edm_adm"] {
        let case = Case::new(name);
        let config = EdmConfig { dropout: 0.3, ..EdmConfig::from_json(&case.golden.config).unwrap() };
        let network =
            EdmUnet::new(&config, 0, &case.device).unwrap().with_tensors(case.golden.weights.clone()).unwrap();
        let classes = case.classes("classes");
        let augment = case.golden.results.get("augment_labels").map(|labels| &*labels.data);
        let labels = EdmLabels { classes: classes.as_deref(), augment };
        let UnetInputs { x, timesteps, .. } = case.inputs("c_noise", labels);
        let output = network.forward(x, timesteps, labels, Some(&case.dropout));
        let inputs = case.inputs("c_noise", labels);
        case.compare(&network, output, network.checkpointed_gradients(inputs, |output| case.loss(output)));
    }
}

/// Of each class, with three levels of two blocks, attention and every other way to copy the images.
#[test]
fn deeper_edm_networks() {
    let base = r#""img_resolution": 16, "model_channels": 16, "channel_mult": [1, 2, 2], "num_blocks": 2,
        "attn_resolutions": [8], "dropout": 0.2"#;
    let case = Case::new("edm_ddpmpp");
    let channels = case.golden.results["x"].shape[1];
    let song = |rest: &str| format!(r#"{{"_class_name": "SongUNet", {base}, {rest}}}"#);
    let texts = [
        song(r#""encoder_type": "residual", "resample_filter": [1, 3, 3, 1]"#),
        song(r#""encoder_type": "skip", "decoder_type": "skip""#),
        song(r#""encoder_type": "residual", "decoder_type": "skip", "resample_filter": [1, 3, 3, 1]"#),
        format!(r#"{{"_class_name": "DhariwalUNet", {base}}}"#),
    ];
    for text in texts {
        let config = EdmConfig::from_json(&text).unwrap();
        let config = EdmConfig { in_channels: channels, out_channels: channels, ..config };
        let network = EdmUnet::new(&config, 0, &case.device).unwrap();
        let values: Vec<f32> = (0..3 * 16 * 16 * channels).map(|i| (i as f32 * 0.37).sin()).collect();
        let x = || Tensor::<1>::from_floats(&*values, &case.device).reshape([3, 16, 16, channels]);
        let loss = |output: Tensor<4>| (output - x().mul_scalar(0.7)).powi_scalar(2).mean();
        let (timesteps, dropout) = (&[0.3, -0.8, 1.1][..], Some(&case.dropout));
        let output = network.forward(x(), timesteps, EdmLabels::default(), dropout);
        let whole = network.take_gradients(&mut loss(output).backward());
        let inputs = UnetInputs { x: x(), timesteps, condition: EdmLabels::default(), dropout, observer: None };
        let checkpointed = network.checkpointed_gradients(inputs, loss);
        compare(&text, &network, [whole, checkpointed]);
    }
}

#[test]
fn hmdolatabadi_networks() {
    for name in ["hmdolatabadi", "hmdolatabadi_fold"] {
        let case = Case::new(name);
        let config = HmdolatabadiConfig { dropout: 0.3, ..HmdolatabadiConfig::from_json(&case.golden.config).unwrap() };
        let network = HmdolatabadiUnet::new(&config, 0, &case.device).unwrap();
        let network = network.with_tensors(case.golden.weights.clone()).unwrap();
        let UnetInputs { x, timesteps, .. } = case.inputs("t", ());
        let output = network.forward(x, timesteps, Some(&case.dropout));
        let inputs = case.inputs("t", ());
        case.compare(&network, output, network.checkpointed_gradients(inputs, |output| case.loss(output)));
    }
}
