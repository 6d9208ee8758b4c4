//! A state of `GaussianDiffusion` of denoising-diffusion-pytorch's `classifier_free_guidance.py`, whose network has classes: what is read
//! from it, and its ancestral sampling with guidance in float64. `tools/goldens_lucidrains.py` makes the files.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use ddpm_sample::{Sampler, SamplerOptions};
use diffusion::{Estimate, Node, Prediction};
use model::denoiser::DenoisedImage;
use model::guidance::Guidance;
use model::{Condition, Denoiser, LabelKind, Pipeline, PipelineImport};
use unet::Labels;
use weights::read_safetensors;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/lucidrains_classes")
}

fn import() -> Pipeline {
    let mut options = PipelineImport::default();
    options.network.sample_size = Some(8);
    let (pipeline, report) = Pipeline::import(&folder().join("guided.pt"), &options, &Device::flex()).unwrap();
    assert_eq!(report.prefix, "model.");
    assert!(report.notes.iter().any(|note| note.contains("the label 3 means no class")), "{:?}", report.notes);
    pipeline
}

/// Reorders pixels of images of 3 channels and 8×8 pixels, from N,C,H,W to N,H,W,C or back.
fn reordered(values: &[f32], to_nhwc: bool) -> Vec<f64> {
    let mut out = vec![0.0; values.len()];
    for (i, &value) in values.iter().enumerate() {
        let (image, rest) = (i / 192 * 192, i % 192);
        let place = if to_nhwc { rest % 64 * 3 + rest / 64 } else { rest % 3 * 64 + rest / 3 };
        out[image + place] = f64::from(value);
    }
    out
}

#[test]
fn a_file_tells_classes_and_process() {
    let pipeline = import();
    let signature = pipeline.network.signature();
    assert_eq!((signature.labels, signature.takes_prediction), (LabelKind::OptionalClass(3), false));
    assert_eq!((pipeline.preprocessing.null_label, pipeline.classes()), (Some(3), Some(vec![0, 1, 2])));
    assert_eq!(pipeline.scheduler.prediction_type, Prediction::VPrediction);
    assert_eq!(pipeline.scheduler.num_train_timesteps, 40);
    // Names of the original go out again.
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("state.pt");
    pipeline.save_state_dict(&path, model::pipeline::Precision::F32).unwrap();
    let written = weights::Archive::open(&path).unwrap();
    let original = weights::Archive::open(folder().join("guided.pt")).unwrap();
    let mut names: Vec<String> = written.shapes().map(|(name, _)| name.to_owned()).collect();
    let mut expected: Vec<String> =
        original.shapes().filter_map(|(name, _)| name.strip_prefix("model.").map(str::to_owned)).collect();
    names.sort();
    expected.sort();
    assert_eq!(names, expected);
}

#[test]
fn guided_sampling_is_the_originals() {
    let pipeline = import();
    let golden = read_safetensors(folder().join("guided.safetensors")).unwrap().0;
    let table = Sampler::Ddpm.table(&pipeline.scheduler, SamplerOptions::default()).unwrap();
    let guided = Guidance::new(2.5, 3).around(pipeline.denoiser().unwrap());
    let denoiser = |x: &[f64], node: Node| {
        let x: Vec<f32> = x.iter().map(|&x| x as f32).collect();
        let x_t = Tensor::<4>::from_data(TensorData::new(x, [2, 8, 8, 3]), &Device::flex());
        let condition = Condition { labels: Some(Labels::Classes(&[2, 0])), ..Condition::default() };
        let images = guided.denoise(x_t, &[node], condition).unwrap().images();
        let all = |of: fn(&DenoisedImage) -> &[f64]| images.iter().flat_map(|image| of(image).to_vec()).collect();
        Ok(Estimate { sample: all(|image| &image.sample), epsilon: all(|image| &image.epsilon), v: Vec::new() })
    };
    let size = golden["noise"].data.len();
    let draw = |step: usize| reordered(&golden["step_noise"].data[step * size..][..size], true);
    let result = table.run(&reordered(&golden["noise"].data, true), denoiser, draw).unwrap();
    let expected = reordered(&golden["ancestral"].data, true);
    let worst = result.iter().zip(&expected).fold(0f64, |worst, (a, b)| worst.max((a - b).abs()));
    println!("guided: {worst:.1e}");
    assert!(worst <= 1e-4, "{worst:e}");
}
