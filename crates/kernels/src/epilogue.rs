//! What is added to the result of a matrix product or convolution while it is written.

use crate::simd::Simd;

/// Terms added to a product while it is written: to row r, column c bias\[c\], shift\[image of r, c\] and
/// residual\[r, c\].
#[derive(Clone, Copy, Default)]
pub(crate) struct Epilogue<'a> {
    pub bias: Option<&'a [f32]>,
    pub shift: Option<&'a [f32]>,
    pub residual: Option<&'a [f32]>,
}

impl Epilogue<'_> {
    /// The value of `sum` at `row` of `image` and the `used` columns from `column`, with everything added.
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
