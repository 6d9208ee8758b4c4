//! Products of a chain with a factor on data for which the product is known: order of convergence, and the bias of r itself at
//! all times, of replacement and of RePaint.

use ddpm_diffusion::binomial::{Bernoulli, BinomialChain, spin};
use ddpm_diffusion::oracle::{Bits, Component, Mixture, MultivariateGaussian, generated, states};
use ddpm_diffusion::product::{bernoulli_step, normal_variance, sample_shift, times_gaussian};
use ddpm_diffusion::{BetaSchedule, Error, Estimate, Node, NoiseLevel, NoiseSchedule, OdeSolver};

fn jsd(steps: usize) -> NoiseSchedule {
    NoiseSchedule::new(BetaSchedule::Jsd, 0.0, 0.0, steps).unwrap()
}

fn uneven(bits: usize) -> Bits {
    let weight = |n: usize| ((n * 37 + 11) % 23 + 1) as f64;
    Bits::new(states(bits).unwrap().into_iter().enumerate().map(|(n, b)| (weight(n), b)).collect()).unwrap()
}

fn number(bits: &[bool]) -> usize {
    bits.iter().enumerate().map(|(i, &bit)| usize::from(bit) << i).sum()
}

/// A factor that is nowhere 0.
fn smooth(b: &[bool]) -> f64 {
    0.7 * spin(b[0]) * spin(b[1]) - 0.5 * spin(b[2]) + 0.2
}

/// The first bit is known to be 1.
fn known(b: &[bool]) -> f64 {
    if b[0] { 0.0 } else { f64::NEG_INFINITY }
}

/// Half of the sum of the differences of probabilities.
fn distance(exact: &Bits, law: &[f64]) -> f64 {
    let mut left = law.to_vec();
    exact.support().for_each(|(p, b)| left[number(b)] -= p);
    left.iter().map(|difference| difference.abs()).sum::<f64>() / 2.0
}

/// With the expected factor, the reverse step of whole sequences times it is a distribution already and ends in the product.
#[test]
fn the_expected_factor_is_exact_for_whole_sequences() {
    let data = uneven(3);
    let all = states(3).unwrap();
    for factor in [smooth, known] {
        let exact = data.times(factor).unwrap();
        let schedule = jsd(6);
        let chain = BinomialChain::new(&schedule);
        // r_{t−1} of every state.
        let expected =
            |t: usize| -> Vec<f64> {
                let alpha_cumprod = if t == 0 { 1.0 } else { schedule.alpha_cumprod(t - 1) };
                all.iter()
                    .map(|b| {
                        if t == 0 {
                            factor(b).exp()
                        } else {
                            data.expected_factor(b, alpha_cumprod, |b| factor(b).exp())
                        }
                    })
                    .collect()
            };
        let mut law = vec![0.125; 8];
        for t in (0..6).rev() {
            let (r, now) = (expected(t), data_factor(&data, &all, schedule.alpha_cumprod(t), factor));
            let mut next = vec![0.0; 8];
            for (i, b_t) in all.iter().enumerate() {
                let step: Vec<f64> = data.reverse(chain, t, b_t).unwrap().iter().zip(&r).map(|(p, r)| p * r).collect();
                let z: f64 = step.iter().sum();
                assert!((z - now[i]).abs() < 1e-12);
                next.iter_mut().zip(&step).for_each(|(next, p)| *next += law[i] * p / z);
            }
            law = next;
        }
        assert!(distance(&exact, &law) < 1e-12);
    }
}

fn data_factor(data: &Bits, all: &[Vec<bool>], alpha_cumprod: f64, factor: fn(&[bool]) -> f64) -> Vec<f64> {
    all.iter().map(|b| data.expected_factor(b, alpha_cumprod, |b| factor(b).exp())).collect()
}

/// The distance from the exact product of the chain in which each bit's step is multiplied by r_{t−1}.
fn product_chain(data: &Bits, factor: fn(&[bool]) -> f64, steps: usize, constant: bool) -> f64 {
    let schedule = jsd(steps);
    let chain = BinomialChain::new(&schedule);
    let step = |b_t: &[bool], t: usize| {
        let prediction = data.predict(b_t, schedule.alpha_cumprod(t));
        let r = |i: usize, b: &[bool]| match t {
            // The factor of a known bit is about that bit alone.
            _ if (t == 0 || constant) && factor(&[false; 3]) == f64::NEG_INFINITY => {
                if i == 0 {
                    factor(b)
                } else {
                    0.0
                }
            }
            _ if t == 0 || constant => factor(b),
            t => data.expected_factor(b, schedule.alpha_cumprod(t - 1), |b| factor(b).exp()).ln(),
        };
        bernoulli_step((chain, t), b_t, &prediction, r).unwrap()
    };
    distance(&data.times(factor).unwrap(), &generated(data.bits(), steps, step).unwrap())
}

