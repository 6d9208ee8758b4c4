use crate::error::{Error, Result};
use crate::set::ImageSet;
use rayon::prelude::*;
use serde::Serialize;
use std::collections::HashMap;
use std::fmt;
use twox_hash::XxHash3_128;

/// Returns groups of images with equal pixels (after any resizing).
///
/// Groups, and the indices in each group, are in the order of the set. Images of a streamed set that cannot be decoded
/// are skipped. Every image is read once, and only a 128-bit hash (XXH3) of it is kept. Two different images among a
/// billion have equal hashes with probability about 10⁻²¹; the hash is not secure against deliberate collisions.
pub fn duplicates(set: &ImageSet) -> Vec<Vec<usize>> {
    let mut order = hashes(set);
    order.par_sort_unstable();
    let groups = order.chunk_by(|a, b| a.0 == b.0).filter(|group| group.len() > 1);
    let mut groups: Vec<Vec<usize>> =
        groups.map(|group| group.iter().map(|&(_, index)| index as usize).collect()).collect();
    groups.sort_unstable_by_key(|group| group[0]);
    groups
}

/// Returns the images of `held_out` whose pixels also occur in `train`, each with the index of its first occurrence
/// there, as `(held_out, train)`.
///
/// # Errors
/// [`Error::Argument`] if the two sets differ in shape.
pub fn leaks(train: &ImageSet, held_out: &ImageSet) -> Result<Vec<(usize, usize)>> {
    if train.shape() != held_out.shape() {
        let message = format!(
            "the shapes of the two sets must match to compare their images, but the held-out images are {:?} and the \
             training images {:?}",
            held_out.shape(),
            train.shape()
        );
        return Err(Error::Argument(message));
    }
    let mut seen = HashMap::new();
    for (hash, index) in hashes(train) {
        seen.entry(hash).or_insert(index as usize);
    }
    let found = hashes(held_out).into_iter().filter_map(|(hash, index)| Some((index as usize, *seen.get(&hash)?)));
    Ok(found.collect())
}

/// Returns the hash and index of every image that can be decoded, in the order of the set.
fn hashes(set: &ImageSet) -> Vec<(u128, u32)> {
    let image_bytes = set.shape().iter().product();
    let hash = |pixels: &mut Vec<u8>, index: usize| {
        set.read_into(&[index], pixels).ok()?;
        Some((XxHash3_128::oneshot(pixels), index as u32))
    };
    (0..set.len()).into_par_iter().map_init(|| vec![0; image_bytes], hash).flatten().collect()
}

/// Duplicate images by file name, as `ddpm inspect --duplicates` prints them.
///
/// Duplicates bias a metric, and a metric on held-out images that occur in the training set says little about
/// generalization.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DuplicateReport {
    /// Groups of equal images.
    pub groups: Vec<DuplicateGroup>,
    /// Number of images to remove so that each occurs once.
    pub copies: usize,
    /// Number of groups whose images have different labels.
    pub labels_differ: usize,
    /// Held-out images that occur in the training set. `None` if the set has no held-out split.
    pub leaked: Option<Vec<Leak>>,
}

/// A group of equal images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DuplicateGroup {
    /// Paths of the images ([`ImageSet::image_path`]).
    pub images: Vec<String>,
    /// Whether the images have different labels.
    pub labels_differ: bool,
}

/// A held-out image that occurs in the training set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Leak {
    /// Path of the held-out image.
    pub held_out: String,
    /// Path of the first equal training image.
    pub train: String,
}

impl DuplicateReport {
    /// Finds the duplicates in `set`, and the [`leaks`] between two splits `(train, held_out)`.
    ///
    /// # Errors
    /// [`Error::Argument`] if the two splits differ in shape.
    pub fn new(set: &ImageSet, splits: Option<(&ImageSet, &ImageSet)>) -> Result<DuplicateReport> {
        let path = |set: &ImageSet, index| set.image_path(index).display().to_string();
        let groups = duplicates(set);
        let copies = groups.iter().map(|group| group.len() - 1).sum();
        let differ = |group: &[usize]| set.labels().is_some_and(|l| group.iter().any(|&index| l[index] != l[group[0]]));
        let groups: Vec<DuplicateGroup> = groups
            .iter()
            .map(|group| DuplicateGroup {
                images: group.iter().map(|&index| path(set, index)).collect(),
                labels_differ: differ(group),
            })
            .collect();
        let named = |(train, held_out)| {
            let name = |(out, seen)| Leak { held_out: path(held_out, out), train: path(train, seen) };
            Ok(leaks(train, held_out)?.into_iter().map(name).collect())
        };
        let leaked = splits.map(named).transpose()?;
        let labels_differ = groups.iter().filter(|group| group.labels_differ).count();
        Ok(DuplicateReport { groups, copies, labels_differ, leaked })
    }
}

/// Number of groups and leaks that `Display` prints. The serialized form has all of them.
const MAX_SHOWN: usize = 10;

impl fmt::Display for DuplicateReport {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let DuplicateReport { groups, copies, labels_differ, leaked } = self;
        write!(
            f,
            "copies    {copies} in {} groups of equal images, {labels_differ} with several labels",
            groups.len()
        )?;
        for group in groups.iter().take(MAX_SHOWN) {
            let more =
                if group.images.len() > 4 { format!(" and {} more", group.images.len() - 4) } else { String::new() };
            let first = &group.images[..group.images.len().min(4)];
            let labels = if group.labels_differ { " (labels differ)" } else { "" };
            write!(f, "\n  equal   {}{more}{labels}", first.join(" = "))?;
        }
        match leaked {
            None => write!(f, "\nleaked    not checked: the set has no held-out split"),
            Some(leaked) => {
                write!(f, "\nleaked    {} held-out images occur in the training set", leaked.len())?;
                for leak in leaked.iter().take(MAX_SHOWN) {
                    write!(f, "\n  leaked  {} = {}", leak.held_out, leak.train)?;
                }
                Ok(())
            }
        }
    }
}
