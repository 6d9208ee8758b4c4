//! Root mean square normalization (Zhang & Sennrich 2019) of the channels of each pixel, fused with a scale and shift for each
//! image and channel, and SiLU.
//!
//! The backward pass recomputes the forward pass, so nothing but the input is kept. Sums within fixed chunks of pixels are in
//! f32, sums over chunks, in order, in f64.

use crate::activation::{sigmoid, silu_slope};
use crate::parallel::{self, SharedSlice};
use crate::profile;
use crate::scratch;
use crate::simd::{LANES, Simd, dispatch};

/// Pixels per chunk. Fixed, since it determines the order of the sums.
const CHUNK: usize = 64;

/// The smallest length that a pixel is divided by, as in PyTorch's `normalize`.
const SMALLEST: f32 = 1e-12;

/// A normalization of x `[n, pixels, channels]` and the operations fused into it: f(x/‖x‖·√channels·gain), where ‖x‖ is the
/// length of a pixel and f(y) = y·(1 + scale) + shift if `scale_shift` is given, followed by SiLU if `silu`.
#[derive(Clone, Copy, Debug)]
pub struct FusedRmsNorm<'a, T = f32> {
    /// Number of images.
    pub n: usize,
    /// Pixels per image.
    pub pixels: usize,
    /// Weights `[channels]`.
    pub gain: &'a [T],
    /// Scales and shifts, each `[n, channels]`.
    pub scale_shift: Option<(&'a [T], &'a [T])>,
    /// Applies SiLU to the result.
    pub silu: bool,
}

/// The gradients of an RMS normalization, which [`rms_norm_backward`] writes.
#[derive(Debug)]
pub struct RmsNormGradients<'a> {
    /// Gradient of x.
    pub dx: &'a mut [f32],
    /// Gradient of the weights, summed over the images in order.
    pub dgain: &'a mut [f32],
    /// Gradients of the scales and shifts, if wanted.
    pub dscale_shift: Option<(&'a mut [f32], &'a mut [f32])>,
}

impl<'a> FusedRmsNorm<'a> {
    fn channels(&self) -> usize {
        self.gain.len()
    }

    fn check(&self, slices: &[&[f32]]) {
        let (c, len) = (self.channels(), self.n * self.pixels * self.channels());
        assert!(slices.iter().all(|x| x.len() == len), "RMS normalization: a slice does not have length {len}");
        let fits = self.scale_shift.is_none_or(|(a, b)| a.len() == self.n * c && b.len() == self.n * c);
        assert!(fits, "RMS normalization: wrong length of a scale or shift");
    }

    /// Returns 1 + scale and the shift of an image.
    fn scale_shift_of(&self, image: usize) -> Option<[&'a [f32]; 2]> {
        let c = self.channels();
        self.scale_shift.map(|(scale, shift)| [&scale[image * c..][..c], &shift[image * c..][..c]])
    }

    /// Computes the gain and offset of an image, where z = x/‖x‖·√channels·gain + offset is the argument of SiLU.
    fn coefficients(&self, image: usize, gain: &mut [f32], offset: &mut [f32]) {
        match self.scale_shift_of(image) {
            None => {
                gain.copy_from_slice(self.gain);
                offset.fill(0.0);
            }
            Some([scale, shift]) => {
                gain.iter_mut().zip(self.gain.iter().zip(scale)).for_each(|(out, (g, s))| *out = g * (1.0 + s));
                offset.copy_from_slice(shift);
            }
        }
    }

    /// Calls `task(image, chunk, start, len)` for all chunks of all images, where `start` and `len` are those of its values.
    fn chunks(&self, task: impl Fn(usize, usize, usize, usize) + Sync + Send) {
        let (chunks, c) = (self.pixels.div_ceil(CHUNK), self.channels());
        parallel::for_each(self.n * chunks, |index| {
            let (image, chunk) = (index / chunks, index % chunks);
            let pixels = CHUNK.min(self.pixels - chunk * CHUNK);
            task(image, chunk, (image * self.pixels + chunk * CHUNK) * c, pixels * c);
        });
    }
}

