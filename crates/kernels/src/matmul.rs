//! Matrix products: linear layers, 1×1 convolutions, and their gradients.

use crate::epilogue::Epilogue;
use crate::gemm::blocked_len;
use crate::im2col::{Im2col, OutputGrid, outer, pack_weights, pack_weights_transposed, product};
use crate::profile;
use crate::scratch;

/// The shape of a row-major product out `[m, n]` = a `[m, k]` · b `[k, n]`.
///
/// A linear layer with weights w `[in, out]`, input x `[rows, in]` and output gradient dy `[rows, out]` has
/// y = x·w (nothing transposed), dx = dy·wᵀ (`b_transposed`) and dw = xᵀ·dy (`a_transposed`).
#[derive(Clone, Copy, Debug)]
pub struct MatMulShape {
    /// Rows of a and of the product.
    pub m: usize,
    /// Columns of a and rows of b: the number of terms in each sum.
    pub k: usize,
    /// Columns of b and of the product.
    pub n: usize,
    /// Reads `a` as stored transposed, `[k, m]`.
    pub a_transposed: bool,
    /// Reads `b` as stored transposed, `[n, k]`.
    pub b_transposed: bool,
}

impl MatMulShape {
    /// Creates the shape of a product without transposed factors.
    pub fn new(m: usize, k: usize, n: usize) -> Self {
        MatMulShape { m, k, n, a_transposed: false, b_transposed: false }
    }

    /// Returns the same shape with `a` stored as `[k, m]`.
    pub fn transpose_a(self) -> Self {
        MatMulShape { a_transposed: true, ..self }
    }

    /// Returns the same shape with `b` stored as `[n, k]`.
    pub fn transpose_b(self) -> Self {
        MatMulShape { b_transposed: true, ..self }
    }
}

/// Computes out = a·b, plus `bias` `[n]` in every row.
///
/// Unless `a` is transposed, the bits of a row of the product depend on that row of `a` only.
///
/// # Panics
/// If the length of a slice does not match `shape`.
pub fn matmul(shape: &MatMulShape, a: &[f32], b: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
    let MatMulShape { m, k, n, a_transposed, b_transposed } = *shape;
    assert_eq!(a.len(), m * k, "matmul: the length of `a` does not match the shape");
    assert_eq!(b.len(), k * n, "matmul: the length of `b` does not match the shape");
    assert_eq!(out.len(), m * n, "matmul: the length of `out` does not match the shape");
    assert!(bias.is_none_or(|bias| bias.len() == n), "matmul: the length of `bias` does not match the shape");
    let pass = match (a_transposed, b_transposed) {
        (true, _) => "weight gradient",
        (false, true) => "input gradient",
        (false, false) => "forward",
    };
    let name = || format!("linear, convolution 1×1: {pass}");
    let _span = profile::span(name, 2 * m * k * n, a.len() + b.len() + out.len());
    if a_transposed && !b_transposed {
        outer(&Im2col::matrix(a, k, m), &Im2col::matrix(b, k, n), out);
        if let Some(bias) = bias {
            for row in out.chunks_exact_mut(n.max(1)) {
                row.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias);
            }
        }
        return;
    }
    if a_transposed {
        // Both factors are transposed, which is rare: copy a into row-major order.
        let mut copy = scratch::take(m * k);
        let copy = &mut *copy;
        for (r, row) in copy.chunks_exact_mut(k.max(1)).enumerate() {
            row.iter_mut().enumerate().for_each(|(c, value)| *value = a[c * m + r]);
        }
        return matmul(&MatMulShape { a_transposed: false, ..*shape }, copy, b, bias, out);
    }
    let mut packed = scratch::take(blocked_len(k, n));
    let packed = &mut *packed;
    if b_transposed {
        pack_weights_transposed(&[0], k, n, b, packed);
    } else {
        pack_weights(k, n, b, packed);
    }
    let output = OutputGrid { height: 1, width: m, step: 1, origin: (0, 0) };
    product(&Im2col::matrix(a, m, k), packed, n, output, Epilogue { bias, ..Epilogue::default() }, out);
}
