//! Changes of size with a filter (Karras et al. 2019, StyleGAN), and by averages.

use burn::backend::Dispatch;
use burn::tensor::Tensor;

use super::flex::FlexOps;
use super::types::Filter;
use super::{is_cpu, reference, upsample2x};

/// Halves the size with a filter in each direction: y_i = Σ_k f_k·x_{2i+k−margin}/Σf, with zeros outside of the image. The
/// filter `[1, 1]` without margin averages squares of 2×2 pixels.
///
/// # Shapes
/// x `[N,H,W,C]`, result `[N,H′,W′,C]` with H′ = (H + 2·margin − taps)/2 + 1.
pub fn filter_down2x(x: Tensor<4>, filter: &[f64], margin: usize) -> Tensor<4> {
    if is_box(filter) && margin == 0 {
        return average_pool2x(x);
    }
    let filter = Filter::new(filter, 1.0, margin);
    match is_cpu(&x.device()) {
        true => Tensor::from_dispatch(<Dispatch as FlexOps>::filter_down2x(x.into_dispatch(), filter)),
        false => reference::filter_down2x(x, &filter),
    }
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
    let filter = Filter::new(filter, 2.0, filter.len() / 2 - 1);
    match is_cpu(&x.device()) {
        true => Tensor::from_dispatch(<Dispatch as FlexOps>::filter_up2x(x.into_dispatch(), filter)),
        false => reference::filter_up2x(x, &filter),
    }
}

/// Halves the size by averaging 2×2 squares: `[N,H,W,C]` to `[N,H/2,W/2,C]`.
pub fn average_pool2x(x: Tensor<4>) -> Tensor<4> {
    match is_cpu(&x.device()) {
        true => Tensor::from_dispatch(<Dispatch as FlexOps>::average_pool2x(x.into_dispatch())),
        false => reference::average_pool2x(x),
    }
}

fn is_box(filter: &[f64]) -> bool {
    matches!(*filter, [a, b] if a == b)
}
