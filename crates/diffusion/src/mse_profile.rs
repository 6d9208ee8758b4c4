//! Predicts bits/dim, optimal variances and optimal sub-chains from the squared error per timestep.
//!
//! With M_t = E‖x_0 − x̂0‖²/D, the step t → s under variance σ² costs ½(ln(σ²/β̃) − 1 + (β̃ + coef_x0² M_t)/σ²) nats
//! per dimension. This depends on t and s only, so the optimal chain of K steps is a shortest path (Watson et al. 2021,
//! arXiv 2106.03802), and the optimal σ² is [`optimal_variance`] (Bao et al. 2022, arXiv 2201.06503).

use std::f64::consts::LN_2;

use serde::{Deserialize, Serialize};

use crate::linear::solve;
use crate::posterior::Posterior;
use crate::variance::{optimal_rate, optimal_variance};
use crate::{Error, NoiseSchedule, Variance};

/// The squared error of a denoiser per timestep, with the other terms of its bound.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MseProfile {
    /// M_t for t = 0 … T−1, with x̂0 clipped as in sampling.
    pub mse: Vec<f64>,
    /// The squared error per timestep and channel, whose mean over channels is M_t; empty if not measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<Vec<f64>>,
    /// KL(q(x_{T−1} | x_0) ‖ N(0, I)) in bits/dim.
    pub prior: f64,
    /// (log-variance, −log₂ p(x_0 | x_t at t = 0) in bits/dim) of the decoder, by ascending log-variance.
    pub decoder: Vec<(f64, f64)>,
    /// The number of images that were measured.
    pub images: usize,
}

/// The variances of a chain's steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepVariance {
    /// β̃ or β.
    Fixed(Variance),
    /// σ*² of each step, and the decoder's optimal variance.
    Optimal,
    /// σ*² of each step and channel. By Jensen's inequality never more bits than [`StepVariance::Optimal`].
    PerChannel,
}

