//! Every scheduler class against diffusers run in float64 (tools/goldens_schedulers.py), and the keys of the classes.

use ddpm_diffusion::scheduler::SchedulerClass;
use ddpm_diffusion::{SchedulerConfig, SolverTable};
use serde_json::{Map, Value, json};

mod common;
use common::denoiser;

#[derive(serde::Deserialize)]
struct Golden {
    start: Vec<f64>,
    files: Map<String, Value>,
    runs: Vec<Run>,
}

#[derive(serde::Deserialize)]
struct Run {
    config: Value,
    steps: usize,
    timesteps: Vec<f64>,
    x: Vec<f64>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("goldens/schedulers.json")).unwrap()
}

fn noise(row: usize) -> Vec<f64> {
    (0..4).map(|d| 1.4 * (1.7 * row as f64 + 0.9 * f64::from(d) + 0.3).sin()).collect()
}

fn result(config: &SchedulerConfig, table: &SolverTable, start: &[f64]) -> Vec<f64> {
    let model = |x: &[f64], t: f64| x.iter().map(|x| (1.3 * x + 0.4 * (t / 300.0).cos()).tanh()).collect();
    table.run(start, denoiser(config.prediction_type, model), noise).unwrap()
}

/// Timesteps and final images of every class, with its keys, in 10 and 50 steps.
#[test]
fn sampling_runs_of_diffusers() {
    let golden = golden();
    let (mut failures, mut worst) = (Vec::new(), 0f64);
    for Run { config: json, steps, timesteps, x } in &golden.runs {
        let config = SchedulerConfig::from_json(&json.to_string()).unwrap_or_else(|e| panic!("{json}: {e}"));
        let table = match config.solver_table(*steps, 0.0) {
            Ok(table) => table,
            Err(problem) => {
                failures.push(format!("{json}, {steps} steps: {problem}"));
                continue;
            }
        };
        let asked: Vec<f64> = table.rows.iter().map(|row| row.node.timestep).collect();
        let far = asked.iter().zip(timesteps).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        if asked.len() != timesteps.len() || far > 1e-6 {
            failures.push(format!("{json}, {steps} steps: timesteps {asked:?}, expected {timesteps:?}"));
            continue;
        }
        let scale = x.iter().fold(1.0, |a: f64, x| a.max(x.abs()));
        let got = result(&config, &table, &golden.start);
        let error = got.iter().zip(x).map(|(got, x)| (got - x).abs()).fold(0.0, f64::max) / scale;
        worst = worst.max(error);
        println!("{json} {steps} {error:.1e}");
        if error > 1e-8 {
            failures.push(format!("{json}, {steps} steps: off by {error:e}"));
        }
    }
    assert!(golden.runs.len() > 300);
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), golden.runs.len(), failures.join("\n"));
    println!("largest difference {worst:.1e}");
}

/// The file that diffusers writes for a class is read, and written again to the byte but for the version.
#[test]
fn files_of_diffusers_are_kept() {
    for (name, file) in golden().files {
        let file = file.as_str().unwrap();
        let config = SchedulerConfig::from_json(file).unwrap();
        assert_eq!(config.class.name(), name);
        let plain: String =
            file.lines().filter(|line| !line.contains("_diffusers_version")).collect::<Vec<_>>().join("\n");
        assert_eq!(config.to_json().unwrap(), plain + "\n", "{name}");
        // The same without a key: every key has its default.
        let bare = SchedulerConfig::from_json(&json!({ "_class_name": name }).to_string()).unwrap();
        assert_eq!(bare, config, "{name}");
    }
}

#[test]
fn every_class_has_its_keys() {
    for (name, class) in SchedulerClass::NAMES {
        let json = json!({ "_class_name": name, "beta_start": 0.001, "num_train_timesteps": 500 });
        let config = SchedulerConfig::from_json(&json.to_string()).unwrap();
        assert_eq!((config.class, config.noise_schedule().unwrap().len()), (class, 500));
        assert_eq!(SchedulerConfig::from_json(&config.to_json().unwrap()).unwrap(), config, "{name}");
        assert_eq!(config.solver_table(20, 0.0).is_ok(), class.has_sampler(), "{name}");
    }
}

/// The keys that a class has are written as they were, and so are those that it ignores.
#[test]
fn values_and_foreign_keys_are_written_again() {
    let text = r#"{
  "_class_name": "EulerDiscreteScheduler",
  "beta_end": 0.012,
  "beta_schedule": "scaled_linear",
  "beta_start": 0.00085,
  "clip_sample": true,
  "final_sigmas_type": "sigma_min",
  "interpolation_type": "linear",
  "lambda_min_clipped": -Infinity,
  "num_train_timesteps": 1000,
  "prediction_type": "v_prediction",
  "rescale_betas_zero_snr": false,
  "set_alpha_to_one": false,
  "sigma_max": null,
  "sigma_min": 0.03,
  "skip_prk_steps": true,
  "steps_offset": 1,
  "timestep_spacing": "leading",
  "timestep_type": "discrete",
  "trained_betas": null,
  "use_beta_sigmas": false,
  "use_exponential_sigmas": false,
  "use_karras_sigmas": true
}
"#;
    let config = SchedulerConfig::from_json(text).unwrap();
    assert_eq!(config.to_json().unwrap(), text);
    // A key of another class has no effect.
    assert_eq!(config.clip(), None);
    // In `null`, Python's None, a flag is false.
    let null = text.replace("\"use_karras_sigmas\": true", "\"use_karras_sigmas\": null");
    assert!(!SchedulerConfig::from_json(&null).unwrap().solver.unwrap().use_karras_sigmas);
}

