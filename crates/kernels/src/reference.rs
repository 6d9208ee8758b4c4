//! Reference implementations: the operations of this crate as plain loops in f64.
//!
//! The arguments are those of the kernels of the same names, in f64. Gradients without a function here are tested
//! against finite differences; those of the convolution are here because finite differences would be too slow.

use crate::attention::{AttentionInputs, AttentionShape};
use crate::conv::ConvShape;
use crate::epilogue::Epilogue;
use crate::matmul::MatMulShape;
use crate::norm::{FusedGroupNorm, GroupNormShape};
use crate::rms_norm::FusedRmsNorm;

/// Reference for [`crate::conv2d`] of an input in one part, without normalization.
pub fn conv2d(shape: &ConvShape, x: &[f64], w: &[f64], epilogue: Epilogue<f64>) -> Vec<f64> {
    let Epilogue { bias, shift, residual } = epilogue;
    let mut out = vec![0.0; shape.output_len()];
    each_product(shape, |from, weight, to| out[to] += x[from] * w[weight]);
    let (c, pixels) = (shape.c_out, shape.out_h() * shape.out_w());
    for (i, out) in out.iter_mut().enumerate() {
        *out += bias.map_or(0.0, |bias| bias[i % c]);
        *out += shift.map_or(0.0, |shift| shift[i / (c * pixels) * c + i % c]);
        *out += residual.map_or(0.0, |residual| residual[i]);
    }
    out
}

/// Reference for [`crate::conv2d_grad_input`].
pub fn conv2d_grad_input(shape: &ConvShape, dy: &[f64], w: &[f64]) -> Vec<f64> {
    let mut dx = vec![0.0; shape.input_len()];
    each_product(shape, |from, weight, to| dx[from] += dy[to] * w[weight]);
    dx
}

/// Reference for [`crate::conv2d_grad_weight`].
pub fn conv2d_grad_weight(shape: &ConvShape, x: &[f64], dy: &[f64]) -> Vec<f64> {
    let mut dw = vec![0.0; shape.weight_len()];
    each_product(shape, |from, weight, to| dw[weight] += x[from] * dy[to]);
    dw
}

