//! Matrix products: linear layers, 1×1 convolutions, and their gradients.

use crate::epilogue::Epilogue;
use crate::gemm::blocked_len;
use crate::im2col::{Im2col, OutputGrid, outer, pack_weights, pack_weights_transposed, product};
use crate::profile;
use crate::scratch;

/// A product out \[m, n\] = a \[m, k\] · b \[k, n\], row-major.
///
/// A linear layer with weights w \[in, out\] has, for x \[rows, in\] and gradient dy \[rows, out\]:
/// y = x·w (nothing transposed), dx = dy·wᵀ (`b_transposed`), dw = xᵀ·dy (`a_transposed`).
#[derive(Clone, Copy, Debug)]
pub struct MatMulShape {
    /// Rows of a and of the product.
    pub m: usize,
    /// Columns of a, rows of b: the terms of a sum.
    pub k: usize,
    /// Columns of b and of the product.
    pub n: usize,
    /// `a` is stored \[k, m\].
    pub a_transposed: bool,
    /// `b` is stored \[n, k\].
    pub b_transposed: bool,
}

impl MatMulShape {
    /// Neither factor transposed.
    pub fn new(m: usize, k: usize, n: usize) -> Self {
        MatMulShape { m, k, n, a_transposed: false, b_transposed: false }
    }

    /// With `a` stored \[k, m\].
    pub fn transpose_a(self) -> Self {
        MatMulShape { a_transposed: true, ..self }
    }

    /// With `b` stored \[n, k\].
    pub fn transpose_b(self) -> Self {
        MatMulShape { b_transposed: true, ..self }
    }
}

/// out = a·b, plus `bias` \[n\] in every row.
///
/// Unless `a` is transposed, a row of the product depends on that row of `a` alone, to the last bit.
///
/// # Panics
/// If a slice has not the length that `shape` says.
pub fn matmul(shape: &MatMulShape, a: &[f32], b: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
    let MatMulShape { m, k, n, a_transposed, b_transposed } = *shape;
    assert_eq!(a.len(), m * k, "matmul: a");
    assert_eq!(b.len(), k * n, "matmul: b");
    assert_eq!(out.len(), m * n, "matmul: out");
    assert!(bias.is_none_or(|bias| bias.len() == n), "matmul: bias");
    let pass = match (a_transposed, b_transposed) {
        (true, _) => "gradient by weights",
        (false, true) => "gradient by input",
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
        // Both transposed: rare, and worth a copy.
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
