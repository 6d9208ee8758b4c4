//! Two-dimensional convolution of N,H,W,C images, with everything that a residual block adds to it, and its gradients.

use crate::concat::concat_channels;
use crate::epilogue::Epilogue;
use crate::gemm::blocked_len;
use crate::im2col::{Im2col, OutputGrid, outer, pack_weights, pack_weights_transposed, product};
use crate::norm::Normalization;
use crate::profile::{self, Span};
use crate::simd::LANES;
use crate::winograd::{self, Filter, Windows};
use crate::{kn2row, scratch};

/// Zeros around an image, in pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pad {
    /// Rows above.
    pub top: usize,
    /// Rows below.
    pub bottom: usize,
    /// Columns before.
    pub left: usize,
    /// Columns after.
    pub right: usize,
}

impl Pad {
    /// The same on all four sides.
    pub fn same(pad: usize) -> Self {
        Pad { top: pad, bottom: pad, left: pad, right: pad }
    }
}

/// Shape of a convolution (cross-correlation, as deep learning calls it) of images \[n, h, w, c_in\] with weights
/// \[kernel.0, kernel.1, c_in, c_out\] to \[n, [`out_h`](ConvShape::out_h), [`out_w`](ConvShape::out_w), c_out\].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// Images.
    pub n: usize,
    /// Height of an input image.
    pub h: usize,
    /// Width of an input image.
    pub w: usize,
    /// Channels of the input.
    pub c_in: usize,
    /// Channels of the output.
    pub c_out: usize,
    /// Height and width of the kernel.
    pub kernel: (usize, usize),
    /// Step of the kernel in both directions, at least 1.
    pub stride: usize,
    /// Zeros around the input.
    pub pad: Pad,
}

impl ConvShape {
    /// Height of an output image: zero if the kernel is taller than the padded input.
    pub fn out_h(&self) -> usize {
        (self.h + self.pad.top + self.pad.bottom + self.stride).saturating_sub(self.kernel.0) / self.stride
    }

    /// Width of an output image: zero if the kernel is wider than the padded input.
    pub fn out_w(&self) -> usize {
        (self.w + self.pad.left + self.pad.right + self.stride).saturating_sub(self.kernel.1) / self.stride
    }

    /// Floats of the input.
    pub fn input_len(&self) -> usize {
        self.n * self.h * self.w * self.c_in
    }

    /// Floats of the output.
    pub fn output_len(&self) -> usize {
        self.n * self.out_h() * self.out_w() * self.c_out
    }

    /// Floats of the weights.
    pub fn weight_len(&self) -> usize {
        self.kernel.0 * self.kernel.1 * self.c_in * self.c_out
    }

    /// (dy, dx) from a scaled output pixel to the input pixel of each tap, in the order of the weights.
    fn offsets(&self) -> Vec<(isize, isize)> {
        let (top, left) = (self.pad.top as isize, self.pad.left as isize);
        let (kh, kw) = (self.kernel.0 as isize, self.kernel.1 as isize);
        (0..kh).flat_map(|y| (0..kw).map(move |x| (y - top, x - left))).collect()
    }

    fn windows(&self) -> Windows {
        Windows {
            tile: tile(self.h.max(self.w), self.c_in, self.c_out),
            n: self.n,
            source_height: self.h,
            source_width: self.w,
            top: self.pad.top,
            left: self.pad.left,
            height: self.out_h(),
            width: self.out_w(),
        }
    }

    fn im2col<'a>(&self, x: &'a [f32], taps: &'a [(isize, isize)]) -> Im2col<'a> {
        let grid = [self.n, self.out_h(), self.out_w()];
        let (height, width) = (self.h, self.w);
        Im2col { source: x, skip: &[], height, width, channels: self.c_in, grid, step: self.stride, taps }
    }
}

/// Operations fused into a convolution: out = conv(norm(x)) + bias + shift + residual.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fusion<'a> {
    /// The last channels of the input, where `x` has only the first: a skip connection read where it lies.
    pub skip: Option<&'a [f32]>,
    /// Applied to the input.
    pub norm: Option<&'a Normalization>,
    /// \[c_out\].
    pub bias: Option<&'a [f32]>,
    /// One row an image \[n, c_out\]: the time embedding of a residual block.
    pub shift: Option<&'a [f32]>,
    /// Like the output.
    pub residual: Option<&'a [f32]>,
}

