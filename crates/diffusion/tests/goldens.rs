//! Comparison with reference implementations: diffusers' tables, timesteps, variances and sampling runs, and
//! improved-diffusion's respacings, bound terms and DDIM. The files are written by goldens/make.py and
//! tools/goldens.py.
//!
//! Tolerances allow for float32: diffusers stores its tables in it, and improved-diffusion casts them to it on use.

use ddpm_diffusion::{
    BetaSchedule, Cdf, Clip, Node, NoiseSchedule, Posterior, Prediction, ReverseStep, SchedulerConfig, TimestepSpacing,
    Variance, VariationalBound, solver, timesteps::space_timesteps,
};
use serde_json::Value;

mod common;
use common::denoiser;

fn read(name: &str) -> Value {
    let path = format!("{}/tests/goldens/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn floats(value: &Value) -> Vec<f64> {
    list(value).iter().map(|x| x.as_f64().unwrap()).collect()
}

fn integers(value: &Value) -> Vec<usize> {
    list(value).iter().map(integer).collect()
}

fn integer(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

fn word<T: std::str::FromStr<Err = ddpm_diffusion::Error>>(value: &Value) -> T {
    value.as_str().unwrap().parse().unwrap()
}

#[track_caller]
fn close(found: f64, expected: f64, tolerance: f64, what: &str) {
    assert!((found - expected).abs() <= tolerance, "{what}: {found:e} is not {expected:e} to {tolerance:e}");
}

/// The network and the noise of make.py.
fn network(x: &[f64], t: f64) -> Vec<f64> {
    x.iter().map(|x| 0.7 * x + 0.2 * (3.0 * x + 0.01 * t).sin()).collect()
}

fn variance_channels(x: &[f64], t: f64) -> Vec<f64> {
    x.iter().map(|x| (x + 0.02 * t).cos()).collect()
}

fn noise(call: usize) -> Vec<f64> {
    (0..4).map(|d| 1.4 * (1.7 * call as f64 + 0.9 * f64::from(d) + 0.3).sin()).collect()
}

const X_INIT: [f64; 4] = [1.2, -0.4, 0.1, -1.9];

#[test]
fn tables_of_diffusers() {
    let mut compared = 0;
    for table in list(&read("schedules")["tables"]) {
        let steps = integer(&table["num_train_timesteps"]);
        let mut schedule = NoiseSchedule::new(word(&table["beta_schedule"]), 1e-4, 0.02, steps).unwrap();
        if table["rescale_betas_zero_snr"].as_bool().unwrap() {
            schedule = schedule.rescale_zero_terminal_snr().unwrap();
        }
        let what = table["beta_schedule"].as_str().unwrap();
        let index = integers(&table["index"]);
        let column = |name: &str| floats(&table[name]);
        let (betas, alphas, betas_f64, alphas_f64) =
            (column("betas"), column("alphas_cumprod"), column("betas_f64"), column("alphas_cumprod_f64"));
        for (i, &t) in index.iter().enumerate() {
            close(schedule.betas()[t], betas_f64[i], 1e-12, what);
            close(schedule.alpha_cumprod(t), alphas_f64[i], 1e-12, what);
            close(schedule.betas()[t], betas[i], 5e-6, what);
            close(schedule.alpha_cumprod(t), alphas[i], 5e-6, what);
            compared += 1;
        }
    }
    assert!(compared > 200);
}

#[test]
fn timesteps_of_diffusers() {
    for case in list(&read("schedules")["timesteps"]) {
        let spacing: TimestepSpacing = word(&case["timestep_spacing"]);
        let (steps, offset) = (integer(&case["num_inference_steps"]), integer(&case["steps_offset"]));
        assert_eq!(spacing.timesteps(1000, steps, offset).unwrap(), integers(&case["timesteps"]), "{case}");
    }
    for case in list(&read("diffusers")["spacings"]) {
        let spacing: TimestepSpacing = word(&case["spacing"]);
        let found = spacing.timesteps(1000, integer(&case["steps"]), 0).unwrap();
        assert_eq!(found, integers(&case["timesteps"]), "{spacing} {}", case["steps"]);
    }
}

#[test]
fn variances_of_diffusers() {
    let schedule = NoiseSchedule::new(BetaSchedule::Linear, 1e-4, 0.02, 1000).unwrap();
    let alpha = |t: i64| if t < 0 { 1.0 } else { schedule.alpha_cumprod(t as usize) };
    for case in list(&read("schedules")["variances"]) {
        let at = |key: &str| case[key].as_i64().map(alpha);
        let (now, prev) = (at("t").unwrap(), at("prev_t").unwrap());
        for kind in [Variance::FixedSmall, Variance::FixedLarge] {
            let expected = case[kind.to_string()].as_f64().unwrap();
            let found = kind.diffusers_log_variance(now, prev).interpolate(0.0).exp();
            close(found, expected, 1e-3 * expected + 1e-19, &case.to_string());
        }
        if let Some(prev) = at("ddim_prev_t") {
            close(Posterior::between(now, prev).variance, case["ddim"].as_f64().unwrap(), 1e-6, &case.to_string());
        }
    }
}

/// Sampling runs of DDPMScheduler and DDIMScheduler, from their configuration files.
#[test]
fn sampling_runs_of_diffusers() {
    let goldens = read("diffusers");
    assert!(list(&goldens["runs"]).len() > 80);
    for run in list(&goldens["runs"]) {
        let json = run["json"].as_str().unwrap();
        let config = SchedulerConfig::from_json(json).unwrap();
        let table = config.solver_table(integer(&run["steps"]), run["eta"].as_f64().unwrap()).unwrap();
        let model = |x: &[f64], t: f64| {
            let mut output = network(x, t);
            if config.variance_type.is_learned() {
                output.extend(variance_channels(x, t));
            }
            output
        };
        let found = table.run(&X_INIT, denoiser(config.prediction_type, model), noise).unwrap();
        for (found, expected) in found.iter().zip(floats(&run["result"])) {
            close(*found, expected, 2e-5, json);
        }
        // The file is that of diffusers, except for its version and synonyms.
        let mut expected: Value = serde_json::from_str(json).unwrap();
        expected.as_object_mut().unwrap().shift_remove("_diffusers_version");
        if expected["variance_type"] == "fixed_small_log" {
            expected["variance_type"] = "fixed_small".into();
        }
        let mut written = serde_json::to_string_pretty(&expected).unwrap();
        written.push('\n');
        if expected["clip_sample_range"] == 1.0 && expected["trained_betas"].is_null() {
            assert_eq!(config.to_json().unwrap(), written);
        }
        assert_eq!(serde_json::from_str::<Value>(&config.to_json().unwrap()).unwrap(), expected);
    }
}

#[test]
fn respacings_of_improved_diffusion() {
    for case in list(&read("improved_diffusion")["respacings"]) {
        let respacing = case["respacing"].as_str().unwrap();
        let found = space_timesteps(integer(&case["timesteps"]), respacing).unwrap();
        assert_eq!(found, integers(&case["result"]), "{respacing}");
    }
}

/// Every combination of variance, prediction and (respaced) schedule: `_vb_terms_bpd` with clipping, and the prior.
#[test]
fn bound_terms_of_improved_diffusion() {
    let goldens = read("improved_diffusion");
    let x0 = floats(&goldens["x_start"]);
    assert_eq!(list(&goldens["terms"]).len(), 192);
    for case in list(&goldens["terms"]) {
        let schedule: BetaSchedule = word(&case["schedule"]);
        let (prediction, variance): (Prediction, Variance) = (word(&case["prediction"]), word(&case["variance"]));
        let steps = integer(&case["num_train_timesteps"]);
        let full = NoiseSchedule::new(schedule, 1e-4, 0.02, steps).unwrap();
        let timesteps = space_timesteps(steps, case["respacing"].as_str().unwrap()).unwrap();
        let chain = full.respace(&timesteps).unwrap();
        let bound = VariationalBound::new(&chain, Cdf::Tanh);

        let t = integer(&case["t"]);
        let x_t = floats(&case["x_t"]);
        let original_t = timesteps[timesteps.len() - 1 - t] as f64;
        let output = network(&x_t, original_t);
        let node = Node { timestep: original_t, level: chain.level(t) };
        let to_sample = prediction.preconditioning(node, chain.previous_level(t)).sample_map();
        let posterior = chain.posterior(t);
        let mean: Vec<f64> = x_t
            .iter()
            .zip(&output)
            .map(|(&x, &output)| match prediction {
                Prediction::PreviousMean => output,
                _ => posterior.coef_x0 * to_sample.apply(x, output).clamp(-1.0, 1.0) + posterior.coef_xt * x,
            })
            .collect();
        let range = variance.log_variance(&chain, t);
        let v = if variance.is_learned() { variance_channels(&x_t, original_t) } else { vec![0.0] };
        let log_variance: Vec<f64> = v.iter().map(|&v| range.interpolate(v)).collect();

        let expected = case["term"].as_f64().unwrap();
        let step = ReverseStep { mean: &mean, log_variance: &log_variance };
        let found = bound.term(t, &x0, &x_t, step).unwrap();
        close(found, expected, 1e-5 * expected.abs() + 5e-7, &case.to_string());
        close(bound.prior(&x0).unwrap(), case["prior"].as_f64().unwrap(), 3e-7, "prior");
    }
}

/// DDIM with ε̂ recomputed from the clipped x̂0.
#[test]
fn ddim_of_improved_diffusion() {
    let schedule = NoiseSchedule::new(BetaSchedule::Linear, 1e-4, 0.02, 1000).unwrap();
    let timesteps = space_timesteps(1000, "ddim25").unwrap();
    for case in list(&read("improved_diffusion")["ddim"]) {
        let mut table =
            solver::ddim(&schedule, &timesteps, case["eta"].as_f64().unwrap(), Some(Clip::Range(1.0))).unwrap();
        let run = |table: &ddpm_diffusion::SolverTable| {
            table.run(&X_INIT, denoiser(Prediction::Epsilon, network), noise).unwrap()
        };
        let kept = run(&table);
        table.epsilon_from_clipped = true;
        let expected = floats(&case["result"]);
        run(&table).iter().zip(&expected).for_each(|(&found, &e)| close(found, e, 2e-5, "ddim"));
        assert!(kept.iter().zip(&expected).any(|(kept, e)| (kept - e).abs() > 1e-2), "the flag matters here");
    }
}
