//! Matrix products of blocked operands: the inner loop of convolutions, linear layers and attention.
//!
//! A matrix [rows, columns] is *blocked* if it is stored as [columns/16, rows, 16]: columns in groups of sixteen, the
//! last group padded with zeros. Column vectors and row broadcasts then have constant strides, and packing copies whole
//! cache lines. Each element of a product is a chain of multiply-adds over k in ascending order, for any tile size. It
//! therefore depends on its row and column only, not on threads or on the number of other rows.

// Indices keep the tiles in registers: see `tile`.
#![allow(clippy::needless_range_loop)]

use crate::simd::{LANES, Simd};

/// Returns the number of floats of a blocked [rows, columns] matrix.
pub(crate) fn blocked_len(rows: usize, columns: usize) -> usize {
    rows * columns.next_multiple_of(LANES)
}

/// Rows `first .. first + count` of a blocked matrix whose blocks have `of` rows.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    pub first: usize,
    pub count: usize,
    pub of: usize,
}

/// Copies one row-major row `source` to row `row` of the blocked `out`, whose blocks have `block_rows` rows.
#[inline(always)]
fn pack_row<S: Simd>(s: S, source: &[f32], out: &mut [f32], block_rows: usize, row: usize) {
    for (block, vector) in source.chunks(LANES).enumerate() {
        s.store_up_to(s.load_up_to(vector), &mut out[(block * block_rows + row) * LANES..][..LANES]);
    }
}

/// Packs the row-major [rows, columns] `source`, whose rows are `stride` apart, into the blocked `out`.
#[inline(always)]
pub(crate) fn pack<S: Simd>(s: S, rows: usize, columns: usize, source: &[f32], stride: usize, out: &mut [f32]) {
    for r in 0..rows {
        pack_row(s, &source[r * stride..][..columns], out, rows, r);
    }
}

/// Packs the transpose of the row-major [columns, rows] `source`, whose rows are `stride` apart, as a blocked
/// [rows, columns] matrix of at most sixteen columns.
#[inline(always)]
pub(crate) fn pack_transposed<S: Simd>(
    s: S,
    rows: usize,
    columns: usize,
    source: &[f32],
    stride: usize,
    out: &mut [f32],
) {
    for (r, lines) in out[..rows * LANES].chunks_mut(LANES * LANES).enumerate() {
        let count = lines.len() / LANES;
        let mut square = [s.splat(0.0); LANES];
        for j in 0..columns {
            square[j] = s.load_up_to(&source[j * stride + r * LANES..][..count]);
        }
        let square = s.transpose(square);
        for i in 0..count {
            s.store_up_to(square[i], &mut lines[i * LANES..][..LANES]);
        }
    }
}

/// The strides of the left factor in floats, from row to row and from term to term.
struct Steps<const ROW: usize, const TERM: usize>;

/// Computes `ROWS` rows by `VECTORS`·16 columns of a product in registers, summed over `terms` terms in order.
///
/// # Safety
/// `a` is valid at `row·ROW + (term % 16)·TERM + (term / 16)·a_block`, and `b` at `vector·b_block + term·16 ..+16`, for
/// every row, term and vector of the tile.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn tile<S: Simd, const ROWS: usize, const VECTORS: usize, const ROW: usize, const TERM: usize>(
    s: S,
    _: Steps<ROW, TERM>,
    terms: usize,
    mut a: *const f32,
    a_block: usize,
    mut b: *const f32,
    b_block: usize,
    mut sums: [[S::V; VECTORS]; ROWS],
) -> [[S::V; VECTORS]; ROWS] {
    // Plain loops over constant bounds: with closures and iterators the compiler spills the vectors to memory.
    macro_rules! term {
        ($k:expr) => {{
            // SAFETY: guaranteed by the caller.
            unsafe {
                let mut columns = [s.splat(0.0); VECTORS];
                for v in 0..VECTORS {
                    columns[v] = s.load_at(b.add(v * b_block + $k * LANES));
                }
                for r in 0..ROWS {
                    let factor = s.splat(*a.add(r * ROW + $k * TERM));
                    for v in 0..VECTORS {
                        sums[r][v] = s.fma(factor, columns[v], sums[r][v]);
                    }
                }
            }
        }};
    }
    for _ in 0..terms / LANES {
        for k in 0..LANES {
            term!(k);
        }
        // SAFETY: the pointers stay within the operands or one past their ends.
        unsafe {
            a = a.add(a_block);
            b = b.add(LANES * LANES);
        }
    }
    for k in 0..terms % LANES {
        term!(k);
    }
    sums
}

/// Evaluates `$body` with the constant `$rows` equal to the number `$count`, which is at most 14.
macro_rules! with_rows {
    ($count:expr, $rows:ident => $body:expr) => {
        with_rows!(@ $count, $rows, $body, 1 2 3 4 5 6 7 8 9 10 11 12 13 14)
    };
    (@ $count:expr, $rows:ident, $body:expr, $($n:literal)*) => {
        match $count {
            $($n => { const $rows: usize = $n; $body })*
            _ => unreachable!("a tile has 1 to 14 rows"),
        }
    };
}

/// Splits `rows` evenly into the fewest tiles of at most `most` rows; yields (first row, number of rows).
#[inline(always)]
fn tiles(rows: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = rows.div_ceil(most);
    let (least, longer) = (rows / count.max(1), rows % count.max(1));
    (0..count).map(move |i| (i * least + i.min(longer), least + usize::from(i < longer)))
}

