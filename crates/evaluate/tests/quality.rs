//! Metrics of features compared with those of Python packages. `tools/goldens_quality.py` made the files:
//!
//! ```python
//! pytorch_fid.fid_score.calculate_frechet_distance(mu1, sigma1, mu2, sigma2)    # scipy.linalg.sqrtm
//! torch_fidelity.metric_kid.kernel_mmd(samples, real[:120])
//! torch_fidelity.metric_isc.isc_features_to_metric(logits, splits=10, shuffle=False)
//! torch_fidelity.metric_prc.prc_features_to_metric(samples, real, prc_neighborhood=3)
//! prdc.compute_prdc(real, samples, nearest_k=5)    # density, coverage
//! ```

use std::path::Path;

use ddpm_evaluate::quality::{Features, Statistics, frechet_distance, inception_score, manifold, mmd2};
use weights::read_safetensors;

#[test]
fn metrics_are_those_of_pytorch_fid_torch_fidelity_and_prdc() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    let (mut tensors, _) = read_safetensors(folder.join("features.safetensors")).unwrap();
    let expected: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(folder.join("metrics.json")).unwrap()).unwrap();
    let mut take = |name: &str| {
        let tensor = tensors.remove(name).unwrap();
        Features::new(tensor.data, tensor.shape[1]).unwrap()
    };
    let (samples, real, logits) = (take("samples"), take("real"), take("logits"));
    let check = |name: &str, got: f64, tolerance: f64| {
        let expected = expected[name].as_f64().unwrap();
        println!("{name}: {got} for {expected}, {:.1e}", (got / expected - 1.0).abs());
        assert!((got - expected).abs() <= tolerance * expected.abs(), "{name}: {got}, expected {expected}");
    };
    let statistics = |features| Statistics::of(features).unwrap();
    check("frechet", frechet_distance(&statistics(&samples), &statistics(&real)).unwrap(), 1e-9);
    check("kernel", mmd2(&samples, &real.select(&(0..120).collect::<Vec<_>>())).unwrap(), 1e-9);
    let score = inception_score(&logits, 10).unwrap();
    check("inception_score", score.value, 1e-9);
    check("inception_score_deviation", score.deviation, 1e-9);
    let shares = manifold(&samples, &real).unwrap();
    // torch-fidelity takes the mean in f32.
    check("precision", shares.precision, 1e-7);
    check("recall", shares.recall, 1e-7);
    check("density", shares.density, 1e-9);
    check("coverage", shares.coverage, 1e-9);
}
