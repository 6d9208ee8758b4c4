//! Changes of size by a factor of 2: with a filter in each direction (Karras et al. 2019, StyleGAN), or by averages of 2×2 pixels.
//!
//! Rows are filtered before columns, and taps are added in order, each product rounded before it is added: the bits are those of
//! ordinary operations on whole images.

use rayon::prelude::*;

use crate::profile;
use crate::scratch;
use crate::simd::{Simd, dispatch};

/// The sizes of a filtered change of size. Each of [`filter_down2x`] and [`filter_up2x`] is the gradient of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterShape {
    /// Number of images.
    pub n: usize,
    /// Height and width of the large images.
    pub large: [usize; 2],
    /// Height and width of the small images.
    pub small: [usize; 2],
    /// Channels.
    pub channels: usize,
    /// The first tap at the first small pixel reads this many large pixels before the first one.
    pub margin: usize,
}

impl FilterShape {
    fn row(&self, size: [usize; 2]) -> usize {
        size[1] * self.channels
    }

    fn len(&self, size: [usize; 2]) -> usize {
        self.n * size[0] * self.row(size)
    }

    fn check(&self, name: &str, large: &[f32], small: &[f32]) {
        assert_eq!(
            large.len(),
            self.len(self.large),
            "{name}: the length of the large images does not match the shape"
        );
        assert_eq!(
            small.len(),
            self.len(self.small),
            "{name}: the length of the small images does not match the shape"
        );
    }

    /// Returns the large pixel that a tap of a small pixel reads, in a direction of `size` large pixels.
    #[inline(always)]
    fn large_of(&self, small: usize, tap: usize, size: usize) -> Option<usize> {
        (2 * small + tap).checked_sub(self.margin).filter(|&pixel| pixel < size)
    }

    /// Returns the small pixel, of `size`, a tap of which reads a large one.
    #[inline(always)]
    fn small_of(&self, large: usize, tap: usize, size: usize) -> Option<usize> {
        let twice = (large + self.margin).checked_sub(tap)?;
        Some(twice / 2).filter(|&pixel| twice % 2 == 0 && pixel < size)
    }
}

/// Computes small images y from large ones x: y_ij = Σ_kl t_k·t_l·x_{2i+k−margin, 2j+l−margin}, with zeros outside of x.
///
/// # Panics
/// If the length of a slice does not match the shape.
pub fn filter_down2x(shape: &FilterShape, taps: &[f32], x: &[f32], y: &mut [f32]) {
    shape.check("filter_down2x", x, y);
    if y.is_empty() {
        return;
    }
    let _span =
        profile::span(|| "filtered downsampling".into(), taps.len() * (x.len() + 2 * y.len()), x.len() + y.len());
    y.par_chunks_mut(shape.row(shape.small)).enumerate().for_each(|(row, y)| down_row(shape, taps, row, x, y));
}

/// Computes large images y from small ones x: y_rs = Σ_kl t_k·t_l·x_ij with 2i + k − margin = r and 2j + l − margin = s.
///
/// # Panics
/// If the length of a slice does not match the shape.
pub fn filter_up2x(shape: &FilterShape, taps: &[f32], x: &[f32], y: &mut [f32]) {
    shape.check("filter_up2x", y, x);
    if y.is_empty() {
        return;
    }
    let _span = profile::span(|| "filtered upsampling".into(), taps.len() * (x.len() + 2 * y.len()), x.len() + y.len());
    y.par_chunks_mut(shape.row(shape.large)).enumerate().for_each(|(row, y)| up_row(shape, taps, row, x, y));
}

dispatch! {
    fn down_row(shape: &FilterShape, taps: &[f32], row: usize, x: &[f32], y: &mut [f32]) = down_row_kernel;
    fn up_row(shape: &FilterShape, taps: &[f32], row: usize, x: &[f32], y: &mut [f32]) = up_row_kernel;
}

#[inline(always)]
fn add_product(tap: f32, x: &[f32], out: &mut [f32]) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out += tap * x;
    }
}

