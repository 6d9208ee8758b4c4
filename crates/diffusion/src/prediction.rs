//! The quantity that a network predicts, as preconditioning and as training target.

use std::{fmt, str::FromStr, sync::LazyLock};

use serde::{Deserialize, Serialize};

use crate::{
    BetaSchedule, Error, LinearMap, Node, NoiseLevel, Preconditioning,
    beta_schedule::{KARRAS_SIGMAS, vp_time},
    names::{name_of, named},
    noise_level::mix,
    posterior::Posterior,
    preconditioning::epsilon_from_sample,
    schedule::NoiseSchedule,
};

/// The quantity that the network predicts: diffusers' `prediction_type`, and Ho et al.'s `xprev`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// The noise ε in x_t (Ho et al. 2020, section 3.2).
    #[default]
    Epsilon,
    /// The data x_0.
    Sample,
    /// v = α·ε − σ·x_0 (Salimans & Ho 2022, arXiv 2202.00512).
    VPrediction,
    /// The posterior mean of x_{t−1} in the training chain (Ho et al.'s μ̃).
    PreviousMean,
    /// F of EDM: a mixture of x_0 and ε that has variance 1 at every noise level, if the data have the deviation
    /// [`SIGMA_DATA`]. The network's input is scaled to variance 1 too, and its time input is ln(σ/α)/4 (Karras et al. 2022,
    /// arXiv 2206.00364, table 1).
    Edm,
    /// ε, with the time input 999·t of the continuous variance-preserving process (Song et al. 2021; `VPPrecond` of
    /// NVlabs/edm). t follows from the noise level.
    EdmVp,
    /// −ε, from x_t/α, with the time input ln(σ/2α) (Song et al. 2021's variance-exploding process; `VEPrecond` of NVlabs/edm).
    EdmVe,
    /// ε, with the nearest timestep of the cosine chain of [`EDM_IDDPM_TIMESTEPS`] as time input (Nichol & Dhariwal 2021;
    /// `iDDPMPrecond` of NVlabs/edm).
    EdmIddpm,
}

/// The number of timesteps of [`Prediction::EdmIddpm`].
pub const EDM_IDDPM_TIMESTEPS: usize = 1000;
/// M − 1 of [`Prediction::EdmVp`], the factor of its time.
const VP_TIME_SCALE: f64 = 999.0;

/// The chain of [`Prediction::EdmIddpm`].
static IDDPM_CHAIN: LazyLock<NoiseSchedule> = LazyLock::new(|| {
    NoiseSchedule::new(BetaSchedule::SquaredcosCapV2, 0.0, 0.0, EDM_IDDPM_TIMESTEPS).expect("valid betas")
});

/// The deviation of the data that EDM assumes, σ_data.
pub const SIGMA_DATA: f64 = 0.5;

/// A training target `sample·x_0 + epsilon·ε`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrainingTarget {
    /// Factor of x_0.
    pub sample: f64,
    /// Factor of ε.
    pub epsilon: f64,
}

impl TrainingTarget {
    /// Writes the target of each element to `out`, in f32.
    ///
    /// # Panics
    /// If the slices differ in length.
    pub fn mix(self, x0: &[f32], epsilon: &[f32], out: &mut [f32]) {
        mix(self.sample, x0, self.epsilon, epsilon, out);
    }
}

