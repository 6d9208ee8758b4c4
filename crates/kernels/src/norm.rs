//! Group normalization (Wu & He 2018), fused with the operations that follow it in a residual block: a scale and shift
//! for each image and channel (Nichol & Dhariwal 2021, "adaptive group normalization") and SiLU.
//!
//! Forward and backward are one fused pass each. The backward pass needs only the mean and 1/σ of each group from the
//! forward pass. Sums within fixed chunks of pixels are in f32, sums over chunks, in order, in f64.

use crate::activation::{sigmoid, silu_slope};
use crate::parallel::{self, SharedSlice};
use crate::profile;
use crate::scratch;
use crate::simd::{LANES, Simd, dispatch};
use rayon::prelude::*;

/// Pixels per chunk. Fixed, since it determines the order of the sums.
const CHUNK: usize = 64;

/// The shape of a group normalization of x `[n, pixels, channels]`.
#[derive(Clone, Copy, Debug)]
pub struct GroupNormShape {
    /// Number of images.
    pub n: usize,
    /// Pixels per image.
    pub pixels: usize,
    /// Number of channels, a multiple of `groups`.
    pub channels: usize,
    /// Number of groups of consecutive channels; each group has its own mean and variance.
    pub groups: usize,
    /// ε, added to the variance.
    pub eps: f32,
}

impl GroupNormShape {
    fn image(&self) -> usize {
        self.pixels * self.channels
    }

    /// Runs `task(chunk)` for every chunk of an image, on all threads if there are fewer images than threads.
    fn chunks(&self, task: impl Fn(usize) + Sync + Send) {
        let count = self.pixels.div_ceil(CHUNK);
        if self.n < parallel::threads() {
            parallel::for_each(count, task);
        } else {
            (0..count).for_each(task);
        }
    }

    /// Returns the offset within an image and the length of chunk `index`.
    fn chunk(&self, index: usize) -> (usize, usize) {
        (index * CHUNK * self.channels, CHUNK.min(self.pixels - index * CHUNK) * self.channels)
    }
}

/// A group normalization and the operations fused into it: f((x − mean)/√(variance + eps)·gamma + beta), where
/// f(y) = y·(1 + scale) + shift if `scale_shift` is given, followed by SiLU if `silu`.
#[derive(Clone, Copy, Debug)]
pub struct FusedGroupNorm<'a, T = f32> {
    /// The shape of x, the groups and ε.
    pub shape: GroupNormShape,
    /// Weights `[channels]`.
    pub gamma: &'a [T],
    /// Biases `[channels]`.
    pub beta: &'a [T],
    /// Scales and shifts, each `[n, channels]`.
    pub scale_shift: Option<(&'a [T], &'a [T])>,
    /// Applies SiLU to the result.
    pub silu: bool,
}

impl FusedGroupNorm<'_> {
    /// Checks all lengths, and those of x and `mean_rstd`.
    fn check(&self, x: usize, mean_rstd: usize) {
        let FusedGroupNorm { shape, gamma, beta, scale_shift, .. } = self;
        assert!(
            shape.groups > 0 && shape.channels.is_multiple_of(shape.groups),
            "{shape:?}: `channels` must be a multiple of `groups`"
        );
        assert_eq!(x, shape.n * shape.image(), "{shape:?}: wrong length of `x`");
        assert!(
            gamma.len() == shape.channels && beta.len() == shape.channels,
            "{shape:?}: wrong length of `gamma` or `beta`"
        );
        let nc = shape.n * shape.channels;
        assert!(
            scale_shift.is_none_or(|(a, b)| a.len() == nc && b.len() == nc),
            "{shape:?}: wrong length of a scale or shift"
        );
        assert_eq!(mean_rstd, 2 * shape.n * shape.groups, "{shape:?}: wrong length of `mean_rstd`");
    }
}

