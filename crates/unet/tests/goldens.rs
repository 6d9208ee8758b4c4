//! Compares output, loss and all gradients with diffusers' `UNet2DModel` (PyTorch, float64). `tools/goldens.py` writes
//! the golden files; `tools/README.md` describes them.
//!
//! ```python
//! model = UNet2DModel.from_config(config); model.load_state_dict(weights); model.double()
//! output = model(x, t, class_labels=labels).sample
//! loss = ((output - target) ** 2).mean(); loss.backward()
//! ```

mod common;

use burn::tensor::Device;
use common::{folder, gradient_tensors, nchw, nhwc, relative};
use ddpm_unet::{ClassEmbedType, Labels, Parameters, Unet, UnetConfig};
use weights::{Tensors, read_safetensors};

const STORED: [&str; 9] =
    ["ho", "defaults", "learned_range", "adm", "attn_resample", "fourier", "odd", "learned_time", "large_eps"];

/// Returns the Euclidean norm of the difference relative to that of the values.
#[cfg(feature = "wgpu")]
fn relative_length(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len());
    let length = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = length(&mut got.iter().zip(expected).map(|(&g, &e)| f64::from(g) - f64::from(e)));
    (difference / length(&mut expected.iter().map(|&e| f64::from(e)))) as f32
}

/// A relative distance between two tensors.
type Norm = fn(&[f32], &[f32]) -> f32;

struct Run {
    output: Vec<f32>,
    loss: f32,
    grad_x: Vec<f32>,
    gradients: Tensors,
}

/// Returns the labels of a golden, which are class numbers or vectors.
fn labels<'a>(config: &UnetConfig, values: Option<&'a [f32]>, classes: Option<&'a [u32]>) -> Option<Labels<'a>> {
    match config.class_embed_type {
        Some(ClassEmbedType::Identity) => values.map(Labels::Vectors),
        _ => classes.map(Labels::Classes),
    }
}

fn run(config: &UnetConfig, weights: Tensors, golden: &Tensors, device: &Device) -> Run {
    let device = device.clone().autodiff();
    let unet = Unet::new(config, 0, &device).unwrap().with_tensors(weights).unwrap();
    let x = nhwc(&golden["x"], &device).require_grad();
    let values = golden.get("labels").map(|t| t.data.as_slice());
    let classes: Option<Vec<u32>> = values.map(|l| l.iter().map(|&v| v as u32).collect());
    let labels = labels(config, values, classes.as_deref());
    let output = unet.forward(x.clone(), &golden["t"].data, labels, None);
    let error = output.clone() - nhwc(&golden["target"], &device);
    let loss = (error.clone() * error).mean();
    let mut gradients = loss.backward();
    Run {
        output: nchw(output.inner()),
        loss: loss.into_scalar::<f32>(),
        grad_x: nchw(x.grad(&gradients).unwrap()),
        gradients: gradient_tensors(&unet, &mut gradients),
    }
}

fn check_stored(name: &str, device: &Device, relative: Norm) {
    let folder = folder(name);
    let config = UnetConfig::read(&folder.join("config.json")).unwrap();
    let (weights, _) = read_safetensors(folder.join("weights.safetensors")).unwrap();
    let (golden, _) = read_safetensors(folder.join("golden.safetensors")).unwrap();
    assert_eq!(config.parameter_count(), weights.values().map(|t| t.data.len()).sum::<usize>(), "{name}");
    let run = run(&config, weights, &golden, device);

    let output = relative(&run.output, &golden["output"].data);
    let loss = (run.loss - golden["loss"].data[0]).abs() / golden["loss"].data[0];
    let grad_x = relative(&run.grad_x, &golden["grad.x"].data);
    let mut worst = (0f32, String::new());
    for (parameter, expected) in golden.iter().filter_map(|(k, v)| Some((k.strip_prefix("grad.")?, v))) {
        if parameter == "x" {
            continue;
        }
        let got = &run.gradients[parameter];
        assert_eq!(got.shape, expected.shape, "{name}: {parameter}");
        if parameter.ends_with("to_k.bias") {
            // The exact gradient is zero, since this bias changes all scores of a query equally.
            assert!(got.data.iter().all(|g| g.abs() < 1e-6), "{name}: {parameter}");
            continue;
        }
        let error = relative(&got.data, &expected.data);
        if error > worst.0 {
            worst = (error, parameter.to_owned());
        }
    }
    println!(
        "{name}: output {output:.1e}, loss {loss:.1e}, x {grad_x:.1e}, worst parameter {:.1e} {}",
        worst.0, worst.1
    );
    assert!(output <= 1e-5, "{name}: output is off by {output:e}");
    assert!(loss <= 1e-5, "{name}: loss is off by {loss:e}");
    assert!(grad_x <= 1e-5, "{name}: the gradient of x is off by {grad_x:e}");
    assert!(worst.0 <= 1e-5, "{name}: the gradient of {} is off by {:e}", worst.1, worst.0);
}

