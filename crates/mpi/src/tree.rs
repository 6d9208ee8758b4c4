//! The fixed binary tree over which values are summed.
//!
//! A step of training has M parts, the leaves. A node splits at the largest power of two below its number of leaves, so
//! that the tree depends on M alone. Each process computes the sums of the largest subtrees that lie in its share of the
//! leaves; the sums of the nodes above are the same for any number of processes, to the bit.

use std::ops::Range;

/// Returns the leaves of a process: rank·leaves/size to (rank + 1)·leaves/size.
pub fn share(leaves: usize, rank: usize, size: usize) -> Range<usize> {
    rank * leaves / size..(rank + 1) * leaves / size
}

/// Splits a node of at least two leaves into its two children.
///
/// ```
/// assert_eq!(mpi::tree::children(0..7), (0..4, 4..7));
/// ```
pub fn children(node: Range<usize>) -> (Range<usize>, Range<usize>) {
    let middle = node.start + node.len().next_power_of_two() / 2;
    (node.start..middle, middle..node.end)
}

/// Returns the largest subtrees that cover a share of the leaves, in order.
pub fn subtrees(leaves: usize, share: &Range<usize>) -> Vec<Range<usize>> {
    fn cover(node: Range<usize>, share: &Range<usize>, covered: &mut Vec<Range<usize>>) {
        if node.end <= share.start || share.end <= node.start {
            return;
        }
        if share.start <= node.start && node.end <= share.end {
            return covered.push(node);
        }
        let (left, right) = children(node);
        cover(left, share, covered);
        cover(right, share, covered);
    }
    let mut covered = Vec::new();
    cover(0..leaves, share, &mut covered);
    covered
}

/// Returns the left siblings on the way from a node to its last leaf, the largest first, and that leaf. With s_i the sum over
/// the i-th, the node's sum is s_0 + (s_1 + (… + leaf)).
pub fn path_to_last(mut node: Range<usize>) -> (Vec<Range<usize>>, usize) {
    let mut lefts = Vec::new();
    while node.len() > 1 {
        let (left, right) = children(node);
        lefts.push(left);
        node = right;
    }
    (lefts, node.start)
}

/// Computes the value of a node from its leaves: `leaf(i)` for one leaf, `add(left, right)` for the others.
///
/// # Errors
/// Those of `leaf`.
pub fn reduce<T, E>(
    node: Range<usize>,
    leaf: &mut impl FnMut(usize) -> Result<T, E>,
    add: &mut impl FnMut(T, T) -> T,
) -> Result<T, E> {
    if node.len() == 1 {
        return leaf(node.start);
    }
    let (left, right) = children(node);
    let left = reduce(left, leaf, add)?;
    let right = reduce(right, leaf, add)?;
    Ok(add(left, right))
}

/// Adds the sums of subtrees, which together cover the leaves, up to the root. The result replaces `out`.
///
/// # Panics
/// If the subtrees do not cover the leaves.
pub fn sum(leaves: usize, subtrees: &[(Range<usize>, &[f32])], out: &mut [f32]) {
    fn add_up(node: Range<usize>, known: &[(Range<usize>, &[f32])], out: &mut [f32]) {
        if let Some((_, values)) = known.iter().find(|(range, _)| *range == node) {
            return out.copy_from_slice(values);
        }
        assert!(node.len() > 1, "leaf {} is missing", node.start);
        let (left, right) = children(node);
        add_up(left, known, out);
        // The right child is usually known, and needs no copy.
        if let Some((_, values)) = known.iter().find(|(range, _)| *range == right) {
            return add(out, values);
        }
        let mut sum = vec![0.0; out.len()];
        add_up(right, known, &mut sum);
        add(out, &sum);
    }
    fn add(out: &mut [f32], values: &[f32]) {
        out.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
    }
    add_up(0..leaves, subtrees, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values whose sum depends on the order.
    fn values(leaf: usize) -> Vec<f32> {
        (0..5).map(|i| ((leaf * 7919 + i * 104729) % 1000) as f32 * 10f32.powi((leaf * i % 7) as i32 - 3)).collect()
    }

    fn of_node(node: Range<usize>) -> Vec<f32> {
        let mut add = |a: Vec<f32>, b: Vec<f32>| a.iter().zip(&b).map(|(a, b)| a + b).collect();
        reduce(node, &mut |leaf| Ok::<_, ()>(values(leaf)), &mut add).unwrap()
    }

    #[test]
    fn every_number_of_processes_gives_the_same_bits() {
        let mut depends_on_order = false;
        for leaves in 1..40 {
            let expected = of_node(0..leaves);
            let straight =
                (1..leaves).fold(values(0), |sum, i| sum.iter().zip(values(i)).map(|(a, b)| a + b).collect());
            depends_on_order |= straight != expected;
            for size in 1..=leaves {
                let covered: Vec<_> = (0..size).flat_map(|rank| subtrees(leaves, &share(leaves, rank, size))).collect();
                let sums: Vec<_> = covered.iter().map(|node| of_node(node.clone())).collect();
                let known: Vec<_> = covered.iter().cloned().zip(sums.iter().map(Vec::as_slice)).collect();
                let mut found = vec![0.0; 5];
                sum(leaves, &known, &mut found);
                assert_eq!(found, expected, "{leaves} leaves on {size} processes");
            }
        }
        assert!(depends_on_order);
    }

    #[test]
    fn shares_cover_the_leaves_and_subtrees_are_as_large_as_possible() {
        assert_eq!([0, 1, 2].map(|rank| share(8, rank, 3)), [0..2, 2..5, 5..8]);
        assert_eq!(*subtrees(8, &(0..8)), [Range { start: 0, end: 8 }]);
        assert_eq!(subtrees(8, &(2..5)), [2..4, 4..5]);
        assert_eq!(subtrees(8, &(5..8)), [5..6, 6..8]);
        assert_eq!(*subtrees(7, &(4..7)), [Range { start: 4, end: 7 }]);
        assert_eq!(path_to_last(0..7), (vec![0..4, 4..6], 6));
        assert_eq!(path_to_last(4..5), (vec![], 4));
        assert_eq!(children(0..8), (0..4, 4..8));
        assert_eq!(children(4..7), (4..6, 6..7));
    }
}
