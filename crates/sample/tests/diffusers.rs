//! Against diffusers (PyTorch): the same pipeline folder, noise and sampler give the same images. `tools/goldens.py` made
//! the files, `tools/README.md` describes them and says how far diffusers' own float32 is from them.
//!
//! ```python
//! pipe = DDPMPipeline.from_pretrained(folder)
//! scheduler = DDIMScheduler.from_config(pipe.scheduler.config); scheduler.set_timesteps(50)
//! for t in scheduler.timesteps:
//!     x = scheduler.step(pipe.unet(x, t).sample, t, x, eta=eta, variance_noise=noise[k]).prev_sample
//! ```

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use ddpm_sample::{Request, Sampler, SamplerOptions, initial_noise, sample};
use diffusion::scheduler::SchedulerClass;
use diffusion::{Estimate, LinearMap, Node, NoiseLevel, Prediction, SchedulerConfig, TimestepSpacing, Variance};
use model::{Condition, Images, Pipeline};
use weights::{Tensor as Stored, Tensors, read_safetensors};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/pipeline")
}

fn golden(name: &str) -> Tensors {
    read_safetensors(folder().join(name)).unwrap().0
}

/// N,C,H,W to N,H,W,C.
fn images(tensor: &Stored) -> Images {
    let [n, channels, height, width]: [usize; 4] = tensor.shape.clone().try_into().unwrap();
    let mut pixels = Vec::new();
    for image in tensor.data.chunks(channels * height * width) {
        for p in 0..height * width {
            pixels.extend((0..channels).map(|c| image[c * height * width + p]));
        }
    }
    Images::new([n, height, width, channels], pixels)
}

fn worst(got: &Images, expected: &Stored) -> f32 {
    let expected = images(expected);
    assert_eq!(got.shape(), expected.shape());
    got.pixels.iter().zip(&expected.pixels).fold(0f32, |m, (g, e)| m.max((g - e).abs()))
}

#[test]
fn the_networks_prediction_is_pytorchs_for_all_three_layouts() {
    let golden = golden("predict.safetensors");
    let x = images(&golden["x"]);
    for path in [folder(), folder().join("old"), folder().join("unet")] {
        let pipeline = Pipeline::load(&path, &Device::flex()).unwrap();
        let x = Tensor::<4>::from_data(TensorData::new(x.pixels.clone(), x.shape()), &Device::flex());
        let got = Images::from_tensor(&pipeline.network.forward(x, &golden["t"].data, Condition::default(), None));
        let scale = golden["prediction"].data.iter().fold(0f32, |m, v| m.max(v.abs()));
        let error = worst(&got, &golden["prediction"]) / scale;
        println!("{}: {error:.1e}", path.display());
        assert!(error <= 1e-5, "{}: {error:e}", path.display());
    }
}

#[test]
fn ddim_over_50_steps_is_diffusers() {
    let golden = golden("ddim50.safetensors");
    let pipeline = Pipeline::load(folder(), &Device::flex()).unwrap();
    let table = Sampler::Ddim { eta: 0.0 }
        .table(&pipeline.scheduler, SamplerOptions { steps: Some(50), ..Default::default() })
        .unwrap();
    let noise = images(&golden["noise"]);
    let request = Request { seed: 0, first_image: 0, noise: &noise, batch_size: 2, shared: None };
    let mut after = Vec::new();
    let got = sample(&pipeline.denoiser().unwrap(), &table, &request, |step| {
        if step.row % 10 == 9 {
            after.push(step.x());
        }
        true
    })
    .unwrap();
    let stored = &golden["after"];
    let size = stored.data.len() / stored.shape[0];
    for (k, state) in after.iter().take(stored.shape[0]).enumerate() {
        let expected = Stored { shape: stored.shape[1..].to_vec(), data: stored.data[k * size..][..size].to_vec() };
        let error = worst(state, &expected);
        assert!(error <= 1e-4, "after {} steps: {error:e}", 10 * (k + 1));
    }
    let error = worst(&got, &golden["samples"]);
    println!("ddim, 50 steps: {error:.1e}");
    assert!(error <= 1e-4, "{error:e}");
}

