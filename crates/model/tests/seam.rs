//! Tests the interface between networks and the code that uses them: predictions, guidance, pipelines.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use ddpm_model::guidance::Guidance;
use ddpm_model::{
    Backbone, Condition, Denoiser, Dropout, Images, LabelKind, Labels, Network, Pipeline, Preprocessing, Process,
    Signature,
};
use diffusion::{NoiseLevel, Prediction, SchedulerConfig};
use unet::Parameters;
use unet::layers::{Init, Linear};

/// A network for images of four pixels whose output depends on x, t and the class.
#[derive(Module, Debug)]
struct Toy {
    layer: Linear,
}

impl Parameters for Toy {}

impl Backbone for Toy {
    fn forward(&self, x: Tensor<4>, t: &[f32], condition: Condition, _: Option<&Dropout>) -> Tensor<4> {
        let [n, height, width, channels] = x.dims();
        let device = x.device();
        let y = self.layer.forward(x.reshape([n, height * width * channels])).reshape([n, height, width, channels]);
        let Some(Labels::Classes(labels)) = condition.labels else { panic!("checked before") };
        let shift: Vec<f64> =
            t.iter().zip(labels).map(|(&t, &label)| f64::from(t) / 100.0 + f64::from(label)).collect();
        y + ddpm_model::denoiser::per_image(&shift, &device)
    }

    fn signature(&self) -> Signature {
        Signature { size: Some([2, 2]), labels: LabelKind::Classes(4), ..Signature::unconditional(1) }
    }

    fn config(&self) -> String {
        r#"{ "_class_name": "Toy" }"#.to_owned()
    }
}

fn toy() -> Network {
    Network::from(Toy { layer: Linear::new(&mut Init::new(1, &Device::flex()), 4, 4, 1.0) })
}

fn images() -> Images {
    let pixels = (0..12).map(|i| (i * 7 % 11) as f32 / 5.0 - 1.0).collect();
    Images::new([3, 2, 2, 1], pixels).with_labels(Some(vec![0, 1, 2]))
}

fn close(a: &[f32], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-4 * (1.0 + b.abs()))
}

/// For every prediction type, the estimates satisfy x_t = α·x̂0 + σ·ε̂. They are the same for one noise level or one
/// per image, and in f32 on the device or f64 on the host.
#[test]
fn estimates_agree_and_explain_x_t() {
    let images = images();
    let x_t = images.tensor(&Device::flex());
    let condition = Condition::classes(images.labels.as_deref());
    for (name, prediction) in Prediction::NAMES {
        let scheduler = SchedulerConfig { prediction_type: prediction, ..SchedulerConfig::default() };
        let denoiser = Process::new(&scheduler).unwrap().denoiser(toy());
        let node = denoiser.process.nodes(&[400])[0];
        let one = denoiser.denoise(x_t.clone(), &[node], condition).unwrap();
        let each = denoiser.denoise(x_t.clone(), &[node; 3], condition).unwrap();
        let host = one.images();
        let flat = |choose: fn(&ddpm_model::denoiser::DenoisedImage) -> &Vec<f64>| {
            host.iter().flat_map(|image| choose(image).clone()).collect::<Vec<f64>>()
        };
        let (sample, epsilon) = (flat(|image| &image.sample), flat(|image| &image.epsilon));
        for denoised in [&one, &each] {
            assert!(close(&Images::from_tensor(&denoised.sample()).pixels, &sample), "{name}");
            assert!(close(&Images::from_tensor(&denoised.epsilon()).pixels, &epsilon), "{name}");
        }
        let NoiseLevel { alpha, sigma } = node.level;
        let explained: Vec<f64> = sample.iter().zip(&epsilon).map(|(x0, e)| alpha * x0 + sigma * e).collect();
        assert!(close(&images.pixels, &explained), "{name}");
    }
}

