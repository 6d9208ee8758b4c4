//! Solver tables on data with exact solutions, and the contract of a row.

use ddpm_diffusion::{
    BetaSchedule, Clip, Error, Node, NoiseLevel, NoiseSchedule, Prediction, SolverTable, TimestepSpacing, Variance,
    oracle::{Gaussian, Mixture},
    solver::{AnalyticNoise, ddim, ddim_analytic, ddpm, ddpm_with_variances},
    solver_table::Row,
    timesteps,
    variance::optimal_variance,
};

mod common;
use common::{denoiser, estimate};

#[track_caller]
fn close(found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() <= tolerance, "{found:e} is not {expected:e} to {tolerance:e}");
}

fn linear(steps: usize) -> NoiseSchedule {
    NoiseSchedule::new(BetaSchedule::Linear, 1e-4, 0.02, steps).unwrap()
}

/// A row as x_next = x·x_t + sample·x̂0 + noise·z, with ε̂ written in x_t and x̂0.
fn in_x_and_sample(row: &Row) -> (f64, f64, f64) {
    assert!(row.sample.len() <= 1 && row.epsilon.len() <= 1);
    let sample = row.sample.first().copied().unwrap_or(0.0);
    let epsilon = row.epsilon.first().copied().unwrap_or(0.0);
    let NoiseLevel { alpha, sigma } = row.node.level;
    (row.x + epsilon / sigma, sample - epsilon * alpha / sigma, row.noise)
}

/// The law of x after each row, with the exact denoiser and x ~ q_t at the start.
fn moments(table: &SolverTable, data: Gaussian) -> Vec<Gaussian> {
    let mut x = data.marginal(table.rows[0].node.level.alpha_cumprod());
    let step = |row: &Row| {
        let rows = vec![row.clone()];
        let one = SolverTable {
            name: String::new(),
            rows,
            clip_sample: None,
            epsilon_from_clipped: false,
            initial_scale: 1.0,
        };
        x = data.propagate(&one, x).unwrap();
        x
    };
    table.rows.iter().map(step).collect()
}

/// Every intermediate law is q(x_s). The last row adds no noise and gives x̂0, whose variance is smaller than that of
/// the data by M_t.
#[track_caller]
fn is_exact(table: &SolverTable, data: Gaussian) {
    let after = moments(table, data);
    let (last, inner) = after.split_last().unwrap();
    for (found, next) in inner.iter().zip(&table.rows[1..]) {
        let expected = data.marginal(next.node.level.alpha_cumprod());
        close(found.mean, expected.mean, 1e-12);
        close(found.variance, expected.variance, 1e-12);
    }
    close(last.mean, data.mean, 1e-12);
    close(last.variance + data.mse(table.rows.last().unwrap().node.level.alpha_cumprod()), data.variance, 1e-12);
}

/// Every spacing with one to all steps, and three more lists.
fn subsets() -> Vec<Vec<usize>> {
    use TimestepSpacing::{Leading, Linspace, Quadratic, Trailing};
    let spaced = [Leading, Linspace, Trailing, Quadratic].into_iter().flat_map(|spacing| {
        [1, 2, 3, 5, 10, 28, 50, 99, 250, 1000]
            .into_iter()
            .filter_map(move |steps| spacing.timesteps(1000, steps, 0).ok())
    });
    let subsets: Vec<_> = spaced.chain([timesteps::all(1000), vec![999, 3], vec![400]]).collect();
    assert!(subsets.len() > 35);
    subsets
}

