//! Detecting the family of a network and the prefix of its tensors, by a tensor name that only that family has.
//!
//! The nesting of checkpoints is not hard-coded: in one with `net_model`, `ema_model` and `optim`, the family's names
//! are found under the first two. Moving averages are recognized by their prefix.

use super::layout;
use crate::shown::{shown, shown_sizes};
use crate::tensorflow::{EMA, prefer_ema};
use crate::{Archive, Error, Tensors};
use std::collections::BTreeMap;

/// A code base whose networks are recognized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Diffusers,
    HoTensorFlow,
    HoTorch,
    OpenAi,
    W86763777,
    Hmdolatabadi,
    Lucidrains,
    Edm,
}

/// The families with their names, and a tensor that no other family has.
const MARKERS: [(Family, &str, &str); 8] = [
    (Family::Diffusers, "diffusers", "down_blocks.0.resnets.0.norm1.weight"),
    (Family::HoTensorFlow, "hojonathanho/diffusion", "down_0/block_0/norm1/gamma"),
    (Family::HoTorch, "pesser/pytorch_diffusion", "down.0.block.0.norm1.weight"),
    (Family::OpenAi, "openai/improved-diffusion or guided-diffusion", "input_blocks.1.0.in_layers.0.weight"),
    (Family::W86763777, "w86763777/pytorch-ddpm", "downblocks.0.block1.0.weight"),
    (Family::Hmdolatabadi, "hmdolatabadi/denoising_diffusion", "down.1.resblocks.norm1.weight"),
    (Family::Lucidrains, "lucidrains/denoising-diffusion-pytorch", "downs.0.0.block1.proj.weight"),
    (Family::Edm, "NVlabs/edm", "map_layer0.weight"),
];

impl Family {
    /// Returns the name of the family, for users.
    pub fn name(self) -> &'static str {
        MARKERS.iter().find(|(family, ..)| *family == self).map_or("", |(_, name, _)| name)
    }
}

/// A tensor of the network.
#[derive(Debug)]
pub(super) struct Source {
    /// Its full name in the file.
    pub name: String,
    pub shape: Vec<usize>,
}

/// A network that was found in a file.
#[derive(Debug)]
pub(super) struct Detected {
    pub family: Family,
    /// Whether the weights are moving averages.
    pub ema: bool,
    /// The evidence for `ema`, if it is not the names of the tensors.
    pub evidence: Option<String>,
    pub prefix: String,
    /// The tensors by the family's names, without the prefix.
    pub names: BTreeMap<String, Source>,
}

impl Detected {
    /// Returns an error about the network.
    pub fn error(&self, archive: &Archive, reason: impl std::fmt::Display) -> Error {
        Error::file(archive.path(), format!("a network of {}: {reason}", self.family.name()))
    }

    /// Reads the tensors of a network that keeps its names.
    pub fn read(&self, archive: &Archive) -> crate::Result<Tensors> {
        let wanted: Vec<&str> = self.names.values().map(|source| &*source.name).collect();
        let mut loaded = archive.read(&wanted)?;
        let named = |(name, source): (&String, &Source)| Some((name.clone(), loaded.remove(&source.name)?));
        Ok(self.names.iter().filter_map(named).collect())
    }
}

/// Finds the network in `archive`: the moving averages of its weights if there are any, unless `raw`.
pub(super) fn detect(archive: &Archive, raw: bool) -> Result<Detected, String> {
    let shapes: BTreeMap<&str, &[usize]> = archive.shapes().collect();
    if let Some(name) = shapes.keys().find(|name| name.split('.').any(|part| part == AUTOENCODER)) {
        let name = shown(name);
        return Err(format!(
            "a latent diffusion model, whose network denoises latents of an autoencoder (tensor `{name}`), not pixels; it \
             is not supported"
        ));
    }
    let mut candidates = Vec::new();
    for name in shapes.keys() {
        for (family, _, marker) in MARKERS {
            let marked = name.strip_suffix(EMA).unwrap_or(name);
            if let Some(prefix) = marked.strip_suffix(marker)
                && (prefix.is_empty() || prefix.ends_with(['.', '/']))
            {
                let suffix = &name[marked.len()..];
                candidates.push((family, prefix, !suffix.is_empty() || is_average(prefix)));
            }
        }
    }
    // The elements of a list have no names. In ermongroup/ddim, the averages come after the weights.
    let number = |prefix: &str| prefix.split('.').next()?.parse::<usize>().ok();
    let first = candidates.iter().filter_map(|(_, prefix, _)| number(prefix)).min();
    let is_later = |prefix: &str| number(prefix) > first;
    for (_, prefix, average) in &mut candidates {
        *average |= is_later(prefix);
    }
    candidates.sort_by_key(|(_, prefix, average)| (*average == raw, prefix.len()));
    let Some(&(family, prefix, average)) = candidates.first() else {
        return Err(unknown(&shapes));
    };
    let mut ema = average;
    let mut evidence = (average && !is_average(prefix) && is_later(prefix)).then(|| {
        "the file is a list of networks without names: took the last as the averages, as in ermongroup/ddim".into()
    });
    // OpenAI's programs and pesser's releases write averages to separate files.
    if !ema && candidates.len() == 1 && is_average_file(archive.path()) {
        ema = true;
        evidence = Some("the name of the file or its folder says that the weights are moving averages".into());
    }

    let in_file: BTreeMap<&str, &str> = match family {
        Family::HoTensorFlow if average => prefer_ema(shapes.keys().copied()),
        _ => shapes.keys().map(|name| (*name, *name)).collect(),
    };
    // Tensors under a longer prefix belong to another network in the same dictionary.
    let inner = |other: &&str| other.len() > prefix.len() && other.starts_with(prefix);
    let mut others: Vec<&str> = candidates.iter().map(|(_, other, _)| *other).filter(inner).collect();
    // Without those that begin with another, the one that a name begins with is the last that is not after the name.
    others.sort_unstable();
    others.dedup_by(|longer, other| longer.starts_with(*other));
    let is_inner = |name: &str| {
        let after = others.partition_point(|other| *other <= name);
        others[..after].last().is_some_and(|other| name.starts_with(other))
    };
    let mut names = BTreeMap::new();
    for (name, full) in in_file {
        if let Some(own) = name.strip_prefix(prefix)
            && !is_inner(name)
        {
            names.insert(own.to_owned(), Source { name: full.to_owned(), shape: shapes[full].to_vec() });
        }
    }
    if !raw && !ema {
        let ignored = layout(family).map_or(no_tensor as fn(&str) -> bool, |layout| layout.ignored);
        ema = use_lit_ema(&shapes, prefix, ignored, &mut names)?;
    }
    Ok(Detected { family, ema, evidence, prefix: prefix.to_owned(), names })
}

