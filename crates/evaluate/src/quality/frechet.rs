//! The Fréchet distance between two Gaussians, called FID for Inception features (Heusel et al. 2017, arXiv 1706.08500).

use faer::{Mat, Side};

use super::Statistics;
use crate::Error;

/// Computes ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2(Σ₁^½ Σ₂ Σ₁^½)^½) (Dowson & Landau 1982).
///
/// The last trace is the sum of the singular values of B₁ᵀB₂, where Σ = B·Bᵀ. Each B comes from an eigendecomposition
/// without the directions in which Σ is zero up to rounding, so that no square root of a rounding error is taken. The
/// result is exact for fewer images than dimensions too, where the usual square root of the product Σ₁Σ₂, which is not
/// symmetric, fails or needs a term on the diagonal.
///
/// # Errors
/// If the numbers of dimensions differ, a covariance is not positive, or a decomposition does not converge.
pub fn frechet_distance(a: &Statistics, b: &Statistics) -> Result<f64, Error> {
    if a.width() != b.width() {
        let message =
            format!("statistics of {} dimensions cannot be compared with statistics of {}", a.width(), b.width());
        return Err(Error::Request(message));
    }
    let means: f64 = a.mean.iter().zip(&b.mean).map(|(a, b)| (a - b) * (a - b)).sum();
    super::fix_order_of_sums();
    // The buffers of products are as large as the processor's caches, and hardly used.
    let (trace_a, trace_b, overlap) = files::without_limit(|| {
        let (root_a, trace_a) = factor(a)?;
        let (root_b, trace_b) = factor(b)?;
        let product = root_a.transpose() * &root_b;
        let overlap: f64 = match product.nrows().min(product.ncols()) {
            0 => 0.0,
            _ => product.singular_values().map_err(|_| diverged())?.iter().sum(),
        };
        Ok::<_, Error>((trace_a, trace_b, overlap))
    })?;
    let distance = means + trace_a + trace_b - 2.0 * overlap;
    match distance.is_finite() {
        true => Ok(distance),
        false => Err(Error::Request("the Fréchet distance is not finite: the statistics are too large".to_owned())),
    }
}

/// Returns B with Σ = B·Bᵀ, whose number of columns is the rank of Σ, and tr Σ.
fn factor(statistics: &Statistics) -> Result<(Mat<f64>, f64), Error> {
    let width = statistics.width();
    let trace = (0..width).map(|i| statistics.covariance[i * width + i]).sum();
    // The decomposition of subnormal numbers does not end.
    if statistics.covariance.iter().all(|value| value.abs() < f64::MIN_POSITIVE / f64::EPSILON) {
        return Ok((Mat::zeros(width, 0), trace));
    }
    let covariance = Mat::from_fn(width, width, |i, j| statistics.covariance[i * width + j]);
    let eigen = covariance.self_adjoint_eigen(Side::Lower).map_err(|_| diverged())?;
    let (vectors, values) = (eigen.U(), eigen.S());
    let largest = (0..width).map(|i| values[i]).fold(0.0, f64::max);
    let least = (0..width).map(|i| values[i]).fold(0.0, f64::min);
    // Room for the rounding of f32.
    if least < -1e-4 * largest {
        let message =
            format!("the covariance is not positive: its eigenvalues are from {least} to {largest}; it is damaged");
        return Err(Error::Request(message));
    }
    let kept: Vec<usize> = (0..width).filter(|&i| values[i] > width as f64 * f64::EPSILON * largest).collect();
    let root = Mat::from_fn(width, kept.len(), |i, j| vectors[(i, kept[j])] * values[kept[j]].sqrt());
    Ok((root, trace))
}

