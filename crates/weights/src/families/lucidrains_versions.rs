//! Versions 0.28 to 1.11 of lucidrains/denoising-diffusion-pytorch, in the terms of version 2.

use std::collections::BTreeMap;

use super::detect::{Detected, Source};
use crate::shown::shown;
use crate::{Archive, Tensors};

/// A number of a version: major, minor, patch.
type Number = [u32; 3];

/// The first versions with each network, and their names in `config.json`.
const NETWORKS: [(Number, &str); 6] = [
    ([0, 28, 0], "0.28"),
    ([0, 32, 0], "0.32"),
    ([1, 7, 0], "1.7"),
    ([1, 7, 4], "1.7.4"),
    ([1, 9, 0], "1.9"),
    ([2, 0, 0], "2"),
];

/// A tensor that only networks with classes have.
pub(super) const CLASSES: &str = "classes_emb.weight";

/// The version of a network.
pub(super) struct Version(Number);

impl Version {
    /// Returns the first version with the same network.
    pub fn network(&self) -> &'static str {
        NETWORKS.iter().rev().find(|(first, _)| *first <= self.0).map_or("0.28", |(_, name)| name)
    }

    /// Returns whether attention has memory tokens.
    pub fn has_memory(&self) -> bool {
        self.0 >= [1, 9, 0]
    }

    /// Returns whether the weights of 3×3 convolutions were standardized each time they were used.
    fn standardizes(&self) -> bool {
        self.0 < [1, 7, 2]
    }

    /// Returns what users should know of the network.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.0 < [2, 0, 0] {
            notes.push(format!(
                "a network of the code from version {}; assumed resnet_block_groups = 8, the default",
                self.network()
            ));
        }
        if self.standardizes() {
            notes.push("its convolutions are standardized here, once and for all".into());
        }
        notes
    }
}

/// Gives tensors the names of version 2. Before 1.8, an attention was inside a normalization and a residual connection.
pub(super) fn modernize(names: &mut BTreeMap<String, Source>) -> Result<(), String> {
    let old: Vec<String> = names.keys().filter(|name| name.contains(".fn.")).cloned().collect();
    for name in old {
        let modern = name.replace(".fn.fn.", ".").replace(".fn.norm.", ".norm.");
        if names.contains_key(&modern) {
            return Err(format!("tensors `{}` and `{}` are the same parameter", shown(name), shown(modern)));
        }
        if let Some(source) = names.remove(&name) {
            names.insert(modern, source);
        }
    }
    Ok(())
}

/// Finds the version by the tensors and by what the file or the user says.
pub(super) fn find(archive: &Archive, found: &Detected, given: Option<&str>) -> Result<Version, String> {
    let has = |name: &str| found.names.contains_key(name);
    let ends = |end: &str| found.names.keys().any(|name| name.ends_with(end));
    let (memory, group_norm) = (ends(".mem_kv"), has("downs.0.0.block1.norm.weight"));
    if has(CLASSES) {
        return find_with_classes(group_norm, given);
    }
    // What the tensors allow: from the first version to the one before the last.
    let [from, to] = match (group_norm, memory) {
        (false, _) => [[2, 0, 0], [u32::MAX; 3]],
        (true, true) => [[1, 9, 0], [2, 0, 0]],
        (true, false) if is_wrapped(found) => [[0, 28, 0], [1, 8, 0]],
        (true, false) => [[1, 8, 0], [1, 9, 0]],
    };
    let recorded = archive.text("version").filter(|_| group_norm);
    let Some(text) = given.or(recorded) else {
        if is_wrapped(found) {
            return Err(
                "it is of version 0.28 to 1.7, which differ in what they compute, and the file does not say which; give the \
                 version of denoising-diffusion-pytorch that trained it (--code-version 1.5.8)"
                    .into(),
            );
        }
        return Ok(Version(from));
    };
    let number = number(text).ok_or_else(|| format!("its version is `{}`; expected one such as 1.5.8", shown(text)))?;
    if number < NETWORKS[0].0 {
        return Err(format!("it is of version {}; only versions from 0.28 are supported", shown(text)));
    }
    // The strided convolutions of version 0 have shapes of their own.
    let is_strided = found.names.get("downs.0.3.weight").is_some_and(|source| source.shape.ends_with(&[4, 4]));
    let has_levels = has("downs.1.0.block1.proj.weight");
    if number < from || number >= to || (has_levels && is_strided != (number < [0, 32, 0])) {
        return Err(format!("its tensors are not those of version {} of the code (--code-version)", shown(text)));
    }
    Ok(Version(number))
}

