//! A checkpoint of hmdolatabadi/denoising_diffusion: what is read from it, and a whole trajectory of its sampling loop in float64.
//! `tools/goldens_hmdolatabadi.py` makes the files.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use ddpm_sample::{Sampler, SamplerOptions};
use diffusion::{BetaSchedule, Estimate, LinearMap, Node, NoiseLevel, Prediction, Variance};
use model::{Condition, Pipeline, PipelineImport};
use weights::{Tensor as Stored, read_safetensors};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/hmdolatabadi").join(name)
}

fn import(raw: bool) -> (Pipeline, Vec<String>) {
    let mut options = PipelineImport::default();
    options.network.raw = raw;
    let (pipeline, report) = Pipeline::import(&file("last.ckpt"), &options, &Device::flex()).unwrap();
    let expected = if raw { "state_dict.model." } else { "state_dict.ema." };
    assert_eq!((report.ema, &*report.prefix), (!raw, expected));
    (pipeline, report.notes)
}

#[test]
fn a_checkpoint_tells_network_and_process() {
    let (pipeline, notes) = import(false);
    let scheduler = &pipeline.scheduler;
    assert_eq!((scheduler.beta_schedule, scheduler.num_train_timesteps), (BetaSchedule::ScaledLinear, 40));
    assert_eq!((scheduler.prediction_type, scheduler.variance_type), (Prediction::Epsilon, Variance::FixedLarge));
    assert_eq!((scheduler.beta_start, scheduler.beta_end), (1e-4, 2e-2));
    assert_eq!(pipeline.network.signature().size, Some([8, 8]));
    assert!(notes.iter().any(|note| note.contains("attention averages its own input")), "{notes:?}");
    let parameters = |pipeline: &Pipeline| pipeline.network.tensors().unwrap();
    assert_ne!(parameters(&pipeline), parameters(&import(true).0));
}

#[test]
fn sampling_is_the_originals() {
    let (pipeline, _) = import(false);
    let golden = read_safetensors(file("last.safetensors")).unwrap().0;
    let table = Sampler::of(&pipeline.scheduler).table(&pipeline.scheduler, SamplerOptions::default()).unwrap();
    let [n, channels, height, width]: [usize; 4] = golden["noise"].shape.clone().try_into().unwrap();
    // In the order N,C,H,W, as the golden; only the network takes N,H,W,C.
    let wide = |data: &[f32]| data.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
    let size = n * channels * height * width;
    let step = |tensor: &Stored, i: usize| wide(&tensor.data[i * size..][..size]);
    let seen = std::cell::RefCell::new(Vec::new());
    let denoiser = |x: &[f64], node: Node| {
        seen.borrow_mut().push(x.to_vec());
        let (to_sample, to_epsilon) = pipeline.scheduler.prediction_type.maps(node, NoiseLevel::DATA)?;
        let input: Vec<f32> = x.iter().map(|&x| x as f32).collect();
        let input = Tensor::<4>::from_data(TensorData::new(input, [n, channels, height, width]), &Device::flex());
        let timesteps = vec![node.timestep as f32; n];
        let output = pipeline.network.forward(input.permute([0, 2, 3, 1]), &timesteps, Condition::default(), None);
        let output: Vec<f64> = output.permute([0, 3, 1, 2]).into_data().iter::<f64>().collect();
        let apply = |map: LinearMap| x.iter().zip(&output).map(|(&x, &y)| map.apply(x, y)).collect::<Vec<f64>>();
        Ok(Estimate { sample: apply(to_sample), epsilon: apply(to_epsilon), v: Vec::new() })
    };
    let result = table.run(&wide(&golden["noise"].data), denoiser, |k| step(&golden["step_noise"], k)).unwrap();
    let seen = seen.into_inner();
    assert_eq!(seen.len(), 40);
    let mut worst = 0f64;
    for (i, got) in seen.iter().skip(1).chain([&result]).enumerate() {
        let expected = step(&golden["ancestral"], i);
        worst = got.iter().zip(&expected).fold(worst, |worst, (g, e)| worst.max((g - e).abs()));
    }
    println!("ancestral {worst:.1e}");
    assert!(worst <= 1e-4, "{worst:e}");
}