/// Applies a table with stored noise: `sample` draws its own, so the rows are applied here by the reference in
/// crate `diffusion`, with the network in between.
fn sample_with(pipeline: &Pipeline, scheduler: &SchedulerConfig, eta: f64, noise: &Stored, steps: &Stored) -> Images {
    let table = scheduler.solver_table(20, eta).unwrap();
    let init = images(noise);
    let shape = init.shape();
    let per_step = steps.data.len() / steps.shape[0];
    let x0: Vec<f64> = init.pixels.iter().map(|&v| f64::from(v)).collect();
    let model = |x: &[f64], t: f64| {
        let x = x.iter().map(|&v| v as f32).collect::<Vec<_>>();
        let x = Tensor::<4>::from_data(TensorData::new(x, shape), &Device::flex());
        let output = pipeline.network.forward(x, &vec![t as f32; shape[0]], Condition::default(), None);
        let channels = output.dims()[3];
        let values: Vec<f64> = output.into_data().iter::<f64>().collect();
        // All predictions, then all variances.
        let half = |from: usize| values.chunks(channels).flat_map(move |p| p[from..from + 3].to_vec());
        if channels == 6 { half(0).chain(half(3)).collect() } else { values.clone() }
    };
    let step_noise = |k: usize| {
        let data = steps.data[k * per_step..][..per_step].to_vec();
        images(&Stored { shape: steps.shape[1..].to_vec(), data }).pixels.iter().map(|&v| f64::from(v)).collect()
    };
    let denoiser = |x: &[f64], node: Node| {
        let (to_sample, to_epsilon) = scheduler.prediction_type.maps(node, NoiseLevel::DATA)?;
        let mut output: Vec<f64> = model(x, node.timestep);
        let v = if output.len() == 2 * x.len() { output.split_off(x.len()) } else { Vec::new() };
        let apply = |map: LinearMap| x.iter().zip(&output).map(|(&x, &output)| map.apply(x, output)).collect();
        Ok(Estimate { sample: apply(to_sample), epsilon: apply(to_epsilon), v })
    };
    let result = table.run(&x0, denoiser, step_noise).unwrap();
    Images { pixels: result.iter().map(|&v| v as f32).collect(), ..init }
}

fn spacing(name: &str) -> TimestepSpacing {
    serde_json::from_value(name.into()).unwrap()
}

#[test]
fn ddim_with_noise_is_diffusers() {
    let golden = golden("ddim20_eta.safetensors");
    let steps = &read_safetensors(folder().join("step_noise.safetensors")).unwrap().0["step_noise"];
    let pipeline = Pipeline::load(folder(), &Device::flex()).unwrap();
    for name in ["leading", "trailing"] {
        let scheduler = SchedulerConfig {
            class: SchedulerClass::Ddim,
            timestep_spacing: spacing(name),
            ..pipeline.scheduler.clone()
        };
        let got = sample_with(&pipeline, &scheduler, 0.5, &golden["noise"], steps);
        let error = worst(&got, &golden[&format!("samples.{name}")]);
        println!("ddim, eta 0.5, {name}: {error:.1e}");
        assert!(error <= 1e-4, "{name}: {error:e}");
    }
}

#[test]
fn ancestral_sampling_is_diffusers_for_every_prediction_variance_and_spacing() {
    let golden = golden("ddpm_steps.safetensors");
    let steps = &read_safetensors(folder().join("step_noise.safetensors")).unwrap().0["step_noise"];
    let mut cases = 0;
    for (name, expected) in golden.iter().filter_map(|(k, v)| Some((k.strip_prefix("samples.")?, v))) {
        let words: Vec<&str> = name.split('.').collect();
        let [prediction, variance, rule] = words[..] else { panic!("{name}") };
        let path = if variance == "learned_range" { folder().join("learned_range") } else { folder() };
        let pipeline = Pipeline::load(&path, &Device::flex()).unwrap();
        let scheduler = SchedulerConfig {
            prediction_type: serde_json::from_value::<Prediction>(prediction.into()).unwrap(),
            variance_type: serde_json::from_value::<Variance>(variance.into()).unwrap(),
            timestep_spacing: spacing(rule),
            ..pipeline.scheduler.clone()
        };
        let got = sample_with(&pipeline, &scheduler, 0.0, &golden["noise"], steps);
        let error = worst(&got, expected);
        println!("ddpm, {name}: {error:.1e}");
        assert!(error <= 1e-4, "{name}: {error:e}");
        cases += 1;
    }
    assert_eq!(cases, 15);
}

