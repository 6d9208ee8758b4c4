//! Whether samples lie where real images do, and whether they are everywhere where those are.

use serde::Serialize;

use super::Features;
use super::distances::map_rows;
use crate::Error;

/// Shares of images that lie within balls around others. A ball reaches to its centre's k-th nearest neighbour in the
/// centre's own set.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Manifold {
    /// Share of samples in a ball of a real image (Kynkäänniemi et al. 2019, k = 3): how many are plausible.
    pub precision: f64,
    /// Share of real images in a ball of a sample (the same, k = 3): how much of the set is drawn.
    pub recall: f64,
    /// Balls of real images that a sample is in, over k (Naeem et al. 2020, k = 5): as precision, but an outlier's large
    /// ball counts once. Expected to be 1 for samples that are real; not bounded by it.
    pub density: f64,
    /// Share of real images with a sample in their ball (the same, k = 5).
    pub coverage: f64,
    /// Number of samples.
    pub samples: usize,
    /// Number of real images.
    pub real: usize,
}

/// k of precision and recall.
const IMPROVED: usize = 3;
/// k of density and coverage.
const NAEEM: usize = 5;

/// Improved precision and recall, density and coverage.
///
/// # Errors
/// If the sets differ in width, or have fewer than 6 vectors.
pub fn manifold(samples: &Features, real: &Features) -> Result<Manifold, Error> {
    samples.check(real, NAEEM + 1)?;
    let (real_radii, sample_radii) = (radii(real), radii(samples));
    // Both sources decide ties so: the first counts the ball's surface, the second does not.
    let of_samples = map_rows(samples, real, |_, distances| {
        let near = distances.iter().zip(&real_radii);
        (near.clone().any(|(d, [r, _])| d <= r), near.filter(|(d, [_, r])| *d < r).count())
    });
    let of_real = map_rows(real, samples, |i, distances| {
        let recalled = distances.iter().zip(&sample_radii).any(|(d, [r, _])| d <= r);
        (recalled, distances.iter().any(|&d| d < real_radii[i][1]))
    });
    let (n, m) = (samples.count() as f64, real.count() as f64);
    let share = |hits: usize, of: f64| hits as f64 / of;
    Ok(Manifold {
        precision: share(of_samples.iter().filter(|(hit, _)| *hit).count(), n),
        recall: share(of_real.iter().filter(|(hit, _)| *hit).count(), m),
        density: share(of_samples.iter().map(|(_, balls)| balls).sum(), n * NAEEM as f64),
        coverage: share(of_real.iter().filter(|(_, hit)| *hit).count(), m),
        samples: samples.count(),
        real: real.count(),
    })
}

/// Squared distances of each vector to its third and its fifth nearest neighbour.
fn radii(set: &Features) -> Vec<[f64; 2]> {
    map_rows(set, set, |i, distances| {
        distances[i] = f64::INFINITY;
        // Zero-based: the smaller is to the left of the larger.
        let (nearer, fifth, _) = distances.select_nth_unstable_by(NAEEM - 1, f64::total_cmp);
        let fifth = *fifth;
        let (_, third, _) = nearer.select_nth_unstable_by(IMPROVED - 1, f64::total_cmp);
        [*third, fifth]
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quality::subset::tests::normals;

    fn gaussian(seed: u64, count: usize, scale: f32, shift: f32) -> Features {
        Features::new(normals(seed, count * 3).iter().map(|z| scale * z + shift).collect(), 3).unwrap()
    }

    #[test]
    fn a_set_beside_itself_and_beside_one_far_away() {
        let a = gaussian(1, 300, 1.0, 0.0);
        let same = manifold(&a, &a).unwrap();
        assert_eq!((same.precision, same.recall, same.coverage), (1.0, 1.0, 1.0));
        let far = manifold(&gaussian(2, 200, 1.0, 50.0), &a).unwrap();
        assert_eq!((far.precision, far.recall, far.density, far.coverage), (0.0, 0.0, 0.0, 0.0));
        assert_eq!((far.samples, far.real), (200, 300));
        assert!(manifold(&gaussian(2, 5, 1.0, 0.0), &a).is_err());
    }

    /// For two sets of one distribution density is 1 and coverage 1 − Π (M−i)/(M+N−i), i = 1 … k, with N samples and M real
    /// images, in expectation (Naeem et al. 2020, lemmas 1 and 2): for N = M large, 1 − 2⁻⁵.
    #[test]
    fn density_and_coverage_are_as_their_lemmas_say() {
        let runs = 12;
        let (mut density, mut coverage) = (0.0, 0.0);
        for seed in 0..runs {
            let result = manifold(&gaussian(2 * seed, 500, 1.0, 0.0), &gaussian(2 * seed + 1, 500, 1.0, 0.0)).unwrap();
            density += result.density / runs as f64;
            coverage += result.coverage / runs as f64;
        }
        assert!((density - 1.0).abs() < 0.03, "{density}");
        assert!((coverage - (1.0 - 1.0 / 32.0)).abs() < 0.01, "{coverage}");
    }

    /// Samples from the middle are plausible and miss the rest; samples from everywhere the other way round.
    #[test]
    fn precision_and_recall_tell_narrow_from_wide() {
        let real = gaussian(1, 500, 1.0, 0.0);
        let narrow = manifold(&gaussian(2, 500, 0.3, 0.0), &real).unwrap();
        assert!(narrow.precision > 0.95 && narrow.recall < 0.3, "{narrow:?}");
        let wide = manifold(&gaussian(2, 500, 3.0, 0.0), &real).unwrap();
        assert!(wide.precision < 0.5 && wide.recall > 0.9, "{wide:?}");
    }
}