/// out = convolution of `x` with `w`, with what `fusion` adds.
///
/// An image of the output depends on that image of the input alone, to the last bit.
///
/// # Panics
/// If a slice has not the length that `shape` says.
pub fn conv2d(shape: &ConvShape, x: &[f32], w: &[f32], fusion: Fusion, out: &mut [f32]) {
    check(shape, x.len() + fusion.skip.map_or(0, <[f32]>::len), w.len(), out.len());
    let _span = span(shape, "forward");
    let algorithm = Algorithm::of(shape, shape.c_in, shape.c_out);
    if algorithm == Algorithm::Winograd && fusion.skip.is_none() {
        let filter = Filter::plain(shape.c_in, shape.c_out, w);
        return winograd::convolve(&shape.windows(), [x, &[]], fusion.norm, filter, epilogue(shape, fusion), out);
    }
    let mut filter = scratch::take(filter_len(shape, algorithm));
    pack_filter(shape, algorithm, w, &mut filter);
    forward(shape, algorithm, x, &filter, fusion, out);
}

/// The weights of a convolution in the layout that the kernels read, packed once for many calls.
#[derive(Clone, Debug)]
pub struct PackedFilter {
    c_in: usize,
    c_out: usize,
    kernel: (usize, usize),
    algorithm: Algorithm,
    data: Vec<f32>,
}

impl PackedFilter {
    /// Packs `w` \[kernel.0, kernel.1, c_in, c_out\] for convolutions like `shape`, with any number and size of
    /// images.
    ///
    /// # Panics
    /// If `w` has not the length that `shape` says.
    pub fn new(shape: &ConvShape, w: &[f32]) -> Self {
        assert_eq!(w.len(), shape.weight_len(), "{shape:?}: length of the weights");
        let algorithm = Algorithm::of(shape, shape.c_in, shape.c_out);
        let mut data = vec![0.0; filter_len(shape, algorithm)];
        pack_filter(shape, algorithm, w, &mut data);
        PackedFilter { c_in: shape.c_in, c_out: shape.c_out, kernel: shape.kernel, algorithm, data }
    }
}

/// [`conv2d`] with weights packed beforehand: the same bits.
///
/// # Panics
/// If a slice has not the length that `shape` says, or `filter` was packed for another kernel, stride or padding.
pub fn conv2d_packed(shape: &ConvShape, x: &[f32], filter: &PackedFilter, fusion: Fusion, out: &mut [f32]) {
    check(shape, x.len() + fusion.skip.map_or(0, <[f32]>::len), shape.weight_len(), out.len());
    let _span = span(shape, "forward");
    let PackedFilter { c_in, c_out, kernel, algorithm, data } = filter;
    assert_eq!((shape.c_in, shape.c_out, shape.kernel), (*c_in, *c_out, *kernel), "{shape:?}: another filter's");
    assert_eq!(
        Algorithm::of(shape, shape.c_in, shape.c_out),
        *algorithm,
        "{shape:?}: another filter's stride or padding"
    );
    forward(shape, *algorithm, x, data, fusion, out);
}

/// How a convolution is computed. The choice looks at channels, kernel, stride and padding, never at images: their
/// number must not change a bit, and filters are packed before sizes are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    /// [`crate::winograd`].
    Winograd,
    /// [`crate::kn2row`]: products first, shifts after.
    Kn2row,
    /// [`crate::im2col`].
    Im2col,
}

impl Algorithm {
    /// For `shape`, forward or backward, reading images of `from` channels and writing images of `to`.
    fn of(shape: &ConvShape, from: usize, to: usize) -> Algorithm {
        let Pad { top, bottom, left, right } = shape.pad;
        let taps = shape.kernel.0 * shape.kernel.1;
        if shape.stride == 1 && (2..=9).contains(&taps) && to * taps <= 64 && from >= 8 {
            Algorithm::Kn2row
        } else if shape.stride == 1
            && shape.kernel == (3, 3)
            && top.max(bottom).max(left).max(right) <= 2
            && from.min(to) >= 32
        {
            // With fewer channels its transforms cost what its products save, and it is the less exact of the two.
            Algorithm::Winograd
        } else {
            Algorithm::Im2col
        }
    }
}

/// Winograd's outputs of a tile in one direction. Where images are small and filters large, transforming the filter costs
/// more than the products, and small tiles transform less.
fn tile(side: usize, terms: usize, columns: usize) -> usize {
    if side <= 4 && terms.min(columns) >= 128 { 2 } else { 4 }
}