/// Computes a row of all small images, `[n·height]`.
#[inline(always)]
fn down_row_kernel<S: Simd>(_: S, shape: &FilterShape, taps: &[f32], row: usize, x: &[f32], y: &mut [f32]) {
    let ([height, width], c, len) = (shape.large, shape.channels, shape.row(shape.large));
    let (image, i) = (row / shape.small[0], row % shape.small[0]);
    let mut sums = scratch::take(len);
    sums.fill(0.0);
    for (k, &tap) in taps.iter().enumerate() {
        if let Some(r) = shape.large_of(i, k, height) {
            add_product(tap, &x[(image * height + r) * len..][..len], &mut sums);
        }
    }
    y.fill(0.0);
    for (j, y) in y.chunks_exact_mut(c).enumerate() {
        for (l, &tap) in taps.iter().enumerate() {
            if let Some(s) = shape.large_of(j, l, width) {
                add_product(tap, &sums[s * c..][..c], y);
            }
        }
    }
}

/// Computes a row of all large images, `[n·height]`.
#[inline(always)]
fn up_row_kernel<S: Simd>(_: S, shape: &FilterShape, taps: &[f32], row: usize, x: &[f32], y: &mut [f32]) {
    let ([height, width], c, len) = (shape.small, shape.channels, shape.row(shape.small));
    let (image, r) = (row / shape.large[0], row % shape.large[0]);
    let mut sums = scratch::take(len);
    sums.fill(0.0);
    for (k, &tap) in taps.iter().enumerate() {
        if let Some(i) = shape.small_of(r, k, height) {
            add_product(tap, &x[(image * height + i) * len..][..len], &mut sums);
        }
    }
    y.fill(0.0);
    for (s, y) in y.chunks_exact_mut(c).enumerate() {
        for (l, &tap) in taps.iter().enumerate() {
            if let Some(j) = shape.small_of(s, l, width) {
                add_product(tap, &sums[j * c..][..c], y);
            }
        }
    }
}

/// Computes the averages of squares of 2×2 pixels of x `[n, h, w, c]`; `y` is `[n, h/2, w/2, c]`. A last odd row or column is left
/// out.
///
/// # Panics
/// If the length of a slice does not match the shape.
pub fn average_pool2x([n, h, w, c]: [usize; 4], x: &[f32], y: &mut [f32]) {
    let (half_h, half_w) = (h / 2, w / 2);
    assert_eq!(x.len(), n * h * w * c, "average_pool2x: the length of `x` does not match the shape");
    assert_eq!(y.len(), n * half_h * half_w * c, "average_pool2x: the length of `y` does not match the shape");
    if y.is_empty() {
        return;
    }
    let _span = profile::span(|| "average pooling".into(), x.len(), x.len() + y.len());
    y.par_chunks_mut(half_w * c).enumerate().for_each(|(row, y)| {
        let first = (row / half_h * h + row % half_h * 2) * w * c;
        let (upper, lower) = x[first..][..2 * w * c].split_at(w * c);
        let squares = upper.chunks_exact(2 * c).zip(lower.chunks_exact(2 * c));
        for (y, (above, below)) in y.chunks_exact_mut(c).zip(squares) {
            for (i, y) in y.iter_mut().enumerate() {
                *y = ((above[i] + above[c + i]) * 0.5 + (below[i] + below[c + i]) * 0.5) * 0.5;
            }
        }
    });
}

/// Computes `dx` `[n, h, w, c]`, each pixel of which is a quarter of that of its square in `dy` `[n, h/2, w/2, c]`.
///
/// # Panics
/// If the length of a slice does not match the shape.
pub fn average_pool2x_backward([n, h, w, c]: [usize; 4], dy: &[f32], dx: &mut [f32]) {
    let (half_h, half_w) = (h / 2, w / 2);
    assert_eq!(dx.len(), n * h * w * c, "average_pool2x_backward: the length of `dx` does not match the shape");
    assert_eq!(
        dy.len(),
        n * half_h * half_w * c,
        "average_pool2x_backward: the length of `dy` does not match the shape"
    );
    if dx.is_empty() {
        return;
    }
    let _span = profile::span(|| "average pooling: gradient".into(), dx.len(), dx.len() + dy.len());
    dx.par_chunks_mut(w * c).enumerate().for_each(|(row, dx)| {
        let (image, i) = (row / h, row % h / 2);
        if i == half_h {
            return dx.fill(0.0);
        }
        let dy = &dy[(image * half_h + i) * half_w * c..][..half_w * c];
        let (pairs, rest) = dx.split_at_mut(2 * half_w * c);
        for (pair, dy) in pairs.chunks_exact_mut(2 * c).zip(dy.chunks_exact(c)) {
            let (left, right) = pair.split_at_mut(c);
            for ((left, right), dy) in left.iter_mut().zip(right).zip(dy) {
                *left = dy * 0.25;
                *right = *left;
            }
        }
        rest.fill(0.0);
    });
}
