//! Training batches, prepared on a thread of their own. A batch depends on the seed and the step alone.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use data::{Fit, ImageSet};
use model::Images;
use random::{Random, Stream};
use rayon::prelude::*;

use crate::Error;
use crate::augment::{self, Augmentation, mirror};

/// The images of one step, or the part of them that this process works on. All randomness of an image is indexed by its
/// place in the global batch, so that dividing a batch changes no number.
#[derive(Clone, Debug)]
pub struct Batch {
    /// x_0 in [-1, 1], with a class for each image where the network has classes.
    pub images: Images,
    /// The numbers that describe how each image was augmented, [`augment::WIDTH`] for each; empty without augmentation.
    pub augment_labels: Vec<f32>,
    /// The place of the first image in the global batch.
    pub first: usize,
    /// The number of images of the global batch, over all processes.
    pub global_size: usize,
}

impl Batch {
    /// A batch that is not divided.
    pub fn whole(images: Images) -> Self {
        Self { augment_labels: Vec::new(), first: 0, global_size: images.n, images }
    }
}

/// Reads, crops, mirrors and labels the images of each step.
#[derive(Clone)]
pub struct DataLoader {
    /// The images.
    pub set: Arc<ImageSet>,
    /// The randomness of order, crops, mirroring and label dropout.
    pub random: Random,
    /// The number of images of a step, over all processes.
    pub global_size: usize,
    /// The places in the global batch of the images that are read.
    pub range: Range<usize>,
    /// Whether each image is mirrored with probability ½.
    pub flip: bool,
    /// The probability of each augmentation. 0 for none.
    pub augment: f64,
    /// Whether images get their labels.
    pub labels: bool,
    /// The probability with which a label is replaced by the number of classes, which stands for no class
    /// (classifier-free guidance, Ho & Salimans 2022).
    pub label_dropout: f64,
}

impl DataLoader {
    /// Batches of `size` images, neither mirrored nor labelled.
    pub fn new(set: Arc<ImageSet>, random: Random, size: usize) -> Self {
        Self {
            set,
            random,
            global_size: size,
            range: 0..size,
            flip: false,
            augment: 0.0,
            labels: false,
            label_dropout: 0.0,
        }
    }

    /// Returns the batch of a step.
    ///
    /// # Errors
    /// If an image of a streamed set cannot be decoded.
    pub fn batch(&self, step: u64) -> Result<Batch, Error> {
        let Self { set, random, range, .. } = self;
        let (len, start) = (set.len() as u64, step * self.global_size as u64);
        let index = |place: usize| {
            let position = start + place as u64;
            random.shuffled(position / len, len, position % len) as usize
        };
        let indices: Vec<usize> = range.clone().map(index).collect();
        let mut images = match set.fit() {
            Fit::RandomCrop => {
                let mut positions = vec![[0.0; 2]; indices.len()];
                for (place, position) in range.clone().zip(&mut positions) {
                    random.uniforms_f64(Stream::Crop, place as u64, step, position);
                }
                let labels = set.labels().map(|labels| indices.iter().map(|&i| labels[i]).collect());
                Images::from_bytes(set.shape(), &set.read_crops(&indices, &positions)?).with_labels(labels)
            }
            _ => Images::read(set, &indices)?,
        };
        if self.flip {
            let (width, channels) = (images.width, images.channels);
            let size = images.height * width * channels;
            for (place, image) in range.clone().zip(images.pixels.chunks_mut(size)) {
                if random.below(Stream::Flip, place as u64, step, 2) == 1 {
                    image.chunks_mut(width * channels).for_each(|row| mirror(row, channels));
                }
            }
        }
        let augment_labels = self.augment_images(&mut images, step);
        let no_class = set.class_names().len() as u32;
        let labels = images.labels.take().filter(|_| self.labels).map(|labels| {
            let dropped = |place: usize| random.uniform(Stream::LabelDropout, place as u64, step) < self.label_dropout;
            range.clone().zip(labels).map(|(place, label)| if dropped(place) { no_class } else { label }).collect()
        });
        let (first, global_size) = (range.start, self.global_size);
        Ok(Batch { images: images.with_labels(labels), augment_labels, first, global_size })
    }

    /// Augments the images of a step, and returns what describes it to the network.
    fn augment_images(&self, images: &mut Images, step: u64) -> Vec<f32> {
        if self.augment == 0.0 {
            return Vec::new();
        }
        let [_, height, width, channels] = images.shape();
        let size = height * width * channels;
        let augment = |(place, image): (usize, &mut [f32])| {
            let augmentation = Augmentation::draw(self.augment, &self.random, place as u64, step);
            augmentation.apply(image, [height, width, channels]);
            augmentation.labels()
        };
        let labels: Vec<[f32; augment::WIDTH]> =
            self.range.clone().into_par_iter().zip(images.pixels.par_chunks_mut(size)).map(augment).collect();
        labels.concat()
    }

