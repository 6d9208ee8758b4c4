//! What a network makes of images.

use faer::Mat;

use crate::Error;

/// Vectors, one for each image: `[N,D]`, finite.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    width: usize,
    values: Vec<f32>,
}

impl Features {
    /// From `[N,D]` values, row by row.
    ///
    /// # Errors
    /// If they are not whole rows of `width`, or one is NaN or infinite.
    pub fn new(values: Vec<f32>, width: usize) -> Result<Self, Error> {
        if width == 0 || !values.len().is_multiple_of(width) {
            let message = format!("{} values are not vectors of {width} numbers", values.len());
            return Err(Error::Request(message));
        }
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            let message = format!("the features of image {} are not finite: the weights are damaged", at / width);
            return Err(Error::Request(message));
        }
        Ok(Self { width, values })
    }

    /// N.
    pub fn count(&self) -> usize {
        self.values.len() / self.width
    }

    /// D.
    pub fn width(&self) -> usize {
        self.width
    }

    /// All values, row by row.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The vectors in turn.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.width)
    }

    /// The vectors of these images.
    ///
    /// # Panics
    /// If an index is not below N.
    pub fn select(&self, indices: &[usize]) -> Self {
        let values = indices.iter().flat_map(|&i| &self.values[i * self.width..][..self.width]).copied().collect();
        Self { width: self.width, values }
    }

    /// Rows `first` to `first + count` in f64, transposed: a column each, which is how faer reads fastest.
    pub(crate) fn columns(&self, first: usize, count: usize) -> Mat<f64> {
        let rows = &self.values[first * self.width..][..count * self.width];
        Mat::from_fn(self.width, count, |i, j| f64::from(rows[j * self.width + i]))
    }

    /// That two sets can be compared, and that each has at least `least` vectors.
    pub(crate) fn check(&self, other: &Features, least: usize) -> Result<(), Error> {
        if self.width != other.width {
            let message = format!("features of {} numbers beside features of {}", self.width, other.width);
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
    fn torn_rows_and_bad_numbers_are_refused() {
        assert!(Features::new(vec![0.0; 7], 3).is_err());
        assert!(Features::new(vec![0.0; 6], 0).is_err());
        let error = Features::new(vec![0.0, 1.0, 2.0, f32::NAN], 2).unwrap_err();
        assert!(error.to_string().contains("image 1"), "{error}");
        let features = Features::new((0..6).map(|i| i as f32).collect(), 2).unwrap();
        assert_eq!(features.select(&[2, 0]).values(), [4.0, 5.0, 0.0, 1.0]);
    }
}
