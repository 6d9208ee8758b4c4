//! Winograd's minimal filtering F(4×4, 3×3) and F(2×2, 3×3) (Lavin & Gray 2016, arXiv:1509.09308): 3×3 convolutions of
//! stride 1 with a quarter of the multiplications, forward and for both gradients.
//!
//! A tile of 4×4 outputs is Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A, where d are its 6×6 inputs and g is the filter. Summed over
//! channels, the product ⊙ becomes 36 matrix products [tiles, c_in]·[c_in, c_out]. They are computed for a few dozen
//! tiles at a time, so that the transformed tiles stay in the L2 cache. The interpolation points 0, ±1/√2, ±√2 and ∞
//! lose about half a digit less than the usual 0, ±1, ±2 and ∞.
//!
//! All transformed data are blocked ([`crate::gemm`]): \[36, channels/16, tiles, 16\].

// The transforms use indices, like the formulas.
#![allow(clippy::needless_range_loop)]

use crate::epilogue::Epilogue;
use crate::gemm::{Rows, multiply, multiply_transposed};
use crate::norm::Normalization;
use crate::parallel::{self, Part, Partition, SharedSlice};
use crate::scratch;
use crate::simd::{LANES, Simd, dispatch};

/// Side of the inputs of the largest tile.
const IN: usize = 6;
/// Number of points of the largest tile.
const POINTS: usize = IN * IN;

/// The points ±a and ±b and their squares; a²b² = 1 saves multiplications.
const A: f32 = std::f32::consts::FRAC_1_SQRT_2;
const B: f32 = std::f32::consts::SQRT_2;
const A2: f32 = 0.5;
const B2: f32 = 2.0;
/// The factors 1/∏(a − other points) of the points ±a in G, and likewise of ±b. That of the point 0 is 1.
const NA: f32 = 1.0 / (2.0 * A2 * (A2 - B2));
const NB: f32 = 1.0 / (2.0 * B2 * (B2 - A2));

/// Returns the distance in floats from one point's matrix to the next. Five extra lines keep the 36 lines that a tile
/// writes from mapping to the same cache set if the width is a power of two.
fn plane(rows: usize, blocks: usize) -> usize {
    rows * blocks * LANES + 5 * LANES
}

/// Applies Bᵀ: inputs to points.
#[inline(always)]
fn input_transform_1d<S: Simd, const OUT: usize>(s: S, d: [S::V; 6]) -> [S::V; 6] {
    if OUT == 2 {
        let unused = s.splat(0.0);
        return [s.sub(d[0], d[2]), s.add(d[1], d[2]), s.sub(d[2], d[1]), s.sub(d[1], d[3]), unused, unused];
    }
    let (a, b, a2, b2, sum) = (s.splat(A), s.splat(B), s.splat(A2), s.splat(B2), s.splat(A2 + B2));
    let (even_a, odd_a) = (s.fnma(b2, d[2], d[4]), s.fnma(b2, d[1], d[3]));
    let (even_b, odd_b) = (s.fnma(a2, d[2], d[4]), s.fnma(a2, d[1], d[3]));
    [
        s.fnma(sum, d[2], s.add(d[0], d[4])),
        s.fma(a, odd_a, even_a),
        s.fnma(a, odd_a, even_a),
        s.fma(b, odd_b, even_b),
        s.fnma(b, odd_b, even_b),
        s.fnma(sum, d[3], s.add(d[1], d[5])),
    ]
}

/// Applies Aᵀ: points to outputs.
#[inline(always)]
fn output_transform_1d<S: Simd, const OUT: usize>(s: S, m: [S::V; 6]) -> [S::V; 4] {
    if OUT == 2 {
        let unused = s.splat(0.0);
        return [s.add(m[0], s.add(m[1], m[2])), s.sub(s.sub(m[1], m[2]), m[3]), unused, unused];
    }
    let (sum_a, difference_a) = (s.add(m[1], m[2]), s.sub(m[1], m[2]));
    let (sum_b, difference_b) = (s.add(m[3], m[4]), s.sub(m[3], m[4]));
    [
        s.add(m[0], s.add(sum_a, sum_b)),
        s.fma(s.splat(A), difference_a, s.mul(s.splat(B), difference_b)),
        s.fma(s.splat(A2), sum_a, s.mul(s.splat(B2), sum_b)),
        s.add(s.fma(s.splat(A * A2), difference_a, s.mul(s.splat(B * B2), difference_b)), m[5]),
    ]
}

