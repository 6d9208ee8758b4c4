//! The binomial chain of Sohl-Dickstein et al. 2015 (arXiv 1503.03585, §2.4 and appendix B): the diffusion of bits.
//!
//! At each step a bit is replaced by a fair coin with probability β_t, so that it flips with probability β_t/2. With
//! ᾱ_t = Π(1−β_i), as in the Gaussian chain, the first t steps together keep a bit with probability ᾱ_t and replace it by a
//! fair coin otherwise. In terms of spins s = 2b − 1, the mean of s_t given s_0 is ᾱ_t·s_0. The schedule is a
//! [`NoiseSchedule`], and theirs is [`BetaSchedule::Jsd`](crate::BetaSchedule::Jsd), β_t = 1/(T−t+1), at whose end
//! ᾱ = 0: nothing of the data is left, and the prior's term of the bound is 0.
//!
//! The bits of a sequence are noised independently, so q(b_s | b_t, b_0) is a product over bits. The reverse chain is a product
//! too, with probabilities that depend on all bits of b_t. A product is exact to first order in β: the bound of the best
//! reverse chain exceeds the entropy of the data by a gap that falls as 1/T.

use std::f64::consts::LN_2;

use serde::{Deserialize, Serialize};

use crate::{Error, NoiseSchedule};

/// The probabilities of the two values of a bit. Both are kept, so that neither loses precision near 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bernoulli {
    /// The probability of 0.
    pub zero: f64,
    /// The probability of 1.
    pub one: f64,
}

impl Bernoulli {
    /// A fair coin.
    pub const FAIR: Self = Self { zero: 0.5, one: 0.5 };

    /// Returns the distribution of a known bit.
    pub fn known(bit: bool) -> Self {
        if bit { Self { zero: 0.0, one: 1.0 } } else { Self { zero: 1.0, one: 0.0 } }
    }

    /// Returns the distribution in which 1 has the probability 1/(1 + e^{−logit}).
    pub fn from_logit(logit: f64) -> Self {
        // The smaller one is computed first and is precise.
        let small = (-logit.abs()).exp() / (1.0 + (-logit.abs()).exp());
        let large = 1.0 / (1.0 + (-logit.abs()).exp());
        if logit < 0.0 { Self { zero: large, one: small } } else { Self { zero: small, one: large } }
    }

    /// Returns ln(P(1)/P(0)).
    pub fn logit(self) -> f64 {
        self.one.ln() - self.zero.ln()
    }

    /// Returns the probability of a value.
    pub fn of(self, bit: bool) -> f64 {
        if bit { self.one } else { self.zero }
    }

    /// Returns the value that a uniform number of [0, 1) selects: 1 if it is below P(1).
    pub fn sample(self, uniform: f64) -> bool {
        uniform < self.one
    }

    /// Returns the entropy in nats.
    pub fn entropy(self) -> f64 {
        let term = |p: f64| if p > 0.0 { -p * p.ln() } else { 0.0 };
        term(self.zero) + term(self.one)
    }

    /// Returns KL(self ‖ other) in nats, which is ∞ if `other` excludes a value that `self` has.
    pub fn kl(self, other: Self) -> f64 {
        let term = |p: f64, q: f64| if p > 0.0 { p * (p / q).ln() } else { 0.0 };
        term(self.zero, other.zero) + term(self.one, other.one)
    }

    /// Returns the distribution proportional to P(b)·r(b), for factors of the values 0 and 1 that are given as ln r.
    pub fn times(self, log_factor: [f64; 2]) -> Self {
        // The greater factor is divided out, so that neither overflows.
        let greatest = log_factor[0].max(log_factor[1]);
        let zero = self.zero * (log_factor[0] - greatest).exp();
        let one = self.one * (log_factor[1] - greatest).exp();
        Self { zero: zero / (zero + one), one: one / (zero + one) }
    }
}

/// A chain of T noise levels for bits.
///
/// # Panics
/// Methods that take `t` panic if it is not below T, as slices do.
#[derive(Debug, Clone, Copy)]
pub struct BinomialChain<'a> {
    /// β_t and ᾱ_t. For a sub-chain it is [the sub-chain's](NoiseSchedule::respace).
    pub schedule: &'a NoiseSchedule,
}

impl<'a> BinomialChain<'a> {
    /// Creates the chain of a schedule.
    pub fn new(schedule: &'a NoiseSchedule) -> Self {
        Self { schedule }
    }

    /// ᾱ_{t−1}; 1 (the data) at t = 0.
    fn previous(self, t: usize) -> f64 {
        if t == 0 { 1.0 } else { self.schedule.alpha_cumprod(t - 1) }
    }

    /// Returns the distribution of b_t, if b_0 has the distribution `bit`: q(b_t | b_0) for a known bit.
    pub fn noised(self, t: usize, bit: Bernoulli) -> Bernoulli {
        replaced(1.0 - self.schedule.alpha_cumprod(t), bit)
    }

    /// Returns the distribution of b_t, if b_{t−1} has the distribution `bit`: q(b_t | b_{t−1}) for a known bit.
    pub fn step(self, t: usize, bit: Bernoulli) -> Bernoulli {
        replaced(self.schedule.betas()[t], bit)
    }

    /// Returns the forward posterior q(b_{t−1} | b_t, b_0). At t = 0 it is b_0.
    ///
    /// The mean of the spin s_{t−1} is (a·s_t + ᾱ_{t−1}·s_0)/(1 + ᾱ_t·s_t·s_0), a = ᾱ_t/ᾱ_{t−1}.
    pub fn posterior(self, t: usize, b_t: bool, b_0: bool) -> Bernoulli {
        let [s_t, s_0] = [b_t, b_0].map(spin);
        let before = self.previous(t);
        let alpha = self.schedule.alpha_cumprod(t) / before;
        let zero = (1.0 - alpha * s_t) * (1.0 - before * s_0);
        let one = (1.0 + alpha * s_t) * (1.0 + before * s_0);
        Bernoulli { zero: zero / (zero + one), one: one / (zero + one) }
    }