/// The most modules around a network that are searched for averages, since each search looks at all tensors, and the
/// longest prefix of their names.
const MAX_MODULES: usize = 8;
const MAX_PREFIX: usize = 1000;
/// The autoencoder of a latent diffusion model.
const AUTOENCODER: &str = "first_stage_model";

/// Describes a file without a known network.
fn unknown(shapes: &BTreeMap<&str, &[usize]>) -> String {
    let first_names: Vec<String> = shapes.keys().take(4).map(|name| format!("`{}`", shown(name))).collect();
    let families = MARKERS.map(|(_, name, _)| name).join(", ");
    format!("no network of a known family; its first tensors are {}. Supported are {families}", first_names.join(", "))
}

fn no_tensor(_: &str) -> bool {
    false
}

/// Replaces the sources of a network's tensors by their moving averages of CompVis' `LitEma`, and returns whether the file
/// has them. The average of `model.a.b.weight` is `model_ema.abweight`.
///
/// # Errors
/// If the names are ambiguous without their dots, or an average is missing or has another shape.
fn use_lit_ema(
    shapes: &BTreeMap<&str, &[usize]>,
    prefix: &str,
    ignored: fn(&str) -> bool,
    names: &mut BTreeMap<String, Source>,
) -> Result<bool, String> {
    if prefix.len() > MAX_PREFIX {
        return Ok(false);
    }
    // The averaged module can be any that the network is a part of: `model` or `model.diffusion_model`.
    let average = |end: usize, own: &str| {
        let inner = format!("{}{own}", &prefix[end..]).replace('.', "");
        format!("{}_ema.{inner}", &prefix[..end])
    };
    let mut ends = prefix.match_indices('.').map(|(end, _)| end).take(MAX_MODULES);
    let Some(end) = ends.find(|&end| names.keys().any(|own| shapes.contains_key(&*average(end, own)))) else {
        return Ok(false);
    };
    let way_out = "use --raw for the weights of the last step";
    let mut owners = BTreeMap::new();
    for (own, source) in names.iter_mut().filter(|(own, _)| !ignored(own)) {
        let full = average(end, own);
        match shapes.get(&*full) {
            Some(shape) if **shape == source.shape[..] => {}
            Some(shape) => {
                let (full, shape, raw) = (shown(full), shown_sizes(shape), shown_sizes(&source.shape));
                return Err(format!("the average `{full}` has shape {shape}, but its weights {raw}; {way_out}"));
            }
            None => {
                let (name, full) = (shown(&source.name), shown(full));
                return Err(format!("`{name}` has no average `{full}`, although others have one; {way_out}"));
            }
        }
        source.name.clone_from(&full);
        if let Some(other) = owners.insert(full, own) {
            let [one, other] = [shown(other), shown(own)];
            return Err(format!("`{one}` and `{other}` have the same name among the averages; {way_out}"));
        }
    }
    Ok(true)
}

/// Returns whether a prefix names moving averages.
fn is_average(prefix: &str) -> bool {
    let parts = || prefix.split(['.', '/']).map(str::to_ascii_lowercase);
    let names_average =
        |part: String| part.split('_').any(|word| word == "ema" || word == "averaged" || word == "shadow");
    // ema-pytorch stores the model that is averaged under `ema` too.
    parts().any(names_average) && !parts().any(|part| part == "online_model")
}

/// Returns whether the name of a file or of its folder says that it holds moving averages.
fn is_average_file(path: &std::path::Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let folder =
        path.parent().and_then(|folder| folder.file_name()).map(|name| name.to_string_lossy().to_ascii_lowercase());
    let is_average = |name: &str| name.split(['_', '-', '.']).any(|word| word == "ema");
    is_average(&name) || folder.is_some_and(|folder| is_average(&folder))
}