/// Applies A: gradients of four outputs to gradients of six points.
#[inline(always)]
fn output_grad_transform_1d<S: Simd>(s: S, y: [S::V; 4]) -> [S::V; 6] {
    let (a, b, a2, b2) = (s.splat(A), s.splat(B), s.splat(A2), s.splat(B2));
    let (even_a, odd_a) = (s.fma(a2, y[2], y[0]), s.fma(a2, y[3], y[1]));
    let (even_b, odd_b) = (s.fma(b2, y[2], y[0]), s.fma(b2, y[3], y[1]));
    [y[0], s.fma(a, odd_a, even_a), s.fnma(a, odd_a, even_a), s.fma(b, odd_b, even_b), s.fnma(b, odd_b, even_b), y[3]]
}

/// Applies G: three taps to points.
#[inline(always)]
fn filter_transform_1d<S: Simd, const OUT: usize>(s: S, g: [S::V; 3]) -> [S::V; 6] {
    if OUT == 2 {
        let (unused, half) = (s.splat(0.0), s.splat(0.5));
        let (even, odd) = (s.mul(half, s.add(g[0], g[2])), s.mul(half, g[1]));
        return [g[0], s.add(even, odd), s.sub(even, odd), g[2], unused, unused];
    }
    let (even_a, odd_a) = (s.fma(s.splat(A2), g[2], g[0]), s.mul(s.splat(A * NA), g[1]));
    let (even_b, odd_b) = (s.fma(s.splat(B2), g[2], g[0]), s.mul(s.splat(B * NB), g[1]));
    let (na, nb) = (s.splat(NA), s.splat(NB));
    [
        g[0],
        s.fma(na, even_a, odd_a),
        s.sub(s.mul(na, even_a), odd_a),
        s.fma(nb, even_b, odd_b),
        s.sub(s.mul(nb, even_b), odd_b),
        g[2],
    ]
}

/// Applies Gᵀ: gradients of six points to gradients of three taps.
#[inline(always)]
fn filter_grad_transform_1d<S: Simd>(s: S, u: [S::V; 6]) -> [S::V; 3] {
    let (sum_a, sum_b) = (s.mul(s.splat(NA), s.add(u[1], u[2])), s.mul(s.splat(NB), s.add(u[3], u[4])));
    let (difference_a, difference_b) = (s.sub(u[1], u[2]), s.sub(u[3], u[4]));
    [
        s.add(u[0], s.add(sum_a, sum_b)),
        s.fma(s.splat(A * NA), difference_a, s.mul(s.splat(B * NB), difference_b)),
        s.add(s.fma(s.splat(A2), sum_a, s.mul(s.splat(B2), sum_b)), u[5]),
    ]
}

/// The geometry of a convolution: window (y, x) of `height`×`width` windows of 3×3 pixels starts at (y − top, x − left)
/// in a source image. Pixels outside the image are zero.
#[derive(Clone, Copy)]
pub(crate) struct Windows {
    /// Side of a tile's outputs: 2 or 4.
    pub tile: usize,
    pub n: usize,
    pub source_height: usize,
    pub source_width: usize,
    pub top: usize,
    pub left: usize,
    pub height: usize,
    pub width: usize,
}

impl Windows {
    fn tiles_per_row(&self) -> usize {
        self.width.div_ceil(self.tile)
    }

    fn tiles_per_image(&self) -> usize {
        self.height.div_ceil(self.tile) * self.tiles_per_row()
    }

    fn tiles(&self) -> usize {
        self.n * self.tiles_per_image()
    }

    fn source_len(&self, channels: usize) -> usize {
        self.n * self.source_height * self.source_width * channels
    }