#[test]
fn unsupported_values_are_refused_by_name() {
    let refused = |class: &str, keys: Value| {
        let mut json = json!({ "_class_name": class });
        json.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        SchedulerConfig::from_json(&json.to_string()).unwrap_err().to_string()
    };
    for (class, keys) in [
        ("DPMSolverMultistepScheduler", json!({ "use_flow_sigmas": true })),
        ("UniPCMultistepScheduler", json!({ "use_dynamic_shifting": true })),
        ("UniPCMultistepScheduler", json!({ "solver_p": {} })),
        ("UniPCMultistepScheduler", json!({ "shift_terminal": 0.1 })),
        ("UniPCMultistepScheduler", json!({ "predict_x0": false })),
        ("UniPCMultistepScheduler", json!({ "solver_type": "bh1" })),
        ("UniPCMultistepScheduler", json!({ "lower_order_final": false })),
        ("DPMSolverMultistepScheduler", json!({ "solver_order": 4 })),
        ("DPMSolverMultistepScheduler", json!({ "solver_order": 0 })),
        ("DPMSolverMultistepScheduler", json!({ "solver_order": null })),
        ("DPMSolverMultistepScheduler", json!({ "algorithm_type": "euler" })),
        ("DPMSolverMultistepScheduler", json!({ "prediction_type": "flow_prediction" })),
        ("DDPMScheduler", json!({ "prediction_type": "edm" })),
        ("DPMSolverSinglestepScheduler", json!({ "algorithm_type": "sde-dpmsolver++" })),
        ("DEISMultistepScheduler", json!({ "algorithm_type": "sde-dpmsolver" })),
        ("EulerDiscreteScheduler", json!({ "sigma_min": 0 })),
        ("EulerDiscreteScheduler", json!({ "interpolation_type": "cubic" })),
        ("HeunDiscreteScheduler", json!({ "beta_schedule": "exp" })),
        ("HeunDiscreteScheduler", json!({ "clip_sample_range": 1e300 })),
        ("LMSDiscreteScheduler", json!({ "timestep_spacing": "quadratic" })),
        ("LMSDiscreteScheduler", json!({ "steps_offset": 1000 })),
        ("LMSDiscreteScheduler", json!({ "num_train_timesteps": 1_000_000_000_000u64 })),
        ("LMSDiscreteScheduler", json!({ "solver_ordre": 2 })),
        ("DDIMScheduler", json!({ "dynamic_thresholding_ratio": 2, "thresholding": true })),
        ("DDIMScheduler", json!({ "sample_max_value": 0.5, "thresholding": true })),
    ] {
        let message = refused(class, keys.clone());
        let (key, value) = keys.as_object().unwrap().iter().next().unwrap();
        assert!(message.contains(&format!("`{key}`")) && message.len() < 300, "{keys}: {message}");
        let plain = |text: &str| text.replace(".0", "").replace(['"', '+'], "");
        assert!(key == "solver_ordre" || plain(&message).contains(&plain(&value.to_string())), "{keys}: {message}");
    }
    let message =
        refused("EulerDiscreteScheduler", json!({ "timestep_type": "continuous", "prediction_type": "v_prediction" }));
    assert!(message.contains("timestep_type"), "{message}");
    let message = refused("LMSDiscreteScheduler", json!({ "use_karras_sigmas": true, "use_beta_sigmas": true }));
    assert!(message.contains("use_karras_sigmas"), "{message}");
    // Without effect, and so accepted.
    for (class, keys) in [
        ("EulerDiscreteScheduler", json!({ "timestep_type": "continuous" })),
        ("EulerDiscreteScheduler", json!({ "use_flow_sigmas": true })),
        ("DPMSolverMultistepScheduler", json!({ "flow_shift": 3.0, "solver_type": "bh2" })),
        ("DDIMScheduler", json!({ "sample_max_value": 0.5, "skip_prk_steps": true })),
    ] {
        let mut json = json!({ "_class_name": class });
        json.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        SchedulerConfig::from_json(&json.to_string()).unwrap();
    }
    for (class, reason) in [
        ("EDMDPMSolverMultistepScheduler", "preconditioning"),
        ("FlowMatchEulerDiscreteScheduler", "velocity"),
        ("IPNDMScheduler", "continuous time"),
        ("ScoreSdeVeScheduler", "variance-preserving"),
        ("MyScheduler", "not a class"),
    ] {
        let message = refused(class, json!({}));
        assert!(message.contains(class) && message.contains(reason), "{message}");
    }
}

