//! Two-dimensional convolution of N,H,W,C images with fused normalization, biases and residual, and its gradients.

use crate::concat::concat_channels;
use crate::epilogue::Epilogue;
use crate::gemm::blocked_len;
use crate::im2col::{Im2col, OutputGrid, outer, pack_weights, pack_weights_transposed, product};
use crate::norm::Normalization;
use crate::profile::{self, Span};
use crate::simd::LANES;
use crate::winograd::{self, Filter, Windows};
use crate::{kn2row, scratch};

/// Zero padding around an image, in pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pad {
    /// Rows above.
    pub top: usize,
    /// Rows below.
    pub bottom: usize,
    /// Columns on the left.
    pub left: usize,
    /// Columns on the right.
    pub right: usize,
}

impl Pad {
    /// Returns a padding that is `pad` on all four sides.
    pub fn same(pad: usize) -> Self {
        Pad { top: pad, bottom: pad, left: pad, right: pad }
    }
}

/// The shape of a convolution (in fact a cross-correlation, as usual in deep learning).
///
/// It maps images `[n, h, w, c_in]` with weights `[kernel.0, kernel.1, c_in, c_out]` to images
/// \[n, [`out_h`](ConvShape::out_h), [`out_w`](ConvShape::out_w), c_out\].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// Number of images.
    pub n: usize,
    /// Height of an input image.
    pub h: usize,
    /// Width of an input image.
    pub w: usize,
    /// Input channels.
    pub c_in: usize,
    /// Output channels.
    pub c_out: usize,
    /// Height and width of the kernel.
    pub kernel: (usize, usize),
    /// Stride in both directions, at least 1.
    pub stride: usize,
    /// Zero padding of the input.
    pub pad: Pad,
}

impl ConvShape {
    /// Returns the height of an output image, zero if the kernel is taller than the padded input.
    pub fn out_h(&self) -> usize {
        (self.h + self.pad.top + self.pad.bottom + self.stride).saturating_sub(self.kernel.0) / self.stride
    }

    /// Returns the width of an output image, zero if the kernel is wider than the padded input.
    pub fn out_w(&self) -> usize {
        (self.w + self.pad.left + self.pad.right + self.stride).saturating_sub(self.kernel.1) / self.stride
    }

    /// Returns the number of elements of the input.
    pub fn input_len(&self) -> usize {
        self.n * self.h * self.w * self.c_in
    }

    /// Returns the number of elements of the output.
    pub fn output_len(&self) -> usize {
        self.n * self.out_h() * self.out_w() * self.c_out
    }

    /// Returns the number of elements of the weights.
    pub fn weight_len(&self) -> usize {
        self.kernel.0 * self.kernel.1 * self.c_in * self.c_out
    }

    /// Returns, for each tap in the order of the weights, the offset (dy, dx) from stride·(output pixel) to the input
    /// pixel.
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

/// The input of a convolution and the operations fused into it: out = conv(norm(x)) + bias + shift + residual.
#[derive(Clone, Copy, Debug)]
pub struct ConvInputs<'a> {
    /// The input.
    pub x: &'a [f32],
    /// The last channels of the input, if `x` has only the first ones: a skip connection that is not copied.
    pub skip: Option<&'a [f32]>,
    /// Group normalization and SiLU of the input.
    pub norm: Option<&'a Normalization>,
    /// A bias `[c_out]`.
    pub bias: Option<&'a [f32]>,
    /// A shift for each image `[n, c_out]`: the time embedding in a residual block.
    pub shift: Option<&'a [f32]>,
    /// A residual of the shape of the output.
    pub residual: Option<&'a [f32]>,
}

impl<'a> ConvInputs<'a> {
    /// Returns the inputs of a plain convolution, into which nothing is fused.
    pub fn new(x: &'a [f32]) -> Self {
        ConvInputs { x, skip: None, norm: None, bias: None, shift: None, residual: None }
    }

    fn len(&self) -> usize {
        self.x.len() + self.skip.map_or(0, <[f32]>::len)
    }
}