/// Computes out = norm(x), both `[n, pixels, channels]`. The bits of a pixel depend on the same pixel only.
///
/// # Panics
/// If the length of a slice does not match `norm`.
pub fn rms_norm(norm: &FusedRmsNorm, x: &[f32], out: &mut [f32]) {
    norm.check(&[x, out]);
    if x.is_empty() {
        return;
    }
    let _span = profile::span(|| "RMS norm".into(), 10 * x.len(), 2 * x.len());
    let c = norm.channels();
    let out = SharedSlice::new(out);
    norm.chunks(|image, _, start, len| {
        let mut lines = scratch::take(2 * c);
        let (gain, offset) = lines.split_at_mut(c);
        norm.coefficients(image, gain, offset);
        // SAFETY: chunks write disjoint parts.
        forward([gain, offset], norm.silu, &x[start..][..len], unsafe { out.part(start, len) });
    });
}

/// Computes the gradients of [`rms_norm`] from the gradient `dy` of its output.
///
/// # Panics
/// If the length of a slice does not match `norm`, or `dscale_shift` is given without `scale_shift`.
pub fn rms_norm_backward(norm: &FusedRmsNorm, x: &[f32], dy: &[f32], gradients: RmsNormGradients) {
    let RmsNormGradients { dx, dgain, dscale_shift } = gradients;
    norm.check(&[x, dy, dx]);
    let (n, c) = (norm.n, norm.channels());
    assert_eq!(dgain.len(), c, "RMS normalization: wrong length of `dgain`");
    dgain.fill(0.0);
    if x.is_empty() {
        return;
    }
    let _span = profile::span(|| "RMS norm: gradients".into(), 20 * x.len(), 3 * x.len());
    let chunks = norm.pixels.div_ceil(CHUNK);
    // For each chunk and channel, the sums over pixels of g = dloss/dz and of g·x/‖x‖·√channels.
    let mut partial = scratch::take(n * chunks * 2 * c);
    let sums = SharedSlice::new(&mut partial);
    let dx = SharedSlice::new(dx);
    norm.chunks(|image, chunk, start, len| {
        let mut lines = scratch::take(2 * c);
        let (gain, offset) = lines.split_at_mut(c);
        norm.coefficients(image, gain, offset);
        // SAFETY: chunks write disjoint parts.
        let (dx, sums) = unsafe { (dx.part(start, len), sums.part((image * chunks + chunk) * 2 * c, 2 * c)) };
        backward([gain, offset], norm.silu, [&x[start..][..len], &dy[start..][..len]], dx, sums);
    });
    let (mut dscale, mut dshift) = match dscale_shift {
        None => (None, None),
        Some((dscale, dshift)) => {
            assert!(norm.scale_shift.is_some(), "RMS normalization: `dscale_shift` needs `scale_shift`");
            let fits = dscale.len() == n * c && dshift.len() == n * c;
            assert!(fits, "RMS normalization: wrong length of a part of `dscale_shift`");
            (Some(dscale), Some(dshift))
        }
    };
    for channel in 0..c {
        let mut by_gain = 0.0f64;
        for image in 0..n {
            let of_image = partial[image * chunks * 2 * c..][..chunks * 2 * c].chunks_exact(2 * c);
            let (mut g, mut gx) = (0.0f64, 0.0f64);
            for sums in of_image {
                g += f64::from(sums[channel]);
                gx += f64::from(sums[c + channel]);
            }
            let scale = norm.scale_shift_of(image).map_or(1.0, |[scale, _]| 1.0 + f64::from(scale[channel]));
            by_gain += scale * gx;
            if let (Some(dscale), Some(dshift)) = (&mut dscale, &mut dshift) {
                dscale[image * c + channel] = (f64::from(norm.gain[channel]) * gx) as f32;
                dshift[image * c + channel] = g as f32;
            }
        }
        dgain[channel] = by_gain as f32;
    }
}

