//! The networks of lucidrains/denoising-diffusion-pytorch, from version 0.28: `Unet`, `GaussianDiffusion` and the files of
//! `Trainer`.
//!
//! The names and shapes of the tensors tell the configuration, and the buffers of `GaussianDiffusion` the process. Files of
//! `Trainer` record their version from 1.0 on.

use diffusion::BetaSchedule;
use serde_json::{Value, json};

use super::assumptions::{UNRECORDED_SIZE, ddpm};
use super::detect::Detected;
use super::lucidrains_versions::{self as versions, Version};
use super::options::ImportOptions;
use super::{Imported, Unrecorded};
use crate::shown::{shown, shown_sizes};
use crate::{Archive, Result};

/// Larger tensors are no buffers of a process.
const MAX_TIMESTEPS: usize = 100_000;

/// Memory tokens of each attention, for which `Unet` has no argument.
const MEMORY_TOKENS: usize = 4;
/// Heads and their channels before version 1.8, where `Unet` had no argument for them.
const HEADS: [usize; 2] = [4, 32];
/// Groups of the group normalization, which weights do not record.
const GROUPS: usize = 8;

/// Reads a network that was found in an archive.
pub(super) fn import(
    archive: &Archive,
    mut found: Detected,
    options: &ImportOptions,
    mut notes: Vec<String>,
) -> Result<Imported> {
    if let Err(reason) = versions::modernize(&mut found.names) {
        return Err(found.error(archive, reason));
    }
    let fail = |reason: String| found.error(archive, reason);
    let version = versions::find(archive, &found, options.code_version.as_deref()).map_err(fail)?;
    let mut config = config(&found, &version).map_err(fail)?;
    notes.extend(version.notes());
    config["sample_size"] = json!(options.sample_size);
    if options.sample_size.is_none() {
        notes.push(UNRECORDED_SIZE.into());
    }
    if config["learned_sinusoidal_cond"] == false && config["num_classes"].is_null() {
        notes.push(
            "the weights do not record the base of the timestep embedding: assumed sinusoidal_pos_emb_theta = 10000, the default"
                .into(),
        );
    }
    let mut tensors = found.read(archive)?;
    versions::standardize(&mut tensors, &version);
    let process = process(archive, &found.prefix, &mut notes)?;
    let learned = config["learned_variance"] == true;
    let mut scheduler = ddpm(if learned { "learned_range" } else { "fixed_small" }, 0.0001, 0.02);
    for (key, value) in process.keys {
        scheduler[&key] = value;
    }
    let null_label = config["num_classes"].as_u64().and_then(|classes| u32::try_from(classes).ok());
    if let Some(label) = null_label {
        notes.push(format!(
            "a network with classes: assumed attn_heads = 4 and attn_dim_head = 32, and that it was trained with dropped labels \
             (cond_drop_prob is 0.5 by default); the label {label} means no class"
        ));
    }
    let (family, ema, prefix) = (found.family.name(), found.ema, found.prefix);
    Ok(Imported { family, ema, prefix, config, scheduler, tensors, notes, null_label, unrecorded: process.unrecorded })
}

