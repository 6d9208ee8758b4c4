//! A family's conventions: its names, and what its code does that its weights do not record.

use super::detect::Source;
use super::skeleton::Skeleton;
use std::collections::BTreeMap;

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

/// The network's tensors by the family's names.
pub(super) struct Shapes<'a> {
    pub family: &'a Layout,
    pub of: &'a BTreeMap<String, Source>,
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
    pub fn count(&self, module: impl Fn(usize) -> String) -> usize {
        (0..self.of.len()).take_while(|&i| self.has(&module(i))).count()
    }

    /// The attentions that are there of those that may be: all or none.
    pub fn attentions(&self, modules: Vec<String>) -> Result<Vec<String>, String> {
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
