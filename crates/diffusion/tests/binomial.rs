//! The binomial chain against the enumeration of every path, written from the definition of one step only.

use ddpm_diffusion::binomial::{Bernoulli, BinomialChain};
use ddpm_diffusion::oracle::{Bits, generated, states};
use ddpm_diffusion::{BetaSchedule, NoiseSchedule, SchedulerConfig};
use proptest::prelude::*;
use random::{Random, Stream};

/// Their schedule, 1/(T−t+1).
fn jsd(steps: usize) -> NoiseSchedule {
    NoiseSchedule::new(BetaSchedule::Jsd, 0.0, 0.0, steps).unwrap()
}

/// A distribution on all of {0,1}^k with unlike probabilities.
fn uneven(bits: usize) -> Bits {
    let weight = |n: usize| ((n * 37 + 11) % 23 + 1) as f64;
    Bits::new(states(bits).unwrap().into_iter().enumerate().map(|(n, b)| (weight(n), b)).collect()).unwrap()
}

/// q(b_t | b_{t−1}) of a whole sequence, from the words "a bit is replaced by a fair coin with probability β".
fn kernel(beta: f64, from: &[bool], to: &[bool]) -> f64 {
    from.iter().zip(to).map(|(a, b)| if a == b { 1.0 - beta / 2.0 } else { beta / 2.0 }).product()
}

/// Calls `f` with every path b_0, b_1, …, b_T and its probability.
fn paths(data: &Bits, betas: &[f64], f: &mut impl FnMut(&[Vec<bool>], f64)) {
    fn extend(
        path: &mut Vec<Vec<bool>>,
        p: f64,
        betas: &[f64],
        all: &[Vec<bool>],
        f: &mut impl FnMut(&[Vec<bool>], f64),
    ) {
        let Some(&beta) = betas.get(path.len() - 1) else { return f(path, p) };
        for next in all {
            let p = p * kernel(beta, path.last().unwrap(), next);
            path.push(next.clone());
            extend(path, p, betas, all, f);
            path.pop();
        }
    }
    let all = states(data.bits()).unwrap();
    for (weight, b_0) in data.support() {
        extend(&mut vec![b_0.to_vec()], weight, betas, &all, f);
    }
}

fn number(bits: &[bool]) -> usize {
    bits.iter().enumerate().map(|(i, &bit)| usize::from(bit) << i).sum()
}

fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-12, "{found} instead of {expected}");
}

const BETAS: [&[f64]; 3] = [&[0.1, 0.35, 0.6], &[0.7, 0.2, 0.05], &[1.0 / 3.0, 0.5, 1.0]];

#[test]
fn forward_chain_posterior_prediction_and_reverse_step_are_those_of_all_paths() {
    let data = uneven(2);
    for betas in BETAS {
        let schedule = NoiseSchedule::from_betas(betas.to_vec()).unwrap();
        let chain = BinomialChain::new(&schedule);
        // joint[t][b_0][b_{t−1}][b_t] for a time t of the code, which is path[t + 1].
        let mut joint = vec![[[[0.0; 4]; 4]; 4]; 3];
        paths(&data, betas, &mut |path, p| {
            for t in 0..3 {
                joint[t][number(&path[0])][number(&path[t])][number(&path[t + 1])] += p;
            }
        });
        let all = states(2).unwrap();
        for (t, joint) in joint.iter().enumerate() {
            for (j, b_t) in all.iter().enumerate() {
                let marginal: f64 = joint.iter().flatten().map(|row| row[j]).sum();
                close(data.probability(b_t, schedule.alpha_cumprod(t)), marginal);
                let prediction = data.predict(b_t, schedule.alpha_cumprod(t));
                let reverse = data.reverse(chain, t, b_t).unwrap();
                for (i, b_s) in all.iter().enumerate() {
                    close(reverse[i], joint.iter().map(|rows| rows[i][j]).sum::<f64>() / marginal);
                    for (b_0, rows) in all.iter().zip(joint) {
                        let given_0_t: f64 = rows.iter().map(|row| row[j]).sum();
                        let posterior: f64 = (0..2).map(|k| chain.posterior(t, b_t[k], b_0[k]).of(b_s[k])).product();
                        close(posterior, rows[i][j] / given_0_t);
                    }
                }
                for bit in 0..2 {
                    let share = |value: bool| {
                        let holds = |b_0: &&Vec<bool>| b_0[bit] == value;
                        let total = |b_0: &Vec<bool>| joint[number(b_0)].iter().map(|row| row[j]).sum::<f64>();
                        all.iter().filter(holds).map(total).sum::<f64>() / marginal
                    };
                    close(prediction[bit].one, share(true));
                    close(prediction[bit].zero, share(false));
                    let one: f64 = all.iter().zip(&reverse).filter(|(b_s, _)| b_s[bit]).map(|(_, p)| p).sum();
                    let step = chain.reverse(t, b_t[bit], prediction[bit]);
                    close(step.one, one);
                    close(step.zero, 1.0 - one);
                    let back = chain.prediction(t, b_t[bit], step);
                    close(back.one, prediction[bit].one);
                    close(back.zero, prediction[bit].zero);
                }
            }
        }
    }
}

