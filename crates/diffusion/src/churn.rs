//! The stochastic sampler of Karras et al. (2022, arXiv 2206.00364), algorithm 2: Heun's method, and before each step a
//! little noise, so that errors of earlier steps are forgotten.
//!
//! With y = x/√ᾱ and σ = √((1−ᾱ)/ᾱ) a step first raises σ to σ̂ = (1 + γ)σ by y + √(σ̂² − σ²) S_noise z, and then goes from
//! σ̂ to the next σ. The noise comes before the evaluation; in a table it is the noise of the row before, whose result is
//! scaled to the new ᾱ. The first step is never churned: x_T is fresh noise already.

use serde::{Deserialize, Serialize};

use crate::ode_solver::{OdeStep, validate_nodes};
use crate::solver::Row;
use crate::{Clip, Error, Node, NoiseLevel, NoiseSchedule, SolverTable};

/// How much noise is added, and where.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Churn {
    /// γ of all steps together: each has min(s_churn/steps, √2 − 1). 0 is Heun's method.
    pub s_churn: f64,
    /// The least σ at which noise is added.
    pub s_tmin: f64,
    /// The greatest.
    pub s_tmax: f64,
    /// The noise's standard deviation; a little above 1 makes up for denoisers that remove too much.
    pub s_noise: f64,
}

impl Default for Churn {
    /// Karras et al.'s for CIFAR-10 and the VP chain (table 5): 30, 0.01 to 1, 1.007. The default of their code is no
    /// churn at all.
    fn default() -> Self {
        Self { s_churn: 30.0, s_tmin: 0.01, s_tmax: 1.0, s_noise: 1.007 }
    }
}

impl Churn {
    /// σ̂ of a step from σ, one of `steps`; never above `highest`, for beyond the chain's last noise level the network
    /// knows nothing.
    fn raised(self, sigma: f64, steps: usize, highest: f64) -> f64 {
        if !(self.s_tmin..=self.s_tmax).contains(&sigma) {
            return sigma;
        }
        let gamma = (self.s_churn / steps as f64).min(std::f64::consts::SQRT_2 - 1.0);
        ((1.0 + gamma) * sigma).min(highest)
    }
}

/// The table `edm-sde` through `nodes`, the last of which is where it ends. `schedule` tells the t of noise levels between.
///
/// # Errors
/// As [`OdeSolver::table`](crate::OdeSolver::table), and for negative numbers in `churn`.
pub fn edm_sde(
    schedule: &NoiseSchedule,
    nodes: &[Node],
    churn: Churn,
    clip_sample: Option<Clip>,
) -> Result<SolverTable, Error> {
    const NAME: &str = "edm-sde";
    let Churn { s_churn, s_tmin, s_tmax, s_noise } = churn;
    for (name, value) in [("s_churn", s_churn), ("s_tmin", s_tmin), ("s_tmax", s_tmax), ("s_noise", s_noise)] {
        if value.is_nan() || value < 0.0 {
            return Err(Error::Value { name, value, expected: "0 or more" });
        }
    }
    let nodes = &validate_nodes(NAME, nodes)?[..];
    let mut rows = Vec::new();
    for pair in nodes.windows(2) {
        let sigma = pair[0].level.noise_ratio();
        let raised = churn.raised(sigma, nodes.len() - 1, nodes[0].level.noise_ratio());
        let mut from = pair[0];
        if let (Some(before), true) = (rows.last_mut(), raised > sigma) {
            from = Node {
                timestep: schedule.timestep_of_lambda(-raised.ln()),
                level: NoiseLevel::variance_preserving(1.0 / (1.0 + raised * raised)),
            };
            let Row { x, sample, epsilon, noise, .. } = before;
            let scale = from.level.alpha / pair[0].level.alpha;
            [x].into_iter().chain(sample).chain(epsilon).for_each(|coefficient| *coefficient *= scale);
            *noise = from.level.alpha * s_noise * (raised * raised - sigma * sigma).sqrt();
        }
        rows.extend(OdeStep { nodes: &[from, pair[1]], i: 0 }.heun());
    }
    SolverTable { name: NAME.to_owned(), rows, clip_sample, epsilon_from_clipped: true }.checked()
}
