//! The naming scheme of a family, and the settings that its code implies.

use super::detect::Source;
use super::skeleton::Skeleton;
use crate::shown::{shown, shown_sizes};
use std::collections::BTreeMap;

/// The naming scheme of a family, and the settings that its code implies.
pub(super) struct Layout {
    /// Lists the blocks of a network.
    pub skeleton: fn(&Shapes) -> Result<Skeleton, String>,
    /// Returns whether a tensor is not a parameter.
    pub ignored: fn(&str) -> bool,
    /// The separator of the parts of a name.
    pub separator: char,
    /// The names of weight and bias.
    pub parameters: [&'static str; 2],
    /// The names of weight and bias of a normalization.
    pub norm_parameters: [&'static str; 2],
    /// Whether weights are `[…, in, out]`, as in TensorFlow.
    pub tensorflow: bool,
    /// The parts of a residual block: norm, convolution, time projection, norm, convolution.
    pub resnet: [&'static str; 5],
    /// The 1×1 convolution of a residual block.
    pub shortcut: &'static str,
    pub attention: Attention,
    /// Whether sines and cosines of the time embedding alternate.
    pub interleaved_time: bool,
    pub freq_shift: u32,
    pub flip_sin_to_cos: bool,
    pub downsample_padding: u32,
    pub norm_eps: f64,
}

/// The parts of an attention block.
pub(super) enum Attention {
    /// Norm, q, k, v, output.
    Separate([&'static str; 5]),
    Fused {
        norm: &'static str,
        qkv: &'static str,
        out: &'static str,
    },
}

/// The shapes of a network's tensors by the family's names.
pub(super) struct Shapes<'a> {
    pub family: &'a Layout,
    pub of: &'a BTreeMap<String, Source>,
}

impl Layout {
    /// Joins the names of a module and of a part of it.
    pub fn join(&self, module: &str, part: &str) -> String {
        format!("{module}{}{part}", self.separator)
    }
}

impl Shapes<'_> {
    /// Returns whether a module has weights.
    pub fn has(&self, module: &str) -> bool {
        let family = self.family;
        [family.parameters[0], family.norm_parameters[0]]
            .iter()
            .any(|name| self.of.contains_key(&family.join(module, name)))
    }

    /// Returns the numbers of input and output channels of a convolution or linear layer.
    pub fn conv(&self, module: &str) -> Result<(usize, usize), String> {
        let name = self.family.join(module, self.family.parameters[0]);
        match self.of.get(&name).map(|source| &source.shape[..]) {
            Some([.., i, o]) if self.family.tensorflow => Ok((*i, *o)),
            Some([o, i, ..]) if !self.family.tensorflow => Ok((*i, *o)),
            Some(shape) => {
                let (name, shape) = (shown(name), shown_sizes(shape));
                Err(format!("tensor `{name}` has shape {shape}; expected a layer's, with two dimensions or more"))
            }
            None => Err(format!("tensor `{}` is missing", shown(name))),
        }
    }

    /// Returns the number of modules that are numbered from 0 without a gap.
    pub fn count(&self, module: impl Fn(usize) -> String) -> usize {
        (0..self.of.len()).take_while(|&i| self.has(&module(i))).count()
    }

    /// Returns the attention blocks of a level, all of `modules` or none of them; an error if only some exist.
    pub fn attentions(&self, modules: Vec<String>) -> Result<Vec<String>, String> {
        let (Attention::Separate([norm, ..]) | Attention::Fused { norm, .. }) = self.family.attention;
        let exists = |module: &String| self.has(&self.family.join(module, norm));
        let count = modules.iter().filter(|module| exists(module)).count();
        match count {
            0 => Ok(Vec::new()),
            n if n == modules.len() => Ok(modules),
            n => Err(format!(
                "{n} of the {} blocks from `{}` on have attention; in a UNet2DModel all or none of a level have",
                modules.len(),
                modules[0]
            )),
        }
    }
}