/// E log₂ q(b_1 … b_T | b_0)/p(b_0 … b_T) over all paths, for the product chain of a prediction that is not exact.
#[test]
fn the_bound_is_the_expectation_over_all_paths() {
    let data = uneven(2);
    let predict = |b_t: &[bool], t: usize| -> Vec<Bernoulli> {
        b_t.iter()
            .enumerate()
            .map(|(i, &b)| Bernoulli::from_logit(if b { 0.8 } else { -1.1 } + 0.3 * (i + t) as f64))
            .collect()
    };
    for betas in BETAS {
        let schedule = NoiseSchedule::from_betas(betas.to_vec()).unwrap();
        let chain = BinomialChain::new(&schedule);
        let (mut expected, mut total) = (0.0, 0.0);
        paths(&data, betas, &mut |path, probability| {
            let forward: f64 = (0..3).map(|t| kernel(betas[t], &path[t], &path[t + 1])).product();
            let reverse: f64 = (0..3)
                .map(|t| {
                    let p = predict(&path[t + 1], t);
                    (0..2).map(|i| chain.reverse(t, path[t + 1][i], p[i]).of(path[t][i])).product::<f64>()
                })
                .product();
            total += probability;
            expected += probability * (forward / (reverse * 0.25)).log2();
        });
        close(total, 1.0);
        close(data.bound(chain, predict).unwrap(), expected);
    }
}

/// The bound of the exact prediction is the entropy and the gap of product steps, which falls as 1/T.
#[test]
fn the_bound_of_the_exact_prediction_is_the_entropy_and_the_gap() {
    let data = uneven(3);
    let gap = |steps: usize| {
        let schedule = jsd(steps);
        let chain = BinomialChain::new(&schedule);
        let gap = data.gap(chain).unwrap();
        let exact = |b: &[bool], t: usize| data.predict(b, schedule.alpha_cumprod(t));
        let bound = data.bound(chain, exact).unwrap();
        assert!((bound - data.entropy() - gap).abs() < 1e-10, "{bound} {} {gap}", data.entropy());
        gap
    };
    let gaps = [50, 100, 200].map(gap);
    println!("gaps {gaps:?}");
    for pair in gaps.windows(2) {
        assert!((pair[0] / pair[1] - 2.0).abs() < 0.1 && pair[1] > 0.0, "{gaps:?}");
    }
    // One bit has no others to be independent of.
    let coin = Bits::new(vec![(0.3, vec![true]), (0.7, vec![false])]).unwrap();
    assert!(coin.gap(BinomialChain::new(&jsd(4))).unwrap().abs() < 1e-12);
}