#[test]
fn products_of_bits_with_the_expected_factor_are_of_first_order() {
    let data = uneven(3);
    let errors = [80, 160, 320].map(|steps| product_chain(&data, smooth, steps, false));
    println!("expected factor {errors:?}");
    for pair in errors.windows(2) {
        assert!((pair[0] / pair[1]).log2() > 0.9, "{errors:?}");
    }
    let constant = [80, 320].map(|steps| product_chain(&data, smooth, steps, true));
    println!("constant factor {constant:?}");
    assert!(constant[1] > 10.0 * errors[2] && (constant[0] / constant[1] - 1.0).abs() < 0.2, "{constant:?}");
}

/// The first bit is known. Replacement and RePaint, as Markov chains over all states: every kernel is summed exactly.
fn replacement(data: &Bits, steps: usize, resample: usize) -> f64 {
    let schedule = jsd(steps);
    let chain = BinomialChain::new(&schedule);
    let all = states(data.bits()).unwrap();
    let product = |bits: &[Bernoulli], b: &[bool]| bits.iter().zip(b).map(|(p, &b)| p.of(b)).product::<f64>();
    let apply = |law: &[f64], kernel: &dyn Fn(&[bool]) -> Vec<Bernoulli>| {
        let mut next = vec![0.0; law.len()];
        for (b, p) in all.iter().zip(law) {
            let bits = kernel(b);
            all.iter().zip(&mut next).for_each(|(to, next)| *next += p * product(&bits, to));
        }
        next
    };
    let mut law = vec![1.0 / all.len() as f64; all.len()];
    for t in (0..steps).rev() {
        let reverse = |b_t: &[bool]| -> Vec<Bernoulli> {
            let prediction = data.predict(b_t, schedule.alpha_cumprod(t));
            let mut bits: Vec<Bernoulli> = b_t.iter().zip(prediction).map(|(&b, p)| chain.reverse(t, b, p)).collect();
            let known = Bernoulli::known(true);
            bits[0] = if t == 0 { known } else { chain.noised(t - 1, known) };
            bits
        };
        for turn in 0..resample {
            law = apply(&law, &reverse);
            if t == 0 {
                break;
            }
            if turn + 1 < resample {
                law = apply(&law, &|b: &[bool]| b.iter().map(|&b| chain.step(t, Bernoulli::known(b))).collect());
            }
        }
    }
    distance(&data.times(known).unwrap(), &law)
}

#[test]
fn inpainting_bits_by_products_beside_replacement_and_repaint() {
    let data = uneven(3);
    let expected = [100, 200, 400].map(|steps| product_chain(&data, known, steps, false));
    let constant = product_chain(&data, known, 400, true);
    let [replaced, repaint] = [1, 10].map(|resample| replacement(&data, 400, resample));
    println!("expected {expected:?}, constant {constant}, replacement {replaced}, RePaint {repaint}");
    for pair in expected.windows(2) {
        assert!((pair[0] / pair[1]).log2() > 0.9, "{expected:?}");
    }
    for biased in [constant, replaced, repaint] {
        assert!(biased > 3.0 * expected[2], "{biased} {expected:?}");
    }
    assert!(repaint < replaced);
}

#[test]
fn a_factor_that_excludes_both_values_is_an_error() {
    let schedule = jsd(3);
    let chain = BinomialChain::new(&schedule);
    let error = bernoulli_step((chain, 1), &[true; 2], &[Bernoulli::FAIR; 2], |_, _| f64::NEG_INFINITY).unwrap_err();
    assert!(matches!(error, Error::Unsupported(_)));
    assert!(bernoulli_step((chain, 1), &[true; 2], &[Bernoulli::FAIR], |_, _| 0.0).is_err());
}

/// Tweedie's formula for the product: x̂0 of correlated Gaussian data, shifted by the factor of a known coordinate, is x̂0 of the
/// conditional distribution. The gradient is taken numerically.
#[test]
fn the_shift_of_gaussian_data_is_that_of_the_conditional() {
    let covariance = vec![vec![1.0, 0.6, -0.3], vec![0.6, 2.0, 0.4], vec![-0.3, 0.4, 0.5]];
    let data = MultivariateGaussian::new(vec![0.3, -0.2, 0.1], covariance).unwrap();
    let y = 1.7;
    let conditional = data.conditional(&[Some(y), None, None]).unwrap();
    for alpha_cumprod in [0.02, 0.4, 0.9] {
        let level = NoiseLevel::variance_preserving(alpha_cumprod);
        // p(x_0 = y | x_t) of the first coordinate is N(x̂0, its posterior variance).
        let variance = data.posterior_covariance(alpha_cumprod)[0][0];
        let log_factor = |x: &[f64]| -0.5 * (y - data.sample(x, alpha_cumprod)[0]).powi(2) / variance;
        let x = [0.9, -0.4, 0.2];
        let sample = data.sample(&x, alpha_cumprod);
        let exact = conditional.sample(&x[1..], alpha_cumprod);
        for i in 0..3 {
            const H: f64 = 1e-4;
            let moved = |h: f64| {
                let mut x = x;
                x[i] += h;
                log_factor(&x)
            };
            let gradient = (moved(H) - moved(-H)) / (2.0 * H);
            let found = sample[i] + sample_shift(level) * gradient;
            let expected = if i == 0 { y } else { exact[i - 1] };
            assert!((found - expected).abs() < 1e-9, "{i}: {found} {expected}");
        }
    }
}