/// Computes c = a·b, or c += a·b if `accumulate`.
///
/// a is a blocked [rows, terms] matrix, b a blocked [terms, columns] matrix whose blocks have `terms` rows, c a blocked
/// [rows, columns] matrix. Several calls over consecutive terms, all but the first with `accumulate`, give the same
/// bits as one call.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(crate) fn multiply<S: Simd>(
    s: S,
    rows: usize,
    terms: usize,
    columns: usize,
    a: &[f32],
    b: &[f32],
    c: &mut [f32],
    accumulate: bool,
) {
    let blocks = columns.div_ceil(LANES);
    assert!(a.len() >= blocked_len(rows, terms));
    assert!(b.len() >= terms * blocks * LANES && c.len() >= rows * blocks * LANES);
    let mut block = 0;
    while block < blocks {
        let pair = S::TILE_VECTORS == 2 && block + 1 < blocks;
        for (row, count) in tiles(rows, S::TILE_ROWS) {
            // SAFETY: the tile lies within the operands, whose lengths were checked above.
            unsafe {
                let a = a.as_ptr().add(row * LANES);
                let b = b.as_ptr().add(block * terms * LANES);
                let c = c.as_mut_ptr().add((block * rows + row) * LANES);
                with_rows!(count, R => if R <= S::TILE_ROWS {
                    if pair {
                        multiply_tile::<S, R, 2>(s, rows, terms, a, b, c, accumulate)
                    } else {
                        multiply_tile::<S, R, 1>(s, rows, terms, a, b, c, accumulate)
                    }
                });
            }
        }
        block += if pair { 2 } else { 1 };
    }
}

/// # Safety
/// As for [`multiply`], for a tile of `ROWS` rows and `VECTORS` blocks from `a`, `b` and `c`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn multiply_tile<S: Simd, const ROWS: usize, const VECTORS: usize>(
    s: S,
    rows: usize,
    terms: usize,
    a: *const f32,
    b: *const f32,
    c: *mut f32,
    accumulate: bool,
) {
    let mut sums = [[s.splat(0.0); VECTORS]; ROWS];
    // SAFETY: guaranteed by the caller.
    unsafe {
        if accumulate {
            for r in 0..ROWS {
                for v in 0..VECTORS {
                    sums[r][v] = s.load_at(c.add((v * rows + r) * LANES));
                }
            }
        }
        let sums = tile(s, Steps::<LANES, 1>, terms, a, rows * LANES, b, terms * LANES, sums);
        for r in 0..ROWS {
            for v in 0..VECTORS {
                s.store_at(sums[r][v], c.add((v * rows + r) * LANES));
            }
        }
    }
}

/// Computes c += aᵀ·b, the product of a weight gradient.
///
/// a is a blocked [terms, rows] matrix, b a blocked [terms, columns] matrix, c a blocked [rows, columns] matrix whose
/// blocks have `c_rows` ≥ `rows` rows; `rows` is a multiple of 16. The product is summed before it is added to c, since
/// long sums lose fewer digits in chunks than in one chain.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(crate) fn multiply_transposed<S: Simd>(
    s: S,
    rows: usize,
    terms: usize,
    columns: usize,
    a: &[f32],
    b: &[f32],
    c: &mut [f32],
    c_rows: usize,
) {
    let blocks = columns.div_ceil(LANES);
    assert!(rows.is_multiple_of(LANES) && a.len() >= rows * terms && b.len() >= terms * blocks * LANES);
    assert!(rows == 0 || blocks == 0 || c.len() >= ((blocks - 1) * c_rows + rows) * LANES);
    // Tiles divide a block of rows: 8 rows by 2 vectors saturate AVX-512, 4 rows by 1 vector AVX2.
    let step = if S::TILE_VECTORS == 2 { 8 } else { 4 };
    let mut block = 0;
    while block < blocks {
        let pair = S::TILE_VECTORS == 2 && block + 1 < blocks;
        for row in (0..rows).step_by(step) {
            // SAFETY: the tile lies within the operands, whose lengths were checked above.
            unsafe {
                let a = a.as_ptr().add(row / LANES * terms * LANES + row % LANES);
                let b = b.as_ptr().add(block * terms * LANES);
                let c = c.as_mut_ptr().add((block * c_rows + row) * LANES);
                if pair {
                    add_outer::<S, 8, 2>(s, terms, a, b, c, c_rows);
                } else if S::TILE_VECTORS == 2 {
                    add_outer::<S, 8, 1>(s, terms, a, b, c, c_rows);
                } else {
                    add_outer::<S, 4, 1>(s, terms, a, b, c, c_rows);
                }
            }
        }
        block += if pair { 2 } else { 1 };
    }
}

/// # Safety
/// As for [`multiply_transposed`], for a tile of `ROWS` rows and `VECTORS` blocks from `a`, `b` and `c`.
#[inline(always)]
unsafe fn add_outer<S: Simd, const ROWS: usize, const VECTORS: usize>(
    s: S,
    terms: usize,
    a: *const f32,
    b: *const f32,
    c: *mut f32,
    c_rows: usize,
) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let zero = [[s.splat(0.0); VECTORS]; ROWS];
        let sums = tile(s, Steps::<1, LANES>, terms, a, LANES * LANES, b, terms * LANES, zero);
        for r in 0..ROWS {
            for v in 0..VECTORS {
                let c = c.add((v * c_rows + r) * LANES);
                s.store_at(s.add(s.load_at(c), sums[r][v]), c);
            }
        }
    }
}