/// Derives the arguments of `Unet` from the tensors.
fn config(found: &Detected, version: &Version) -> Result<Value, String> {
    let shape = |name: &str| found.names.get(name).map(|source| &*source.shape);
    let need = |name: &str| {
        shape(name).ok_or_else(|| format!("tensor `{}` is missing", shown(format_args!("{}{name}", found.prefix))))
    };
    let width = |name: &str| match need(name)? {
        &[outputs, inputs, ..] if outputs > 0 && inputs > 0 => Ok((outputs, inputs)),
        other => Err(format!("tensor `{}` has shape {}", shown(name), shown_sizes(other))),
    };
    let levels = (0..64).take_while(|i| shape(&format!("downs.{i}.0.block1.proj.weight")).is_some()).count();
    let (init_dim, in_channels) = width("init_conv.weight")?;
    let (out_channels, _) = width("final_conv.weight")?;
    let (time_width, _) = width("time_mlp.1.weight")?;
    let dim = time_width / 4;
    if dim == 0 || time_width % 4 != 0 {
        return Err(format!("its timestep embedding has {time_width} channels; expected a multiple of 4"));
    }
    let classes = shape(versions::CLASSES);
    let mut mults = Vec::new();
    let (mut heads, mut head_dims, mut full) = (Vec::new(), Vec::new(), Vec::new());
    for level in 0..levels {
        let [resized, kept] = ["3.1", "3"].map(|layer| format!("downs.{level}.{layer}.weight"));
        let (c_out, _) = width(if shape(&resized).is_some() { &resized } else { &kept })?;
        if c_out % dim != 0 {
            return Err(format!("level {level} has {c_out} channels, which is no multiple of `dim` = {dim}"));
        }
        mults.push(c_out / dim);
        let is_full = shape(&format!("downs.{level}.2.to_out.weight")).is_some();
        let name = format!("downs.{level}.2.mem_kv");
        let (own_heads, d) = if version.has_memory() && classes.is_none() {
            let (own_heads, d, tokens) = match *need(&name)? {
                [2, heads, tokens, d] if is_full => (heads, d, tokens),
                [2, heads, d, tokens] => (heads, d, tokens),
                ref other => return Err(format!("tensor `{name}` has shape {}", shown_sizes(other))),
            };
            if tokens != MEMORY_TOKENS {
                return Err(format!("tensor `{name}` has {tokens} memory tokens; expected {MEMORY_TOKENS}"));
            }
            (own_heads, d)
        } else {
            let name = format!("downs.{level}.2.to_qkv.weight");
            let [heads, d] = HEADS;
            let (qkv, _) = width(&name)?;
            if qkv != 3 * heads * d {
                return Err(format!(
                    "tensor `{name}` has {qkv} channels, whose heads are not recorded; expected {} for {heads} heads of {d} channels",
                    3 * heads * d
                ));
            }
            (heads, d)
        };
        heads.push(own_heads);
        head_dims.push(d);
        full.push(is_full);
    }
    // With self-conditioning, the input is two images; with a learned variance, the output.
    let (channels, self_condition, learned_variance) = match (in_channels, out_channels) {
        (i, o) if i == o => (i, false, false),
        (i, o) if i == 2 * o => (o, true, false),
        (i, o) if o == 2 * i => (i, false, true),
        _ => return Err(format!("it has {in_channels} input and {out_channels} output channels, which fit no images")),
    };
    let num_classes = match classes {
        None => 0,
        Some(&[classes, width]) if width == dim => classes,
        Some(other) => return Err(format!("tensor `{}` has shape {}", versions::CLASSES, shown_sizes(other))),
    };
    if num_classes > 0 {
        let (mid, _) = width("mid_attn.to_qkv.weight")?;
        let [heads, d] = HEADS;
        if mid != 3 * heads * d {
            return Err(format!(
                "tensor `mid_attn.to_qkv.weight` has {mid} channels, whose heads are not recorded; expected {} for {heads} \
                 heads of {d} channels",
                3 * heads * d
            ));
        }
    }
    let frequencies = shape("time_mlp.0.weights").map(|shape| shape.iter().product::<usize>());
    let mut config = json!({
        "_class_name": "LucidrainsUnet",
        "sample_size": null,
        "version": version.network(),
        "resnet_block_groups": GROUPS,
        "dim": dim,
        "init_dim": (init_dim != dim).then_some(init_dim),
        "dim_mults": mults,
        "channels": channels,
        "self_condition": self_condition,
        "learned_variance": learned_variance,
        "learned_sinusoidal_cond": frequencies.is_some(),
        "learned_sinusoidal_dim": 2 * frequencies.unwrap_or(8),
        "attn_dim_head": head_dims,
        "attn_heads": heads,
        "full_attn": full,
    });
    if num_classes > 0 {
        // The arguments of the network with classes.
        config["num_classes"] = json!(num_classes);
        [config["attn_heads"], config["attn_dim_head"]] = HEADS.map(Value::from);
        config["full_attn"] = Value::Null;
    }
    Ok(config)
}

/// What the buffers of `GaussianDiffusion` say.
#[derive(Default)]
struct RecordedProcess {
    /// Keys of the scheduler's configuration.
    keys: serde_json::Map<String, Value>,
    unrecorded: Vec<Unrecorded>,
}

fn process(archive: &Archive, prefix: &str, notes: &mut Vec<String>) -> Result<RecordedProcess> {
    let of = prefix.strip_suffix("model.").unwrap_or(prefix);
    let buffer = |name: &str| -> Result<Option<Vec<f32>>> {
        let name = format!("{of}{name}");
        let is_stored = |(other, shape): (&str, &[usize])| other == name && matches!(shape, [1..=MAX_TIMESTEPS]);
        if !archive.shapes().any(is_stored) {
            return Ok(None);
        }
        Ok(archive.read(&[&name])?.remove(&name).map(|tensor| tensor.data))
    };
    let mut process = RecordedProcess::default();
    let betas = buffer("betas")?;
    match &betas {
        None => process.unrecorded.push(Unrecorded::Schedule),
        Some(betas) => {
            process.keys.insert("num_train_timesteps".into(), json!(betas.len()));
            match BetaSchedule::recognize(betas) {
                Some((schedule, range)) => {
                    process.keys.insert("beta_schedule".into(), json!(schedule.to_string()));
                    if let Some((start, end)) = range {
                        process.keys.insert("beta_start".into(), json!(start));
                        process.keys.insert("beta_end".into(), json!(end));
                    }
                    notes.push(format!("the file records {} steps of the schedule {schedule}", betas.len()));
                }
                None => {
                    let values: Vec<f64> = betas.iter().map(|&beta| f64::from(beta)).collect();
                    process.keys.insert("trained_betas".into(), json!(values));
                    notes.push(format!(
                        "the noise schedule is that of the tensor `{of}betas` in the file, of {} steps",
                        betas.len()
                    ));
                }
            }
        }
    }
    let weights = buffer("loss_weight")?;
    match betas.zip(weights).and_then(|(betas, weights)| objective(&betas, &weights)) {
        None => process.unrecorded.push(Unrecorded::Prediction),
        Some((prediction, gamma)) => {
            process.keys.insert("prediction_type".into(), json!(prediction));
            let weighting =
                gamma.map_or(String::new(), |gamma| format!(", and was trained with Min-SNR, γ = {gamma:.3}"));
            notes.push(format!("the file's weights of the loss say that the network predicts {prediction}{weighting}"));
        }
    }
    Ok(process)
}