/// Computes the convolution of `inputs` with the weights `w`, and the operations fused into it.
///
/// The bits of an output image depend on the input image of the same index only.
///
/// # Panics
/// If the length of a slice does not match `shape`.
pub fn conv2d(shape: &ConvShape, inputs: ConvInputs, w: &[f32], out: &mut [f32]) {
    check(shape, inputs.len(), w.len(), out.len());
    let _span = span(shape, "forward");
    let algorithm = Algorithm::of(shape, shape.c_in, shape.c_out);
    if algorithm == Algorithm::Winograd && inputs.skip.is_none() {
        let filter = Filter::plain(shape.c_in, shape.c_out, w);
        let epilogue = epilogue(shape, inputs);
        return winograd::convolve(&shape.windows(), [inputs.x, &[]], inputs.norm, filter, epilogue, out);
    }
    let mut filter = scratch::take(filter_len(shape, algorithm));
    pack_filter(shape, algorithm, w, &mut filter);
    forward(shape, algorithm, inputs, &filter, out);
}

/// The weights of a convolution in the layout of its kernel: packed once, used by many calls.
#[derive(Clone, Debug)]
pub struct PackedFilter {
    c_in: usize,
    c_out: usize,
    kernel: (usize, usize),
    algorithm: Algorithm,
    data: Vec<f32>,
}

impl PackedFilter {
    /// Packs `w` `[kernel.0, kernel.1, c_in, c_out]` for convolutions like `shape`, with any number and size of
    /// images.
    ///
    /// # Panics
    /// If the length of `w` does not match `shape`.
    pub fn new(shape: &ConvShape, w: &[f32]) -> Self {
        assert_eq!(w.len(), shape.weight_len(), "{shape:?}: wrong length of `w`");
        let algorithm = Algorithm::of(shape, shape.c_in, shape.c_out);
        let mut data = vec![0.0; filter_len(shape, algorithm)];
        pack_filter(shape, algorithm, w, &mut data);
        PackedFilter { c_in: shape.c_in, c_out: shape.c_out, kernel: shape.kernel, algorithm, data }
    }
}

/// Computes the same bits as [`conv2d`], with weights that are already packed.
///
/// # Panics
/// If the length of a slice does not match `shape`, or `filter` was packed for another kernel, stride or padding.
pub fn conv2d_packed(shape: &ConvShape, inputs: ConvInputs, filter: &PackedFilter, out: &mut [f32]) {
    check(shape, inputs.len(), shape.weight_len(), out.len());
    let _span = span(shape, "forward");
    let PackedFilter { c_in, c_out, kernel, algorithm, data } = filter;
    assert_eq!(
        (shape.c_in, shape.c_out, shape.kernel),
        (*c_in, *c_out, *kernel),
        "{shape:?}: the filter is packed for another kernel"
    );
    assert_eq!(
        Algorithm::of(shape, shape.c_in, shape.c_out),
        *algorithm,
        "{shape:?}: the filter is packed for another stride or padding"
    );
    forward(shape, *algorithm, inputs, data, out);
}

/// The algorithm of a convolution.
///
/// The choice depends on channels, kernel, stride and padding, but not on the images: their number must not change a
/// bit, and filters are packed before the size is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    /// See [`crate::winograd`].
    Winograd,
    /// See [`crate::kn2row`].
    Kn2row,
    /// See [`crate::im2col`].
    Im2col,
}

impl Algorithm {
    /// Chooses the algorithm for a pass, forward or backward, from images of `from` channels to images of `to`.
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
            // With fewer channels the transforms cost as much as they save, and Winograd is the less accurate
            // algorithm.
            Algorithm::Winograd
        } else {
            Algorithm::Im2col
        }
    }
}

/// Returns the side of Winograd's output tiles. For small images and large filters, transforming the filter costs more
/// than the products, and small tiles have fewer points to transform.
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

