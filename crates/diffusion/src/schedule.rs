//! Noise schedules: β_t, ᾱ_t = Π(1−β_i), and everything that follows from ᾱ alone.
//!
//! Ho et al. 2020 (arXiv 2006.11239): forward process eq. 2–4, posterior eq. 6–7.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    Error, NoiseLevel,
    linspace::linspace,
    names::{name_of, named},
    timesteps,
};

/// The rule that makes β_0 … β_{T−1}. Spelled as in diffusers where diffusers has it, else as in Ho et al.'s code.
///
/// A list of betas is not a rule: see [`NoiseSchedule::from_betas`] (diffusers' `trained_betas`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    /// Evenly spaced from β_start to β_end, both included (Ho et al. 2020).
    #[default]
    Linear,
    /// Evenly spaced square roots, squared; `quad` in Ho et al.'s code.
    #[serde(alias = "quad")]
    ScaledLinear,
    /// β_end throughout.
    Const,
    /// 1/T, 1/(T−1), …, 1: each step erases an equal share of what is left (Sohl-Dickstein et al. 2015). ᾱ ends at 0.
    Jsd,
    /// Linear over the first tenth of the steps, then β_end.
    Warmup10,
    /// Linear over the first half of the steps, then β_end.
    Warmup50,
    /// ᾱ follows a squared cosine, β capped at 0.999 (Nichol & Dhariwal 2021, eq. 17); takes no β range.
    #[serde(rename = "squaredcos_cap_v2", alias = "cosine")]
    SquaredcosCapV2,
    /// A logistic ramp from −6 to 6 between β_start and β_end (GeoDiff).
    Sigmoid,
    /// ᾱ from a Laplace-distributed log-SNR, β capped at 0.999, as diffusers computes it; takes no β range.
    Laplace,
    /// The log-SNR falls evenly from 13.3 to −5, the end points that Kingma et al. (2021, VDM) found; takes no β range.
    LogSnr,
}

impl BetaSchedule {
    /// Every schedule with its name.
    pub const NAMES: [(&'static str, Self); 10] = [
        ("linear", Self::Linear),
        ("scaled_linear", Self::ScaledLinear),
        ("const", Self::Const),
        ("jsd", Self::Jsd),
        ("warmup10", Self::Warmup10),
        ("warmup50", Self::Warmup50),
        ("squaredcos_cap_v2", Self::SquaredcosCapV2),
        ("sigmoid", Self::Sigmoid),
        ("laplace", Self::Laplace),
        ("log_snr", Self::LogSnr),
    ];

    /// β_0 … β_{T−1} for T = `num_train_timesteps`. The range is used as given for every T, as Ho et al. and diffusers
    /// do; see [`scaled_beta_range`] for improved-diffusion's habit.
    pub fn betas(self, beta_start: f64, beta_end: f64, num_train_timesteps: usize) -> Vec<f64> {
        let steps = num_train_timesteps;
        let warmup = |fraction: f64| {
            let ramp = (steps as f64 * fraction) as usize;
            let mut betas = linspace(beta_start, beta_end, ramp);
            betas.resize(steps, beta_end);
            betas
        };
        match self {
            Self::Linear => linspace(beta_start, beta_end, steps),
            Self::ScaledLinear => {
                linspace(beta_start.sqrt(), beta_end.sqrt(), steps).iter().map(|root| root * root).collect()
            }
            Self::Const => vec![beta_end; steps],
            Self::Jsd => (0..steps).map(|t| 1.0 / (steps - t) as f64).collect(),
            Self::Warmup10 => warmup(0.1),
            Self::Warmup50 => warmup(0.5),
            Self::SquaredcosCapV2 => betas_for_alpha_bar(steps, cosine_alpha_bar),
            Self::Sigmoid => linspace(-6.0, 6.0, steps)
                .iter()
                .map(|x| (beta_end - beta_start) / (1.0 + (-x).exp()) + beta_start)
                .collect(),
            Self::Laplace => betas_for_alpha_bar(steps, laplace_alpha_bar),
            Self::LogSnr => {
                // 1 − ᾱ_t/ᾱ_{t−1} for ᾱ = 1/(1 + e^{−log SNR}), without the cancellation near ᾱ = 1.
                let noise: Vec<f64> = linspace(-13.3, 5.0, steps).into_iter().map(f64::exp).collect();
                let before = std::iter::once(0.0).chain(noise.iter().copied());
                before.zip(&noise).map(|(before, now)| (now - before) / (1.0 + now)).collect()
            }
        }
    }
}

impl fmt::Display for BetaSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(name_of(self, &Self::NAMES))
    }
}

