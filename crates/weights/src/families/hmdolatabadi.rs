//! The network of hmdolatabadi/denoising_diffusion, from its Lightning checkpoints.
//!
//! The names and shapes of the tensors tell the network. The configuration that the checkpoint records tells the process; if it
//! has none, the betas are those of the tensors, and the rest is that of the published configurations.

use diffusion::BetaSchedule;
use serde_json::{Map, Value, json};

use super::assumptions::{UNRECORDED_SIZE, ddpm};
use super::detect::Detected;
use super::options::ImportOptions;
use super::{Imported, recorded_betas};
use crate::shown::{shown, shown_sizes};
use crate::{Archive, Result};

/// Channels of the output, for which the original has no argument.
const OUT_CHANNELS: usize = 3;
/// The path of the configuration in a checkpoint.
const CONFIGURATION: &str = "hyper_parameters.conf";

/// A word of the original and ours.
type Words = &'static [(&'static str, &'static str)];

/// The values of `mean_type`, and the prediction that each is.
pub const PREDICTIONS: Words = &[("eps", "epsilon"), ("xstart", "sample"), ("xprev", "previous_mean")];
/// The values of `var_type` that are supported, and the variance that each is.
pub const VARIANCES: Words = &[("fixedlarge", "fixed_large"), ("fixedsmall", "fixed_small")];
/// The types of schedules, and the schedule that each is.
pub const SCHEDULES: Words = &[
    ("linear", "linear"),
    ("quad", "scaled_linear"),
    ("const", "const"),
    ("jsd", "jsd"),
    ("warmup10", "warmup10"),
    ("warmup50", "warmup50"),
];

/// Reads a network that was found in an archive.
pub(super) fn import(
    archive: &Archive,
    found: Detected,
    options: &ImportOptions,
    mut notes: Vec<String>,
) -> Result<Imported> {
    let fail = |reason: String| found.error(archive, reason);
    let recorded = |section: &str| -> Result<Map<String, Value>> {
        let record = archive.module(&format!("{CONFIGURATION}.{section}"))?;
        Ok(record.map(|record| record.attributes).unwrap_or_default())
    };
    let (dataset, model, schedule) = (recorded("dataset")?, recorded("model")?, recorded("model.schedule")?);
    let mut config = config(&found).map_err(fail)?;
    if let Some(dropout) = model.get("dropout") {
        config["dropout"] = dropout.clone();
    }
    let size = options.sample_size.or_else(|| dataset.get("resolution")?.as_u64()?.try_into().ok());
    config["sample_size"] = json!(size);
    if size.is_none() {
        notes.push(UNRECORDED_SIZE.into());
    }
    let mut scheduler = ddpm("fixed_large", 0.0001, 0.02);
    let keys = process(&model, &schedule).map_err(fail)?;
    let betas = recorded_betas(archive)?.map(|(_, betas)| betas);
    if let (Some(keys), Some(betas)) = (&keys, &betas) {
        check_betas(keys, betas).map_err(fail)?;
    }
    match keys {
        Some(keys) => scheduler.as_object_mut().into_iter().for_each(|all| all.extend(keys.clone())),
        None => {
            let found = if betas.is_some() { "the betas of the file" } else { "1,000 linear steps" };
            notes.push(format!("the file does not record its configuration: assumed {found}, epsilon and fixed_large"));
            if let Some(betas) = betas {
                scheduler["num_train_timesteps"] = json!(betas.len());
                scheduler["trained_betas"] = json!(betas.into_iter().map(f64::from).collect::<Vec<f64>>());
            }
        }
    }
    notes.push(
        "it is the network of the original as it is: its attention averages its own input, and levels have it by their stride"
            .into(),
    );
    let tensors = found.read(archive)?;
    let (family, ema, prefix) = (found.family.name(), found.ema, found.prefix);
    Ok(Imported { family, ema, prefix, config, scheduler, tensors, notes, null_label: None, unrecorded: Vec::new() })
}

