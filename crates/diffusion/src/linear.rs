//! Small dense linear systems.

/// Solves A x = b, given the rows of \[A | b\], by Gaussian elimination with pivoting. Not finite if A is singular.
pub(crate) fn solve(mut rows: Vec<Vec<f64>>) -> Vec<f64> {
    let n = rows.len();
    for i in 0..n {
        let pivot = (i..n).max_by(|&a, &b| rows[a][i].abs().total_cmp(&rows[b][i].abs())).unwrap_or(i);
        rows.swap(i, pivot);
        let pivot = rows[i].clone();
        for row in rows.iter_mut().enumerate().filter(|&(j, _)| j != i).map(|(_, row)| row) {
            let factor = row[i] / pivot[i];
            row.iter_mut().zip(&pivot).for_each(|(cell, pivot)| *cell -= factor * pivot);
        }
    }
    (0..n).map(|i| rows[i][n] / rows[i][i]).collect()
}

/// Returns the lower triangular L of A = L Lᵀ, or `None` if A is not positive definite.
pub(crate) fn cholesky(matrix: &[Vec<f64>]) -> Option<Vec<Vec<f64>>> {
    let n = matrix.len();
    let mut lower = vec![vec![0.0; n]; n];
    for i in 0..n {
        for j in 0..=i {
            let rest = matrix[i][j] - (0..j).map(|k| lower[i][k] * lower[j][k]).sum::<f64>();
            lower[i][j] = match i == j {
                true if rest > 0.0 => rest.sqrt(),
                true => return None,
                false => rest / lower[j][j],
            };
        }
    }
    Some(lower)
}