dispatch! {
    fn forward(lines: [&[f32]; 2], silu: bool, x: &[f32], out: &mut [f32]) = forward_kernel;
    fn backward(lines: [&[f32]; 2], silu: bool, inputs: [&[f32]; 2], dx: &mut [f32], sums: &mut [f32]) = backward_kernel;
}

/// Returns √channels/‖x‖ of a pixel, and whether its length is large enough to be divided by.
#[inline(always)]
fn factor<S: Simd>(s: S, x: &[f32]) -> (f32, bool) {
    let mut squares = s.splat(0.0);
    for x in x.chunks(LANES) {
        let x = s.load_up_to(x);
        squares = s.fma(x, x, squares);
    }
    let length = s.sum(squares).sqrt();
    ((x.len() as f32).sqrt() / length.max(SMALLEST), length > SMALLEST)
}

/// Computes x·factor·gain + offset, then SiLU if `silu`.
#[inline(always)]
fn forward_kernel<S: Simd>(s: S, [gain, offset]: [&[f32]; 2], silu: bool, x: &[f32], out: &mut [f32]) {
    let channels = gain.len();
    for (x, out) in x.chunks_exact(channels).zip(out.chunks_exact_mut(channels)) {
        let factor = s.splat(factor(s, x).0);
        let lines = gain.chunks(LANES).zip(offset.chunks(LANES));
        for ((x, out), (gain, offset)) in x.chunks(LANES).zip(out.chunks_mut(LANES)).zip(lines) {
            let z = s.fma(s.mul(s.load_up_to(x), factor), s.load_up_to(gain), s.load_up_to(offset));
            s.store_up_to(if silu { s.mul(z, sigmoid(s, z)) } else { z }, out);
        }
    }
}

/// Computes dx, and sums `[2, channels]` of g = dy·SiLU′(z) (or dy without SiLU) and of g·u, where u = x·factor.
///
/// With h = g·gain, dx = factor·(h − u·Σ h·u/channels); the sum is over the channels of the pixel.
#[inline(always)]
fn backward_kernel<S: Simd>(
    s: S,
    [gain, offset]: [&[f32]; 2],
    silu: bool,
    [x, dy]: [&[f32]; 2],
    dx: &mut [f32],
    sums: &mut [f32],
) {
    let channels = gain.len();
    let (of_g, of_gu) = sums.split_at_mut(channels);
    of_g.fill(0.0);
    of_gu.fill(0.0);
    let pixels = x.chunks_exact(channels).zip(dy.chunks_exact(channels)).zip(dx.chunks_exact_mut(channels));
    for ((x, dy), dx) in pixels {
        let (factor, is_long) = factor(s, x);
        let factor = s.splat(factor);
        let mut product = s.splat(0.0);
        for c in (0..channels).step_by(LANES) {
            let end = channels.min(c + LANES);
            let gain = s.load_up_to(&gain[c..end]);
            let u = s.mul(s.load_up_to(&x[c..end]), factor);
            let mut g = s.load_up_to(&dy[c..end]);
            if silu {
                g = s.mul(g, silu_slope(s, s.fma(u, gain, s.load_up_to(&offset[c..end]))));
            }
            s.store_up_to(s.add(s.load_up_to(&of_g[c..end]), g), &mut of_g[c..end]);
            s.store_up_to(s.fma(g, u, s.load_up_to(&of_gu[c..end])), &mut of_gu[c..end]);
            let h = s.mul(g, gain);
            product = s.fma(h, u, product);
            s.store_up_to(h, &mut dx[c..end]);
        }
        // The length of a pixel of zeros is a constant, so its gradient has no second term.
        let mean = s.splat(if is_long { s.sum(product) / channels as f32 } else { 0.0 });
        for (x, dx) in x.chunks(LANES).zip(dx.chunks_mut(LANES)) {
            let u = s.mul(s.load_up_to(x), factor);
            s.store_up_to(s.mul(factor, s.fnma(u, mean, s.load_up_to(dx))), dx);
        }
    }
}
