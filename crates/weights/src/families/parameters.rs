//! The parameters of a network: their names in diffusers and in the file, and the transforms between them.

use super::layout::{Attention, Layout, Shapes};
use super::skeleton::{Resample, Skeleton};
use super::transform::Transform;

/// A parameter, and its source in the file.
pub(super) struct Parameter {
    /// Its name in diffusers.
    pub target: String,
    /// Its name in the family's code.
    pub source: String,
    pub transforms: Vec<Transform>,
}

/// The kind of a module.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Norm,
    Conv,
    Linear,
}

/// Lists all parameters of the network. `head` is the number of channels of an attention head if q, k and v are stored
/// head by head.
pub(super) fn parameters(skeleton: &Skeleton, shapes: &Shapes, head: Option<usize>) -> Vec<Parameter> {
    let family = shapes.family;
    let mut builder = Builder { shapes, family, parameters: Vec::new(), head };
    builder.module("conv_in", &skeleton.conv_in, Kind::Conv);
    for (i, source) in skeleton.time.iter().enumerate() {
        builder.module(&format!("time_embedding.linear_{}", i + 1), source, Kind::Linear);
    }
    if family.interleaved_time
        && let Some(parameter) =
            builder.parameters.iter_mut().find(|parameter| parameter.target == "time_embedding.linear_1.weight")
    {
        parameter.transforms.push(Transform::Deinterleave);
    }
    if let Some(classes) = &skeleton.classes {
        let source = format!("{classes}.weight");
        builder.parameters.push(Parameter { target: "class_embedding.weight".into(), source, transforms: vec![] });
    }
    for (path, levels, sampler) in
        [("down_blocks", &skeleton.down, "downsamplers"), ("up_blocks", &skeleton.up, "upsamplers")]
    {
        for (i, level) in levels.iter().enumerate() {
            for (j, source) in level.resnets.iter().enumerate() {
                builder.resnet(&format!("{path}.{i}.resnets.{j}"), source);
            }
            for (j, source) in level.attentions.iter().enumerate() {
                builder.attention(&format!("{path}.{i}.attentions.{j}"), source);
            }
            match &level.resample {
                Some(Resample::Conv(source)) => {
                    builder.module(&format!("{path}.{i}.{sampler}.0.conv"), source, Kind::Conv)
                }
                Some(Resample::Resnet(source)) => builder.resnet(&format!("{path}.{i}.{sampler}.0"), source),
                None => {}
            }
        }
    }
    let [first, attention, second] = &skeleton.mid;
    builder.resnet("mid_block.resnets.0", first);
    builder.attention("mid_block.attentions.0", attention);
    builder.resnet("mid_block.resnets.1", second);
    builder.module("conv_norm_out", &skeleton.norm_out, Kind::Norm);
    builder.module("conv_out", &skeleton.conv_out, Kind::Conv);
    builder.parameters
}

struct Builder<'a> {
    shapes: &'a Shapes<'a>,
    family: &'a Layout,
    parameters: Vec<Parameter>,
    head: Option<usize>,
}

impl Builder<'_> {
    fn module(&mut self, target: &str, source: &str, kind: Kind) {
        self.module_with(target, source, kind, &[]);
    }

    fn module_with(&mut self, target: &str, source: &str, kind: Kind, transforms: &[Transform]) {
        let names = if kind == Kind::Norm { self.family.norm_parameters } else { self.family.parameters };
        for (theirs, ours) in names.iter().zip(["weight", "bias"]) {
            let mut all = Vec::new();
            if ours == "weight" && kind != Kind::Norm {
                all.extend(self.family.tensorflow.then_some(Transform::FromTensorFlow));
            }
            all.extend_from_slice(transforms);
            match (kind, ours) {
                (Kind::Conv, "weight") => all.push(Transform::Dimensions(4)),
                (Kind::Linear, "weight") => all.push(Transform::Dimensions(2)),
                _ => {}
            }
            let source = format!("{source}{}{theirs}", self.family.separator);
            self.parameters.push(Parameter { target: format!("{target}.{ours}"), source, transforms: all });
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
        let part = |part| Transform::Part { part, head: self.head };
        let ours = ["group_norm", "to_q", "to_k", "to_v", "to_out.0"];
        let sources: [(&str, Vec<Transform>); 5] = match self.family.attention {
            Attention::Separate(names) => names.map(|name| (name, vec![])),
            Attention::Fused { norm, qkv, out } => {
                [(norm, vec![]), (qkv, vec![part(0)]), (qkv, vec![part(1)]), (qkv, vec![part(2)]), (out, vec![])]
            }
        };
        for (ours, (theirs, transforms)) in ours.iter().zip(sources) {
            let kind = if *ours == "group_norm" { Kind::Norm } else { Kind::Linear };
            self.module_with(&format!("{target}.{ours}"), &self.family.join(source, theirs), kind, &transforms);
        }
    }
}
