//! The built-in images.

use crate::common::*;
use ddpm_data::{Fit, ReadOptions, Summary, builtin};

#[test]
fn is_fashion_mnist_and_balanced() {
    for (options, count, mean, std) in
        [(ReadOptions::default(), 10_000, 0.2860, 0.3530), (test_split(), 1_000, 0.2868, 0.3524)]
    {
        let set = builtin(&options).unwrap();
        assert_eq!(shape(&set), [count, 28, 28, 1]);
        let summary = Summary::new(&set);
        assert!(summary.classes.iter().all(|class| class.images == count / 10), "{:?}", summary.classes);
        assert_eq!((summary.classes.len(), summary.classes[9].name.as_str()), (10, "Ankle boot"));
        // Published statistics of the full set. A subset differs by about one standard error.
        assert!((summary.mean[0] - mean).abs() < 0.01, "{}", summary.mean[0]);
        assert!((summary.std[0] - std).abs() < 0.01, "{}", summary.std[0]);
    }
}

#[test]
fn first_image_is_that_of_the_original_set() {
    // Row 5 of the first training image, an ankle boot, in the original file.
    let set = builtin(&ReadOptions::default()).unwrap();
    assert_eq!(set.labels().map(|labels| labels[0]), Some(9));
    assert_eq!(set.read([0]).unwrap()[5 * 28..6 * 28], ROW);
}

const ROW: [u8; 28] =
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 102, 204, 176, 134, 144, 123, 23, 0, 0, 0, 0, 12, 10, 0];

#[test]
fn held_out_images_are_not_in_the_training_set() {
    let [train, test] = [ReadOptions::default(), test_split()].map(|options| all(&builtin(&options).unwrap()));
    let known: std::collections::HashSet<&[u8]> = train.chunks(784).collect();
    assert_eq!(known.len(), 10_000, "the training set has duplicates");
    assert_eq!(test.chunks(784).filter(|image| known.contains(image)).count(), 0);
}

#[test]
fn pads_to_32() {
    let plain = all(&builtin(&test_split()).unwrap());
    let options = ReadOptions { resolution: Some((32, 32)), fit: Fit::Pad, ..test_split() };
    let padded = all(&builtin(&options).unwrap());
    let middle: Vec<u8> = (0..1000)
        .flat_map(|n| (2..30).flat_map(move |y| (2..30).map(move |x| (n, y, x))))
        .map(|(n, y, x)| padded[(n * 32 + y) * 32 + x])
        .collect();
    assert_eq!(middle, plain);
    let sum = |bytes: &[u8]| bytes.iter().map(|&v| u64::from(v)).sum::<u64>();
    assert_eq!(sum(&padded), sum(&plain));
}
