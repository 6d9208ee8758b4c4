//! Named rules for β_0 … β_{T−1}.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    Error,
    linspace::linspace,
    names::{name_of, named},
};

/// A named rule for β_0 … β_{T−1}. Names are those of diffusers, or of Ho et al.'s code where diffusers has none.
///
/// For a list of betas (diffusers' `trained_betas`) see
/// [`NoiseSchedule::from_betas`](crate::NoiseSchedule::from_betas).
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
    /// 1/T, 1/(T−1), …, 1, so that ᾱ falls evenly to 0 (Sohl-Dickstein et al. 2015).
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
    /// Log-SNR falls evenly from 13.3 to −5, the end points that Kingma et al. (2021, VDM) learned; takes no β range.
    LogSnr,
    /// ᾱ falls as a logistic function from −3 to 3, β capped at 0.999 (Jabri et al. 2022, arXiv 2212.11972), as
    /// denoising-diffusion-pytorch computes its `sigmoid`; takes no β range.
    SigmoidAlphaBar,
    /// (σ/α)^(1/7) rises evenly from σ/α = 0.002 to 80 (Karras et al. 2022, eq. 5 with ρ = 7); takes no β range.
    Karras,
    /// The continuous variance-preserving process of Song et al. (2021) at times evenly spaced from 1e-5 to 1, with the
    /// constants of EDM's `VPPrecond` (Karras et al. 2022, table 1); takes no β range.
    EdmVp,
    /// ln(σ/α) rises evenly from σ/α = 0.02 to 100, the noise levels of EDM's `VEPrecond` (Song et al. 2021; Karras et al.
    /// 2022, table 1); takes no β range.
    EdmVe,
}

