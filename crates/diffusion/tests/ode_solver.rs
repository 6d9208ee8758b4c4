//! ODE solvers against the exact probability flow of a mixture, and against diffusers.

use ddpm_diffusion::churn::edm_sde;
use ddpm_diffusion::oracle::{Gaussian, Mixture};
use ddpm_diffusion::{BetaSchedule, Clip, Node, NoiseLevel, NoiseSchedule, OdeSolver, Prediction, TimestepGrid};

mod common;
use common::denoiser;

/// Three Gaussians in one dimension, under the continuous VP chain β(t) = 0.1 + 19.9 t.
fn mixture() -> Mixture {
    Mixture::univariate(&[(0.3, -1.0, 0.16), (0.5, 0.3, 0.25), (0.2, 1.2, 0.09)]).unwrap()
}

fn alpha_cumprod(t: f64) -> f64 {
    (-(0.1 * t + 0.5 * 19.9 * t * t)).exp()
}

/// The node of a λ, by bisection over t.
fn node(lambda: f64) -> Node {
    let at = |t: f64| Node { timestep: t, level: NoiseLevel::variance_preserving(alpha_cumprod(t)) };
    let (mut low, mut high) = (0.0, 2.0);
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if at(middle).level.lambda() > lambda { low = middle } else { high = middle }
    }
    at(0.5 * (low + high))
}

/// The greatest error over starting points, from t = 1 to 1e-3 in `steps` steps, uniform in λ.
fn error(sampler: OdeSolver, steps: usize) -> f64 {
    let data = mixture();
    let ends = [1.0, 1e-3].map(|t| Node { timestep: t, level: NoiseLevel::variance_preserving(alpha_cumprod(t)) });
    let (first, last) = (ends[0].level.lambda(), ends[1].level.lambda());
    let nodes: Vec<Node> = (0..=steps).map(|i| node(first + (last - first) * i as f64 / steps as f64)).collect();
    let table = sampler.table(&nodes, None).unwrap();
    let starts: Vec<f64> = (0..41).map(|i| -2.5 + 0.125 * f64::from(i)).collect();
    let model = |x: &[f64], t: f64| x.iter().map(|&x| data.epsilon(&[x], alpha_cumprod(t))[0]).collect();
    let got = table.run(&starts, denoiser(Prediction::Epsilon, model), |_| unreachable!("no noise")).unwrap();
    let exact = |x: f64| data.flow(x, nodes[0].level.alpha_cumprod(), nodes[steps].level.alpha_cumprod()).unwrap();
    starts.iter().zip(got).map(|(&x, got)| (got - exact(x)).abs()).fold(0.0, f64::max)
}

/// Between 160 and 640 steps the error falls as steps^−order.
#[test]
fn errors_fall_at_the_order_of_the_solver() {
    use OdeSolver::*;
    for (sampler, order) in [
        (Dpmpp1, 1.0),
        (Heun, 2.0),
        (Dpmpp2m, 2.0),
        (Dpmpp3m, 3.0),
        (Dpmpp3mDiffusers, 2.0),
        (Unipc1, 2.0),
        (Unipc2, 3.0),
        (Unipc3, 4.0),
        (Ipndm1, 1.0),
        (Ipndm2, 2.0),
        (Ipndm3, 2.0),
        (Ipndm4, 2.0),
        (Deis3, 3.0),
    ] {
        let (coarse, middle, fine) = (error(sampler, 160), error(sampler, 320), error(sampler, 640));
        let observed = (coarse / fine).log2() / 2.0;
        println!("{:<20} {coarse:.1e} {middle:.1e} {fine:.1e}  order {observed:.2}", sampler.name());
        assert!((observed - order).abs() <= 0.15, "{}: order {observed:.2}, not {order}", sampler.name());
    }
}

/// y = x/α changes by ∫ε̂ d(σ/α). With equal steps in σ/α and a full history, Adams–Bashforth of order k is exact if ε̂
/// is a polynomial of degree k − 1 in σ/α.
#[test]
fn ipndm_integrates_polynomials_of_its_order() {
    let nodes: Vec<Node> = (0..8)
        .map(|i| 3.0 - 0.4 * f64::from(i))
        .map(|y| Node { timestep: y, level: NoiseLevel::variance_preserving(1.0 / (1.0 + y * y)) })
        .collect();
    for (order, sampler) in
        [OdeSolver::Ipndm1, OdeSolver::Ipndm2, OdeSolver::Ipndm3, OdeSolver::Ipndm4].into_iter().enumerate()
    {
        let table = sampler.table(&nodes, None).unwrap();
        for degree in 0..=order + 1 {
            // The change of y in the last step.
            let row = &table.rows[6];
            let (from, to) = (nodes[6], nodes[7]);
            let step: f64 =
                row.epsilon.iter().zip((0..7).rev()).map(|(c, i)| c * nodes[i].timestep.powi(degree as i32)).sum();
            let power = degree as i32 + 1;
            let exact = (to.timestep.powi(power) - from.timestep.powi(power)) / f64::from(power);
            assert_eq!((step / to.level.alpha - exact).abs() < 1e-12, degree <= order, "{} {degree}", sampler.name());
        }
    }
}

