//! Convolution as a matrix product ("im2col"): a row of the left factor consists of the pixels under the kernel at one
//! output pixel.
//!
//! The left factor is packed one block at a time and never stored whole. It represents convolutions of any shape, their
//! gradients, and, with a single tap, plain matrices.

use crate::epilogue::Epilogue;
use crate::gemm::{Rows, blocked_len, multiply, multiply_transposed, pack_transposed};
use crate::parallel::{self, Part, Partition, SharedSlice};
use crate::scratch;
use crate::simd::{LANES, Simd, dispatch};

/// The left factor. Its row (image, y, x) of a grid concatenates, over the taps (dy, dx), the pixels at
/// (y·step + dy, x·step + dx) of the source [images, height, width, channels]; pixels outside are zero.
pub(crate) struct Im2col<'a> {
    pub source: &'a [f32],
    /// The last channels of the source, if they are not in `source`. Both numbers of channels are then multiples of 16.
    pub skip: &'a [f32],
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    /// Images, rows and columns of the grid.
    pub grid: [usize; 3],
    pub step: usize,
    /// (dy, dx) of every tap.
    pub taps: &'a [(isize, isize)],
}

impl<'a> Im2col<'a> {
    /// Wraps a row-major [rows, columns] matrix.
    pub(crate) fn matrix(source: &'a [f32], rows: usize, columns: usize) -> Self {
        let (skip, grid) = (&[][..], [1, 1, rows]);
        Im2col { source, skip, height: 1, width: rows, channels: columns, grid, step: 1, taps: &[(0, 0)] }
    }

    pub(crate) fn rows(&self) -> usize {
        self.grid.iter().product()
    }

    pub(crate) fn columns(&self) -> usize {
        self.taps.len() * self.channels
    }

    /// Packs the rows from `first` on into `rows` of the blocked `out`.
    ///
    /// # Safety
    /// No other reference to these rows of `out` is in use.
    #[inline(always)]
    unsafe fn pack<S: Simd>(&self, s: S, first: usize, rows: Rows, out: SharedSlice) {
        let [_, grid_h, grid_w] = self.grid;
        let (mut x, mut y, mut image) = (first % grid_w, first / grid_w % grid_h, first / grid_w / grid_h);
        for row in rows.first..rows.first + rows.count {
            if self.channels.is_multiple_of(LANES) {
                let mut at = row * LANES;
                let [first, second] = self.split_channels();
                for &tap in self.taps {
                    let index = self.pixel_index(image, y, x, tap);
                    for block in 0..self.channels / LANES {
                        let from = block * LANES;
                        let v = match index {
                            Some(index) if from < first => s.load_up_to(&self.source[index * first + from..][..LANES]),
                            Some(index) => s.load_up_to(&self.skip[index * second + from - first..][..LANES]),
                            None => s.splat(0.0),
                        };
                        // SAFETY: guaranteed by the caller.
                        s.store_up_to(v, unsafe { out.part(at, LANES) });
                        at += rows.of * LANES;
                    }
                }
            } else {
                // SAFETY: guaranteed by the caller.
                unsafe { self.pack_odd_row(image, y, x, row, rows.of, out) };
            }
            x += 1;
            if x == grid_w {
                (x, y) = (0, y + 1);
                if y == grid_h {
                    (y, image) = (0, image + 1);
                }
            }
        }
    }

    /// Packs one row if the channels are not a multiple of 16, so that vectors straddle pixels.
    ///
    /// # Safety
    /// As for [`Im2col::pack`].
    #[inline(always)]
    unsafe fn pack_odd_row(&self, image: usize, y: usize, x: usize, row: usize, of: usize, out: SharedSlice) {
        let (mut line, mut filled, mut at) = ([0.0f32; LANES], 0, row * LANES);
        for &tap in self.taps {
            let pixel = self.pixel(image, y, x, tap);
            for channel in 0..self.channels {
                line[filled] = pixel.map_or(0.0, |pixel| pixel[channel]);
                filled += 1;
                if filled == LANES {
                    // SAFETY: guaranteed by the caller.
                    unsafe { out.part(at, LANES) }.copy_from_slice(&line);
                    at += of * LANES;
                    filled = 0;
                }
            }
        }
        if filled > 0 {
            line[filled..].fill(0.0);
            // SAFETY: guaranteed by the caller.
            unsafe { out.part(at, LANES) }.copy_from_slice(&line);
        }
    }

    /// Returns the numbers of channels in `source` and in `skip`.
    #[inline(always)]
    fn split_channels(&self) -> [usize; 2] {
        let second = if self.skip.is_empty() {
            0
        } else {
            self.channels * self.skip.len() / (self.source.len() + self.skip.len())
        };
        [self.channels - second, second]
    }

    /// Returns the index of the source pixel for a tap of row (image, y, x), or `None` outside the image.
    #[inline(always)]
    fn pixel_index(&self, image: usize, y: usize, x: usize, (dy, dx): (isize, isize)) -> Option<usize> {
        let y = (y * self.step).wrapping_add_signed(dy);
        let x = (x * self.step).wrapping_add_signed(dx);
        (y < self.height && x < self.width).then(|| (image * self.height + y) * self.width + x)
    }