impl FromStr for BetaSchedule {
    type Err = Error;

    /// Reads the names of [`BetaSchedule::NAMES`], `cosine` and `quad`.
    fn from_str(name: &str) -> Result<Self, Error> {
        let name = match name {
            "cosine" => "squaredcos_cap_v2",
            "quad" => "scaled_linear",
            name => name,
        };
        named("beta schedule", name, &Self::NAMES)
    }
}

/// (β_start, β_end) of the linear schedule scaled by 1000/T, so that ᾱ_T hardly depends on T. improved-diffusion,
/// guided-diffusion and lucidrains do so; Ho et al. and diffusers do not.
pub fn scaled_beta_range(num_train_timesteps: usize) -> (f64, f64) {
    let scale = 1000.0 / num_train_timesteps as f64;
    (scale * 0.0001, scale * 0.02)
}

/// β_t = 1 − ᾱ((t+1)/T)/ᾱ(t/T), capped at 0.999 (Nichol & Dhariwal 2021, section 3.2).
fn betas_for_alpha_bar(steps: usize, alpha_bar: fn(f64) -> f64) -> Vec<f64> {
    let at = |t: usize| alpha_bar(t as f64 / steps as f64);
    (0..steps).map(|t| (1.0 - at(t + 1) / at(t)).min(0.999)).collect()
}

fn cosine_alpha_bar(t: f64) -> f64 {
    ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2)
}

fn laplace_alpha_bar(t: f64) -> f64 {
    let log_snr = -0.5 * (0.5 - t).signum() * (1.0 - 2.0 * (0.5 - t).abs() + 1e-6).ln();
    (log_snr.exp() / (1.0 + log_snr.exp())).sqrt()
}

/// A chain of T noise levels. Immutable; every table of Ho et al.'s code is a function of it.
///
/// Methods that take `t` panic where `t >= len()`, like a slice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<f64>", into = "Vec<f64>")]
pub struct NoiseSchedule {
    betas: Vec<f64>,
    alphas_cumprod: Vec<f64>,
}

impl NoiseSchedule {
    /// The schedule of a rule. Errors where a β leaves (0, 1].
    pub fn new(
        schedule: BetaSchedule,
        beta_start: f64,
        beta_end: f64,
        num_train_timesteps: usize,
    ) -> Result<Self, Error> {
        Self::from_betas(schedule.betas(beta_start, beta_end, num_train_timesteps))
    }

    /// The schedule of a list of betas. Errors where the list is empty or a β leaves (0, 1]; β = 1, which erases the
    /// signal, is allowed on the last step only.
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