impl MseProfile {
    /// Checks the profile against a chain.
    ///
    /// # Errors
    /// If there are not T values of M_t, one is negative or not finite, the decoder is empty or not in order, or the
    /// errors by channel do not have the same shape.
    pub fn check(&self, schedule: &NoiseSchedule) -> Result<(), Error> {
        if self.mse.len() != schedule.len() {
            return Err(Error::Length { name: "mse", found: self.mse.len(), expected: schedule.len() });
        }
        let count = self.channels.first().map_or(0, Vec::len);
        if !self.channels.is_empty() && (self.channels.len() != schedule.len() || count == 0) {
            let (found, expected) = (self.channels.len(), schedule.len());
            return Err(Error::Length { name: "channels, each of at least one mse,", found, expected });
        }
        if let Some(other) = self.channels.iter().find(|channels| channels.len() != count) {
            return Err(Error::Length { name: "channels of a timestep", found: other.len(), expected: count });
        }
        let values = self.mse.iter().chain(self.channels.iter().flatten());
        if let Some(&value) = values.into_iter().find(|mse| !(mse.is_finite() && **mse >= 0.0)) {
            return Err(Error::Value { name: "mse", value, expected: "a finite number, 0 or more" });
        }
        if self.decoder.is_empty() || self.decoder.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
            return Err(Error::Length {
                name: "decoder, by ascending log-variance",
                found: self.decoder.len(),
                expected: 1,
            });
        }
        Ok(())
    }

    /// Returns the decoder with the fewest bits, as (log-variance, bits/dim).
    fn best_decoder(&self) -> (f64, f64) {
        self.decoder.iter().copied().fold((0.0, f64::INFINITY), |best, at| if at.1 < best.1 { at } else { best })
    }

    /// Returns the decoder's bits/dim at a log-variance, interpolated between the measured ones.
    fn decoder_at(&self, log_variance: f64) -> f64 {
        let above = self.decoder.partition_point(|&(at, _)| at < log_variance);
        match above {
            0 => self.decoder[0].1,
            above if above == self.decoder.len() => self.decoder[above - 1].1,
            above => {
                let ((x0, y0), (x1, y1)) = (self.decoder[above - 1], self.decoder[above]);
                y0 + (log_variance - x0) / (x1 - x0) * (y1 - y0)
            }
        }
    }

    /// Returns the bits/dim of the sub-chain over `timesteps`, which descend from T−1 to 0.
    ///
    /// # Errors
    /// As [`MseProfile::check`], and if `timesteps` does not descend from T−1 to 0, the variance is learned, or it is
    /// per channel and channels were not measured.
    pub fn bits(&self, schedule: &NoiseSchedule, timesteps: &[usize], variance: StepVariance) -> Result<f64, Error> {
        self.check(schedule)?;
        let chain = schedule.respace(timesteps)?;
        if timesteps[0] + 1 != schedule.len() || timesteps[timesteps.len() - 1] != 0 {
            let message =
                "the chain must start at t = T−1 and end at t = 0, where the prior and the decoder were measured";
            return Err(Error::Unsupported(message.to_owned()));
        }
        let mut nats = 0.0;
        for (i, pair) in timesteps.windows(2).enumerate() {
            let (t, s) = (schedule.alpha_cumprod(pair[0]), schedule.alpha_cumprod(pair[1]));
            let mse = self.mse[pair[0]];
            nats += match variance {
                StepVariance::Optimal => optimal_rate(t, s, mse),
                StepVariance::PerChannel => mean(self.channels_at(pair[0])?, |mse| optimal_rate(t, s, mse)),
                StepVariance::Fixed(kind) => {
                    let posterior = Posterior::between(t, s);
                    let index = timesteps.len() - 1 - i;
                    let log_variance = fixed(kind, &chain, index)?;
                    let spread = optimal_variance(t, s, mse);
                    0.5 * (log_variance - posterior.variance.ln() - 1.0 + spread * (-log_variance).exp())
                }
            };
        }
        let decoder = match variance {
            StepVariance::Optimal | StepVariance::PerChannel => self.best_decoder().1,
            StepVariance::Fixed(kind) => self.decoder_at(fixed(kind, &chain, 0)?),
        };
        Ok(self.prior + nats / LN_2 + decoder)
    }

    /// Returns the optimal log-variances of a sub-chain, in the order of `timesteps`; the last one is the decoder's.
    ///
    /// # Errors
    /// As [`MseProfile::check`] and [`NoiseSchedule::respace`].
    pub fn log_variances(&self, schedule: &NoiseSchedule, timesteps: &[usize]) -> Result<Vec<f64>, Error> {
        self.check(schedule)?;
        crate::timesteps::check(timesteps, schedule.len())?;
        let steps = timesteps.windows(2).map(|pair| {
            optimal_variance(schedule.alpha_cumprod(pair[0]), schedule.alpha_cumprod(pair[1]), self.mse[pair[0]]).ln()
        });
        Ok(steps.chain([self.best_decoder().0]).collect())
    }

    /// Returns the optimal log-variances of a sub-chain per channel, in the order of `timesteps`.
    ///
    /// # Errors
    /// As [`MseProfile::log_variances`], and if channels were not measured.
    pub fn log_variances_by_channel(
        &self,
        schedule: &NoiseSchedule,
        timesteps: &[usize],
    ) -> Result<Vec<Vec<f64>>, Error> {
        self.check(schedule)?;
        crate::timesteps::check(timesteps, schedule.len())?;
        let step = |pair: &[usize]| {
            let (t, s) = (schedule.alpha_cumprod(pair[0]), schedule.alpha_cumprod(pair[1]));
            Ok(self.channels_at(pair[0])?.iter().map(|&mse| optimal_variance(t, s, mse).ln()).collect())
        };
        let decoder = vec![self.best_decoder().0; self.channels_at(0)?.len()];
        timesteps.windows(2).map(step).chain([Ok(decoder)]).collect()
    }

    fn channels_at(&self, t: usize) -> Result<&[f64], Error> {
        let message = "the squared error was not measured per channel";
        self.channels.get(t).map(Vec::as_slice).ok_or_else(|| Error::Unsupported(message.to_owned()))
    }

    /// Returns the profile with M_t smoothed over t, per channel too. Without smoothing, the shortest path prefers
    /// timesteps whose M_t was measured too low, and its predicted bits/dim are too few.
    ///
    /// # Errors
    /// As [`MseProfile::check`].
    pub fn smoothed(&self, schedule: &NoiseSchedule) -> Result<Self, Error> {
        self.check(schedule)?;
        let lambdas: Vec<f64> = (0..schedule.len()).map(|t| 0.5 * schedule.log_snr(t)).collect();
        let mut channels = self.channels.clone();
        for c in 0..channels.first().map_or(0, Vec::len) {
            let channel: Vec<f64> = channels.iter().map(|at| at[c]).collect();
            channels.iter_mut().zip(smooth(&channel, &lambdas)).for_each(|(at, mse)| at[c] = mse);
        }
        let mse = match channels.is_empty() {
            true => smooth(&self.mse, &lambdas),
            false => channels.iter().map(|at| mean(at, |mse| mse)).collect(),
        };
        Ok(Self { mse, channels, ..self.clone() })
    }

    /// Returns the sub-chain of `steps` timesteps from T−1 to 0 with the fewest bits under σ*². Takes O(steps·T²) time.
    ///
    /// # Errors
    /// As [`MseProfile::check`], and if `steps` is outside 2 … T.
    pub fn best_timesteps(&self, schedule: &NoiseSchedule, steps: usize) -> Result<Vec<usize>, Error> {
        self.check(schedule)?;
        let total = schedule.len();
        if !(2..=total).contains(&steps) {
            return Err(Error::Value { name: "steps", value: steps as f64, expected: "2 to the number of timesteps" });
        }
        // cost[t]: nats of the cheapest path from T−1 to t so far; from[k][t]: the timestep before t on it.
        let mut cost = vec![f64::INFINITY; total];
        cost[total - 1] = 0.0;
        let mut from = Vec::with_capacity(steps - 1);
        for _ in 1..steps {
            let (mut next, mut before) = (vec![f64::INFINITY; total], vec![0; total]);
            for (s, (next, before)) in next.iter_mut().zip(&mut before).enumerate() {
                let at = schedule.alpha_cumprod(s);
                for (t, &paid) in cost.iter().enumerate().skip(s + 1).filter(|(_, paid)| paid.is_finite()) {
                    let total = paid + optimal_rate(schedule.alpha_cumprod(t), at, self.mse[t]);
                    if total < *next {
                        (*next, *before) = (total, t);
                    }
                }
            }
            cost = next;
            from.push(before);
        }
        let mut timesteps = vec![0];
        for before in from.iter().rev() {
            timesteps.push(before[timesteps[timesteps.len() - 1]]);
        }
        timesteps.reverse();
        Ok(timesteps)
    }
}

