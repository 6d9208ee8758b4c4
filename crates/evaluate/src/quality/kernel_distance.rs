//! The kernel distance, called KID for Inception features (Bińkowski et al. 2018, arXiv 1801.01401).

use faer::Mat;
use serde::Serialize;

use super::{Features, permutation};
use crate::Error;

/// The squared maximum mean discrepancy under the kernel (x·y/D + 1)³. The estimate is unbiased: its expectation does not
/// depend on the number of images, and it may be negative.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct KernelDistance {
    /// The mean over blocks.
    pub value: f64,
    /// The standard error of `value`, from the spread over blocks, which are disjoint.
    pub standard_error: f64,
    /// The number of samples in all blocks.
    pub samples: usize,
    /// The number of blocks, which have as many samples as real images.
    pub blocks: usize,
}

/// The maximum number of images in a block.
const LARGEST: usize = 1000;
/// The minimum number of blocks, for the standard error.
const FEWEST: usize = 10;

/// Computes the distance over disjoint random blocks of the two sets (Zaremba et al. 2013, arXiv 1307.1954).
///
/// Published values are means over 100 overlapping subsets of 1000 images. Their expectation is the same, but their spread is
/// not an error of the mean.
///
/// # Errors
/// If the vectors differ in length, or a set has fewer than 20.
pub fn kernel_distance(samples: &Features, real: &Features, seed: u64) -> Result<KernelDistance, Error> {
    samples.check(real, 2 * FEWEST)?;
    let fewer = samples.count().min(real.count());
    let size = LARGEST.min(fewer / FEWEST);
    let blocks = fewer / size;
    let (of_samples, of_real) = (permutation(seed, 0, samples.count()), permutation(seed, 1, real.count()));
    let block = |i: usize| {
        let part = i * size..(i + 1) * size;
        mmd2(&samples.select(&of_samples[part.clone()]), &real.select(&of_real[part]))
    };
    let values = (0..blocks).map(block).collect::<Result<Vec<f64>, _>>()?;
    let mean = values.iter().sum::<f64>() / blocks as f64;
    let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / (blocks - 1) as f64;
    let standard_error = (variance / blocks as f64).sqrt();
    Ok(KernelDistance { value: mean, standard_error, samples: blocks * size, blocks })
}

/// Computes the unbiased estimate from all pairs of two sets: mean k(x,x′) + mean k(y,y′) − 2 mean k(x,y), without the pairs
/// of a vector and itself (Gretton et al. 2012, eq. 3).
///
/// # Errors
/// If the vectors differ in length, or a set has fewer than two.
pub fn mmd2(x: &Features, y: &Features) -> Result<f64, Error> {
    x.check(y, 2)?;
    super::fix_order_of_sums();
    let (a, b) = (x.columns(0, x.count()), y.columns(0, y.count()));
    Ok(within(&a) + within(&b) - 2.0 * sum(&kernel(&a, &b)) / (a.ncols() * b.ncols()) as f64)
}

/// Returns the mean kernel of two different vectors of a set.
fn within(a: &Mat<f64>) -> f64 {
    let (values, n) = (kernel(a, a), a.ncols());
    let diagonal: f64 = (0..n).map(|i| values[(i, i)]).sum();
    (sum(&values) - diagonal) / (n * (n - 1)) as f64
}

fn kernel(a: &Mat<f64>, b: &Mat<f64>) -> Mat<f64> {
    let mut values = a.transpose() * b;
    let width = a.nrows() as f64;
    for column in values.col_iter_mut() {
        column.iter_mut().for_each(|x| *x = (*x / width + 1.0).powi(3));
    }
    values
}

fn sum(values: &Mat<f64>) -> f64 {
    values.col_iter().map(|column| column.iter().sum::<f64>()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quality::subset::tests::normals;

    fn gaussian(seed: u64, count: usize, shift: f32) -> Features {
        Features::new(normals(seed, count * 4).iter().map(|z| z + shift).collect(), 4).unwrap()
    }

    /// Compared with the definition, pair by pair.
    #[test]
    fn pairs_of_a_vector_and_itself_do_not_count() {
        let (x, y) = (gaussian(1, 5, 0.0), gaussian(2, 7, 0.3));
        let k =
            |a: &[f32], b: &[f32]| (a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>() / 4.0 + 1.0).powi(3);
        let mean = |a: &Features, b: &Features, same: bool| {
            let (mut total, mut pairs) = (0.0, 0);
            for (i, a) in a.rows().enumerate() {
                for (_, b) in b.rows().enumerate().filter(|&(j, _)| !same || i != j) {
                    total += k(a, b);
                    pairs += 1;
                }
            }
            total / f64::from(pairs)
        };
        let expected = mean(&x, &x, true) + mean(&y, &y, true) - 2.0 * mean(&x, &y, false);
        assert!((mmd2(&x, &y).unwrap() - expected).abs() < 1e-6);
    }

    /// Zero on average for one distribution, with a variance that agrees with the standard errors; far from it for two.
    #[test]
    fn zero_within_its_error() {
        let runs = 300;
        let (mut total, mut squares, mut errors) = (0.0, 0.0, 0.0);
        for seed in 0..runs {
            let (samples, real) = (gaussian(2 * seed, 200, 0.0), gaussian(2 * seed + 1, 250, 0.0));
            let same = kernel_distance(&samples, &real, seed).unwrap();
            assert_eq!((same.blocks, same.samples), (10, 200));
            total += same.value;
            squares += same.value.powi(2);
            errors += same.standard_error.powi(2);
        }
        assert!(total.abs() < 4.0 * errors.sqrt(), "{total} {errors}");
        assert!((0.75..1.35).contains(&(squares / errors)), "{}", squares / errors);
        let other = kernel_distance(&gaussian(1, 400, 0.0), &gaussian(2, 400, 1.0), 0).unwrap();
        assert!(other.value > 5.0 * other.standard_error, "{other:?}");
        assert!(kernel_distance(&gaussian(1, 19, 0.0), &gaussian(2, 400, 0.0), 0).is_err());
    }
}
