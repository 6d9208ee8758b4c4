//! Sums over rows and images in a fixed order: f32 partial sums over a fixed number of rows, then their f64 sum, in
//! order.

use crate::parallel::{self, SharedSlice};
use crate::profile;
use crate::scratch;
use crate::simd::{LANES, Simd, dispatch};
use rayon::prelude::*;

/// Rows that are summed in f32.
const ROWS: usize = 64;

/// Computes out `[channels]` as the sum of the rows of `x` `[rows, channels]`: the gradient of a bias.
///
/// # Panics
/// If the length of `x` is not a multiple of `out.len()`.
pub fn channel_sums(x: &[f32], out: &mut [f32]) {
    per_image_channel_sums(1, x, out);
}

/// Computes out `[n, channels]` as the sums over the pixels of each image of `x` `[n, pixels, channels]`: the gradient
/// of a time shift.
///
/// # Panics
/// If `out.len()` is not a multiple of `n`, or the length of `x` not a multiple of `out.len()`.
pub fn per_image_channel_sums(n: usize, x: &[f32], out: &mut [f32]) {
    if out.is_empty() {
        return;
    }
    let channels = out.len() / n;
    assert!(
        channels * n == out.len() && x.len().is_multiple_of(out.len()),
        "channel sums: the lengths of `x` and `out` do not match"
    );
    let _span = profile::span(|| "sums: gradients of biases and shifts".into(), x.len(), x.len());
    let pixels = x.len() / out.len();
    let chunks = pixels.div_ceil(ROWS);
    let mut partial = scratch::take(n * chunks * channels);
    let partial = &mut *partial;
    let parts = SharedSlice::new(&mut *partial);
    parallel::for_each(n * chunks, |task| {
        let (image, chunk) = (task / chunks, task % chunks);
        let rows = ROWS.min(pixels - chunk * ROWS);
        // SAFETY: tasks write disjoint parts.
        let to = unsafe { parts.part(task * channels, channels) };
        sum_rows(channels, &x[(image * pixels + chunk * ROWS) * channels..][..rows * channels], to);
    });
    for (image, out) in out.chunks_exact_mut(channels).enumerate() {
        let partial = &partial[image * chunks * channels..][..chunks * channels];
        for (c, out) in out.iter_mut().enumerate() {
            *out = partial.iter().skip(c).step_by(channels).map(|&x| f64::from(x)).sum::<f64>() as f32;
        }
    }
}

/// Computes Σ x², for the norm of a gradient.
pub fn sum_of_squares(x: &[f32]) -> f64 {
    const TASK: usize = 64 * 1024;
    let _span = profile::span(|| "norm of the gradient".into(), 2 * x.len(), x.len());
    let partial: Vec<f64> = x.par_chunks(TASK).map(squares).collect();
    partial.iter().sum()
}

dispatch! {
    fn sum_rows(channels: usize, x: &[f32], out: &mut [f32]) = sum_rows_kernel;
    fn squares(x: &[f32]) -> f64 = squares_kernel;
}

#[inline(always)]
fn sum_rows_kernel<S: Simd>(s: S, channels: usize, x: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    for row in x.chunks_exact(channels) {
        for (x, out) in row.chunks(LANES).zip(out.chunks_mut(LANES)) {
            s.store_up_to(s.add(s.load_up_to(out), s.load_up_to(x)), out);
        }
    }
}

#[inline(always)]
fn squares_kernel<S: Simd>(s: S, x: &[f32]) -> f64 {
    let mut total = 0.0;
    for x in x.chunks(ROWS * LANES) {
        let mut sums = [s.splat(0.0); 4];
        for (i, x) in x.chunks(LANES).enumerate() {
            let x = s.load_up_to(x);
            sums[i % 4] = s.fma(x, x, sums[i % 4]);
        }
        total += f64::from(s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3]))));
    }
    total
}
