//! The operations composed of ordinary Burn operations: the definition of the fused kernels, and the implementation for
//! all back ends but the CPU. Burn differentiates them.

use burn::tensor::module;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Tensor, activation};
use kernels::AdamStep;

use super::flex::Weights;
use super::types::{AdamState, Filter, Fusion, Geometry, Norm, NormOptions};

/// See [`super::conv2d`].
pub fn conv2d(x: Tensor<4>, weights: Weights<4>, geometry: Geometry, fusion: Fusion) -> Tensor<4> {
    let Weights { weight, bias, .. } = weights;
    let Geometry { stride, before, after } = geometry;
    let Fusion { skip, norm, shift, residual } = fusion;
    let x = match skip {
        Some(skip) => concat(x, skip),
        None => x,
    };
    let x = match norm {
        Some(norm) => group_norm(x, norm),
        None => x,
    };
    let (x, weight) = (x.permute([0, 3, 1, 2]), weight.permute([3, 2, 0, 1]));
    let mut options = ConvOptions::new([stride, stride], [0, 0], [1, 1], 1);
    options.padding = [(before, after); 2];
    let mut y = module::conv2d(x, weight, Some(bias), options).permute([0, 2, 3, 1]);
    if let Some(shift) = shift {
        let [n, channels] = shift.dims();
        y = y + shift.reshape([n, 1, 1, channels]);
    }
    match residual {
        Some(residual) => y + residual,
        None => y,
    }
}

/// See [`super::linear`].
pub fn linear(x: Tensor<2>, weights: Weights<2>, residual: Option<Tensor<2>>) -> Tensor<2> {
    let y = x.matmul(weights.weight) + weights.bias.unsqueeze();
    match residual {
        Some(residual) => y + residual,
        None => y,
    }
}

/// See [`super::group_norm`].
pub fn group_norm(x: Tensor<4>, norm: Norm) -> Tensor<4> {
    let Norm { gamma, beta, scale_shift, options } = norm;
    let NormOptions { groups, epsilon, silu } = options;
    let [n, h, w, channels] = x.dims();
    let grouped = x.reshape([n, h * w, groups, channels / groups]);
    let mean = grouped.clone().mean_dim(3).mean_dim(1);
    let centered = grouped - mean;
    let variance = centered.clone().mul(centered.clone()).mean_dim(3).mean_dim(1);
    let normed = (centered / variance.add_scalar(epsilon).sqrt()).reshape([n, h, w, channels]);
    let y = normed * gamma.reshape([1, 1, 1, channels]) + beta.reshape([1, 1, 1, channels]);
    activated(y, scale_shift, silu)
}

/// See [`super::attention`].
pub fn attention(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, heads: usize) -> Tensor<3> {
    let [n, tokens, channels] = q.dims();
    let scores = by_head(q, heads).matmul(by_head(k, heads).transpose()).div_scalar(root_of_head_dim(channels, heads));
    activation::softmax(scores, 3).matmul(by_head(v, heads)).swap_dims(1, 2).reshape([n, tokens, channels])
}

/// See [`super::linear_attention`].
pub fn linear_attention(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, heads: usize) -> Tensor<3> {
    let [n, tokens, channels] = q.dims();
    let (q, k) = (activation::softmax(by_head(q, heads), 3), activation::softmax(by_head(k, heads), 2));
    let context = k.transpose().matmul(by_head(v, heads)).div_scalar(root_of_head_dim(channels, heads));
    q.matmul(context).swap_dims(1, 2).reshape([n, tokens, channels])
}

/// Splits `[N,tokens,C]` into heads: `[N,heads,tokens,d]`.
fn by_head(x: Tensor<3>, heads: usize) -> Tensor<4> {
    let [n, tokens, channels] = x.dims();
    x.reshape([n, tokens, heads, channels / heads]).swap_dims(1, 2)
}

fn root_of_head_dim(channels: usize, heads: usize) -> f64 {
    ((channels / heads) as f64).sqrt()
}

/// See [`super::rms_norm`].
pub fn rms_norm(x: Tensor<4>, gain: Tensor<1>, scale_shift: Option<Tensor<2>>, silu: bool) -> Tensor<4> {
    let [_, _, _, channels] = x.dims();
    let length = x.clone().mul(x.clone()).sum_dim(3).sqrt().clamp_min(1e-12);
    let normed = (x / length).mul_scalar((channels as f64).sqrt()) * gain.reshape([1, 1, 1, channels]);
    activated(normed, scale_shift, silu)
}

/// Computes ·(1 + scale) + shift, if given, and SiLU, if `silu`.
fn activated(x: Tensor<4>, scale_shift: Option<Tensor<2>>, silu: bool) -> Tensor<4> {
    let [n, _, _, channels] = x.dims();
    let y = match scale_shift {
        None => x,
        Some(scale_shift) => {
            let scale_shift = scale_shift.reshape([n, 1, 1, 2 * channels]);
            let scale = scale_shift.clone().narrow(3, 0, channels);
            let shift = scale_shift.narrow(3, channels, channels);
            x * scale.add_scalar(1.0) + shift
        }
    };
    if silu { activation::silu(y) } else { y }
}

