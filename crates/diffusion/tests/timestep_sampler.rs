//! Samplers of training timesteps: exact coverage, unbiased weights, serialized state.

use ddpm_diffusion::timestep_sampler::{LossSecondMoment, TimestepDistribution, low_discrepancy, uniform};
use ddpm_diffusion::{BetaSchedule, NoiseSchedule};

const STEPS: usize = 8;

#[test]
fn uniform_reaches_every_timestep_equally() {
    let mut counts = [0; 10];
    (0..1000).for_each(|i| counts[uniform((f64::from(i) + 0.5) / 1000.0, 10)] += 1);
    assert_eq!(counts, [100; 10]);
    assert_eq!((uniform(0.0, 1000), uniform(1.0 - f64::EPSILON / 2.0, 1000)), (0, 999));
    assert_eq!(uniform(0.9999999999999999, 3), 2);
}

#[test]
fn low_discrepancy_covers_the_chain_once() {
    for u0 in [0.0, 0.123, 0.5, 0.99999] {
        let mut ts: Vec<usize> = (0..STEPS).map(|i| low_discrepancy(u0, i, STEPS, STEPS)).collect();
        // Each stratum has exactly one timestep, whatever the rounding.
        ts.sort_unstable();
        assert_eq!(ts, (0..STEPS).collect::<Vec<_>>(), "{u0}");
    }
    // Each image alone is uniform.
    let mut counts = [0; 5];
    (0..500).for_each(|i| counts[low_discrepancy((f64::from(i) + 0.5) / 500.0, 3, 7, 5)] += 1);
    assert!(counts.iter().all(|count| (99..=101).contains(count)), "{counts:?}");
    assert_eq!(low_discrepancy(0.25, 1, 2, 100), 75);
    assert_eq!(low_discrepancy(0.75, 1, 2, 100), 25);
}

fn loss(t: usize, n: usize) -> f64 {
    1.0 / (1.0 + t as f64) + 0.01 * n as f64
}

fn warm() -> LossSecondMoment {
    let mut sampler = LossSecondMoment::new(STEPS).unwrap();
    for n in 0..10 {
        (0..STEPS).for_each(|t| sampler.update(t, loss(t, n)).unwrap());
    }
    sampler
}

#[test]
fn uniform_until_every_history_is_full() {
    let mut sampler = LossSecondMoment::new(STEPS).unwrap();
    for n in 0..10 {
        for t in 0..STEPS {
            assert!(!sampler.is_warmed_up());
            assert_eq!(sampler.distribution().probabilities(), [1.0 / STEPS as f64; STEPS]);
            sampler.update(t, loss(t, n)).unwrap();
        }
    }
    assert!(sampler.is_warmed_up());
    let p = sampler.distribution().probabilities().to_vec();
    let root = |t: usize| ((0..10).map(|n| loss(t, n).powi(2)).sum::<f64>() / 10.0).sqrt();
    let total: f64 = (0..STEPS).map(root).sum();
    for (t, p) in p.iter().enumerate() {
        let expected = 0.999 * root(t) / total + 0.001 / STEPS as f64;
        assert!((p - expected).abs() < 1e-15);
    }
}

#[test]
fn the_oldest_loss_is_dropped_first() {
    let mut sampler = LossSecondMoment::with_history(1, 3, 0.001).unwrap();
    let state = |sampler: &LossSecondMoment| serde_json::to_value(sampler).unwrap()["loss_history"].clone();
    for value in [1.0, 2.0, f64::NAN, 3.0, 4.0, f64::INFINITY] {
        sampler.update(0, value).unwrap();
    }
    assert_eq!(state(&sampler), serde_json::json!([[2.0, 3.0, 4.0]]));
    assert!(sampler.update(1, 0.5).is_err());
}

/// Σ p_t w_t f(t) is the mean of f, and draws have distribution p.
#[test]
fn importance_sampling_is_unbiased() {
    let distribution = warm().distribution();
    let p = distribution.probabilities();
    assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-15);
    assert!(p.windows(2).all(|pair| pair[0] > pair[1]));
    let f = |t: usize| (t as f64 * 1.3).sin();
    let mean: f64 = (0..STEPS).map(f).sum::<f64>() / STEPS as f64;
    let draws = 200_000;
    let (mut estimate, mut counts) = (0.0, [0.0; STEPS]);
    for i in 0..draws {
        let (t, weight) = distribution.sample((f64::from(i) + 0.5) / f64::from(draws));
        estimate += weight * f(t) / f64::from(draws);
        counts[t] += 1.0 / f64::from(draws);
        assert!((weight * p[t] * STEPS as f64 - 1.0).abs() < 1e-12);
    }
    assert!((estimate - mean).abs() < 1e-4, "{estimate} {mean}");
    counts.iter().zip(p).for_each(|(count, p)| assert!((count - p).abs() < 1e-4));
    assert_eq!((distribution.sample(0.0).0, distribution.sample(1.0).0), (0, STEPS - 1));
}

