//! Tests that `Random::shuffled` is a bijection and uniform over permutations.

use ddpm_random::{Random, Stream};
use std::collections::{HashMap, HashSet};

#[test]
fn is_a_bijection() {
    let random = Random::new(11);
    for n in (1..700).chain([999, 1000, 1001, 1023, 1024, 1025, 1999, 2000, 60_000]) {
        let mut seen = vec![false; n as usize];
        for i in 0..n {
            let j = random.shuffled(2, n, i) as usize;
            assert!(!seen[j], "n = {n}: {j} occurs twice");
            seen[j] = true;
        }
    }
}

#[test]
fn large_sets_are_spread_over_the_whole_range() {
    let random = Random::new(12);
    for n in [1 << 32, (1 << 32) + 1, 10_u64.pow(12), u64::MAX - 1, u64::MAX] {
        let positions = (0..500).chain(n - 500..n);
        let images: HashSet<u64> = positions.map(|i| random.shuffled(0, n, i)).collect();
        assert_eq!(images.len(), 1000, "n = {n}");
        assert!(images.iter().all(|&j| j < n));
        // 1000 draws reach all ten tenths. If elements stayed near their positions, eight tenths would be empty.
        let tenths: HashSet<u64> = images.iter().map(|j| j / (n / 10 + 1)).collect();
        assert_eq!(tenths.len(), 10, "n = {n}");
    }
}

/// Over epochs, every permutation of a few elements is equally frequent: chi-square with n! − 1 degrees of freedom.
#[test]
fn permutations_are_uniform() {
    let random = Random::new(13);
    for (n, factorial) in [(2, 2), (3, 6), (4, 24), (5, 120)] {
        let epochs = 200 * factorial;
        let mut counts: HashMap<Vec<u64>, u32> = HashMap::new();
        for epoch in 0..epochs {
            *counts.entry((0..n).map(|i| random.shuffled(epoch, n, i)).collect()).or_default() += 1;
        }
        assert_eq!(counts.len() as u64, factorial, "n = {n}");
        let chi2: f64 = counts.values().map(|&c| (f64::from(c) - 200.0).powi(2) / 200.0).sum();
        let freedom = factorial as f64 - 1.0;
        assert!(chi2 < freedom + 3.5 * (2.0 * freedom).sqrt() + 5.0, "n = {n}: chi² = {chi2}");
    }
}

/// The table of positions and elements is uniform, and different epochs and seeds give different permutations.
#[test]
fn positions_are_uniform() {
    let n = 50;
    let epochs = 20_000;
    let random = Random::new(14);
    let mut counts = vec![0u32; (n * n) as usize];
    for epoch in 0..epochs {
        for i in 0..n {
            counts[(i * n + random.shuffled(epoch, n, i)) as usize] += 1;
        }
    }
    let expected = epochs as f64 / n as f64;
    let chi2: f64 = counts.iter().map(|&c| (f64::from(c) - expected).powi(2) / expected).sum();
    let freedom = ((n - 1) * (n - 1)) as f64;
    assert!((chi2 - freedom).abs() < 3.5 * (2.0 * freedom).sqrt(), "chi² = {chi2}, {freedom} degrees of freedom");

    let order = |seed, epoch| (0..1000).map(|i| Random::new(seed).shuffled(epoch, 1000, i)).collect::<Vec<_>>();
    let matches = |a: &[u64], b: &[u64]| a.iter().zip(b).filter(|(a, b)| a == b).count();
    assert!(matches(&order(1, 0), &order(1, 1)) < 8);
    assert!(matches(&order(1, 0), &order(2, 0)) < 8);
    assert!(matches(&order(1, 0), &(0..1000).collect::<Vec<_>>()) < 8);
}

#[test]
#[should_panic(expected = "position 10")]
fn position_out_of_range_panics() {
    Random::new(0).shuffled(0, 10, 10);
}

/// The shuffle draws from its own stream.
#[test]
fn uses_its_own_stream() {
    let n = 2; // a 2 × 1 domain: six additions of 0 or 1 from blocks 0, 2, 4, … of index 0
    let mut all = [0; 44];
    Random::new(5).bits(Stream::Shuffle, 0, 0, &mut all);
    let flips = (0..12).step_by(2).map(|round| u64::from(all[4 * round + 1] >> 31)).sum::<u64>();
    assert_eq!(Random::new(5).shuffled(0, n, 0), flips % 2);
}