#[test]
fn ancestral_sampling_reproduces_gaussian_data() {
    let schedule = linear(1000);
    for timesteps in subsets() {
        // β is exact for unit variance, β̃ for data at a point (Ho et al. section 3.2), σ*² for any Gaussian.
        let large = ddpm(&schedule, &timesteps, Variance::FixedLarge, None).unwrap();
        is_exact(&large, Gaussian { mean: 0.4, variance: 1.0 });
        let small = ddpm(&schedule, &timesteps, Variance::FixedSmall, None).unwrap();
        is_exact(&small, Gaussian { mean: -0.7, variance: 0.0 });
        let data = Gaussian { mean: 0.3, variance: 0.2 };
        let variances: Vec<f64> = timesteps
            .iter()
            .enumerate()
            .map(|(i, &t)| {
                let now = schedule.alpha_cumprod(t);
                let next = timesteps.get(i + 1).map_or(1.0, |&s| schedule.alpha_cumprod(s));
                optimal_variance(now, next, data.mse(now))
            })
            .collect();
        is_exact(&ddpm_with_variances(&schedule, &timesteps, &variances, None).unwrap(), data);
    }
    // Fixed variances are not exact for other data.
    let timesteps = TimestepSpacing::Leading.timesteps(1000, 50, 0).unwrap();
    let large = ddpm(&schedule, &timesteps, Variance::FixedLarge, None).unwrap();
    let after = moments(&large, Gaussian { mean: 0.0, variance: 0.1 });
    assert!(
        after[48].variance > Gaussian { mean: 0.0, variance: 0.1 }.marginal(schedule.alpha_cumprod(0)).variance + 1e-3
    );
}

#[test]
fn ancestral_rows_are_the_posterior() {
    let schedule = linear(1000);
    let table = ddpm(&schedule, &timesteps::all(1000), Variance::FixedSmall, Some(Clip::Range(1.0))).unwrap();
    assert_eq!((table.rows.len(), table.clip_sample, table.history()), (1000, Some(Clip::Range(1.0)), 1));
    for (i, row) in table.rows.iter().enumerate() {
        let t = 999 - i;
        let posterior = schedule.posterior(t);
        assert_eq!(row.node, Node { timestep: t as f64, level: schedule.level(t) });
        assert_eq!((row.x, row.sample[0], row.epsilon.len()), (posterior.coef_xt, posterior.coef_x0, 0));
        close(row.noise, posterior.variance.sqrt(), 1e-12);
    }
    let last = &table.rows[999];
    assert_eq!((last.x, last.sample[0], last.noise, last.is_noisy()), (0.0, 1.0, 0.0, false));
    let large = ddpm(&schedule, &[900, 500, 7], Variance::FixedLarge, None).unwrap();
    close(large.rows[1].noise, (1.0 - schedule.alpha_cumprod(500) / schedule.alpha_cumprod(7)).sqrt(), 1e-14);
    assert!(!large.rows[2].is_noisy());
}

#[test]
fn ddim_at_eta_1_is_ddpm_with_fixed_small() {
    let schedule = linear(1000);
    for timesteps in subsets() {
        let ddim = ddim(&schedule, &timesteps, 1.0, None).unwrap();
        let ddpm = ddpm(&schedule, &timesteps, Variance::FixedSmall, None).unwrap();
        for (a, b) in ddim.rows.iter().zip(&ddpm.rows) {
            let (a, b) = (in_x_and_sample(a), in_x_and_sample(b));
            close(a.0, b.0, 1e-12);
            close(a.1, b.1, 1e-12);
            close(a.2, b.2, 1e-12);
        }
    }
}

/// For every η, data at a point is reproduced exactly, and each row has the marginal of Song et al.'s lemma 1.
#[test]
fn ddim_keeps_the_marginals_of_a_point() {
    let schedule = linear(1000);
    for eta in [0.0, 0.3, 0.8, 1.0] {
        for timesteps in subsets() {
            is_exact(&ddim(&schedule, &timesteps, eta, None).unwrap(), Gaussian { mean: 0.6, variance: 0.0 });
        }
        let table = ddim(&schedule, &[999, 500, 100], eta, None).unwrap();
        let (t, s) = (schedule.alpha_cumprod(500), schedule.alpha_cumprod(100));
        let sigma = eta * ((1.0 - s) / (1.0 - t)).sqrt() * (1.0 - t / s).sqrt();
        close(table.rows[1].noise, sigma, 1e-14);
        close(table.rows[1].sample[0], s.sqrt(), 1e-15);
        close(table.rows[1].epsilon[0], (1.0 - s - sigma * sigma).sqrt(), 1e-14);
        let last = &table.rows[2];
        assert_eq!((last.x, &last.sample[..], &last.epsilon[..], last.noise), (0.0, &[1.0][..], &[0.0][..], 0.0));
    }
}

