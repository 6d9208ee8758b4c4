//! Values that weights do not record: attention heads, the images' size, and the schedule.

use super::detect::Family;
use super::layout::{Attention, Shapes};
use super::options::{Heads, ImportOptions};
use super::skeleton::Skeleton;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Channels of an attention head, if there may be several.
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

    // guided-diffusion's releases have residual blocks that resample and 64 channels in a head, but for the one of 128
    // pixels; improved-diffusion's have four heads, which is the default of both.
    let guided = config["downsample_type"] == "resnet" && skeleton.down.len() != 5;
    let assumed = if guided { Heads::Channels(64) } else { Heads::Count(4) };
    if options.heads.is_none() {
        let what = match assumed {
            Heads::Channels(channels) => format!("{channels} channels in each (num_head_channels)"),
            Heads::Count(count) => format!("{count} (num_heads)"),
        };
        notes.push(format!(
            "weights do not say how many attention heads there are: assumed {what}, as in OpenAI's releases"
        ));
    }
    let mut of_a_head = BTreeSet::new();
    for &width in &widths {
        let channels = match options.heads.unwrap_or(assumed) {
            Heads::Channels(channels) => channels,
            Heads::Count(count) => width / count.max(1),
        };
        if channels == 0 || width % channels != 0 {
            return Err(format!("{width} channels cannot be divided into heads of {channels}"));
        }
        of_a_head.insert(channels);
    }
    match (of_a_head.first(), of_a_head.len()) {
        (Some(&channels), 1) => {
            config["attention_head_dim"] = json!(channels);
            Ok(Some(channels))
        }
        _ => Err(format!(
            "with as many heads in blocks of {widths:?} channels, heads would have {of_a_head:?} channels; in a \
             UNet2DModel all have the same"
        )),
    }
}

/// The images' height, from the levels: what the families' own scripts train.
pub(super) fn sample_size(
    skeleton: &Skeleton,
    family: Family,
    config: &Value,
    notes: &mut Vec<String>,
) -> Option<usize> {
    let channels: Vec<u64> = config["block_out_channels"].as_array()?.iter().filter_map(Value::as_u64).collect();
    let size = match family {
        // script_util.py: sizes by multiples of the first level's channels.
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
        // Attention is where images have 16 pixels.
        _ => 16usize.checked_shl(skeleton.down.iter().position(|level| !level.attentions.is_empty())? as u32)?,
    };
    notes.push(format!("weights do not say the images' size: assumed {size}x{size}, as the family's scripts train it"));
    Some(size)
}

/// `scheduler_config.json` of what the family trains.
pub(super) fn scheduler(family: Family, config: &Value, size: Option<usize>, notes: &mut Vec<String>) -> Value {
    let learned = config["out_channels"].as_u64() == config["in_channels"].as_u64().map(|channels| 2 * channels);
    let variance = match family {
        Family::OpenAi if learned => "learned_range",
        Family::HoTorch | Family::HoTensorFlow if size.is_some_and(|size| size > 32) => "fixed_small",
        _ => "fixed_large",
    };
    if family == Family::OpenAi {
        notes.push(
            "weights do not say the schedule: assumed 1000 linear steps, OpenAI's default; its releases for CIFAR-10 and \
             ImageNet-64 of improved-diffusion have 4000 cosine ones (squaredcos_cap_v2)"
                .into(),
        );
    }
    ddpm(variance, 0.0001, 0.02)
}

/// A `DDPMScheduler` of 1000 linear steps.
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