/// A chain that does not end in fair coins has the prior's term and its part of the gap.
#[test]
fn a_short_chain_has_the_term_of_the_prior() {
    let data = uneven(3);
    let schedule = NoiseSchedule::from_betas(vec![0.1, 0.2, 0.1]).unwrap();
    let chain = BinomialChain::new(&schedule);
    let keep: f64 = 0.9 * 0.8 * 0.9;
    let (up, down) = ((1.0 + keep) / 2.0, (1.0 - keep) / 2.0);
    close(chain.prior(3), 3.0 * (1.0 + up * up.log2() + down * down.log2()));
    let bound = data.bound(chain, |b, t| data.predict(b, schedule.alpha_cumprod(t))).unwrap();
    assert!((bound - data.entropy() - data.gap(chain).unwrap()).abs() < 1e-10);
    close(BinomialChain::new(&jsd(7)).prior(20), 0.0);
}

/// The exact reverse chain of whole sequences generates the data; products of bits approach it.
#[test]
fn reverse_chains_generate_the_data() {
    let data = uneven(3);
    let distance = |steps: usize| {
        let schedule = jsd(steps);
        let chain = BinomialChain::new(&schedule);
        let step = |b_t: &[bool], t: usize| {
            let prediction = data.predict(b_t, schedule.alpha_cumprod(t));
            b_t.iter().zip(prediction).map(|(&b, p)| chain.reverse(t, b, p)).collect()
        };
        let law = generated(3, steps, step).unwrap();
        assert!((law.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        data.support().map(|(p, b)| (p - law[number(b)]).abs()).sum::<f64>() / 2.0
    };
    let distances = [40, 80, 160].map(distance);
    for pair in distances.windows(2) {
        assert!((pair[0] / pair[1] - 2.0).abs() < 0.1, "{distances:?}");
    }

    let schedule = jsd(5);
    let chain = BinomialChain::new(&schedule);
    let all = states(3).unwrap();
    let mut law = vec![0.125; 8];
    for t in (0..5).rev() {
        let rows: Vec<Vec<f64>> = all.iter().map(|b| data.reverse(chain, t, b).unwrap()).collect();
        law = (0..8).map(|s| (0..8).map(|t| law[t] * rows[t][s]).sum()).collect();
    }
    data.support().for_each(|(p, b)| close(law[number(b)], p));
}

#[test]
fn samples_have_the_probabilities_of_the_chain() {
    let data = uneven(2);
    let schedule = jsd(30);
    let chain = BinomialChain::new(&schedule);
    let random = Random::new(5);
    const SAMPLES: u64 = 20_000;
    let mut counts = [0.0; 4];
    for i in 0..SAMPLES {
        let mut step = 0;
        let uniforms = || {
            let mut u = vec![0.0; 2];
            random.uniforms_f64(Stream::SamplerNoise, i, step, &mut u);
            step += 1;
            u
        };
        let exact = |b: &[bool], t: usize| Ok(data.predict(b, schedule.alpha_cumprod(t)));
        counts[number(&chain.sample(2, exact, uniforms).unwrap())] += 1.0 / SAMPLES as f64;
    }
    let step = |b_t: &[bool], t: usize| {
        let prediction = data.predict(b_t, schedule.alpha_cumprod(t));
        b_t.iter().zip(prediction).map(|(&b, p)| chain.reverse(t, b, p)).collect()
    };
    let law = generated(2, 30, step).unwrap();
    for (count, p) in counts.iter().zip(law) {
        assert!((count - p).abs() < 4.0 * (p * (1.0 - p) / SAMPLES as f64).sqrt(), "{counts:?}");
    }
    // q(b_t | b_0): a share of ᾱ + (1 − ᾱ)/2 of the bits is kept.
    let mut uniforms = vec![0.0; 100_000];
    random.uniforms_f64(Stream::Noise, 0, 0, &mut uniforms);
    let ones = chain.q_sample(9, &vec![true; 100_000], &uniforms).iter().filter(|&&bit| bit).count();
    let p = 0.5 * (1.0 + schedule.alpha_cumprod(9));
    assert!((ones as f64 / 1e5 - p).abs() < 4.0 * (p * (1.0 - p) / 1e5).sqrt(), "{ones}");
}

#[test]
fn the_heartbeat_has_five_sequences() {
    let heartbeat = Bits::heartbeat();
    close(heartbeat.entropy(), 5f64.log2());
    assert_eq!((heartbeat.bits(), heartbeat.support().count()), (20, 5));
    for (i, (_, b)) in heartbeat.support().enumerate() {
        assert_eq!(b.iter().filter(|&&bit| bit).count(), 4);
        assert!(b.iter().enumerate().all(|(at, &bit)| bit == (at % 5 == i)));
    }
}

#[test]
fn wrong_arguments_are_errors() {
    let schedule = jsd(3);
    let chain = BinomialChain::new(&schedule);
    let [b, p] = [vec![true, false], vec![false; 2]];
    let half = [Bernoulli::FAIR; 2];
    assert!(chain.term(2, &b, &p, &half).is_ok());
    assert!(chain.term(3, &b, &p, &half).is_err());
    assert!(chain.term(2, &b, &p[..1], &half).is_err());
    assert!(chain.term(2, &b, &p, &half[..1]).is_err());
    assert!(chain.term(2, &[], &[], &[]).is_err());
    assert!(chain.sample(2, |_, _| Ok(vec![Bernoulli::FAIR]), || vec![0.5; 2]).is_err());
    assert!(chain.sample(2, |_, _| Ok(half.to_vec()), || vec![0.5]).is_err());
    for support in [vec![], vec![(1.0, vec![])], vec![(0.0, vec![true])], vec![(1.0, vec![true]), (1.0, vec![])]] {
        assert!(Bits::new(support).is_err());
    }
    assert!(states(13).is_err());
    assert!(uneven(2).times(|_| f64::NEG_INFINITY).is_err());
}

proptest! {
    #[test]
    fn a_logit_and_its_probabilities_agree(logit in -700.0..700.0f64) {
        let p = Bernoulli::from_logit(logit);
        prop_assert!((p.zero + p.one - 1.0).abs() < 1e-15);
        prop_assert!((p.logit() - logit).abs() < 1e-12 * logit.abs().max(1.0));
        prop_assert!((p.kl(Bernoulli::FAIR) - (std::f64::consts::LN_2 - p.entropy())).abs() < 1e-12);
    }

    /// Two steps are one step of the sub-chain that leaves out the time between them.
    #[test]
    fn sub_chains_have_the_same_marginals(t in 1usize..30, s in 0usize..30, bit: bool) {
        prop_assume!(s < t);
        let schedule = NoiseSchedule::new(BetaSchedule::SquaredcosCapV2, 0.0, 0.0, 30).unwrap();
        let sub = schedule.respace(&[t, s]).unwrap();
        let (whole, part) = (BinomialChain::new(&schedule), BinomialChain::new(&sub));
        let direct = whole.noised(t, Bernoulli::known(bit));
        let steps = part.step(1, part.step(0, Bernoulli::known(bit)));
        prop_assert!((direct.one - steps.one).abs() < 1e-12 && (direct.zero - steps.zero).abs() < 1e-12);
    }
}

/// The configuration is written and read; what needs Gaussian noise says so.
#[test]
fn the_scheduler_of_a_binomial_chain_round_trips() {
    let config = SchedulerConfig::binomial(BetaSchedule::Jsd, 30);
    let text = config.to_json().unwrap();
    assert!(text.contains("\"_class_name\": \"BinomialScheduler\""), "{text}");
    assert_eq!(SchedulerConfig::from_json(&text).unwrap(), config);
    assert_eq!(config.class_name(), "BinomialScheduler");
    assert_eq!(config.binomial_schedule().unwrap(), jsd(30));
    let error = config.noise_schedule().unwrap_err().to_string();
    assert!(error.contains("binomial") && error.contains("Gaussian"), "{error}");
    assert!(SchedulerConfig::default().binomial_schedule().is_err());
    for wrong in [
        r#"{"_class_name": "BinomialScheduler", "clip_sample": true}"#,
        r#"{"_class_name": "BinomialScheduler", "num_train_timesteps": 0}"#,
        r#"{"_class_name": "BinomialScheduler", "beta_schedule": "none"}"#,
        r#"{"_class_name": "BinomialScheduler", "trained_betas": [0.5]}"#,
        r#"{"_class_name": "DDPMScheduler", "process": "binomial"}"#,
    ] {
        assert!(SchedulerConfig::from_json(wrong).is_err(), "{wrong}");
    }
}