#[test]
fn serialized_state_is_exact() {
    let mut running = warm();
    running.update(3, 0.1 + 0.2).unwrap(); // not a short decimal
    running.update(5, 1.0 / 3.0).unwrap();
    let json = serde_json::to_string(&running).unwrap();
    let mut resumed: LossSecondMoment = serde_json::from_str(&json).unwrap();
    for n in 0..20 {
        assert_eq!(resumed, running);
        assert_eq!(resumed.distribution(), running.distribution());
        running.update(n % STEPS, loss(n, n)).unwrap();
        resumed.update(n % STEPS, loss(n, n)).unwrap();
    }
    let broken = |from: &str, to: &str| serde_json::from_str::<LossSecondMoment>(&json.replace(from, to)).is_err();
    assert!(broken(r#""history_per_term":10"#, r#""history_per_term":2"#));
    assert!(broken(r#""history_per_term":10"#, r#""history_per_term":0"#));
    assert!(broken(r#""uniform_prob":0.001"#, r#""uniform_prob":0.0"#));
}

#[test]
fn degenerate_losses_fall_back_to_uniform() {
    let mut sampler = LossSecondMoment::with_history(2, 1, 0.001).unwrap();
    (0..2).for_each(|t| sampler.update(t, 0.0).unwrap());
    assert_eq!(sampler.distribution().probabilities(), [0.5, 0.5]);
    (0..2).for_each(|t| sampler.update(t, f64::MAX).unwrap());
    assert_eq!(sampler.distribution().probabilities(), [0.5, 0.5]);
    assert!(LossSecondMoment::new(0).is_err() && LossSecondMoment::with_history(1, 1, 1.5).is_err());
}

/// Drawn through the chain of σ/α, ln(σ/α) has the mean and the deviation that were asked for, and each image its own t.
#[test]
fn log_normal_timesteps_have_the_moments_of_the_normal_distribution() {
    let schedule = NoiseSchedule::new(BetaSchedule::Karras, 0.0, 0.0, 1000).unwrap();
    let distribution = TimestepDistribution::log_normal(&schedule, -1.2, 1.2).unwrap();
    let sum: f64 = distribution.probabilities().iter().sum();
    assert!((sum - 1.0).abs() < 1e-12, "{sum}");
    let n = 100_000;
    let logs: Vec<f64> =
        (0..n).map(|i| -schedule.level(distribution.draw((f64::from(i) + 0.5) / f64::from(n))).lambda()).collect();
    let mean = logs.iter().sum::<f64>() / f64::from(n);
    let variance = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / f64::from(n);
    // Levels differ by up to 3 % at the ends, which rounds ln σ by 1 % at most.
    assert!((mean + 1.2).abs() < 1e-3 && (variance.sqrt() - 1.2).abs() < 2e-3, "{mean} {variance}");
    // The quantiles of the normal distribution: Φ(1) and Φ(−2).
    for (u, z) in [(0.8413447460685429, 1.0), (0.022750131948179195, -2.0)] {
        let log = -schedule.level(distribution.draw(u)).lambda();
        assert!((log - (-1.2 + 1.2 * z)).abs() < 0.02, "{u}: {log}");
    }
    for (mean, deviation) in [(f64::NAN, 1.0), (0.0, 0.0), (0.0, f64::INFINITY), (0.0, -1.0)] {
        assert!(TimestepDistribution::log_normal(&schedule, mean, deviation).is_err());
    }
    // Without signal at the last timestep, everything far out belongs to it, and it is drawn at all.
    let zero = schedule.rescale_zero_terminal_snr().unwrap();
    let log = |t: usize| -zero.level(t).lambda();
    let border = 1.5 * log(998) - 0.5 * log(997);
    let median = TimestepDistribution::log_normal(&zero, border, 1.0).unwrap();
    assert!((median.probabilities()[999] - 0.5).abs() < 1e-9, "{:?}", &median.probabilities()[997..]);
    let distribution = TimestepDistribution::log_normal(&zero, 50.0, 0.1).unwrap();
    assert_eq!(distribution.draw(0.5), 999);
}
