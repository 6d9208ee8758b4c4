//! Mean and covariance, gathered block by block.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat};

use super::Features;
use crate::Error;

/// Mean and covariance of features: all that a Fréchet distance looks at, and what others keep as `mu` and `sigma`.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// μ, `[D]`.
    pub mean: Vec<f64>,
    /// Σ with N − 1 below the line (as `numpy.cov`), `[D,D]` row by row.
    pub covariance: Vec<f64>,
}

impl Statistics {
    /// Of all vectors.
    ///
    /// # Errors
    /// If there are fewer than two.
    pub fn of(features: &Features) -> Result<Self, Error> {
        let mut moments = Moments::new(features.width());
        moments.add(features)?;
        moments.statistics()
    }

    /// From numbers that something else computed.
    ///
    /// # Errors
    /// If `covariance` is not square of the size of `mean`, or a number is not finite.
    pub fn new(mean: Vec<f64>, covariance: Vec<f64>) -> Result<Self, Error> {
        let width = mean.len();
        if width == 0 || covariance.len() != width * width {
            let message = format!("a mean of {width} numbers and a covariance of {}", covariance.len());
            return Err(Error::Request(format!("{message}; expected D and D·D")));
        }
        if mean.iter().chain(&covariance).any(|value| !value.is_finite()) {
            return Err(Error::Request("a mean or covariance that is not finite".into()));
        }
        Ok(Self { mean, covariance })
    }

    /// D.
    pub fn width(&self) -> usize {
        self.mean.len()
    }
}

/// Sums from which [`Statistics`] follow, for more images than fit into memory.
///
/// Each block is centred on its own mean, and blocks are joined by Chan, Golub & LeVeque's update (1979), so that nothing
/// cancels: features of ReLU networks have means far above their deviations.
#[derive(Clone, Debug)]
pub struct Moments {
    count: usize,
    mean: Vec<f64>,
    /// Σ (x − mean)(x − mean)ᵀ.
    scatter: Mat<f64>,
}

/// Vectors that are turned into f64 at once.
const BLOCK: usize = 1024;

impl Moments {
    /// Of no vectors of `width` numbers yet.
    pub fn new(width: usize) -> Self {
        Self { count: 0, mean: vec![0.0; width], scatter: Mat::zeros(width, width) }
    }

    /// N so far.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Takes more vectors in.
    ///
    /// # Errors
    /// If they have another number of elements.
    pub fn add(&mut self, features: &Features) -> Result<(), Error> {
        let width = self.mean.len();
        if features.width() != width {
            let message = format!("features of {} numbers after features of {width}", features.width());
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
        let threads = faer::get_global_parallelism();
        matmul(&mut self.scatter, Accum::Add, &block, block.transpose(), 1.0, threads);
        let shift = Mat::from_fn(mean.len(), 1, |i, _| mean[i] - self.mean[i]);
        let weight = before * added / (before + added);
        matmul(&mut self.scatter, Accum::Add, &shift, shift.transpose(), weight, threads);
        for (i, mean) in self.mean.iter_mut().enumerate() {
            *mean += shift[(i, 0)] * added / (before + added);
        }
        self.count += block.ncols();
    }

    /// Mean and covariance of what was taken in.
    ///
    /// # Errors
    /// If there are fewer than two vectors.
    pub fn statistics(&self) -> Result<Statistics, Error> {
        if self.count < 2 {
            let message = format!("the covariance of {} images; expected at least 2", self.count);
            return Err(Error::Request(message));
        }
        let width = self.mean.len();
        let scale = 1.0 / (self.count - 1) as f64;
        // Products of blocks are symmetric but for roundings; so is what leaves here, to the bit.
        let value = |i: usize, j: usize| scale * self.scatter[(i.max(j), i.min(j))];
        let covariance = (0..width * width).map(|at| value(at / width, at % width)).collect();
        Ok(Statistics { mean: self.mean.clone(), covariance })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quality::subset::tests::normals;

    /// Blocks of any size give what two passes over everything give, with means a thousand times the deviation.
    #[test]
    fn streaming_changes_roundings_only() {
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
}
