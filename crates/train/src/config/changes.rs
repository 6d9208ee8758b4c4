//! Differences between two configurations, and which of them a run may have when it is resumed.

use serde::Serialize;
use toml::{Table, Value};

use super::{ConfigError, TrainingConfig};

/// A key with different values in two configurations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfigChange {
    /// Section and name.
    pub key: String,
    /// The old value as TOML, or `none`.
    pub old: String,
    /// The new value as TOML, or `none`.
    pub new: String,
}

impl std::fmt::Display for ConfigChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} → {}", self.key, self.old, self.new)
    }
}

impl ConfigChange {
    /// Returns whether a run that has weights may be resumed with the change.
    pub fn is_free(&self) -> bool {
        KEYS.iter().any(|(key, on_resume)| *key == self.key && *on_resume == OnResume::Free)
    }
}

/// The change of a key that a resumed run may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnResume {
    /// Keep it: the weights have a meaning with this value only.
    Fixed,
    /// Change it: it is a choice of the steps to come.
    Free,
}

use OnResume::{Fixed, Free};

/// Every key of the configuration.
const KEYS: &[(&str, OnResume)] = &[
    // Other images are a warning, from their digest.
    ("data.path", Free),
    ("data.points", Free),
    ("data.standardize", Fixed),
    ("data.resolution", Fixed),
    ("data.channels", Fixed),
    ("data.augment", Free),
    ("data.flip", Free),
    ("data.crop", Free),
    ("data.fit", Free),
    ("data.background", Free),
    ("data.range", Fixed),
    ("data.images_per_class", Free),
    ("data.fold", Free),
    ("data.label_from", Fixed),
    ("data.labels", Fixed),
    ("model.class", Fixed),
    ("model.version", Fixed),
    ("model.resnet_block_groups", Fixed),
    ("model.learned_sinusoidal_cond", Fixed),
    ("model.random_fourier_features", Fixed),
    ("model.learned_sinusoidal_dim", Fixed),
    ("model.dim", Fixed),
    ("model.init_dim", Fixed),
    ("model.dim_mults", Fixed),
    ("model.self_condition", Fixed),
    ("model.sinusoidal_pos_emb_theta", Fixed),
    ("model.attn_dim_head", Fixed),
    ("model.attn_heads", Fixed),
    ("model.full_attn", Fixed),
    ("model.model_channels", Fixed),
    ("model.channel_mult", Fixed),
    ("model.channel_mult_emb", Fixed),
    ("model.channel_mult_noise", Fixed),
    ("model.num_blocks", Fixed),
    ("model.attn_resolutions", Fixed),
    ("model.augment_dim", Fixed),
    ("model.channel", Fixed),
    ("model.channel_multiplier", Fixed),
    ("model.n_res_blocks", Fixed),
    ("model.attn_strides", Fixed),
    ("model.fold", Fixed),
    ("model.hidden", Fixed),
    ("model.blocks", Fixed),
    ("model.time_embed_dim", Fixed),
    ("model.input_frequencies", Fixed),
    ("model.embedding_type", Fixed),
    ("model.encoder_type", Fixed),
    ("model.decoder_type", Fixed),
    ("model.resample_filter", Fixed),
    ("model.block_out_channels", Fixed),
    ("model.layers_per_block", Fixed),
    ("model.attention_resolutions", Fixed),
    ("model.attention_head_dim", Fixed),
    ("model.norm_num_groups", Fixed),
    ("model.norm_eps", Fixed),
    ("model.dropout", Fixed),
    ("model.downsample_padding", Fixed),
    ("model.flip_sin_to_cos", Fixed),
    ("model.freq_shift", Fixed),
    ("model.time_embedding_type", Fixed),
    ("model.resnet_time_scale_shift", Fixed),
    ("model.num_class_embeds", Fixed),
    ("diffusion.process", Fixed),
    ("diffusion.timesteps", Fixed),
    ("diffusion.schedule", Fixed),
    ("diffusion.beta_start", Fixed),
    ("diffusion.beta_end", Fixed),
    ("diffusion.betas", Fixed),
    ("diffusion.prediction", Fixed),
    ("diffusion.variance", Fixed),
    ("diffusion.loss", Free),
    ("diffusion.min_snr_gamma", Free),
    ("diffusion.loss_weights", Free),
    ("diffusion.timestep_sampler", Free),
    ("diffusion.p_mean", Free),
    ("diffusion.p_std", Free),
    ("diffusion.loss_norm", Free),
    ("diffusion.huber_delta", Free),
    ("diffusion.offset_noise", Free),
    ("train.init_from", Fixed),
    ("train.steps", Free),
    ("train.batch_size", Free),
    ("train.gradient_accumulation", Free),
    ("train.learning_rate", Free),
    ("train.lr_schedule", Free),
    ("train.lr_reference_steps", Free),
    ("train.beta1", Free),
    ("train.beta2", Free),
    ("train.adam_eps", Free),
    ("train.weight_decay", Free),
    ("train.warmup_steps", Free),
    ("train.grad_clip", Free),
    ("train.ema_decay", Free),
    ("train.ema_warmup", Free),
    ("train.ema_half_life", Free),
    ("train.ema_rampup", Free),
    ("train.ema_lengths", Fixed),
    ("train.ema_snapshots", Free),
    ("train.label_dropout", Free),
    ("train.gradient_checkpointing", Free),
    ("train.evaluate_every", Free),
    ("train.evaluate_images", Free),
    ("train.evaluate_seed", Free),
    ("train.evaluate_features", Free),
    ("train.evaluate_samples", Free),
    ("train.evaluate_reference", Free),
    ("train.seed", Free),
    ("train.log_every", Free),
    ("train.sample_every", Free),
    ("train.checkpoint_every", Free),
    ("train.keep_checkpoints", Free),
    ("train.nonfinite_limit", Free),
    ("train.samples", Free),
    ("sample.sampler", Free),
    ("sample.steps", Free),
    ("sample.eta", Free),
    ("sample.clip_sample", Free),
    ("sample.batch_size", Free),
    ("sample.guidance", Free),
    ("sample.guidance_interval", Free),
];

