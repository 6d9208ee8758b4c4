//! Settings that weights do not record: attention heads, the size of the images, and the schedule.

use super::detect::Family;
use super::layout::{Attention, Shapes};
use super::options::{Heads, ImportOptions};
use super::skeleton::Skeleton;
use crate::shown::{shown, shown_sizes};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Sets `attention_head_dim` and returns it, for families that can have several heads.
pub(super) fn heads(
    skeleton: &Skeleton,
    shapes: &Shapes,
    options: &ImportOptions,
    config: &mut Value,
    notes: &mut Vec<String>,
) -> Result<Option<usize>, String> {
    let Attention::Fused { out, .. } = shapes.family.attention else {
        return Ok(None);
    };
    let levels = skeleton.down.iter().chain(&skeleton.up);
    let blocks = levels.flat_map(|level| &level.attentions).chain([&skeleton.mid[1]]);
    let width = |block: &String| Ok(shapes.conv(&shapes.family.join(block, out))?.1);
    let widths = blocks.map(width).collect::<Result<BTreeSet<usize>, String>>()?;

    // guided-diffusion's releases resample with residual blocks and have heads of 64 channels, except the release for
    // 128 pixels. improved-diffusion's have four heads, the default of both programs.
    let guided = config["downsample_type"] == "resnet" && skeleton.down.len() != 5;
    let assumed = if guided { Heads::Channels(64) } else { Heads::Count(4) };
    if options.heads.is_none() {
        let what = match assumed {
            Heads::Channels(channels) => format!("{channels} channels in each (num_head_channels)"),
            Heads::Count(count) => format!("{count} (num_heads)"),
        };
        notes.push(format!(
            "the weights do not record the number of attention heads: assumed {what}, as in OpenAI's releases"
        ));
    }
    let mut per_head = BTreeSet::new();
    for &width in &widths {
        let channels = match options.heads.unwrap_or(assumed) {
            Heads::Channels(channels) => channels,
            Heads::Count(count) => width / count.max(1),
        };
        if channels == 0 || width % channels != 0 {
            return Err(format!("{width} channels cannot be divided into heads of {channels}"));
        }
        per_head.insert(channels);
    }
    match (per_head.first(), per_head.len()) {
        (Some(&channels), 1) => {
            config["attention_head_dim"] = json!(channels);
            Ok(Some(channels))
        }
        _ => {
            let [widths, per_head] = [widths, per_head].map(|set| shown_sizes(&Vec::from_iter(set)));
            Err(format!(
                "with as many heads in all blocks, of {widths} channels, heads would have {per_head} channels; in a \
                 UNet2DModel all heads have equally many"
            ))
        }
    }
}

/// Guesses the size of the images from the levels, by the training scripts of the family.
pub(super) fn sample_size(
    skeleton: &Skeleton,
    family: Family,
    config: &Value,
    notes: &mut Vec<String>,
) -> Option<usize> {
    let channels: Vec<u64> = config["block_out_channels"].as_array()?.iter().filter_map(Value::as_u64).collect();
    let size = match family {
        // `script_util.py` chooses the multiples of the first level's channels by the size.
        Family::OpenAi => {
            let first = (*channels.first()?).max(1);
            match channels.iter().map(|c| c / first).collect::<Vec<_>>()[..] {
                [1, 2, 2, 2] => 32,
                [1, 2, 3, 4] => 64,
                [1, 1, 2, 3, 4] => 128,
                [1, 1, 2, 2, 4, 4] => 256,
                _ => return None,
            }
        }
        // The level with 16×16 pixels has attention.
        _ => 16usize.checked_shl(skeleton.down.iter().position(|level| !level.attentions.is_empty())? as u32)?,
    };
    notes.push(format!(
        "the weights do not record the size of the images: assumed {size}x{size}, as in the family's training scripts"
    ));
    Some(size)
}

/// The note about a network whose file and family do not tell the size of the images.
pub(super) const UNRECORDED_SIZE: &str =
    "the file does not record the size of the images: give it when you import or sample (--size)";

/// Returns the `scheduler_config.json` of the process: that of the betas in the file, or else the one that the family trains
/// by default.
pub(super) fn scheduler(
    family: Family,
    config: &Value,
    size: Option<usize>,
    betas: Option<(String, Vec<f32>)>,
    notes: &mut Vec<String>,
) -> Value {
    let learned = config["out_channels"].as_u64() == config["in_channels"].as_u64().map(|channels| 2 * channels);
    let variance = match family {
        Family::OpenAi if learned => "learned_range",
        Family::HoTorch | Family::HoTensorFlow if size.is_some_and(|size| size > 32) => "fixed_small",
        _ => "fixed_large",
    };
    let mut scheduler = ddpm(variance, 0.0001, 0.02);
    if let Some((name, betas)) = betas {
        let name = shown(name);
        notes.push(format!("the noise schedule is that of the tensor `{name}` in the file, of {} steps", betas.len()));
        scheduler["num_train_timesteps"] = json!(betas.len());
        scheduler["trained_betas"] = json!(betas.iter().map(|&beta| f64::from(beta)).collect::<Vec<_>>());
    } else if family == Family::OpenAi {
        notes.push(
            "the weights do not record the schedule: assumed 1000 linear steps, OpenAI's default; improved-diffusion's \
             releases for CIFAR-10 and ImageNet-64 have 4000 cosine steps (squaredcos_cap_v2)"
                .into(),
        );
    }
    scheduler
}

/// Returns the configuration of a `DDPMScheduler` with 1000 linear steps.
pub(super) fn ddpm(variance: &str, beta_start: f64, beta_end: f64) -> Value {
    json!({
        "_class_name": "DDPMScheduler",
        "_diffusers_version": "0.35.0",
        "num_train_timesteps": 1000,
        "beta_start": beta_start,
        "beta_end": beta_end,
        "beta_schedule": "linear",
        "trained_betas": null,
        "variance_type": variance,
        "clip_sample": true,
        "prediction_type": "epsilon",
    })
}