/// Without history every deterministic solver is DDIM.
#[test]
fn the_first_step_is_ddim() {
    let nodes = [0.9, 0.4].map(|t| Node { timestep: t, level: NoiseLevel::variance_preserving(alpha_cumprod(t)) });
    let model = |x: &[f64], t: f64| vec![mixture().epsilon(x, alpha_cumprod(t))[0]];
    let run = |sampler: OdeSolver| {
        let table = sampler.table(&nodes, None).unwrap();
        // Without Heun's second row.
        let table = ddpm_diffusion::SolverTable { rows: table.rows[..1].to_vec(), ..table };
        table.run(&[0.7], denoiser(Prediction::Epsilon, model), |_| vec![0.0]).unwrap()[0]
    };
    let ddim = run(OdeSolver::Dpmpp1);
    for (name, sampler) in OdeSolver::NAMES {
        assert_eq!(name.parse::<OdeSolver>().unwrap(), sampler);
        if sampler != OdeSolver::DpmppSde2m {
            assert!((run(sampler) - ddim).abs() < 1e-12, "{name}: {} {ddim}", run(sampler));
        }
    }
}

/// Starting at α = 0, where λ and σ/α are not finite.
#[test]
fn zero_terminal_snr() {
    let linear = NoiseSchedule::new(BetaSchedule::Linear, 1e-4, 0.02, 1000).unwrap();
    let schedule = linear.rescale_zero_terminal_snr().unwrap();
    let data = Gaussian { mean: 0.4, variance: 0.3 };
    let v = |x: &[f64], t: f64| {
        let level = schedule.level_at(t);
        let v = |(epsilon, sample)| level.alpha * epsilon - level.sigma * sample;
        let exact = data.denoise(x, level);
        exact.epsilon.into_iter().zip(exact.sample).map(v).collect()
    };
    let starts = [-2.0, -0.3, 0.0, 1.1];
    let heun = |nodes: &[Node]| {
        edm_sde(&schedule, nodes, ddpm_diffusion::Churn { s_churn: 0.0, ..Default::default() }, None).unwrap()
    };
    for (name, grid) in TimestepGrid::NAMES {
        let nodes = grid.nodes(&schedule, 50, false).unwrap();
        let tables = OdeSolver::NAMES.iter().filter(|(_, sampler)| *sampler != OdeSolver::DpmppSde2m);
        for table in tables.map(|(_, sampler)| sampler.table(&nodes, None).unwrap()).chain([heun(&nodes)]) {
            let first = NoiseLevel::variance_preserving(2f64.powi(-24));
            assert_eq!(table.rows[0].node, Node { timestep: 999.0, level: first });
            let end = table.run(&starts, denoiser(Prediction::VPrediction, v), |_| unreachable!("no noise")).unwrap();
            let error =
                starts.iter().zip(end).map(|(&x, end)| (end - data.flow(x, 0.0, 1.0)).abs()).fold(0.0, f64::max);
            println!("{:<20} {name:<10} {error:.1e}", table.name);
            let bound = match table.name.as_str() {
                "dpmpp-1" | "ipndm-1" => 0.15,
                "unipc-3" | "dpmpp-3m" if grid == TimestepGrid::LogSnr => 5e-4,
                _ if grid == TimestepGrid::LogSnr => 0.02,
                _ => 0.2,
            };
            assert!(error < bound, "{} {name}: {error:e}", table.name);
        }
    }
    // With hardly any signal at the second node too.
    let nodes = [999.0, 998.0, 997.0, 500.0].map(|t| Node::at(&schedule, t));
    OdeSolver::Unipc3.table(&nodes, None).unwrap();
}

/// The SDE step maps the law of x_s to that of x_t, for data at 0.
#[test]
fn the_stochastic_step_has_the_right_variance() {
    let nodes = [1.0, 0.5, 0.2].map(|t| Node { timestep: t, level: NoiseLevel::variance_preserving(alpha_cumprod(t)) });
    for row in OdeSolver::DpmppSde2m.table(&nodes, None).unwrap().rows {
        // For data at 0, x = σ z.
        let s = row.node.level.sigma.powi(2);
        let t = nodes[nodes.iter().position(|node| *node == row.node).unwrap() + 1].level.sigma.powi(2);
        assert!((row.x * row.x * s + row.noise * row.noise - t).abs() < 1e-12);
    }
}

