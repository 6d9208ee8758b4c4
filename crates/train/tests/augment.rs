//! Augmentation of training images: the transformations of NVlabs/edm's `AugmentPipe` (`tools/goldens.py edm_augment`), and their
//! probabilities.

use std::path::Path;

use ddpm_train::augment::{Augmentation, WIDTH};
use random::Random;
use weights::{Tensor, Tensors, read_safetensors};

fn goldens() -> Tensors {
    read_safetensors(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/augment.safetensors")).unwrap().0
}

/// Returns the values of an image `[C,H,W]` in the order H,W,C, and its shape.
fn channels_last(image: &Tensor) -> (Vec<f32>, [usize; 3]) {
    let [c, h, w] = image.shape[..] else { panic!("not an image") };
    let value = |i: usize| image.data[(i % c) * h * w + i / c];
    ((0..c * h * w).map(value).collect(), [h, w, c])
}

#[test]
fn augmented_images_are_those_of_the_original() {
    let goldens = goldens();
    let (image, shape) = channels_last(&goldens["image"]);
    for number in 0..8 {
        let [mirrored, upside_down, scale, rotation, anisotropy, axis, x, y] =
            goldens[&format!("{number}.draws")].data[..]
        else {
            panic!("not eight draws")
        };
        let angle = |share: f32| f64::from(share) * std::f64::consts::PI;
        let augmentation = Augmentation {
            mirrored: mirrored == 1.0,
            upside_down: upside_down == 1.0,
            scale: scale.into(),
            rotation: angle(rotation),
            anisotropy: anisotropy.into(),
            axis: angle(axis),
            shift: [x.into(), y.into()],
        };
        let mut found = image.clone();
        augmentation.apply(&mut found, shape);
        let (expected, _) = channels_last(&goldens[&format!("{number}.output")]);
        let difference = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(difference < 2e-6, "{number}: {difference}");
        assert_ne!(found, image);
        for (found, expected) in augmentation.labels().iter().zip(&goldens[&format!("{number}.labels")].data) {
            assert!((found - expected).abs() < 1e-6, "{number}: {found} {expected}");
        }
    }
}

#[test]
fn each_augmentation_has_its_probability_and_distribution() {
    let random = Random::new(3);
    let drawn: Vec<Augmentation> = (0..20_000).map(|i| Augmentation::draw(0.12, &random, i % 100, i / 100)).collect();
    let share = |is: fn(&Augmentation) -> bool| drawn.iter().filter(|a| is(a)).count() as f64 / drawn.len() as f64;
    let near = |found: f64, expected: f64| assert!((found - expected).abs() < 0.015, "{found} {expected}");
    near(share(|a| a.mirrored), 0.5);
    near(share(|a| a.upside_down), 0.06);
    near(share(|a| a.scale != 0.0), 0.12);
    near(share(|a| a.rotation != 0.0), 0.12);
    near(share(|a| a.anisotropy != 0.0), 0.12);
    near(share(|a| a.axis != 0.0), 0.5);
    near(share(|a| a.shift != [0.0; 2]), 0.12);
    // Independent of each other, and of variance 1 and π²/3.
    near(share(|a| a.scale != 0.0 && a.anisotropy != 0.0), 0.0144);
    let variance = |of: fn(&Augmentation) -> f64| {
        let values: Vec<f64> = drawn.iter().map(of).filter(|v| *v != 0.0).collect();
        values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64
    };
    for of in [(|a| a.scale) as fn(&Augmentation) -> f64, |a| a.anisotropy, |a| a.shift[0], |a| a.shift[1]] {
        assert!((variance(of) - 1.0).abs() < 0.1, "{}", variance(of));
    }
    assert!((variance(|a| a.rotation) - 3.29).abs() < 0.2);
    let product = drawn.iter().map(|a| a.shift[0] * a.shift[1]).sum::<f64>() / (0.12 * drawn.len() as f64);
    assert!(product.abs() < 0.1, "{product}");
    // None leaves the image, and what describes it, as they are.
    let none = Augmentation::default();
    assert_eq!(none.labels(), [0.0; WIDTH]);
    let (mut image, shape) = channels_last(&goldens()["image"]);
    let before = image.clone();
    none.apply(&mut image, shape);
    assert_eq!(image, before);
}
