//! Mean and covariance of features, accumulated block by block.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat};
use files::without_limit;

use super::Features;
use crate::Error;

/// Mean and covariance of features, all that a Fréchet distance depends on: the `mu` and `sigma` of other programs.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// The mean μ, `[D]`.
    pub mean: Vec<f64>,
    /// The covariance Σ with denominator N − 1 (as `numpy.cov`), `[D,D]`.
    pub covariance: Vec<f64>,
}

impl Statistics {
    /// Computes the statistics of features.
    ///
    /// # Errors
    /// If there are fewer than two vectors.
    pub fn of(features: &Features) -> Result<Self, Error> {
        let mut moments = Moments::new(features.width());
        moments.add(features)?;
        moments.statistics()
    }

    /// Statistics from their numbers.
    ///
    /// # Errors
    /// If the lengths are not D and D·D, if a number is not finite, or if the second are not those of a covariance: a
    /// symmetric matrix without negative variances, whose entries Cauchy and Schwarz bound by the variances.
    pub fn new(mean: Vec<f64>, covariance: Vec<f64>) -> Result<Self, Error> {
        let width = mean.len();
        if width == 0 || covariance.len() != width * width {
            let message = format!("the mean has {width} numbers and the covariance {}", covariance.len());
            return Err(Error::Request(format!("{message}; expected D and D·D")));
        }
        if mean.iter().chain(&covariance).any(|value| !value.is_finite()) {
            return Err(Error::Request("a mean or covariance is not finite".into()));
        }
        let at = |i: usize, j: usize| covariance[i * width + j];
        let largest = (0..width).map(|i| at(i, i)).fold(0.0, f64::max);
        // Room for the rounding of f32.
        let differ = |a: f64, b: f64| (a - b).abs() > 1e-5 * largest;
        let not_covariance = |what: String| Err(Error::Request(format!("the covariance is not one: {what}")));
        for i in 0..width {
            if at(i, i) < -1e-5 * largest || (largest == 0.0 && at(i, i) < 0.0) {
                return not_covariance(format!("the variance of feature {i} is {}", at(i, i)));
            }
            for j in 0..i {
                if differ(at(i, j), at(j, i)) {
                    let (a, b) = (at(i, j), at(j, i));
                    return not_covariance(format!(
                        "it is not symmetric, with {a} at [{i}, {j}] and {b} at [{j}, {i}]"
                    ));
                }
                let most = (at(i, i).max(0.0) * at(j, j).max(0.0)).sqrt();
                if at(i, j).abs() > most + 1e-5 * largest {
                    let found = at(i, j);
                    return not_covariance(format!(
                        "{found} at [{i}, {j}] is greater than its variances allow, {most}"
                    ));
                }
            }
        }
        Ok(Self { mean, covariance })
    }

    /// Returns D.
    pub fn width(&self) -> usize {
        self.mean.len()
    }
}

/// Running sums that give [`Statistics`], for features that do not fit into memory.
///
/// Each block is centred on its own mean, and blocks are combined by the update of Chan, Golub & LeVeque (1979). That avoids
/// cancellation: features of ReLU networks have means far above their deviations.
#[derive(Clone, Debug)]
pub struct Moments {
    count: usize,
    mean: Vec<f64>,
    /// Σ (x − mean)(x − mean)ᵀ.
    scatter: Mat<f64>,
}

/// Vectors that are converted to f64 at once.
const BLOCK: usize = 1024;

impl Moments {
    /// Sums over no vectors yet, of length `width`.
    pub fn new(width: usize) -> Self {
        Self { count: 0, mean: vec![0.0; width], scatter: Mat::zeros(width, width) }
    }

    /// Returns the number of vectors so far.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Adds vectors.
    ///
    /// # Errors
    /// If they have another length.
    pub fn add(&mut self, features: &Features) -> Result<(), Error> {
        let width = self.mean.len();
        if features.width() != width {
            let message = format!("features of length {} were added to features of length {width}", features.width());
            return Err(Error::Request(message));
        }
        for first in (0..features.count()).step_by(BLOCK) {
            self.add_block(features.columns(first, BLOCK.min(features.count() - first)));
        }
        Ok(())
    }