/// The last step is of first order and so ends at the clipped x̂0, in noise-prediction solvers too.
#[test]
fn results_are_within_the_clip() {
    let nodes =
        [1.0, 0.7, 0.4, 0.1].map(|t| Node { timestep: t, level: NoiseLevel::variance_preserving(alpha_cumprod(t)) });
    let nodes: Vec<Node> = nodes.into_iter().chain([Node::DATA]).collect();
    for sampler in [OdeSolver::Heun, OdeSolver::Deis3, OdeSolver::Unipc3, OdeSolver::Dpmpp2m, OdeSolver::Ipndm1] {
        let table = sampler.table(&nodes, Some(Clip::Range(1.0))).unwrap();
        let model = |x: &[f64], _: f64| x.iter().map(|x| 5.0 - x).collect();
        let image = table.run(&[0.5, -3.0], denoiser(Prediction::Epsilon, model), |_| vec![]).unwrap();
        assert!(image.iter().all(|x| x.abs() <= 1.0 + 1e-12), "{}: {image:?}", sampler.name());
    }
}

#[test]
fn invalid_nodes_are_errors() {
    let node = |alpha_cumprod| Node { timestep: 1.0, level: NoiseLevel::variance_preserving(alpha_cumprod) };
    for nodes in [vec![], vec![node(0.5)], vec![node(-0.1), node(0.5)], vec![node(0.5), node(0.4)]] {
        for (_, sampler) in OdeSolver::NAMES {
            assert!(sampler.table(&nodes, None).is_err());
        }
    }
    for (_, sampler) in OdeSolver::NAMES {
        let table = sampler.table(&[node(0.1), node(0.5), node(0.9), Node::DATA], Some(Clip::Range(1.0))).unwrap();
        table.check().unwrap();
    }
}

/// The same start and network as in runs of diffusers' schedulers with tables in f64 (tools/goldens_multistep.py).
#[test]
fn sampling_runs_of_diffusers() {
    #[derive(serde::Deserialize)]
    struct Golden {
        start: Vec<f64>,
        runs: Vec<Run>,
    }
    #[derive(serde::Deserialize)]
    struct Run {
        sampler: String,
        steps: usize,
        spacing: String,
        timesteps: Vec<f64>,
        x: Vec<f64>,
        clip: Option<Clip>,
        #[serde(default)]
        zero_snr: bool,
    }
    let golden: Golden = serde_json::from_str(include_str!("goldens/multistep.json")).unwrap();
    let schedule = NoiseSchedule::new(BetaSchedule::Linear, 1e-4, 0.02, 1000).unwrap();
    let model = |x: &[f64], t: f64| x.iter().map(|x| (1.3 * x + 0.4 * (t / 300.0).cos()).tanh()).collect();
    let mut worst = 0f64;
    for Run { sampler, steps, spacing, mut timesteps, x, clip, zero_snr } in golden.runs {
        let (schedule, prediction) = match zero_snr {
            true => (schedule.rescale_zero_terminal_snr().unwrap(), Prediction::VPrediction),
            false => (schedule.clone(), Prediction::Epsilon),
        };
        // diffusers repeats the second timestep in PNDM, and all but the first in Heun. The last step of PNDM, from t =
        // 0 to ᾱ_0, has no effect.
        timesteps.dedup();
        let end = match sampler.as_str() {
            "pndm" => None,
            // diffusers' DEIS ends at ᾱ_0.
            "deis-3" => Some(Node::at(&schedule, 0.0)),
            _ => Some(Node::DATA),
        };
        let nodes: Vec<Node> = timesteps.into_iter().map(|t| Node::at(&schedule, t)).chain(end).collect();
        let table = sampler.parse::<OdeSolver>().unwrap().table(&nodes, clip).unwrap();
        let got = table.run(&golden.start, denoiser(prediction, model), |_| unreachable!("no noise")).unwrap();
        let error = got.iter().zip(&x).map(|(got, x)| (got - x).abs()).fold(0.0, f64::max);
        println!("{sampler:<20} {steps:>3} {spacing:<9} {clip:?} {zero_snr} {error:.1e}");
        // diffusers' DPM-Solver scheduler stores x in f32.
        let bound = if sampler.starts_with("dpmpp") { 1e-4 } else { 1e-10 };
        assert!(error <= bound, "{sampler} {steps} {spacing}: off by {error:e}");
        worst = worst.max(error);
    }
    assert!(worst > 0.0);
}
