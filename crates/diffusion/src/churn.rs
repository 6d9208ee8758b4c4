//! The stochastic sampler of Karras et al. (2022, arXiv 2206.00364, algorithm 2): Heun's method with a little noise
//! added before each step, which corrects errors of earlier steps.
//!
//! With y = x/α and σ the noise of y, a step first raises σ to σ̂ = (1 + γ)σ by adding √(σ̂² − σ²) S_noise z to y, and
//! then goes from σ̂ to the next σ. The noise is added before the evaluation, so in a table it belongs to the row
//! before, whose result is scaled to the new noise level. The first step adds no noise, since x_T is noise already.

use serde::{Deserialize, Serialize};

use crate::ode_solver::{OdeStep, validate_nodes};
use crate::solver_table::Row;
use crate::{Clip, Error, Node, NoiseLevel, NoiseSchedule, SolverTable};

/// The amount of noise that is added, and the range of σ in which it is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Churn {
    /// The sum of γ over all steps: each has min(s_churn/steps, √2 − 1). 0 is Heun's method.
    pub s_churn: f64,
    /// The least σ at which noise is added.
    pub s_tmin: f64,
    /// The greatest σ at which noise is added.
    pub s_tmax: f64,
    /// The noise's standard deviation; slightly above 1 compensates for denoisers that remove too much noise.
    pub s_noise: f64,
}

impl Default for Churn {
    /// Returns the settings of Karras et al. for CIFAR-10 and the VP chain (table 5): 30, 0.01 to 1, 1.007. (The
    /// default of their code is no churn.)
    fn default() -> Self {
        Self { s_churn: 30.0, s_tmin: 0.01, s_tmax: 1.0, s_noise: 1.007 }
    }
}

impl Churn {
    /// Returns σ̂ of a step from σ. At most `highest`, the chain's last noise level: the network was not trained beyond
    /// it.
    fn raised(self, sigma: f64, steps: usize, highest: f64) -> f64 {
        if !(self.s_tmin..=self.s_tmax).contains(&sigma) {
            return sigma;
        }
        let gamma = (self.s_churn / steps as f64).min(std::f64::consts::SQRT_2 - 1.0);
        ((1.0 + gamma) * sigma).min(highest)
    }
}

/// Builds the table `edm-sde` that passes through `nodes` and ends at the last one. `schedule` gives the timesteps of
/// raised noise levels.
///
/// # Errors
/// As [`OdeSolver::table`](crate::OdeSolver::table), and if a number in `churn` is negative.
pub fn edm_sde(
    schedule: &NoiseSchedule,
    nodes: &[Node],
    churn: Churn,
    clip_sample: Option<Clip>,
) -> Result<SolverTable, Error> {
    let node = |ratio: f64| Node {
        timestep: schedule.timestep_of_lambda(-ratio.ln()),
        level: NoiseLevel::variance_preserving(1.0 / (1.0 + ratio * ratio)),
    };
    table(nodes, churn, clip_sample, |ratio| (ratio, node(ratio)))
}

/// Builds the table of [`edm_sde`] for a network that is evaluated at the noise levels of `schedule` only: raised noise levels
/// are rounded to the nearest of them, as NVlabs/edm does for `iDDPMPrecond`.
///
/// # Errors
/// As [`edm_sde`].
pub fn edm_sde_at_timesteps(
    schedule: &NoiseSchedule,
    nodes: &[Node],
    churn: Churn,
    clip_sample: Option<Clip>,
) -> Result<SolverTable, Error> {
    table(nodes, churn, clip_sample, |ratio| {
        let node = Node::at(schedule, schedule.nearest_timestep(ratio) as f64);
        (node.level.noise_ratio(), node)
    })
}

/// Builds the table; `node` returns the noise ratio and node of a raised noise ratio.
fn table(
    nodes: &[Node],
    churn: Churn,
    clip_sample: Option<Clip>,
    node: impl Fn(f64) -> (f64, Node),
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
        let (raised, raised_node) = if raised > sigma { node(raised) } else { (sigma, pair[0]) };
        let mut from = pair[0];
        if let (Some(before), true) = (rows.last_mut(), raised > sigma) {
            from = raised_node;
            let Row { x, sample, epsilon, noise, .. } = before;
            let scale = from.level.alpha / pair[0].level.alpha;
            [x].into_iter().chain(sample).chain(epsilon).for_each(|coefficient| *coefficient *= scale);
            *noise = from.level.alpha * s_noise * (raised * raised - sigma * sigma).sqrt();
        }
        rows.extend(OdeStep { nodes: &[from, pair[1]], i: 0 }.heun());
    }
    SolverTable { name: NAME.to_owned(), rows, clip_sample, epsilon_from_clipped: true, initial_scale: 1.0 }.checked()
}
