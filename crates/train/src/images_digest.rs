//! A cheap digest of a set of images, to recognize another set.

use data::ImageSet;
use serde::{Deserialize, Serialize};

/// The number of images whose pixels enter the digest.
const IMAGES: usize = 16;

/// What a set of images is recognized by.
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
}

impl ImagesDigest {
    /// Computes the digest of a set.
    ///
    /// # Errors
    /// If an image of a streamed set cannot be decoded.
    pub fn new(set: &ImageSet) -> Result<Self, data::Error> {
        let chosen = IMAGES.min(set.len());
        let indices: Vec<usize> = (0..chosen).map(|i| i * set.len() / chosen).collect();
        let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);
        let mut digest = crc.digest();
        digest.update(&set.read(indices.iter().copied())?);
        for label in set.labels().into_iter().flat_map(|labels| indices.iter().map(|&i| labels[i])) {
            digest.update(&label.to_le_bytes());
        }
        let (count, classes) = (set.len(), set.class_names().to_vec());
        Ok(Self { count, shape: set.shape(), classes, crc32: format!("{:08x}", digest.finalize()) })
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
        if differences.is_empty() && self.crc32 != new.crc32 {
            differences.push("other pixels or labels".to_owned());
        }
        (!differences.is_empty()).then(|| differences.join(", "))
    }
}