fn filter_len(shape: &ConvShape, algorithm: Algorithm) -> usize {
    let taps = shape.kernel.0 * shape.kernel.1;
    match algorithm {
        Algorithm::Winograd => winograd::blocked_filter_len(shape.c_in, shape.c_out),
        Algorithm::Kn2row => blocked_len(shape.c_in, taps * shape.c_out),
        Algorithm::Im2col => blocked_len(taps * shape.c_in, shape.c_out),
    }
}

fn pack_filter(shape: &ConvShape, algorithm: Algorithm, w: &[f32], out: &mut [f32]) {
    let taps = shape.kernel.0 * shape.kernel.1;
    match algorithm {
        Algorithm::Winograd => winograd::pack_filter(shape.c_in, shape.c_out, false, w, out),
        Algorithm::Kn2row => kn2row::pack_filter(taps, shape.c_in, shape.c_out, w, out),
        Algorithm::Im2col => pack_weights(taps * shape.c_in, shape.c_out, w, out),
    }
}

fn forward(shape: &ConvShape, algorithm: Algorithm, x: &[f32], filter: &[f32], fusion: Fusion, out: &mut [f32]) {
    let epilogue = epilogue(shape, fusion);
    let skip = fusion.skip.unwrap_or_default();
    let taps = shape.offsets();
    if algorithm == Algorithm::Winograd && (fusion.norm.is_some() || skip.is_empty()) {
        let filter = Filter::blocked(shape.c_in, shape.c_out, filter);
        return winograd::convolve(&shape.windows(), [x, skip], fusion.norm, filter, epilogue, out);
    }
    if !skip.is_empty() {
        let second = shape.c_in * skip.len() / shape.input_len();
        let first = shape.c_in - second;
        if algorithm == Algorithm::Im2col
            && fusion.norm.is_none()
            && first.is_multiple_of(LANES)
            && second.is_multiple_of(LANES)
        {
            let output = OutputGrid { height: shape.out_h(), width: shape.out_w(), step: 1, origin: (0, 0) };
            return product(&Im2col { skip, ..shape.im2col(x, &taps) }, filter, shape.c_out, output, epilogue, out);
        }
        let mut joined = scratch::take(shape.input_len());
        concat_channels(first, second, x, skip, &mut joined);
        return forward(shape, algorithm, &joined, filter, Fusion { skip: None, ..fusion }, out);
    }
    let mut normed = scratch::take(if fusion.norm.is_some() { x.len() } else { 0 });
    if let Some(norm) = fusion.norm {
        norm.apply(x, &mut normed);
    }
    let patches = shape.im2col(if fusion.norm.is_some() { &normed } else { x }, &taps);
    if algorithm == Algorithm::Kn2row {
        kn2row::convolve(&patches, shape.c_out, filter, epilogue, out);
    } else {
        let output = OutputGrid { height: shape.out_h(), width: shape.out_w(), step: 1, origin: (0, 0) };
        product(&patches, filter, shape.c_out, output, epilogue, out);
    }
}

/// dx \[n, h, w, c_in\] of a loss whose gradient by the convolution's output is `dy`.
///
/// # Panics
/// If a slice has not the length that `shape` says.
pub fn conv2d_grad_input(shape: &ConvShape, dy: &[f32], w: &[f32], dx: &mut [f32]) {
    check(shape, dx.len(), w.len(), dy.len());
    let _span = span(shape, "gradient by input");
    let algorithm = Algorithm::of(shape, shape.c_out, shape.c_in);
    if algorithm == Algorithm::Winograd {
        let windows = Windows {
            tile: tile(shape.h.max(shape.w), shape.c_out, shape.c_in),
            n: shape.n,
            source_height: shape.out_h(),
            source_width: shape.out_w(),
            top: 2 - shape.pad.top,
            left: 2 - shape.pad.left,
            height: shape.h,
            width: shape.w,
        };
        let mut rotated = scratch::take(winograd::blocked_filter_len(shape.c_out, shape.c_in));
        winograd::pack_filter(shape.c_out, shape.c_in, true, w, &mut rotated);
        let filter = Filter::blocked(shape.c_out, shape.c_in, &rotated);
        return winograd::convolve(&windows, [dy, &[]], None, filter, Epilogue::default(), dx);
    }
    let ConvShape { n, h, w: width, c_in, c_out, kernel, stride, pad } = *shape;
    // Input rows iy ≡ y (mod stride) meet the taps ky with ky ≡ y + top, at output row (iy + top − ky)/stride: for each
    // residue, a convolution of dy with stride 1. The same for columns.
    let along = |residue: usize, before: usize, taps: usize| {
        (0..taps)
            .filter(move |tap| (residue + before + stride * taps - tap).is_multiple_of(stride))
            .map(move |tap| (tap, (residue as isize + before as isize - tap as isize) / stride as isize))
    };
    for y in 0..stride.min(h) {
        for x in 0..stride.min(width) {
            let (mut taps, mut starts) = (Vec::new(), Vec::new());
            for (ky, dy) in along(y, pad.top, kernel.0) {
                for (kx, dx) in along(x, pad.left, kernel.1) {
                    taps.push((dy, dx));
                    starts.push((ky * kernel.1 + kx) * c_in * c_out);
                }
            }
            let grid = [n, (h - y).div_ceil(stride), (width - x).div_ceil(stride)];
            let (height, out_w) = (shape.out_h(), shape.out_w());
            let patches =
                Im2col { source: dy, skip: &[], height, width: out_w, channels: c_out, grid, step: 1, taps: &taps };
            let output = OutputGrid { height: h, width, step: stride, origin: (y, x) };
            if algorithm == Algorithm::Kn2row {
                let mut filter = scratch::take(blocked_len(c_out, taps.len() * c_in));
                kn2row::pack_filter_transposed(taps.len(), c_out, c_in, w, &mut filter);
                return kn2row::convolve(&patches, c_in, &filter, Epilogue::default(), dx);
            }
            let mut packed = scratch::take(blocked_len(patches.columns(), c_in));
            pack_weights_transposed(&starts, c_out, c_in, w, &mut packed);
            product(&patches, &packed, c_in, output, Epilogue::default(), dx);
        }
    }
}