    /// The schedule of a list of ᾱ, which keeps these very numbers.
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
        // Below the resolution of f64 a step changes nothing, or there is nothing left to change: 0/0 in the posterior.
        let mut prev = 1.0;
        for (t, &alpha_cumprod) in self.alphas_cumprod.iter().enumerate() {
            if alpha_cumprod >= prev || alpha_cumprod < f64::MIN_POSITIVE && t < last {
                return Err(Error::AlphaCumprod { t, alpha_cumprod, prev });
            }
            prev = alpha_cumprod;
        }
        Ok(self)
    }

    /// The sub-chain that visits only `timesteps` (descending, as samplers visit them), with β recomputed as
    /// 1 − ᾱ_t/ᾱ_s (Nichol & Dhariwal 2021, eq. 19). Its index 0 is the last of `timesteps`.
    pub fn respace(&self, timesteps: &[usize]) -> Result<Self, Error> {
        timesteps::check(timesteps, self.len())?;
        Self::from_alphas_cumprod(timesteps.iter().rev().map(|&t| self.alphas_cumprod[t]).collect())
    }

    /// The same shape with ᾱ_{T−1} = 0 and ᾱ_0 unchanged (Lin et al. 2023, arXiv 2305.08891, algorithm 1). An ε
    /// prediction says nothing about x̂0 at zero SNR, so such a chain wants `v_prediction` or `sample`.
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

    /// T, the number of timesteps; at least 1.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.betas.len()
    }

    /// β_0 … β_{T−1}.
    pub fn betas(&self) -> &[f64] {
        &self.betas
    }

    /// ᾱ_0 … ᾱ_{T−1}.
    pub fn alphas_cumprod(&self) -> &[f64] {
        &self.alphas_cumprod
    }

    /// ᾱ_t, the share of the variance that is still signal.
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

    /// Returns the noise level at a fractional t, with ln ᾱ linear between timesteps (Lu et al. 2022, appendix D). Beyond
    /// the ends it is that of the nearest timestep.
    pub fn level_at(&self, timestep: f64) -> NoiseLevel {
        let t = timestep.clamp(0.0, (self.len() - 1) as f64);
        let (below, share) = (t.floor() as usize, t.fract());
        let low = self.alphas_cumprod[below];
        NoiseLevel::variance_preserving(match share {
            0.0 => low,
            share => low.powf(1.0 - share) * self.alphas_cumprod[below + 1].powf(share),
        })
    }

    /// The fractional t of a λ = ½ ln SNR, the inverse of [`NoiseSchedule::level_at`]; 0 or T−1 beyond the ends.
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

    /// Signal-to-noise ratio ᾱ_t/(1−ᾱ_t).
    pub fn snr(&self, t: usize) -> f64 {
        snr(self.alphas_cumprod[t])
    }

    /// ln SNR_t; −∞ where ᾱ_t = 0. DPM-Solver's λ_t is half of it.
    pub fn log_snr(&self, t: usize) -> f64 {
        self.snr(t).ln()
    }

    /// q(x_{t−1} | x_t, x_0), with the log-variance at t = 0 replaced by that at t = 1 as in Ho et al.'s code. (A chain
    /// of one step has no t = 1; its entry is ln β_0.)
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

/// SNR of a noise level: ᾱ/(1−ᾱ).
pub(crate) fn snr(alpha_cumprod: f64) -> f64 {
    alpha_cumprod / (1.0 - alpha_cumprod)
}

/// The forward posterior q(x_s | x_t, x_0) = N(coef_x0·x_0 + coef_xt·x_t, variance·I), Ho et al. eq. 6–7 for any s < t.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Posterior {
    /// Factor of x_0 in the mean: √ᾱ_s β_ts/(1−ᾱ_t), β_ts = 1−ᾱ_t/ᾱ_s.
    pub coef_x0: f64,
    /// Factor of x_t in the mean: √(ᾱ_t/ᾱ_s) (1−ᾱ_s)/(1−ᾱ_t).
    pub coef_xt: f64,
    /// β̃ = (1−ᾱ_s)/(1−ᾱ_t) β_ts; 0 where s is the data.
    pub variance: f64,
    /// ln β̃, with a finite stand-in where β̃ = 0: that of the step before in [`NoiseSchedule::posterior`] (Ho et al.),
    /// ln 1e-20 in [`Posterior::between`] (diffusers).
    pub log_variance_clipped: f64,
}

impl Posterior {
    /// The posterior of the step from ᾱ_t to ᾱ_s > ᾱ_t; ᾱ_s = 1 is the data.
    pub fn between(alpha_cumprod_t: f64, alpha_cumprod_s: f64) -> Self {
        let alpha = alpha_cumprod_t / alpha_cumprod_s;
        let beta = 1.0 - alpha;
        let (noise_t, noise_s) = (1.0 - alpha_cumprod_t, 1.0 - alpha_cumprod_s);
        let variance = noise_s / noise_t * beta;
        Self {
            coef_x0: alpha_cumprod_s.sqrt() * beta / noise_t,
            coef_xt: alpha.sqrt() * noise_s / noise_t,
            variance,
            log_variance_clipped: variance.max(1e-20).ln(),
        }
    }
}