/// Calls `visit(input, weight, output)` with the indices of every product in a convolution.
fn each_product(shape: &ConvShape, mut visit: impl FnMut(usize, usize, usize)) {
    let ConvShape { n, h, w, c_in, c_out, kernel, stride, pad } = *shape;
    for image in 0..n {
        for oy in 0..shape.out_h() {
            for ox in 0..shape.out_w() {
                for ky in 0..kernel.0 {
                    for kx in 0..kernel.1 {
                        let (Some(y), Some(x)) =
                            ((oy * stride + ky).checked_sub(pad.top), (ox * stride + kx).checked_sub(pad.left))
                        else {
                            continue;
                        };
                        if y >= h || x >= w {
                            continue;
                        }
                        for i in 0..c_in {
                            for o in 0..c_out {
                                visit(
                                    ((image * h + y) * w + x) * c_in + i,
                                    ((ky * kernel.1 + kx) * c_in + i) * c_out + o,
                                    ((image * shape.out_h() + oy) * shape.out_w() + ox) * c_out + o,
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Reference for [`crate::matmul`] without a bias.
pub fn matmul(shape: &MatMulShape, [a, b]: [&[f64]; 2]) -> Vec<f64> {
    let MatMulShape { m, k, n, a_transposed, b_transposed } = *shape;
    let a = |r: usize, i: usize| if a_transposed { a[i * m + r] } else { a[r * k + i] };
    let b = |i: usize, c: usize| if b_transposed { b[c * k + i] } else { b[i * n + c] };
    let mut out = vec![0.0; m * n];
    for r in 0..m {
        for c in 0..n {
            out[r * n + c] = (0..k).map(|i| a(r, i) * b(i, c)).sum();
        }
    }
    out
}

/// Computes x·σ(x).
pub fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// Reference for [`crate::group_norm`].
pub fn group_norm(norm: &FusedGroupNorm<f64>, x: &[f64]) -> Vec<f64> {
    let FusedGroupNorm { shape, gamma, beta, scale_shift, silu: activate } = *norm;
    let GroupNormShape { n, pixels, channels, groups, eps } = shape;
    let size = channels / groups;
    let mut out = vec![0.0; x.len()];
    for image in 0..n {
        for group in 0..groups {
            let members: Vec<usize> = (0..pixels)
                .flat_map(|p| (group * size..(group + 1) * size).map(move |c| (image * pixels + p) * channels + c))
                .collect();
            let count = members.len() as f64;
            let mean = members.iter().map(|&i| x[i]).sum::<f64>() / count;
            let variance = members.iter().map(|&i| (x[i] - mean).powi(2)).sum::<f64>() / count;
            for i in members {
                let c = i % channels;
                let mut y = (x[i] - mean) / (variance + f64::from(eps)).sqrt() * gamma[c] + beta[c];
                if let Some((scale, shift)) = scale_shift {
                    y = y * (1.0 + scale[image * channels + c]) + shift[image * channels + c];
                }
                out[i] = if activate { silu(y) } else { y };
            }
        }
    }
    out
}

/// Reference for [`crate::rms_norm`].
pub fn rms_norm(norm: &FusedRmsNorm<f64>, x: &[f64]) -> Vec<f64> {
    let FusedRmsNorm { pixels, gain, scale_shift, silu: activate, .. } = *norm;
    let channels = gain.len();
    let mut out = vec![0.0; x.len()];
    for (p, (x, out)) in x.chunks(channels).zip(out.chunks_mut(channels)).enumerate() {
        let length = x.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-12);
        for c in 0..channels {
            let mut y = x[c] / length * (channels as f64).sqrt() * gain[c];
            if let Some((scale, shift)) = scale_shift {
                let at = p / pixels * channels + c;
                y = y * (1.0 + scale[at]) + shift[at];
            }
            out[c] = if activate { silu(y) } else { y };
        }
    }
    out
}

/// Reference for [`crate::attention`].
pub fn attention(shape: &AttentionShape, inputs: AttentionInputs<f64>) -> Vec<f64> {
    let AttentionInputs { q, k, v } = inputs;
    let AttentionShape { n, tokens, keys, heads, head_dim } = *shape;
    let mut out = vec![0.0; q.len()];
    for image in 0..n {
        for head in 0..heads {
            let at = |token: usize| (image * tokens + token) * heads * head_dim + head * head_dim;
            let key = |key: usize| (image * keys + key) * heads * head_dim + head * head_dim;
            for t in 0..tokens {
                let score = |u: usize| {
                    (0..head_dim).map(|c| q[at(t) + c] * k[key(u) + c]).sum::<f64>() / (head_dim as f64).sqrt()
                };
                let scores: Vec<f64> = (0..keys).map(score).collect();
                let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
                let sum: f64 = weights.iter().sum();
                for c in 0..head_dim {
                    out[at(t) + c] = (0..keys).map(|u| weights[u] / sum * v[key(u) + c]).sum();
                }
            }
        }
    }
    out
}

/// Reference for [`crate::linear_attention`].
pub fn linear_attention(shape: &AttentionShape, inputs: AttentionInputs<f64>) -> Vec<f64> {
    let AttentionInputs { q, k, v } = inputs;
    let AttentionShape { n, tokens, keys, heads, head_dim } = *shape;
    let softmax = |scores: Vec<f64>| {
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
        let sum: f64 = weights.iter().sum();
        weights.into_iter().map(|weight| weight / sum).collect::<Vec<_>>()
    };
    let mut out = vec![0.0; q.len()];
    for image in 0..n {
        for head in 0..heads {
            let at = |token: usize| (image * tokens + token) * heads * head_dim + head * head_dim;
            let key = |key: usize| (image * keys + key) * heads * head_dim + head * head_dim;
            let of_channel: Vec<Vec<f64>> =
                (0..head_dim).map(|c| softmax((0..keys).map(|u| k[key(u) + c]).collect())).collect();
            for t in 0..tokens {
                let of_query = softmax(q[at(t)..][..head_dim].to_vec());
                for c in 0..head_dim {
                    let context = |e: usize| (0..keys).map(|u| of_channel[e][u] * v[key(u) + c]).sum::<f64>();
                    let sum: f64 = (0..head_dim).map(|e| of_query[e] * context(e)).sum();
                    out[at(t) + c] = sum / (head_dim as f64).sqrt();
                }
            }
        }
    }
    out
}
