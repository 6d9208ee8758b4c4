//! SiLU (Hendrycks & Gimpel 2016; "swish"), x·σ(x), and the exponential under it.

use crate::profile;
use crate::simd::{LANES, Simd, dispatch};
use rayon::prelude::*;

/// Elements of one task: 64 KB, so that a task outweighs its scheduling and fits the second-level cache.
const TASK: usize = 16 * 1024;

/// eˣ with a relative error below 2 units in the last place; saturates near 2⁻¹²⁶ and 2¹²⁷, and the usual NaN stays NaN.
///
/// eˣ = 2ⁿ·eʳ with n = round(x/ln 2) and |r| ≤ ln 2/2; eʳ = 1 + r + r²·p(r) with p fitted for the least relative error.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    const ROUND: f32 = 12_582_912.0; // 1.5·2²³: adding it leaves the nearest integer in the low bits.
    let x = s.min(s.splat(88.0), s.max(s.splat(-87.0), x));
    let shifted = s.fma(x, s.splat(std::f32::consts::LOG2_E), s.splat(ROUND));
    let n = s.sub(shifted, s.splat(ROUND));
    // ln 2 in two parts, the first with few enough bits that n times it is exact.
    let r = s.fnma(n, s.splat(0.693_359_4), x);
    let r = s.fnma(n, s.splat(-2.121_944_4e-4), r);
    let mut p = s.splat(EXP[0]);
    for c in &EXP[1..] {
        p = s.fma(p, r, s.splat(*c));
    }
    let p = s.add(s.fma(s.mul(r, r), p, r), s.splat(1.0));
    s.scale_by_power(p, shifted)
}

/// p, highest power first.
const EXP: [f32; 5] = [0.001_381_454, 0.008_368_745, 0.041_668_39, 0.166_665_2, 0.499_999_93];

/// σ(x) = 1/(1 + e⁻ˣ).
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.sub(s.splat(0.0), x))))
}

/// d SiLU/dx = σ(x)·(1 + x·(1 − σ(x))).
#[inline(always)]
pub(crate) fn silu_slope<S: Simd>(s: S, x: S::V) -> S::V {
    let sigmoid = sigmoid(s, x);
    let one = s.splat(1.0);
    s.mul(sigmoid, s.fma(x, s.sub(one, sigmoid), one))
}

/// out = x·σ(x), element by element.
///
/// # Panics
/// If the lengths differ.
pub fn silu(x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "silu: out");
    let _span = profile::span(|| "SiLU".into(), 8 * x.len(), 2 * x.len());
    out.par_chunks_mut(TASK).zip(x.par_chunks(TASK)).for_each(|(out, x)| silu_part(x, out));
}

/// dx = dy·SiLU′(x), element by element.
///
/// # Panics
/// If the lengths differ.
pub fn silu_backward(x: &[f32], dy: &[f32], dx: &mut [f32]) {
    assert_eq!(x.len(), dy.len(), "silu_backward: dy");
    assert_eq!(x.len(), dx.len(), "silu_backward: dx");
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