/// With the optimal variance (Analytic-DPM) every law before the last row is exact, for every η and number of steps.
/// With DDIM's own noise the variance is too small.
#[test]
fn analytic_ddim_reproduces_gaussian_data() {
    let schedule = linear(1000);
    for data in [Gaussian { mean: 0.3, variance: 0.2 }, Gaussian { mean: -0.4, variance: 1.7 }] {
        let mse: Vec<f64> = schedule.alphas_cumprod().iter().map(|&alpha| data.mse(alpha)).collect();
        for timesteps in subsets() {
            for eta in [0.0, 0.4, 1.0] {
                let table = ddim_analytic(&schedule, &timesteps, AnalyticNoise { eta, mse: &mse }, None).unwrap();
                is_exact(&table, data);
                assert!(!table.rows[table.rows.len() - 1].is_noisy());
            }
        }
        // At η = 1 it is the ancestral sampler with σ*².
        let table = ddim_analytic(&schedule, &[900, 500, 100, 0], AnalyticNoise { eta: 1.0, mse: &mse }, None).unwrap();
        for (row, s) in table.rows.iter().zip([500, 100, 0]) {
            let (t, s) = (row.node.level.alpha_cumprod(), schedule.alpha_cumprod(s));
            close(row.noise.powi(2), optimal_variance(t, s, data.mse(t)), 1e-14);
        }
        // Without it the variance is too small: each step loses the error of x̂0.
        let plain = ddim(&schedule, &[999, 500, 0], 0.0, None).unwrap();
        let after = moments(&plain, data)[1];
        let exact = data.marginal(schedule.alpha_cumprod(0));
        close(after.mean, exact.mean, 1e-12);
        println!("ddim in two steps: variance {:.4}, not {:.4}", after.variance, exact.variance);
        assert!(after.variance < 0.9 * exact.variance);
    }
    // With M_t = 0 the noise is that of DDIM.
    let timesteps = [999, 500, 100];
    let perfect = ddim_analytic(&schedule, &timesteps, AnalyticNoise { eta: 0.3, mse: &[0.0; 1000] }, None).unwrap();
    perfect.rows.iter().zip(ddim(&schedule, &timesteps, 0.3, None).unwrap().rows).for_each(|(a, b)| {
        close(a.noise, b.noise, 1e-15);
    });
    for mse in [vec![0.0; 999], vec![f64::NAN; 1000], vec![-0.1; 1000]] {
        let table = ddim_analytic(&schedule, &timesteps, AnalyticNoise { eta: 0.0, mse: &mse }, None);
        assert!(table.unwrap_err().to_string().starts_with("mse"));
    }
}

/// log₂ of the ratio of errors when the number of steps doubles.
fn order(error: impl Fn(usize) -> f64, steps: usize) -> f64 {
    (error(steps) / error(2 * steps)).log2()
}