fn mean(values: &[f64], f: impl Fn(f64) -> f64) -> f64 {
    values.iter().map(|&value| f(value)).sum::<f64>() / values.len() as f64
}

/// Replaces each value by that of a parabola in λ, fitted by least squares to the logarithms of the values within a
/// hundredth of the chain and 0.4 in λ. (Near the data λ changes fast, so the first bound alone would be too wide.)
/// Values of 0 and values at λ = −∞ are neither changed nor used.
fn smooth(values: &[f64], lambdas: &[f64]) -> Vec<f64> {
    let reach = values.len() / 100;
    const REACH_OF_LAMBDA: f64 = 0.4;
    let counts = |i: &usize| values[*i] > 0.0 && lambdas[*i].is_finite();
    let fitted = |t: usize| {
        let near = |i: &usize| counts(i) && (lambdas[*i] - lambdas[t]).abs() <= REACH_OF_LAMBDA;
        let window: Vec<usize> = (t.saturating_sub(reach)..values.len().min(t + reach + 1)).filter(near).collect();
        if !counts(&t) || window.len() < 4 {
            return values[t];
        }
        let width = lambdas[window[0]] - lambdas[window[window.len() - 1]];
        let mut normal_equations = vec![vec![0.0; 4]; 3];
        for i in window {
            let u = (lambdas[i] - lambdas[t]) / width;
            let powers = [1.0, u, u * u, values[i].ln()];
            for (row, power) in normal_equations.iter_mut().zip(powers) {
                row.iter_mut().zip(powers).for_each(|(cell, other)| *cell += power * other);
            }
        }
        solve(normal_equations)[0].exp()
    };
    (0..values.len()).map(fitted).collect()
}

