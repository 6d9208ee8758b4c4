//! Tests of dropout: its rate, its mean, and splitting a slice into chunks.

use ddpm_random::{DropoutMask, Random, Stream};

fn mask(p: f32) -> DropoutMask {
    Random::new(4).dropout(Stream::Dropout, 8, 9, p)
}

fn ones(n: usize, p: f32) -> Vec<f32> {
    let mut x = vec![1.0; n];
    mask(p).apply(0, &mut x);
    x
}

#[test]
fn rate_and_mean() {
    let n = 1 << 20;
    for p in [0.001, 0.1, 0.13, 0.5, 0.9, 0.999] {
        let x = ones(n, p);
        let dropped = x.iter().filter(|&&x| x == 0.0).count() as f64;
        // Dropout rounds p to the nearest 1/65536.
        let q = (f64::from(p) * 65536.0).round() / 65536.0;
        let sigma = (n as f64 * q * (1.0 - q)).sqrt();
        assert!((dropped - n as f64 * q).abs() < 3.5 * sigma, "p = {p}: {dropped} of {n} dropped");
        let factor = (1.0 / (1.0 - q)) as f32;
        assert!(x.iter().all(|&x| x == 0.0 || x == factor), "p = {p}");
    }
}

#[test]
fn probabilities_outside_0_to_1_are_clamped() {
    assert!(ones(1000, 0.0).iter().all(|&x| x == 1.0));
    assert!(ones(1000, -3.0).iter().all(|&x| x == 1.0));
    assert!(ones(1000, f32::NAN).iter().all(|&x| x == 1.0));
    assert!(ones(1000, 1.0).iter().all(|&x| x == 0.0));
    assert!(ones(1000, 7.0).iter().all(|&x| x == 0.0));
}

/// Chunks whose sizes are multiples of 8, processed in reverse order, give the same result as the whole slice.
#[test]
fn chunks_match_the_whole_slice() {
    let whole = ones(1003, 0.3);
    for size in [8, 16, 24, 120, 128, 136, 504] {
        let mut x = vec![1.0; 1003];
        for (i, chunk) in x.chunks_mut(size).enumerate().rev() {
            let first_block = (i * size / 8) as u32;
            mask(0.3).apply(first_block, chunk);
        }
        assert_eq!(x, whole, "chunks of {size}");
    }
}

/// The mask does not depend on the values, and NaN stays NaN.
#[test]
fn multiplies_by_a_mask() {
    let factors = ones(500, 0.4);
    let mut x: Vec<f32> = (0..500).map(|i| i as f32 - 250.0).collect();
    let expected: Vec<f32> = x.iter().zip(&factors).map(|(x, m)| x * m).collect();
    mask(0.4).apply(0, &mut x);
    assert_eq!(x, expected);
    let mut x = vec![f32::NAN; 500];
    mask(0.4).apply(0, &mut x);
    assert!(x.iter().all(|x| x.is_nan()));
}
