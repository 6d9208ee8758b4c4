//! Detecting the family of a network and the prefix of its tensors, by a tensor name that only that family has.
//!
//! The nesting of checkpoints is not hard-coded: in one with `net_model`, `ema_model` and `optim`, the family's names
//! are found under the first two. Moving averages are recognized by their prefix.

use crate::Archive;
use crate::tensorflow::{EMA, prefer_ema};
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
}

/// The families with their names, and a tensor that no other family has.
///
/// Hmdolatabadi and Lucidrains are recognized only to report why they are not supported, but the error for unknown
/// networks lists them as known families too.
const MARKERS: [(Family, &str, &str); 7] = [
    (Family::Diffusers, "diffusers", "down_blocks.0.resnets.0.norm1.weight"),
    (Family::HoTensorFlow, "hojonathanho/diffusion", "down_0/block_0/norm1/gamma"),
    (Family::HoTorch, "pesser/pytorch_diffusion", "down.0.block.0.norm1.weight"),
    (Family::OpenAi, "openai/improved-diffusion or guided-diffusion", "input_blocks.1.0.in_layers.0.weight"),
    (Family::W86763777, "w86763777/pytorch-ddpm", "downblocks.0.block1.0.weight"),
    (Family::Hmdolatabadi, "hmdolatabadi/denoising_diffusion", "down.1.resblocks.norm1.weight"),
    (Family::Lucidrains, "lucidrains/denoising-diffusion-pytorch", "downs.0.0.block1.proj.weight"),
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
    pub prefix: String,
    /// The tensors by the family's names, without the prefix.
    pub names: BTreeMap<String, Source>,
}

/// Finds the network in `archive`: the moving averages of its weights if there are any, unless `raw`.
pub(super) fn detect(archive: &Archive, raw: bool) -> Result<Detected, String> {
    let mut candidates = Vec::new();
    for (name, _) in archive.shapes() {
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
    for (_, prefix, average) in &mut candidates {
        *average |= number(prefix) > first;
    }
    candidates.sort_by_key(|(_, prefix, average)| (*average == raw, prefix.len()));
    let Some(&(family, prefix, average)) = candidates.first() else {
        let first_names: Vec<&str> = archive.shapes().map(|(name, _)| name).take(4).collect();
        let known: Vec<&str> = MARKERS.iter().map(|(_, name, _)| *name).collect();
        return Err(format!(
            "no network of a known family ({}); its first tensors are {first_names:?}",
            known.join(", ")
        ));
    };
    // OpenAI's programs and pesser's releases write averages to separate files.
    let ema = average || (candidates.len() == 1 && is_average_file(archive.path()));

    let shapes: BTreeMap<&str, &[usize]> = archive.shapes().collect();
    let in_file: BTreeMap<&str, &str> = match family {
        Family::HoTensorFlow if average => prefer_ema(shapes.keys().copied()),
        _ => shapes.keys().map(|name| (*name, *name)).collect(),
    };
    // Tensors under a longer prefix belong to another network in the same dictionary.
    let inner = |other: &&str| other.len() > prefix.len() && other.starts_with(prefix);
    let others: Vec<&str> = candidates.iter().map(|(_, other, _)| *other).filter(inner).collect();
    let mut names = BTreeMap::new();
    for (name, full) in in_file {
        if let Some(own) = name.strip_prefix(prefix)
            && !others.iter().any(|other| name.starts_with(other))
        {
            names.insert(own.to_owned(), Source { name: full.to_owned(), shape: shapes[full].to_vec() });
        }
    }
    Ok(Detected { family, ema, prefix: prefix.to_owned(), names })
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
    name.starts_with("ema") || folder.is_some_and(|folder| folder.starts_with("ema_"))
}
