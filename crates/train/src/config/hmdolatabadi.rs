//! Configurations of hmdolatabadi/denoising_diffusion (`config/diffusion_cifar10.json`), as ours.

use serde_json::Value as Json;
use toml::{Table, Value};
use weights::families::hmdolatabadi::{PREDICTIONS, SCHEDULES, VARIANCES};

use super::ConfigError;

/// The use of a key.
enum Target {
    /// To this key, as it is.
    Key(&'static str),
    /// To this key, by a table of words.
    Word(&'static str, &'static [(&'static str, &'static str)]),
    /// Nowhere: it must have this value, which is what this program does.
    Must(&'static str),
    /// Nowhere: it has no effect on the result, or none in the original either.
    Ignored,
}

use Target::{Ignored, Key, Must, Word};

const LOSSES: &[(&str, &str)] = &[("mse", "l_simple"), ("kl", "vlb")];

/// Every key of the original's configurations.
const KEYS: &[(&str, Target)] = &[
    ("dataset.name", Ignored),
    ("dataset.path", Key("data.path")),
    ("dataset.resolution", Key("data.resolution")),
    ("model.in_channel", Key("data.channels")),
    ("model.channel", Key("model.channel")),
    ("model.channel_multiplier", Key("model.channel_multiplier")),
    ("model.n_res_blocks", Key("model.n_res_blocks")),
    ("model.attn_strides", Key("model.attn_strides")),
    ("model.dropout", Key("model.dropout")),
    ("model.fold", Key("model.fold")),
    ("model.mean_type", Word("diffusion.prediction", PREDICTIONS)),
    ("model.var_type", Word("diffusion.variance", VARIANCES)),
    ("model.loss_type", Word("diffusion.loss", LOSSES)),
    ("model.schedule.type", Word("diffusion.schedule", SCHEDULES)),
    ("model.schedule.beta_start", Key("diffusion.beta_start")),
    ("model.schedule.beta_end", Key("diffusion.beta_end")),
    ("model.schedule.n_timestep", Key("diffusion.timesteps")),
    // Never read by the original; --device chooses here.
    ("model.device", Ignored),
    ("model.precision", Must("32")),
    ("training.n_iter", Key("train.steps")),
    ("training.optimizer.type", Must("\"adam\"")),
    ("training.optimizer.lr", Key("train.learning_rate")),
    ("training.dataloader.batch_size", Key("train.batch_size")),
    ("training.dataloader.num_workers", Ignored),
    ("training.dataloader.drop_last", Must("true")),
    // The original validates 5 % of the training images, chosen anew in each run; here `train.evaluate_every` does it.
    ("validation.dataloader.batch_size", Ignored),
    ("validation.dataloader.num_workers", Ignored),
    ("validation.dataloader.drop_last", Ignored),
    // Never read by the original.
    ("evaluate.wandb", Ignored),
    ("evaluate.log_every", Ignored),
    ("evaluate.save_every", Ignored),
    ("evaluate.valid_every", Ignored),
];

/// Data sets of the original. CIFAR-10 for Python is not read: `--data` names the binary version. CelebA is a folder or an
/// archive of its aligned images.
const DATA_SETS: [&str; 3] = ["cifar10", "svhn", "celeba"];

/// The part of CelebA's images of 178x218 that the original takes, by PIL's `crop((25, 50, 25 + 128, 50 + 128))`.
const CELEBA: [i64; 4] = [25, 50, 128, 128];

/// Converts a configuration. What the original has no keys for is as it is there: mirrored images but for SVHN, no warm-up, a
/// gradient of norm 1 at most, averages of 0.9999.
///
/// # Errors
/// If a key is unknown, missing or of an unsupported value; the error names it.
pub(super) fn table(text: &str) -> Result<Table, ConfigError> {
    let wrong = |key: &str, message: String| ConfigError::value(key, message);
    let json: Json = serde_json::from_str(text).map_err(|error| ConfigError::Syntax {
        message: format!("not JSON ({error}); expected TOML, or a configuration of hmdolatabadi/denoising_diffusion"),
        offset: None,
    })?;
    let mut found = Vec::new();
    flatten(&json, String::new(), &mut found);
    let mut table = Table::new();
    let mut put = |key: &str, value: Value| {
        let (section, name) = key.split_once('.').unwrap_or(("", key));
        let values = table.entry(section).or_insert_with(|| Table::new().into());
        if let Value::Table(values) = values {
            values.insert(name.to_owned(), value);
        }
    };
    let name = json["dataset"]["name"].as_str().unwrap_or_default();
    if !DATA_SETS.contains(&name) {
        return Err(wrong("dataset.name", format!("got \"{name}\", expected {}", DATA_SETS.join(", "))));
    }
    if name == "celeba" {
        let resolution = &json["dataset"]["resolution"];
        if *resolution != 128 {
            let message = format!("got {resolution}, expected 128, the size to which the original resizes CelebA");
            return Err(wrong("dataset.resolution", message));
        }
        put("data.crop", CELEBA.to_vec().into());
    }
    put("model.class", "HmdolatabadiUNet".into());
    for (key, value) in [
        ("data.flip", Value::Boolean(name != "svhn")),
        ("data.labels", false.into()),
        ("train.warmup_steps", 0.into()),
        ("train.grad_clip", 1.0.into()),
        ("train.ema_decay", 0.9999.into()),
        ("train.ema_warmup", false.into()),
    ] {
        put(key, value);
    }
    for (key, value) in &found {
        let Some((_, target)) = KEYS.iter().find(|(known, _)| known == key) else {
            return Err(wrong(key, "is not a key of hmdolatabadi/denoising_diffusion".into()));
        };
        match target {
            Ignored => {}
            Must(expected) if serde_json::from_str(expected).is_ok_and(|expected: Json| expected == *value) => {}
            Must(expected) => {
                return Err(wrong(key, format!("got {value}, which is not supported; expected {expected}")));
            }
            Key(own) => {
                let value = Value::try_from(value).map_err(|_| wrong(key, format!("got {value}")))?;
                put(own, value);
            }
            Word(own, words) => match words.iter().find(|(theirs, _)| value.as_str() == Some(theirs)) {
                Some((_, word)) => put(own, (*word).into()),
                None => {
                    let words: Vec<&str> = words.iter().map(|(theirs, _)| *theirs).collect();
                    return Err(wrong(key, format!("got {value}, expected {}", words.join(", "))));
                }
            },
        }
    }
    let missing =
        KEYS.iter().find(|(key, target)| !matches!(target, Ignored) && !found.iter().any(|(found, _)| found == key));
    if let Some((key, _)) = missing {
        return Err(wrong(key, "is missing".into()));
    }
    table.insert("preset".to_owned(), "cifar10".into());
    Ok(table)
}

/// Lists the values of nested objects by their dotted keys.
fn flatten(json: &Json, path: String, found: &mut Vec<(String, Json)>) {
    match json {
        Json::Object(keys) => {
            for (key, value) in keys {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(value, path, found);
            }
        }
        value => found.push((path, value.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Loss, Model, TrainingConfig};
    use diffusion::{BetaSchedule, Prediction, Variance};

    /// The original's configuration for CIFAR-10, with other values where there are several.
    const TEXT: &str = r#"{
        "dataset": {"name": "cifar10", "path": "/cifar10_data/", "resolution": 32},
        "model": {"in_channel": 3, "channel": 64, "channel_multiplier": [1, 2, 2], "n_res_blocks": 3, "attn_strides": [2],
            "mean_type": "xstart", "var_type": "fixedsmall", "loss_type": "kl", "dropout": 0.2, "fold": 2,
            "schedule": {"type": "quad", "beta_start": 1e-3, "beta_end": 3e-2, "n_timestep": 500},
            "device": "cuda", "precision": 32},
        "training": {"n_iter": 7000, "optimizer": {"type": "adam", "lr": 3e-4},
            "dataloader": {"batch_size": 16, "num_workers": 4, "drop_last": true}},
        "validation": {"dataloader": {"batch_size": 100, "num_workers": 4, "drop_last": false}},
        "evaluate": {"wandb": false, "log_every": 500, "save_every": 5000, "valid_every": 5000}
    }"#;

    #[test]
    fn every_key_becomes_ours() {
        let config = TrainingConfig::from_toml(TEXT).unwrap();
        config.validate().unwrap();
        let Model::Hmdolatabadi(model) = &config.model else { panic!("{:?}", config.model) };
        assert_eq!((model.channel, &model.channel_multiplier[..], model.n_res_blocks), (64, &[1, 2, 2][..], 3));
        assert_eq!((&model.attn_strides[..], model.dropout, model.fold), (&[2][..], 0.2, 2));
        let d = &config.diffusion;
        assert_eq!((d.timesteps, d.schedule, d.beta_start, d.beta_end), (500, BetaSchedule::ScaledLinear, 1e-3, 3e-2));
        assert_eq!((d.prediction, d.variance, d.loss), (Prediction::Sample, Variance::FixedSmall, Loss::Vlb));
        let (data, train) = (&config.data, &config.train);
        assert_eq!(data.path.as_deref(), Some(std::path::Path::new("/cifar10_data/")));
        assert_eq!((data.resolution.height_width(), data.channels, data.flip, data.labels), ((32, 32), 3, true, false));
        assert_eq!((train.steps, train.batch_size, train.learning_rate), (7000, 16, 3e-4));
        assert_eq!((train.warmup_steps, train.grad_clip, train.ema_decay, train.ema_warmup), (0, 1.0, 0.9999, false));
        assert!(!TrainingConfig::from_toml(&TEXT.replace("cifar10\"", "svhn\"")).unwrap().data.flip);
        assert_eq!(TrainingConfig::from_toml(&config.to_toml().unwrap()).unwrap(), config);
    }

    /// The original's configuration for CelebA, in what differs.
    #[test]
    fn celeba_is_cropped_as_in_the_original() {
        assert_eq!(TrainingConfig::from_toml(TEXT).unwrap().data.crop, None);
        let text = TEXT.replace("cifar10\"", "celeba\"").replace("\"resolution\": 32", "\"resolution\": 128");
        let text =
            text.replace("[1, 2, 2]", "[1, 1, 2, 2, 4, 4]").replace("\"attn_strides\": [2]", "\"attn_strides\": [16]");
        let config = TrainingConfig::from_toml(&text).unwrap();
        config.validate().unwrap();
        let data = &config.data;
        assert_eq!((data.resolution.height_width(), data.flip, data.fit), ((128, 128), true, super::super::Fit::Crop));
        assert_eq!(data.crop.map(<[usize; 4]>::from), Some([25, 50, 128, 128]));
        assert!(config.to_toml().unwrap().contains("crop = ["));
        assert_eq!(TrainingConfig::from_toml(&config.to_toml().unwrap()).unwrap(), config);
        let missing = text.replace(", \"resolution\": 128", "");
        assert!(TrainingConfig::from_toml(&missing).unwrap_err().to_string().contains("`dataset.resolution`"));
    }

    #[test]
    fn what_has_no_counterpart_is_refused_by_name() {
        for (from, to, expected) in [
            ("\"cifar10\"", "\"imagenet\"", "`dataset.name`: got \"imagenet\", expected cifar10, svhn, celeba"),
            ("\"cifar10\"", "\"celeba\"", "`dataset.resolution`: got 32, expected 128"),
            ("\"precision\": 32", "\"precision\": 16", "`model.precision`: got 16"),
            ("\"adam\"", "\"sgd\"", "`training.optimizer.type`: got \"sgd\""),
            ("\"fixedsmall\"", "\"learned\"", "`model.var_type`: got \"learned\", expected fixedlarge, fixedsmall"),
            ("\"quad\"", "\"cosine\"", "`model.schedule.type`: got \"cosine\""),
            ("\"fold\": 2", "\"flod\": 2", "`model.flod`: is not a key"),
            ("\"fold\": 2,", "", "`model.fold`: is missing"),
            ("\"n_iter\": 7000", "\"n_iter\": \"many\"", "`train.steps`: got \"many\""),
            ("\"resolution\": 32}", "\"resolution\": 32", "not JSON"),
        ] {
            assert!(TEXT.contains(from), "{from}");
            let error = TrainingConfig::from_toml(&TEXT.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(expected), "{to}: {error}");
        }
    }
}