    fn add_block(&mut self, mut block: Mat<f64>) {
        let (before, added) = (self.count as f64, block.ncols() as f64);
        let mean: Vec<f64> = (0..block.nrows()).map(|i| block.row(i).iter().sum::<f64>() / added).collect();
        for column in block.col_iter_mut() {
            column.iter_mut().zip(&mean).for_each(|(x, m)| *x -= m);
        }
        super::fix_order_of_sums();
        let threads = faer::get_global_parallelism();
        let scatter = &mut self.scatter;
        // Its buffers are as large as the processor's caches, and hardly used.
        without_limit(|| matmul(scatter, Accum::Add, &block, block.transpose(), 1.0, threads));
        let shift = Mat::from_fn(mean.len(), 1, |i, _| mean[i] - self.mean[i]);
        let weight = before * added / (before + added);
        matmul(&mut self.scatter, Accum::Add, &shift, shift.transpose(), weight, threads);
        for (i, mean) in self.mean.iter_mut().enumerate() {
            *mean += shift[(i, 0)] * added / (before + added);
        }
        self.count += block.ncols();
    }

    /// Returns mean and covariance of the vectors so far.
    ///
    /// # Errors
    /// If there are fewer than two vectors.
    pub fn statistics(&self) -> Result<Statistics, Error> {
        if self.count < 2 {
            let message = format!("the covariance of {} images is not defined; expected at least 2", self.count);
            return Err(Error::Request(message));
        }
        let width = self.mean.len();
        let scale = 1.0 / (self.count - 1) as f64;
        // The products are symmetric up to rounding, the result exactly.
        let value = |i: usize, j: usize| scale * self.scatter[(i.max(j), i.min(j))];
        let covariance = (0..width * width).map(|at| value(at / width, at % width)).collect();
        Ok(Statistics { mean: self.mean.clone(), covariance })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quality::subset::tests::normals;

    /// Blocks of any size agree with two passes over everything, with means a thousand times the deviation.
    #[test]
    fn streaming_changes_only_rounding() {
        let (count, width) = (2500, 5);
        let values: Vec<f32> = normals(1, count * width).iter().map(|z| 1000.0 + z).collect();
        let features = Features::new(values, width).unwrap();
        let whole = Statistics::of(&features).unwrap();
        let mut moments = Moments::new(width);
        for (first, last) in [(0, 1), (1, 7), (7, 1500), (1500, 2500)] {
            moments.add(&features.select(&(first..last).collect::<Vec<_>>())).unwrap();
        }
        let streamed = moments.statistics().unwrap();
        let mean = |i: usize| features.rows().map(|row| f64::from(row[i])).sum::<f64>() / count as f64;
        let means: Vec<f64> = (0..width).map(mean).collect();
        for i in 0..width {
            assert!((whole.mean[i] - means[i]).abs() < 1e-9);
            assert!((streamed.mean[i] - means[i]).abs() < 1e-9);
            for j in 0..width {
                let product = |row: &[f32]| (f64::from(row[i]) - means[i]) * (f64::from(row[j]) - means[j]);
                let expected = features.rows().map(product).sum::<f64>() / (count - 1) as f64;
                assert!((whole.covariance[i * width + j] - expected).abs() < 1e-12);
                assert!((streamed.covariance[i * width + j] - expected).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn one_image_has_no_covariance() {
        assert!(Statistics::of(&Features::new(vec![1.0, 2.0], 2).unwrap()).is_err());
        assert!(Statistics::new(vec![0.0; 2], vec![0.0; 3]).is_err());
        assert!(Statistics::new(vec![0.0], vec![f64::NAN]).is_err());
    }

    #[test]
    fn what_is_no_covariance_is_refused() {
        let new = |covariance: [f64; 4]| Statistics::new(vec![0.0; 2], covariance.to_vec()).map_err(|e| e.to_string());
        assert!(new([1.0, 0.5, 0.5, 2.0]).is_ok() && new([0.0; 4]).is_ok());
        // Rounding of f32.
        assert!(new([1.0, 0.5, 0.5 + 1e-7, -1e-9]).is_err() && new([1.0, 1e-7, 0.0, -1e-9]).is_ok());
        let cases = [
            ([1.0, 0.5, 0.4, 2.0], "not symmetric"),
            ([1.0, 0.0, 0.0, -2.0], "variance of feature 1 is -2"),
            ([-1.0, 0.0, 0.0, -2.0], "variance of feature 0 is -1"),
            ([1.0, 2.0, 2.0, 1.0], "greater than its variances allow"),
        ];
        for (covariance, words) in cases {
            let error = new(covariance).unwrap_err();
            assert!(error.contains("the covariance is not one") && error.contains(words), "{error}");
        }
    }
}