    /// Returns the source pixel for a tap of row (image, y, x), if all channels are in `source`.
    #[inline(always)]
    fn pixel(&self, image: usize, y: usize, x: usize, tap: (isize, isize)) -> Option<&'a [f32]> {
        self.pixel_index(image, y, x, tap).map(|index| &self.source[index * self.channels..][..self.channels])
    }
}

/// Maps row (image, y, x) of the grid to output pixel (y·step + y0, x·step + x0), where (y0, x0) is the origin.
#[derive(Clone, Copy)]
pub(crate) struct OutputGrid {
    pub height: usize,
    pub width: usize,
    pub step: usize,
    pub origin: (usize, usize),
}

/// Computes out = patches·weights + epilogue, where `weights` is a blocked [patch columns, `columns`] matrix.
pub(crate) fn product(
    patches: &Im2col,
    weights: &[f32],
    columns: usize,
    output: OutputGrid,
    epilogue: Epilogue,
    out: &mut [f32],
) {
    let (rows, terms) = (patches.rows(), patches.columns());
    let blocks = columns.div_ceil(LANES);
    if rows == 0 || columns == 0 {
        return;
    }
    // The partition does not affect the sums. It keeps a task's rows in the L2 cache and all threads busy.
    let max_rows = (64 * 1024 / terms.max(1)).clamp(14, 112);
    let partition = Partition::new(rows, 28, max_rows, blocks);
    let out = SharedSlice::new(out);
    parallel::for_each(partition.tasks(), |task| {
        product_part(patches, weights, columns, output, epilogue, partition.part(task), out);
    });
}

