//! The law of a sampler's output against that of the data, by a Kolmogorov–Smirnov test of four thousand samples.

use ddpm_diffusion::oracle::Mixture;
use ddpm_diffusion::{BetaSchedule, NoiseSchedule, Prediction, SolverTable, Variance, solver, timesteps};
use random::{Random, Stream};

mod common;

const SAMPLES: usize = 4000;

fn data() -> Mixture {
    Mixture::univariate(&[(0.3, -1.0, 0.05), (0.5, 0.4, 0.02), (0.2, 1.5, 0.2)]).unwrap()
}

fn schedule() -> NoiseSchedule {
    NoiseSchedule::new(BetaSchedule::Linear, 1e-4, 0.02, 1000).unwrap()
}

/// Samples with the exact denoiser, from fixed noise.
fn samples(table: &SolverTable) -> Vec<f64> {
    let (data, schedule, random) = (data(), schedule(), Random::new(1));
    let normals = |stream, step: usize| {
        let mut z = vec![0.0; SAMPLES];
        random.normals(stream, 0, step as u64, &mut z);
        z.into_iter().map(f64::from).collect::<Vec<_>>()
    };
    let model = |x: &[f64], t: f64| {
        let alpha_cumprod = schedule.alpha_cumprod(t as usize);
        x.iter().map(|&x| data.sample(&[x], alpha_cumprod)[0]).collect()
    };
    let noise = |row: usize| normals(Stream::SamplerNoise, row);
    table.run(&normals(Stream::InitialNoise, 0), common::denoiser(Prediction::Sample, model), noise).unwrap()
}

/// The p-value of the Kolmogorov–Smirnov test that samples have the law of the data: Kolmogorov's
/// 2 Σ (−1)^{k−1} e^{−2k²λ²} with Stephens' λ = (√n + 0.12 + 0.11/√n) D.
fn p_value(mut samples: Vec<f64>) -> f64 {
    samples.sort_unstable_by(f64::total_cmp);
    let n = samples.len() as f64;
    let data = data();
    let gap = |(i, &x): (usize, &f64)| {
        let below = data.cdf(x, 1.0).unwrap().0;
        (below - i as f64 / n).abs().max(((i + 1) as f64 / n - below).abs())
    };
    let distance = samples.iter().enumerate().map(gap).fold(0.0, f64::max);
    let lambda = (n.sqrt() + 0.12 + 0.11 / n.sqrt()) * distance;
    let term = |k: i32| if k % 2 == 1 { 2.0 } else { -2.0 } * (-2.0 * f64::from(k * k) * lambda * lambda).exp();
    let p = (1..=100).map(term).sum::<f64>().clamp(0.0, 1.0);
    println!("D = {distance:.4}, p = {p:.2e}");
    p
}

/// If the laws are equal, p is below 0.01 for one seed in a hundred. If their distribution functions differ by 0.05
/// anywhere, p is almost certainly below 1e-4.
#[test]
fn ancestral_samples_have_the_law_of_the_data() {
    let table = solver::ddpm(&schedule(), &timesteps::all(1000), Variance::FixedSmall, None).unwrap();
    assert!(p_value(samples(&table)) > 0.01);
    // Twice the variance at every step.
    let mut wrong = table;
    wrong.rows.iter_mut().for_each(|row| row.noise *= 2f64.sqrt());
    assert!(p_value(samples(&wrong)) < 1e-6);
}

/// Two hundred steps of DDIM follow the flow, which maps noise to the law of the data; five do not.
#[test]
fn ddim_samples_have_the_law_of_the_data() {
    let table = |steps| {
        let timesteps = ddpm_diffusion::TimestepSpacing::Linspace.timesteps(1000, steps, 0).unwrap();
        solver::ddim(&schedule(), &timesteps, 0.0, None).unwrap()
    };
    assert!(p_value(samples(&table(200))) > 0.01);
    assert!(p_value(samples(&table(5))) < 1e-6);
}
