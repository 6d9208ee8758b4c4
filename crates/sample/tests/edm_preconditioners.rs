//! Networks with the preconditioners `VPPrecond`, `VEPrecond` and `iDDPMPrecond` of NVlabs/edm: their outputs, and the images of
//! both of its samplers, computed by its own code in float64. `tools/goldens_edm.py` makes the files.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use ddpm_sample::{Sampler, SamplerOptions};
use diffusion::{Churn, Estimate, Node, Prediction, SchedulerConfig, SolverTable};
use model::{Condition, Denoiser, LabelKind, Pipeline, PipelineImport};
use unet::Labels;
use weights::{Tensors, read_safetensors};

const ALL: [(&str, Prediction); 3] =
    [("vp", Prediction::EdmVp), ("ve", Prediction::EdmVe), ("iddpm", Prediction::EdmIddpm)];

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/edm_preconditioners").join(name)
}

fn import(name: &str) -> Pipeline {
    let options = PipelineImport::default();
    let (pipeline, report) = Pipeline::import(&file(&format!("{name}.pkl")), &options, &Device::flex()).unwrap();
    assert_eq!((report.ema, &*report.prefix), (true, "ema.model."));
    assert!(report.notes.iter().any(|note| note.contains("Precond")), "{:?}", report.notes);
    pipeline
}

fn golden(name: &str) -> Tensors {
    read_safetensors(file(&format!("{name}.safetensors"))).unwrap().0
}

fn wide(data: &[f32]) -> Vec<f64> {
    data.iter().map(|&x| f64::from(x)).collect()
}

/// Denoises x = α·y, and returns x̂0 and ε̂.
fn denoise(pipeline: &Pipeline, x: &[f64], node: Node) -> Estimate {
    let x: Vec<f32> = x.iter().map(|&x| x as f32).collect();
    let x_t = Tensor::<4>::from_data(TensorData::new(x, [2, 8, 8, 1]), &Device::flex());
    let labels = matches!(pipeline.network.signature().labels, LabelKind::OptionalClass(3)).then_some(&[0, 2][..]);
    let condition = Condition { labels: labels.map(Labels::Classes), ..Condition::default() };
    let images = pipeline.denoiser().unwrap().denoise(x_t, &[node], condition).unwrap().images();
    let sample = images.iter().flat_map(|image| image.sample.clone()).collect();
    let epsilon = images.iter().flat_map(|image| image.epsilon.clone()).collect();
    Estimate { sample, epsilon, v: Vec::new() }
}

/// Compares relative to the largest value.
fn check(what: &str, found: &[f64], expected: &[f32], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(1f64, |scale, x| scale.max(f64::from(x.abs())));
    let worst = found.iter().zip(expected).fold(0f64, |worst, (f, e)| worst.max((f - f64::from(*e)).abs())) / scale;
    println!("{what}: {worst:.1e}");
    assert!(worst <= tolerance, "{what}: {worst:e}");
}

/// Runs a table from the golden's noise, whose deviation is σ in units of x/α.
fn run(name: &str, kind: &str, table: &SolverTable) {
    let (pipeline, golden) = (import(name), golden(name));
    let first = table.rows[0].node.level;
    let start: Vec<f64> = wide(&golden["noise"].data).iter().map(|z| z * first.sigma).collect();
    // Noise of the row before a step is that of the step.
    let draw = |row: usize| wide(&golden["churn_noise"].data[row.div_ceil(2) * 128..][..128]);
    let result = table.run(&start, |x: &[f64], node| Ok(denoise(&pipeline, x, node)), draw).unwrap();
    check(&format!("{name} {kind}"), &result, &golden[kind].data, 1e-5);
}

#[test]
fn files_tell_the_preconditioner() {
    for (name, prediction) in ALL {
        let pipeline = import(name);
        assert_eq!(pipeline.scheduler, SchedulerConfig::preconditioned(prediction, 1000).unwrap());
        let signature = pipeline.network.signature();
        assert_eq!(signature.out_channels, if name == "iddpm" { 2 } else { 1 });
        // As the folder is read again, with the betas in place of their rule.
        let folder = tempfile::tempdir().unwrap();
        pipeline.save(folder.path().join("model")).unwrap();
        let again = Pipeline::load(folder.path().join("model"), &Device::flex()).unwrap();
        assert_eq!(again.scheduler.prediction_type, prediction);
        let betas = |pipeline: &Pipeline| pipeline.process().unwrap().schedule.betas().to_vec();
        assert_eq!(betas(&pipeline), betas(&again));
        assert_eq!(Sampler::of(&again.scheduler).name(), "heun");
    }
}

