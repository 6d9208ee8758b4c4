//! Tests of distributions and independence, and that a value depends on its address alone. The seeds are fixed, so the
//! tests are deterministic.

use ddpm_random::{Random, Stream};

const N: usize = 1 << 20;

fn normals(stream: Stream, index: u64, step: u64) -> Vec<f32> {
    let mut out = vec![0.0; N];
    Random::new(9).normals(stream, index, step, &mut out);
    out
}

/// Computes Φ(x) without the crate: by the series of erf near 0 and Laplace's continued fraction further out.
fn normal_cdf(x: f64) -> f64 {
    let density = (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt();
    if x.abs() < 3.0 {
        let (mut term, mut sum) = (x, x);
        for k in 1..80 {
            term *= x * x / f64::from(2 * k + 1);
            sum += term;
        }
        return 0.5 + density * sum;
    }
    let fraction = (1..60).rev().fold(x.abs(), |f, k| x.abs() + f64::from(k) / f);
    if x < 0.0 { density / fraction } else { 1.0 - density / fraction }
}

#[test]
fn normals_have_the_right_moments() {
    let x = normals(Stream::Noise, 0, 0);
    let moment = |k: i32| x.iter().map(|&x| f64::from(x).powi(k)).sum::<f64>() / N as f64;
    // The moments of N(0, 1) are 0, 1, 0, 3, 0, 15. The variance of the k-th sample moment is (m₂ₖ − mₖ²)/N.
    let moments = [1.0, 0.0, 1.0, 0.0, 3.0, 0.0, 15.0, 0.0, 105.0, 0.0, 945.0, 0.0, 10395.0];
    for k in 1..=6 {
        let sigma = ((moments[2 * k] - f64::powi(moments[k], 2)) / N as f64).sqrt();
        let error = moment(k as i32) - moments[k];
        assert!(error.abs() < 3.5 * sigma, "moment {k} is off by {} sigma", error / sigma);
    }
}

/// Kolmogorov–Smirnov test: P(√N D > 1.95) = 0.001.
#[test]
fn normals_follow_the_normal_distribution() {
    let mut x = normals(Stream::Noise, 1, 0);
    x.sort_by(f32::total_cmp);
    let distance = x
        .iter()
        .enumerate()
        .map(|(i, &x)| (normal_cdf(f64::from(x)) - (i as f64 + 0.5) / N as f64).abs() + 0.5 / N as f64)
        .fold(0.0, f64::max);
    assert!(distance * (N as f64).sqrt() < 1.95, "{}", distance * (N as f64).sqrt());

    // The Kolmogorov–Smirnov test is insensitive to the tails. The expected counts beyond 4 and 4.5 are 66.4 and 7.1.
    for (bound, expected) in [(4.0f32, 66.4), (4.5, 7.13)] {
        let beyond = x.iter().filter(|x| x.abs() > bound).count() as f64;
        assert!(
            (beyond - expected).abs() < 3.5 * f64::sqrt(expected),
            "{beyond} values beyond {bound}; expected {expected}"
        );
    }
}

/// The chi-square distribution with 255 degrees of freedom has mean 255 and standard deviation 22.6.
#[test]
fn uniforms_are_uniform() {
    let random = Random::new(3);
    let mut x = vec![0.0f32; N];
    random.uniforms(Stream::Flip, 0, 0, &mut x);
    let mut y = vec![0.0f64; N];
    random.uniforms_f64(Stream::Flip, 1, 0, &mut y);
    let below = (0..N as u64).map(|i| random.below(Stream::Timestep, i, 5, 256) as usize).collect::<Vec<_>>();
    let top = x.iter().map(|&x| (x * 256.0) as usize).collect();
    // The next eight bits, too.
    let middle = x.iter().map(|&x| (x * 65536.0) as usize % 256).collect();
    let double = y.iter().map(|&y| (y * 256.0) as usize).collect();
    for (name, cells) in [("top", top), ("middle", middle), ("double", double), ("below", below)] {
        let mut counts = [0u32; 256];
        for &cell in &cells {
            counts[cell] += 1;
        }
        let expected = N as f64 / 256.0;
        let chi2: f64 = counts.iter().map(|&c| (f64::from(c) - expected).powi(2) / expected).sum();
        assert!((170.0..345.0).contains(&chi2), "{name}: chi² = {chi2} with 255 degrees of freedom");
    }
    assert!(x.iter().all(|&x| (0.0..1.0).contains(&x)) && y.iter().all(|&y| (0.0..1.0).contains(&y)));
}

/// Draws with different addresses are uncorrelated: |correlation| < 3.5/√N.
#[test]
fn addresses_are_independent() {
    let base = normals(Stream::Noise, 5, 5);
    let mut other_seed = vec![0.0; N];
    Random::new(9 + (1 << 32)).normals(Stream::Noise, 5, 5, &mut other_seed);
    let others = [
        ("stream", normals(Stream::InitialNoise, 5, 5)),
        ("index", normals(Stream::Noise, 6, 5)),
        ("index above bit 32", normals(Stream::Noise, 5 + (1 << 40), 5)),
        ("step", normals(Stream::Noise, 5, 6)),
        ("seed", other_seed),
        ("neighbour", [&base[1..], &base[..1]].concat()),
        ("pair", [&base[2..], &base[..2]].concat()),
    ];
    for (name, other) in others {
        // Power 2 as well: the two normals of a Box–Muller pair share their radius.
        for power in [1, 2] {
            let dot: f64 = base
                .iter()
                .zip(&other)
                .map(|(&a, &b)| {
                    let centre = if power == 1 { 0.0 } else { 1.0 };
                    (f64::from(a).powi(power) - centre) * (f64::from(b).powi(power) - centre)
                })
                .sum();
            let sigma = f64::from(power) * (N as f64).sqrt(); // Var x² = 2, so the product of two squares has deviation 2.
            assert!(dot.abs() < 3.5 * sigma, "{name}, power {power}: {} sigma", dot / sigma);
        }
    }
}

/// A short draw is a prefix of a long one, for all lengths around the group of 64.
#[test]
fn short_draws_are_prefixes_of_long_ones() {
    let random = Random::new(77);
    let at = (Stream::Evaluate, 123_456_789_012, 7);
    let mut words = vec![0; 1000];
    let mut normals = vec![0.0; 1000];
    let mut uniforms = vec![0.0; 1000];
    let mut doubles = vec![0.0; 1000];
    random.bits(at.0, at.1, at.2, &mut words);
    random.normals(at.0, at.1, at.2, &mut normals);
    random.uniforms(at.0, at.1, at.2, &mut uniforms);
    random.uniforms_f64(at.0, at.1, at.2, &mut doubles);
    for n in (0..200).chain([999]) {
        let (mut w, mut x, mut u, mut d) = (vec![0; n], vec![0.0; n], vec![0.0; n], vec![0.0; n]);
        random.bits(at.0, at.1, at.2, &mut w);
        random.normals(at.0, at.1, at.2, &mut x);
        random.uniforms(at.0, at.1, at.2, &mut u);
        random.uniforms_f64(at.0, at.1, at.2, &mut d);
        assert_eq!(w, words[..n]);
        assert_eq!(x, normals[..n]);
        assert_eq!(u, uniforms[..n]);
        assert_eq!(d, doubles[..n]);
    }
}

#[test]
#[should_panic(expected = "48 bits")]
fn too_large_an_index_panics() {
    Random::new(0).uniform(Stream::Noise, 1 << 48, 0);
}

#[test]
#[should_panic(expected = "32 bits")]
fn too_large_a_step_panics() {
    Random::new(0).uniform(Stream::Noise, 0, 1 << 32);
}