/// Finds the prediction whose weights of the loss these are, and the largest SNR if it is limited (Min-SNR).
///
/// `GaussianDiffusion` weighs the error of ε by min(SNR, γ)/SNR, that of x_0 by min(SNR, γ), and that of v by
/// min(SNR, γ)/(SNR + 1).
fn objective(betas: &[f32], weights: &[f32]) -> Option<(&'static str, Option<f64>)> {
    let mut alpha_bar = 1.0;
    let snrs: Vec<f64> = betas
        .iter()
        .map(|&beta| {
            alpha_bar *= 1.0 - f64::from(beta);
            alpha_bar / (1.0 - alpha_bar)
        })
        .collect();
    type Factor = fn(f64) -> f64;
    let factors: [(&str, Factor); 3] = [("epsilon", |snr| snr), ("sample", |_| 1.0), ("v_prediction", |snr| snr + 1.0)];
    factors.into_iter().find_map(|(prediction, factor)| {
        // Beyond these, the f32 of the file are too coarse.
        let known: Vec<(f64, f64)> = (snrs.iter().zip(weights))
            .filter(|(snr, _)| (1e-3..1e3).contains(*snr))
            .map(|(&snr, &weight)| (snr, f64::from(weight) * factor(snr)))
            .collect();
        let limit = known.iter().map(|(_, clipped)| *clipped).fold(0.0, f64::max);
        let fits = |(snr, clipped): &(f64, f64)| (clipped / snr.min(limit) - 1.0).abs() < 1e-2;
        let is_limited = known.iter().any(|(snr, _)| *snr > 1.02 * limit);
        (known.len() > 1 && known.iter().all(fits)).then_some((prediction, is_limited.then_some(limit)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the betas and the weights of the loss that `GaussianDiffusion` stores.
    fn buffers(schedule: BetaSchedule, objective: &str, gamma: Option<f64>) -> (Vec<f32>, Vec<f32>) {
        let betas = schedule.betas(0.0001, 0.02, 1000);
        let mut alpha_bar = 1.0;
        let weight = |beta: &f64| {
            alpha_bar *= 1.0 - beta;
            let snr = alpha_bar / (1.0 - alpha_bar);
            let clipped = gamma.map_or(snr, |gamma| snr.min(gamma));
            let weight = match objective {
                "epsilon" => clipped / snr,
                "sample" => clipped,
                _ => clipped / (snr + 1.0),
            };
            weight as f32
        };
        let weights = betas.iter().map(weight).collect();
        (betas.iter().map(|&beta| beta as f32).collect(), weights)
    }

    #[test]
    fn the_weights_of_the_loss_tell_the_prediction() {
        for schedule in [BetaSchedule::Linear, BetaSchedule::SquaredcosCapV2, BetaSchedule::SigmoidAlphaBar] {
            for prediction in ["epsilon", "sample", "v_prediction"] {
                for gamma in [None, Some(5.0), Some(0.7)] {
                    let (betas, weights) = buffers(schedule, prediction, gamma);
                    let (found, limit) = objective(&betas, &weights).unwrap();
                    assert_eq!(found, prediction, "{schedule} {gamma:?}");
                    assert_eq!(limit.is_some(), gamma.is_some(), "{schedule} {prediction}");
                    assert!(limit.zip(gamma).is_none_or(|(a, b)| (a / b - 1.0).abs() < 1e-2), "{limit:?} {gamma:?}");
                }
            }
        }
        let (betas, mut weights) = buffers(BetaSchedule::Linear, "epsilon", None);
        weights.iter_mut().enumerate().for_each(|(t, weight)| *weight += t as f32);
        assert_eq!(objective(&betas, &weights), None);
        assert_eq!(objective(&[], &[]), None);
    }
}