/// Computes out = norm(x), both `[n, pixels, channels]`. `mean_rstd` `[n, groups, 2]` receives the means and 1/σ for
/// [`group_norm_backward`].
///
/// The bits of an output image depend on the input image of the same index only.
///
/// # Panics
/// If the length of a slice does not match the shape of `norm`.
pub fn group_norm(norm: &FusedGroupNorm, x: &[f32], out: &mut [f32], mean_rstd: &mut [f32]) {
    norm.check(x.len(), mean_rstd.len());
    let FusedGroupNorm { shape, silu, .. } = *norm;
    assert_eq!(out.len(), x.len(), "{shape:?}: wrong length of `out`");
    if x.is_empty() {
        return;
    }
    // Reads x twice, since the mean must be known before the first output.
    let _span = profile::span(|| "group norm + SiLU".into(), 10 * x.len(), 3 * x.len());
    let c = shape.channels;
    let images = x.par_chunks(shape.image()).zip(out.par_chunks_mut(shape.image()));
    let images = images.zip(mean_rstd.par_chunks_mut(2 * shape.groups)).enumerate().with_max_len(1);
    images.for_each(|(image, ((x, out), mean_rstd))| {
        compute_stats(&shape, [x, &[]], mean_rstd);
        let mut line = scratch::take(2 * c);
        let affine = Affine::of(norm, image);
        let (gain, offset) = line.split_at_mut(c);
        affine.coefficients(mean_rstd, gain, offset);
        let (gain, offset) = (&*gain, &*offset);
        let out = SharedSlice::new(out);
        shape.chunks(|chunk| {
            let (start, len) = shape.chunk(chunk);
            // SAFETY: chunks write disjoint parts.
            let to = unsafe { out.part(start, len) };
            apply(gain, offset, silu, &x[start..start + len], to, c);
        });
    });
}

/// A group normalization with known means and variances: z = x·gain + offset for each image and channel, then SiLU if
/// `silu`.
///
/// A convolution applies it while it reads its input (see [`ConvInputs`](crate::ConvInputs)), so that the result is
/// never stored.
#[derive(Clone, Debug)]
pub struct Normalization {
    channels: usize,
    /// `[n, channels]`, as is `offset`.
    gain: Vec<f32>,
    offset: Vec<f32>,
    silu: bool,
}

impl Normalization {
    /// Computes the means and variances of x `[n, pixels, channels]`, with the same bits as [`group_norm`], and stores
    /// means and 1/σ in `mean_rstd` `[n, groups, 2]`.
    ///
    /// `parts[0]` holds the first channels of x, `parts[1]`, which may be empty, the last.
    ///
    /// # Panics
    /// If the length of a slice does not match the shape of `norm`.
    pub fn new(norm: &FusedGroupNorm, parts: [&[f32]; 2], mean_rstd: &mut [f32]) -> Self {
        let len = parts[0].len() + parts[1].len();
        norm.check(len, mean_rstd.len());
        let shape = norm.shape;
        let pixels = shape.n * shape.pixels;
        assert!(
            parts[0].len().is_multiple_of(pixels.max(1)),
            "{shape:?}: the first part is not a whole number of channels"
        );
        if len > 0 {
            let _span = profile::span(|| "group norm: mean and variance".into(), 4 * len, len);
            let [a, b] = parts.map(|part| part.len() / shape.n);
            let images = mean_rstd.par_chunks_mut(2 * shape.groups).enumerate().with_max_len(1);
            images.for_each(|(image, mean_rstd)| {
                compute_stats(&shape, [&parts[0][image * a..][..a], &parts[1][image * b..][..b]], mean_rstd);
            });
        }
        Self::from_stats(norm, mean_rstd)
    }

    fn from_stats(norm: &FusedGroupNorm, mean_rstd: &[f32]) -> Self {
        let FusedGroupNorm { shape, silu, .. } = *norm;
        let c = shape.channels;
        let (mut gain, mut offset) = (vec![0.0; shape.n * c], vec![0.0; shape.n * c]);
        for (image, (gain, offset)) in gain.chunks_exact_mut(c).zip(offset.chunks_exact_mut(c)).enumerate() {
            let mean_rstd = &mean_rstd[2 * image * shape.groups..][..2 * shape.groups];
            Affine::of(norm, image).coefficients(mean_rstd, gain, offset);
        }
        Self { channels: c, gain, offset, silu }
    }

    /// Normalizes whole images.
    ///
    /// # Panics
    /// If the number of images or channels differs from that of the statistics.
    pub fn apply(&self, x: &[f32], out: &mut [f32]) {
        let images = self.gain.len() / self.channels;
        assert!(
            x.len() == out.len() && x.len().is_multiple_of(self.gain.len()),
            "normalization: the lengths of `x` and `out` do not match the statistics"
        );
        let _span = profile::span(|| "group norm: normalization".into(), 6 * x.len(), 2 * x.len());
        let pixels = x.len() / self.gain.len();
        let chunks = pixels.div_ceil(CHUNK);
        let out = SharedSlice::new(out);
        parallel::for_each(images * chunks, |task| {
            let (image, first) = (task / chunks, task % chunks * CHUNK);
            let (start, len) = ((image * pixels + first) * self.channels, CHUNK.min(pixels - first) * self.channels);
            let (gain, offset) = self.of(image);
            // SAFETY: tasks write disjoint parts.
            apply(gain, offset, self.silu, &x[start..start + len], unsafe { out.part(start, len) }, self.channels);
        });
    }