/// Higher-order samplers evaluate between timesteps, where the posterior mean of the training chain is undefined. At
/// integer timesteps it is that of the chain.
#[test]
fn a_previous_mean_is_read_at_whole_timesteps_only() {
    let scheduler = SchedulerConfig { prediction_type: Prediction::PreviousMean, ..SchedulerConfig::default() };
    let denoiser = Process::new(&scheduler).unwrap().denoiser(toy());
    let schedule = &denoiser.process.schedule;
    assert!(denoiser.check_node(diffusion::Node::at(schedule, 500.0)).is_ok());
    let error = denoiser.check_node(diffusion::Node::at(schedule, 500.5)).unwrap_err().to_string();
    assert!(error.contains("previous_mean") && error.contains("500.5"), "{error}");
}

#[test]
fn guidance_extrapolates_within_its_interval_and_is_exact_outside() {
    let images = images();
    let x_t = images.tensor(&Device::flex());
    let condition = Condition::classes(images.labels.as_deref());
    let denoiser = Process::new(&SchedulerConfig::default()).unwrap().denoiser(toy());
    let nodes = denoiser.process.nodes(&[100, 400, 900]);
    let output = |denoiser: &dyn Denoiser, labels: &[u32]| {
        let condition = Condition::classes(Some(labels));
        Images::from_tensor(denoiser.denoise(x_t.clone(), &nodes, condition).unwrap().output()).pixels
    };
    let (conditional, none) = (output(&denoiser, &[0, 1, 2]), output(&denoiser, &[3; 3]));
    let guided = output(&Guidance::new(2.5, 3).around(denoiser.clone()), &[0, 1, 2]);
    let expected: Vec<f64> =
        conditional.iter().zip(&none).map(|(c, n)| f64::from(*n) + 2.5 * f64::from(c - n)).collect();
    assert!(close(&guided, &expected));
    // With scale 1, or outside the interval, the output equals the conditional one bit by bit.
    assert_eq!(output(&Guidance::new(1.0, 3).around(denoiser.clone()), &[0, 1, 2]), conditional);
    let guidance = Guidance { interval: (200.0, 500.0), ..Guidance::new(2.5, 3) };
    let within = output(&guidance.around(denoiser.clone()), &[0, 1, 2]);
    assert_eq!([&within[..4], &within[8..]], [&conditional[..4], &conditional[8..]]);
    assert_eq!(within[4..8], guided[4..8]);

    let wrong = Guidance::new(2.0, 4).around(denoiser.clone());
    assert!(wrong.check([3, 2, 2, 1], condition).unwrap_err().to_string().contains("below 4"));
    let error = guidance.around(denoiser).check([3, 2, 2, 1], Condition::default()).unwrap_err().to_string();
    assert!(error.contains("guidance needs a class"), "{error}");
}

#[test]
fn what_does_not_fit_a_network_is_named() {
    let denoiser = Process::new(&SchedulerConfig::default()).unwrap().denoiser(toy());
    let error =
        |shape, labels: Option<&[u32]>| denoiser.check(shape, Condition::classes(labels)).unwrap_err().to_string();
    assert!(error([1, 4, 4, 1], Some(&[0])).contains("4x4"));
    assert!(error([1, 2, 2, 3], Some(&[0])).contains("3 channels"));
    assert!(error([2, 2, 2, 1], None).contains("found none"));
    assert!(error([2, 2, 2, 1], Some(&[0])).contains("1 class numbers"));
    assert!(error([1, 2, 2, 1], Some(&[7])).contains("up to 7"));
}

fn small() -> Pipeline {
    let config = unet::UnetConfig {
        norm_num_groups: 4,
        num_class_embeds: Some(3),
        ..unet::UnetConfig::ddpm([8, 8, 1], &[8], 1, &[])
    };
    let network = ddpm_model::NetworkConfig::from(config).build(0, &Device::flex()).unwrap();
    let preprocessing = Preprocessing {
        resolution: Some([8, 8]),
        channels: Some(1),
        fit: data::Fit::Pad,
        null_label: Some(2),
        ..Default::default()
    };
    Pipeline { network, scheduler: SchedulerConfig::default(), preprocessing, sampling: None, root: "memory".into() }
}