#[test]
fn ddim_converges_to_the_exact_flow_at_order_1() {
    let schedule = NoiseSchedule::new(BetaSchedule::Linear, 1e-5, 2e-3, 10_000).unwrap();
    let start = schedule.alpha_cumprod(9999);
    let gaussian = Gaussian { mean: 0.5, variance: 0.3 };
    let mixture = Mixture::univariate(&[(0.4, -1.0, 0.1), (0.6, 0.8, 0.2)]).unwrap();
    let x_init = [-1.5, -0.2, 0.4, 1.9];
    let run = |steps: usize, exact: &dyn Fn(f64, f64) -> f64| {
        let timesteps = TimestepSpacing::Linspace.timesteps(10_000, steps, 0).unwrap();
        let table = ddim(&schedule, &timesteps, 0.0, None).unwrap();
        let model = |x: &[f64], t: f64| x.iter().map(|&x| exact(x, schedule.alpha_cumprod(t as usize))).collect();
        table.run(&x_init, denoiser(Prediction::Sample, model), |_| unreachable!("deterministic")).unwrap()
    };
    let worst = |found: Vec<f64>, exact: &dyn Fn(f64) -> f64| {
        found.iter().zip(x_init).map(|(found, x)| (found - exact(x)).abs()).fold(0.0, f64::max)
    };
    let gaussian_error = |steps| worst(run(steps, &|x, a| gaussian.sample(x, a)), &|x| gaussian.flow(x, start, 1.0));
    let mixture_error =
        |steps| worst(run(steps, &|x, a| mixture.sample(&[x], a)[0]), &|x| mixture.flow(x, start, 1.0).unwrap());
    assert!(gaussian_error(1000) < 4e-3 && mixture_error(1000) < 4e-3);
    let (gaussian, mixture) = (order(gaussian_error, 250), order(mixture_error, 250));
    assert!((gaussian - 1.0).abs() < 0.1 && (mixture - 1.0).abs() < 0.1, "{gaussian} {mixture}");
}

/// Two samplers written as tables by hand: Adams–Bashforth, which uses the prediction of the row before, and Heun, with
/// a second row that corrects the Euler step. Both in y = x/√ᾱ over σ = 1/√SNR, where dy/dσ = ε̂.
#[test]
fn second_order_solvers_written_as_tables() {
    let data = Gaussian { mean: 0.5, variance: 0.3 };
    let alpha = |sigma: f64| 1.0 / (1.0 + sigma * sigma);
    let row = |sigma: f64, next: f64, x: f64, epsilon: Vec<f64>| Row {
        node: Node { timestep: sigma, level: NoiseLevel::variance_preserving(alpha(sigma)) },
        x,
        sample: vec![],
        epsilon: epsilon.iter().map(|c| c * alpha(next).sqrt()).collect(),
        noise: 0.0,
        learned_log_variance: None,
    };
    let sigmas = |steps: usize| -> Vec<f64> {
        (0..=steps).map(|i| 10.0 * (0.01_f64 / 10.0).powf(i as f64 / steps as f64)).collect()
    };
    let adams = |steps: usize| -> Vec<Row> {
        let sigmas = sigmas(steps);
        let step = |i: usize| sigmas[i + 1] - sigmas[i];
        (0..steps)
            .map(|i| {
                let (h, ratio) = (step(i), (alpha(sigmas[i + 1]) / alpha(sigmas[i])).sqrt());
                let epsilon = if i == 0 {
                    vec![h]
                } else {
                    let r = h / step(i - 1);
                    vec![h * (1.0 + r / 2.0), -h * r / 2.0]
                };
                row(sigmas[i], sigmas[i + 1], ratio, epsilon)
            })
            .collect()
    };
    let heun = |steps: usize| -> Vec<Row> {
        sigmas(steps)
            .windows(2)
            .flat_map(|pair| {
                let (h, ratio) = (pair[1] - pair[0], (alpha(pair[1]) / alpha(pair[0])).sqrt());
                [row(pair[0], pair[1], ratio, vec![h]), row(pair[1], pair[1], 1.0, vec![h / 2.0, -h / 2.0])]
            })
            .collect()
    };
    let error = |rows: Vec<Row>| {
        let table = SolverTable {
            name: "test".to_owned(),
            rows,
            clip_sample: None,
            epsilon_from_clipped: false,
            initial_scale: 1.0,
        };
        assert_eq!(table.history(), 2);
        let model = |x: &[f64], sigma: f64| vec![data.epsilon(x[0], alpha(sigma))];
        let found = table.run(&[1.3], denoiser(Prediction::Epsilon, model), |_| vec![]).unwrap()[0];
        (found - data.flow(1.3, alpha(10.0), alpha(0.01))).abs()
    };
    let (adams, heun) = (order(|n| error(adams(n)), 320), order(|n| error(heun(n)), 320));
    assert!((adams - 2.0).abs() < 0.1 && (heun - 2.0).abs() < 0.1, "{adams} {heun}");
}