impl BetaSchedule {
    /// Other names, which are read and not written.
    pub const ALIASES: [(&'static str, Self); 2] = [("cosine", Self::SquaredcosCapV2), ("quad", Self::ScaledLinear)];

    /// Every schedule with its name.
    pub const NAMES: [(&'static str, Self); 14] = [
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
        ("sigmoid_alpha_bar", Self::SigmoidAlphaBar),
        ("karras", Self::Karras),
        ("edm_vp", Self::EdmVp),
        ("edm_ve", Self::EdmVe),
    ];

    /// Finds the schedule of betas that were computed by a formula and rounded to f32, and the β range if it takes one.
    pub fn recognize(betas: &[f32]) -> Option<(Self, Option<(f64, f64)>)> {
        let candidates = [
            (Self::Linear, Some(scaled_beta_range(betas.len()))),
            (Self::Linear, Some((0.0001, 0.02))),
            (Self::SquaredcosCapV2, None),
            (Self::SigmoidAlphaBar, None),
        ];
        let is_close = |beta: f64, rounded: f32| (f64::from(rounded) - beta).abs() <= 2e-7 * beta;
        candidates.into_iter().find(|(schedule, range)| {
            let (start, end) = range.unwrap_or_default();
            let exact = schedule.betas(start, end, betas.len());
            betas.len() > 1 && exact.iter().zip(betas).all(|(&beta, &rounded)| is_close(beta, rounded))
        })
    }

    /// Returns whether the betas depend on β_start or β_end.
    pub fn takes_beta_range(self) -> bool {
        match self {
            Self::Linear | Self::ScaledLinear | Self::Const | Self::Warmup10 | Self::Warmup50 | Self::Sigmoid => true,
            Self::Jsd | Self::SquaredcosCapV2 | Self::Laplace | Self::LogSnr | Self::SigmoidAlphaBar => false,
            Self::Karras | Self::EdmVp | Self::EdmVe => false,
        }
    }

    /// Returns β_0 … β_{T−1} for T = `num_train_timesteps`.
    ///
    /// The range does not depend on T, as in Ho et al. and diffusers; improved-diffusion scales it, see
    /// [`scaled_beta_range`].
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
            Self::SigmoidAlphaBar => betas_for_alpha_bar(steps, sigmoid_alpha_bar),
            Self::LogSnr => betas_for_inverse_snr(linspace(-13.3, 5.0, steps).into_iter().map(f64::exp).collect()),
            Self::Karras => {
                let [low, high] = KARRAS_SIGMAS.map(|sigma| sigma.powf(1.0 / KARRAS_RHO));
                let inverse_snr = |root: f64| root.powf(2.0 * KARRAS_RHO);
                betas_for_inverse_snr(linspace(low, high, steps).into_iter().map(inverse_snr).collect())
            }
            Self::EdmVp => betas_for_inverse_snr(
                linspace(VP_FIRST_TIME, 1.0, steps)
                    .into_iter()
                    .map(|t| (0.5 * VP_BETA_D * t * t + VP_BETA_MIN * t).exp_m1())
                    .collect(),
            ),
            Self::EdmVe => {
                let [low, high] = VE_SIGMAS.map(f64::ln);
                betas_for_inverse_snr(linspace(low, high, steps).into_iter().map(|log| (2.0 * log).exp()).collect())
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

    /// Reads a name of [`BetaSchedule::NAMES`] or [`BetaSchedule::ALIASES`].
    fn from_str(name: &str) -> Result<Self, Error> {
        named("beta schedule", name, [&Self::NAMES, &Self::ALIASES])
    }
}

/// Returns (β_start, β_end) of the linear schedule scaled by 1000/T, so that ᾱ_{T−1} hardly depends on T.
///
/// improved-diffusion, guided-diffusion and lucidrains scale the range; Ho et al. and diffusers do not.
pub fn scaled_beta_range(num_train_timesteps: usize) -> (f64, f64) {
    let scale = 1000.0 / num_train_timesteps as f64;
    (scale * 0.0001, scale * 0.02)
}

/// The least and the greatest σ/α of Karras et al. (2022), the range of [`BetaSchedule::Karras`].
pub const KARRAS_SIGMAS: [f64; 2] = [0.002, 80.0];
/// ρ of Karras et al. (2022).
pub(crate) const KARRAS_RHO: f64 = 7.0;
/// β_d of the variance-preserving process: β(t) = β_min + β_d·t (Karras et al. 2022, table 1).
pub const VP_BETA_D: f64 = 19.9;
/// β_min of the variance-preserving process.
pub const VP_BETA_MIN: f64 = 0.1;
/// The first time of [`BetaSchedule::EdmVp`], ε_t of Karras et al. (2022).
pub const VP_FIRST_TIME: f64 = 1e-5;
/// The least and the greatest σ/α of [`BetaSchedule::EdmVe`].
pub const VE_SIGMAS: [f64; 2] = [0.02, 100.0];

/// Returns the time of the variance-preserving process at which its noise has the ratio σ/α (Karras et al. 2022, appendix
/// C.1), in a form without cancellation near 0.
pub(crate) fn vp_time(ratio: f64) -> f64 {
    let log = (ratio * ratio).ln_1p();
    2.0 * log / ((VP_BETA_MIN * VP_BETA_MIN + 2.0 * VP_BETA_D * log).sqrt() + VP_BETA_MIN)
}

/// Returns β_t = 1 − ᾱ_t/ᾱ_{t−1} for ᾱ = 1/(1 + σ²/α²), without the cancellation near ᾱ = 1.
fn betas_for_inverse_snr(inverse_snr: Vec<f64>) -> Vec<f64> {
    let before = std::iter::once(0.0).chain(inverse_snr.iter().copied());
    before.zip(&inverse_snr).map(|(before, now)| (now - before) / (1.0 + now)).collect()
}

/// Returns β_t = 1 − ᾱ((t+1)/T)/ᾱ(t/T), capped at 0.999 (Nichol & Dhariwal 2021, section 3.2).
fn betas_for_alpha_bar(steps: usize, alpha_bar: fn(f64) -> f64) -> Vec<f64> {
    let at = |t: usize| alpha_bar(t as f64 / steps as f64);
    (0..steps).map(|t| (1.0 - at(t + 1) / at(t)).min(0.999)).collect()
}

fn cosine_alpha_bar(t: f64) -> f64 {
    ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2)
}

/// Up to a factor, which cancels in the betas. The end point is an f32 in the original, where little is left of ᾱ.
fn sigmoid_alpha_bar(t: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    f64::from(sigmoid(3.0) as f32) - sigmoid(6.0 * t - 3.0)
}

fn laplace_alpha_bar(t: f64) -> f64 {
    let log_snr = -0.5 * (0.5 - t).signum() * (1.0 - 2.0 * (0.5 - t).abs() + 1e-6).ln();
    (log_snr.exp() / (1.0 + log_snr.exp())).sqrt()
}
