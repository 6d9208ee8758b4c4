//! The scheduler of a model's folder: it is the default sampler, with its own settings, and is kept when it is saved again.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::*;
use ddpm::diffusion::scheduler::SchedulerClass;
use ddpm::weights;
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;

/// A place with the golden pipeline as `model`; `scheduler` replaces its scheduler's configuration.
fn place(scheduler: &str) -> Place {
    let place = Place::new();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sample/tests/goldens/pipeline");
    for file in ["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"] {
        let to = place.path("model").join(file);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(golden.join(file), to).unwrap();
    }
    replace(&place, scheduler);
    place
}

fn replace(place: &Place, scheduler: &str) -> PathBuf {
    let path = place.path("model/scheduler/scheduler_config.json");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, scheduler).unwrap();
    path
}

fn class(name: &str) -> String {
    format!(r#"{{"_class_name": "{name}"}}"#)
}

/// Without --sampler, a folder gives the images that diffusers makes from it and the same noise, for every class that adds
/// no noise. (tools/goldens_schedulers.py; the network is random and not clipped, so that values are of some hundreds.)
#[test]
fn a_folder_alone_gives_the_images_of_diffusers() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/schedulers.safetensors");
    let (mut tensors, _) = weights::read_safetensors(golden).unwrap();
    let noise = tensors.remove("noise").unwrap();
    let place = place("");
    place.tensors("noise.safetensors", [("noise", &noise.shape, noise.data)]);
    assert_eq!(tensors.len(), 20);
    for (name, expected) in &tensors {
        let (class_name, steps) = name.split_once('.').unwrap();
        replace(&place, &class(class_name));
        let arguments =
            ["sample", "model", "--init", "noise.safetensors", "--steps", steps, "-o", "samples.safetensors"];
        let said = contains(format!("sampler: the model's {class_name} (")).and(contains("warning").not());
        place.ddpm(&arguments).assert().success().stdout("").stderr(said);
        let got = tensor(&place.path("samples.safetensors"), "samples");
        assert_eq!(got.shape, expected.shape);
        let scale = expected.data.iter().fold(1f32, |a, b| a.max(b.abs()));
        let error = got.data.iter().zip(&expected.data).fold(0f32, |a, (x, y)| a.max((x - y).abs())) / scale;
        println!("{name}: {error:.1e} of {scale}");
        assert!(error <= 3e-5, "{name}: {error:e}");
    }
}

/// Every class samples, images are of the seed, and a class without a sampler is announced.
#[test]
fn every_class_samples() {
    let place = place("");
    for (name, of) in SchedulerClass::NAMES {
        replace(&place, &class(name));
        let sample = ["sample", "model", "-n", "1", "--steps", "4", "-o", "samples.safetensors"];
        let said = if of.has_sampler() {
            format!("sampler: the model's {name} (")
        } else {
            format!("warning: the model's {name} has no sampler here; ddpm samples with its betas (4 steps)")
        };
        place.ddpm(&sample).assert().success().stdout("").stderr(contains(said));
        let first = fs::read(place.path("samples.safetensors")).unwrap();
        fs::remove_file(place.path("samples.safetensors")).unwrap();
        // --quiet keeps the warning only.
        let quiet = place.ddpm(&sample).arg("-q").output().unwrap();
        assert_eq!(quiet.stderr.is_empty(), of.has_sampler(), "{name}");
        assert_eq!(fs::read(place.path("samples.safetensors")).unwrap(), first, "{name}");
        // A sampler that is named has the folder's betas, and no line.
        let named = [&sample[..], &["--sampler", "dpmpp-2m"]].concat();
        place.ddpm(&named).assert().success().stderr(contains("sampler:").not());
    }
    // Image-to-image starts at a timestep of its own.
    write_pngs(&place.path("photos"), 16, 16, image::ColorType::Rgb8);
    for name in ["EulerDiscreteScheduler", "UniPCMultistepScheduler", "PNDMScheduler"] {
        replace(&place, &class(name));
        let from = ["--from", "photos/0.png", "--at", "300", "--steps", "10", "-n", "1", "-o", "from.safetensors"];
        place.ddpm(&[&["sample", "model"], &from[..]].concat()).assert().success();
        let listed = ["sample", "model", "--timesteps", "900,500,0", "-n", "1", "-o", "listed.safetensors"];
        place.ddpm(&listed).assert().success();
    }
}

/// `ddpm schedule` prints the rows of the model's own scheduler unless a sampler is named.
#[test]
fn a_schedule_is_that_of_the_model() {
    let place =
        place(r#"{"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": true, "solver_order": 3}"#);
    let mut own = place.ddpm(&["schedule", "model", "--steps", "10"]);
    let said = contains("sampler: the model's DPMSolverMultistepScheduler").and(contains("use_karras_sigmas true"));
    own.assert().success().stderr(said).stdout(contains("solver_order 3").and(contains("937.00")));
    let table = json(place.ddpm(&["schedule", "model"]));
    assert_eq!(table["rows"].as_array().unwrap().len(), 50);
    place.ddpm(&["schedule", "model", "--sampler", "ddim", "--steps", "10"]).assert().success().stderr("");
    // Without a model there is nothing to take.
    place.ddpm(&["schedule", "--steps", "10"]).assert().success().stderr("");
    place.ddpm(&["inspect", "model"]).assert().success().stdout(contains("scheduler:  DPMSolverMultistepScheduler ("));
    let scheduler = &json(place.ddpm(&["inspect", "model"]))["scheduler"];
    assert_eq!((&scheduler["lambda_min_clipped"], &scheduler["solver_order"]), (&"-Infinity".into(), &3.into()));
}

/// Saved again, a folder has the same class and keys.
#[test]
fn a_scheduler_is_kept() {
    let text = r#"{
  "_class_name": "DPMSolverSinglestepScheduler",
  "algorithm_type": "dpmsolver++",
  "beta_end": 0.012,
  "beta_schedule": "scaled_linear",
  "beta_start": 0.00085,
  "clip_sample": false,
  "dynamic_thresholding_ratio": 0.995,
  "final_sigmas_type": "zero",
  "flow_shift": 1.0,
  "lambda_min_clipped": -Infinity,
  "lower_order_final": true,
  "num_train_timesteps": 1000,
  "prediction_type": "epsilon",
  "sample_max_value": 1.0,
  "solver_order": 3,
  "solver_type": "heun",
  "thresholding": false,
  "time_shift_type": "exponential",
  "trained_betas": null,
  "use_beta_sigmas": false,
  "use_dynamic_shifting": false,
  "use_exponential_sigmas": false,
  "use_flow_sigmas": false,
  "use_karras_sigmas": true,
  "variance_type": null
}
"#;
    let place = place(text);
    place.ddpm(&["export", "model", "-o", "saved", "-q"]).assert().success();
    assert_eq!(fs::read_to_string(place.path("saved/scheduler/scheduler_config.json")).unwrap(), text);
    let index = fs::read_to_string(place.path("saved/model_index.json")).unwrap();
    assert!(index.contains("DPMSolverSinglestepScheduler"), "{index}");
}