/// A configuration of diffusers' class with its defaults, as diffusers 0.42.1 writes it, comes back as it was.
#[test]
fn networks_with_edms_preconditioning() {
    let text = r#"{
  "_class_name": "EDMEulerScheduler",
  "final_sigmas_type": "zero",
  "num_train_timesteps": 1000,
  "prediction_type": "epsilon",
  "rho": 7.0,
  "sigma_data": 0.5,
  "sigma_max": 80.0,
  "sigma_min": 0.002,
  "sigma_schedule": "karras"
}
"#;
    let config = SchedulerConfig::from_json(text).unwrap();
    assert_eq!(config, SchedulerConfig::edm(1000));
    assert_eq!(config.to_json().unwrap(), text);
    assert_eq!(SchedulerConfig::from_json(r#"{"_class_name": "EDMEulerScheduler", "_x": 1}"#).unwrap(), config);
    let chain = config.noise_schedule().unwrap();
    assert!((chain.level(999).noise_ratio() / 80.0 - 1.0).abs() < 1e-9);
    for (from, to) in [
        ("\"sigma_data\": 0.5", "\"sigma_data\": 1.0"),
        ("\"rho\": 7.0", "\"rho\": 5"),
        ("\"prediction_type\": \"epsilon\"", "\"prediction_type\": \"v_prediction\""),
        ("\"sigma_max\": 80.0", "\"sigma_max\": \"80\""),
        ("\"sigma_min\": 0.002", "\"sigma_mni\": 0.002"),
        ("\"num_train_timesteps\": 1000", "\"num_train_timesteps\": 0"),
        ("\"num_train_timesteps\": 1000", "\"num_train_timesteps\": 1.5"),
    ] {
        assert!(text.contains(from));
        let message = SchedulerConfig::from_json(&text.replace(from, to)).unwrap_err().to_string();
        let key = to.split('"').nth(1).unwrap();
        assert!(message.contains(key), "{to}: {message}");
    }
    let clipped = SchedulerConfig { clip_sample: true, ..config };
    assert!(clipped.to_json().unwrap_err().to_string().contains("without clipping"));
}

/// Numbers of steps that a class cannot take are refused, with the way out.
#[test]
fn steps_that_do_not_fit_are_refused() {
    let table = |json: Value, steps: usize| {
        SchedulerConfig::from_json(&json.to_string()).unwrap().solver_table(steps, 0.0).map_err(|e| e.to_string())
    };
    for (name, class) in SchedulerClass::NAMES {
        for steps in [0, 1001] {
            assert!(table(json!({ "_class_name": name }), steps).is_err(), "{name}");
        }
        for steps in [1, 2, 3, 4, 5, 7, 16, 333, 998, 999] {
            for spacing in ["leading", "linspace", "trailing"] {
                for more in [json!({}), json!({ "use_karras_sigmas": true }), json!({ "skip_prk_steps": true })] {
                    let mut json = json!({ "_class_name": name, "timestep_spacing": spacing });
                    json.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
                    if let Ok(table) = table(json, steps) {
                        assert_eq!(table.check(), Ok(()), "{name}");
                    }
                }
            }
        }
        if class.has_sampler() {
            let few = if name == "PNDMScheduler" { 4 } else { 1 };
            table(json!({ "_class_name": name }), few).unwrap();
        }
    }
    let message = table(json!({ "_class_name": "PNDMScheduler" }), 3).unwrap_err();
    assert!(message.contains("at least 4"), "{message}");
    let message = table(json!({ "_class_name": "DPMSolverMultistepScheduler" }), 1000).unwrap_err();
    assert!(message.contains("use fewer steps"), "{message}");
    for class in ["DDIMScheduler", "EulerDiscreteScheduler"] {
        let json = json!({ "_class_name": class, "steps_offset": 1, "timestep_spacing": "leading" });
        let message = table(json.clone(), 1000).unwrap_err();
        assert!(message.contains("`steps_offset` is 1") && message.contains("timestep 1000 of 1000"), "{message}");
        table(json, 500).unwrap();
    }
}

/// An explicit list of timesteps ends as the class does.
#[test]
fn lists_of_timesteps() {
    for (name, class) in SchedulerClass::NAMES.into_iter().filter(|(_, class)| class.has_sampler()).skip(4) {
        let config = SchedulerConfig::from_json(&json!({ "_class_name": name }).to_string()).unwrap();
        let table = config.solver_table_over(&[0, 900, 500], true).unwrap();
        assert_eq!(table.rows[0].node.timestep, 900.0, "{class}");
        let in_sigma = name.contains("Discrete");
        assert_eq!(table.initial_scale < 1.0, in_sigma, "{class}");
        assert_eq!(config.solver_table_over(&[900, 500, 0], false).unwrap().initial_scale, 1.0);
        assert!(
            config.solver_table_over(&[900, 900], true).is_err() && config.solver_table_over(&[1000], true).is_err()
        );
    }
    let json = r#"{"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": true}"#;
    let config = SchedulerConfig::from_json(json).unwrap();
    assert!(config.solver_table_over(&[900, 500], true).unwrap_err().to_string().contains("rule of its own"));
}
