//! Files of `Trainer` of denoising-diffusion-pytorch 2.3.4: what is read from them, and whole trajectories of
//! `GaussianDiffusion.sample` in float64, ancestral and DDIM, with the noise of the golden. `tools/goldens_lucidrains.py` makes
//! the files.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use ddpm_sample::{Request, Sampler, SamplerOptions, sample};
use diffusion::{Estimate, LinearMap, Node, NoiseLevel, Prediction, TimestepSpacing};
use model::{Condition, Images, Pipeline, PipelineImport};
use weights::{Tensor as Stored, Tensors, read_safetensors};

const NAMES: [&str; 3] = ["v", "noise", "x0"];

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/lucidrains").join(name)
}

fn import(name: &str) -> (Pipeline, Vec<String>) {
    let mut options = PipelineImport::default();
    options.network.sample_size = Some(8);
    let (pipeline, report) = Pipeline::import(&file(&format!("{name}.pt")), &options, &Device::flex()).unwrap();
    assert!(report.ema && report.family == "lucidrains/denoising-diffusion-pytorch", "{report:?}");
    assert_eq!(report.prefix, "ema.ema_model.model.");
    (pipeline, report.notes)
}

/// Converts images of a golden, N,C,H,W, to N,H,W,C.
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

/// Returns the states of a trajectory, which a golden holds as [steps,N,C,H,W].
fn states(tensor: &Stored) -> Vec<Images> {
    let per_step = tensor.data.len() / tensor.shape[0];
    let state = |data: &[f32]| images(&Stored { shape: tensor.shape[1..].to_vec(), data: data.to_vec() });
    tensor.data.chunks(per_step).map(state).collect()
}

fn worst(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len());
    assert!(got.iter().all(|x| x.is_finite()));
    got.iter().zip(expected).fold(0f32, |m, (g, e)| m.max((g - e).abs()))
}

#[test]
fn files_of_the_trainer_tell_their_process() {
    let expected = [
        ("v", Prediction::VPrediction, "sigmoid_alpha_bar", "v_prediction, and was trained with Min-SNR, γ = "),
        ("noise", Prediction::Epsilon, "linear", "predicts epsilon"),
        ("x0", Prediction::Sample, "squaredcos_cap_v2", "predicts sample"),
    ];
    for (name, prediction, schedule, note) in expected {
        let (pipeline, notes) = import(name);
        let scheduler = &pipeline.scheduler;
        assert_eq!(scheduler.prediction_type, prediction, "{name}");
        assert_eq!(scheduler.beta_schedule.to_string(), schedule, "{name}");
        assert_eq!((scheduler.num_train_timesteps, &scheduler.trained_betas), (40, &None), "{name}");
        assert!(notes.iter().any(|text| text.contains(note)), "{name}: {notes:?}");
        assert_eq!(pipeline.network.signature().takes_prediction, name != "noise");
    }
}

/// Also tests that networks with self-conditioning get the previous prediction of x_0.
#[test]
fn ddim_is_the_originals() {
    for name in NAMES {
        let (pipeline, _) = import(name);
        let golden = read_safetensors(file(&format!("{name}.safetensors"))).unwrap().0;
        // The original computes ε̂ anew from the clipped x̂0, as `dpmpp-1` does and `ddim` does not.
        let options =
            SamplerOptions { steps: Some(10), spacing: Some(TimestepSpacing::Trailing), ..SamplerOptions::default() };
        let sampler: Sampler = "dpmpp-1".parse().unwrap();
        let table = sampler.table(&pipeline.scheduler, options).unwrap();
        let noise = images(&golden["noise"]);
        let request = Request { seed: 0, first_image: 0, noise: &noise, batch_size: 2, shared: None };
        let mut found = Vec::new();
        sample(&pipeline.denoiser().unwrap(), &table, &request, |step| {
            found.push(step.x());
            true
        })
        .unwrap();
        let expected = states(&golden["ddim"]);
        assert_eq!(found.len(), expected.len(), "{name}");
        let errors = found.iter().zip(&expected).map(|(got, expected)| worst(&got.pixels, &expected.pixels));
        let error = errors.fold(0.0, f32::max);
        println!("{name}: ddim {error:.1e}");
        assert!(error <= 1e-4, "{name}: {error:e}");
    }
}

#[test]
fn ancestral_sampling_is_the_originals() {
    for name in NAMES {
        let (pipeline, _) = import(name);
        let golden = read_safetensors(file(&format!("{name}.safetensors"))).unwrap().0;
        let found = ancestral(&pipeline, &golden);
        let error = worst(&found, &states(&golden["ancestral"]).last().unwrap().pixels);
        println!("{name}: ancestral {error:.1e}");
        assert!(error <= 1e-4, "{name}: {error:e}");
    }
}

/// Samples with the noise of a golden: `sample` draws its own, so the rows are applied here by the reference of the crate
/// `diffusion`, with the network in between.
fn ancestral(pipeline: &Pipeline, golden: &Tensors) -> Vec<f32> {
    let table = Sampler::Ddpm.table(&pipeline.scheduler, SamplerOptions::default()).unwrap();
    let noise = images(&golden["noise"]);
    let steps = states(&golden["step_noise"]);
    let wide = |images: &Images| images.pixels.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
    let tensor = |x: &[f64]| {
        let x: Vec<f32> = x.iter().map(|&x| x as f32).collect();
        Tensor::<4>::from_data(TensorData::new(x, noise.shape()), &Device::flex())
    };
    let previous: RefCell<Option<Vec<f64>>> = RefCell::new(None);
    let denoiser = |x: &[f64], node: Node| {
        let (to_sample, to_epsilon) = pipeline.scheduler.prediction_type.maps(node, NoiseLevel::DATA)?;
        let prediction = previous.borrow().as_ref().map(|x| tensor(x));
        let condition = Condition { prediction: prediction.as_ref(), ..Condition::default() };
        let timesteps = vec![node.timestep as f32; noise.n];
        let output: Vec<f64> =
            pipeline.network.forward(tensor(x), &timesteps, condition, None).into_data().iter::<f64>().collect();
        let apply =
            |map: LinearMap| x.iter().zip(&output).map(|(&x, &output)| map.apply(x, output)).collect::<Vec<f64>>();
        let sample = apply(to_sample);
        *previous.borrow_mut() = Some(sample.iter().map(|x| x.clamp(-1.0, 1.0)).collect());
        Ok(Estimate { sample, epsilon: apply(to_epsilon), v: Vec::new() })
    };
    let result = table.run(&wide(&noise), denoiser, |k| wide(&steps[k])).unwrap();
    result.iter().map(|&x| x as f32).collect()
}
