//! The blocks of a U-Net, wherever a family keeps them, to diffusers' names and configuration.

use super::change::Change;
use super::layout::{Attention, Layout, Shapes};
use serde_json::{Value, json};

/// Where the parts of a network are: the names that stand before `.weight` and `.bias`.
#[derive(Debug)]
pub(super) struct Skeleton {
    pub conv_in: String,
    pub time: [String; 2],
    pub classes: Option<String>,
    /// From the finest.
    pub down: Vec<Level>,
    /// A residual block, attention, a residual block.
    pub mid: [String; 3],
    /// From the coarsest.
    pub up: Vec<Level>,
    pub norm_out: String,
    pub conv_out: String,
}

/// A level of the down or up path.
#[derive(Debug, Default)]
pub(super) struct Level {
    pub resnets: Vec<String>,
    /// None, or one for each residual block.
    pub attentions: Vec<String>,
    pub sampler: Option<Sampler>,
}

/// What comes after a level.
#[derive(Debug)]
pub(super) enum Sampler {
    Conv(String),
    Resnet(String),
}

/// One parameter's way.
pub(super) struct Step {
    /// diffusers' name.
    pub target: String,
    /// The family's.
    pub source: String,
    pub changes: Vec<Change>,
}

/// What a module is.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Norm,
    Conv,
    Linear,
}

/// Every parameter of the network. `head` is the number of channels of an attention head where q, k and v lie head by head.
pub(super) fn plan(skeleton: &Skeleton, shapes: &Shapes, head: Option<usize>) -> Vec<Step> {
    let family = shapes.family;
    let mut plan = Plan { shapes, family, steps: Vec::new(), head };
    plan.module("conv_in", &skeleton.conv_in, Kind::Conv);
    for (i, source) in skeleton.time.iter().enumerate() {
        plan.module(&format!("time_embedding.linear_{}", i + 1), source, Kind::Linear);
    }
    if family.interleaved_time
        && let Some(step) = plan.steps.iter_mut().find(|step| step.target == "time_embedding.linear_1.weight")
    {
        step.changes.push(Change::Deinterleave);
    }
    if let Some(classes) = &skeleton.classes {
        let source = format!("{classes}.weight");
        plan.steps.push(Step { target: "class_embedding.weight".into(), source, changes: vec![] });
    }
    for (path, levels, sampler) in
        [("down_blocks", &skeleton.down, "downsamplers"), ("up_blocks", &skeleton.up, "upsamplers")]
    {
        for (i, level) in levels.iter().enumerate() {
            for (j, source) in level.resnets.iter().enumerate() {
                plan.resnet(&format!("{path}.{i}.resnets.{j}"), source);
            }
            for (j, source) in level.attentions.iter().enumerate() {
                plan.attention(&format!("{path}.{i}.attentions.{j}"), source);
            }
            match &level.sampler {
                Some(Sampler::Conv(source)) => plan.module(&format!("{path}.{i}.{sampler}.0.conv"), source, Kind::Conv),
                Some(Sampler::Resnet(source)) => plan.resnet(&format!("{path}.{i}.{sampler}.0"), source),
                None => {}
            }
        }
    }
    let [first, attention, second] = &skeleton.mid;
    plan.resnet("mid_block.resnets.0", first);
    plan.attention("mid_block.attentions.0", attention);
    plan.resnet("mid_block.resnets.1", second);
    plan.module("conv_norm_out", &skeleton.norm_out, Kind::Norm);
    plan.module("conv_out", &skeleton.conv_out, Kind::Conv);
    plan.steps
}

struct Plan<'a> {
    shapes: &'a Shapes<'a>,
    family: &'a Layout,
    steps: Vec<Step>,
    head: Option<usize>,
}

