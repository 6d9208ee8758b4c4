//! Feature vectors of images.

use faer::Mat;

use crate::Error;

/// Finite feature vectors `[N,D]`, one for each image.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    width: usize,
    values: Vec<f32>,
}

impl Features {
    /// Features from their values in the order N,D.
    ///
    /// # Errors
    /// If the number of values is not a multiple of `width`, or one is NaN or infinite.
    pub fn new(values: Vec<f32>, width: usize) -> Result<Self, Error> {
        if width == 0 || !values.len().is_multiple_of(width) {
            let message = format!("{} values are not vectors of {width}", values.len());
            return Err(Error::Request(message));
        }
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            let message = format!("the features of image {} are not finite: the weights are damaged", at / width);
            return Err(Error::Request(message));
        }
        Ok(Self { width, values })
    }

    /// Returns N, the number of vectors.
    pub fn count(&self) -> usize {
        self.values.len() / self.width
    }

    /// Returns D, the length of a vector.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Returns all values in the order N,D.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Iterates over the vectors.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.width)
    }

    /// Copies the vectors of some images.
    ///
    /// # Panics
    /// If an index is not below N.
    pub fn select(&self, indices: &[usize]) -> Self {
        let values = indices.iter().flat_map(|&i| &self.values[i * self.width..][..self.width]).copied().collect();
        Self { width: self.width, values }
    }

    /// Returns the vectors `first` to `first + count` in f64, as the columns of a matrix: the order that faer reads fastest.
    pub(crate) fn columns(&self, first: usize, count: usize) -> Mat<f64> {
        let rows = &self.values[first * self.width..][..count * self.width];
        Mat::from_fn(self.width, count, |i, j| f64::from(rows[j * self.width + i]))
    }

    /// Checks that two sets have vectors of one length, and at least `least` of them each.
    pub(crate) fn check(&self, other: &Features, least: usize) -> Result<(), Error> {
        if self.width != other.width {
            let message =
                format!("features of length {} cannot be compared with features of length {}", self.width, other.width);
            return Err(Error::Request(message));
        }
        match self.count().min(other.count()) {
            few if few < least => Err(Error::Request(format!("{few} images; expected at least {least}"))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incomplete_rows_and_bad_numbers_are_errors() {
        assert!(Features::new(vec![0.0; 7], 3).is_err());
        assert!(Features::new(vec![0.0; 6], 0).is_err());
        let error = Features::new(vec![0.0, 1.0, 2.0, f32::NAN], 2).unwrap_err();
        assert!(error.to_string().contains("image 1"), "{error}");
        let features = Features::new((0..6).map(|i| i as f32).collect(), 2).unwrap();
        assert_eq!(features.select(&[2, 0]).values(), [4.0, 5.0, 0.0, 1.0]);
    }
}