/// dw \[kernel.0, kernel.1, c_in, c_out\] of a loss whose gradient by the convolution's output is `dy`, summed over
/// the images in one fixed order.
///
/// # Panics
/// If a slice has not the length that `shape` says.
pub fn conv2d_grad_weight(shape: &ConvShape, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    check(shape, x.len(), dw.len(), dy.len());
    let _span = span(shape, "gradient by weights");
    let taps = shape.offsets();
    match Algorithm::of(shape, shape.c_in, shape.c_out) {
        Algorithm::Winograd => {
            winograd::grad_weight(&Windows { tile: 4, ..shape.windows() }, shape.c_in, shape.c_out, x, dy, dw)
        }
        Algorithm::Kn2row => kn2row::grad_weight(&shape.im2col(x, &taps), shape.c_out, dy, dw),
        Algorithm::Im2col => {
            let patches = shape.im2col(x, &taps);
            outer(&patches, &Im2col::matrix(dy, patches.rows(), shape.c_out), dw);
        }
    }
}

/// Each of a convolution's three products has the same operations and touches input, weights and output once.
fn span(shape: &ConvShape, pass: &str) -> Span {
    let ConvShape { n, kernel, stride, .. } = *shape;
    let flop = 2 * n * shape.out_h() * shape.out_w() * shape.weight_len();
    let floats = shape.input_len() + shape.weight_len() + shape.output_len();
    let few_channels = if shape.c_in.min(shape.c_out) < 16 { ", few channels" } else { "" };
    let name = || match (kernel, stride) {
        ((1, 1), 1) => format!("linear, convolution 1×1: {pass}"),
        _ => format!("convolution {}×{} stride {stride}{few_channels}: {pass}", kernel.0, kernel.1),
    };
    profile::span(name, flop, floats)
}

fn check(shape: &ConvShape, x: usize, w: usize, out: usize) {
    assert!(shape.stride >= 1, "{shape:?}: a stride is at least 1");
    assert_eq!(x, shape.input_len(), "{shape:?}: length of the input");
    assert_eq!(w, shape.weight_len(), "{shape:?}: length of the weights");
    assert_eq!(out, shape.output_len(), "{shape:?}: length of the output");
}

fn epilogue<'a>(shape: &ConvShape, fusion: Fusion<'a>) -> Epilogue<'a> {
    let Fusion { norm, bias, shift, residual, .. } = fusion;
    assert!(norm.is_none_or(|norm| norm.size() == (shape.n, shape.c_in)), "{shape:?}: size of the normalization");
    assert!(bias.is_none_or(|bias| bias.len() == shape.c_out), "{shape:?}: length of the bias");
    assert!(shift.is_none_or(|shift| shift.len() == shape.n * shape.c_out), "{shape:?}: length of the shift");
    assert!(residual.is_none_or(|x| x.len() == shape.output_len()), "{shape:?}: length of the residual");
    Epilogue { bias, shift, residual }
}