    /// Returns the range of rows that `tiles` tiles from `first` read, numbered through all source images.
    #[inline(always)]
    fn rows_read(&self, first: usize, tiles: usize) -> std::ops::Range<usize> {
        let ((image, y, _), (last, end, _)) = (self.at(first), self.at(first + tiles - 1));
        let height = self.source_height;
        let end = (end + self.tile + 2).saturating_sub(self.top).min(height);
        let start = image * height + y.saturating_sub(self.top).min(height);
        start..(last * height + end).max(start)
    }

    /// Returns the image, first row and first column of the outputs of a tile.
    #[inline(always)]
    fn at(&self, tile: usize) -> (usize, usize, usize) {
        let (image, tile) = (tile / self.tiles_per_image(), tile % self.tiles_per_image());
        (image, tile / self.tiles_per_row() * self.tile, tile % self.tiles_per_row() * self.tile)
    }
}

/// The weights for `terms` input and `columns` output channels, plain or blocked.
#[derive(Clone, Copy)]
pub(crate) struct Filter<'a> {
    terms: usize,
    columns: usize,
    data: &'a [f32],
    /// Strides in floats: from one block of sixteen columns, one term, one tap to the next.
    steps: [usize; 3],
}

impl<'a> Filter<'a> {
    /// Wraps weights \[3, 3, terms, columns\].
    pub(crate) fn plain(terms: usize, columns: usize, data: &'a [f32]) -> Self {
        assert_eq!(data.len(), 9 * terms * columns);
        Filter { terms, columns, data, steps: [LANES, columns, terms * columns] }
    }

    /// Wraps weights \[columns/16, terms, 9, 16\]. They are in the order of their use, which is twice as fast from
    /// memory.
    pub(crate) fn blocked(terms: usize, columns: usize, data: &'a [f32]) -> Self {
        assert_eq!(data.len(), blocked_filter_len(terms, columns));
        Filter { terms, columns, data, steps: [9 * LANES * terms, 9 * LANES, LANES] }
    }

    /// Prefetches part `part` of `parts` of the weights that [`transform_filter`] will read.
    #[inline(always)]
    fn prefetch<S: Simd>(&self, s: S, (block, first): (usize, usize), part: usize, parts: usize) {
        if !self.is_blocked() || first >= self.terms {
            return;
        }
        let lines = 9 * TERMS.min(self.terms - first);
        for b in block..(block + 2).min(self.columns.div_ceil(LANES)) {
            let from = self.data.as_ptr().wrapping_add(b * self.steps[0] + first * self.steps[1]);
            for line in lines * part / parts..lines * (part + 1) / parts {
                s.prefetch(from.wrapping_add(line * LANES));
            }
        }
    }

    fn is_blocked(&self) -> bool {
        self.steps[2] == LANES
    }
}

/// Returns the number of floats of blocked weights.
pub(crate) fn blocked_filter_len(terms: usize, columns: usize) -> usize {
    9 * terms * columns.next_multiple_of(LANES)
}

/// Blocks weights \[3, 3, terms, columns\]. If `rotate`, the weights are \[3, 3, columns, terms\] and are rotated by
/// 180°, which gives the filter of the input gradient.
pub(crate) fn pack_filter(terms: usize, columns: usize, rotate: bool, weights: &[f32], out: &mut [f32]) {
    assert!(weights.len() == 9 * terms * columns && out.len() == blocked_filter_len(terms, columns));
    let groups = terms.div_ceil(LANES);
    let out = SharedSlice::new(out);
    parallel::for_each(columns.div_ceil(LANES) * groups, |task| {
        pack_filter_part(terms, columns, rotate, weights, task / groups, task % groups * LANES, out);
    });
}

