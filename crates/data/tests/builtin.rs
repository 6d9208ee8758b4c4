//! The images inside the binary.

mod common;
use common::*;
use ddpm_data::{Fit, Options, builtin, inspect};

#[test]
fn is_fashion_mnist_and_balanced() {
    for (options, count, mean, std) in
        [(Options::default(), 10_000, 0.2860, 0.3530), (test_split(), 1_000, 0.2868, 0.3524)]
    {
        let set = builtin(&options).unwrap();
        assert_eq!(shape(&set), [count, 28, 28, 1]);
        let summary = inspect::summary(&set);
        assert!(summary.classes.iter().all(|class| class.images == count / 10), "{:?}", summary.classes);
        assert_eq!((summary.classes.len(), summary.classes[9].name.as_str()), (10, "Ankle boot"));
        // The published moments of the whole set; a part of it differs by about a standard error.
        assert!((summary.mean[0] - mean).abs() < 0.01, "{}", summary.mean[0]);
        assert!((summary.std[0] - std).abs() < 0.01, "{}", summary.std[0]);
    }
}

#[test]
fn the_first_image_is_the_original_first() {
    // Row 5 of the first training image, an ankle boot, as the original file has it.
    let set = builtin(&Options::default()).unwrap();
    assert_eq!(set.labels().map(|labels| labels[0]), Some(9));
    let mut image = [0; 784];
    set.read(&[0], &mut image).unwrap();
    assert_eq!(image[5 * 28..6 * 28], ROW);
}

const ROW: [u8; 28] =
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 102, 204, 176, 134, 144, 123, 23, 0, 0, 0, 0, 12, 10, 0];

#[test]
fn held_out_images_are_not_in_training() {
    let [train, test] = [Options::default(), test_split()].map(|options| all(&builtin(&options).unwrap()));
    let known: std::collections::HashSet<&[u8]> = train.chunks(784).collect();
    assert_eq!(known.len(), 10_000, "a training image is there twice");
    assert_eq!(test.chunks(784).filter(|image| known.contains(image)).count(), 0);
}

#[test]
fn pads_to_32() {
    let plain = all(&builtin(&test_split()).unwrap());
    let options = Options { resolution: Some((32, 32)), fit: Fit::Pad, ..test_split() };
    let padded = all(&builtin(&options).unwrap());
    let middle: Vec<u8> = (0..1000)
        .flat_map(|n| (2..30).flat_map(move |y| (2..30).map(move |x| (n, y, x))))
        .map(|(n, y, x)| padded[(n * 32 + y) * 32 + x])
        .collect();
    assert_eq!(middle, plain);
    let sum = |bytes: &[u8]| bytes.iter().map(|&v| u64::from(v)).sum::<u64>();
    assert_eq!(sum(&padded), sum(&plain));
}
