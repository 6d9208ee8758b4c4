//! Golden files of networks, and their comparison.
#![allow(dead_code, reason = "each test uses a part")]

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Gradients, Tensor, TensorData};
use ddpm_unet::Parameters;
use weights::{Tensors, read_safetensors};

/// The text of the configuration, the weights and the results of a golden.
pub struct Golden {
    pub name: String,
    pub config: String,
    pub weights: Tensors,
    pub results: Tensors,
}

pub fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(name)
}

impl Golden {
    pub fn read(name: &str) -> Self {
        let folder = folder(name);
        let tensors = |file: &str| read_safetensors(folder.join(file)).unwrap().0;
        Self {
            name: name.to_owned(),
            config: std::fs::read_to_string(folder.join("config.json")).unwrap(),
            weights: tensors("weights.safetensors"),
            results: tensors("golden.safetensors"),
        }
    }

    pub fn parameter_count(&self) -> usize {
        self.weights.values().map(|tensor| tensor.data.len()).sum()
    }

    /// Returns a tensor of images.
    pub fn images(&self, name: &str, device: &Device) -> Tensor<4> {
        nhwc(&self.results[name], device)
    }

    /// Compares the output of `forward` for the golden's `x`, the loss, and the gradients of x and of every parameter. Those
    /// of `untrained` have none.
    pub fn check<N: Parameters>(&self, network: &N, untrained: &[&str], forward: impl Fn(Tensor<4>) -> Tensor<4>) {
        let Self { name, results, .. } = self;
        let device = network.device().autodiff();
        let x = self.images("x", &device).require_grad();
        let output = forward(x.clone());
        let error = output.clone() - self.images("target", &device);
        let loss = (error.clone() * error).mean();
        let mut gradients = loss.backward();

        let output = relative(&nchw(output.inner()), &results["output"].data);
        let loss = (loss.into_scalar::<f32>() - results["loss"].data[0]).abs() / results["loss"].data[0];
        let mut worst = (relative(&nchw(x.grad(&gradients).unwrap()), &results["grad.x"].data), "x".to_owned());
        let found = gradient_tensors(network, &mut gradients);
        for flat in network.flat_parameters() {
            let name_of = |kind: &str| results.get(&format!("{kind}.{}", flat.name));
            // Of large tensors, some goldens have every seventh value.
            let (expected, stride) = match (name_of("grad"), name_of("grad7")) {
                (Some(all), _) => (all, 1),
                (None, Some(some)) => (some, 7),
                (None, None) => {
                    let has_none = !found.contains_key(&flat.name) && untrained.contains(&&*flat.name);
                    assert!(has_none, "{name}: {} has no gradient in the golden", flat.name);
                    continue;
                }
            };
            let got = &found[&flat.name];
            assert!(stride > 1 || got.shape == expected.shape, "{name}: {}", flat.name);
            let got: Vec<f32> = got.data.iter().copied().step_by(stride).collect();
            let error = relative(&got, &expected.data);
            if error > worst.0 {
                worst = (error, flat.name.clone());
            }
        }
        println!("{name}: output {output:.1e}, loss {loss:.1e}, worst gradient {:.1e} {}", worst.0, worst.1);
        assert!(output <= 1e-5, "{name}: output is off by {output:e}");
        assert!(loss <= 1e-5, "{name}: loss is off by {loss:e}");
        assert!(worst.0 <= 1e-5, "{name}: the gradient of {} is off by {:e}", worst.1, worst.0);
    }
}

/// Returns the gradients of the trained parameters by name, in the layout on disk.
pub fn gradient_tensors<N: Parameters>(network: &N, gradients: &mut Gradients) -> Tensors {
    let (taken, flat) = (network.take_gradients(gradients), network.flat_parameters());
    let trained: Vec<bool> = taken.iter().map(Option::is_some).collect();
    let values = taken.into_iter().zip(&flat).map(|(gradient, flat)| gradient.unwrap_or(flat.values.zeros_like()));
    let mut tensors = network.tensors_of(values).unwrap();
    for (flat, trained) in flat.iter().zip(trained) {
        if !trained {
            tensors.remove(&flat.name);
        }
    }
    tensors
}

/// Converts a golden tensor from N,C,H,W to N,H,W,C.
pub fn nhwc(tensor: &weights::Tensor, device: &Device) -> Tensor<4> {
    let shape: [usize; 4] = tensor.shape.clone().try_into().unwrap();
    Tensor::from_data(TensorData::new(tensor.data.clone(), shape), device).permute([0, 2, 3, 1])
}

pub fn nchw(tensor: Tensor<4>) -> Vec<f32> {
    tensor.permute([0, 3, 1, 2]).into_data().iter::<f32>().collect()
}

/// Returns the largest difference relative to the largest value.
pub fn relative(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len());
    assert!(got.iter().all(|v| v.is_finite()));
    let scale = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    got.iter().zip(expected).fold(0f32, |m, (g, e)| m.max((g - e).abs())) / scale
}