/// Computes out \[n, height, width, columns\] as the convolution of `source` \[n, source_height, source_width, terms\],
/// normalized if `norm` is given, plus the epilogue.
pub(crate) fn convolve(
    windows: &Windows,
    source: [&[f32]; 2],
    norm: Option<&Normalization>,
    filter: Filter,
    epilogue: Epilogue,
    out: &mut [f32],
) {
    let Filter { terms, columns, .. } = filter;
    let (tiles, blocks) = (windows.tiles(), columns.div_ceil(LANES));
    if tiles == 0 || columns == 0 {
        return;
    }
    // The division of the work does not affect the sums. With more tiles, a task's data would exceed the L2 cache. If
    // there are few tiles, columns are divided, because transforming the filter again for each part would not pay.
    const MAX_TILES: usize = 56;
    let partition = Partition::new(tiles, 28, MAX_TILES, blocks);
    let (threads, pairs) = (parallel::threads(), blocks.div_ceil(2));
    let chunks = terms.div_ceil(TERMS);
    let share = partition.row_tasks() > 4 * threads && pairs * chunks <= SHARED;
    let mut shared = scratch::take(if share { pairs * chunks * TRANSFORMED } else { 0 });
    if share {
        let to = SharedSlice::new(&mut shared);
        parallel::for_each(pairs * chunks, |part| {
            // SAFETY: each task has its own part.
            let to = unsafe { to.part(part * TRANSFORMED, TRANSFORMED) };
            transform_filter(windows.tile, filter, part / chunks * 2, part % chunks * TERMS, to);
        });
    }
    let shared = &*shared;
    let out = SharedSlice::new(out);
    parallel::for_each(partition.tasks(), |task| {
        convolve_part(windows, source, norm, filter, shared, epilogue, partition.part(task), out);
    });
}

/// The maximum number of filter parts that are transformed once for all tasks, 2.4 MB. Reading what another core wrote
/// is slow, so for larger filters each task transforms the parts as it needs them. It never stores all of them:
/// transformed weights are four times as large, and reading them from memory takes longer than the transform.
const SHARED: usize = 8;
/// Floats of a filter part: two blocks of columns of [`TERMS`] transformed weights.
const TRANSFORMED: usize = POINTS * (TERMS * 2 * LANES + 5 * LANES);

/// Terms whose weights a task transforms at a time.
const TERMS: usize = 64;

/// Computes the weight gradient dw \[3, 3, terms, columns\] from the output gradient `dy` \[n, height, width,
/// columns\], as a sum over tiles.
pub(crate) fn grad_weight(windows: &Windows, terms: usize, columns: usize, source: &[f32], dy: &[f32], dw: &mut [f32]) {
    let (term_blocks, blocks) = (terms.div_ceil(LANES), columns.div_ceil(LANES));
    let tiles = windows.tiles();
    // The number of tiles in a chunk is fixed, since it affects the bits. Both factors of a product fit in the L1
    // cache, all transformed tiles in the L3 cache.
    const BYTES: usize = 6 << 20;
    let step = (BYTES / (4 * POINTS * LANES * (term_blocks + blocks))).clamp(16, 256).next_multiple_of(16).min(tiles);
    assert_eq!(windows.tile, 4, "the weight gradient requires tiles of 4×4");
    dw.fill(0.0);
    let (x_len, y_len) = (POINTS * plane(step, term_blocks), POINTS * plane(step, blocks));
    let mut work = scratch::take(x_len + y_len);
    let (x, y) = work.split_at_mut(x_len);
    for first in (0..tiles).step_by(step.max(1)) {
        let count = step.min(tiles - first);
        const PIECE: usize = 8;
        let (to_x, to_y) = (SharedSlice::new(&mut *x), SharedSlice::new(&mut *y));
        parallel::for_each(count.div_ceil(PIECE), |piece| {
            let part = Rows { first: piece * PIECE, count: PIECE.min(count - piece * PIECE), of: count };
            transform_part(windows, [terms, columns], source, dy, first, part, to_x, to_y);
        });
        let pairs = blocks.div_ceil(2);
        let group = (term_blocks * pairs / (8 * parallel::threads())).clamp(1, 4);
        let groups = term_blocks.div_ceil(group);
        let to = SharedSlice::new(dw);
        parallel::for_each(pairs * groups, |task| {
            let (pair, term_block) = (task / groups, task % groups * group);
            for block in term_block..(term_block + group).min(term_blocks) {
                grad_weight_part([terms, columns], count, x, y, block, pair * 2, to);
            }
        });
    }
}

