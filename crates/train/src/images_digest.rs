//! A digest of a set of images, to recognize another set.

use std::path::Path;

use data::ImageSet;
use serde::{Deserialize, Serialize};
use weights::pipeline::MAX_STATE;

/// The number of images of a streamed set whose pixels enter the digest: each of them is decoded for it.
const IMAGES: usize = 16;

/// The properties by which a set of images is recognized.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImagesDigest {
    /// The number of images.
    pub count: usize,
    /// H, W, C.
    pub shape: [usize; 3],
    /// The names of the classes.
    pub classes: Vec<String>,
    /// The CRC-32 of the pixels and labels of 16 images, evenly spaced over the set.
    pub crc32: String,
    /// The CRC-32 of the pixels of all images, if they are in memory. None in checkpoints that predate the key.
    #[serde(default)]
    pub pixels: Option<String>,
    /// The CRC-32 of the labels of all images. None if there are no labels, and in checkpoints that predate the key.
    #[serde(default)]
    pub labels: Option<String>,
}

impl ImagesDigest {
    /// Computes the digest of a set.
    ///
    /// # Errors
    /// If an image of a streamed set cannot be decoded.
    pub fn new(set: &ImageSet) -> Result<Self, data::Error> {
        let chosen = IMAGES.min(set.len());
        let indices: Vec<usize> = (0..chosen).map(|i| i * set.len() / chosen).collect();
        let mut digest = crc32fast::Hasher::new();
        digest.update(&set.read_bytes(indices.iter().copied())?);
        for label in set.labels().into_iter().flat_map(|labels| indices.iter().map(|&i| labels[i])) {
            digest.update(&label.to_le_bytes());
        }
        let (count, classes) = (set.len(), set.class_names().to_vec());
        let pixels = if set.is_streamed() { None } else { Some(hex(pixels(set)?)) };
        let labels = set.labels().map(|labels| {
            let mut digest = crc32fast::Hasher::new();
            labels.iter().for_each(|label| digest.update(&label.to_le_bytes()));
            hex(digest)
        });
        Ok(Self { count, shape: set.shape(), classes, crc32: hex(digest), pixels, labels })
    }

    /// Returns the digest of the images that a checkpoint of a run was trained on; `None` if it has none.
    pub fn of_checkpoint(folder: &Path) -> Option<Self> {
        #[derive(Deserialize)]
        struct State {
            images: Option<ImagesDigest>,
        }
        let text = files::read_text_up_to(folder.join("training/state.json"), MAX_STATE).ok()?;
        serde_json::from_str::<State>(&text).ok()?.images
    }

    /// Returns the differences to the digest of a later set in words, or `None` if there is none.
    pub fn difference(&self, new: &Self) -> Option<String> {
        let shape = |digest: &Self| digest.shape.map(|n| n.to_string()).join("x");
        let mut differences = Vec::new();
        if self.count != new.count {
            differences.push(format!("{} images instead of {}", new.count, self.count));
        }
        if self.shape != new.shape {
            differences.push(format!("{} instead of {}", shape(new), shape(self)));
        }
        if self.classes.len() != new.classes.len() {
            differences.push(format!("{} classes instead of {}", new.classes.len(), self.classes.len()));
        } else if self.classes != new.classes {
            differences.push("other classes".to_owned());
        }
        let differ = |old: &Option<String>, new: &Option<String>| matches!((old, new), (Some(a), Some(b)) if a != b);
        let other_pixels = differ(&self.pixels, &new.pixels);
        if differences.is_empty() && (self.crc32 != new.crc32 || other_pixels || differ(&self.labels, &new.labels)) {
            differences.push("other pixels or labels".to_owned());
        }
        (!differences.is_empty()).then(|| differences.join(", "))
    }
}

/// Computes the digest of the pixels of all images.
fn pixels(set: &ImageSet) -> Result<crc32fast::Hasher, data::Error> {
    const BLOCK: usize = 1024;
    let mut digest = crc32fast::Hasher::new();
    for first in (0..set.len()).step_by(BLOCK) {
        digest.update(&set.read_bytes(first..set.len().min(first + BLOCK))?);
    }
    Ok(digest)
}

fn hex(digest: crc32fast::Hasher) -> String {
    format!("{:08x}", digest.finalize())
}