    /// Returns the reverse step p(b_{t−1} | b_t) = Σ_{b_0} q(b_{t−1} | b_t, b_0) p(b_0 | b_t) for a prediction p(b_0 | b_t) of
    /// one bit, x̂0 in the words of the Gaussian chain. With the exact prediction it is the exact reverse step of this bit.
    pub fn reverse(self, t: usize, b_t: bool, prediction: Bernoulli) -> Bernoulli {
        let (if_zero, if_one) = (self.posterior(t, b_t, false), self.posterior(t, b_t, true));
        Bernoulli {
            zero: prediction.zero * if_zero.zero + prediction.one * if_one.zero,
            one: prediction.zero * if_zero.one + prediction.one * if_one.one,
        }
    }

    /// Returns the prediction of b_0 that a reverse step stands for: the inverse of [`BinomialChain::reverse`], for networks
    /// that predict p(b_{t−1} | b_t) itself, as that of Sohl-Dickstein et al. does. Probabilities that no prediction leads to
    /// are clipped to the nearest that one does.
    pub fn prediction(self, t: usize, b_t: bool, reverse: Bernoulli) -> Bernoulli {
        let (if_zero, if_one) = (self.posterior(t, b_t, false), self.posterior(t, b_t, true));
        let range = if_one.one - if_zero.one;
        Bernoulli {
            zero: ((if_one.one - reverse.one) / range).clamp(0.0, 1.0),
            one: ((reverse.one - if_zero.one) / range).clamp(0.0, 1.0),
        }
    }

    /// Returns the term of the bound at `t` of one sequence, in bits: KL(q(b_{t−1} | b_t, b_0) ‖ p(b_{t−1} | b_t)), which at
    /// t = 0 is −log₂ p(b_0 | b_1), as the posterior there is b_0. `reverse` is p(b_{t−1} | b_t) of each bit.
    ///
    /// # Errors
    /// If the slices are empty or differ in length, or `t` is outside the chain.
    pub fn term(self, t: usize, b_0: &[bool], b_t: &[bool], reverse: &[Bernoulli]) -> Result<f64, Error> {
        if t >= self.schedule.len() {
            return Err(Error::Timestep { index: 0, timestep: t, num_train_timesteps: self.schedule.len() });
        }
        for (name, found) in [("b_0", b_0.len()), ("b_t", b_t.len()), ("reverse", reverse.len())] {
            if found != b_0.len() || found == 0 {
                return Err(Error::Length { name, found, expected: b_0.len().max(1) });
            }
        }
        let nats = b_0.iter().zip(b_t).zip(reverse).map(|((&b_0, &b_t), &p)| self.posterior(t, b_t, b_0).kl(p));
        Ok(nats.sum::<f64>() / LN_2)
    }

    /// Returns KL(q(b_{T−1} | b_0) ‖ fair coins) of a sequence of `bits` bits, in bits. It does not depend on the sequence.
    pub fn prior(self, bits: usize) -> f64 {
        let last = self.noised(self.schedule.len() - 1, Bernoulli::known(true));
        bits as f64 * last.kl(Bernoulli::FAIR) / LN_2
    }

    /// Draws b_t from q(b_t | b_0), with a uniform number of [0, 1) for each bit.
    ///
    /// # Panics
    /// If the slices differ in length.
    pub fn q_sample(self, t: usize, b_0: &[bool], uniforms: &[f64]) -> Vec<bool> {
        assert_eq!(b_0.len(), uniforms.len(), "`uniforms` needs one number for each bit");
        b_0.iter().zip(uniforms).map(|(&bit, &u)| self.noised(t, Bernoulli::known(bit)).sample(u)).collect()
    }

    /// Draws b_0 by ancestral sampling: fair coins, then every reverse step from T−1 to 0. `predict` returns p(b_0 | b_t) of
    /// each bit, `uniforms` the numbers of [0, 1) of a step, those of the start first.
    ///
    /// # Errors
    /// Of `predict`, or if it or `uniforms` returns another number of bits than `bits`.
    pub fn sample(
        self,
        bits: usize,
        mut predict: impl FnMut(&[bool], usize) -> Result<Vec<Bernoulli>, Error>,
        mut uniforms: impl FnMut() -> Vec<f64>,
    ) -> Result<Vec<bool>, Error> {
        let check =
            |name, found| if found == bits { Ok(()) } else { Err(Error::Length { name, found, expected: bits }) };
        let start = uniforms();
        check("uniforms", start.len())?;
        let mut b: Vec<bool> = start.into_iter().map(|u| Bernoulli::FAIR.sample(u)).collect();
        for t in (0..self.schedule.len()).rev() {
            let (prediction, u) = (predict(&b, t)?, uniforms());
            check("prediction", prediction.len())?;
            check("uniforms", u.len())?;
            for (i, bit) in b.iter_mut().enumerate() {
                *bit = self.reverse(t, *bit, prediction[i]).sample(u[i]);
            }
        }
        Ok(b)
    }
}

/// Returns −1 for 0 and 1 for 1.
pub fn spin(bit: bool) -> f64 {
    if bit { 1.0 } else { -1.0 }
}

/// Returns the distribution of a bit that is replaced by a fair coin with probability `beta`.
fn replaced(beta: f64, bit: Bernoulli) -> Bernoulli {
    let keep = 1.0 - beta;
    Bernoulli { zero: keep * bit.zero + 0.5 * beta, one: keep * bit.one + 0.5 * beta }
}
