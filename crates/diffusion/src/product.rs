//! Products of a chain with a known factor r(x): sampling from p(x_0)·r(x_0)/Z with the reverse chain of p (Sohl-Dickstein et al.
//! 2015, arXiv 1503.03585, §2.5). Inpainting is the factor that is 0 unless the known part has its values.
//!
//! The distributions p(x_t)·r_t(x_t) form a chain for any factors r_t with r_0 = r, and its reverse step is
//! p(x_s | x_t)·r_s(x_s)/Z(x_t). It ends in the product exactly only if r_t(x_t) = E[r(x_0) | x_t] (Doob's transform). Sohl-Dickstein
//! et al. take the same r at all times in their experiments, which needs no network, but is biased for any number of steps.
//!
//! A step that multiplies by a factor is exact to first order in β:
//! - Gaussian: the mean moves by the variance times ∂ln r_s/∂x (their eq. 23 ff.). In terms of the prediction, x̂0 moves by
//!   σ²/α·∂ln r_t/∂x_t ([`sample_shift`]). If r_t is the expected factor, that is Tweedie's formula for the product, so every sampler
//!   then keeps the order that it has for p.
//! - Gaussian with a Gaussian factor: [`times_gaussian`] is the product in closed form.
//! - binomial: each bit's probability is multiplied by the factor of its two values and normalized, [`bernoulli_step`].

use serde::{Deserialize, Serialize};

use crate::binomial::{Bernoulli, BinomialChain};
use crate::names::{name_of, named};
use crate::{Error, NoiseLevel};

/// The factor r_t at a time t.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FactorSchedule {
    /// E[r(x_0) | x_t], by the network's prediction: exact in the limit of many steps, where that expectation is.
    #[default]
    Expected,
    /// r itself at all times, as in the experiments of Sohl-Dickstein et al.: biased.
    Constant,
}

impl FactorSchedule {
    /// Every factor schedule with its name.
    pub const NAMES: [(&'static str, Self); 2] = [("expected", Self::Expected), ("constant", Self::Constant)];
}

impl std::fmt::Display for FactorSchedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(name_of(self, &Self::NAMES))
    }
}

impl std::str::FromStr for FactorSchedule {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        named("factor schedule", name, [&Self::NAMES, &[]])
    }
}

/// Returns σ²/α: the shift of x̂0 for each unit of ∂ln r_t/∂x_t.
pub fn sample_shift(level: NoiseLevel) -> f64 {
    level.sigma * level.sigma / level.alpha
}

/// Returns Var[x_0 | x_t] = σ²/(α² + σ²) of a value that is standard normal and independent of the others: a scale of the expected
/// factor's width (Song et al. 2023, "Pseudoinverse-guided diffusion", r_t²).
pub fn normal_variance(level: NoiseLevel) -> f64 {
    let noise = level.sigma * level.sigma;
    noise / (level.alpha * level.alpha + noise)
}

/// Returns mean and variance of the product of two normal densities, each given as (mean, variance). A variance of 0 is a known
/// value, of the first one if both are.
pub fn times_gaussian((mean, variance): (f64, f64), (other, width): (f64, f64)) -> (f64, f64) {
    if variance == 0.0 {
        return (mean, 0.0);
    }
    // The share of the other mean.
    let share = variance / (variance + width);
    (mean + share * (other - mean), share * width)
}

/// Returns the reverse step p(b_{t−1} | b_t)·r(b_{t−1})/Z of each bit, with the other bits of r at their values in b_t.
/// `prediction` is p(b_0 | b_t). `log_factor(i, b)` is ln r_{t−1}(b) up to a number that does not depend on bit i; it may be −∞
/// for one value of the bit. If r is a product over bits, only the factor of bit i counts.
///
/// # Errors
/// If `prediction` does not have the length of `b_t`, or r is 0 for both values of a bit.
pub fn bernoulli_step(
    (chain, t): (BinomialChain, usize),
    b_t: &[bool],
    prediction: &[Bernoulli],
    log_factor: impl Fn(usize, &[bool]) -> f64,
) -> Result<Vec<Bernoulli>, Error> {
    if prediction.len() != b_t.len() {
        return Err(Error::Length { name: "prediction", found: prediction.len(), expected: b_t.len() });
    }
    let mut neighbour = b_t.to_vec();
    let mut step = Vec::with_capacity(b_t.len());
    for (i, &bit) in b_t.iter().enumerate() {
        let factor = [false, true].map(|value| {
            neighbour[i] = value;
            log_factor(i, &neighbour)
        });
        neighbour[i] = bit;
        let product = chain.reverse(t, bit, prediction[i]).times(factor);
        if product.one.is_nan() {
            return Err(Error::Unsupported(format!("the factor is 0 for both values of bit {i}")));
        }
        step.push(product);
    }
    Ok(step)
}
