//! Changes of size with a filter (Karras et al. 2019, StyleGAN), of ordinary Burn operations.

use burn::tensor::Tensor;

use super::{average_pool2x, upsample2x};

/// Halves the size with a filter in each direction: y_i = Σ_k f_k·x_{2i+k−margin}/Σf, with zeros outside of the image. The
/// filter `[1, 1]` without margin averages squares of 2×2 pixels.
///
/// # Shapes
/// x `[N,H,W,C]`, result `[N,H′,W′,C]` with H′ = (H + 2·margin − taps)/2 + 1.
pub fn filter_down2x(x: Tensor<4>, filter: &[f64], margin: usize) -> Tensor<4> {
    if is_box(filter) && margin == 0 {
        return average_pool2x(x);
    }
    let [n, h, w, c] = x.dims();
    let x = down(x.reshape([n, h, w * c]), filter, margin);
    let h = x.dims()[1];
    let x = down(x.reshape([n * h, w, c]), filter, margin);
    let w = x.dims()[1];
    x.reshape([n, h, w, c])
}

/// Doubles the size with a filter of even length in each direction: zeros between the pixels, then the filter with the sum 2.
/// The filter `[1, 1]` repeats pixels.
///
/// # Shapes
/// x `[N,H,W,C]`, result `[N,2H,2W,C]`.
pub fn filter_up2x(x: Tensor<4>, filter: &[f64]) -> Tensor<4> {
    if is_box(filter) {
        return upsample2x(x);
    }
    let [n, h, w, c] = x.dims();
    let x = up(x.reshape([n, h, w * c]), filter);
    let x = up(x.reshape([n * 2 * h, w, c]), filter);
    x.reshape([n, 2 * h, 2 * w, c])
}

fn is_box(filter: &[f64]) -> bool {
    matches!(*filter, [a, b] if a == b)
}

/// Adds zeros before and after the rows of `[N,rows,C]`.
fn with_margin(x: Tensor<3>, before: usize, after: usize) -> Tensor<3> {
    let [n, _, c] = x.dims();
    let device = x.device();
    let zeros = |rows: usize| Tensor::zeros([n, rows, c], &device);
    let parts = [zeros(before), x, zeros(after)];
    Tensor::cat(parts.into_iter().filter(|part| part.dims()[1] > 0).collect(), 1)
}

/// Computes [`filter_down2x`] along the rows of `[N,rows,C]`.
fn down(x: Tensor<3>, filter: &[f64], margin: usize) -> Tensor<3> {
    let [n, rows, c] = x.dims();
    let sum: f64 = filter.iter().sum();
    let half = (rows + 2 * margin - filter.len()) / 2 + 1;
    // One more row, so that each tap has whole pairs of rows.
    let x = with_margin(x, margin, margin + 1);
    let terms = filter.iter().enumerate().map(|(k, tap)| {
        let pairs = x.clone().narrow(1, k, 2 * half).reshape([n, half, 2, c]);
        pairs.narrow(2, 0, 1).reshape([n, half, c]).mul_scalar(tap / sum)
    });
    terms.reduce(|sum, term| sum + term).unwrap_or(x)
}

/// Computes [`filter_up2x`] along the rows of `[N,rows,C]`.
fn up(x: Tensor<3>, filter: &[f64]) -> Tensor<3> {
    let [n, rows, c] = x.dims();
    let sum: f64 = filter.iter().sum();
    let (taps, margin) = (filter.len(), (filter.len() - 2) / 2);
    let wide = with_margin(x, taps, taps);
    // Row 2j + parity is the sum of f_k·x_{j+s} over the taps k with 2s = parity + margin − k.
    let of_parity = |parity: usize| {
        let terms = (0..taps).filter(|k| (parity + margin + k).is_multiple_of(2)).map(|k| {
            let shift = (2 * taps + parity + margin - k) / 2;
            wide.clone().narrow(1, shift, rows).mul_scalar(2.0 * filter[k] / sum)
        });
        terms.reduce(|sum, term| sum + term)
    };
    let zeros = || wide.clone().narrow(1, 0, rows).zeros_like();
    let [even, odd] = [0, 1].map(|parity| of_parity(parity).unwrap_or_else(zeros).reshape([n, rows, 1, c]));
    Tensor::cat(vec![even, odd], 2).reshape([n, 2 * rows, c])
}