/// Independent standard normal values: the assumed variance is the exact one.
#[test]
fn the_assumed_variance_is_exact_for_standard_normal_values() {
    let data = MultivariateGaussian::new(vec![0.0], vec![vec![1.0]]).unwrap();
    for alpha_cumprod in [0.01, 0.5, 0.99] {
        let exact = data.posterior_covariance(alpha_cumprod)[0][0];
        assert!((normal_variance(NoiseLevel::variance_preserving(alpha_cumprod)) - exact).abs() < 1e-12);
    }
}

const Y: f64 = 0.4;
const WIDTH: f64 = 0.3;

/// Two peaks, and their product with the factor N(Y; x_0, WIDTH), which is two other peaks.
fn peaks() -> (Mixture, Mixture) {
    let prior = [(0.7, -0.8, 0.05), (0.3, 0.6, 0.2)];
    let posterior = prior.map(|(weight, mean, variance): (f64, f64, f64)| {
        let total = variance + WIDTH;
        let evidence = (-0.5 * (Y - mean) * (Y - mean) / total).exp() / total.sqrt();
        let (mean, variance) = times_gaussian((mean, variance), (Y, WIDTH));
        (weight * evidence, mean, variance)
    });
    (Mixture::univariate(&prior).unwrap(), Mixture::univariate(&posterior).unwrap())
}

/// x̂0 of the prior, shifted by ∂ln E[r | x_t]/∂x_t, where E[r | x_t] = Σ_k r_k N(Y; m̂_k, v̂_k + WIDTH).
fn shifted(prior: &Mixture, x: f64, level: NoiseLevel) -> f64 {
    let alpha_cumprod = level.alpha * level.alpha;
    let log_factor = |x: f64| {
        let reverse = prior.reverse(&[x], alpha_cumprod, 1.0);
        let density = |c: &Component| {
            let total = c.variance + WIDTH;
            c.weight * (-0.5 * (Y - c.mean[0]).powi(2) / total).exp() / total.sqrt()
        };
        reverse.components().iter().map(density).sum::<f64>().ln()
    };
    // Five points: an error of h⁴.
    const H: f64 = 2e-4;
    let gradient = (8.0 * (log_factor(x + H) - log_factor(x - H))
        - (log_factor(x + 2.0 * H) - log_factor(x - 2.0 * H)))
        / (12.0 * H);
    prior.sample(&[x], alpha_cumprod)[0] + sample_shift(level) * gradient
}

#[test]
fn the_shift_of_a_mixture_is_that_of_the_product() {
    let (prior, posterior) = peaks();
    for alpha_cumprod in [0.05, 0.5, 0.95] {
        let level = NoiseLevel::variance_preserving(alpha_cumprod);
        for x in [-1.5, -0.2, 0.7] {
            let (found, exact) = (shifted(&prior, x, level), posterior.sample(&[x], alpha_cumprod)[0]);
            assert!((found - exact).abs() < 1e-8, "{alpha_cumprod} {x}: {found} {exact}");
        }
    }
}

/// Samplers of the product follow its exact flow with the order that they have for p.
#[test]
fn samplers_of_the_product_keep_their_order() {
    let (prior, posterior) = peaks();
    let alpha_cumprod = |lambda: f64| 1.0 / (1.0 + (-2.0 * lambda).exp());
    let error = |solver: OdeSolver, steps: usize| {
        let nodes: Vec<Node> = (0..=steps)
            .map(|i| -5.0 + 8.0 * i as f64 / steps as f64)
            .map(|lambda| Node { timestep: -lambda, level: NoiseLevel::variance_preserving(alpha_cumprod(lambda)) })
            .collect();
        let table = solver.table(&nodes, None).unwrap();
        let denoise = |x: &[f64], node: Node| {
            let sample: Vec<f64> = x.iter().map(|&x| shifted(&prior, x, node.level)).collect();
            let epsilon = x.iter().zip(&sample).map(|(x, sample)| (x - node.level.alpha * sample) / node.level.sigma);
            Ok(Estimate { epsilon: epsilon.collect(), sample, v: vec![] })
        };
        let starts = [-1.2, -0.3, 0.1, 0.9];
        let found = table.run(&starts, denoise, |_| unreachable!("no noise")).unwrap();
        let exact = |x: f64| posterior.flow(x, alpha_cumprod(-5.0), alpha_cumprod(3.0)).unwrap();
        starts.iter().zip(found).map(|(&x, found)| (found - exact(x)).abs()).fold(0.0, f64::max)
    };
    for (solver, order) in [(OdeSolver::Dpmpp1, 1.0), (OdeSolver::Dpmpp2m, 2.0), (OdeSolver::Dpmpp3m, 3.0)] {
        let errors = [160, 320, 640].map(|steps| error(solver, steps));
        let observed = (errors[0] / errors[2]).log2() / 2.0;
        println!("{} {errors:?}, order {observed:.2}", solver.name());
        assert!((observed - order).abs() < 0.15, "{}: order {observed:.2}, not {order}", solver.name());
    }
}