    /// Normalizes pixels of one image within a kernel. `parts[0]` holds the first channels of each pixel, `parts[1]`
    /// the last.
    #[inline(always)]
    pub(crate) fn apply_part<S: Simd>(&self, s: S, image: usize, parts: [&[f32]; 2], out: &mut [f32]) {
        let (gain, offset) = self.of(image);
        let pixels = out.len() / self.channels;
        let first = parts[0].len() / pixels.max(1);
        let stride = self.channels;
        apply_kernel(s, &gain[..first], &offset[..first], self.silu, parts[0], out, stride);
        if first < stride {
            apply_kernel(s, &gain[first..], &offset[first..], self.silu, parts[1], &mut out[first..], stride);
        }
    }

    fn of(&self, image: usize) -> (&[f32], &[f32]) {
        (row(&self.gain, image, self.channels), row(&self.offset, image, self.channels))
    }

    /// Returns the numbers of images and channels.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.gain.len() / self.channels, self.channels)
    }
}

fn row(x: &[f32], image: usize, channels: usize) -> &[f32] {
    &x[image * channels..][..channels]
}

/// The affine map of one image that follows the normalization.
struct Affine<'a> {
    gamma: &'a [f32],
    beta: &'a [f32],
    scale_shift: Option<(&'a [f32], &'a [f32])>,
}

impl<'a> Affine<'a> {
    fn of(norm: &FusedGroupNorm<'a>, image: usize) -> Self {
        let FusedGroupNorm { gamma, beta, scale_shift, .. } = *norm;
        let c = gamma.len();
        Affine { gamma, beta, scale_shift: scale_shift.map(|(a, b)| (row(a, image, c), row(b, image, c))) }
    }

    fn scale(&self, c: usize) -> f32 {
        self.scale_shift.map_or(1.0, |(scale, _)| 1.0 + scale[c])
    }

    /// Computes gain and offset, where z = x·gain + offset is the argument of SiLU.
    fn coefficients(&self, mean_rstd: &[f32], gain: &mut [f32], offset: &mut [f32]) {
        let per_group = self.gamma.len() / (mean_rstd.len() / 2);
        for (c, (gain, offset)) in gain.iter_mut().zip(offset).enumerate() {
            let group = c / per_group;
            let (mean, rstd) = (mean_rstd[2 * group], mean_rstd[2 * group + 1]);
            let shift = self.scale_shift.map_or(0.0, |(_, shift)| shift[c]);
            *gain = rstd * self.gamma[c] * self.scale(c);
            *offset = (self.beta[c] * self.scale(c) + shift) - mean * *gain;
        }
    }
}

/// Computes the mean and 1/√(variance + eps) of the groups of one image.
fn compute_stats(shape: &GroupNormShape, parts: [&[f32]; 2], mean_rstd: &mut [f32]) {
    let c = shape.channels;
    let widths = parts.map(|part| part.len() / shape.pixels);
    let mut partial = scratch::take((shape.pixels.div_ceil(CHUNK) * 2 + 1) * c);
    let (first, partial) = partial.split_at_mut(c);
    first[..widths[0]].copy_from_slice(&parts[0][..widths[0]]);
    first[widths[0]..].copy_from_slice(&parts[1][..widths[1]]);
    let first = &*first;
    let to = SharedSlice::new(&mut *partial);
    shape.chunks(|chunk| {
        let pixels = chunk * CHUNK..shape.pixels.min((chunk + 1) * CHUNK);
        let mut at = 0;
        for (x, width) in parts.into_iter().zip(widths) {
            // SAFETY: chunks and channels write disjoint parts.
            let sums = unsafe { [to.part(chunk * 2 * c + at, width), to.part((chunk * 2 + 1) * c + at, width)] };
            moments(&first[at..at + width], &x[pixels.start * width..pixels.end * width], sums);
            at += width;
        }
    });
    combine_stats(shape, first, partial, mean_rstd);
}

