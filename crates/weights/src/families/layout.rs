//! Where each family keeps its blocks, and what its code does that its weights do not say.
//!
//! Facts from the families' own sources: `diffusion_tf/models/unet.py` and `nn.py` (Ho et al.), `pytorch_diffusion/model.py`
//! (pesser), `guided_diffusion/unet.py` and `script_util.py` (OpenAI), `model.py` (w86763777).

use super::skeleton::{Level, Sampler, Skeleton};
use super::states::{Family, State};
use super::{Heads, Options};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// A family's habits.
pub(super) struct Layout {
    pub skeleton: fn(&Shapes) -> Result<Skeleton, String>,
    /// Tensors beside the parameters.
    pub ignored: fn(&str) -> bool,
    pub separator: char,
    pub parameters: [&'static str; 2],
    pub norm_parameters: [&'static str; 2],
    /// Weights are `[…, in, out]`.
    pub tensorflow: bool,
    /// Norm, convolution, time projection, norm, convolution.
    pub resnet: [&'static str; 5],
    pub shortcut: &'static str,
    pub attention: Attention,
    /// Sines and cosines of the time embedding alternate.
    pub interleaved_time: bool,
    pub freq_shift: u32,
    pub flip_sin_to_cos: bool,
    pub downsample_padding: u32,
    pub norm_eps: f64,
}

/// An attention block's parts.
pub(super) enum Attention {
    /// Norm, q, k, v, output.
    Separate([&'static str; 5]),
    Fused {
        norm: &'static str,
        qkv: &'static str,
        out: &'static str,
    },
}

const HO: Layout = Layout {
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

const HO_TENSORFLOW: Layout = Layout {
    skeleton: ho,
    // The optimizer's moments, and averages beside what they are of, have longer names.
    ignored: |name| !["/W", "/b", "/gamma", "/beta"].iter().any(|end| name.ends_with(end)),
    separator: '/',
    parameters: ["W", "b"],
    norm_parameters: ["gamma", "beta"],
    tensorflow: true,
    ..HO
};

const OPENAI: Layout = Layout {
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

const W86763777: Layout = Layout {
    skeleton: w86763777,
    // The table of sines and cosines.
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

/// A family's layout, or why its network cannot be a `UNet2DModel`.
pub(super) fn of(family: Family) -> Result<Layout, String> {
    match family {
        Family::HoTorch => Ok(HO),
        Family::HoTensorFlow => Ok(HO_TENSORFLOW),
        Family::OpenAi => Ok(OPENAI),
        Family::W86763777 => Ok(W86763777),
        Family::Hmdolatabadi => Err("its attention is not Ho et al.'s: one convolution makes 4·C channels that are cut in \
             three unequal parts, the third of them, the values, is not used, and the weights average the block's input \
             itself. A UNet2DModel cannot compute that"
            .into()),
        Family::Lucidrains => Err("it is another network than Ho et al.'s: RMSNorm in place of group normalisation, linear \
             attention at all levels but the innermost, learned memory keys and values (mem_kv), a 7x7 first convolution. \
             A UNet2DModel cannot compute that"
            .into()),
        Family::Diffusers => Err("it needs no layout".into()),
    }
}

/// The network's tensors by the family's names.
pub(super) struct Shapes<'a> {
    pub family: &'a Layout,
    pub of: &'a BTreeMap<String, State>,
}

impl Layout {
    pub fn join(&self, module: &str, part: &str) -> String {
        format!("{module}{}{part}", self.separator)
    }
}

impl Shapes<'_> {
    /// Whether a module has weights.
    pub fn has(&self, module: &str) -> bool {
        let family = self.family;
        [family.parameters[0], family.norm_parameters[0]]
            .iter()
            .any(|name| self.of.contains_key(&family.join(module, name)))
    }

    /// Channels in and out of a convolution or linear layer.
    pub fn conv(&self, module: &str) -> Result<(usize, usize), String> {
        let name = self.family.join(module, self.family.parameters[0]);
        match self.of.get(&name).map(|state| &state.shape[..]) {
            Some([.., i, o]) if self.family.tensorflow => Ok((*i, *o)),
            Some([o, i, ..]) if !self.family.tensorflow => Ok((*i, *o)),
            Some(shape) => Err(format!("`{name}` has shape {shape:?}, which is no layer's")),
            None => Err(format!("it has no tensor `{name}`")),
        }
    }

    /// How many of these numbered modules there are, the first being 0.
    fn count(&self, module: impl Fn(usize) -> String) -> usize {
        (0..self.of.len()).take_while(|&i| self.has(&module(i))).count()
    }

    /// The attentions that are there of those that may be: all or none.
    fn attentions(&self, modules: Vec<String>) -> Result<Vec<String>, String> {
        let (Attention::Separate([norm, ..]) | Attention::Fused { norm, .. }) = self.family.attention;
        let is_there = |module: &String| self.has(&self.family.join(module, norm));
        let there = modules.iter().filter(|module| is_there(module)).count();
        match there {
            0 => Ok(Vec::new()),
            n if n == modules.len() => Ok(modules),
            n => Err(format!(
                "{n} of the {} blocks from `{}` on are followed by attention; in a UNet2DModel all or none are",
                modules.len(),
                modules[0]
            )),
        }
    }
}

/// `down.0.block.1`, or `down_0/block_1`.
fn ho(shapes: &Shapes) -> Result<Skeleton, String> {
    let tensorflow = shapes.family.tensorflow;
    let block = |path: &str, level: usize, kind: &str, i: usize| match tensorflow {
        true => format!("{path}_{level}/{kind}_{i}"),
        false => format!("{path}.{level}.{kind}.{i}"),
    };
    let module = |parts: &[&str]| parts.join(&shapes.family.separator.to_string());
    let conv1 = |module: String| shapes.family.join(&module, "conv1");
    let levels = shapes.count(|level| conv1(block("down", level, "block", 0)));
    let level = |path: &str, i: usize, sampler: &str| {
        let blocks = shapes.count(|j| conv1(block(path, i, "block", j)));
        let name = if tensorflow { format!("{path}_{i}") } else { format!("{path}.{i}") };
        let sampler = module(&[&name, sampler, "conv"]);
        Ok::<_, String>(Level {
            resnets: (0..blocks).map(|j| block(path, i, "block", j)).collect(),
            attentions: shapes.attentions((0..blocks).map(|j| block(path, i, "attn", j)).collect())?,
            sampler: shapes.has(&sampler).then_some(Sampler::Conv(sampler)),
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

/// `input_blocks.K.M`: in one list all blocks of the way down, attention being the second module of its block.
fn openai(shapes: &Shapes) -> Result<Skeleton, String> {
    if shapes.of.keys().any(|name| name.contains("transformer_blocks")) {
        return Err("it attends to a text (transformer_blocks), which a UNet2DModel does not".into());
    }
    let is_resnet = |module: &str| shapes.has(&format!("{module}.in_layers.0"));
    let sampler = |module: String, conv: &str| {
        let conv = format!("{module}.{conv}");
        match (shapes.has(&conv), is_resnet(&module)) {
            (true, _) => Some(Sampler::Conv(conv)),
            (_, true) => Some(Sampler::Resnet(module)),
            _ => None,
        }
    };
    // Whatever enlarges comes after the residual block and its attention.
    let upsampler = |k: usize| (1..3).find_map(|m| sampler(format!("output_blocks.{k}.{m}"), "conv"));
    let outputs = shapes.count(|k| format!("output_blocks.{k}.0.in_layers.0"));
    if outputs == 0 {
        return Err("it has only the way down: a classifier, not a denoiser".into());
    }
    // Residual blocks of a level on the way up; on the way down, these less one and what halves the size.
    let per_level = (0..outputs).find(|&k| upsampler(k).is_some()).map_or(outputs, |k| k + 1);
    let levels = outputs / per_level;
    let down = |i: usize| {
        let first = i * per_level + 1;
        let blocks = first..first + per_level - 1;
        Ok::<_, String>(Level {
            resnets: blocks.clone().map(|k| format!("input_blocks.{k}.0")).collect(),
            attentions: shapes.attentions(blocks.clone().map(|k| format!("input_blocks.{k}.1")).collect())?,
            sampler: if i + 1 < levels { sampler(format!("input_blocks.{}.0", blocks.end), "op") } else { None },
        })
    };
    let up = |i: usize| {
        let blocks = i * per_level..(i + 1) * per_level;
        Ok::<_, String>(Level {
            resnets: blocks.clone().map(|k| format!("output_blocks.{k}.0")).collect(),
            attentions: shapes.attentions(blocks.clone().map(|k| format!("output_blocks.{k}.1")).collect())?,
            sampler: upsampler(blocks.end - 1),
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

/// `downblocks.K`: one list, in which what resamples has a place of its own; attention is within its residual block.
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
                level.sampler = Some(Sampler::Conv(main));
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

/// As many blocks on each level, one more on the way up, and something that resamples between any two levels.
fn check(down: &[Level], up: &[Level]) -> Result<(), String> {
    let blocks = down.first().map_or(0, |level| level.resnets.len());
    if blocks == 0 {
        return Err("its first level has no residual blocks".into());
    }
    for (path, levels, blocks) in [("down", down, blocks), ("up", up, blocks + 1)] {
        for (i, level) in levels.iter().enumerate() {
            if level.resnets.len() != blocks {
                let found = level.resnets.len();
                return Err(format!("level {i} of the way {path} has {found} residual blocks in place of {blocks}"));
            }
            if level.sampler.is_some() != (i + 1 < levels.len()) {
                return Err(format!("after level {i} of the way {path} nothing with weights resamples"));
            }
        }
    }
    match down.len() == up.len() {
        true => Ok(()),
        false => Err(format!("it has {} levels on the way down and {} up", down.len(), up.len())),
    }
}

/// Channels of an attention head, if there may be several.
pub(super) fn heads(
    skeleton: &Skeleton,
    shapes: &Shapes,
    options: &Options,
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