fn forward(shape: &ConvShape, algorithm: Algorithm, inputs: ConvInputs, filter: &[f32], out: &mut [f32]) {
    let epilogue = epilogue(shape, inputs);
    let ConvInputs { x, skip, norm, .. } = inputs;
    let skip = skip.unwrap_or_default();
    let taps = shape.offsets();
    if algorithm == Algorithm::Winograd && (norm.is_some() || skip.is_empty()) {
        let filter = Filter::blocked(shape.c_in, shape.c_out, filter);
        return winograd::convolve(&shape.windows(), [x, skip], norm, filter, epilogue, out);
    }
    if !skip.is_empty() {
        let second = shape.c_in * skip.len() / shape.input_len();
        let first = shape.c_in - second;
        if algorithm == Algorithm::Im2col
            && norm.is_none()
            && first.is_multiple_of(LANES)
            && second.is_multiple_of(LANES)
        {
            let output = OutputGrid { height: shape.out_h(), width: shape.out_w(), step: 1, origin: (0, 0) };
            return product(&Im2col { skip, ..shape.im2col(x, &taps) }, filter, shape.c_out, output, epilogue, out);
        }
        let mut joined = scratch::take(shape.input_len());
        concat_channels([first, second], [x, skip], &mut joined);
        return forward(shape, algorithm, ConvInputs { x: &joined, skip: None, ..inputs }, filter, out);
    }
    let mut normed = scratch::take(if norm.is_some() { x.len() } else { 0 });
    if let Some(norm) = norm {
        norm.apply(x, &mut normed);
    }
    let patches = shape.im2col(if norm.is_some() { &normed } else { x }, &taps);
    if algorithm == Algorithm::Kn2row {
        kn2row::convolve(&patches, shape.c_out, filter, epilogue, out);
    } else {
        let output = OutputGrid { height: shape.out_h(), width: shape.out_w(), step: 1, origin: (0, 0) };
        product(&patches, filter, shape.c_out, output, epilogue, out);
    }
}

/// Computes the input gradient dx `[n, h, w, c_in]` of a convolution from its output gradient `dy`.
///
/// # Panics
/// If the length of a slice does not match `shape`.
pub fn conv2d_grad_input(shape: &ConvShape, dy: &[f32], w: &[f32], dx: &mut [f32]) {
    check(shape, dx.len(), w.len(), dy.len());
    let _span = span(shape, "input gradient");
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
    // Input rows iy ≡ y (mod stride) depend on the taps ky ≡ y + top, at output row (iy + top − ky)/stride. For each
    // residue this is a convolution of dy with stride 1. Columns are analogous.
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

/// Computes the weight gradient dw `[kernel.0, kernel.1, c_in, c_out]` of a convolution from its output gradient `dy`,
/// summed over the images in a fixed order.
///
/// # Panics
/// If the length of a slice does not match `shape`.
pub fn conv2d_grad_weight(shape: &ConvShape, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    check(shape, x.len(), dw.len(), dy.len());
    let _span = span(shape, "weight gradient");
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

/// Starts the profile span of a pass. All three passes have the same FLOPs and access input, weights and output once.
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
    assert!(shape.stride >= 1, "{shape:?}: the stride must be at least 1");
    assert_eq!(x, shape.input_len(), "{shape:?}: wrong length of the input");
    assert_eq!(w, shape.weight_len(), "{shape:?}: wrong length of the weights");
    assert_eq!(out, shape.output_len(), "{shape:?}: wrong length of the output");
}

fn epilogue<'a>(shape: &ConvShape, inputs: ConvInputs<'a>) -> Epilogue<'a> {
    let ConvInputs { norm, bias, shift, residual, .. } = inputs;
    assert!(norm.is_none_or(|norm| norm.size() == (shape.n, shape.c_in)), "{shape:?}: wrong size of the normalization");
    assert!(bias.is_none_or(|bias| bias.len() == shape.c_out), "{shape:?}: wrong length of the bias");
    assert!(shift.is_none_or(|shift| shift.len() == shape.n * shape.c_out), "{shape:?}: wrong length of the shift");
    assert!(residual.is_none_or(|x| x.len() == shape.output_len()), "{shape:?}: wrong length of the residual");
    Epilogue { bias, shift, residual }
}