/// Errors name what is not supported, with the file.
#[test]
fn unsupported_schedulers_are_refused() {
    let place = place("");
    for (text, words) in [
        (
            r#"{"_class_name": "EDMDPMSolverMultistepScheduler"}"#,
            &["EDMDPMSolverMultistepScheduler", "preconditioning"][..],
        ),
        (r#"{"_class_name": "FlowMatchEulerDiscreteScheduler"}"#, &["velocity"]),
        (r#"{"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": true}"#, &["`use_flow_sigmas` is true"]),
        (r#"{"_class_name": "PNDMScheduler", "steps": 3}"#, &["`steps` is not a key of PNDMScheduler"]),
        (r#"{"_class_name": "DDPMScheduler", "clip_sample_range": 1e300}"#, &["`clip_sample_range` is 1e300", "1e6"]),
        (r#"{"_class_name": "DDPMScheduler", "beta_end": NaN}"#, &["`beta_end` is NaN"]),
        (r#"{"_class_name": "DDPMScheduler", "num_train_timesteps": 1000000000000}"#, &["1000000000000", "1000000"]),
        (
            r#"{"_class_name": "DDIMScheduler", "thresholding": true, "dynamic_thresholding_ratio": 2}"#,
            &["`dynamic_thresholding_ratio` is 2", "0 to 1"],
        ),
        (
            r#"{"_class_name": "DDIMScheduler", "thresholding": true, "sample_max_value": 0.5}"#,
            &["`sample_max_value` is 0.5", "1 to"],
        ),
        (r#"{"_class_name": "DDIMScheduler", "steps_offset": 1}"#, &["`steps_offset` is 1", "use fewer steps"]),
    ] {
        replace(&place, text);
        fails(place.ddpm(&["sample", "model", "-n", "1"]), 1, words);
    }
}

/// Flags that a sampler ignores, and values that it would change, are refused or announced.
#[test]
fn flags_that_do_not_fit() {
    let place = place(&class("EulerDiscreteScheduler"));
    let sample = |more: &[&str]| place.ddpm(&[&["sample", "model", "-n", "1", "-o", "s.safetensors"], more].concat());
    fails(sample(&["--eta", "0.5"]), 2, &["--eta is for --sampler ddim"]);
    fails(sample(&["--variance", "fixed_small"]), 2, &["--variance is for --sampler ddpm", "EulerDiscreteScheduler"]);
    fails(sample(&["--variance", "fixed_small", "--sampler", "ddim"]), 2, &["--variance is for --sampler ddpm"]);
    fails(sample(&["--churn", "3"]), 2, &["--churn is for --sampler edm-sde"]);
    fails(sample(&["--grid", "karras"]), 1, &["EulerDiscreteScheduler has timesteps of its own"]);
    fails(sample(&["--spacing", "quadratic"]), 1, &["EulerDiscreteScheduler", "spacing"]);
    mistaken(sample(&["--sampler", "edm-sde", "--churn", "1e300"]), &["'1e300'", "--churn", "0 to 1000"]);
    for churn in ["3,1", "3,2,1,1", "3,0,1,inf", "3,0,1,-1", "3,0,1,1,1"] {
        mistaken(sample(&["--sampler", "edm-sde", "--churn", churn]), &[&format!("'{churn}'"), "--churn", "expected"]);
    }
    mistaken(sample(&["--timesteps", "999,abc"]), &["'abc'", "--timesteps", "999,500,0"]);
    for steps in ["1", "2", "3"] {
        fails(sample(&["--sampler", "pndm", "--steps", steps]), 1, &["too few for pndm", "at least 4"]);
    }
    let schedule = |more: &[&str]| place.ddpm(&[&["schedule"], more].concat());
    let turned = "warning: --timesteps are visited from noise to data: 999,500,0";
    schedule(&["--timesteps", "0,500,999"]).assert().success().stderr(contains(turned));
    schedule(&["--timesteps", "999,500,0"]).assert().success().stderr("");
    let fewer = contains("warning: ").and(contains(" evaluations for --steps 641: --grid repeats timesteps"));
    schedule(&["--grid", "log-snr", "--steps", "641"]).assert().success().stderr(fewer);
    let grid = ["schedule", "model", "--sampler", "ddpm", "--grid", "log-snr", "--steps", "50"];
    place.ddpm(&grid).assert().success();
    schedule(&["--grid", "uniform", "--steps", "641"]).assert().success().stderr("");
}
