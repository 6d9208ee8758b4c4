//! Distributions of bits, whose binomial chain is computed by enumeration.

use std::f64::consts::LN_2;

use crate::Error;
use crate::binomial::{Bernoulli, BinomialChain};

/// The longest sequences over all of whose 2^k states an exact sum goes.
const MAX_ENUMERATED: usize = 12;

/// A distribution over sequences of bits, by its support. It is any distribution on {0,1}^k if the support is all of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Bits {
    weights: Vec<f64>,
    sequences: Vec<Vec<bool>>,
}

impl Bits {
    /// Creates a distribution from sequences with their weights, which are normalized to sum to 1.
    ///
    /// # Errors
    /// If there are none, their lengths differ or are 0, or a weight is not positive.
    pub fn new(support: Vec<(f64, Vec<bool>)>) -> Result<Self, Error> {
        let bits = support.first().map_or(0, |(_, sequence)| sequence.len());
        if bits == 0 {
            return Err(Error::Length { name: "bits of a sequence", found: 0, expected: 1 });
        }
        for (weight, sequence) in &support {
            if sequence.len() != bits {
                return Err(Error::Length { name: "bits of a sequence", found: sequence.len(), expected: bits });
            }
            if !(*weight > 0.0 && weight.is_finite()) {
                return Err(Error::Value { name: "weight", value: *weight, expected: "a positive number" });
            }
        }
        let total: f64 = support.iter().map(|(weight, _)| weight).sum();
        let (weights, sequences) = support.into_iter().map(|(weight, sequence)| (weight / total, sequence)).unzip();
        Ok(Self { weights, sequences })
    }

    /// The heartbeat of Sohl-Dickstein et al. 2015 (§3.1): sequences of 20 bits in which every fifth is 1, at one of five phases.
    pub fn heartbeat() -> Self {
        let sequence = |phase: usize| (0..20).map(|i| i % 5 == phase).collect();
        Self { weights: vec![0.2; 5], sequences: (0..5).map(sequence).collect() }
    }

    /// Returns the sequences with their probabilities.
    pub fn support(&self) -> impl Iterator<Item = (f64, &[bool])> {
        self.weights.iter().copied().zip(self.sequences.iter().map(Vec::as_slice))
    }

    /// Returns k, the number of bits of a sequence.
    pub fn bits(&self) -> usize {
        self.sequences[0].len()
    }

    /// Returns the entropy in bits per sequence.
    pub fn entropy(&self) -> f64 {
        self.weights.iter().map(|weight| -weight * weight.ln()).sum::<f64>() / LN_2
    }

    /// Returns the distribution proportional to P(b_0)·r(b_0), for ln r.
    ///
    /// # Errors
    /// If r is 0 for all sequences, or not finite for one.
    pub fn times(&self, log_factor: impl Fn(&[bool]) -> f64) -> Result<Self, Error> {
        let logs: Vec<f64> = self.support().map(|(weight, b)| weight.ln() + log_factor(b)).collect();
        let greatest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let kept = logs.iter().zip(&self.sequences).filter(|(log, _)| **log > f64::NEG_INFINITY);
        Self::new(kept.map(|(log, b)| ((log - greatest).exp(), b.clone())).collect())
    }

    /// Returns the posterior probability of each sequence of the support given b_t, for ᾱ_t ≤ 1, and ln q(b_t).
    fn given(&self, b_t: &[bool], alpha_cumprod: f64) -> (Vec<f64>, f64) {
        let (same, other) = ((0.5 * (1.0 + alpha_cumprod)).ln(), (0.5 * (1.0 - alpha_cumprod)).ln());
        let log_joint = |(weight, b_0): (f64, &[bool])| {
            let changed = b_0.iter().zip(b_t).filter(|(a, b)| a != b).count();
            let kept = b_0.len() - changed;
            // 0·ln 0 is 0 here.
            let changes = if changed == 0 { 0.0 } else { changed as f64 * other };
            weight.ln() + kept as f64 * same + changes
        };
        let logs: Vec<f64> = self.support().map(log_joint).collect();
        let greatest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = logs.iter().map(|log| (log - greatest).exp()).sum();
        (logs.iter().map(|log| (log - greatest).exp() / total).collect(), greatest + total.ln())
    }

    /// Returns q(b_t).
    pub fn probability(&self, b_t: &[bool], alpha_cumprod: f64) -> f64 {
        self.given(b_t, alpha_cumprod).1.exp()
    }

    /// Returns the exact prediction p(b_0 | b_t) of each bit.
    pub fn predict(&self, b_t: &[bool], alpha_cumprod: f64) -> Vec<Bernoulli> {
        let posterior = self.given(b_t, alpha_cumprod).0;
        let mut prediction = vec![Bernoulli { zero: 0.0, one: 0.0 }; self.bits()];
        for (probability, sequence) in posterior.iter().zip(&self.sequences) {
            for (bit, prediction) in sequence.iter().zip(&mut prediction) {
                if *bit { prediction.one += probability } else { prediction.zero += probability }
            }
        }
        prediction
    }

    /// Returns E[r(b_0) | b_t], the factor at time t that makes a product of the chain with r exact.
    pub fn expected_factor(&self, b_t: &[bool], alpha_cumprod: f64, factor: impl Fn(&[bool]) -> f64) -> f64 {
        let posterior = self.given(b_t, alpha_cumprod).0;
        posterior.iter().zip(&self.sequences).map(|(probability, b_0)| probability * factor(b_0)).sum()
    }

