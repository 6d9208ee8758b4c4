//! Noise schedules: β_t, ᾱ_t = Π(1−β_i) and all that follows from ᾱ (Ho et al. 2020, arXiv 2006.11239).

use serde::{Deserialize, Serialize};

use crate::{BetaSchedule, Error, NoiseLevel, Posterior, timesteps};

/// A variance-preserving chain of T noise levels. Immutable.
///
/// # Panics
/// Methods that take `t` panic if `t >= len()`, as slices do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<f64>", into = "Vec<f64>")]
pub struct NoiseSchedule {
    betas: Vec<f64>,
    alphas_cumprod: Vec<f64>,
}

impl NoiseSchedule {
    /// Builds a schedule from a named β rule.
    ///
    /// # Errors
    /// As [`NoiseSchedule::from_betas`].
    pub fn new(
        schedule: BetaSchedule,
        beta_start: f64,
        beta_end: f64,
        num_train_timesteps: usize,
    ) -> Result<Self, Error> {
        Self::from_betas(schedule.betas(beta_start, beta_end, num_train_timesteps))
    }

    /// Builds a schedule from a list of betas.
    ///
    /// # Errors
    /// If the list is empty, a β is outside (0, 1], or a β before the last one is 1, which leaves no signal.
    pub fn from_betas(betas: Vec<f64>) -> Result<Self, Error> {
        let alphas_cumprod = betas
            .iter()
            .scan(1.0, |product, beta| {
                *product *= 1.0 - beta;
                Some(*product)
            })
            .collect();
        Self { betas, alphas_cumprod }.checked()
    }

    /// Builds a schedule that keeps a list of ᾱ bit for bit.
    fn from_alphas_cumprod(alphas_cumprod: Vec<f64>) -> Result<Self, Error> {
        let betas = std::iter::once(&1.0)
            .chain(&alphas_cumprod)
            .zip(&alphas_cumprod)
            .map(|(prev, now)| 1.0 - now / prev)
            .collect();
        Self { betas, alphas_cumprod }.checked()
    }

    fn checked(self) -> Result<Self, Error> {
        let last = self.betas.len().checked_sub(1).ok_or(Error::EmptySchedule)?;
        let ok = |t: usize, beta: f64| beta > 0.0 && (beta < 1.0 || beta == 1.0 && t == last);
        if let Some((t, &beta)) = self.betas.iter().enumerate().find(|&(t, &beta)| !ok(t, beta)) {
            return Err(Error::Beta { t, beta });
        }
        // Two equal ᾱ, or ᾱ = 0 before the last step, would give 0/0 in the posterior.
        let mut prev = 1.0;
        for (t, &alpha_cumprod) in self.alphas_cumprod.iter().enumerate() {
            if alpha_cumprod >= prev || alpha_cumprod < f64::MIN_POSITIVE && t < last {
                return Err(Error::AlphaCumprod { t, alpha_cumprod, prev });
            }
            prev = alpha_cumprod;
        }
        Ok(self)
    }

    /// Returns the sub-chain over `timesteps`, a descending list, with β recomputed as 1 − ᾱ_t/ᾱ_s (Nichol & Dhariwal
    /// 2021, eq. 19). Index 0 of the sub-chain is the last entry of `timesteps`.
    ///
    /// # Errors
    /// If `timesteps` is empty, does not descend or has an entry outside the chain.
    pub fn respace(&self, timesteps: &[usize]) -> Result<Self, Error> {
        timesteps::check(timesteps, self.len())?;
        Self::from_alphas_cumprod(timesteps.iter().rev().map(|&t| self.alphas_cumprod[t]).collect())
    }

    /// Rescales √ᾱ so that ᾱ_{T−1} = 0 and ᾱ_0 is unchanged (Lin et al. 2023, arXiv 2305.08891, algorithm 1).
    ///
    /// The network must predict v or x_0: at zero SNR, x̂0 cannot be computed from ε̂.
    ///
    /// # Errors
    /// If the chain has fewer than two timesteps.
    pub fn rescale_zero_terminal_snr(&self) -> Result<Self, Error> {
        let first = self.alphas_cumprod[0].sqrt();
        let last = self.alphas_cumprod[self.len() - 1].sqrt();
        if self.len() < 2 {
            return Err(Error::Unsupported("zero terminal SNR needs at least two timesteps".to_owned()));
        }
        let scale = first / (first - last);
        Self::from_alphas_cumprod(
            self.alphas_cumprod.iter().map(|alpha| ((alpha.sqrt() - last) * scale).powi(2)).collect(),
        )
    }

