//! EDM's samplers: the tables against the published algorithms, and the law of their samples on Gaussian data.

use ddpm_diffusion::churn::edm_sde;
use ddpm_diffusion::oracle::{Gaussian, Mixture};
use ddpm_diffusion::{BetaSchedule, Churn, Clip, Node, NoiseSchedule, OdeSolver, Prediction, TimestepGrid};

mod common;

#[track_caller]
fn close(found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() <= tolerance, "{found:e} is not {expected:e} to {tolerance:e}");
}

fn schedule() -> NoiseSchedule {
    NoiseSchedule::new(BetaSchedule::Linear, 1e-4, 0.02, 1000).unwrap()
}

const NONE: Churn = Churn { s_churn: 0.0, s_tmin: 0.0, s_tmax: f64::INFINITY, s_noise: 1.0 };

/// Algorithm 2 of Karras et al., line by line, for x = x_0 + σ n; without churn it is algorithm 1.
fn algorithm_2(
    mut x: f64,
    times: &[f64],
    churn: Churn,
    denoiser: impl Fn(f64, f64) -> f64,
    noise: impl Fn(usize) -> f64,
) -> f64 {
    let steps = times.len() - 1;
    for i in 0..steps {
        let within = (churn.s_tmin..=churn.s_tmax).contains(&times[i]) && i > 0;
        let gamma = if within { (churn.s_churn / steps as f64).min(2f64.sqrt() - 1.0) } else { 0.0 };
        let raised = times[i] + gamma * times[i];
        let start = x + (raised * raised - times[i] * times[i]).sqrt() * churn.s_noise * noise(i);
        let slope = (start - denoiser(start, raised)) / raised;
        x = start + (times[i + 1] - raised) * slope;
        if times[i + 1] != 0.0 {
            let slope_there = (x - denoiser(x, times[i + 1])) / times[i + 1];
            x = start + (times[i + 1] - raised) * (0.5 * slope + 0.5 * slope_there);
        }
    }
    x
}

#[test]
fn tables_equal_algorithms_1_and_2() {
    let schedule = schedule();
    let data = Mixture::univariate(&[(0.3, -1.0, 0.16), (0.5, 0.3, 0.25), (0.2, 1.2, 0.09)]).unwrap();
    let nodes = TimestepGrid::Karras.nodes(&schedule, 12, false).unwrap();
    let times: Vec<f64> = nodes.iter().map(|node| node.level.noise_ratio()).collect();
    let noise = |step: usize| (step as f64 * 1.7).sin();
    let model = |x: &[f64], t: f64| data.epsilon(x, schedule.level_at(t).alpha_cumprod());
    let exact = |x: f64, sigma: f64| {
        let alpha_cumprod = 1.0 / (1.0 + sigma * sigma);
        data.sample(&[x * alpha_cumprod.sqrt()], alpha_cumprod)[0]
    };
    let everywhere = Churn { s_churn: 3.0, s_tmin: 0.0, s_tmax: f64::INFINITY, s_noise: 1.1 };
    for (churn, noisy) in [(NONE, 0), (Churn::default(), 4), (everywhere, 11)] {
        let table = edm_sde(&schedule, &nodes, churn, None).unwrap();
        // Two rows a step; the noise of step i is that of the row before its first.
        let rows: Vec<usize> = (0..table.rows.len()).filter(|&row| table.rows[row].is_noisy()).collect();
        assert_eq!((table.rows.len(), rows.len()), (23, noisy));
        assert!(rows.iter().all(|row| row % 2 == 1));
        for x in [-1.3, 0.2, 2.1] {
            let denoiser = common::denoiser(Prediction::Epsilon, model);
            let found = table.run(&[x], denoiser, |row| vec![noise(row.div_ceil(2))]).unwrap()[0];
            close(found, algorithm_2(x / nodes[0].level.alpha, &times, churn, exact, noise), 1e-10);
        }
    }
    let heun = OdeSolver::Heun.table(&nodes, None).unwrap();
    assert_eq!(edm_sde(&schedule, &nodes, NONE, None).unwrap().rows, heun.rows);
}

/// The network is evaluated at the raised noise level, at most that of the last timestep.
#[test]
fn the_network_is_evaluated_at_the_raised_level() {
    let schedule = schedule();
    let nodes = TimestepGrid::LogSnr.nodes(&schedule, 40, false).unwrap();
    let churn = Churn { s_churn: 1e3, ..NONE };
    let table = edm_sde(&schedule, &nodes, churn, None).unwrap();
    for (i, node) in nodes[..40].iter().enumerate() {
        let at = table.rows[2 * i].node;
        let most = nodes[0].level.noise_ratio();
        let raised = if i == 0 { most } else { (2f64.sqrt() * node.level.noise_ratio()).min(most) };
        close(at.level.noise_ratio() / raised, 1.0, 1e-12);
        close(schedule.level_at(at.timestep).alpha_cumprod() / at.level.alpha_cumprod(), 1.0, 1e-9);
    }
}

/// With the exact denoiser the law is Gaussian after every row. It converges to that of the data at second order, with
/// churn or without. Noise of a different variance adds an error that does not vanish.
#[test]
fn the_law_converges_to_that_of_the_data_at_second_order() {
    let schedule = schedule();
    let data = Gaussian { mean: 0.4, variance: 0.3 };
    let last = Node::at(&schedule, 0.0);
    let error = |steps: usize, churn: Churn| {
        let mut nodes = TimestepGrid::Karras.nodes(&schedule, steps + 1, false).unwrap();
        nodes.pop(); // End at t = 0, where the law has a closed form.
        let table = edm_sde(&schedule, &nodes, churn, None).unwrap();
        let end = data.propagate(&table, data.marginal(nodes[0].level.alpha_cumprod())).unwrap();
        let exact = data.marginal(last.level.alpha_cumprod());
        (end.mean - exact.mean).abs().max((end.variance / exact.variance - 1.0).abs())
    };
    for s_churn in [0.0, 5.0, 30.0] {
        let churn = Churn { s_churn, s_noise: 1.0, ..Churn::default() };
        let errors = [100, 200, 400].map(|steps| error(steps, churn));
        println!("s_churn {s_churn:>4}: {:.1e} {:.1e} {:.1e}", errors[0], errors[1], errors[2]);
        assert!(errors[2] < 2e-3, "{errors:?}");
        close((errors[0] / errors[2]).log2() / 2.0, 2.0, 0.2);
    }
    // Noise of deviation 1.007 renews most of the variance, so nearly 1.007² − 1 is added.
    let inflated = error(400, Churn::default()) - error(400, Churn { s_noise: 1.0, ..Churn::default() });
    println!("s_noise 1.007: {inflated:.4} more variance");
    assert!((0.01..1.007f64.powi(2) - 1.0).contains(&inflated), "{inflated}");
}

#[test]
fn invalid_arguments_are_errors() {
    let nodes = TimestepGrid::Karras.nodes(&schedule(), 5, false).unwrap();
    let table = |churn| edm_sde(&schedule(), &nodes, churn, None);
    assert!(table(Churn { s_churn: -1.0, ..NONE }).unwrap_err().to_string().starts_with("s_churn is -1"));
    assert!(table(Churn { s_noise: f64::NAN, ..NONE }).is_err());
    assert!(edm_sde(&schedule(), &nodes[..1], NONE, None).is_err());
    let clipped = edm_sde(&schedule(), &nodes, NONE, Some(Clip::Range(1.0))).unwrap();
    let data = Gaussian { mean: 0.0, variance: 1.0 };
    assert!(data.propagate(&clipped, data).is_err());
}