impl Plan<'_> {
    fn module(&mut self, target: &str, source: &str, kind: Kind) {
        self.module_with(target, source, kind, &[]);
    }

    fn module_with(&mut self, target: &str, source: &str, kind: Kind, changes: &[Change]) {
        let names = if kind == Kind::Norm { self.family.norm_parameters } else { self.family.parameters };
        for (theirs, ours) in names.iter().zip(["weight", "bias"]) {
            let mut all = Vec::new();
            if ours == "weight" && kind != Kind::Norm {
                all.extend(self.family.tensorflow.then_some(Change::FromTensorFlow));
            }
            all.extend_from_slice(changes);
            match (kind, ours) {
                (Kind::Conv, "weight") => all.push(Change::Dimensions(4)),
                (Kind::Linear, "weight") => all.push(Change::Dimensions(2)),
                _ => {}
            }
            let source = format!("{source}{}{theirs}", self.family.separator);
            self.steps.push(Step { target: format!("{target}.{ours}"), source, changes: all });
        }
    }

    fn resnet(&mut self, target: &str, source: &str) {
        let own = ["norm1", "conv1", "time_emb_proj", "norm2", "conv2"];
        let kinds = [Kind::Norm, Kind::Conv, Kind::Linear, Kind::Norm, Kind::Conv];
        for ((ours, theirs), kind) in own.iter().zip(self.family.resnet).zip(kinds) {
            self.module(&format!("{target}.{ours}"), &self.family.join(source, theirs), kind);
        }
        let shortcut = self.family.join(source, self.family.shortcut);
        if self.shapes.has(&shortcut) {
            self.module(&format!("{target}.conv_shortcut"), &shortcut, Kind::Conv);
        }
    }

    fn attention(&mut self, target: &str, source: &str) {
        let part = |part| Change::Part { part, head: self.head };
        let ours = ["group_norm", "to_q", "to_k", "to_v", "to_out.0"];
        let sources: [(&str, Vec<Change>); 5] = match self.family.attention {
            Attention::Separate(names) => names.map(|name| (name, vec![])),
            Attention::Fused { norm, qkv, out } => {
                [(norm, vec![]), (qkv, vec![part(0)]), (qkv, vec![part(1)]), (qkv, vec![part(2)]), (out, vec![])]
            }
        };
        for (ours, (theirs, changes)) in ours.iter().zip(sources) {
            let kind = if *ours == "group_norm" { Kind::Norm } else { Kind::Linear };
            self.module_with(&format!("{target}.{ours}"), &self.family.join(source, theirs), kind, &changes);
        }
    }
}

/// `config.json`, all but heads and the images' size.
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
        return Err(format!(
            "its first convolution has {width} channels and its first level {channels:?}; in a UNet2DModel they are the same"
        ));
    }
    let (time_width, time_dim) = shapes.conv(&skeleton.time[0])?;
    if time_width != width {
        return Err(format!(
            "it embeds timesteps in {time_width} numbers and has {width} channels; in a UNet2DModel they are the same"
        ));
    }
    let (_, out_channels) = shapes.conv(&skeleton.conv_out)?;
    let (_, time_out) = shapes.conv(&resnet(&skeleton.mid[0], 2))?;
    let scale_shift = channels.last().is_some_and(|last| time_out == 2 * last);

    let is_resnet = |sampler: &Sampler| matches!(sampler, Sampler::Resnet(_));
    let samplers: Vec<bool> =
        skeleton.down.iter().chain(&skeleton.up).filter_map(|level| level.sampler.as_ref()).map(is_resnet).collect();
    let resnet_samplers = samplers.contains(&true);
    if resnet_samplers && samplers.contains(&false) {
        return Err("it resamples by convolutions and by residual blocks, a UNet2DModel by one of them".into());
    }
    let types = |levels: &[Level], attention: &str, resample: &str, plain: &str| {
        let name = |level: &Level| match (level.attentions.is_empty(), &level.sampler) {
            (false, _) => attention.to_owned(),
            (true, Some(Sampler::Resnet(_))) => resample.to_owned(),
            (true, _) => plain.to_owned(),
        };
        levels.iter().map(name).collect::<Vec<_>>()
    };
    let layers = skeleton.down.first().map_or(0, |level| level.resnets.len());
    let kind = if resnet_samplers { "resnet" } else { "conv" };
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
        // diffusers leaves the middle attention's normalisation out beside scale_shift, unless this asks for it.
        "attn_norm_num_groups": scale_shift.then_some(32),
        "norm_eps": family.norm_eps,
        "resnet_time_scale_shift": if scale_shift { "scale_shift" } else { "default" },
        "add_attention": true,
        "class_embed_type": null,
        "num_class_embeds": classes,
    }))
}
