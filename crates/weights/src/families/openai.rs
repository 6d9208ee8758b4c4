//! The networks of OpenAI's improved-diffusion and guided-diffusion (`guided_diffusion/unet.py`).

use super::ho::HO;
use super::layout::{Attention, Layout, Shapes};
use super::skeleton::{Level, Resample, Skeleton, check};

pub(super) const OPENAI: Layout = Layout {
    skeleton: openai,
    resnet: ["in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3"],
    shortcut: "skip_connection",
    attention: Attention::Fused { norm: "norm", qkv: "qkv", out: "proj_out" },
    freq_shift: 0,
    flip_sin_to_cos: true,
    downsample_padding: 1,
    norm_eps: 1e-5,
    ..HO
};

/// Lists the blocks, which are numbered through all levels: `input_blocks.K.M`, where module 1 of a block is its
/// attention.
fn openai(shapes: &Shapes) -> Result<Skeleton, String> {
    if shapes.of.keys().any(|name| name.contains("transformer_blocks")) {
        return Err(
            "it has cross-attention to a text (transformer_blocks), which a UNet2DModel does not support".into()
        );
    }
    let is_resnet = |module: &str| shapes.has(&format!("{module}.in_layers.0"));
    let resample = |module: String, conv: &str| {
        let conv = format!("{module}.{conv}");
        match (shapes.has(&conv), is_resnet(&module)) {
            (true, _) => Some(Resample::Conv(conv)),
            (_, true) => Some(Resample::Resnet(module)),
            _ => None,
        }
    };
    // Upsampling is the last module of a block, after the residual block and its attention.
    let upsample = |k: usize| (1..3).find_map(|m| resample(format!("output_blocks.{k}.{m}"), "conv"));
    let outputs = shapes.count(|k| format!("output_blocks.{k}.0.in_layers.0"));
    if outputs == 0 {
        return Err("it has no up path: it is a classifier, not a denoiser".into());
    }
    // The residual blocks of a level on the up path. The down path has one less, and a module that downsamples.
    let per_level = (0..outputs).find(|&k| upsample(k).is_some()).map_or(outputs, |k| k + 1);
    let levels = outputs / per_level;
    let down = |i: usize| {
        let first = i * per_level + 1;
        let blocks = first..first + per_level - 1;
        Ok::<_, String>(Level {
            resnets: blocks.clone().map(|k| format!("input_blocks.{k}.0")).collect(),
            attentions: shapes.attentions(blocks.clone().map(|k| format!("input_blocks.{k}.1")).collect())?,
            resample: if i + 1 < levels { resample(format!("input_blocks.{}.0", blocks.end), "op") } else { None },
        })
    };
    let up = |i: usize| {
        let blocks = i * per_level..(i + 1) * per_level;
        Ok::<_, String>(Level {
            resnets: blocks.clone().map(|k| format!("output_blocks.{k}.0")).collect(),
            attentions: shapes.attentions(blocks.clone().map(|k| format!("output_blocks.{k}.1")).collect())?,
            resample: upsample(blocks.end - 1),
        })
    };
    let down = (0..levels).map(down).collect::<Result<Vec<_>, _>>()?;
    let up = (0..levels).map(up).collect::<Result<Vec<_>, _>>()?;
    check(&down, &up)?;
    Ok(Skeleton {
        conv_in: "input_blocks.0.0".into(),
        time: ["time_embed.0".into(), "time_embed.2".into()],
        classes: shapes.has("label_emb").then(|| "label_emb".into()),
        down,
        mid: [0, 1, 2].map(|i| format!("middle_block.{i}")),
        up,
        norm_out: "out.0".into(),
        conv_out: "out.2".into(),
    })
}
