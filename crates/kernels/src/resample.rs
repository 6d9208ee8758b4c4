//! Nearest-neighbor upsampling by two.

use crate::profile;
use rayon::prelude::*;

/// Copies every pixel of `x` to four pixels of `out` `[n, 2h, 2w, c]`. `[n, h, w, c]` is the shape of `x`.
///
/// # Panics
/// If the length of a slice does not match the shape.
pub fn upsample2x([n, h, w, c]: [usize; 4], x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), n * h * w * c, "upsample2x: the length of `x` does not match the shape");
    assert_eq!(out.len(), 4 * x.len(), "upsample2x: the length of `out` does not match the shape");
    if x.is_empty() {
        return;
    }
    let _span = profile::span(|| "upsampling".into(), 0, 5 * x.len());
    out.par_chunks_mut(4 * w * c).zip(x.par_chunks(w * c)).for_each(|(out, x)| {
        let (upper, lower) = out.split_at_mut(2 * w * c);
        for (pair, pixel) in upper.chunks_exact_mut(2 * c).zip(x.chunks_exact(c)) {
            pair[..c].copy_from_slice(pixel);
            pair[c..].copy_from_slice(pixel);
        }
        lower.copy_from_slice(upper);
    });
}

/// Computes `dx`, each pixel of which is the sum of its four copies in `dy` `[n, 2h, 2w, c]`. `[n, h, w, c]` is the
/// shape of `dx`.
///
/// # Panics
/// If the length of a slice does not match the shape.
pub fn upsample2x_backward([n, h, w, c]: [usize; 4], dy: &[f32], dx: &mut [f32]) {
    assert_eq!(dx.len(), n * h * w * c, "upsample2x_backward: the length of `dx` does not match the shape");
    assert_eq!(dy.len(), 4 * dx.len(), "upsample2x_backward: the length of `dy` does not match the shape");
    if dx.is_empty() {
        return;
    }
    let _span = profile::span(|| "upsampling: gradient".into(), dy.len(), 5 * dx.len());
    dx.par_chunks_mut(w * c).zip(dy.par_chunks(4 * w * c)).for_each(|(dx, dy)| {
        let (upper, lower) = dy.split_at(2 * w * c);
        let pairs = upper.chunks_exact(2 * c).zip(lower.chunks_exact(2 * c));
        for (pixel, (above, below)) in dx.chunks_exact_mut(c).zip(pairs) {
            for (i, out) in pixel.iter_mut().enumerate() {
                *out = (above[i] + above[c + i]) + (below[i] + below[c + i]);
            }
        }
    });
}