fn fixed(kind: Variance, chain: &NoiseSchedule, index: usize) -> Result<f64, Error> {
    match kind {
        Variance::FixedSmall | Variance::FixedLarge => Ok(kind.log_variance(chain, index).max),
        _ => Err(Error::Unsupported(
            "the bits/dim of a learned variance cannot be computed from the squared error".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BetaSchedule;
    use crate::oracle::Gaussian;

    fn schedule(total: usize) -> NoiseSchedule {
        NoiseSchedule::new(BetaSchedule::Linear, 0.1 / total as f64, 20.0 / total as f64, total).unwrap()
    }

    /// The profile of the exact denoiser of N(0, s²), whose M_t has a closed form.
    fn exact(schedule: &NoiseSchedule, variance: f64) -> MseProfile {
        let data = Gaussian { mean: 0.0, variance };
        let mse = schedule.alphas_cumprod().iter().map(|&alpha| data.mse(alpha)).collect();
        MseProfile {
            mse,
            channels: vec![],
            prior: 0.0,
            decoder: vec![(-5.0, 2.0), (-4.0, 1.0), (-3.0, 3.0)],
            images: 1,
        }
    }

    /// With the exact reverse kernel a step t → s costs I(x_0; x_s) − I(x_0; x_t), whichever timesteps it skips.
    #[test]
    fn with_the_exact_denoiser_every_chain_costs_the_mutual_information() {
        let schedule = schedule(200);
        let (profile, data) = (exact(&schedule, 0.3), Gaussian { mean: 0.0, variance: 0.3 });
        let information = |t: usize| data.information(schedule.alpha_cumprod(t));
        for timesteps in [vec![199, 0], vec![199, 120, 3, 0], (0..200).rev().collect()] {
            let bits = profile.bits(&schedule, &timesteps, StepVariance::Optimal).unwrap();
            let expected = (information(0) - information(199)) / LN_2 + 1.0;
            assert!((bits - expected).abs() < 1e-12, "{bits} {expected}");
            // No fixed variance is better.
            for kind in [Variance::FixedSmall, Variance::FixedLarge] {
                assert!(profile.bits(&schedule, &timesteps, StepVariance::Fixed(kind)).unwrap() >= bits - 1e-12);
            }
        }
    }

    /// Against the KL of two Gaussians, with β of the sub-chain.
    #[test]
    fn fixed_variances_are_those_of_the_sub_chain() {
        let schedule = schedule(200);
        let profile = exact(&schedule, 0.3);
        let mut nats = 0.0;
        for (t, s) in [(199, 120), (120, 3), (3, 0)] {
            let (alpha_t, alpha_s) = (schedule.alpha_cumprod(t), schedule.alpha_cumprod(s));
            let beta = 1.0 - alpha_t / alpha_s;
            let small = (1.0 - alpha_s) / (1.0 - alpha_t) * beta;
            let error = alpha_s * (beta / (1.0 - alpha_t)).powi(2) * profile.mse[t];
            nats += 0.5 * ((beta / small).ln() - 1.0 + (small + error) / beta);
        }
        let large = StepVariance::Fixed(Variance::FixedLarge);
        let bits = profile.bits(&schedule, &[199, 120, 3, 0], large).unwrap();
        let decoder = schedule.respace(&[199, 120, 3, 0]).unwrap().posterior(0).log_variance_clipped;
        assert!((bits - nats / LN_2 - profile.decoder_at(decoder)).abs() < 1e-12);
    }

    #[test]
    fn the_best_timesteps_equal_an_exhaustive_search() {
        let schedule = NoiseSchedule::new(BetaSchedule::Linear, 0.01, 0.5, 12).unwrap();
        // Errors that vary over t.
        let mut profile = exact(&schedule, 0.5);
        for (t, mse) in profile.mse.iter_mut().enumerate() {
            *mse *= 1.0 + 0.4 * (t as f64 / 3.0).sin().abs();
        }
        for steps in 2..=12 {
            let best = profile.best_timesteps(&schedule, steps).unwrap();
            assert_eq!((best.len(), best[0], best[steps - 1]), (steps, 11, 0));
            let bits = |timesteps: &[usize]| profile.bits(&schedule, timesteps, StepVariance::Optimal).unwrap();
            let least = (0u32..1 << 10)
                .filter(|inner| inner.count_ones() as usize == steps - 2)
                .map(|inner| {
                    let middle = (1..11).rev().filter(|t| inner >> (t - 1) & 1 == 1);
                    bits(&std::iter::once(11).chain(middle).chain([0]).collect::<Vec<_>>())
                })
                .fold(f64::INFINITY, f64::min);
            assert!((bits(&best) - least).abs() < 1e-12);
        }
        assert!(profile.best_timesteps(&schedule, 1).is_err());
        assert!(profile.best_timesteps(&schedule, 13).is_err());
    }

    #[test]
    fn log_variances_are_optimal() {
        let schedule = schedule(50);
        let profile = exact(&schedule, 1.0);
        let log_variances = profile.log_variances(&schedule, &[49, 20, 0]).unwrap();
        // For data of unit variance σ*² is β (Ho et al., section 3.2).
        let beta = |t: usize, s: usize| 1.0 - schedule.alpha_cumprod(t) / schedule.alpha_cumprod(s);
        assert!((log_variances[0] - beta(49, 20).ln()).abs() < 1e-12);
        assert!((log_variances[1] - beta(20, 0).ln()).abs() < 1e-12);
        assert_eq!(log_variances[2], -4.0);
        assert!((profile.decoder_at(-4.5) - 1.5).abs() < 1e-12);
        assert_eq!((profile.decoder_at(-9.0), profile.decoder_at(0.0)), (2.0, 3.0));
    }

    #[test]
    fn invalid_arguments_are_errors() {
        let schedule = schedule(50);
        let profile = exact(&schedule, 1.0);
        let optimal = StepVariance::Optimal;
        assert!(profile.bits(&schedule, &[48, 0], optimal).is_err());
        assert!(profile.bits(&schedule, &[49, 1], optimal).is_err());
        assert!(profile.bits(&schedule, &[49, 0], StepVariance::Fixed(Variance::Learned)).is_err());
        assert!(MseProfile { mse: vec![0.1; 49], ..profile.clone() }.check(&schedule).is_err());
        assert!(MseProfile { mse: vec![f64::NAN; 50], ..profile.clone() }.check(&schedule).is_err());
        assert!(MseProfile { decoder: vec![], ..profile }.check(&schedule).is_err());
    }
}