impl TrainingConfig {
    /// Returns the keys in which `new` differs, in the order of the sections.
    ///
    /// # Errors
    /// As [`TrainingConfig::to_toml`].
    pub fn changes(&self, new: &Self) -> Result<Vec<ConfigChange>, ConfigError> {
        let (old, new) = (self.to_table()?, new.to_table()?);
        let value = |table: &Table, section: &str, name: &str| -> Option<Value> {
            Some(table.get(section)?.get(name)?.clone())
        };
        let shown = |value: Option<&Value>| value.map_or("none".to_owned(), super::shown);
        let mut changes = Vec::new();
        for (section, names) in super::keys::sections() {
            for name in names {
                let (old, new) = (value(&old, section, name), value(&new, section, name));
                if old != new {
                    let key = format!("{section}.{name}");
                    changes.push(ConfigChange { key, old: shown(old.as_ref()), new: shown(new.as_ref()) });
                }
            }
        }
        Ok(changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_every_key_once() {
        let mut expected: Vec<String> = super::super::keys::sections()
            .into_iter()
            .flat_map(|(section, names)| names.iter().map(move |name| format!("{section}.{name}")))
            .collect();
        let mut found: Vec<&str> = KEYS.iter().map(|(key, _)| *key).collect();
        expected.sort();
        found.sort();
        assert_eq!(found, expected, "decide in KEYS whether a resumed run may change the new key");
    }

    #[test]
    fn changes_show_both_values() {
        let old = TrainingConfig::preset("fashion-ho").unwrap();
        let mut new = old.clone();
        for set in ["train.learning_rate=1e-5", "diffusion.schedule=cosine", "sample.steps="] {
            new.set(set).unwrap();
        }
        let changes = old.changes(&new).unwrap();
        let shown: Vec<String> = changes.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "diffusion.schedule \"linear\" → \"squaredcos_cap_v2\"",
                "train.learning_rate 0.001 → 1e-5",
                "sample.steps 50 → none"
            ]
        );
        assert_eq!(changes.iter().map(ConfigChange::is_free).collect::<Vec<_>>(), [false, true, true]);
        assert!(old.changes(&old).unwrap().is_empty());
    }
}
