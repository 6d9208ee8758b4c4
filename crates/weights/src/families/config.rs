//! The `config.json` of a network.

use super::layout::Shapes;
use super::skeleton::{Level, Resample, Skeleton};
use crate::shown::shown_sizes;
use serde_json::{Value, json};

/// Derives the `config.json`, without attention heads and the size of the images.
pub(super) fn config(skeleton: &Skeleton, shapes: &Shapes) -> Result<Value, String> {
    let resnet = |source: &str, part: usize| shapes.family.join(source, shapes.family.resnet[part]);
    let first = |level: &Level| level.resnets.first().cloned().unwrap_or_default();
    let channels: Vec<usize> = skeleton
        .down
        .iter()
        .map(|level| Ok(shapes.conv(&resnet(&first(level), 1))?.1))
        .collect::<Result<_, String>>()?;
    let (in_channels, width) = shapes.conv(&skeleton.conv_in)?;
    if channels.first() != Some(&width) {
        let channels = shown_sizes(&channels);
        return Err(format!(
            "its first convolution has {width} channels and its levels have {channels}; in a UNet2DModel the first \
             level has as many as the convolution"
        ));
    }
    let (time_width, time_dim) = shapes.conv(&skeleton.time[0])?;
    if time_width != width {
        return Err(format!(
            "its timestep embedding has {time_width} channels and its first convolution {width}; in a UNet2DModel they \
             are equal"
        ));
    }
    let (_, out_channels) = shapes.conv(&skeleton.conv_out)?;
    let (_, time_out) = shapes.conv(&resnet(&skeleton.mid[0], 2))?;
    let scale_shift = channels.last().is_some_and(|last| time_out == 2 * last);

    let is_resnet = |resample: &Resample| matches!(resample, Resample::Resnet(_));
    let resamples: Vec<bool> =
        skeleton.down.iter().chain(&skeleton.up).filter_map(|level| level.resample.as_ref()).map(is_resnet).collect();
    let resnet_resamples = resamples.contains(&true);
    if resnet_resamples && resamples.contains(&false) {
        return Err(
            "it resamples with both convolutions and residual blocks; a UNet2DModel uses only one of them".into()
        );
    }
    let types = |levels: &[Level], attention: &str, resample: &str, plain: &str| {
        let name = |level: &Level| match (level.attentions.is_empty(), &level.resample) {
            (false, _) => attention.to_owned(),
            (true, Some(Resample::Resnet(_))) => resample.to_owned(),
            (true, _) => plain.to_owned(),
        };
        levels.iter().map(name).collect::<Vec<_>>()
    };
    let layers = skeleton.down.first().map_or(0, |level| level.resnets.len());
    let kind = if resnet_resamples { "resnet" } else { "conv" };
    let family = shapes.family;
    let classes = match &skeleton.classes {
        Some(classes) => Some(shapes.conv(classes)?.1),
        None => None,
    };
    Ok(json!({
        "_class_name": "UNet2DModel",
        "_diffusers_version": "0.35.0",
        "sample_size": null,
        "in_channels": in_channels,
        "out_channels": out_channels,
        "center_input_sample": false,
        "time_embedding_type": "positional",
        "time_embedding_dim": (time_dim != 4 * width).then_some(time_dim),
        "freq_shift": family.freq_shift,
        "flip_sin_to_cos": family.flip_sin_to_cos,
        "down_block_types": types(&skeleton.down, "AttnDownBlock2D", "ResnetDownsampleBlock2D", "DownBlock2D"),
        "mid_block_type": "UNetMidBlock2D",
        "up_block_types": types(&skeleton.up, "AttnUpBlock2D", "ResnetUpsampleBlock2D", "UpBlock2D"),
        "block_out_channels": channels,
        "layers_per_block": layers,
        "mid_block_scale_factor": 1,
        "downsample_padding": family.downsample_padding,
        "downsample_type": kind,
        "upsample_type": kind,
        "dropout": 0.0,
        "act_fn": "silu",
        "attention_head_dim": null,
        "norm_num_groups": 32,
        // With scale_shift, diffusers omits the normalization of the middle attention unless this is set.
        "attn_norm_num_groups": scale_shift.then_some(32),
        "norm_eps": family.norm_eps,
        "resnet_time_scale_shift": if scale_shift { "scale_shift" } else { "default" },
        "add_attention": true,
        "class_embed_type": null,
        "num_class_embeds": classes,
    }))
}
