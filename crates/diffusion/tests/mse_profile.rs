//! Profiles measured with noise, and per channel.

use std::f64::consts::LN_2;

use ddpm_diffusion::oracle::Mixture;
use ddpm_diffusion::variance::optimal_variance;
use ddpm_diffusion::{BetaSchedule, MseProfile, NoiseSchedule, StepVariance};
use random::{Random, Stream};

fn linear(steps: usize) -> NoiseSchedule {
    NoiseSchedule::new(BetaSchedule::Linear, 0.1 / steps as f64, 20.0 / steps as f64, steps).unwrap()
}

/// The exact M_t of a mixture, which has no closed form.
fn exact(schedule: &NoiseSchedule) -> MseProfile {
    let data = Mixture::univariate(&[(0.3, -1.0, 0.05), (0.5, 0.4, 0.01), (0.2, 1.5, 0.2)]).unwrap();
    let mse = schedule.alphas_cumprod().iter().map(|&alpha| data.mse(alpha).unwrap()).collect();
    MseProfile { mse, channels: vec![], prior: 0.0, decoder: vec![(-5.0, 1.0)], images: 1 }
}

/// `exact` with independent errors of 5 %.
fn noisy(exact: &MseProfile, seed: u64) -> MseProfile {
    let mut normals = vec![0.0; exact.mse.len()];
    Random::new(seed).normals(Stream::SamplerNoise, 0, 0, &mut normals);
    let mse = exact.mse.iter().zip(normals).map(|(mse, z)| mse * (1.0 + 0.05 * f64::from(z))).collect();
    MseProfile { mse, ..exact.clone() }
}

/// The root mean square of M_t/M_t − 1.
fn relative(found: &MseProfile, exact: &MseProfile) -> f64 {
    let errors = found.mse.iter().zip(&exact.mse).map(|(found, exact)| (found / exact - 1.0).powi(2));
    (errors.sum::<f64>() / exact.mse.len() as f64).sqrt()
}

#[test]
fn smoothing_removes_noise_and_keeps_the_exact_profile() {
    let schedule = linear(1000);
    let exact = exact(&schedule);
    let smoothed = exact.smoothed(&schedule).unwrap();
    let worst = smoothed.mse.iter().zip(&exact.mse).map(|(a, b)| (a / b - 1.0).abs()).fold(0.0, f64::max);
    println!("exact M_t change by {worst:.1e} at most");
    assert!(worst < 1e-3, "{worst:e}");
    let (mut before, mut after) = (0.0, 0.0);
    for seed in 0..3 {
        let noisy = noisy(&exact, seed);
        let (raw, smooth) = (relative(&noisy, &exact), relative(&noisy.smoothed(&schedule).unwrap(), &exact));
        println!("noise of {raw:.4} becomes {smooth:.4}");
        assert!(smooth < raw / 2.0);
        // The cost of the best chain, minus its predicted cost.
        let optimism = |profile: &MseProfile| {
            let best = profile.best_timesteps(&schedule, 25).unwrap();
            let bits = |profile: &MseProfile| profile.bits(&schedule, &best, StepVariance::Optimal).unwrap();
            bits(&exact) - bits(profile)
        };
        let (raw, smooth) = (optimism(&noisy), optimism(&noisy.smoothed(&schedule).unwrap()));
        println!("promised {raw:.4} bits too few, smoothed {smooth:.4}");
        before += raw.abs() / 3.0;
        after += smooth.abs() / 3.0;
    }
    println!("on average {before:.4} and {after:.4}");
    assert!(after < before / 2.0);
}

#[test]
fn smoothing_keeps_zeros_and_the_end_without_signal() {
    let schedule = linear(100).rescale_zero_terminal_snr().unwrap();
    let mut profile = exact(&schedule);
    profile.mse[0] = 0.0;
    profile.mse[40] = 0.0;
    let smoothed = profile.smoothed(&schedule).unwrap();
    assert_eq!((smoothed.mse[0], smoothed.mse[40], smoothed.mse[99]), (0.0, 0.0, profile.mse[99]));
    assert!(smoothed.mse[1] > 0.0 && smoothed.mse[41] > 0.0);
    assert!(profile.smoothed(&linear(99)).is_err());
    // Too few timesteps for a parabola.
    let schedule = NoiseSchedule::from_betas(vec![0.1, 0.2, 0.3]).unwrap();
    let few = MseProfile { mse: vec![0.1, 0.2, 0.9], ..profile };
    assert_eq!(few.smoothed(&schedule).unwrap(), few);
}

#[test]
fn variances_per_channel_never_cost_more() {
    let schedule = linear(200);
    let mut profile = exact(&schedule);
    let timesteps = [199, 120, 40, 5, 0];
    let bits = |profile: &MseProfile, variance| profile.bits(&schedule, &timesteps, variance).unwrap();
    assert!(profile.bits(&schedule, &timesteps, StepVariance::PerChannel).unwrap_err().to_string().contains("channel"));
    assert!(profile.log_variances_by_channel(&schedule, &timesteps).is_err());
    let optimal = bits(&profile, StepVariance::Optimal);
    // The same with equal channels; else less, by the definition.
    profile.channels = profile.mse.iter().map(|&mse| vec![mse; 3]).collect();
    assert!((bits(&profile, StepVariance::PerChannel) - optimal).abs() < 1e-12);
    profile.channels = profile.mse.iter().map(|&mse| vec![0.3 * mse, 0.9 * mse, 1.8 * mse]).collect();
    let by_channel = bits(&profile, StepVariance::PerChannel);
    println!("{optimal:.4} bits, by channel {by_channel:.4}");
    assert!(by_channel < optimal - 1e-3);
    let snr = |t: usize| schedule.snr(t);
    let mut nats = 0.0;
    for pair in timesteps.windows(2) {
        for factor in [0.3, 0.9, 1.8] {
            nats += ((snr(pair[1]) - snr(pair[0])) * factor * profile.mse[pair[0]]).ln_1p() / 6.0;
        }
    }
    assert!((by_channel - nats / LN_2 - 1.0).abs() < 1e-12);

    let log_variances = profile.log_variances_by_channel(&schedule, &timesteps).unwrap();
    assert_eq!((log_variances.len(), &log_variances[4]), (5, &vec![-5.0; 3]));
    let (t, s) = (schedule.alpha_cumprod(120), schedule.alpha_cumprod(40));
    assert_eq!(log_variances[1][2], optimal_variance(t, s, profile.channels[120][2]).ln());
    // Smoothed channels and their mean agree, so Jensen's inequality holds.
    let smoothed = profile.smoothed(&schedule).unwrap();
    assert!((smoothed.channels[50][1] / smoothed.mse[50] - 0.9).abs() < 1e-12);

    let json = serde_json::to_string(&profile).unwrap();
    assert_eq!(serde_json::from_str::<MseProfile>(&json).unwrap(), profile);
    let before = r#"{"mse": [0.1], "prior": 0.0, "decoder": [[-5.0, 1.0]], "images": 1}"#;
    assert!(serde_json::from_str::<MseProfile>(before).unwrap().channels.is_empty());
    for wrong in [vec![vec![0.1]; 199], vec![vec![]; 200], vec![vec![-0.1]; 200]] {
        assert!(MseProfile { channels: wrong, ..profile.clone() }.check(&schedule).is_err());
    }
    profile.channels[7].pop();
    assert!(profile.check(&schedule).unwrap_err().to_string().contains("channels of a timestep"));
}
