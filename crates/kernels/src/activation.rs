//! The activation SiLU (Hendrycks & Gimpel 2016; also "swish"), x·σ(x), and a vectorized exponential.

use crate::profile;
use crate::simd::{LANES, Simd, dispatch};
use rayon::prelude::*;

/// Elements per task: 64 KB, large enough to hide the scheduling cost and small enough for the L2 cache.
const TASK: usize = 16 * 1024;

/// Computes eˣ with a relative error below 2 units in the last place.
///
/// The result saturates near 2⁻¹²⁶ and 2¹²⁷; NaN stays NaN. With n = round(x/ln 2), eˣ = 2ⁿ·eʳ and |r| ≤ ln 2/2.
/// eʳ = 1 + r + r²·p(r), where p is fitted for the least relative error.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    const ROUND: f32 = 12_582_912.0; // Adding 1.5·2²³ leaves the nearest integer in the low bits.
    let x = s.min(s.splat(88.0), s.max(s.splat(-87.0), x));
    let shifted = s.fma(x, s.splat(std::f32::consts::LOG2_E), s.splat(ROUND));
    let n = s.sub(shifted, s.splat(ROUND));
    // ln 2 is split in two: the first part has so few bits that n times it is exact.
    let r = s.fnma(n, s.splat(0.693_359_4), x);
    let r = s.fnma(n, s.splat(-2.121_944_4e-4), r);
    let mut p = s.splat(EXP[0]);
    for c in &EXP[1..] {
        p = s.fma(p, r, s.splat(*c));
    }
    let p = s.add(s.fma(s.mul(r, r), p, r), s.splat(1.0));
    s.scale_by_power(p, shifted)
}

/// Coefficients of p, highest power first.
const EXP: [f32; 5] = [0.001_381_454, 0.008_368_745, 0.041_668_39, 0.166_665_2, 0.499_999_93];

/// Computes σ(x) = 1/(1 + e⁻ˣ).
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.sub(s.splat(0.0), x))))
}

/// Computes the derivative of SiLU, σ(x)·(1 + x·(1 − σ(x))).
#[inline(always)]
pub(crate) fn silu_slope<S: Simd>(s: S, x: S::V) -> S::V {
    let sigmoid = sigmoid(s, x);
    let one = s.splat(1.0);
    s.mul(sigmoid, s.fma(x, s.sub(one, sigmoid), one))
}

/// Computes out = x·σ(x) elementwise.
///
/// # Panics
/// If the lengths differ.
pub fn silu(x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "silu: `x` and `out` differ in length");
    let _span = profile::span(|| "SiLU".into(), 8 * x.len(), 2 * x.len());
    out.par_chunks_mut(TASK).zip(x.par_chunks(TASK)).for_each(|(out, x)| silu_part(x, out));
}

/// Computes dx = dy·SiLU′(x) elementwise.
///
/// # Panics
/// If the lengths differ.
pub fn silu_backward(x: &[f32], dy: &[f32], dx: &mut [f32]) {
    assert_eq!(x.len(), dy.len(), "silu_backward: `x` and `dy` differ in length");
    assert_eq!(x.len(), dx.len(), "silu_backward: `x` and `dx` differ in length");
    let _span = profile::span(|| "SiLU: gradient".into(), 12 * x.len(), 3 * x.len());
    let inputs = x.par_chunks(TASK).zip(dy.par_chunks(TASK));
    dx.par_chunks_mut(TASK).zip(inputs).for_each(|(dx, (x, dy))| silu_backward_part(x, dy, dx));
}

dispatch! {
    fn silu_part(x: &[f32], out: &mut [f32]) = silu_kernel;
    fn silu_backward_part(x: &[f32], dy: &[f32], dx: &mut [f32]) = silu_backward_kernel;
}

#[inline(always)]
fn silu_kernel<S: Simd>(s: S, x: &[f32], out: &mut [f32]) {
    for (x, out) in x.chunks(LANES).zip(out.chunks_mut(LANES)) {
        let x = s.load_up_to(x);
        s.store_up_to(s.mul(x, sigmoid(s, x)), out);
    }
}

#[inline(always)]
fn silu_backward_kernel<S: Simd>(s: S, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    for ((x, dy), dx) in x.chunks(LANES).zip(dy.chunks(LANES)).zip(dx.chunks_mut(LANES)) {
        let slope = silu_slope(s, s.load_up_to(x));
        s.store_up_to(s.mul(s.load_up_to(dy), slope), dx);
    }
}
