//! Random parts of sets.

use random::{Random, Stream};

/// Returns a random order of 0 … `count` − 1 by the Fisher–Yates shuffle. Orders of one seed differ by `step`.
pub fn permutation(seed: u64, step: u64, count: usize) -> Vec<usize> {
    let random = Random::new(seed);
    let mut order: Vec<usize> = (0..count).collect();
    for i in (1..count).rev() {
        let j = random.below(Stream::Subset, i as u64, step, i as u64 + 1);
        order.swap(i, j as usize);
    }
    order
}

/// Returns two disjoint random parts of a set, to compare real images with real images. The first has `samples` images, or
/// half of the set if that is less, the second all others.
pub fn floor_parts(seed: u64, count: usize, samples: usize) -> (Vec<usize>, Vec<usize>) {
    let mut first = permutation(seed, 2, count);
    let second = first.split_off(samples.min(count / 2));
    (first, second)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Standard normals to test with.
    pub fn normals(seed: u64, count: usize) -> Vec<f32> {
        let mut values = vec![0.0; count];
        Random::new(seed).normals(Stream::Evaluate, 0, 0, &mut values);
        values
    }

    #[test]
    fn orders_are_complete_and_differ() {
        let order = permutation(1, 0, 100);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
        assert_eq!(order, permutation(1, 0, 100));
        assert_ne!(order, permutation(1, 1, 100));
        assert_ne!(order, permutation(2, 0, 100));
        // Each place gets each element about equally often.
        let first: usize = (0..3000).map(|step| permutation(0, step, 3)[0]).sum();
        assert!((first as f64 / 3000.0 - 1.0).abs() < 0.06, "{first}");
        assert!(permutation(0, 0, 0).is_empty());
        let (first, second) = floor_parts(0, 11, 3);
        assert_eq!((first.len(), second.len()), (3, 8));
        assert!(first.iter().all(|i| !second.contains(i)));
        assert_eq!(floor_parts(0, 11, 9).0.len(), 5);
    }
}
