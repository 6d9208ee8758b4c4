//! Training batches, prepared on a thread of their own. What is in a batch depends on the seed and the step alone.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use data::ImageSet;
use random::{Random, Stream};

use crate::Error;

/// Images of one step, scaled, mirrored and labelled.
#[derive(Clone, Debug)]
pub struct Batch {
    /// N,H,W,C in [-1, 1].
    pub x0: Vec<f32>,
    /// A class for each image, where labels are used.
    pub labels: Option<Vec<u32>>,
}

/// How batches are made.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The run's randomness.
    pub random: Random,
    /// Images of a step.
    pub images: usize,
    /// Whether each image is mirrored with probability ½.
    pub flip: bool,
    /// Whether labels are wanted.
    pub labels: bool,
    /// Probability with which a label is replaced by `null_label` (classifier-free guidance, Ho & Salimans 2022).
    pub label_dropout: f64,
    /// The label of no class.
    pub null_label: u32,
}

impl Plan {
    /// The batch of a step.
    ///
    /// # Errors
    /// If an image of a streamed set cannot be decoded.
    pub fn batch(&self, set: &ImageSet, step: u64) -> Result<Batch, Error> {
        let (len, first) = (set.len() as u64, step * self.images as u64);
        let positions = first..first + self.images as u64;
        let indices: Vec<usize> =
            positions.clone().map(|p| self.random.shuffled(p / len, len, p % len) as usize).collect();
        let [height, width, channels] = set.shape();
        let mut x0 = sample::output::from_u8(&set.read(indices.iter().copied())?);
        if self.flip {
            let images = x0.chunks_mut(height * width * channels);
            for (i, image) in images.enumerate() {
                if self.random.below(Stream::Flip, i as u64, step, 2) == 1 {
                    image.chunks_mut(width * channels).for_each(|row| mirror(row, channels));
                }
            }
        }
        let labels = set.labels().filter(|_| self.labels).map(|all| {
            let label = |(i, &index): (usize, &usize)| {
                let dropped = self.random.uniform(Stream::LabelDropout, i as u64, step) < self.label_dropout;
                if dropped { self.null_label } else { all[index] }
            };
            indices.iter().enumerate().map(label).collect()
        });
        Ok(Batch { x0, labels })
    }

    /// The batches of `first` and the steps after, two of them ready in advance. The thread ends when the receiver is dropped.
    pub fn stream(self, set: Arc<ImageSet>, first: u64) -> Receiver<Result<Batch, Error>> {
        let (sender, receiver) = sync_channel(2);
        thread::spawn(move || {
            for step in first.. {
                let batch = self.batch(&set, step);
                let failed = batch.is_err();
                if sender.send(batch).is_err() || failed {
                    return;
                }
            }
        });
        receiver
    }
}

/// Reverses the pixels of a row.
fn mirror(row: &mut [f32], channels: usize) {
    let pixels = row.len() / channels;
    for i in 0..pixels / 2 {
        for c in 0..channels {
            row.swap(i * channels + c, (pixels - 1 - i) * channels + c);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(flip: bool) -> Plan {
        Plan { random: Random::new(5), images: 64, flip, labels: true, label_dropout: 0.25, null_label: 10 }
    }

    #[test]
    fn an_epoch_shows_every_image_once_and_labels_are_dropped_as_often_as_asked() {
        let set = data::builtin(&data::ReadOptions { split: data::Split::Test, ..Default::default() }).unwrap();
        let plan = Plan { images: 100, ..plan(false) };
        let mut labels = vec![0; 11];
        for step in 0..10 {
            for label in plan.batch(&set, step).unwrap().labels.unwrap() {
                labels[label as usize] += 1;
            }
        }
        assert!((190..310).contains(&labels[10]), "{labels:?}");
        let all = Plan { label_dropout: 0.0, ..plan };
        let mut labels = vec![0; 10];
        for step in 0..10 {
            for label in all.batch(&set, step).unwrap().labels.unwrap() {
                labels[label as usize] += 1;
            }
        }
        assert_eq!(labels, [100; 10]);
    }

    #[test]
    fn about_half_the_images_are_mirrored_and_only_mirrored() {
        let set = data::builtin(&data::ReadOptions { split: data::Split::Test, ..Default::default() }).unwrap();
        let (plain, flipped) = (plan(false).batch(&set, 3).unwrap().x0, plan(true).batch(&set, 3).unwrap().x0);
        let (size, width) = (set.height() * set.width(), set.width());
        let mut mirrored = 0;
        for (a, b) in plain.chunks(size).zip(flipped.chunks(size)) {
            if a != b {
                mirrored += 1;
                for (a, b) in a.chunks(width).zip(b.chunks(width)) {
                    assert!(a.iter().eq(b.iter().rev()));
                }
            }
        }
        assert!((20..=44).contains(&mirrored), "{mirrored}");
    }
}
