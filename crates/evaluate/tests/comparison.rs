//! Samples compared with real images, and real images with real images.

use burn::tensor::Device;
use ddpm_evaluate::ImageSource;
use ddpm_evaluate::network::{Classifier, ClassifierInfo, Extracted, FeatureNetwork};
use ddpm_evaluate::quality::{
    Comparison, FrechetReference, POOLED, QualityReport, Statistics, floor_parts, frechet_distance, inception_score,
    kernel_distance, manifold, permutation, write_statistics,
};
use random::{Random, Stream};

/// A small network with initial weights.
fn network(folder: &std::path::Path) -> FeatureNetwork {
    let path = folder.join("classifier.safetensors");
    let classes = vec!["cat".to_owned(), "dog".to_owned()];
    let info = ClassifierInfo { set: "pets".into(), side: 8, channels: 1, classes, accuracy: None };
    Classifier::new(1, 2, 3, &Device::flex()).write(&path, &info).unwrap();
    FeatureNetwork::read(&path, &Device::flex()).unwrap()
}

/// Features of random images with values from `low`.
fn features(network: &FeatureNetwork, seed: u64, count: usize, low: u32) -> Extracted {
    let mut bits = vec![0; count * 64];
    Random::new(seed).bits(Stream::Subset, 0, 0, &mut bits);
    let bytes = bits.into_iter().map(|bits| (low + bits % (256 - low)) as u8).collect();
    let extracted = network.extract(&ImageSource::from_bytes(bytes, [8, 8, 1]), |_, _| true).unwrap();
    // Features take the place of logits and spatial features, which this network does not have.
    Extracted { spatial: Some(extracted.pooled.clone()), logits: Some(extracted.pooled.clone()), ..extracted }
}

/// Decompositions on several threads round differently.
#[track_caller]
fn close(got: f64, expected: f64) {
    assert!((got - expected).abs() <= 1e-9 * expected.abs(), "{got} {expected}");
}

#[test]
fn figures_of_samples_come_with_those_of_real_images() {
    let folder = tempfile::tempdir().unwrap();
    let network = network(folder.path());
    let (samples, real) = (features(&network, 1, 30, 60), features(&network, 2, 70, 0));
    let comparison = Comparison { network: &network, samples: &samples, real: Some(&real), reference: None, seed: 5 };
    let statistics = |features| Statistics::of(features).unwrap();
    let (first, second) = floor_parts(5, 70, 30);
    let (first, second) = (real.pooled.select(&first), real.pooled.select(&second));

    let frechet = comparison.frechet().unwrap();
    close(frechet.value, frechet_distance(&statistics(&samples.pooled), &statistics(&real.pooled)).unwrap());
    close(frechet.floor.unwrap(), frechet_distance(&statistics(&first), &statistics(&second)).unwrap());
    assert_eq!((frechet.samples, frechet.floor_samples), (30, Some(30)));
    assert_eq!(frechet.features, "classifier of pets");
    close(comparison.spatial_frechet().unwrap().value, frechet.value);

    let kernel = comparison.kernel().unwrap();
    let expected = kernel_distance(&samples.pooled, &real.pooled, 5).unwrap();
    assert_eq!((kernel.value, kernel.standard_error), (expected.value, Some(expected.standard_error)));
    assert_eq!(kernel.floor, Some(kernel_distance(&first, &second, 5).unwrap().value));

    let score = comparison.inception_score().unwrap().unwrap();
    assert_eq!(score.score, inception_score(samples.logits.as_ref().unwrap(), 10).unwrap());
    let some = |step| permutation(5, step, 70)[..30].to_vec();
    assert_eq!(score.real, Some(inception_score(&real.pooled.select(&some(2)), 10).unwrap().value));

    let shares = comparison.manifold().unwrap();
    assert_eq!(shares.manifold, manifold(&samples.pooled, &real.pooled.select(&some(4))).unwrap());
    assert_eq!(shares.floor, manifold(&first, &second.select(&(0..30).collect::<Vec<_>>())).unwrap());
}

#[test]
fn statistics_replace_images_in_frechet_distances() {
    let folder = tempfile::tempdir().unwrap();
    let network = network(folder.path());
    let (samples, real) = (features(&network, 1, 30, 60), features(&network, 2, 70, 0));
    let path = folder.path().join("stats.npz");
    write_statistics(&path, &[(POOLED, &Statistics::of(&real.pooled).unwrap())], None).unwrap();
    let both = Comparison { network: &network, samples: &samples, real: Some(&real), reference: None, seed: 5 };
    let file = Comparison { real: None, reference: Some(&path), ..both };
    let expected = both.frechet().unwrap();
    let got = file.frechet().unwrap();
    close(got.value, expected.value);
    assert_eq!((got.floor, got.floor_samples), (None, None));
    // The file gives the distance, the images real vs. real; and a reference that is known already is the same.
    let reference = FrechetReference::of(&real.pooled, 30, 5).unwrap();
    let known = Comparison { real: None, ..both }.frechet_to(&reference).unwrap();
    for got in [Comparison { reference: Some(&path), ..both }.frechet().unwrap(), known] {
        close(got.value, expected.value);
        close(got.floor.unwrap(), expected.floor.unwrap());
        assert_eq!((got.samples, got.floor_samples), (30, Some(30)));
    }

    let error = file.spatial_frechet().unwrap_err().to_string();
    assert!(error.contains("stats.npz") && error.contains("mu_s"), "{error}");
    let nothing = Comparison { reference: None, ..file };
    for error in [nothing.frechet().err(), nothing.kernel().err(), nothing.manifold().err()] {
        assert!(error.unwrap().to_string().contains("no real images"));
    }
    let plain = Extracted { spatial: None, logits: None, ..samples.clone() };
    let plain = Comparison { samples: &plain, ..both };
    assert!(plain.spatial_frechet().unwrap_err().to_string().contains("Inception"));
    assert!(plain.inception_score().unwrap().is_none());
}

/// The JSON of `ddpm evaluate --json`.
#[test]
fn reports_keep_their_keys() {
    let folder = tempfile::tempdir().unwrap();
    let network = network(folder.path());
    let (samples, real) = (features(&network, 1, 30, 60), features(&network, 2, 70, 0));
    let comparison = Comparison { network: &network, samples: &samples, real: Some(&real), reference: None, seed: 5 };
    let mut report = QualityReport::default();
    assert_eq!(serde_json::to_string(&report).unwrap(), "{}");
    report.distances.insert("fd", comparison.frechet().unwrap());
    report.distances.insert("kd", comparison.kernel().unwrap());
    report.inception_score = comparison.inception_score().unwrap();
    report.manifold = Some(comparison.manifold().unwrap());
    let json = serde_json::to_value(&report).unwrap();
    let keys = |path: &str| {
        let object = json.pointer(path).and_then(|value| value.as_object()).unwrap();
        object.keys().map(String::as_str).collect::<Vec<_>>()
    };
    assert_eq!(keys(""), ["fd", "kd", "is", "prdc"]);
    assert_eq!(keys("/fd"), ["value", "samples", "features", "floor", "floor_samples"]);
    assert_eq!(keys("/kd"), ["value", "standard_error", "samples", "features", "floor", "floor_samples"]);
    assert_eq!(keys("/is"), ["value", "deviation", "samples", "splits", "real"]);
    assert_eq!(keys("/prdc"), ["precision", "recall", "density", "coverage", "samples", "real", "floor"]);
    assert_eq!(keys("/prdc/floor"), ["precision", "recall", "density", "coverage", "samples", "real"]);
}