#[test]
fn all_predictions_give_the_same_result() {
    let schedule = linear(1000);
    let data = Gaussian { mean: 0.2, variance: 0.5 };
    let timesteps = TimestepSpacing::Leading.timesteps(1000, 20, 0).unwrap();
    let noise = |row: usize| vec![(row as f64).sin(), (row as f64 * 0.7).cos()];
    for table in [
        ddpm(&schedule, &timesteps, Variance::FixedLarge, Some(Clip::Range(0.9))).unwrap(),
        ddim(&schedule, &timesteps, 0.5, Some(Clip::Range(0.9))).unwrap(),
    ] {
        let run = |prediction: Prediction| {
            let denoiser = |x: &[f64], node: Node| {
                let target = prediction.target(&schedule, node.timestep as usize);
                let exact = data.denoise(x, node.level);
                let answer = |(x0, epsilon)| target.sample * x0 + target.epsilon * epsilon;
                let output = exact.sample.into_iter().zip(exact.epsilon).map(answer).collect();
                estimate(prediction, node, prediction.previous_level(&schedule, node.timestep)?, x, output)
            };
            table.run(&[1.1, -2.0], denoiser, noise).unwrap()
        };
        let expected = run(Prediction::Epsilon);
        for (_, prediction) in Prediction::NAMES {
            run(prediction).iter().zip(&expected).for_each(|(&a, &b)| close(a, b, 1e-9));
        }
    }
}

#[test]
fn clipping() {
    // ᾱ = 0.36: x_t = 1, ε̂ = −1 gives x̂0 = (1 + 0.8)/0.6 = 3.
    let schedule = NoiseSchedule::from_betas(vec![0.19, 1.0 - 0.36 / 0.81]).unwrap();
    let mut table = ddim(&schedule, &[1], 0.0, None).unwrap();
    table.rows[0].epsilon[0] = 0.5;
    let answer = || denoiser(Prediction::Epsilon, |_, _| vec![-1.0]);
    let run = |table: &SolverTable| table.run(&[1.0], answer(), |_| vec![]).unwrap()[0];
    close(run(&table), 3.0 - 0.5, 1e-14);
    table.clip_sample = Some(Clip::Range(2.0));
    close(run(&table), 2.0 - 0.5, 1e-14);
    table.epsilon_from_clipped = true; // ε = (1 − 0.6·2)/0.8 = −0.25
    close(run(&table), 2.0 - 0.125, 1e-14);
    // Of x̂0 = 3, 0.6, 0 the quantile at ¾ is 1.8: x̂0 becomes 1, 1/3, 0.
    table.clip_sample = Some(Clip::Dynamic { ratio: 0.75, max: 10.0 });
    table.epsilon_from_clipped = false;
    table.rows[0].epsilon[0] = 0.0;
    let image = table.run(&[3.0, 0.6, 0.0], denoiser(Prediction::Sample, |x, _| x.to_vec()), |_| vec![]).unwrap();
    image.iter().zip([1.0, 1.0 / 3.0, 0.0]).for_each(|(&found, expected)| close(found, expected, 1e-14));
}

#[test]
fn learned_variance_scales_the_noise() {
    let schedule = linear(1000);
    let table = |variance| ddpm(&schedule, &[900, 400, 0], variance, None).unwrap();
    let range = table(Variance::LearnedRange);
    let (min, max) = range.rows[1].learned_log_variance.unwrap();
    close(min.exp().sqrt(), table(Variance::FixedSmall).rows[1].noise, 1e-13);
    close(max.exp().sqrt(), table(Variance::FixedLarge).rows[1].noise, 1e-13);
    assert!(range.rows[1].is_noisy() && !range.rows[2].is_noisy());
    assert_eq!(range.rows[2].learned_log_variance, None);
    assert_eq!(table(Variance::Learned).rows[0].learned_log_variance, Some((-1.0, 1.0)));

    let run = |table: &SolverTable, v: [f64; 2]| {
        let model = |x: &[f64], _: f64| x.iter().map(|x| 0.1 * x).chain(v).collect();
        table.run(&[0.5, 0.5], denoiser(Prediction::Epsilon, model), |_| vec![1.0, -1.0]).unwrap()
    };
    let fixed = |variance, i: usize| run(&table(variance), [0.0; 2])[i];
    // v = 1 is fixed_large, v = −1 is fixed_small, per element.
    let mixed = run(&range, [1.0, -1.0]);
    close(mixed[0], fixed(Variance::FixedLarge, 0), 1e-12);
    close(mixed[1], fixed(Variance::FixedSmall, 1), 1e-12);
    // A network without v.
    let short = range.run(&[0.5], denoiser(Prediction::Epsilon, |x, _| x.to_vec()), |_| vec![1.0]);
    assert_eq!(short, Err(Error::Length { name: "learned variance", found: 0, expected: 1 }));
}