    /// Prepares the batches of step `first` and all later ones on a thread, two of them in advance. The thread ends when
    /// the batches are dropped.
    pub fn stream(self, first: u64) -> Batches {
        let (sender, receiver) = sync_channel(2);
        let report = sender.clone();
        let started = thread::Builder::new().name("images".to_owned()).spawn(move || {
            for step in first.. {
                let batch = self.batch(step);
                let failed = batch.is_err();
                if sender.send(batch).is_err() || failed {
                    return;
                }
            }
        });
        if let Err(error) = started {
            let message = format!("the thread that reads images cannot be started: {error}");
            // There is room for it, and the receiver is here.
            let _ = report.send(Err(Error::Run(message)));
        }
        Batches(receiver)
    }
}

/// The time after which a thread that waits for a batch looks for other work again.
const PATIENCE: Duration = Duration::from_millis(1);

/// The batches of successive steps.
pub struct Batches(Receiver<Result<Batch, Error>>);

impl Batches {
    /// Waits for the next batch. On a thread of rayon's pool, it does the pool's work meanwhile: images are decoded in the
    /// pool, which may have no other thread.
    ///
    /// # Errors
    /// If an image of a streamed set cannot be decoded.
    #[expect(clippy::should_implement_trait, reason = "there is always a next batch or an error")]
    pub fn next(&mut self) -> Result<Batch, Error> {
        let ended = || Err(Error::Run("the thread that reads images ended unexpectedly".into()));
        let mut patience = Duration::ZERO;
        loop {
            match self.0.recv_timeout(patience) {
                Err(RecvTimeoutError::Timeout) => {}
                batch => return batch.unwrap_or_else(|_| ended()),
            }
            patience = match rayon::yield_now() {
                Some(rayon::Yield::Executed) => Duration::ZERO,
                Some(rayon::Yield::Idle) => PATIENCE,
                None => return self.0.recv().unwrap_or_else(|_| ended()),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loader(size: usize, flip: bool) -> DataLoader {
        let set = data::builtin(&data::ReadOptions { split: data::Split::Test, ..Default::default() }).unwrap();
        let loader = DataLoader::new(Arc::new(set), Random::new(5), size);
        DataLoader { flip, labels: true, label_dropout: 0.25, ..loader }
    }

    #[test]
    fn an_epoch_has_every_image_once_and_the_requested_share_of_labels_is_dropped() {
        let loader = loader(100, false);
        let mut labels = vec![0; 11];
        for step in 0..10 {
            for label in loader.batch(step).unwrap().images.labels.unwrap() {
                labels[label as usize] += 1;
            }
        }
        assert!((190..310).contains(&labels[10]), "{labels:?}");
        let all = DataLoader { label_dropout: 0.0, ..loader };
        let mut labels = vec![0; 10];
        for step in 0..10 {
            for label in all.batch(step).unwrap().images.labels.unwrap() {
                labels[label as usize] += 1;
            }
        }
        assert_eq!(labels, [100; 10]);
    }

    #[test]
    fn about_half_the_images_are_mirrored_and_otherwise_unchanged() {
        let plain = loader(64, false).batch(3).unwrap().images;
        let flipped = loader(64, true).batch(3).unwrap().images;
        let mut mirrored = 0;
        for (a, b) in plain.each().zip(flipped.each()) {
            if a != b {
                mirrored += 1;
                for (a, b) in a.chunks(plain.width).zip(b.chunks(plain.width)) {
                    assert!(a.iter().eq(b.iter().rev()));
                }
            }
        }
        assert!((20..=44).contains(&mirrored), "{mirrored}");
    }

    /// Random crops depend on the seed, the step and the place in the batch alone.
    #[test]
    fn crops_are_the_same_in_parts_of_a_batch_and_differ_between_images() {
        let (resolution, split) = (Some((14, 28)), data::Split::Test);
        let open = |fit| data::builtin(&data::ReadOptions { resolution, split, fit, ..Default::default() }).unwrap();
        let whole = DataLoader::new(Arc::new(open(Fit::RandomCrop)), Random::new(5), 12);
        let batch = whole.batch(3).unwrap().images;
        let mut parts = Images::default();
        for range in [0..5, 5..12] {
            parts.append(DataLoader { range, ..whole.clone() }.batch(3).unwrap().images);
        }
        assert_eq!(parts.pixels, batch.pixels);
        // Every crop is a part of its image: some rows of the 28, which begin anywhere.
        let images = data::builtin(&data::ReadOptions { split, ..Default::default() }).unwrap();
        let mut tops = std::collections::BTreeSet::new();
        for (place, crop) in batch.each().enumerate() {
            let position = 3 * 12 + place as u64;
            let index = whole.random.shuffled(0, images.len() as u64, position) as usize;
            let image = Images::read(&images, &[index]).unwrap().pixels;
            tops.insert((0..=14).find(|top| image[top * 28..][..14 * 28] == *crop).expect("a crop of the image"));
        }
        assert!(tops.len() > 4, "{tops:?}");
        assert_ne!(whole.batch(4).unwrap().images.pixels, batch.pixels);
    }

    #[test]
    fn parts_of_a_batch_are_the_whole_batch() {
        let whole = loader(64, true);
        let expected = whole.batch(3).unwrap();
        let mut parts = Images::default();
        for range in [0..16, 16..40, 40..64] {
            let part = DataLoader { range: range.clone(), ..whole.clone() }.batch(3).unwrap();
            assert_eq!((part.first, part.global_size), (range.start, 64));
            parts.append(part.images);
        }
        assert_eq!(parts, expected.images);
    }
}