/// Combines sums over chunks into the mean and 1/√(variance + eps) of the groups of one image.
///
/// `partial` `[chunks, 2, channels]` holds sums of x − x₀ and of its square, where x₀ is the first pixel of the image.
/// Without this shift, cancellation would lose a variance that is small compared with the mean.
fn combine_stats(shape: &GroupNormShape, first: &[f32], partial: &[f32], mean_rstd: &mut [f32]) {
    let per_group = shape.channels / shape.groups;
    let pixels = shape.pixels as f64;
    let total = |at: usize| partial.iter().skip(at).step_by(2 * shape.channels).map(|&x| f64::from(x)).sum::<f64>();
    for (group, out) in mean_rstd.chunks_exact_mut(2).enumerate() {
        let channels = group * per_group..(group + 1) * per_group;
        let mean_of = |c: usize| f64::from(first[c]) + total(c) / pixels;
        let mean = channels.clone().map(mean_of).sum::<f64>() / per_group as f64;
        let squares: f64 = channels
            .map(|c| {
                let sum = total(c);
                let within = total(shape.channels + c) - sum * sum / pixels;
                let apart = f64::from(first[c]) + sum / pixels - mean;
                within.max(0.0) + apart * apart * pixels
            })
            .sum();
        out[0] = mean as f32;
        out[1] = (1.0 / (squares / (pixels * per_group as f64) + f64::from(shape.eps)).sqrt()) as f32;
    }
}

/// The input of a group normalization and its statistics, saved by the forward pass for the backward pass.
#[derive(Clone, Copy, Debug)]
pub struct GroupNormSaved<'a> {
    /// The input `[n, pixels, channels]`.
    pub x: &'a [f32],
    /// Mean and 1/σ of each image and group, `[n, groups, 2]`.
    pub mean_rstd: &'a [f32],
}

/// The gradients of a group normalization, which [`group_norm_backward`] writes.
#[derive(Debug)]
pub struct GroupNormGradients<'a> {
    /// Gradient of x.
    pub dx: &'a mut [f32],
    /// Gradient of gamma, summed over the images in order.
    pub dgamma: &'a mut [f32],
    /// Gradient of beta, summed over the images in order.
    pub dbeta: &'a mut [f32],
    /// Gradients of the scales and shifts, if wanted.
    pub dscale_shift: Option<(&'a mut [f32], &'a mut [f32])>,
}

/// Computes the gradients of [`group_norm`] from the gradient `dy` of its output.
///
/// # Panics
/// If the length of a slice does not match the shape of `norm`, or `dscale_shift` is given without `scale_shift`.
pub fn group_norm_backward(norm: &FusedGroupNorm, saved: GroupNormSaved, dy: &[f32], gradients: GroupNormGradients) {
    let FusedGroupNorm { shape, gamma, beta, scale_shift, silu } = *norm;
    let GroupNormSaved { x, mean_rstd } = saved;
    let GroupNormGradients { dx, dgamma, dbeta, dscale_shift } = gradients;
    norm.check(x.len(), mean_rstd.len());
    assert!(dy.len() == x.len() && dx.len() == x.len(), "{shape:?}: wrong length of `dy` or `dx`");
    let c = shape.channels;
    assert!(dgamma.len() == c && dbeta.len() == c, "{shape:?}: wrong length of `dgamma` or `dbeta`");
    dgamma.fill(0.0);
    dbeta.fill(0.0);
    if x.is_empty() {
        return;
    }
    let _span = profile::span(|| "group norm + SiLU: gradients".into(), 25 * x.len(), 5 * x.len());
    // For each image and channel, the sums over pixels of g = dloss/dz and of g·(x − mean)/σ.
    let mut sums = scratch::take(2 * shape.n * c);
    let sums = &mut *sums;
    let images = x.par_chunks(shape.image()).zip(dy.par_chunks(shape.image()));
    let images = images.zip(dx.par_chunks_mut(shape.image())).zip(sums.par_chunks_mut(2 * c));
    images.enumerate().with_max_len(1).for_each(|(image, (((x, dy), dx), sums))| {
        let affine = Affine::of(norm, image);
        backward_image(
            &shape,
            &affine,
            silu,
            &mean_rstd[2 * image * shape.groups..][..2 * shape.groups],
            x,
            dy,
            dx,
            sums,
        );
    });
    let scale = |image: usize, channel: usize| scale_shift.map_or(1.0, |(scale, _)| 1.0 + scale[image * c + channel]);
    for channel in 0..c {
        let (mut by_gamma, mut by_beta) = (0.0f64, 0.0f64);
        for (image, sums) in sums.chunks_exact(2 * c).enumerate() {
            by_beta += f64::from(scale(image, channel) * sums[channel]);
            by_gamma += f64::from(scale(image, channel) * sums[c + channel]);
        }
        (dgamma[channel], dbeta[channel]) = (by_gamma as f32, by_beta as f32);
    }
    if let Some((dscale, dshift)) = dscale_shift {
        assert!(scale_shift.is_some(), "{shape:?}: `dscale_shift` needs `scale_shift`");
        assert!(
            dscale.len() == shape.n * c && dshift.len() == shape.n * c,
            "{shape:?}: wrong length of a part of `dscale_shift`"
        );
        for (image, sums) in sums.chunks_exact(2 * c).enumerate() {
            for channel in 0..c {
                dshift[image * c + channel] = sums[channel];
                dscale[image * c + channel] = gamma[channel] * sums[c + channel] + beta[channel] * sums[channel];
            }
        }
    }
}