#[test]
fn outputs_are_the_originals() {
    for (name, _) in ALL {
        let (pipeline, golden) = (import(name), golden(name));
        let schedule = pipeline.process().unwrap().schedule;
        let noise = wide(&golden["noise"].data);
        for (i, &sigma) in golden["sigmas"].data.iter().enumerate() {
            let sigma = f64::from(sigma);
            let level = diffusion::NoiseLevel::from_noise_ratio(sigma);
            let node = Node { timestep: schedule.timestep_of_lambda(level.lambda()), level };
            let x: Vec<f64> = noise.iter().map(|z| z * sigma * level.alpha).collect();
            let found = denoise(&pipeline, &x, node).sample;
            check(&format!("{name} σ = {sigma:.4}"), &found, &golden["denoised"].data[i * 128..][..128], 1e-5);
        }
    }
}

#[test]
fn the_default_sampler_is_the_originals() {
    for (name, _) in ALL {
        let scheduler = import(name).scheduler;
        let sampler = Sampler::of(&scheduler);
        let table = sampler.table(&scheduler, SamplerOptions::default()).unwrap();
        assert_eq!((sampler.name(), table.rows.len()), ("heun", 35));
        run(name, "heun", &table);
    }
}

#[test]
fn sampling_with_noise_is_the_originals() {
    for (name, _) in ALL {
        let churn = Churn { s_churn: 3.0, s_tmin: 0.05, s_tmax: 20.0, s_noise: 1.01 };
        let options = SamplerOptions { steps: Some(6), ..SamplerOptions::default() };
        run(name, "churn", &Sampler::EdmSde(churn).table(&import(name).scheduler, options).unwrap());
    }
}

/// DDIM on the noise levels of the network's own chain is Euler's method of the original's `ablation_sampler`, which computes those
/// of the preconditioner itself.
#[test]
fn the_chain_has_the_noise_levels_of_the_preconditioner() {
    // Of iDDPM, ten of the 992 levels with σ < 81.
    let iddpm = vec![991, 881, 771, 661, 551, 440, 330, 220, 110, 0];
    for (name, prediction) in ALL {
        let evenly = (0..10).map(|i| 999 - i * 111).collect();
        let list: Vec<usize> = if prediction == Prediction::EdmIddpm { iddpm.clone() } else { evenly };
        let sampler = Sampler::Ddim { eta: 0.0 };
        run(name, "euler", &sampler.with_timesteps(&import(name).scheduler, &list).unwrap());
    }
}

/// Every sampler runs on the processes, from the levels of the chain or between them.
#[test]
fn every_sampler_has_a_table() {
    for (_, prediction) in ALL {
        let scheduler = SchedulerConfig::preconditioned(prediction, 1000).unwrap();
        for name in Sampler::names() {
            let options = SamplerOptions { steps: Some(8), ..SamplerOptions::default() };
            let table = name.parse::<Sampler>().unwrap().table(&scheduler, options).unwrap();
            let ratios: Vec<f64> = table.rows.iter().map(|row| row.node.level.noise_ratio()).collect();
            let is_chain = ["ddpm", "ddim"].contains(name);
            assert!(is_chain || (ratios[0] - 80.0).abs() < 4.0, "{name} of {prediction} begins at {}", ratios[0]);
            for row in &table.rows {
                assert!(prediction != Prediction::EdmIddpm || row.node.timestep.fract() == 0.0, "{name}");
            }
        }
    }
}

/// Replaces bytes of a file wherever they are, and returns the error of its import.
fn error_after(name: &str, from: &[u8], to: &[u8]) -> String {
    let mut bytes = std::fs::read(file(name)).unwrap();
    assert_eq!(from.len(), to.len());
    let places: Vec<usize> = (0..bytes.len() - from.len()).filter(|&at| bytes[at..].starts_with(from)).collect();
    assert!(!places.is_empty(), "{from:?} is not in the file");
    places.iter().for_each(|&at| bytes[at..at + to.len()].copy_from_slice(to));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pkl");
    std::fs::write(&path, bytes).unwrap();
    Pipeline::import(&path, &PipelineImport::default(), &Device::flex()).unwrap_err().to_string()
}

#[test]
fn other_settings_are_refused_by_name() {
    let number = |name: &str, value: f64| [name.as_bytes(), b"\x94G", &value.to_be_bytes()].concat();
    for (file, name, value, other) in [
        ("vp.pkl", "beta_d", 19.9, 20.0),
        ("vp.pkl", "beta_min", 0.1, 0.2),
        ("vp.pkl", "epsilon_t", 1e-5, f64::NAN),
        ("ve.pkl", "sigma_min", 0.02, 0.01),
        ("iddpm.pkl", "C_2", 0.008, 0.0),
    ] {
        let error = error_after(file, &number(name, value), &number(name, other));
        assert!(error.contains(&format!("its `{name}` is")) && error.contains("x.pkl"), "{error}");
    }
    let options = PipelineImport { timesteps: Some(500), ..PipelineImport::default() };
    let error = Pipeline::import(&file("iddpm.pkl"), &options, &Device::flex()).unwrap_err().to_string();
    assert!(error.contains("--train-timesteps"), "{error}");
    assert!(Pipeline::import(&file("ve.pkl"), &options, &Device::flex()).is_ok());
}