dispatch! {
    fn pack_filter_part(
        terms: usize, columns: usize, rotate: bool, weights: &[f32], block: usize, first: usize, out: SharedSlice,
    ) = pack_filter_kernel;
    fn transform_filter(tile: usize, filter: Filter, block: usize, first: usize, out: &mut [f32])
        = transform_filter_any_tile;
    fn convolve_part(
        windows: &Windows, source: [&[f32]; 2], norm: Option<&Normalization>, filter: Filter, shared: &[f32],
        epilogue: Epilogue, part: Part, out: SharedSlice,
    ) = convolve_any_tile;
    fn transform_part(
        windows: &Windows, channels: [usize; 2], source: &[f32], dy: &[f32], tile: usize, rows: Rows, x: SharedSlice,
        y: SharedSlice,
    ) = transform_kernel;
    fn grad_weight_part(
        channels: [usize; 2], tiles: usize, x: &[f32], y: &[f32], term_block: usize, block: usize, dw: SharedSlice,
    ) = grad_weight_kernel;
}

/// Packs block `block` of columns and up to sixteen terms from `first`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn pack_filter_kernel<S: Simd>(
    s: S,
    terms: usize,
    columns: usize,
    rotate: bool,
    weights: &[f32],
    block: usize,
    first: usize,
    out: SharedSlice,
) {
    let (count, column) = (LANES.min(terms - first), block * LANES);
    let used = LANES.min(columns - column);
    // SAFETY: each task has its own block and terms.
    let out = unsafe { out.part((block * terms + first) * 9 * LANES, count * 9 * LANES) };
    for tap in 0..9 {
        let mut square = [s.splat(0.0); LANES];
        if rotate {
            for c in 0..used {
                let from = ((8 - tap) * columns + column + c) * terms + first;
                square[c] = s.load_up_to(&weights[from..from + count]);
            }
            square = s.transpose(square);
        } else {
            for t in 0..count {
                let from = (tap * terms + first + t) * columns + column;
                square[t] = s.load_up_to(&weights[from..from + used]);
            }
        }
        for t in 0..count {
            s.store_up_to(square[t], &mut out[(t * 9 + tap) * LANES..][..LANES]);
        }
    }
}

/// Transforms up to [`TERMS`] terms from `first` of two blocks of columns from `block` into the blocked \[36, blocks,
/// terms, 16\] `out`.
#[inline(always)]
fn transform_filter_kernel<S: Simd, const OUT: usize>(
    s: S,
    filter: Filter,
    block: usize,
    first: usize,
    out: &mut [f32],
    next: (usize, usize),
) {
    let Filter { terms, columns, data, steps: [block_step, term_step, tap_step] } = filter;
    let (count, width) = (TERMS.min(terms - first), 2.min(columns.div_ceil(LANES) - block));
    let stride = plane(count, width);
    assert!(out.len() >= (OUT + 2) * (OUT + 2) * stride);
    for t in 0..count {
        filter.prefetch(s, next, t, TERMS + (OUT + 2) * (OUT + 2));
        for b in 0..width {
            let from = (block + b) * block_step + (first + t) * term_step;
            let used = LANES.min(columns - (block + b) * LANES);
            let mut taps = [[s.splat(0.0); 3]; 3];
            if used == LANES || filter.is_blocked() {
                assert!(from + 8 * tap_step + LANES <= data.len());
                for y in 0..3 {
                    for x in 0..3 {
                        // SAFETY: by the assertion, even the last tap is in bounds.
                        taps[x][y] = unsafe { s.load_at(data.as_ptr().add(from + (y * 3 + x) * tap_step)) };
                    }
                }
            } else {
                for y in 0..3 {
                    for x in 0..3 {
                        taps[x][y] = s.load_partial(&data[from + (y * 3 + x) * tap_step..][..used]);
                    }
                }
            }
            let mut half = [[s.splat(0.0); IN]; 3];
            for x in 0..3 {
                half[x] = filter_transform_1d::<S, OUT>(s, taps[x]);
            }
            let out = out.as_mut_ptr().wrapping_add((b * count + t) * LANES);
            for i in 0..OUT + 2 {
                let points = filter_transform_1d::<S, OUT>(s, [half[0][i], half[1][i], half[2][i]]);
                for j in 0..OUT + 2 {
                    // SAFETY: within `out` by the assertion.
                    unsafe { s.store_at(points[j], out.add((i * (OUT + 2) + j) * stride)) };
                }
            }
        }
    }
}