#[test]
fn stored_networks_match_on_the_cpu() {
    for name in STORED {
        check_stored(name, &Device::flex(), relative);
    }
}

/// SplitMix64, seeded with the FNV-1a hash of a name: see tools/README.md.
struct Formula(u64);

impl Formula {
    fn of(name: &str) -> Self {
        Self(name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)))
    }

    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / 8_388_608.0 - 1.0
    }
}

fn formula_weights(config: &UnetConfig) -> Tensors {
    let mut tensors = Unet::new(config, 0, &Device::flex()).unwrap().tensors().unwrap();
    for (name, tensor) in &mut tensors {
        let mut formula = Formula::of(name);
        let fan_in: usize = tensor.shape.iter().skip(1).product();
        let scale = (3.0 / fan_in as f64).sqrt() as f32;
        for value in &mut tensor.data {
            let u = formula.next();
            *value = match tensor.shape.len() {
                1 if name.ends_with(".bias") => u / 8.0,
                1 => 1.0 + u / 4.0,
                _ => scale * u,
            };
        }
    }
    tensors
}

fn check_formula(name: &str, device: &Device) {
    let folder = folder("formula").join(name);
    let config = UnetConfig::read(&folder.join("config.json")).unwrap();
    let (golden, _) = read_safetensors(folder.join("golden.safetensors")).unwrap();
    let names: Vec<String> =
        serde_json::from_str(&std::fs::read_to_string(folder.join("parameters.json")).unwrap()).unwrap();
    let run = run(&config, formula_weights(&config), &golden, device);
    let output = relative(&run.output, &golden["output"].data);
    let grad_x = relative(&run.grad_x, &golden["grad.x"].data);
    assert_eq!(names.len(), run.gradients.len());
    let mut worst = 0f64;
    for (i, name) in names.iter().enumerate() {
        let gradient = &run.gradients[name];
        let norm = gradient.data.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
        let mut formula = Formula::of(&format!("dot.{name}"));
        let dot: f64 = gradient.data.iter().map(|&g| f64::from(g) * f64::from(formula.next())).sum();
        let (expected_norm, expected_dot) =
            (f64::from(golden["grad_norms"].data[i]), f64::from(golden["grad_dots"].data[i]));
        if name.ends_with("to_k.bias") {
            assert!(norm < 1e-5, "{name}: {norm}");
            continue;
        }
        worst = worst.max((norm - expected_norm).abs() / expected_norm).max((dot - expected_dot).abs() / expected_norm);
    }
    println!("{name}: output {output:.1e}, x {grad_x:.1e}, worst parameter {worst:.1e}");
    assert!(output <= 1e-5, "{name}: output is off by {output:e}");
    assert!(grad_x <= 1e-5, "{name}: the gradient of x is off by {grad_x:e}");
    assert!(worst <= 1e-5, "{name}: a parameter's gradient is off by {worst:e}");
}

#[test]
fn real_widths_match_on_the_cpu() {
    check_formula("ho_wide", &Device::flex());
}

#[test]
fn the_cifar10_network_of_the_paper_matches_on_the_cpu() {
    check_formula("ddpm_cifar10", &Device::flex());
}

/// Tests the reference operations on any wgpu adapter; Mesa's lavapipe suffices. The sums of this back end are less
/// accurate than those of the kernels (the worst element of one gradient in 300 is off by 1.1e-5), so norms are
/// compared.
#[cfg(feature = "wgpu")]
#[test]
fn stored_networks_match_on_wgpu() {
    use burn::tensor::DeviceKind;
    let Some(device) = [DeviceKind::DefaultDevice, DeviceKind::Cpu]
        .into_iter()
        .map(Device::wgpu)
        .find(|device| std::panic::catch_unwind(|| burn::tensor::Tensor::<1>::zeros([1], device).into_data()).is_ok())
    else {
        eprintln!("SKIPPED: no wgpu adapter was found (Debian: apt-get install mesa-vulkan-drivers)");
        return;
    };
    for name in STORED {
        check_stored(name, &device, relative_length);
    }
}
