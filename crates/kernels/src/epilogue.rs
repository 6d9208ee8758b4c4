//! The epilogue of a matrix product or convolution: terms added to the result before it is stored.

use crate::simd::Simd;

/// The terms added at row r (pixel) and column c (channel): `bias[c]`, `shift[image of r, c]` and `residual[r, c]`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a, T = f32> {
    /// A bias for each channel.
    pub bias: Option<&'a [T]>,
    /// A shift for each image and channel.
    pub shift: Option<&'a [T]>,
    /// A residual of the shape of the result.
    pub residual: Option<&'a [T]>,
}

impl Epilogue<'_> {
    /// Adds the terms to `sum`, which holds `used` columns from `column` at `row` of `image`.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn apply<S: Simd>(
        &self,
        s: S,
        sum: S::V,
        image: usize,
        row: usize,
        column: usize,
        used: usize,
        columns: usize,
    ) -> S::V {
        let mut sum = sum;
        for (terms, start) in
            [(self.bias, column), (self.shift, image * columns + column), (self.residual, row * columns + column)]
        {
            if let Some(terms) = terms {
                sum = s.add(sum, s.load_up_to(&terms[start..start + used]));
            }
        }
        sum
    }
}
