//! The networks of Ho et al. (`diffusion_tf/models/unet.py` and `nn.py`) and of pesser's PyTorch port
//! (`pytorch_diffusion/model.py`).

use super::layout::{Attention, Layout, Shapes};
use super::skeleton::{Level, Resample, Skeleton, check};

pub(super) const HO: Layout = Layout {
    skeleton: ho,
    ignored: |_| false,
    separator: '.',
    parameters: ["weight", "bias"],
    norm_parameters: ["weight", "bias"],
    tensorflow: false,
    resnet: ["norm1", "conv1", "temb_proj", "norm2", "conv2"],
    shortcut: "nin_shortcut",
    attention: Attention::Separate(["norm", "q", "k", "v", "proj_out"]),
    interleaved_time: false,
    freq_shift: 1,
    flip_sin_to_cos: false,
    downsample_padding: 0,
    norm_eps: 1e-6,
};

pub(super) const HO_TENSORFLOW: Layout = Layout {
    skeleton: ho,
    // The optimizer's moments and the moving averages have suffixes.
    ignored: |name| !["/W", "/b", "/gamma", "/beta"].iter().any(|end| name.ends_with(end)),
    separator: '/',
    parameters: ["W", "b"],
    norm_parameters: ["gamma", "beta"],
    tensorflow: true,
    ..HO
};

/// Lists the blocks, which are named `down.0.block.1` or `down_0/block_1`.
fn ho(shapes: &Shapes) -> Result<Skeleton, String> {
    let tensorflow = shapes.family.tensorflow;
    let block = |path: &str, level: usize, kind: &str, i: usize| match tensorflow {
        true => format!("{path}_{level}/{kind}_{i}"),
        false => format!("{path}.{level}.{kind}.{i}"),
    };
    let module = |parts: &[&str]| parts.join(&shapes.family.separator.to_string());
    let conv1 = |module: String| shapes.family.join(&module, "conv1");
    let levels = shapes.count(|level| conv1(block("down", level, "block", 0)));
    let level = |path: &str, i: usize, resample: &str| {
        let blocks = shapes.count(|j| conv1(block(path, i, "block", j)));
        let name = if tensorflow { format!("{path}_{i}") } else { format!("{path}.{i}") };
        let resample = module(&[&name, resample, "conv"]);
        Ok::<_, String>(Level {
            resnets: (0..blocks).map(|j| block(path, i, "block", j)).collect(),
            attentions: shapes.attentions((0..blocks).map(|j| block(path, i, "attn", j)).collect())?,
            resample: shapes.has(&resample).then_some(Resample::Conv(resample)),
        })
    };
    let down = (0..levels).map(|i| level("down", i, "downsample")).collect::<Result<Vec<_>, _>>()?;
    let up = (0..levels).rev().map(|i| level("up", i, "upsample")).collect::<Result<Vec<_>, _>>()?;
    check(&down, &up)?;
    let time = |i: usize| if tensorflow { format!("temb/dense{i}") } else { format!("temb.dense.{i}") };
    Ok(Skeleton {
        conv_in: "conv_in".into(),
        time: [time(0), time(1)],
        classes: None,
        down,
        mid: ["block_1", "attn_1", "block_2"].map(|part| module(&["mid", part])),
        up,
        norm_out: "norm_out".into(),
        conv_out: "conv_out".into(),
    })
}