    /// Returns the exact reverse step q(b_{t−1} | b_t) of whole sequences, a probability for each of the 2^k states in the
    /// order of [`states`].
    ///
    /// # Errors
    /// If sequences have more than 12 bits.
    pub fn reverse(&self, chain: BinomialChain, t: usize, b_t: &[bool]) -> Result<Vec<f64>, Error> {
        let states = states(self.bits())?;
        let posterior = self.given(b_t, chain.schedule.alpha_cumprod(t)).0;
        let mut reverse = vec![0.0; states.len()];
        for (probability, b_0) in posterior.iter().zip(&self.sequences) {
            let bits: Vec<Bernoulli> = b_t.iter().zip(b_0).map(|(&b_t, &b_0)| chain.posterior(t, b_t, b_0)).collect();
            for (state, total) in states.iter().zip(&mut reverse) {
                *total += probability * joint(&bits, state);
            }
        }
        Ok(reverse)
    }

    /// Returns the exact bound of a reverse chain in bits per sequence: the expectation over all b_0 and b_t, and the prior's
    /// term. `predict` returns p(b_0 | b_t) of each bit.
    ///
    /// # Errors
    /// If sequences have more than 12 bits, or `predict` returns another number of bits.
    pub fn bound(
        &self,
        chain: BinomialChain,
        predict: impl Fn(&[bool], usize) -> Vec<Bernoulli>,
    ) -> Result<f64, Error> {
        let states = states(self.bits())?;
        let mut bound = chain.prior(self.bits());
        for t in 0..chain.schedule.len() {
            for b_t in &states {
                let prediction = predict(b_t, t);
                let reverse: Vec<Bernoulli> =
                    b_t.iter().zip(prediction).map(|(&bit, prediction)| chain.reverse(t, bit, prediction)).collect();
                for (weight, b_0) in self.support() {
                    let noised: Vec<Bernoulli> =
                        b_0.iter().map(|&bit| chain.noised(t, Bernoulli::known(bit))).collect();
                    let probability = weight * joint(&noised, b_t);
                    if probability > 0.0 {
                        bound += probability * chain.term(t, b_0, b_t, &reverse)?;
                    }
                }
            }
        }
        Ok(bound)
    }

    /// Returns the gap between the bound of the best product reverse chain and the entropy, in bits per sequence: over all
    /// steps, the expected divergence of q(b_{t−1} | b_t) from the product of its bits' distributions, and that of q(b_{T−1})
    /// from fair coins.
    ///
    /// # Errors
    /// If sequences have more than 12 bits.
    pub fn gap(&self, chain: BinomialChain) -> Result<f64, Error> {
        let states = states(self.bits())?;
        let last = chain.schedule.alpha_cumprod(chain.schedule.len() - 1);
        let coins = -(self.bits() as f64) * LN_2;
        let prior = states.iter().map(|b| {
            let log = self.given(b, last).1;
            log.exp() * (log - coins)
        });
        let mut nats: f64 = prior.sum();
        for t in 0..chain.schedule.len() {
            let alpha_cumprod = chain.schedule.alpha_cumprod(t);
            for b_t in &states {
                let reverse = self.reverse(chain, t, b_t)?;
                let entropy = |p: f64| if p > 0.0 { -p * p.ln() } else { 0.0 };
                let whole: f64 = reverse.iter().map(|&p| entropy(p)).sum();
                let each = self.predict(b_t, alpha_cumprod).into_iter().zip(b_t);
                let bits: f64 = each.map(|(p, &bit)| chain.reverse(t, bit, p).entropy()).sum();
                nats += self.probability(b_t, alpha_cumprod) * (bits - whole);
            }
        }
        Ok(nats / LN_2)
    }
}

/// Returns the exact distribution of b_0 that a reverse chain generates from fair coins, a probability for each of the 2^k
/// states in the order of [`states`]. `step` returns p(b_{t−1} | b_t) of each bit.
///
/// # Errors
/// If sequences have more than 12 bits.
pub fn generated(
    bits: usize,
    steps: usize,
    step: impl Fn(&[bool], usize) -> Vec<Bernoulli>,
) -> Result<Vec<f64>, Error> {
    let states = states(bits)?;
    let mut law = vec![1.0 / states.len() as f64; states.len()];
    for t in (0..steps).rev() {
        let mut next = vec![0.0; states.len()];
        for (b_t, probability) in states.iter().zip(&law) {
            let reverse = step(b_t, t);
            for (state, total) in states.iter().zip(&mut next) {
                *total += probability * joint(&reverse, state);
            }
        }
        law = next;
    }
    Ok(law)
}

/// Returns all sequences of `bits` bits: bit i of state n is bit i of the number n.
///
/// # Errors
/// If there are more than 12 bits.
pub fn states(bits: usize) -> Result<Vec<Vec<bool>>, Error> {
    if bits > MAX_ENUMERATED {
        return Err(Error::Unsupported(format!(
            "an exact sum over all sequences of {bits} bits; expected at most {MAX_ENUMERATED}"
        )));
    }
    Ok((0..1usize << bits).map(|number| (0..bits).map(|i| number >> i & 1 == 1).collect()).collect())
}

/// Returns the probability of a sequence whose bits are independent.
fn joint(bits: &[Bernoulli], sequence: &[bool]) -> f64 {
    bits.iter().zip(sequence).map(|(bernoulli, &bit)| bernoulli.of(bit)).product()
}
