//! Files of NVlabs/edm: what is read from them, and whole trajectories of its sampler in float64, with and without noise.
//! `tools/goldens_edm.py` makes the files.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use ddpm_sample::{Sampler, SamplerOptions};
use diffusion::{Churn, Estimate, Node, NoiseLevel, SchedulerConfig, SolverTable};
use model::denoiser::DenoisedImage;
use model::{Condition, Denoiser, Images, LabelKind, Pipeline, PipelineImport};
use unet::Labels;
use weights::{Tensor as Stored, Tensors, read_safetensors};

const FILES: [&str; 2] = ["cond.pkl", "adm.pt"];

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/edm").join(name)
}

fn import(name: &str) -> (Pipeline, Vec<String>) {
    let (pipeline, report) = Pipeline::import(&file(name), &PipelineImport::default(), &Device::flex()).unwrap();
    assert_eq!(report.family, "NVlabs/edm");
    assert_eq!(
        (report.ema, &*report.prefix),
        if name == "cond.pkl" { (true, "ema.model.") } else { (false, "net.model.") }
    );
    (pipeline, report.notes)
}

/// Converts images of one channel, N,C,H,W, which have the same order as N,H,W,C.
fn images(tensor: &Stored) -> Images {
    let [n, channels, height, width]: [usize; 4] = tensor.shape.clone().try_into().unwrap();
    assert_eq!(channels, 1);
    Images::new([n, height, width, channels], tensor.data.clone())
}

fn golden(name: &str) -> Tensors {
    let stem = Path::new(name).file_stem().unwrap().to_str().unwrap();
    read_safetensors(file(&format!("{stem}.safetensors"))).unwrap().0
}

#[test]
fn files_tell_network_and_process() {
    for name in FILES {
        let (pipeline, notes) = import(name);
        assert_eq!(pipeline.scheduler, SchedulerConfig::edm(1000));
        let config: serde_json::Value = serde_json::from_str(&pipeline.network.config()).unwrap();
        let signature = pipeline.network.signature();
        assert_eq!((config["img_resolution"].as_u64(), signature.size), (Some(8), Some([8, 8])));
        assert_eq!((config["channel_mult"].to_string(), config["num_blocks"].as_u64()), ("[1,2]".into(), Some(1)));
        if name == "cond.pkl" {
            assert_eq!((config["_class_name"].as_str(), config["augment_dim"].as_u64()), (Some("SongUNet"), Some(9)));
            assert_eq!((signature.labels, pipeline.preprocessing.null_label), (LabelKind::OptionalClass(3), None));
            assert_eq!(pipeline.classes(), Some(vec![0, 1, 2]));
            assert!(notes.iter().any(|note| note.contains("augmented")), "{notes:?}");
        } else {
            assert_eq!(config["_class_name"].as_str(), Some("DhariwalUNet"));
            assert_eq!((signature.labels, pipeline.preprocessing.null_label), (LabelKind::None, None));
            assert!(notes.iter().any(|note| note.contains("EMA")), "{notes:?}");
        }
    }
}

/// Returns the images before each evaluation of the network but the first, in units of x/α, and the result.
fn trajectory(
    pipeline: &Pipeline,
    table: &SolverTable,
    golden: &Tensors,
    labels: Option<&[u32]>,
) -> (Vec<Vec<f64>>, Vec<f64>) {
    let wide = |data: &[f32]| data.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
    let noise = images(&golden["noise"]);
    let size = noise.pixels.len();
    // The original begins with noise of the deviation σ in units of x/α, where a sample of x_T has √(1 + σ²).
    let first = table.rows[0].node.level;
    let start: Vec<f64> = wide(&noise.pixels).iter().map(|z| z * first.sigma).collect();
    let seen = std::cell::RefCell::new(Vec::new());
    let model = pipeline.denoiser().unwrap();
    let denoiser = |x: &[f64], node: Node| {
        let NoiseLevel { alpha, .. } = node.level;
        seen.borrow_mut().push(x.iter().map(|x| x / alpha).collect::<Vec<f64>>());
        let x: Vec<f32> = x.iter().map(|&x| x as f32).collect();
        let x_t = Tensor::<4>::from_data(TensorData::new(x, noise.shape()), &Device::flex());
        let condition = Condition { labels: labels.map(Labels::Classes), ..Condition::default() };
        let denoised = model.denoise(x_t, &[node], condition).expect("a noise level of the process").images();
        let all = |of: fn(&DenoisedImage) -> &[f64]| denoised.iter().flat_map(|image| of(image).to_vec()).collect();
        Ok(Estimate { sample: all(|image| &image.sample), epsilon: all(|image| &image.epsilon), v: Vec::new() })
    };
    // Noise number k of the table belongs to the step after the row.
    let noisy: Vec<usize> = (0..table.rows.len()).filter(|&row| table.rows[row].is_noisy()).collect();
    let steps = table.rows.len().div_ceil(2);
    let draw = |row: usize| {
        assert!(noisy.contains(&row));
        let step = row.div_ceil(2);
        assert!(step < steps);
        wide(&golden["churn_noise"].data[step * size..][..size])
    };
    let result = table.run(&start, denoiser, draw).unwrap();
    (seen.into_inner(), result)
}

