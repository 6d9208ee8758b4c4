//! Which of a file's tensors are the network: the family, by a name that only it has, and what stands before the names.
//!
//! Nothing is known here of how each program wraps its states. A checkpoint with `net_model`, `ema_model`, `optim` has the
//! family's names under two of them, and that is how they are found; an average is one that says so in its prefix.

use crate::Archive;
use crate::tensorflow::{EMA, prefer_ema};
use std::collections::BTreeMap;

/// Whose network.
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

/// The families and a tensor that no other has.
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
    pub fn name(self) -> &'static str {
        MARKERS.iter().find(|(family, ..)| *family == self).map_or("", |(_, name, _)| name)
    }
}

/// A tensor of the network.
#[derive(Debug)]
pub(super) struct Source {
    /// Its name in the file.
    pub name: String,
    pub shape: Vec<usize>,
}

/// A network in a file.
#[derive(Debug)]
pub(super) struct Detected {
    pub family: Family,
    pub ema: bool,
    pub prefix: String,
    /// By the family's names, without the prefix.
    pub names: BTreeMap<String, Source>,
}

/// Finds the network, the average of its weights unless `raw`.
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
    // The elements of a list say nothing of themselves: a state is followed by its average (ermongroup/ddim).
    let number = |prefix: &str| prefix.split('.').next()?.parse::<usize>().ok();
    let first = candidates.iter().filter_map(|(_, prefix, _)| number(prefix)).min();
    for (_, prefix, average) in &mut candidates {
        *average |= number(prefix) > first;
    }
    candidates.sort_by_key(|(_, prefix, average)| (*average == raw, prefix.len()));
    let Some(&(family, prefix, average)) = candidates.first() else {
        let some: Vec<&str> = archive.shapes().map(|(name, _)| name).take(4).collect();
        let known: Vec<&str> = MARKERS.iter().map(|(_, name, _)| *name).collect();
        return Err(format!("no network of a known family ({}); its tensors begin with {some:?}", known.join(", ")));
    };
    // OpenAI's averages and those of pesser's releases are files of their own.
    let ema = average || (candidates.len() == 1 && is_average_file(archive.path()));

    let shapes: BTreeMap<&str, &[usize]> = archive.shapes().collect();
    let in_file: BTreeMap<&str, &str> = match family {
        Family::HoTensorFlow if average => prefer_ema(shapes.keys().copied()),
        _ => shapes.keys().map(|name| (*name, *name)).collect(),
    };
    // A network whose names stand alone may lie beside others in the same dictionary.
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

fn is_average(prefix: &str) -> bool {
    let parts = || prefix.split(['.', '/']).map(str::to_ascii_lowercase);
    let says_so = |part: String| part.split('_').any(|word| word == "ema" || word == "averaged" || word == "shadow");
    // ema-pytorch keeps the model itself beside its average, under `ema` too.
    parts().any(says_so) && !parts().any(|part| part == "online_model")
}

fn is_average_file(path: &std::path::Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let folder =
        path.parent().and_then(|folder| folder.file_name()).map(|name| name.to_string_lossy().to_ascii_lowercase());
    name.starts_with("ema") || folder.is_some_and(|folder| folder.starts_with("ema_"))
}