#[allow(clippy::too_many_arguments)]
fn backward_image(
    shape: &GroupNormShape,
    affine: &Affine,
    silu: bool,
    mean_rstd: &[f32],
    x: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    sums: &mut [f32],
) {
    let c = shape.channels;
    let per_group = c / shape.groups;
    let mut work = scratch::take((2 * shape.pixels.div_ceil(CHUNK) + 6) * c);
    let work = &mut *work;
    let (lines, partial) = work.split_at_mut(6 * c);
    let [gain, offset, mean, by_g, by_x, constant]: [&mut [f32]; 6] = {
        let mut lines = lines.chunks_exact_mut(c);
        std::array::from_fn(|_| lines.next().expect("six lines"))
    };
    affine.coefficients(mean_rstd, gain, offset);
    mean.iter_mut().enumerate().for_each(|(i, mean)| *mean = mean_rstd[2 * (i / per_group)]);

    let parts = SharedSlice::new(&mut *partial);
    let to = SharedSlice::new(&mut *dx);
    let lines = [&*gain, &*offset, &*mean];
    shape.chunks(|chunk| {
        let (start, len) = shape.chunk(chunk);
        // SAFETY: chunks write disjoint parts.
        let (g, sums) = unsafe { (to.part(start, len), parts.part(chunk * 2 * c, 2 * c)) };
        gradients(lines, silu, &x[start..start + len], &dy[start..start + len], g, sums);
    });
    for (i, out) in sums.iter_mut().enumerate() {
        let rstd = if i < c { 1.0 } else { f64::from(mean_rstd[2 * ((i - c) / per_group) + 1]) };
        let total: f64 = partial.iter().skip(i).step_by(2 * c).map(|&x| f64::from(x)).sum();
        *out = (total * rstd) as f32;
    }
    // With h = g·gamma·(1 + scale) and x̂ = (x − mean)/σ, dx = (h − mean(h) − x̂·mean(h·x̂))/σ; the means are over a
    // group.
    let count = (shape.pixels * per_group) as f64;
    for group in 0..shape.groups {
        let channels = group * per_group..(group + 1) * per_group;
        let weighted = |sums: &[f32]| -> f64 {
            channels.clone().map(|i| f64::from(affine.gamma[i] * affine.scale(i)) * f64::from(sums[i])).sum()
        };
        let (h, hx) = (weighted(&sums[..c]) / count, weighted(&sums[c..]) / count);
        let (mean, rstd) = (f64::from(mean_rstd[2 * group]), f64::from(mean_rstd[2 * group + 1]));
        for i in channels {
            by_g[i] = gain[i];
            by_x[i] = (-rstd * rstd * hx) as f32;
            constant[i] = (rstd * (mean * rstd * hx - h)) as f32;
        }
    }
    let to = SharedSlice::new(dx);
    let lines = [&*by_g, &*by_x, &*constant];
    shape.chunks(|chunk| {
        let (start, len) = shape.chunk(chunk);
        // SAFETY: chunks write disjoint parts.
        combine(lines, &x[start..start + len], unsafe { to.part(start, len) });
    });
}

