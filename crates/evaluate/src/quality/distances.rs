//! All distances between two sets, tile by tile.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Par};
use files::without_limit;
use rayon::prelude::*;

use super::Features;

/// The height of a tile: vectors of the first set whose distances a thread keeps at once.
const ROWS: usize = 64;
/// The width of a tile: vectors of the second set that are multiplied at once.
const COLUMNS: usize = 512;

/// Calls `each` with the index of every vector of `a` and its squared distances to all vectors of `b`, and returns the
/// results in the order of `a`.
///
/// Distances are ‖x‖² + ‖y‖² − 2x·y in f64, clamped to at least 0. For a vector and its copy, that is at most 1e-15·‖x‖².
pub fn map_rows<T: Send>(a: &Features, b: &Features, each: impl Fn(usize, &mut [f64]) -> T + Sync) -> Vec<T> {
    let (of_a, of_b) = (squares(a), squares(b));
    let starts: Vec<usize> = (0..a.count()).step_by(ROWS).collect();
    let block = |&first: &usize| {
        let count = ROWS.min(a.count() - first);
        let left = a.columns(first, count);
        // A column for each vector of `a`, so that its distances are contiguous.
        let mut distances = Mat::<f64>::zeros(b.count(), count);
        for start in (0..b.count()).step_by(COLUMNS) {
            let width = COLUMNS.min(b.count() - start);
            let right = b.columns(start, width);
            let tile = distances.as_mut().subrows_mut(start, width);
            // Its buffers are as large as the processor's caches, and hardly used.
            without_limit(|| matmul(tile, Accum::Replace, right.transpose(), &left, -2.0, Par::Seq));
        }
        let mut row = vec![0.0; b.count()];
        let rows = distances.col_iter().zip(first..).map(|(products, i)| {
            for ((distance, product), square) in row.iter_mut().zip(products.iter()).zip(&of_b) {
                *distance = (of_a[i] + square + product).max(0.0);
            }
            each(i, &mut row)
        });
        rows.collect::<Vec<T>>()
    };
    starts.par_iter().flat_map_iter(block).collect()
}

fn squares(features: &Features) -> Vec<f64> {
    features.rows().map(|row| row.iter().map(|&x| f64::from(x) * f64::from(x)).sum()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quality::subset::tests::normals;

    #[test]
    fn distances_are_norms_of_differences() {
        let a = Features::new(normals(1, 130 * 3), 3).unwrap();
        let b = Features::new(normals(2, 1030 * 3), 3).unwrap();
        let all = map_rows(&a, &b, |i, row| (i, row.to_vec()));
        for ((a, (i, row)), expected) in a.rows().zip(all).zip(0..) {
            assert_eq!(i, expected);
            for (b, distance) in b.rows().zip(row) {
                let square = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).powi(2);
                assert!((a.iter().zip(b).map(square).sum::<f64>() - distance).abs() < 1e-12);
            }
        }
        assert!(map_rows(&a, &a, |i, row| row[i] < 1e-13).into_iter().all(|near| near));
    }
}
