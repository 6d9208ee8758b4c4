//! The network of w86763777's pytorch-ddpm (`model.py`).

use super::ho::HO;
use super::layout::{Attention, Layout, Shapes};
use super::skeleton::{Level, Resample, Skeleton, check};

pub(super) const W86763777: Layout = Layout {
    skeleton: w86763777,
    // The table of the sinusoidal time embedding.
    ignored: |name| name == "time_embedding.timembedding.0.weight",
    resnet: ["block1.0", "block1.2", "temb_proj.1", "block2.0", "block2.3"],
    shortcut: "shortcut",
    attention: Attention::Separate(["group_norm", "proj_q", "proj_k", "proj_v", "proj"]),
    interleaved_time: true,
    freq_shift: 0,
    downsample_padding: 1,
    norm_eps: 1e-5,
    ..HO
};

/// Lists the blocks, which are numbered through all levels: `downblocks.K`. Resampling modules have numbers of their
/// own, and attention is part of its residual block.
fn w86763777(shapes: &Shapes) -> Result<Skeleton, String> {
    let path = |list: &str| {
        let mut levels = vec![Level::default()];
        for k in 0..shapes.of.len() {
            let module = format!("{list}.{k}");
            let (resnet, main) = (shapes.has(&format!("{module}.block1.0")), format!("{module}.main"));
            let Some(level) = levels.last_mut() else { break };
            if resnet {
                level.resnets.push(module);
            } else if shapes.has(&main) {
                level.resample = Some(Resample::Conv(main));
                levels.push(Level::default());
            } else {
                break;
            }
        }
        for level in &mut levels {
            level.attentions = shapes.attentions(level.resnets.iter().map(|name| format!("{name}.attn")).collect())?;
        }
        Ok::<_, String>(levels)
    };
    let (down, up) = (path("downblocks")?, path("upblocks")?);
    check(&down, &up)?;
    Ok(Skeleton {
        conv_in: "head".into(),
        time: ["time_embedding.timembedding.1".into(), "time_embedding.timembedding.3".into()],
        classes: None,
        down,
        mid: ["middleblocks.0".into(), "middleblocks.0.attn".into(), "middleblocks.1".into()],
        up,
        norm_out: "tail.0".into(),
        conv_out: "tail.2".into(),
    })
}
