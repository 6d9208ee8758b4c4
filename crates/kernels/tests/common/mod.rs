//! Helpers shared by the tests: input data, comparison with f64, finite differences, and thread pools.
#![allow(dead_code)]

use ddpm_kernels::{AttentionInputs, AttentionShape, ConvShape, Pad, reference};
use proptest::prelude::*;

/// Returns `len` numbers in [-1, 1), a fixed function of the seed (SplitMix64).
pub fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(len).collect()
}

pub fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// Computes the reference of attention from f32.
pub fn wide_attention(shape: &AttentionShape, q: &[f32], k: &[f32], v: &[f32]) -> Vec<f64> {
    reference::attention(shape, AttentionInputs { q: &wide(q), k: &wide(k), v: &wide(v) })
}

/// Returns the largest difference, relative to the largest expected value.
pub fn error(actual: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(actual.len(), expected.len());
    let largest = expected.iter().fold(1e-30f64, |m, x| m.max(x.abs()));
    let difference = actual.iter().zip(expected).map(|(&a, e)| (f64::from(a) - e).abs());
    difference.fold(0.0, |m: f64, d| if d.is_nan() { f64::NAN } else { m.max(d) }) / largest
}

#[track_caller]
pub fn assert_close(actual: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    let error = error(actual, expected);
    assert!(error <= tolerance, "{what}: relative error {error:e}, tolerance {tolerance:e}");
}

/// Computes the gradient of Σ f(x)·dy by central differences.
pub fn finite_differences(x: &[f32], dy: &[f32], f: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
    const STEP: f64 = 1e-5;
    let mut x = wide(x);
    let loss = |x: &[f64]| f(x).iter().zip(dy).map(|(y, &dy)| y * f64::from(dy)).sum::<f64>();
    (0..x.len())
        .map(|i| {
            let before = x[i];
            x[i] = before + STEP;
            let above = loss(&x);
            x[i] = before - STEP;
            let below = loss(&x);
            x[i] = before;
            (above - below) / (2.0 * STEP)
        })
        .collect()
}

/// Runs `f` on pools of 1, 2 and 4 threads and checks that the results are bit-identical.
pub fn on_every_pool(f: impl Fn() -> Vec<f32> + Send + Sync) -> Vec<f32> {
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        pool.install(&f)
    };
    let one = run(1);
    for threads in [2, 4] {
        assert_same_bits(&one, &run(threads), &format!("{threads} threads"));
    }
    one
}

#[track_caller]
pub fn assert_same_bits(a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    let different = a.iter().zip(b).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    assert_eq!(different, 0, "{what}: {different} of {} numbers have different bits", a.len());
}

/// Generates convolutions for all algorithms: kernels, strides, one-sided padding, few and odd channels, small and odd
/// images.
pub fn convolutions() -> impl Strategy<Value = ConvShape> {
    let channels = || prop_oneof![Just(1usize), Just(3), Just(4), Just(16), Just(32), Just(48), 2usize..70];
    let window = prop_oneof![
        4 => Just((3usize, 3usize, 1usize, Pad::same(1))),
        2 => (0usize..3, 0usize..3, 0usize..3, 0usize..3)
            .prop_map(|(top, bottom, left, right)| (3, 3, 1, Pad { top, bottom, left, right })),
        1 => Just((3, 3, 2, Pad { top: 0, bottom: 1, left: 0, right: 1 })),
        1 => Just((3, 3, 2, Pad::same(1))),
        1 => Just((1, 1, 1, Pad::default())),
        1 => (1usize..5, 1usize..5, 1usize..4, 0usize..3).prop_map(|(h, w, s, p)| (h, w, s, Pad::same(p))),
    ];
    let size = || prop_oneof![Just(4usize), Just(8), 3usize..14];
    (1usize..6, size(), size(), channels(), channels(), window).prop_map(|(n, h, w, c_in, c_out, window)| {
        let (kh, kw, stride, pad) = window;
        ConvShape { n, h, w, c_in, c_out, kernel: (kh, kw), stride, pad }
    })
}
