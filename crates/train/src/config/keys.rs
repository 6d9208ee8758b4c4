//! The names of the keys, and the nearest one to an unknown name.

use serde::{Deserialize, Deserializer, de};
use toml::{Table, Value};

use std::sync::LazyLock;

use super::model::{CLASSES, class_of};
use super::{
    ConfigError, Data, DhariwalKeys, Diffusion, HmdolatabadiKeys, LucidrainsKeys, MlpKeys, Sample, SongKeys, Train,
    TrainingConfig, UnetKeys,
};

/// The sections, each with its keys.
pub(super) fn sections() -> [(&'static str, &'static [&'static str]); 5] {
    [
        ("data", fields::<Data>()),
        ("model", &MODEL),
        ("diffusion", fields::<Diffusion>()),
        ("train", fields::<Train>()),
        ("sample", fields::<Sample>()),
    ]
}

/// The keys of all classes of networks.
static MODEL: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let mut names = vec!["class"];
    for name in CLASSES.iter().flat_map(|class| fields_of(class).unwrap_or_default()) {
        if !names.contains(name) {
            names.push(name);
        }
    }
    names
});

/// Returns the keys of a class of networks, if there is one of that name.
fn fields_of(class: &str) -> Option<&'static [&'static str]> {
    Some(match CLASSES.iter().position(|known| *known == class)? {
        0 => fields::<UnetKeys>(),
        1 => fields::<LucidrainsKeys>(),
        2 => fields::<SongKeys>(),
        3 => fields::<DhariwalKeys>(),
        4 => fields::<HmdolatabadiKeys>(),
        _ => fields::<MlpKeys>(),
    })
}

/// Checks that the keys of `[model]` are those of its class.
pub(super) fn check_class(table: &Table) -> Result<(), ConfigError> {
    let class = class_of(table);
    let Some(own) = fields_of(class) else {
        let hint = nearest(class, &CLASSES).map_or(String::new(), |near| format!("; did you mean `{near}`?"));
        let message = format!("got \"{class}\", expected {}{hint}", CLASSES.join(" or "));
        return Err(ConfigError::value("model.class", message));
    };
    match table.keys().find(|key| *key != "class" && !own.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => {
            let has_key = |class: &&str| fields_of(class).is_some_and(|names| names.contains(&key.as_str()));
            let other = CLASSES.into_iter().find(|known| has_key(known)).unwrap_or(class);
            let meant =
                KNOWN_ELSEWHERE.iter().find(|(_, names)| names.contains(&key.as_str())).map(|(meant, _)| *meant);
            let meant = meant
                .filter(|_| class == CLASSES[0])
                .map_or(String::new(), |meant| format!("did you mean `{meant}`? "));
            let hint = format!(
                "{meant}It is a key of {other}, which `model.class={other}` selects, and the network is a {class}"
            );
            Err(ConfigError::UnknownKey { key: format!("model.{key}"), hint })
        }
    }
}

/// The names of keys in other programs: diffusers, OpenAI's and Ho et al.'s code.
const KNOWN_ELSEWHERE: &[(&str, &[&str])] = &[
    ("data.path", &["train_data_dir", "data_dir", "tfr_file", "dataset_name"]),
    ("data.resolution", &["image_size", "sample_size"]),
    ("data.channels", &["in_channels", "out_channels"]),
    ("data.flip", &["random_flip", "randflip"]),
    ("data.augment", &["augment_prob"]),
    ("data.fit", &["center_crop", "random_crop"]),
    ("data.labels", &["class_cond"]),
    ("model.block_out_channels", &["ch", "ch_mult", "channel_mult", "dim", "dim_mults", "num_channels"]),
    ("model.layers_per_block", &["num_res_blocks", "n_res_blocks"]),
    ("model.attention_head_dim", &["num_heads", "num_head_channels"]),
    ("model.resnet_time_scale_shift", &["use_scale_shift_norm"]),
    ("model.num_class_embeds", &["num_classes"]),
    (
        "diffusion.timesteps",
        &["t", "num_train_timesteps", "num_diffusion_timesteps", "diffusion_steps", "ddpm_num_steps"],
    ),
    ("diffusion.schedule", &["beta_schedule", "noise_schedule", "ddpm_beta_schedule"]),
    ("diffusion.betas", &["trained_betas"]),
    ("diffusion.prediction", &["prediction_type", "model_mean_type", "predict_xstart", "objective"]),
    ("diffusion.variance", &["variance_type", "model_var_type", "learn_sigma", "sigma_small"]),
    ("diffusion.loss", &["loss_type", "use_kl"]),
    ("diffusion.huber_delta", &["huber_c"]),
    ("diffusion.timestep_sampler", &["schedule_sampler"]),
    ("diffusion.offset_noise", &["offset_noise_strength", "noise_offset"]),
    ("diffusion.p_mean", &["sigma_mean"]),
    ("diffusion.p_std", &["sigma_std"]),
    ("train.init_from", &["pretrained_model_name_or_path", "init_checkpoint", "resume_checkpoint"]),
    ("train.steps", &["max_train_steps", "train_num_steps", "n_iter", "epochs", "num_epochs"]),
    ("train.batch_size", &["total_bs", "train_batch_size", "microbatch"]),
    ("train.gradient_accumulation", &["gradient_accumulation_steps", "gradient_accumulate_every"]),
    ("train.learning_rate", &["lr", "train_lr"]),
    ("train.beta1", &["adam_beta1"]),
    ("train.beta2", &["adam_beta2"]),
    ("train.adam_eps", &["adam_epsilon"]),
    ("train.lr_schedule", &["lr_scheduler", "lr_scheduler_type"]),
    ("train.lr_reference_steps", &["ref_batches", "t_ref"]),
    ("train.weight_decay", &["adam_weight_decay", "wd"]),
    ("train.warmup_steps", &["warmup", "lr_warmup_steps"]),
    ("train.grad_clip", &["max_grad_norm"]),
    ("train.ema_decay", &["ema_rate", "ema_max_decay"]),
    ("train.ema_half_life", &["ema_halflife_kimg", "ema"]),
    ("train.ema_rampup", &["ema_rampup_ratio"]),
    ("train.log_every", &["log_interval"]),
    ("train.checkpoint_every", &["checkpointing_steps", "save_interval", "save_and_sample_every"]),
    ("train.keep_checkpoints", &["checkpoints_total_limit", "keep_checkpoint_max"]),
    ("sample.steps", &["num_inference_steps", "ddpm_num_inference_steps", "timestep_respacing", "sampling_timesteps"]),
    ("sample.eta", &["ddim_sampling_eta"]),
    ("sample.clip_sample", &["clip_denoised"]),
];

