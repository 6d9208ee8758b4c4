//! Measures nanoseconds per number: `cargo run --release -p ddpm-random --example speed`.

use ddpm_random::{Random, Stream};
use std::hint::black_box;
use std::time::Instant;

fn main() {
    let random = Random::new(1);
    let n = 3 * 64 * 64;
    let mut bits = vec![0u32; n];
    let mut floats = vec![1.0f32; n];
    let mut doubles = vec![0.0f64; n];
    time("bits", n, || random.bits(Stream::Noise, 0, 0, black_box(&mut bits)));
    time("uniforms", n, || random.uniforms(Stream::Noise, 0, 0, black_box(&mut floats)));
    time("uniforms_f64", n, || random.uniforms_f64(Stream::Noise, 0, 0, black_box(&mut doubles)));
    time("normals", n, || random.normals(Stream::Noise, 0, 0, black_box(&mut floats)));
    floats.fill(1.0);
    time("dropout", n, || random.dropout(Stream::Dropout, 0, 0, 0.1).apply(0, black_box(&mut floats)));
    time("shuffled", 1, || {
        black_box(random.shuffled(3, black_box(50_000), 7));
    });
}

/// Prints the time per element of the fastest of many runs.
fn time(name: &str, n: usize, mut run: impl FnMut()) {
    let best = (0..300)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..10 {
                run();
            }
            start.elapsed().as_secs_f64() / 10.0
        })
        .fold(f64::INFINITY, f64::min);
    println!("{name:14} {:7.2} ns", best * 1e9 / n as f64);
}
