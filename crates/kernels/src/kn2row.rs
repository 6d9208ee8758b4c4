//! Convolutions of stride 1 to a few channels, such as the last one of a network ("kn2row").
//!
//! One matrix product [pixels, c_in]·[c_in, taps·c_out] applies all taps to the unshifted image; the results are then
//! shifted and added. Every input is read once, and vectors are full, whereas im2col would leave most lanes of three
//! output channels unused.

use crate::epilogue::Epilogue;
use crate::gemm::{blocked_len, multiply, pack};
use crate::im2col::{Im2col, outer};
use crate::parallel::{self, SharedSlice};
use crate::scratch;
use crate::simd::{LANES, Simd, dispatch};

/// Packs weights [taps, c_in, c_out] as a blocked [c_in, taps·c_out] matrix.
pub(crate) fn pack_filter(taps: usize, c_in: usize, c_out: usize, w: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    for tap in 0..taps {
        for i in 0..c_in {
            for o in 0..c_out {
                let column = tap * c_out + o;
                out[(column / LANES * c_in + i) * LANES + column % LANES] = w[(tap * c_in + i) * c_out + o];
            }
        }
    }
}

/// Packs weights [taps, c_out, c_in] like [`pack_filter`]: the filter of an input gradient.
pub(crate) fn pack_filter_transposed(taps: usize, c_in: usize, c_out: usize, w: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    for tap in 0..taps {
        for o in 0..c_out {
            for i in 0..c_in {
                let column = tap * c_out + o;
                out[(column / LANES * c_in + i) * LANES + column % LANES] = w[(tap * c_out + o) * c_in + i];
            }
        }
    }
}

/// Output rows per task. A task also computes the products of the neighboring rows that its taps reach.
const BAND: usize = 8;

/// Computes out [images, grid rows, grid columns, c_out] as the sum over taps, plus the epilogue.
pub(crate) fn convolve(patches: &Im2col, c_out: usize, filter: &[f32], epilogue: Epilogue, out: &mut [f32]) {
    let [images, height, _] = patches.grid;
    if out.is_empty() {
        return;
    }
    let bands = height.div_ceil(BAND);
    let out = SharedSlice::new(out);
    parallel::for_each(images * bands, |task| {
        convolve_band(patches, c_out, filter, epilogue, task / bands, task % bands * BAND, out)
    });
}

dispatch! {
    fn convolve_band(
        patches: &Im2col, c_out: usize, filter: &[f32], epilogue: Epilogue, image: usize, first: usize, out: SharedSlice,
    ) = convolve_kernel;
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn convolve_kernel<S: Simd>(
    s: S,
    patches: &Im2col,
    c_out: usize,
    filter: &[f32],
    epilogue: Epilogue,
    image: usize,
    first: usize,
    out: SharedSlice,
) {
    let [_, height, width] = patches.grid;
    let columns = patches.taps.len() * c_out;
    let count = BAND.min(height - first);
    // Source rows that the taps of this band reach.
    let reach = |at: usize, end: fn(isize, isize) -> isize| {
        patches
            .taps
            .iter()
            .map(|tap| tap.0)
            .reduce(end)
            .map_or(0, |dy| (at as isize + dy).clamp(0, patches.height as isize)) as usize
    };
    let (top, bottom) = (reach(first, isize::min), reach(first + count, isize::max));
    let rows = patches.width;
    let line = blocked_len(rows, columns);
    let mut work = scratch::take(blocked_len(rows, patches.channels) + (bottom.max(top) - top) * line);
    let (pixels, lines) = work.split_at_mut(blocked_len(rows, patches.channels));
    for (y, products) in (top..bottom).zip(lines.chunks_exact_mut(line.max(1))) {
        let source = &patches.source[(image * patches.height + y) * patches.width * patches.channels..];
        pack(s, rows, patches.channels, source, patches.channels, pixels);
        multiply(s, rows, patches.channels, columns, pixels, filter, products, false);
    }
    for y in first..first + count {
        for x in 0..width {
            let row = (image * height + y) * width + x;
            // c_out ≤ 64/taps, so the sums of a tap occupy few vectors; they are gathered one by one.
            let mut sums = [0.0f32; 64];
            for (tap, (dy, dx)) in patches.taps.iter().enumerate() {
                let (sy, sx) = (y as isize + dy, x as isize + dx);
                if sy < 0 || sy >= patches.height as isize || sx < 0 || sx >= patches.width as isize {
                    continue;
                }
                let products = &lines[(sy as usize - top) * line..][..line];
                for (o, sum) in sums[..c_out].iter_mut().enumerate() {
                    let column = tap * c_out + o;
                    *sum += products[(column / LANES * rows + sx as usize) * LANES + column % LANES];
                }
            }
            for (block, sums) in sums[..c_out].chunks(LANES).enumerate() {
                let column = block * LANES;
                let sum = epilogue.apply(s, s.load_up_to(sums), image, row, column, sums.len(), c_out);
                // SAFETY: a task writes only its own rows.
                s.store_up_to(sum, unsafe { out.part(row * c_out + column, sums.len()) });
            }
        }
    }
}

/// Computes the weight gradient dw [taps, c_in, c_out] of a convolution from its output gradient `dy`: each input pixel
/// times the output gradients under its taps.
pub(crate) fn grad_weight(patches: &Im2col, c_out: usize, dy: &[f32], dw: &mut [f32]) {
    let [images, height, width] = patches.grid;
    let columns = patches.taps.len() * c_out;
    let flipped: Vec<_> = patches.taps.iter().map(|(dy, dx)| (-dy, -dx)).collect();
    let grid = [images, patches.height, patches.width];
    let dy_columns = Im2col { source: dy, skip: &[], height, width, channels: c_out, grid, step: 1, taps: &flipped };
    let mut product = scratch::take(patches.channels * columns);
    outer(
        &Im2col::matrix(patches.source, images * patches.height * patches.width, patches.channels),
        &dy_columns,
        &mut product,
    );
    for (tap, dw) in dw.chunks_exact_mut((patches.channels * c_out).max(1)).enumerate() {
        for (i, dw) in dw.chunks_exact_mut(c_out).enumerate() {
            dw.copy_from_slice(&product[i * columns + tap * c_out..][..c_out]);
        }
    }
}