/// Checks that the configuration has every key of a table.
pub(super) fn check(table: &Table) -> Result<(), ConfigError> {
    for (section, values) in table {
        match values {
            Value::Table(values) => {
                for name in values.keys() {
                    split(&format!("{section}.{name}"))?;
                }
                if values.is_empty() && !fields::<TrainingConfig>().contains(&section.as_str()) {
                    return Err(unknown(section));
                }
            }
            value if fields::<TrainingConfig>().contains(&section.as_str()) => {
                return Err(ConfigError::value(section, format!("expected a section, [{section}], got {value}")));
            }
            _ => return Err(unknown(section)),
        }
    }
    Ok(())
}

/// Splits a key into section and name; an error if there is no such key.
pub(super) fn split(key: &str) -> Result<(&str, &str), ConfigError> {
    let exists =
        |(section, name): &(&str, &str)| sections().iter().any(|(s, names)| s == section && names.contains(name));
    key.split_once('.').filter(exists).ok_or_else(|| unknown(key))
}

fn unknown(key: &str) -> ConfigError {
    let (section, name) = key.split_once('.').unwrap_or(("", key));
    // The section itself may be misspelled.
    let section = nearest(section, fields::<TrainingConfig>()).unwrap_or(section);
    let keys = || sections().into_iter().flat_map(|(s, names)| names.iter().map(move |n| (s, *n)));

    let same_name = keys().filter(|(_, n)| *n == name).min_by_key(|(s, _)| *s != section);
    let elsewhere = || KNOWN_ELSEWHERE.iter().find(|(_, names)| names.contains(&name.to_lowercase().as_str()));
    let near =
        || keys().filter_map(|(s, n)| Some((distance(name, n)? + usize::from(s != section), s != section, s, n))).min();

    let key_of = |(s, n): (&str, &str)| format!("{s}.{n}");
    let meant = same_name
        .map(key_of)
        .or_else(|| elsewhere().map(|(known, _)| known.to_string()))
        .or_else(|| near().map(|(_, _, s, n)| key_of((s, n))));
    let hint = match (meant, sections().iter().find(|(s, _)| *s == section)) {
        (Some(meant), _) => format!("did you mean `{meant}`?"),
        (None, Some((section, names))) => format!("[{section}] has {}", names.join(", ")),
        (None, None) => format!("the sections are {}", fields::<TrainingConfig>().join(", ")),
    };
    ConfigError::UnknownKey { key: key.to_owned(), hint }
}

/// Returns the candidate nearest to `word`, if any is near enough.
pub(super) fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    candidates.iter().filter_map(|c| Some((distance(word, c)?, *c))).min().map(|(_, c)| c)
}

/// Returns the edit distance of two words, if it is small enough; a part of a word counts as 2.
fn distance(given: &str, known: &str) -> Option<usize> {
    let (given, known) = (given.to_lowercase(), known.to_lowercase());
    let edits = strsim::damerau_levenshtein(&given, &known);
    if edits > 1 && given.len() > 2 && known.contains(&given) {
        return Some(2);
    }
    (edits <= (given.len() / 3).clamp(1, 4)).then_some(edits)
}

/// Returns the names of the fields of a struct that derives `Deserialize`, which passes them to its deserializer.
fn fields<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    struct Names<'a>(&'a mut &'static [&'static str]);

    impl<'de> Deserializer<'de> for Names<'_> {
        type Error = de::value::Error;

        fn deserialize_struct<V: de::Visitor<'de>>(
            self,
            _name: &'static str,
            fields: &'static [&'static str],
            _visitor: V,
        ) -> Result<V::Value, Self::Error> {
            *self.0 = fields;
            Err(de::Error::custom("only the names are needed"))
        }

        fn deserialize_any<V: de::Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Self::Error> {
            Err(de::Error::custom("not a struct"))
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    let mut names: &[&str] = &[];
    // Always an error, after the names were stored.
    let _ = T::deserialize(Names(&mut names));
    names
}