#[test]
fn zero_terminal_snr() {
    let schedule = linear(1000).rescale_zero_terminal_snr().unwrap();
    let data = Gaussian { mean: 0.5, variance: 0.0 };
    let timesteps = TimestepSpacing::Trailing.timesteps(1000, 10, 0).unwrap();
    for table in [
        ddim(&schedule, &timesteps, 0.0, None).unwrap(),
        ddpm(&schedule, &timesteps, Variance::FixedSmall, None).unwrap(),
    ] {
        is_exact(&table, data);
        let v = |x: &[f64], t: f64| {
            let NoiseLevel { alpha, sigma } = schedule.level(t as usize);
            x.iter().map(|&x| alpha * data.epsilon(x, alpha * alpha) - sigma * 0.5).collect()
        };
        let found = table.run(&[1.7], denoiser(Prediction::VPrediction, v), |_| vec![0.3]).unwrap();
        close(found[0], 0.5, 1e-12);
        let refused = table.run(&[1.7], denoiser(Prediction::Epsilon, |x, _| x.to_vec()), |_| vec![0.3]);
        assert!(refused.unwrap_err().to_string().contains("t = 999"));
    }
}

#[test]
fn invalid_arguments_are_errors() {
    let schedule = linear(10);
    for eta in [-0.1, 3.0, f64::NAN] {
        assert!(matches!(ddim(&schedule, &[9, 5, 2], eta, None), Err(Error::Value { name: "eta", .. })), "{eta}");
    }
    assert!(matches!(ddim(&schedule, &[2, 5], 0.0, None), Err(Error::Timestep { index: 1, .. })));
    assert!(ddpm(&schedule, &[10], Variance::FixedSmall, None).is_err());
    assert!(ddpm(&schedule, &[], Variance::FixedSmall, None).is_err());
    assert!(ddpm(&schedule, &[3], Variance::FixedSmall, Some(Clip::Range(-1.0))).is_err());
    assert!(matches!(ddpm_with_variances(&schedule, &[3, 2], &[0.1], None), Err(Error::Length { .. })));
    assert!(matches!(ddpm_with_variances(&schedule, &[3, 2], &[-0.1, 0.1], None), Err(Error::Row { row: 0, .. })));
}

#[test]
fn invalid_tables_are_errors() {
    let good = ddim(&linear(100), &[90, 50, 10], 0.2, Some(Clip::Range(1.0))).unwrap();
    let check = |spoil: &dyn Fn(&mut SolverTable)| {
        let mut table = good.clone();
        spoil(&mut table);
        let same = denoiser(Prediction::Epsilon, |x, _| x.to_vec());
        table.run(&[0.0], same, |_| vec![0.0]).unwrap_err().to_string()
    };
    assert!(check(&|t| t.rows.clear()).contains("no rows"));
    assert!(check(&|t| t.rows[1].x = f64::NAN).contains("row 1"));
    assert!(check(&|t| t.rows[2].epsilon = vec![0.0, f64::INFINITY]).contains("row 2"));
    assert!(check(&|t| t.rows[1].sample = vec![1.0, 0.0, 0.5]).contains("before the first row"));
    assert!(check(&|t| t.rows[0].node.level.alpha = 1.5).contains("alpha"));
    assert!(check(&|t| t.rows[0].node.level.sigma = -0.5).contains("sigma"));
    assert!(check(&|t| t.rows[0].noise = -0.1).contains("noise"));
    assert!(check(&|t| t.clip_sample = Some(Clip::Range(f64::NAN))).contains("clip_sample"));
    let wrong_length = good.run(&[0.0, 1.0], denoiser(Prediction::Epsilon, |_, _| vec![0.0]), |_| vec![0.0]);
    assert_eq!(wrong_length, Err(Error::Length { name: "denoised sample", found: 1, expected: 2 }));
    let wrong_noise = good.run(&[0.0, 1.0], denoiser(Prediction::Epsilon, |x, _| x.to_vec()), |_| vec![0.0]);
    assert_eq!(wrong_noise, Err(Error::Length { name: "noise", found: 1, expected: 2 }));
}