fn diverged() -> Error {
    Error::Request("the decomposition of a covariance does not converge: the statistics are damaged".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quality::Features;
    use crate::quality::subset::tests::normals;

    fn diagonal(mean: &[f64], variances: &[f64]) -> Statistics {
        let width = mean.len();
        let value = |at: usize| if at / width == at % width { variances[at / width] } else { 0.0 };
        Statistics::new(mean.to_vec(), (0..width * width).map(value).collect()).unwrap()
    }

    fn random(seed: u64, count: usize, width: usize) -> Statistics {
        Statistics::of(&Features::new(normals(seed, count * width), width).unwrap()).unwrap()
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let (a, b) = (random(1, 300, 150), random(2, 300, 150));
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| (random(1, 300, 150), frechet_distance(&a, &b).unwrap().to_bits()))
        };
        let one = with(1);
        assert!([2, 3, 7].into_iter().all(|threads| with(threads) == one));
    }

    /// Σ (σ₁ − σ₂)² where covariances commute, with directions that have no variance.
    #[test]
    fn commuting_covariances_have_a_closed_form() {
        let a = diagonal(&[0.0, 1.0, 2.0, 0.0], &[4.0, 1.0, 0.0, 0.0]);
        let b = diagonal(&[1.0, 1.0, 0.0, 0.0], &[1.0, 9.0, 25.0, 0.0]);
        let distance = frechet_distance(&a, &b).unwrap();
        assert!((distance - (1.0 + 4.0 + 1.0 + 4.0 + 25.0)).abs() < 1e-12, "{distance}");
        // One rotation of both changes nothing.
        let (c, s) = (0.6, 0.8);
        let rotated = |a: f64, b: f64| {
            let off = (a - b) * c * s;
            Statistics::new(vec![0.0; 2], vec![a * c * c + b * s * s, off, off, a * s * s + b * c * c]).unwrap()
        };
        // Variances below those that a decomposition can be made of.
        let none = diagonal(&[0.0; 4], &[1e-310, 5e-324, 0.0, 1e-300]);
        let one = diagonal(&[0.0; 4], &[1.0; 4]);
        assert!((frechet_distance(&none, &one).unwrap() - 4.0).abs() < 1e-12);
        let distance = frechet_distance(&rotated(4.0, 1.0), &rotated(1.0, 9.0)).unwrap();
        assert!((distance - 5.0).abs() < 1e-12, "{distance}");
    }

    /// (Σ₁^½ Σ₂ Σ₁^½)^½ of 2×2 has the trace √(tr Σ₁Σ₂ + 2√(det Σ₁ det Σ₂)).
    #[test]
    fn covariances_that_do_not_commute() {
        let a = Statistics::new(vec![0.0; 2], vec![2.0, 0.5, 0.5, 1.0]).unwrap();
        let b = Statistics::new(vec![0.0; 2], vec![1.0, -0.3, -0.3, 3.0]).unwrap();
        let trace_of_product: f64 = 2.0 * 1.0 + 2.0 * 0.5 * -0.3 + 1.0 * 3.0;
        let (det_a, det_b): (f64, f64) = (1.75, 2.91);
        let expected = 3.0 + 4.0 - 2.0 * (trace_of_product + 2.0 * (det_a * det_b).sqrt()).sqrt();
        assert!((frechet_distance(&a, &b).unwrap() - expected).abs() < 1e-12);
        assert!((frechet_distance(&b, &a).unwrap() - expected).abs() < 1e-12);
    }

    /// For full rank and for fewer images than dimensions: 0 to itself, ‖shift‖² to itself shifted.
    #[test]
    fn sets_and_themselves_at_any_rank() {
        for count in [9, 400] {
            let a = random(3, count, 40);
            let distance = frechet_distance(&a, &a).unwrap();
            assert!(distance.abs() < 1e-11, "{count}: {distance}");
            let shifted = Statistics { mean: a.mean.iter().map(|m| m + 0.5).collect(), ..a.clone() };
            let distance = frechet_distance(&a, &shifted).unwrap();
            assert!((distance - 10.0).abs() < 1e-11, "{count}: {distance}");
        }
        assert!(frechet_distance(&random(1, 9, 3), &random(1, 9, 4)).is_err());
    }

    #[test]
    fn a_distance_that_is_not_finite_is_an_error() {
        let error = frechet_distance(&diagonal(&[1e200], &[1.0]), &diagonal(&[0.0], &[1.0])).unwrap_err().to_string();
        assert!(error.contains("not finite"), "{error}");
    }

    /// Every pair of features is possible, but not the three together.
    #[test]
    fn a_covariance_with_a_negative_eigenvalue_is_refused() {
        let impossible = vec![1.0, 0.9, -0.9, 0.9, 1.0, 0.9, -0.9, 0.9, 1.0];
        let a = Statistics::new(vec![0.0; 3], impossible).unwrap();
        let error = frechet_distance(&a, &diagonal(&[0.0; 3], &[1.0; 3])).unwrap_err().to_string();
        assert!(error.contains("not positive") && error.contains("-0.8"), "{error}");
    }
}