dispatch! {
    fn moments(first: &[f32], x: &[f32], sums: [&mut [f32]; 2]) = moments_kernel;
    fn apply(gain: &[f32], offset: &[f32], silu: bool, x: &[f32], out: &mut [f32], stride: usize) = apply_kernel;
    fn gradients(lines: [&[f32]; 3], silu: bool, x: &[f32], dy: &[f32], g: &mut [f32], sums: &mut [f32])
        = gradients_kernel;
    fn combine(lines: [&[f32]; 3], x: &[f32], dx: &mut [f32]) = combine_kernel;
}

/// Computes Σ (x − first) and Σ (x − first)² for each channel.
#[inline(always)]
fn moments_kernel<S: Simd>(s: S, first: &[f32], x: &[f32], [linear, square]: [&mut [f32]; 2]) {
    let channels = first.len();
    for c in (0..channels).step_by(LANES) {
        let end = channels.min(c + LANES);
        let origin = s.load_up_to(&first[c..end]);
        let (mut a, mut b) = (s.splat(0.0), s.splat(0.0));
        for pixel in x.chunks_exact(channels) {
            let d = s.sub(s.load_up_to(&pixel[c..end]), origin);
            a = s.add(a, d);
            b = s.fma(d, d, b);
        }
        s.store_up_to(a, &mut linear[c..end]);
        s.store_up_to(b, &mut square[c..end]);
    }
}

/// Computes x·gain + offset, then SiLU if `silu`. Consecutive pixels of `out` are `stride` apart.
#[inline(always)]
fn apply_kernel<S: Simd>(s: S, gain: &[f32], offset: &[f32], silu: bool, x: &[f32], out: &mut [f32], stride: usize) {
    let channels = gain.len();
    for (x, out) in x.chunks_exact(channels).zip(out.chunks_mut(stride)) {
        let lines = gain.chunks(LANES).zip(offset.chunks(LANES));
        for ((x, out), (gain, offset)) in x.chunks(LANES).zip(out[..channels].chunks_mut(LANES)).zip(lines) {
            let z = s.fma(s.load_up_to(x), s.load_up_to(gain), s.load_up_to(offset));
            s.store_up_to(if silu { s.mul(z, sigmoid(s, z)) } else { z }, out);
        }
    }
}

/// Computes g = dy·SiLU′(z) (or dy without SiLU), and sums `[2, channels]` = Σ g, Σ g·(x − mean).
#[inline(always)]
fn gradients_kernel<S: Simd>(
    s: S,
    lines: [&[f32]; 3],
    silu: bool,
    x: &[f32],
    dy: &[f32],
    g: &mut [f32],
    sums: &mut [f32],
) {
    let channels = lines[0].len();
    let (linear, product) = sums.split_at_mut(channels);
    for c in (0..channels).step_by(LANES) {
        let end = channels.min(c + LANES);
        let (gain, offset) = (s.load_up_to(&lines[0][c..end]), s.load_up_to(&lines[1][c..end]));
        let mean = s.load_up_to(&lines[2][c..end]);
        let (mut a, mut b) = (s.splat(0.0), s.splat(0.0));
        let pixels = x.chunks_exact(channels).zip(dy.chunks_exact(channels)).zip(g.chunks_exact_mut(channels));
        for ((x, dy), out) in pixels {
            let (x, mut g) = (s.load_up_to(&x[c..end]), s.load_up_to(&dy[c..end]));
            if silu {
                g = s.mul(g, silu_slope(s, s.fma(x, gain, offset)));
            }
            a = s.add(a, g);
            b = s.fma(g, s.sub(x, mean), b);
            s.store_up_to(g, &mut out[c..end]);
        }
        s.store_up_to(a, &mut linear[c..end]);
        s.store_up_to(b, &mut product[c..end]);
    }
}

/// Computes dx = dx·by_g + x·by_x + constant.
#[inline(always)]
fn combine_kernel<S: Simd>(s: S, [by_g, by_x, constant]: [&[f32]; 3], x: &[f32], dx: &mut [f32]) {
    let channels = by_g.len();
    for (x, dx) in x.chunks_exact(channels).zip(dx.chunks_exact_mut(channels)) {
        let lines = by_g.chunks(LANES).zip(by_x.chunks(LANES)).zip(constant.chunks(LANES));
        for ((x, dx), ((by_g, by_x), constant)) in x.chunks(LANES).zip(dx.chunks_mut(LANES)).zip(lines) {
            let rest = s.fma(s.load_up_to(x), s.load_up_to(by_x), s.load_up_to(constant));
            s.store_up_to(s.fma(s.load_up_to(dx), s.load_up_to(by_g), rest), dx);
        }
    }
}