/// Finds the version of a network with classes.
fn find_with_classes(group_norm: bool, given: Option<&str>) -> Result<Version, String> {
    let newest = NETWORKS[NETWORKS.len() - 1].0;
    let text = match (group_norm, given) {
        (false, None) => return Ok(Version(newest)),
        (true, None) => {
            return Err("it has classes and is of a version before 2, which differ in what they compute, and the file does not say \
                        which; give the version of denoising-diffusion-pytorch that trained it (--code-version 1.5.8)"
                .into());
        }
        (_, Some(text)) => text,
    };
    let number = number(text).ok_or_else(|| format!("its version is `{}`; expected one such as 1.5.8", shown(text)))?;
    if number < NETWORKS[1].0 || group_norm != (number < newest) {
        return Err(format!(
            "its tensors are not those of the network with classes of version {} of the code (--code-version)",
            shown(text)
        ));
    }
    Ok(Version(number))
}

/// Returns whether attention is inside other modules, as before 1.8.
fn is_wrapped(found: &Detected) -> bool {
    found.names.values().any(|source| source.name.ends_with(".fn.norm.g"))
}

/// Parses the number of a version.
fn number(text: &str) -> Option<Number> {
    let mut parts = text.split('.');
    let mut number = [0; 3];
    for (i, part) in number.iter_mut().enumerate() {
        match parts.next() {
            Some(digits) => *part = digits.parse().ok()?,
            None if i > 0 => break,
            None => return None,
        }
    }
    parts.next().is_none().then_some(number)
}

/// Standardizes the weights of 3×3 convolutions in residual blocks, if the version did so (Qiao et al. 2019, arXiv 1903.10520):
/// those of each output channel get mean 0 and variance 1.
pub(super) fn standardize(tensors: &mut Tensors, version: &Version) {
    const EPSILON: f64 = 1e-5;
    if !version.standardizes() {
        return;
    }
    let is_standardized = |name: &str| name.ends_with(".block1.proj.weight") || name.ends_with(".block2.proj.weight");
    for (_, tensor) in tensors.iter_mut().filter(|(name, _)| is_standardized(name)) {
        let per_channel = tensor.data.len() / tensor.shape.first().copied().unwrap_or(1).max(1);
        for channel in tensor.data.chunks_mut(per_channel.max(1)) {
            let n = channel.len() as f64;
            let mean = channel.iter().map(|&w| f64::from(w)).sum::<f64>() / n;
            let variance = channel.iter().map(|&w| (f64::from(w) - mean).powi(2)).sum::<f64>() / n;
            // Version 1.7.1 alone limits the variance, where the others add to it.
            let variance = if version.0 == [1, 7, 1] { variance.max(EPSILON) } else { variance + EPSILON };
            channel.iter_mut().for_each(|w| *w = ((f64::from(*w) - mean) / variance.sqrt()) as f32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_one_to_three_parts() {
        assert_eq!(number("1.5.8"), Some([1, 5, 8]));
        assert_eq!(number("0.28"), Some([0, 28, 0]));
        assert_eq!(number("2"), Some([2, 0, 0]));
        for text in ["", "1.", "1.2.3.4", "v1.2", "1.x", "-1"] {
            assert_eq!(number(text), None, "{text}");
        }
    }

    #[test]
    fn versions_have_the_network_of_the_first_with_it() {
        let cases = [
            ("0.31.1", "0.28"),
            ("1.6.4", "0.32"),
            ("1.7.3", "1.7"),
            ("1.8.15", "1.7.4"),
            ("1.11.1", "1.9"),
            ("2.3.4", "2"),
        ];
        for (text, network) in cases {
            assert_eq!(Version(number(text).unwrap()).network(), network);
        }
    }
}