#[test]
fn tables_are_serialized_and_printed() {
    let range = ddpm(&linear(1000), &[999, 333, 0], Variance::LearnedRange, Some(Clip::Range(1.0))).unwrap();
    for table in [range, ddim(&linear(1000), &[999, 333, 0], 0.37, None).unwrap()] {
        let json = serde_json::to_string(&table).unwrap();
        assert_eq!(serde_json::from_str::<SolverTable>(&json).unwrap(), table);
        let rows = serde_json::from_str::<serde_json::Value>(&json).unwrap()["rows"].clone();
        let level = linear(1000).level(333);
        assert_eq!((&rows[1]["timestep"], &rows[1]["alpha"]), (&333.0.into(), &level.alpha.into()));
        assert_eq!(rows[1]["sigma"], level.sigma);
        let printed = table.to_string();
        assert_eq!(printed.lines().count(), 2 + 3, "{printed}");
        assert!(printed.contains("333.00") && printed.starts_with(&table.name));
    }
}

/// On Gaussian data the inversion converges to the exact flow, and DDIM over the same timesteps reconstructs the image.
#[test]
fn ddim_inversion_follows_the_flow_to_noise_and_back() {
    let schedule = NoiseSchedule::new(BetaSchedule::Linear, 1e-4, 0.02, 1000).unwrap();
    let data = Gaussian { mean: 0.5, variance: 0.2 };
    let model = |x: &[f64], t: f64| {
        let alpha = schedule.alpha_cumprod(t as usize);
        x.iter().map(|&x| data.epsilon(x, alpha)).collect::<Vec<_>>()
    };
    let x = [-0.3, 0.5, 1.2];
    let errors = |steps: usize| {
        let up: Vec<usize> = (0..steps).map(|i| i * 999 / (steps - 1)).collect();
        let down: Vec<usize> = up.iter().rev().copied().collect();
        let none = |_: usize| vec![];
        let run = |table: &SolverTable, x: &[f64]| table.run(x, denoiser(Prediction::Epsilon, model), none).unwrap();
        let latents = run(&ddpm_diffusion::solver::ddim_inversion(&schedule, &up).unwrap(), &x);
        let back = run(&ddpm_diffusion::solver::ddim(&schedule, &down, 0.0, None).unwrap(), &latents);
        let flow = |&x: &f64| data.flow(x, schedule.alpha_cumprod(0), schedule.alpha_cumprod(999));
        let worst = |a: Vec<f64>, b: Vec<f64>| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        (worst(latents, x.iter().map(flow).collect()), worst(back, x.to_vec()))
    };
    let (coarse, fine) = (errors(50), errors(200));
    assert!(fine.0 < 0.3 * coarse.0 && fine.1 < 0.3 * coarse.1, "{coarse:?} {fine:?}");
    assert!(fine.0 < 0.03 && fine.1 < 0.03, "{fine:?}");
    assert!(ddpm_diffusion::solver::ddim_inversion(&schedule, &[0]).is_err());
    assert!(ddpm_diffusion::solver::ddim_inversion(&schedule, &[10, 0]).is_err());
    assert!(ddpm_diffusion::solver::ddim_inversion(&schedule, &[0, 1000]).is_err());
}