/// Sampling on a device gives the reference in f64, noise and all.
#[test]
fn sampling_is_the_reference_in_f64() {
    use random::{Random, Stream};
    let pipeline = Pipeline::load(folder().join("learned_range"), &Device::flex()).unwrap();
    let noise = initial_noise(7, 3, 2, [16, 16, 3]);
    let size = 16 * 16 * 3;
    let table =
        Sampler::Ddpm.table(&pipeline.scheduler, SamplerOptions { steps: Some(20), ..Default::default() }).unwrap();
    let request = Request { seed: 7, first_image: 3, noise: &noise, batch_size: 1, shared: None };
    let got = sample(&pipeline.denoiser().unwrap(), &table, &request, |_| true).unwrap();
    let mut steps = Stored { shape: vec![20, 2, 3, 16, 16], data: Vec::new() };
    for k in 0..20u64 {
        for image in 0..2 {
            let mut z = vec![0.0; size];
            Random::new(7).normals(Stream::SamplerNoise, 3 + image, k, &mut z);
            steps.data.extend((0..3).flat_map(|c| z.iter().skip(c).step_by(3).copied().collect::<Vec<_>>()));
        }
    }
    let mut stored = Stored { shape: vec![2, 3, 16, 16], data: Vec::new() };
    for image in noise.pixels.chunks(size) {
        stored.data.extend((0..3).flat_map(|c| image.iter().skip(c).step_by(3).copied().collect::<Vec<_>>()));
    }
    let expected = sample_with(&pipeline, &pipeline.scheduler, 0.0, &stored, &steps);
    let error = got.pixels.iter().zip(&expected.pixels).fold(0f32, |m, (g, e)| m.max((g - e).abs()));
    assert!(error <= 1e-4, "{error:e}");
}

#[test]
fn an_image_does_not_depend_on_the_batch_it_is_in() {
    let pipeline = Pipeline::load(folder(), &Device::flex()).unwrap();
    let table =
        Sampler::Ddpm.table(&pipeline.scheduler, SamplerOptions { steps: Some(5), ..Default::default() }).unwrap();
    let draw = |first: u64, count: usize, batch_size: usize| {
        let noise = initial_noise(1, first, count, [16, 16, 3]);
        let request = Request { seed: 1, first_image: first, noise: &noise, batch_size, shared: None };
        sample(&pipeline.denoiser().unwrap(), &table, &request, |_| true).unwrap().pixels
    };
    let all = draw(0, 7, 7);
    assert_eq!(all, draw(0, 7, 1));
    assert_eq!(all, draw(0, 7, 3));
    assert_eq!(all[4 * 768..5 * 768], draw(4, 1, 1));
}

/// A folder from before safetensors, with its pickle alone, is the same network to the bit.
#[test]
fn pickled_weights_are_the_same_weights() {
    let place = tempfile::tempdir().unwrap();
    let old = folder().join("old");
    for name in ["config.json", "model_index.json", "scheduler_config.json", "diffusion_pytorch_model.bin"] {
        std::fs::copy(old.join(name), place.path().join(name)).unwrap();
    }
    let tensors = |path: &std::path::Path| Pipeline::load(path, &Device::flex()).unwrap().network.tensors().unwrap();
    assert_eq!(tensors(place.path()), tensors(&old));
}

/// Exported and exported again, a model is the same files to the byte.
#[test]
fn export_is_idempotent() {
    let place = tempfile::tempdir().unwrap();
    let (once, twice) = (place.path().join("once"), place.path().join("twice"));
    Pipeline::load(folder().join("old"), &Device::flex()).unwrap().save(&once).unwrap();
    Pipeline::load(&once, &Device::flex()).unwrap().save(&twice).unwrap();
    for name in [
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler_config.json",
        "preprocessing.json",
    ] {
        assert_eq!(std::fs::read(once.join(name)).unwrap(), std::fs::read(twice.join(name)).unwrap(), "{name}");
    }
    let again = Pipeline::load(&once, &Device::flex()).unwrap().save(&once).unwrap_err().to_string();
    assert!(again.contains("once"), "{again}");
}