/// See [`super::silu`].
pub fn silu(x: Tensor<2>) -> Tensor<2> {
    activation::silu(x)
}

/// See [`super::upsample2x`].
pub fn upsample2x(x: Tensor<4>) -> Tensor<4> {
    let [n, h, w, c] = x.dims();
    x.reshape([n, h, 1, w, 1, c]).expand([n, h, 2, w, 2, c]).reshape([n, 2 * h, 2 * w, c])
}

/// See [`super::average_pool2x`].
pub fn average_pool2x(x: Tensor<4>) -> Tensor<4> {
    let [n, h, w, c] = x.dims();
    let pairs = x.narrow(1, 0, h / 2 * 2).narrow(2, 0, w / 2 * 2).reshape([n, h / 2, 2, w / 2, 2, c]);
    pairs.mean_dim(4).mean_dim(2).reshape([n, h / 2, w / 2, c])
}

/// See [`super::filter_down2x`].
pub fn filter_down2x(x: Tensor<4>, filter: &Filter) -> Tensor<4> {
    let [n, h, w, c] = x.dims();
    let x = down(x.reshape([n, h, w * c]), filter);
    let h = x.dims()[1];
    let x = down(x.reshape([n * h, w, c]), filter);
    let w = x.dims()[1];
    x.reshape([n, h, w, c])
}

/// See [`super::filter_up2x`].
pub fn filter_up2x(x: Tensor<4>, filter: &Filter) -> Tensor<4> {
    let [n, h, w, c] = x.dims();
    let x = up(x.reshape([n, h, w * c]), filter);
    let x = up(x.reshape([n * 2 * h, w, c]), filter);
    x.reshape([n, 2 * h, 2 * w, c])
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
fn down(x: Tensor<3>, filter: &Filter) -> Tensor<3> {
    let [n, rows, c] = x.dims();
    let half = filter.small(rows);
    // One more row, so that each tap has whole pairs of rows.
    let x = with_margin(x, filter.margin, filter.margin + 1);
    let terms = filter.taps.iter().enumerate().map(|(k, &tap)| {
        let pairs = x.clone().narrow(1, k, 2 * half).reshape([n, half, 2, c]);
        pairs.narrow(2, 0, 1).reshape([n, half, c]).mul_scalar(tap)
    });
    terms.reduce(|sum, term| sum + term).unwrap_or(x)
}

/// Computes [`filter_up2x`] along the rows of `[N,rows,C]`.
fn up(x: Tensor<3>, filter: &Filter) -> Tensor<3> {
    let [n, rows, c] = x.dims();
    let (taps, margin) = (filter.taps.len(), filter.margin);
    let wide = with_margin(x, taps, taps);
    // Row 2j + parity is the sum of t_k·x_{j+s} over the taps k with 2s = parity + margin − k.
    let of_parity = |parity: usize| {
        let terms = (0..taps).filter(|k| (parity + margin + k).is_multiple_of(2)).map(|k| {
            let shift = (2 * taps + parity + margin - k) / 2;
            wide.clone().narrow(1, shift, rows).mul_scalar(filter.taps[k])
        });
        terms.reduce(|sum, term| sum + term)
    };
    let zeros = || wide.clone().narrow(1, 0, rows).zeros_like();
    let [even, odd] = [0, 1].map(|parity| of_parity(parity).unwrap_or_else(zeros).reshape([n, rows, 1, c]));
    Tensor::cat(vec![even, odd], 2).reshape([n, 2 * rows, c])
}

/// See [`super::concat`].
pub fn concat(x: Tensor<4>, y: Tensor<4>) -> Tensor<4> {
    Tensor::cat(vec![x, y], 3)
}

/// See [`super::adam`].
pub fn adam(state: AdamState, gradient: Tensor<1>, step: AdamStep) -> AdamState {
    let AdamState { parameter, moment1, moment2, average } = state;
    let AdamStep { learning_rate, beta1, beta2, epsilon, step, gradient_scale, ema_decay, weight_decay } = step;
    let gradient = gradient.mul_scalar(gradient_scale);
    let moment1 = moment1.mul_scalar(beta1) + gradient.clone().mul_scalar(1.0 - beta1);
    let moment2 = moment2.mul_scalar(beta2) + gradient.clone().mul(gradient).mul_scalar(1.0 - beta2);
    let correct1 = 1.0 - beta1.powf(step as f64);
    let correct2 = 1.0 - beta2.powf(step as f64);
    let direction = moment1.clone() / (moment2.clone().sqrt().div_scalar(correct2.sqrt()).add_scalar(epsilon));
    let parameter =
        parameter.mul_scalar(1.0 - learning_rate * weight_decay) - direction.mul_scalar(learning_rate / correct1);
    let average = average.mul_scalar(ema_decay) + parameter.clone().mul_scalar(1.0 - ema_decay);
    AdamState { parameter, moment1, moment2, average }
}
