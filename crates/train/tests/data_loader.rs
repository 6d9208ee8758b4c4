//! The batches of training, recomputed from the random numbers' addresses: order, mirroring, dropped labels.

mod common;

use std::sync::Arc;

use common::write_images;
use data::{ReadOptions, open};
use ddpm_train::DataLoader;
use random::{Random, Stream};

const SHAPE: [usize; 3] = [2, 5, 3];
const IMAGES: usize = 14;
/// It does not divide the number of images, so epochs end within batches.
const BATCH: usize = 4;
const SEED: u64 = 9;
const STEPS: u64 = 500;

/// The value of an image's byte in [-1, 1].
fn pixel(byte: u8) -> f32 {
    (f64::from(byte) / 127.5 - 1.0) as f32
}

/// Checks every image of every step, for a loader of the whole batch and one of a part.
#[test]
fn images_are_shuffled_mirrored_and_lose_their_labels() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("images.npz");
    let bytes = write_images(&path, IMAGES, SHAPE);
    let set = Arc::new(open(&path, &ReadOptions::default()).unwrap());
    let random = Random::new(SEED);
    let whole = DataLoader { flip: true, labels: true, label_dropout: 0.2, ..DataLoader::new(set, random, BATCH) };
    let [height, width, channels] = SHAPE;
    let size = height * width * channels;
    let (mut seen, mut mirrored, mut dropped) = (vec![0; IMAGES], 0u32, 0u32);
    for step in 0..STEPS {
        let whole_batch = whole.batch(step).unwrap();
        let part = DataLoader { range: 1..3, ..whole.clone() }.batch(step).unwrap();
        assert_eq!((part.first, part.global_size), (1, BATCH));
        assert_eq!(part.images, whole_batch.images.slice(1, 2), "step {step}");

        let labels = whole_batch.images.labels.clone().unwrap();
        assert_eq!(labels.len(), BATCH);
        for (place, &label) in labels.iter().enumerate() {
            let position = step as usize * BATCH + place;
            let epoch = position / IMAGES;
            let index = random.shuffled(epoch as u64, IMAGES as u64, (position % IMAGES) as u64) as usize;
            seen[index] += 1;
            let flip = random.below(Stream::Flip, place as u64, step, 2) == 1;
            mirrored += u32::from(flip);
            let image = &bytes[index * size..][..size];
            for (i, &found) in whole_batch.images.pixels[place * size..][..size].iter().enumerate() {
                let (y, x, c) = (i / channels / width, i / channels % width, i % channels);
                let from = if flip { width - 1 - x } else { x };
                let expected = pixel(image[(y * width + from) * channels + c]);
                assert!((found - expected).abs() < 1e-6, "step {step}, image {place}: {found} {expected}");
            }
            let drop = random.uniform(Stream::LabelDropout, place as u64, step) < 0.2;
            dropped += u32::from(drop);
            // The number of classes, 3, stands for none.
            assert_eq!(label, if drop { 3 } else { index as u32 % 3 });
        }
    }
    let images = STEPS as usize * BATCH;
    // Each epoch has every image once.
    assert!(seen.iter().all(|&count| count == images / IMAGES || count == images / IMAGES + 1), "{seen:?}");
    // Four standard deviations of 2000 draws.
    assert!((911..=1089).contains(&mirrored), "{mirrored} of {images} are mirrored");
    assert!((329..=471).contains(&dropped), "{dropped} of {images} have no label");
}

#[test]
fn nothing_is_mirrored_or_labeled_by_default() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("images.npz");
    let bytes = write_images(&path, IMAGES, SHAPE);
    let set = Arc::new(open(&path, &ReadOptions::default()).unwrap());
    let images = DataLoader::new(set, Random::new(SEED), IMAGES).batch(0).unwrap().images;
    assert_eq!(images.labels, None);
    let mut found: Vec<f32> = images.pixels;
    let mut expected: Vec<f32> = bytes.into_iter().map(pixel).collect();
    [&mut found, &mut expected].into_iter().for_each(|values| values.sort_by(f32::total_cmp));
    assert!(found.iter().zip(&expected).all(|(found, expected)| (found - expected).abs() < 1e-6));
}
