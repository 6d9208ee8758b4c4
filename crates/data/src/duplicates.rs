//! Images that are there twice, and held-out images that training has seen: a bound or a distance that was measured
//! on them says too little.

use crate::{Error, ImageSet, Result};
use rayon::prelude::*;
use serde::Serialize;
use std::collections::HashMap;
use std::fmt;
use twox_hash::XxHash3_128;

/// Groups of images whose pixels are the same, as the set gives them (after any resizing), each group and the groups
/// in the order of the set. A streamed set's images that cannot be decoded are passed over.
///
/// Every image is read once; 128 bits of each are kept (XXH3), not its pixels. Two of a billion different images
/// would agree by chance once in 10²⁰ sets; someone who wants to can make two that do.
pub fn duplicates(set: &ImageSet) -> Vec<Vec<usize>> {
    let mut order = hashes(set);
    order.par_sort_unstable();
    let groups = order.chunk_by(|a, b| a.0 == b.0).filter(|group| group.len() > 1);
    let mut groups: Vec<Vec<usize>> =
        groups.map(|group| group.iter().map(|&(_, index)| index as usize).collect()).collect();
    groups.sort_unstable_by_key(|group| group[0]);
    groups
}

/// Images of `held_out` whose pixels are also in `train`, each with the first of those there, as `(held out, train)`.
///
/// # Errors
/// [`Error::Argument`] if the images of one set have another shape than those of the other.
pub fn leaks(train: &ImageSet, held_out: &ImageSet) -> Result<Vec<(usize, usize)>> {
    let shape = |set: &ImageSet| [set.height(), set.width(), set.channels()];
    if shape(train) != shape(held_out) {
        let message = format!("images of {:?} cannot be in a set of {:?}", shape(held_out), shape(train));
        return Err(Error::Argument(message));
    }
    let mut seen = HashMap::new();
    for (hash, index) in hashes(train) {
        seen.entry(hash).or_insert(index as usize);
    }
    let found = hashes(held_out).into_iter().filter_map(|(hash, index)| Some((index as usize, *seen.get(&hash)?)));
    Ok(found.collect())
}

/// The hash of every image that can be read, in the order of the set.
fn hashes(set: &ImageSet) -> Vec<(u128, u32)> {
    let bytes = set.height() * set.width() * set.channels();
    let hash = |pixels: &mut Vec<u8>, index: usize| {
        set.read(&[index], pixels).ok()?;
        Some((XxHash3_128::oneshot(pixels), index as u32))
    };
    (0..set.len()).into_par_iter().map_init(|| vec![0; bytes], hash).flatten().collect()
}

/// What `ddpm inspect --duplicates` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Images that are there more than once.
    pub groups: Vec<Group>,
    /// How many images would be left out to have each once.
    pub copies: usize,
    /// How many groups have images of several classes.
    pub labels_differ: usize,
    /// Held-out images that are in the training part; `None` if the set is not divided.
    pub leaked: Option<Vec<Leak>>,
}

/// Images that are the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    /// Where they are: see [`ImageSet::place`].
    pub images: Vec<String>,
    /// Whether they are of several classes.
    pub labels_differ: bool,
}

/// A held-out image that training has seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Leak {
    /// Where it is held out.
    pub held_out: String,
    /// Where it is in the training part, first.
    pub train: String,
}

/// Finds the duplicates in a set, and what has leaked from the second of the two `parts` into the first.
///
/// # Errors
/// As for [`leaks`].
pub fn summary(set: &ImageSet, parts: Option<(&ImageSet, &ImageSet)>) -> Result<Summary> {
    let place = |set: &ImageSet, index| set.place(index).display().to_string();
    let groups = duplicates(set);
    let copies = groups.iter().map(|group| group.len() - 1).sum();
    let differ = |group: &[usize]| set.labels().is_some_and(|l| group.iter().any(|&index| l[index] != l[group[0]]));
    let groups: Vec<Group> = groups
        .iter()
        .map(|group| Group {
            images: group.iter().map(|&index| place(set, index)).collect(),
            labels_differ: differ(group),
        })
        .collect();
    let named = |(train, held_out)| {
        let name = |(out, seen)| Leak { held_out: place(held_out, out), train: place(train, seen) };
        Ok(leaks(train, held_out)?.into_iter().map(name).collect())
    };
    let leaked = parts.map(named).transpose()?;
    let labels_differ = groups.iter().filter(|group| group.labels_differ).count();
    Ok(Summary { groups, copies, labels_differ, leaked })
}

/// How many groups or leaks are shown to a person; all are in the serialised form.
const SHOWN: usize = 10;

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Summary { groups, copies, labels_differ, leaked } = self;
        write!(
            f,
            "copies    {copies} in {} groups of equal images, {labels_differ} with several labels",
            groups.len()
        )?;
        for group in groups.iter().take(SHOWN) {
            let more =
                if group.images.len() > 4 { format!(" and {} more", group.images.len() - 4) } else { String::new() };
            let first = &group.images[..group.images.len().min(4)];
            let labels = if group.labels_differ { " (labels differ)" } else { "" };
            write!(f, "\n  equal   {}{more}{labels}", first.join(" = "))?;
        }
        match leaked {
            None => write!(f, "\nleaked    nothing: the set has no held-out part"),
            Some(leaked) => {
                write!(f, "\nleaked    {} held-out images are in the training part", leaked.len())?;
                for leak in leaked.iter().take(SHOWN) {
                    write!(f, "\n  leaked  {} = {}", leak.held_out, leak.train)?;
                }
                Ok(())
            }
        }
    }
}
