//! Averages by power functions: closed forms, and the numbers of NVlabs/edm2.

use ddpm_diffusion::power_ema::{Combination, MAX_LENGTH, Profile, exponent};

/// ```python
/// [float(std_to_exp(s)) for s in (.01, .05, .1, .15, .2, .25)]   # training/phema.py
/// power_function_beta(.05, 256., 1.), power_function_beta(.1, 100., 2.)
/// ```
#[test]
fn exponents_and_decays_are_those_of_edm2() {
    let expected = [
        (0.01, 96.99489782370986),
        (0.05, 16.972198602303447),
        (0.1, 6.937203937601809),
        (0.15, 3.5578687748994646),
        (0.2, 1.8262137798958404),
        (0.25, 0.71982395800071),
    ];
    for (length, gamma) in expected {
        assert!((exponent(length).unwrap() / gamma - 1.0).abs() < 1e-12, "{length}");
    }
    let decay = |time, length, step| Profile::new(time, length).unwrap().decay(step);
    assert!((decay(256.0, 0.05, 1.0) - 0.9320755774414871).abs() < 1e-14);
    assert!((decay(100.0, 0.1, 2.0) - 0.85184302841977).abs() < 1e-14);
    // The first update takes the parameters as they are.
    assert_eq!(decay(1.0, 0.05, 1.0), 0.0);
    // The mean of all.
    assert!(exponent(MAX_LENGTH).unwrap() < 1e-9);
    for invalid in [0.0, -0.1, 0.3, f64::NAN] {
        assert!(exponent(invalid).is_err(), "{invalid}");
    }
}

/// Two lengths at each of some times up to 800.
fn stored(times: u32) -> Vec<Profile> {
    let time = |n: u32| 800.0 * f64::from(n) / f64::from(times);
    (1..=times).flat_map(|n| [0.05, 0.1].map(|length| Profile::new(time(n), length).unwrap())).collect()
}

/// ```python
/// solve_posthoc_coefficients(ofs, std, 800., length)   # its last four rows
/// ```
#[test]
fn weights_are_those_of_edm2() {
    let expected = [
        (0.03, [-0.1771689616879968, 0.5766506097678555, 2.3289138060020274, -1.7334349988156963]),
        (0.075, [0.04026138969253223, -0.1018319682039934, 0.291789609495231, 0.785091309067994]),
        (0.15, [-0.0858081390124674, 0.19866360006528597, -0.17304279237913867, 0.9406542162949872]),
        (0.2, [-0.11995388424717261, 0.2718835518234738, -0.18224801397226043, 0.7425461657769837]),
    ];
    for (length, last) in expected {
        let combination = Combination::new(&stored(8), Profile::new(800.0, length).unwrap()).unwrap();
        for (found, expected) in combination.weights[12..].iter().zip(last) {
            assert!((found - expected).abs() < 1e-9, "{length}: {found} {expected}");
        }
    }
}

/// The average of θ(τ) = τ is t (γ+1)/(γ+2), and that of a constant is the constant.
#[test]
fn averages_of_other_lengths_are_combinations_of_the_stored_ones() {
    let mean = |profile: &Profile| profile.time * (profile.exponent + 1.0) / (profile.exponent + 2.0);
    for length in [0.05, 0.07, 0.1, 0.15, 0.2, 0.25] {
        let wanted = Profile::new(800.0, length).unwrap();
        let combination = Combination::new(&stored(32), wanted).unwrap();
        let found: f64 = stored(32).iter().zip(&combination.weights).map(|(p, weight)| weight * mean(p)).sum();
        assert!((found / mean(&wanted) - 1.0).abs() < 1e-2, "{length}: {found} {}", mean(&wanted));
        assert!(combination.relative_error < 0.1, "{length}: {}", combination.relative_error);
        if [0.05, 0.1].contains(&length) {
            assert!(combination.relative_error < 1e-6, "{length}: {}", combination.relative_error);
        }
    }
    // Shorter ones than those stored are out of reach.
    let short = Combination::new(&stored(8), Profile::new(800.0, 0.01).unwrap()).unwrap();
    assert!(short.relative_error > 0.3, "{}", short.relative_error);
}

#[test]
fn profiles_that_cannot_be_combined_are_errors() {
    let wanted = Profile::new(300.0, 0.1).unwrap();
    let error = Combination::new(&stored(32), wanted).unwrap_err().to_string();
    assert!(error.contains("the time of a stored average is 325"), "{error}");
    assert!(Combination::new(&[], wanted).is_err());
    assert!(Combination::new(&[wanted, wanted], Profile::new(300.0, 0.2).unwrap()).is_err());
    assert!(Profile::new(0.0, 0.1).is_err());
}
