//! Averages over training by power functions, and averages of other lengths made of them afterwards (Karras et al. 2024, "EDM2",
//! arXiv 2312.02696, section 3 and appendix C).
//!
//! The average of the parameters θ at time t with the exponent γ is
//!
//! ```text
//! θ̂(t) = ∫₀ᵗ p(τ) θ(τ) dτ,   p(τ) = (γ+1) τ^γ / t^(γ+1)
//! ```
//!
//! Its length σ_rel is the standard deviation of p relative to t, so a longer run has a longer average. Averages of two lengths, stored at
//! several times, span the profiles p of other lengths closely.
//!
//! ```
//! use ddpm_diffusion::power_ema::{Combination, Profile};
//!
//! let stored: Vec<Profile> = (1..=16)
//!     .flat_map(|n| [0.05, 0.1].map(|length| Profile::new(100.0 * f64::from(n), length).unwrap()))
//!     .collect();
//! let combination = Combination::new(&stored, Profile::new(1600.0, 0.15)?)?;
//! assert!((combination.weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
//! assert!(combination.relative_error < 0.01);
//! # Ok::<(), ddpm_diffusion::Error>(())
//! ```

use crate::Error;
use crate::linear::solve;

/// The profile of an average: the weight of each moment of the training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Profile {
    /// The time at which the average ends, in any unit.
    pub time: f64,
    /// The exponent γ.
    pub exponent: f64,
}

impl Profile {
    /// Creates the profile that ends at `time` and has the length σ_rel.
    ///
    /// # Errors
    /// If `time` is not positive, or the length is not between 0 and [`MAX_LENGTH`].
    pub fn new(time: f64, length: f64) -> Result<Self, Error> {
        if !(time.is_finite() && time > 0.0) {
            return Err(Error::Value { name: "the time of an average", value: time, expected: "a number above 0" });
        }
        Ok(Self { time, exponent: exponent(length)? })
    }

    /// Returns ∫ p q, the inner product of two profiles.
    fn dot(&self, other: &Self) -> f64 {
        let (early, late) = if self.time <= other.time { (self, other) } else { (other, self) };
        let (a, b) = (early.exponent, late.exponent);
        (a + 1.0) * (b + 1.0) * (early.time / late.time).powf(b) / ((a + b + 1.0) * late.time)
    }

    /// Returns the β of the update θ̂ ← β θ̂ + (1−β) θ from time `time − step` to `time`.
    pub fn decay(&self, step: f64) -> f64 {
        (1.0 - step / self.time).max(0.0).powf(self.exponent + 1.0)
    }
}

/// The greatest length, that of a plain mean over the training (γ = 0): 1/√12.
pub const MAX_LENGTH: f64 = 0.288_675_134_594_812_9;

/// Returns the exponent γ ≥ 0 of a length σ_rel: σ_rel² = (γ+1)/((γ+2)²(γ+3)).
///
/// # Errors
/// If the length is not between 0 and [`MAX_LENGTH`].
pub fn exponent(length: f64) -> Result<f64, Error> {
    if !(length > 1e-6 && length <= MAX_LENGTH) {
        return Err(Error::Value {
            name: "the length of an average",
            value: length,
            expected: "above 0 and up to .2886",
        });
    }
    let variance = |gamma: f64| (gamma + 1.0) / ((gamma + 2.0).powi(2) * (gamma + 3.0));
    // The variance falls in γ, and is less than 1/γ².
    let (mut low, mut high) = (0.0, 1.0 / length);
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        if variance(middle) > length * length { low = middle } else { high = middle }
    }
    Ok(0.5 * (low + high))
}

/// A profile as a weighted sum of others.
#[derive(Clone, Debug, PartialEq)]
pub struct Combination {
    /// The weight of each of the others, in their order. Their sum is 1.
    pub weights: Vec<f64>,
    /// The norm of what the sum lacks, relative to that of the profile.
    pub relative_error: f64,
}

impl Combination {
    /// Returns the weights of `stored` whose sum is nearest to `wanted` (EDM2, algorithm 3).
    ///
    /// # Errors
    /// If the stored profiles are not independent, or end after the wanted one.
    pub fn new(stored: &[Profile], wanted: Profile) -> Result<Self, Error> {
        if let Some(late) = stored.iter().find(|profile| profile.time > wanted.time) {
            let (name, expected) = ("the time of a stored average", "one up to that of the wanted average");
            return Err(Error::Value { name, value: late.time, expected });
        }
        let row = |p: &Profile| stored.iter().chain([&wanted]).map(|q| p.dot(q)).collect();
        let weights = solve(stored.iter().map(row).collect());
        let sum: f64 = weights.iter().sum();
        if stored.is_empty() || !sum.is_finite() || sum == 0.0 {
            let message = "no average can be made of these: none is stored, or two are of the same length and time";
            return Err(Error::Unsupported(message.to_owned()));
        }
        let weights: Vec<f64> = weights.into_iter().map(|weight| weight / sum).collect();
        let mut error = wanted.dot(&wanted);
        for (p, weight) in stored.iter().zip(&weights) {
            let others: f64 = stored.iter().zip(&weights).map(|(q, other)| other * p.dot(q)).sum();
            error += weight * (others - 2.0 * p.dot(&wanted));
        }
        // Differences of nearly equal numbers, so that a perfect sum may come out below 0.
        Ok(Self { weights, relative_error: (error.max(0.0) / wanted.dot(&wanted)).sqrt() })
    }
}