fn check(name: &str, kind: &str, table: &SolverTable) {
    let (pipeline, _) = import(name);
    let golden = golden(name);
    let labels = (name == "cond.pkl").then_some(&[0, 2][..]);
    let (seen, result) = trajectory(&pipeline, table, &golden, labels);
    let inputs = &golden[&format!("{kind}_inputs")];
    assert_eq!(seen.len(), inputs.shape[0], "{name} {kind}");
    let size = inputs.data.len() / seen.len();
    let states = seen.iter().zip(inputs.data.chunks(size)).chain([(&result, &golden[kind].data[..])]);
    let mut worst = 0f64;
    for (got, expected) in states {
        // Relative to the largest value, which is 80 times that of images at the start.
        let scale = expected.iter().fold(1f64, |scale, x| scale.max(f64::from(x.abs())));
        let error = got.iter().zip(expected).fold(0f64, |worst, (g, e)| worst.max((g - f64::from(*e)).abs()));
        worst = worst.max(error / scale);
    }
    println!("{name}: {kind} {worst:.1e}");
    assert!(worst <= 1e-5, "{name} {kind}: {worst:e}");
}

#[test]
fn the_default_sampler_is_the_originals() {
    for name in FILES {
        let (pipeline, _) = import(name);
        let sampler = Sampler::of(&pipeline.scheduler);
        let table = sampler.table(&pipeline.scheduler, SamplerOptions::default()).unwrap();
        assert_eq!((sampler.name(), table.rows.len()), ("heun", 35));
        check(name, "heun", &table);
    }
}

#[test]
fn sampling_with_noise_is_the_originals() {
    for name in FILES {
        let churn = Churn { s_churn: 3.0, s_tmin: 0.05, s_tmax: 20.0, s_noise: 1.01 };
        let options = SamplerOptions { steps: Some(6), ..SamplerOptions::default() };
        let table = Sampler::EdmSde(churn).table(&SchedulerConfig::edm(1000), options).unwrap();
        check(name, "churn", &table);
    }
}

/// Replaces bytes of a file wherever they are, and returns the error of its import.
fn error_after(from: &[u8], to: &[u8]) -> String {
    let bytes = std::fs::read(file("cond.pkl")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pkl");
    let (mut changed, mut at, mut count) = (Vec::new(), 0, 0);
    while at < bytes.len() {
        if bytes[at..].starts_with(from) {
            changed.extend(to);
            at += from.len();
            count += 1;
        } else {
            changed.push(bytes[at]);
            at += 1;
        }
    }
    assert!(count > 0, "{from:?} is not in the file");
    // The lengths of frames no longer fit; a reader may ignore them.
    std::fs::write(&path, changed).unwrap();
    let error = Pipeline::import(&path, &PipelineImport::default(), &Device::flex()).unwrap_err().to_string();
    assert!(error.contains("x.pkl"), "{error}");
    error
}

/// Another network than EDM's, or the same with other numbers, is refused by name and not taken for EDM's.
#[test]
fn other_preconditioners_and_settings_are_refused() {
    for (from, to, expected) in [
        (&b"EDMPrecond"[..], &b"VP_Precond"[..], "its preconditioner is `VP_Precond`, which is not supported"),
        (b"sigma_data\x94G\x3f\xe0", b"sigma_data\x94G\x3f\xd0", "its `sigma_data` is 0.25"),
        (b"SongUNet", b"KongUNet", "its network is a `KongUNet`"),
        (b"num_blocks", b"num_glocks", "`num_glocks` (with value 1) is not a supported key of SongUNet"),
        (b"model_channels\x94K\x08", b"model_channels\x94K\x0c", "the configuration expects"),
        (b"_reconstruct_persistent_obj", b"_reconstruct_persistent_obi", "calls `torch_utils.persistence."),
    ] {
        let error = error_after(from, to);
        assert!(error.contains(expected), "{error}");
    }
}

/// The file with a byte changed or its end missing is read or refused, and nothing panics.
#[test]
fn damaged_files_do_not_panic() {
    let whole = std::fs::read(file("cond.pkl")).unwrap();
    let marker = b"EDMPrecond\x94\x8c\x05state";
    let attributes = whole.windows(marker.len()).position(|bytes| bytes == marker).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.pkl");
    let mut refused = [0; 3];
    for i in 0..150 {
        let mut bytes = whole.clone();
        let at = (i * 7919 + 31) % bytes.len();
        match i % 3 {
            0 => bytes[at] ^= 1 << (i % 8),
            // Among the attributes of the preconditioner and its network.
            1 => bytes[attributes + (i * 131) % 4000] = (i * 37) as u8,
            _ => bytes.truncate(at),
        }
        std::fs::write(&path, bytes).unwrap();
        if let Err(error) = Pipeline::import(&path, &PipelineImport::default(), &Device::flex()) {
            refused[i % 3] += 1;
            assert!(error.to_string().contains("x.pkl"), "{error}");
        }
    }
    assert!(refused[1] >= 10 && refused[2] == 50, "{refused:?}");
}

/// Several noise levels in one batch, as in training, are those of one image after the other.
#[test]
fn images_of_a_batch_have_noise_levels_of_their_own() {
    let (pipeline, _) = import("adm.pt");
    let model = pipeline.denoiser().unwrap();
    let nodes = model.process.nodes(&[30, 700]);
    let noise = images(&golden("adm.pt")["noise"]);
    let tensor = |images: &Images| images.tensor(&Device::flex());
    let both = model.denoise(tensor(&noise), &nodes, Condition::default()).unwrap().images();
    for (i, node) in nodes.iter().enumerate() {
        let one = model.denoise(tensor(&noise.slice(i, 1)), &[*node], Condition::default()).unwrap().images();
        let pairs = one[0].sample.iter().zip(&both[i].sample);
        let worst = pairs.fold(0f64, |worst, (a, b)| worst.max((a - b).abs()));
        assert!(worst < 1e-5, "{i}: {worst:e}");
    }
}