dispatch! {
    fn product_part(
        patches: &Im2col, weights: &[f32], columns: usize, output: OutputGrid, epilogue: Epilogue, part: Part, out: SharedSlice,
    ) = product_part_kernel;
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn product_part_kernel<S: Simd>(
    s: S,
    patches: &Im2col,
    weights: &[f32],
    columns: usize,
    output: OutputGrid,
    epilogue: Epilogue,
    part: Part,
    out: SharedSlice,
) {
    let Part { first, rows, block, blocks } = part;
    let terms = patches.columns();
    let (a_len, c_len) = (blocked_len(rows, terms), rows * blocks * LANES);
    let mut work = scratch::take(a_len + c_len);
    let work = &mut *work;
    let (a, c) = work.split_at_mut(a_len);
    // SAFETY: each task has its own work space.
    unsafe { patches.pack(s, first, Rows { first: 0, count: rows, of: rows }, SharedSlice::new(&mut *a)) };
    multiply(s, rows, terms, blocks * LANES, a, &weights[block * terms * LANES..], c, false);
    let [_, grid_h, grid_w] = patches.grid;
    for r in 0..rows {
        let (x, y, image) = ((first + r) % grid_w, (first + r) / grid_w % grid_h, (first + r) / grid_w / grid_h);
        let row = (image * output.height + y * output.step + output.origin.0) * output.width
            + x * output.step
            + output.origin.1;
        for b in 0..blocks {
            let column = (block + b) * LANES;
            let used = LANES.min(columns - column);
            let sum = s.load_up_to(&c[(b * rows + r) * LANES..]);
            let sum = epilogue.apply(s, sum, image, row, column, used, columns);
            // SAFETY: a task writes only the rows and columns of its part.
            let to = unsafe { out.part(row * columns + column, used) };
            s.store_up_to(sum, to);
        }
    }
}

/// Rows that an outer product sums before it adds the sum to the total. Fixed, since it affects the bits.
const OUTER_ROWS: usize = 256;

/// Computes out [left columns, right columns] = leftᵀ·right for two factors with the same rows.
pub(crate) fn outer(left: &Im2col, right: &Im2col, out: &mut [f32]) {
    let (rows, terms, columns) = (left.rows(), left.columns(), right.columns());
    assert_eq!(rows, right.rows());
    let (blocks, term_blocks) = (columns.div_ceil(LANES), terms.div_ceil(LANES));
    if columns == 0 || terms == 0 {
        return;
    }
    out.fill(0.0);
    // Pack as many chunks of both factors as the L3 cache holds, then multiply them.
    const BYTES: usize = 6 << 20;
    let (a_chunk, b_chunk) = (OUTER_ROWS * term_blocks * LANES, OUTER_ROWS * blocks * LANES);
    let step = (BYTES / 4 / (a_chunk + b_chunk)).max(1).min(rows.div_ceil(OUTER_ROWS));
    let mut work = scratch::take(step * (a_chunk + b_chunk));
    let (a, b) = work.split_at_mut(step * a_chunk);
    for start in (0..rows).step_by(OUTER_ROWS * step.max(1)) {
        let span = (OUTER_ROWS * step).min(rows - start);
        // A piece lies within one chunk.
        const PIECE: usize = OUTER_ROWS / 8;
        let (to_a, to_b) = (SharedSlice::new(&mut *a), SharedSlice::new(&mut *b));
        parallel::for_each(span.div_ceil(PIECE), |piece| {
            let first = piece * PIECE;
            let (chunk, in_chunk) = (first / OUTER_ROWS, first % OUTER_ROWS);
            let of = OUTER_ROWS.min(span - chunk * OUTER_ROWS);
            let piece = Rows { first: in_chunk, count: PIECE.min(span - first), of };
            let (a, b) = (to_a.tail(chunk * a_chunk), to_b.tail(chunk * b_chunk));
            pack_factors(left, right, start + first, piece, a, b);
        });
        let tasks = 4 * parallel::threads();
        let rows_per_task = if term_blocks >= 2 * tasks { 2 } else { 1 };
        let column_tasks = (tasks / term_blocks.div_ceil(rows_per_task)).clamp(1, blocks.div_ceil(2));
        let blocks_per_task = blocks.div_ceil(column_tasks).next_multiple_of(2);
        let partition = Partition { rows: term_blocks, rows_per_task, blocks, blocks_per_task };
        let (a, b, out) = (&*a, &*b, SharedSlice::new(&mut *out));
        parallel::for_each(partition.tasks(), |task| {
            outer_part(a, b, span, [terms, columns], partition.part(task), out);
        });
    }
}

dispatch! {
    fn pack_square(rows: usize, columns: usize, weights: &[f32], out: &mut [f32]) = pack_square_kernel;
    fn pack_factors(left: &Im2col, right: &Im2col, first: usize, rows: Rows, a: SharedSlice, b: SharedSlice)
        = pack_factors_kernel;
    fn outer_part(a: &[f32], b: &[f32], rows: usize, size: [usize; 2], part: Part, out: SharedSlice) = outer_part_kernel;
}

#[inline(always)]
fn pack_factors_kernel<S: Simd>(
    s: S,
    left: &Im2col,
    right: &Im2col,
    first: usize,
    rows: Rows,
    a: SharedSlice,
    b: SharedSlice,
) {
    // SAFETY: each task has its own rows.
    unsafe {
        left.pack(s, first, rows, a);
        right.pack(s, first, rows, b);
    }
}

#[inline(always)]
fn pack_square_kernel<S: Simd>(s: S, rows: usize, columns: usize, weights: &[f32], out: &mut [f32]) {
    pack_transposed(s, rows, columns, weights, rows, out);
}

/// Computes one part of an outer product. The rows of the part are blocks of columns of the left factor.
#[inline(always)]
fn outer_part_kernel<S: Simd>(
    s: S,
    a: &[f32],
    b: &[f32],
    rows: usize,
    [terms, columns]: [usize; 2],
    part: Part,
    out: SharedSlice,
) {
    let Part { first, rows: height, block, blocks } = part;
    let (a_width, b_width) = (terms.next_multiple_of(LANES), columns.next_multiple_of(LANES));
    let height = height * LANES;
    let mut c = scratch::take(height * blocks * LANES);
    c.fill(0.0);
    for start in (0..rows).step_by(OUTER_ROWS) {
        let count = OUTER_ROWS.min(rows - start);
        let a = &a[start * a_width + first * count * LANES..];
        let b = &b[start * b_width + block * count * LANES..];
        multiply_transposed(s, height, count, blocks * LANES, a, b, &mut c, height);
    }
    for r in 0..height.min(terms - first * LANES) {
        for b in 0..blocks {
            let column = (block + b) * LANES;
            let used = LANES.min(columns - column);
            // SAFETY: a task writes only the rows and columns of its part.
            let to = unsafe { out.part((first * LANES + r) * columns + column, used) };
            s.store_up_to(s.add(s.load_up_to(to), s.load_up_to(&c[(b * height + r) * LANES..][..used])), to);
        }
    }
}

/// Packs the row-major [rows, columns] weights as a blocked matrix.
pub(crate) fn pack_weights(rows: usize, columns: usize, weights: &[f32], out: &mut [f32]) {
    let out = SharedSlice::new(out);
    parallel::for_each(columns.div_ceil(LANES), |block| {
        // SAFETY: blocks do not overlap.
        let to = unsafe { out.part(block * rows * LANES, rows * LANES) };
        let used = LANES.min(columns - block * LANES);
        for (row, line) in to.chunks_exact_mut(LANES).enumerate() {
            line[..used].copy_from_slice(&weights[row * columns + block * LANES..][..used]);
            line[used..].fill(0.0);
        }
    });
}

/// Packs several [columns, rows] matrices, row-major and starting at `matrices`, as one blocked [matrices·rows,
/// columns] matrix.
pub(crate) fn pack_weights_transposed(
    matrices: &[usize],
    rows: usize,
    columns: usize,
    weights: &[f32],
    out: &mut [f32],
) {
    let out = SharedSlice::new(out);
    let all = matrices.len() * rows;
    parallel::for_each(columns.div_ceil(LANES), |block| {
        // SAFETY: blocks do not overlap.
        let to = unsafe { out.part(block * all * LANES, all * LANES) };
        let used = LANES.min(columns - block * LANES);
        for (&start, to) in matrices.iter().zip(to.chunks_exact_mut((rows * LANES).max(1))) {
            pack_square(rows, used, &weights[start + block * LANES * rows..], to);
        }
    });
}