#[test]
fn a_saved_pipeline_keeps_its_preprocessing() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("model");
    small().save(&folder).unwrap();
    let loaded = Pipeline::load(&folder, &Device::flex()).unwrap();
    assert_eq!(loaded.preprocessing, small().preprocessing);
    assert_eq!(loaded.network.tensors().unwrap(), small().network.tensors().unwrap());
    assert_eq!(loaded.classes(), Some(vec![0, 1]));
    assert_eq!(loaded.preprocessing.read_options().fit, data::Fit::Pad);
    assert!(small().save(&folder).is_err());

    std::fs::write(folder.join("preprocessing.json"), r#"{"fit": "stretch"}"#).unwrap();
    let error = Pipeline::load(&folder, &Device::flex()).unwrap_err().to_string();
    assert!(error.contains("preprocessing.json") && error.contains("stretch"), "{error}");
}

/// The crop is that of the training images' files. Samples have the network's size already.
#[test]
fn images_are_cropped_unless_they_have_the_networks_size() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("model");
    let mut pipeline = small();
    small().save(&folder).unwrap();
    assert!(!std::fs::read_to_string(folder.join("preprocessing.json")).unwrap().contains("crop\":"));
    pipeline.preprocessing.crop = Some([5, 2, 8, 8].into());
    let folder = place.path().join("cropped");
    pipeline.save(&folder).unwrap();
    let loaded = Pipeline::load(&folder, &Device::flex()).unwrap();
    assert_eq!(loaded.preprocessing, pipeline.preprocessing);

    let pixel = |y: usize, x: usize| (y * 13 + x * 7) as u8;
    let write = |name: &str, [top, left, height, width]: [usize; 4]| {
        let pixels: Vec<u8> = (0..height * width).map(|i| pixel(top + i / width, left + i % width)).collect();
        let path = place.path().join(name);
        data::write_npz_images(std::fs::File::create(&path).unwrap(), &pixels, [1, height, width, 1], None).unwrap();
        path
    };
    let (whole, part) = (write("whole.npz", [0, 0, 10, 13]), write("part.npz", [2, 5, 8, 8]));
    assert_eq!(loaded.read_images(&[&whole], None).unwrap(), loaded.read_images(&[&part], None).unwrap());
    let white: Vec<bool> = (0..64).map(|i| pixel(2 + i / 8, 5 + i % 8) >= 128).collect();
    assert_eq!(loaded.read_mask(&whole, &whole, None).unwrap(), white);
    assert_eq!(loaded.read_mask(&part, &part, None).unwrap(), white);
    let small = write("small.npz", [0, 0, 9, 13]);
    let error = loaded.read_images(&[&small], None).unwrap_err().to_string();
    assert!(error.contains("small.npz") && error.contains("the 10x13 that the crop [5, 2, 8, 8] needs"), "{error}");

    std::fs::write(folder.join("preprocessing.json"), r#"{"fit": "crop", "crop": [0, 0, 0, 8]}"#).unwrap();
    let error = Pipeline::load(&folder, &Device::flex()).unwrap_err().to_string();
    assert!(error.contains("preprocessing.json") && error.contains("[left, top, width, height]"), "{error}");
}

/// Older runs have no `preprocessing.json`; the preprocessing is then read from the configuration of the run.
#[test]
fn older_runs_have_the_preprocessing_in_their_configuration() {
    let place = tempfile::tempdir().unwrap();
    let checkpoint = place.path().join("run/checkpoints/000000001");
    std::fs::create_dir_all(checkpoint.parent().unwrap()).unwrap();
    small().save(&checkpoint).unwrap();
    std::fs::remove_file(checkpoint.join("preprocessing.json")).unwrap();
    let preprocessing = || Pipeline::load(&checkpoint, &Device::flex()).unwrap().preprocessing;
    assert_eq!((preprocessing().fit, preprocessing().null_label), (data::Fit::Crop, None));
    let config = "[data]\nfit = \"pad\"\nflip = true\n\n[train]\nlabel_dropout = 0.1\n";
    std::fs::write(place.path().join("run/config.toml"), config).unwrap();
    assert_eq!(preprocessing(), Preprocessing { resolution: Some([8, 8]), channels: Some(1), ..small().preprocessing });
}
