//! Precision and recall of samples, density and coverage: whether samples lie where real images do, and the reverse.

use serde::Serialize;

use super::Features;
use super::distances::map_rows;
use crate::Error;

/// Fractions of images inside balls around the other set's images. A ball's radius is the distance from its centre to the
/// k-th nearest neighbour in the centre's own set.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Manifold {
    /// The fraction of samples in a ball of a real image, the plausible ones (Kynkäänniemi et al. 2019, arXiv 1904.06991,
    /// k = 3).
    pub precision: f64,
    /// The fraction of real images in a ball of a sample (the same, k = 3).
    pub recall: f64,
    /// The mean number of real images' balls that a sample is in, divided by k (Naeem et al. 2020, arXiv 2002.09797,
    /// k = 5). Unlike precision, it is robust to outliers with a large ball. Its expectation for real images is 1; it can be
    /// larger.
    pub density: f64,
    /// The fraction of real images with a sample in their ball (the same, k = 5).
    pub coverage: f64,
    /// The number of samples.
    pub samples: usize,
    /// The number of real images.
    pub real: usize,
}

/// k of improved precision and recall.
const IMPROVED: usize = 3;
/// k of density and coverage.
const NAEEM: usize = 5;

/// Computes improved precision and recall, density and coverage.
///
/// # Errors
/// If the vectors differ in length, or a set has fewer than 6.
pub fn manifold(samples: &Features, real: &Features) -> Result<Manifold, Error> {
    samples.check(real, NAEEM + 1)?;
    let (real_radii, sample_radii) = (radii(real), radii(samples));
    // As in both papers' code: a ball includes its surface for precision and recall, but not for density and coverage.
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

/// Returns the squared distances from each vector to its third and its fifth nearest neighbours.
fn radii(set: &Features) -> Vec<[f64; 2]> {
    map_rows(set, set, |i, distances| {
        distances[i] = f64::INFINITY;
        // The third is among those that are nearer than the fifth.
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
    fn a_set_and_itself_and_a_set_far_away() {
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
    fn density_and_coverage_follow_their_lemmas() {
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

    /// Samples from the middle have high precision and low recall; samples from everywhere have the reverse.
    #[test]
    fn precision_and_recall_distinguish_narrow_from_wide() {
        let real = gaussian(1, 500, 1.0, 0.0);
        let narrow = manifold(&gaussian(2, 500, 0.3, 0.0), &real).unwrap();
        assert!(narrow.precision > 0.95 && narrow.recall < 0.3, "{narrow:?}");
        let wide = manifold(&gaussian(2, 500, 3.0, 0.0), &real).unwrap();
        assert!(wide.precision < 0.5 && wide.recall > 0.9, "{wide:?}");
    }
}