    /// Returns T, the number of timesteps, which is at least 1.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.betas.len()
    }

    /// Returns β_0 … β_{T−1}.
    pub fn betas(&self) -> &[f64] {
        &self.betas
    }

    /// Returns ᾱ_0 … ᾱ_{T−1}.
    pub fn alphas_cumprod(&self) -> &[f64] {
        &self.alphas_cumprod
    }

    /// Returns ᾱ_t, the signal's share of the variance.
    pub fn alpha_cumprod(&self, t: usize) -> f64 {
        self.alphas_cumprod[t]
    }

    /// ᾱ_{t−1}; 1 (the data) at t = 0.
    fn alpha_cumprod_prev(&self, t: usize) -> f64 {
        if t == 0 { 1.0 } else { self.alphas_cumprod[t - 1] }
    }

    /// Returns the noise level (√ᾱ_t, √(1−ᾱ_t)): x_t = α·x_0 + σ·ε (Ho et al. eq. 4).
    pub fn level(&self, t: usize) -> NoiseLevel {
        NoiseLevel::variance_preserving(self.alpha_cumprod(t))
    }

    /// Returns the noise level at t−1; [`NoiseLevel::DATA`] at t = 0.
    pub fn previous_level(&self, t: usize) -> NoiseLevel {
        NoiseLevel::variance_preserving(self.alpha_cumprod_prev(t))
    }

    /// Returns the noise level at a fractional t, with ln ᾱ interpolated linearly between timesteps (Lu et al. 2022,
    /// appendix D). `timestep` is clamped to 0 … T−1.
    pub fn level_at(&self, timestep: f64) -> NoiseLevel {
        let t = timestep.clamp(0.0, (self.len() - 1) as f64);
        let (below, share) = (t.floor() as usize, t.fract());
        let low = self.alphas_cumprod[below];
        NoiseLevel::variance_preserving(match share {
            0.0 => low,
            share => low.powf(1.0 - share) * self.alphas_cumprod[below + 1].powf(share),
        })
    }

    /// Returns the fractional t of λ = ½ ln SNR, clamped to 0 … T−1: the inverse of [`NoiseSchedule::level_at`].
    pub fn timestep_of_lambda(&self, lambda: f64) -> f64 {
        // ᾱ = 1/(1 + e^{−2λ}).
        let log_alpha = -(-2.0 * lambda).exp().ln_1p();
        let above = self.alphas_cumprod.partition_point(|alpha| alpha.ln() > log_alpha);
        match above {
            0 => 0.0,
            above if above == self.len() => (self.len() - 1) as f64,
            above => {
                let (low, high) = (self.alphas_cumprod[above - 1].ln(), self.alphas_cumprod[above].ln());
                (above - 1) as f64 + (log_alpha - low) / (high - low)
            }
        }
    }

    /// Returns the timestep whose σ/α is nearest to `ratio`.
    pub fn nearest_timestep(&self, ratio: f64) -> usize {
        let at = |t: usize| self.level(t).noise_ratio();
        let above =
            self.alphas_cumprod.partition_point(|bar| NoiseLevel::variance_preserving(*bar).noise_ratio() < ratio);
        match above {
            0 => 0,
            above if above == self.len() => above - 1,
            above if ratio - at(above - 1) <= at(above) - ratio => above - 1,
            above => above,
        }
    }

    /// Returns the signal-to-noise ratio ᾱ_t/(1−ᾱ_t).
    pub fn snr(&self, t: usize) -> f64 {
        snr(self.alphas_cumprod[t])
    }

    /// Returns ln SNR_t, which is −∞ if ᾱ_t = 0. DPM-Solver's λ_t is half of it.
    pub fn log_snr(&self, t: usize) -> f64 {
        self.snr(t).ln()
    }

    /// Returns q(x_{t−1} | x_t, x_0). As in Ho et al.'s code, the log-variance at t = 0 is that at t = 1, or ln β_0 in
    /// a chain of one step.
    pub fn posterior(&self, t: usize) -> Posterior {
        let at = |t: usize| Posterior::between(self.alphas_cumprod[t], self.alpha_cumprod_prev(t));
        let log_variance_clipped = match (t, self.len()) {
            (0, 1) => self.betas[0].ln(),
            (0, _) => at(1).variance.ln(),
            (t, _) => at(t).variance.ln(),
        };
        Posterior { log_variance_clipped, ..at(t) }
    }
}

impl TryFrom<Vec<f64>> for NoiseSchedule {
    type Error = Error;

    fn try_from(betas: Vec<f64>) -> Result<Self, Error> {
        Self::from_betas(betas)
    }
}

impl From<NoiseSchedule> for Vec<f64> {
    fn from(schedule: NoiseSchedule) -> Self {
        schedule.betas
    }
}

/// Returns the SNR ᾱ/(1−ᾱ).
pub(crate) fn snr(alpha_cumprod: f64) -> f64 {
    alpha_cumprod / (1.0 - alpha_cumprod)
}