#[inline(always)]
fn transform_filter_any_tile<S: Simd>(s: S, tile: usize, filter: Filter, block: usize, first: usize, out: &mut [f32]) {
    match tile {
        2 => transform_filter_kernel::<S, 2>(s, filter, block, first, out, (filter.columns, filter.terms)),
        _ => transform_filter_kernel::<S, 4>(s, filter, block, first, out, (filter.columns, filter.terms)),
    }
}

/// Transforms the inputs of consecutive tiles into rows of the blocked \[36, channels/16, rows, 16\] `out`.
///
/// # Safety
/// Nothing else writes these rows of `out`. `source` points to images \[n, source_height, source_width, channels\], of
/// which all pixels that these tiles read exist.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn transform_inputs<S: Simd, const OUT: usize>(
    s: S,
    windows: &Windows,
    channels: usize,
    source: *const f32,
    tile: usize,
    rows: Rows,
    out: SharedSlice,
) {
    let blocks = channels.div_ceil(LANES);
    let stride = plane(rows.of, blocks);
    let out = out.pointer((OUT + 2) * (OUT + 2) * stride);
    let zero = s.splat(0.0);
    for row in rows.first..rows.first + rows.count {
        let (image, y, x) = windows.at(tile + row);
        let (y, x) = (y as isize - windows.top as isize, x as isize - windows.left as isize);
        let (height, width) = (windows.source_height as isize, windows.source_width as isize);
        let base = source.wrapping_offset(((image as isize * height + y) * width + x) * channels as isize);
        let inside = y >= 0 && x >= 0 && y + OUT as isize + 2 <= height && x + OUT as isize + 2 <= width;
        for block in 0..blocks {
            let used = LANES.min(channels - block * LANES);
            let mut half = [[zero; IN]; IN];
            for j in 0..OUT + 2 {
                let mut d = [zero; IN];
                for i in 0..OUT + 2 {
                    let pixel = base.wrapping_add((i * windows.source_width + j) * channels + block * LANES);
                    let here =
                        inside || (0..height).contains(&(y + i as isize)) && (0..width).contains(&(x + j as isize));
                    if here {
                        // SAFETY: the pixel lies within its image and has `used` channels from the first of this block.
                        d[i] = unsafe {
                            if used == LANES {
                                s.load_at(pixel)
                            } else {
                                s.load_partial(std::slice::from_raw_parts(pixel, used))
                            }
                        };
                    }
                }
                let points = input_transform_1d::<S, OUT>(s, d);
                for i in 0..OUT + 2 {
                    half[i][j] = points[i];
                }
            }
            for i in 0..OUT + 2 {
                let points = input_transform_1d::<S, OUT>(s, half[i]);
                for j in 0..OUT + 2 {
                    // SAFETY: within `out` by its length, and in the rows of this task.
                    unsafe {
                        s.store_at(points[j], out.add((i * (OUT + 2) + j) * stride + (block * rows.of + row) * LANES))
                    };
                }
            }
        }
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn convolve_kernel<S: Simd, const OUT: usize>(
    s: S,
    windows: &Windows,
    source: [&[f32]; 2],
    norm: Option<&Normalization>,
    filter: Filter,
    shared: &[f32],
    epilogue: Epilogue,
    part: Part,
    out: SharedSlice,
) {
    let Filter { terms, columns, .. } = filter;
    let points = (OUT + 2) * (OUT + 2);
    let Part { first, rows: tiles, block, blocks } = part;
    let input_len = plane(tiles, terms.div_ceil(LANES));
    let mut work = scratch::take(points * (input_len + plane(tiles, 2)) + TRANSFORMED);
    let (inputs, rest) = work.split_at_mut(points * input_len);
    let (products, own) = rest.split_at_mut(points * plane(tiles, 2));
    if shared.is_empty() {
        filter.prefetch(s, (block, 0), 0, 1);
    }
    assert!(source[0].len() + source[1].len() == windows.source_len(terms));
    let rows = Rows { first: 0, count: tiles, of: tiles };
    match norm {
        None => {
            assert!(source[1].is_empty(), "a second source requires a normalization");
            let source = source[0].as_ptr();
            // SAFETY: each task has its own work space, and the source is complete.
            unsafe { transform_inputs::<S, OUT>(s, windows, terms, source, first, rows, SharedSlice::new(inputs)) };
        }
        Some(norm) => {
            // Only the rows that the tiles read are normalized; the pointer is offset as if all rows were there.
            let read = windows.rows_read(first, tiles);
            let line = windows.source_width * terms;
            let mut normed = scratch::take(read.len() * line);
            let all = windows.n * windows.source_height;
            let [a, b] = [source[0].len() / all, source[1].len() / all];
            for (row, out) in read.clone().zip(normed.chunks_exact_mut(line)) {
                let parts = [&source[0][row * a..][..a], &source[1][row * b..][..b]];
                norm.apply_part(s, row / windows.source_height, parts, out);
            }
            let start = normed.as_ptr().wrapping_sub(read.start * line);
            // SAFETY: each task has its own work space, and all rows that its tiles read are there.
            unsafe { transform_inputs::<S, OUT>(s, windows, terms, start, first, rows, SharedSlice::new(inputs)) };
        }
    }
    for pair in (block..block + blocks).step_by(2) {
        let width = 2.min(block + blocks - pair);
        let stride = plane(tiles, width);
        for term in (0..terms).step_by(TERMS) {
            let count = TERMS.min(terms - term);
            let next = if term + TERMS < terms { (pair, term + TERMS) } else { (pair + 2, 0) };
            let transformed = if shared.is_empty() {
                transform_filter_kernel::<S, OUT>(s, filter, pair, term, own, next);
                &*own
            } else {
                &shared[(pair / 2 * terms.div_ceil(TERMS) + term / TERMS) * TRANSFORMED..][..TRANSFORMED]
            };
            for point in 0..points {
                if shared.is_empty() {
                    filter.prefetch(s, next, TERMS + point, TERMS + points);
                }
                let input = &inputs[point * input_len + term * tiles..];
                let filter = &transformed[point * plane(count, width)..];
                let product = &mut products[point * stride..][..stride];
                multiply(s, tiles, count, width * LANES, input, filter, product, term > 0);
            }
        }
        for b in 0..width {
            let column = (pair + b) * LANES;
            let used = LANES.min(columns - column);
            for t in 0..tiles {
                let product = products[(b * tiles + t) * LANES..].as_ptr();
                let mut half = [[s.splat(0.0); IN]; 4];
                for j in 0..OUT + 2 {
                    let mut m = [s.splat(0.0); IN];
                    for i in 0..OUT + 2 {
                        // SAFETY: `products` has this row and block for every point.
                        m[i] = unsafe { s.load_at(product.add((i * (OUT + 2) + j) * stride)) };
                    }
                    let outputs = output_transform_1d::<S, OUT>(s, m);
                    for i in 0..OUT {
                        half[i][j] = outputs[i];
                    }
                }
                let (image, y, x) = windows.at(first + t);
                for i in 0..OUT.min(windows.height - y) {
                    let outputs = output_transform_1d::<S, OUT>(s, half[i]);
                    let pixel = (image * windows.height + y + i) * windows.width + x;
                    for (j, output) in outputs.into_iter().enumerate().take(OUT.min(windows.width - x)) {
                        let output = epilogue.apply(s, output, image, pixel + j, column, used, columns);
                        // SAFETY: a task writes only the outputs of its own tiles and columns.
                        s.store_up_to(output, unsafe { out.part((pixel + j) * columns + column, used) });
                    }
                }
            }
        }
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn convolve_any_tile<S: Simd>(
    s: S,
    windows: &Windows,
    source: [&[f32]; 2],
    norm: Option<&Normalization>,
    filter: Filter,
    shared: &[f32],
    epilogue: Epilogue,
    part: Part,
    out: SharedSlice,
) {
    match windows.tile {
        2 => convolve_kernel::<S, 2>(s, windows, source, norm, filter, shared, epilogue, part, out),
        _ => convolve_kernel::<S, 4>(s, windows, source, norm, filter, shared, epilogue, part, out),
    }
}

/// Transforms the inputs and output gradients of the tiles from `tile` on into rows of `x` and `y`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn transform_kernel<S: Simd>(
    s: S,
    windows: &Windows,
    [terms, columns]: [usize; 2],
    source: &[f32],
    dy: &[f32],
    tile: usize,
    rows: Rows,
    x: SharedSlice,
    y: SharedSlice,
) {
    assert!(source.len() == windows.source_len(terms));
    // SAFETY: each task has its own rows, and the source is complete.
    unsafe { transform_inputs::<S, 4>(s, windows, terms, source.as_ptr(), tile, rows, x) };
    let blocks = columns.div_ceil(LANES);
    let stride = plane(rows.of, blocks);
    let zero = s.splat(0.0);
    for row in rows.first..rows.first + rows.count {
        let (image, top, left) = windows.at(tile + row);
        for block in 0..blocks {
            let column = block * LANES;
            let used = LANES.min(columns - column);
            let mut half = [[zero; 4]; IN];
            for j in 0..4.min(windows.width - left) {
                let mut outputs = [zero; 4];
                for (i, output) in outputs.iter_mut().enumerate().take(windows.height - top) {
                    let pixel = (image * windows.height + top + i) * windows.width + left + j;
                    *output = s.load_up_to(&dy[pixel * columns + column..][..used]);
                }
                let points = output_grad_transform_1d(s, outputs);
                for i in 0..IN {
                    half[i][j] = points[i];
                }
            }
            for i in 0..IN {
                let points = output_grad_transform_1d(s, half[i]);
                for j in 0..IN {
                    let at = (i * IN + j) * stride + (block * rows.of + row) * LANES;
                    // SAFETY: each task has its own rows.
                    s.store_up_to(points[j], unsafe { y.part(at, LANES) });
                }
            }
        }
    }
}

/// Adds the contribution of `tiles` transformed tiles to dw, for sixteen terms and up to 32 columns.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn grad_weight_kernel<S: Simd>(
    s: S,
    [terms, columns]: [usize; 2],
    tiles: usize,
    x: &[f32],
    y: &[f32],
    term_block: usize,
    block: usize,
    dw: SharedSlice,
) {
    let (term_blocks, blocks) = (terms.div_ceil(LANES), columns.div_ceil(LANES));
    let width = 2.min(blocks - block);
    let stride = width * LANES * LANES;
    let mut sums = scratch::take(POINTS * stride);
    sums.fill(0.0);
    for point in 0..POINTS {
        let x = &x[point * plane(tiles, term_blocks) + term_block * tiles * LANES..];
        let y = &y[point * plane(tiles, blocks) + block * tiles * LANES..];
        let sums = &mut sums[point * stride..][..stride];
        multiply_transposed(s, LANES, tiles, width * LANES, x, y, sums, LANES);
    }
    for b in 0..width {
        let column = (block + b) * LANES;
        let used = LANES.min(columns - column);
        for t in 0..LANES.min(terms - term_block * LANES) {
            let mut half = [[s.splat(0.0); IN]; 3];
            for j in 0..IN {
                let mut points = [s.splat(0.0); IN];
                for i in 0..IN {
                    points[i] = s.load_up_to(&sums[(i * IN + j) * stride + (b * LANES + t) * LANES..]);
                }
                let taps = filter_grad_transform_1d(s, points);
                for i in 0..3 {
                    half[i][j] = taps[i];
                }
            }
            for i in 0..3 {
                let taps = filter_grad_transform_1d(s, half[i]);
                for j in 0..3 {
                    let at = ((i * 3 + j) * terms + term_block * LANES + t) * columns + column;
                    // SAFETY: a task writes only its own terms and columns.
                    let to = unsafe { dw.part(at, used) };
                    s.store_up_to(s.add(s.load_up_to(to), taps[j]), to);
                }
            }
        }
    }
}