impl Prediction {
    /// Every prediction with its name.
    pub const NAMES: [(&'static str, Self); 8] = [
        ("epsilon", Self::Epsilon),
        ("sample", Self::Sample),
        ("v_prediction", Self::VPrediction),
        ("previous_mean", Self::PreviousMean),
        ("edm", Self::Edm),
        ("edm_vp", Self::EdmVp),
        ("edm_ve", Self::EdmVe),
        ("edm_iddpm", Self::EdmIddpm),
    ];

    /// Returns the noise levels that a network of NVlabs/edm was trained on: the rule of the chain of its preconditioner. `None`
    /// for predictions that go with any chain.
    pub fn own_schedule(self) -> Option<BetaSchedule> {
        match self {
            Self::Edm => Some(BetaSchedule::Karras),
            Self::EdmVp => Some(BetaSchedule::EdmVp),
            Self::EdmVe => Some(BetaSchedule::EdmVe),
            Self::EdmIddpm => Some(BetaSchedule::SquaredcosCapV2),
            Self::Epsilon | Self::Sample | Self::VPrediction | Self::PreviousMean => None,
        }
    }

    /// Returns whether the prediction is that of a preconditioner of NVlabs/edm, whose time input is a function of the noise
    /// level.
    pub fn is_edm(self) -> bool {
        self.own_schedule().is_some()
    }

    /// Returns the least and the greatest σ/α between which such a network is sampled, within those of its chain.
    pub fn sampled_ratios(self) -> Option<[f64; 2]> {
        self.is_edm().then_some(KARRAS_SIGMAS)
    }

    /// Returns the noise level at t−1 of the training chain, the `previous` of [`Prediction::preconditioning`].
    ///
    /// # Errors
    /// For [`Prediction::PreviousMean`] at a timestep that is not a whole one of the chain.
    pub fn previous_level(self, schedule: &NoiseSchedule, timestep: f64) -> Result<NoiseLevel, Error> {
        let last = (schedule.len() - 1) as f64;
        if self == Self::PreviousMean && !(timestep.fract() == 0.0 && (0.0..=last).contains(&timestep)) {
            return Err(Error::Unsupported(format!(
                "a network with {self} prediction cannot be evaluated at t = {timestep}, only at whole timesteps"
            )));
        }
        Ok(schedule.previous_level(timestep.clamp(0.0, last) as usize))
    }

    /// Returns how the network's output becomes x̂0 at a node. `previous` is the noise level at t−1 of the *training*
    /// chain; only [`Prediction::PreviousMean`] uses it, which requires variance-preserving levels.
    ///
    /// Not finite for predictions of ε at α = 0, where x_t does not depend on x_0.
    pub fn preconditioning(self, node: Node, previous: NoiseLevel) -> Preconditioning {
        let NoiseLevel { alpha, sigma } = node.level;
        let chain = |c_skip: f64, c_out: f64| Preconditioning { c_skip, c_out, c_in: 1.0, c_noise: node.timestep };
        match self {
            Self::Epsilon => chain(1.0 / alpha, -sigma / alpha),
            Self::Sample => chain(0.0, 1.0),
            Self::VPrediction => chain(alpha, -sigma),
            Self::PreviousMean => {
                let posterior = Posterior::between(node.level.alpha_cumprod(), previous.alpha_cumprod());
                chain(-posterior.coef_xt / posterior.coef_x0, 1.0 / posterior.coef_x0)
            }
            Self::Edm => edm(node.level),
            Self::EdmVp | Self::EdmVe | Self::EdmIddpm => {
                let ratio = node.level.noise_ratio();
                let epsilon = chain(1.0 / alpha, -sigma / alpha);
                match self {
                    Self::EdmVp => Preconditioning { c_noise: VP_TIME_SCALE * vp_time(ratio), ..epsilon },
                    Self::EdmVe => {
                        Preconditioning { c_out: ratio, c_in: 1.0 / alpha, c_noise: (0.5 * ratio).ln(), ..epsilon }
                    }
                    _ => Preconditioning { c_noise: IDDPM_CHAIN.nearest_timestep(ratio) as f64, ..epsilon },
                }
            }
        }
    }

    /// Returns the map from x_t and the network's output to ε̂ at a node; arguments as in
    /// [`Prediction::preconditioning`].
    pub fn epsilon_map(self, node: Node, previous: NoiseLevel) -> LinearMap {
        let NoiseLevel { alpha, sigma } = node.level;
        match self {
            Self::Epsilon | Self::EdmVp | Self::EdmIddpm => LinearMap { x: 0.0, output: 1.0 },
            Self::EdmVe => LinearMap { x: 0.0, output: -1.0 },
            Self::VPrediction => LinearMap { x: sigma, output: alpha },
            Self::Sample | Self::PreviousMean | Self::Edm => {
                let sample = self.preconditioning(node, previous).sample_map();
                let epsilon = epsilon_from_sample(node.level);
                LinearMap { x: epsilon.x + epsilon.output * sample.x, output: epsilon.output * sample.output }
            }
        }
    }

    /// Returns the maps from x_t and the network's output to x̂0 and to ε̂; arguments as in
    /// [`Prediction::preconditioning`].
    ///
    /// # Errors
    /// If a coefficient is not finite: an ε prediction at α = 0.
    pub fn maps(self, node: Node, previous: NoiseLevel) -> Result<(LinearMap, LinearMap), Error> {
        let sample = self.preconditioning(node, previous).sample_map();
        let epsilon = self.epsilon_map(node, previous);
        if sample.is_finite() && epsilon.is_finite() {
            return Ok((sample, epsilon));
        }
        let Node { timestep, level: NoiseLevel { alpha, sigma } } = node;
        Err(Error::Unsupported(format!(
            "a network with {self} prediction cannot be evaluated at t = {timestep}, where alpha is {alpha} and sigma {sigma}"
        )))
    }

    /// Returns the training target at timestep t.
    pub fn target(self, schedule: &NoiseSchedule, t: usize) -> TrainingTarget {
        let NoiseLevel { alpha, sigma } = schedule.level(t);
        match self {
            Self::Epsilon | Self::EdmVp | Self::EdmIddpm => TrainingTarget { sample: 0.0, epsilon: 1.0 },
            Self::EdmVe => TrainingTarget { sample: 0.0, epsilon: -1.0 },
            Self::Sample => TrainingTarget { sample: 1.0, epsilon: 0.0 },
            Self::VPrediction => TrainingTarget { sample: -sigma, epsilon: alpha },
            Self::PreviousMean => {
                let posterior = schedule.posterior(t);
                TrainingTarget {
                    sample: posterior.coef_x0 + posterior.coef_xt * alpha,
                    epsilon: posterior.coef_xt * sigma,
                }
            }
            Self::Edm => {
                let ratio = sigma / alpha;
                let length = ratio.hypot(SIGMA_DATA);
                TrainingTarget { sample: ratio / (SIGMA_DATA * length), epsilon: -SIGMA_DATA / length }
            }
        }
    }
}

/// Returns EDM's coefficients for x_t = α·x_0 + σ·ε. Karras et al. give them for y = x_t/α, whose noise is σ/α.
fn edm(level: NoiseLevel) -> Preconditioning {
    let ratio = level.noise_ratio();
    let length = ratio.hypot(SIGMA_DATA);
    Preconditioning {
        c_skip: (SIGMA_DATA / length).powi(2) / level.alpha,
        c_out: ratio * SIGMA_DATA / length,
        c_in: 1.0 / (length * level.alpha),
        c_noise: ratio.ln() / 4.0,
    }
}

impl fmt::Display for Prediction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(name_of(self, &Self::NAMES))
    }
}

impl FromStr for Prediction {
    type Err = Error;

    /// Parses a name of [`Prediction::NAMES`].
    fn from_str(name: &str) -> Result<Self, Error> {
        named("prediction", name, [&Self::NAMES, &[]])
    }
}
