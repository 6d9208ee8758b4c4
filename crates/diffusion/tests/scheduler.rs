//! Reading and writing `scheduler_config.json`.

use ddpm_diffusion::{
    BetaSchedule, Clip, Prediction, SchedulerConfig, TimestepSpacing, Variance, scheduler::SchedulerClass, solver,
    timesteps,
};

/// google/ddpm-cifar10-32 on the Hugging Face Hub.
const CIFAR10: &str = r#"{
  "_class_name": "DDPMScheduler", "_diffusers_version": "0.1.1",
  "beta_end": 0.02, "beta_schedule": "linear", "beta_start": 0.0001, "clip_sample": true,
  "num_train_timesteps": 1000, "trained_betas": null, "variance_type": "fixed_large"
}"#;

fn refused(json: &str) -> String {
    SchedulerConfig::from_json(json).unwrap_err().to_string()
}

fn with(key: &str, value: &str) -> String {
    format!(r#"{{"_class_name": "DDPMScheduler", "{key}": {value}}}"#)
}

#[test]
fn the_cifar10_model_of_ho_et_al() {
    let config = SchedulerConfig::from_json(CIFAR10).unwrap();
    assert_eq!(config, SchedulerConfig { variance_type: Variance::FixedLarge, ..SchedulerConfig::default() });
    assert_eq!((config.clip(), config.prediction_type), (Some(Clip::Range(1.0)), Prediction::Epsilon));
    let schedule = config.noise_schedule().unwrap();
    assert!((schedule.alpha_cumprod(999) - 4.03583e-5).abs() < 1e-10);
    let table = config.solver_table(1000, 0.0).unwrap();
    let expected =
        solver::ddpm(&schedule, &timesteps::all(1000), Variance::FixedLarge, Some(Clip::Range(1.0))).unwrap();
    assert_eq!(table, expected);
}

#[test]
fn early_diffusers_keys() {
    let read = |key: &str, value: &str| SchedulerConfig::from_json(&with(key, value));
    assert_eq!(read("tensor_format", "\"pt\"").unwrap(), SchedulerConfig::default());
    assert_eq!(read("timestep_values", "null").unwrap(), SchedulerConfig::default());
    assert!(refused(&with("timestep_values", "[1, 2]")).contains("timestep_values"));
    assert_eq!(read("predict_epsilon", "true").unwrap().prediction_type, Prediction::Epsilon);
    assert_eq!(read("predict_epsilon", "false").unwrap().prediction_type, Prediction::Sample);
    assert!(refused(&with("predict_epsilon", "1")).contains("predict_epsilon"));
    assert_eq!(read("variance_type", "\"fixed_large_log\"").unwrap().variance_type, Variance::FixedLarge);
}

#[test]
fn errors_name_the_key() {
    for (key, value) in [
        ("skip_prk_stages", "true"),
        ("beta_schedule", "\"fancy\""),
        ("prediction_type", "\"score\""),
        ("variance_type", "\"huge\""),
        ("timestep_spacing", "\"random\""),
        ("clip_sample_range", "0"),
        ("num_train_timesteps", "0"),
        ("num_train_timesteps", "100000000000"),
        ("trained_betas", "[0.1, 0.2]"),
    ] {
        let message = refused(&with(key, value));
        let named = message.contains(key) || message.contains(value.trim_matches('"'));
        assert!(named && message.len() < 400, "{key}: {message}");
    }
    assert!(refused(&with("num_train_timesteps", "-3")).contains("-3"));
    assert!(refused(&with("beta_start", "-0.1")).contains("betas[0]"));
    assert!(refused(r#"{"_class_name": "EDMDPMSolverMultistepScheduler"}"#).contains("EDMEulerScheduler"));
    assert!(refused("{}").contains("_class_name"));
    for broken in ["", "[]", "{", "nonsense", r#"{"_class_name": 3}"#] {
        assert!(refused(broken).starts_with("scheduler_config.json: "));
    }
    // Keys that start with `_` are metadata.
    SchedulerConfig::from_json(&with("_whatever", "{}")).unwrap();
}

/// With thresholding, clip_sample has no effect, as in diffusers.
#[test]
fn thresholding() {
    let json = r#"{"_class_name": "DDIMScheduler", "thresholding": true, "dynamic_thresholding_ratio": 0.9,
        "sample_max_value": 1.5, "clip_sample": true}"#;
    let config = SchedulerConfig::from_json(json).unwrap();
    let clip = Some(Clip::Dynamic { ratio: 0.9, max: 1.5 });
    assert_eq!((config.clip(), config.solver_table(10, 0.0).unwrap().clip_sample), (clip, clip));
    assert_eq!(SchedulerConfig::from_json(&config.to_json().unwrap()).unwrap(), config);
    for (key, value) in [("dynamic_thresholding_ratio", "1.5"), ("sample_max_value", "0")] {
        assert!(refused(&json.replace("\"clip_sample\": true", &format!("\"{key}\": {value}"))).contains(key));
    }
}

#[test]
fn json_round_trip() {
    for class in [SchedulerClass::Ddpm, SchedulerClass::Ddim] {
        let config = SchedulerConfig {
            class,
            num_train_timesteps: 77,
            beta_start: 0.1 + 0.2 - 0.299,
            beta_schedule: BetaSchedule::ScaledLinear,
            clip_sample: false,
            clip_sample_range: 2.5,
            prediction_type: Prediction::VPrediction,
            timestep_spacing: TimestepSpacing::Trailing,
            steps_offset: 1,
            rescale_betas_zero_snr: true,
            ..SchedulerConfig::default()
        };
        assert_eq!(SchedulerConfig::from_json(&config.to_json().unwrap()).unwrap(), config);
        assert_eq!(config.clip(), None);
    }
    // Each class writes its keys only.
    let keys = |class| SchedulerConfig { class, ..SchedulerConfig::default() }.to_json().unwrap();
    assert!(keys(SchedulerClass::Ddpm).contains("variance_type") && !keys(SchedulerClass::Ddpm).contains("set_alpha"));
    assert!(!keys(SchedulerClass::Ddim).contains("variance_type") && keys(SchedulerClass::Ddim).contains("set_alpha"));
}

/// β rules that diffusers does not have are written as lists, bit for bit.
#[test]
fn other_schedules_become_trained_betas() {
    for (class, schedule, as_list) in [
        (SchedulerClass::Ddpm, BetaSchedule::Warmup10, true),
        (SchedulerClass::Ddpm, BetaSchedule::Jsd, true),
        (SchedulerClass::Ddpm, BetaSchedule::Sigmoid, false),
        (SchedulerClass::Ddim, BetaSchedule::Sigmoid, true),
        (SchedulerClass::Ddim, BetaSchedule::SquaredcosCapV2, false),
    ] {
        let config = SchedulerConfig { class, beta_schedule: schedule, num_train_timesteps: 60, ..Default::default() };
        let read = SchedulerConfig::from_json(&config.to_json().unwrap()).unwrap();
        assert_eq!(read.trained_betas.is_some(), as_list, "{schedule}");
        assert_eq!(read.noise_schedule().unwrap(), config.noise_schedule().unwrap());
    }
}

#[test]
fn zero_terminal_snr_and_the_last_step() {
    let config = SchedulerConfig { rescale_betas_zero_snr: true, ..Default::default() };
    assert_eq!(config.noise_schedule().unwrap().alpha_cumprod(999), 0.0);
    let mut config = SchedulerConfig { class: SchedulerClass::Ddim, ..Default::default() };
    let schedule = config.noise_schedule().unwrap();
    let last = |config: &SchedulerConfig| config.solver_table(10, 0.0).unwrap().rows[9].clone();
    assert_eq!(last(&config).sample, [1.0]);
    config.set_alpha_to_one = false;
    assert_eq!(last(&config).sample, [schedule.alpha_cumprod(0).sqrt()]);
    assert!(config.solver_table(0, 0.0).is_err() && config.solver_table(1001, 0.0).is_err());
}

/// DDIM with linspace spacing steps to t − 20 rather than to the next timestep.
#[test]
fn the_peculiarities_of_diffusers() {
    let config = SchedulerConfig {
        class: SchedulerClass::Ddim,
        timestep_spacing: TimestepSpacing::Linspace,
        ..Default::default()
    };
    let schedule = config.noise_schedule().unwrap();
    let table = config.solver_table(50, 0.0).unwrap();
    assert_eq!((table.rows[1].node.timestep, table.rows[2].node.timestep), (979.0, 958.0));
    assert_eq!(table.rows[1].sample, [schedule.alpha_cumprod(959).sqrt()]);
    // DDPM with trailing spacing adds noise on its last step.
    let config = SchedulerConfig {
        timestep_spacing: TimestepSpacing::Trailing,
        variance_type: Variance::FixedLarge,
        ..Default::default()
    };
    let last = config.solver_table(50, 0.0).unwrap().rows[49].clone();
    assert_eq!(last.node.timestep, 19.0);
    assert!((last.noise - (1.0 - schedule.alpha_cumprod(19)).sqrt()).abs() < 1e-15);
}