/// Checks that betas are those of a scheduler's keys: the original takes them from the tensors.
fn check_betas(keys: &Map<String, Value>, betas: &[f32]) -> Result<(), String> {
    let number = |key: &str| keys.get(key).and_then(Value::as_f64).unwrap_or_default();
    let schedule = keys.get("beta_schedule").and_then(Value::as_str).and_then(|name| name.parse::<BetaSchedule>().ok());
    let expected = schedule.unwrap_or_default().betas(number("beta_start"), number("beta_end"), betas.len());
    let is_same = expected.iter().zip(betas).all(|(a, &b)| (a - f64::from(b)).abs() <= 1e-6 * a.abs());
    if number("num_train_timesteps") == betas.len() as f64 && is_same {
        return Ok(());
    }
    Err(format!(
        "the {} betas of its tensors are not those of the configuration that it records, {} of {}",
        betas.len(),
        number("num_train_timesteps"),
        schedule.unwrap_or_default()
    ))
}

/// Derives the arguments of the network from the tensors.
fn config(found: &Detected) -> Result<Value, String> {
    let shape = |name: &str| found.names.get(name).map(|source| &*source.shape);
    let width = |name: &str| match shape(name) {
        Some(&[outputs, inputs, _, _]) if outputs > 0 && inputs > 0 => Ok((outputs, inputs)),
        Some(other) => Err(format!("tensor `{}` has shape {}", shown(name), shown_sizes(other))),
        None => Err(format!("tensor `{}` is missing", shown(format_args!("{}{name}", found.prefix)))),
    };
    let (channel, inputs) = width("down.0.weight")?;
    let (outputs, _) = width("out.2.weight")?;
    let fold = (1..=64).find(|fold| OUT_CHANNELS * fold * fold == outputs);
    let Some(fold) = fold.filter(|fold| inputs.is_multiple_of(fold * fold)) else {
        return Err(format!("it has {inputs} input and {outputs} output channels, which are no folded images"));
    };
    let (mut multipliers, mut strides, mut blocks) = (vec![0], Vec::new(), vec![0]);
    for index in 1..1000 {
        let level = multipliers.len() - 1;
        let block = format!("down.{index}.resblocks.conv1.weight");
        if shape(&block).is_some() {
            let (c_out, _) = width(&block)?;
            if c_out % channel != 0 {
                return Err(format!(
                    "level {level} has {c_out} channels, which is no multiple of `channel` = {channel}"
                ));
            }
            multipliers[level] = c_out / channel;
            blocks[level] += 1;
            let attends = shape(&format!("down.{index}.attention.qkv.weight")).is_some();
            if attends && !strides.contains(&(1u64 << level.min(63))) {
                strides.push(1u64 << level.min(63));
            }
        } else if shape(&format!("down.{index}.0.weight")).is_some() {
            multipliers.push(0);
            blocks.push(0);
        } else {
            break;
        }
    }
    if blocks.iter().any(|count| *count != blocks[0]) {
        return Err(format!("its levels have {blocks:?} residual blocks, expected the same number in each"));
    }
    Ok(json!({
        "_class_name": "HmdolatabadiUNet",
        "in_channel": inputs / (fold * fold),
        "channel": channel,
        "channel_multiplier": multipliers,
        "n_res_blocks": blocks[0],
        "attn_strides": strides,
        "fold": fold,
    }))
}

/// Returns the keys of the scheduler that a recorded configuration says; `None` if there is none.
fn process(model: &Map<String, Value>, schedule: &Map<String, Value>) -> Result<Option<Map<String, Value>>, String> {
    if model.is_empty() || schedule.is_empty() {
        return Ok(None);
    }
    let word = |keys: &Map<String, Value>, key: &str, words: &[(&str, &str)]| {
        let found = keys.get(key).and_then(Value::as_str).unwrap_or_default();
        words.iter().find(|(theirs, _)| *theirs == found).map(|(_, ours)| json!(ours)).ok_or_else(|| {
            let words: Vec<&str> = words.iter().map(|(theirs, _)| *theirs).collect();
            format!("its `{key}` is \"{}\", expected {}", shown(found), words.join(", "))
        })
    };
    let number = |key: &str| {
        let found = schedule.get(key).cloned();
        found.filter(Value::is_number).ok_or_else(|| format!("its schedule has no number `{key}`"))
    };
    let keys = [
        ("prediction_type", word(model, "mean_type", PREDICTIONS)?),
        ("variance_type", word(model, "var_type", VARIANCES)?),
        ("beta_schedule", word(schedule, "type", SCHEDULES)?),
        ("beta_start", number("beta_start")?),
        ("beta_end", number("beta_end")?),
        ("num_train_timesteps", number("n_timestep")?),
    ];
    Ok(Some(keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()))
}
