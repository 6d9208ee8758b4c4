//! Timestep grids: the nodes between noise and data at which a sampler evaluates the network, at fractional timesteps
//! too.

use serde::{Deserialize, Serialize};

use crate::beta_schedule::KARRAS_RHO;
use crate::{Error, NoiseLevel, NoiseSchedule};

/// A point at which a sampler evaluates the network: a noise level, and the timestep that stands for it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// The timestep given to the network.
    pub timestep: f64,
    /// The noise level of x_t.
    #[serde(flatten)]
    pub level: NoiseLevel,
}

impl Node {
    /// The data, where samplers end.
    pub const DATA: Node = Node { timestep: -1.0, level: NoiseLevel::DATA };

    /// Returns the node of a whole or fractional timestep of a chain.
    pub fn at(schedule: &NoiseSchedule, timestep: f64) -> Self {
        Node { timestep, level: schedule.level_at(timestep) }
    }
}

/// diffusers' replacement of ᾱ = 0, whose logarithm is not finite: 2⁻²⁴.
pub(crate) const NO_SIGNAL: f64 = 1.0 / (1 << 24) as f64;

/// The spacing of a sampler's nodes between the chain's last timestep and its first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepGrid {
    /// Evenly in t.
    Uniform,
    /// Evenly in √t (Song et al. 2021): denser near the data.
    Quadratic,
    /// Evenly in log-SNR (Lu et al. 2022).
    LogSnr,
    /// Evenly in (σ/α)^(1/7) (Karras et al. 2022, eq. 5 with ρ = 7).
    Karras,
}

impl TimestepGrid {
    /// Every grid with its name.
    pub const NAMES: [(&'static str, TimestepGrid); 4] = [
        ("uniform", TimestepGrid::Uniform),
        ("quadratic", TimestepGrid::Quadratic),
        ("log-snr", TimestepGrid::LogSnr),
        ("karras", TimestepGrid::Karras),
    ];

    /// Returns `steps` nodes from t = T−1 down to t = 0, followed by [`Node::DATA`]. `snap` moves each node to the
    /// nearest whole timestep, for networks trained at whole timesteps only; duplicates are removed.
    ///
    /// If ᾱ_{T−1} = 0, grids in log-SNR and in σ/α are spaced as if it were 2⁻²⁴; the first node keeps ᾱ = 0, and nodes
    /// between it and T−2 merge.
    ///
    /// # Errors
    /// If `steps` is 0.
    pub fn nodes(self, schedule: &NoiseSchedule, steps: usize, snap: bool) -> Result<Vec<Node>, Error> {
        let last = (schedule.len() - 1) as f64;
        if steps == 0 {
            return Err(Error::Value { name: "steps", value: 0.0, expected: "at least 1" });
        }
        let (mut high, low) = (Node::at(schedule, last), Node::at(schedule, 0.0));
        if high.level.alpha == 0.0 {
            high.level = NoiseLevel::variance_preserving(NO_SIGNAL);
        }
        let mut timesteps = self.timesteps(schedule, [high, low], steps);
        if snap {
            timesteps.iter_mut().for_each(|t| *t = t.round());
        }
        timesteps.dedup();
        Ok(timesteps.into_iter().map(|t| Node::at(schedule, t)).chain([Node::DATA]).collect())
    }

    /// Returns `steps` nodes from σ/α = `ratios[1]` down to `ratios[0]`, or the ends of the chain if they are closer, followed
    /// by [`Node::DATA`].
    ///
    /// # Errors
    /// If `steps` is 0, or no part of the chain is between the ratios.
    pub fn nodes_between(self, schedule: &NoiseSchedule, ratios: [f64; 2], steps: usize) -> Result<Vec<Node>, Error> {
        if steps == 0 {
            return Err(Error::Value { name: "steps", value: 0.0, expected: "at least 1" });
        }
        let [low, high] = ratios.map(|ratio| Node::at(schedule, schedule.timestep_of_lambda(-ratio.ln())));
        if low.timestep >= high.timestep && schedule.len() > 1 {
            let [low, high] = ratios;
            return Err(Error::Unsupported(format!("the chain has no noise levels with σ/α from {low} to {high}")));
        }
        let mut timesteps = self.timesteps(schedule, [high, low], steps);
        timesteps.dedup();
        Ok(timesteps.into_iter().map(|t| Node::at(schedule, t)).chain([Node::DATA]).collect())
    }

    /// Returns the timesteps between two nodes, both included.
    fn timesteps(self, schedule: &NoiseSchedule, [high, low]: [Node; 2], steps: usize) -> Vec<f64> {
        let (last, first) = (high.timestep, low.timestep);
        let between = |from: f64, to: f64, share: f64| from + share * (to - from);
        let timestep = |share: f64| match self {
            TimestepGrid::Uniform => between(last, first, share),
            TimestepGrid::Quadratic => between(last.sqrt(), first.sqrt(), share).powi(2),
            TimestepGrid::LogSnr => {
                schedule.timestep_of_lambda(between(high.level.lambda(), low.level.lambda(), share))
            }
            TimestepGrid::Karras => {
                let root = |node: Node| node.level.noise_ratio().powf(1.0 / KARRAS_RHO);
                schedule.timestep_of_lambda(-between(root(high), root(low), share).powf(KARRAS_RHO).ln())
            }
        };
        let share = |i: usize| if steps == 1 { 0.0 } else { i as f64 / (steps - 1) as f64 };
        let mut timesteps: Vec<f64> = (0..steps).map(|i| timestep(share(i))).collect();
        // Without signal the first λ is a replacement, and no timestep has a λ between it and that of T−2.
        timesteps[0] = last;
        timesteps
    }
}

impl std::str::FromStr for TimestepGrid {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        crate::names::named("grid", name, [&Self::NAMES, &[]])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BetaSchedule;

    #[test]
    fn grids_go_from_noise_to_data_as_their_names_say() {
        let schedule = NoiseSchedule::new(BetaSchedule::Linear, 1e-4, 0.02, 1000).unwrap();
        for (name, grid) in TimestepGrid::NAMES {
            assert_eq!(name.parse::<TimestepGrid>().unwrap(), grid);
            let nodes = grid.nodes(&schedule, 11, false).unwrap();
            assert_eq!((nodes.len(), nodes[11]), (12, Node::DATA));
            assert!((nodes[0].timestep - 999.0).abs() < 1e-9 && nodes[10].timestep.abs() < 1e-9, "{name}");
            assert!(nodes.windows(2).all(|pair| pair[0].level.alpha < pair[1].level.alpha), "{name}");
            // Even steps in what the grid is even in.
            let even: fn(Node) -> f64 = match grid {
                TimestepGrid::Uniform => |node| node.timestep,
                TimestepGrid::Quadratic => |node| node.timestep.sqrt(),
                TimestepGrid::LogSnr => |node| node.level.lambda(),
                TimestepGrid::Karras => |node| node.level.noise_ratio().powf(1.0 / 7.0),
            };
            let steps: Vec<f64> = nodes[..11].windows(2).map(|pair| even(pair[1]) - even(pair[0])).collect();
            assert!(steps.iter().all(|step| (step / steps[0] - 1.0).abs() < 1e-6), "{name}: {steps:?}");
            let snapped = grid.nodes(&schedule, 11, true).unwrap();
            assert!(snapped[..snapped.len() - 1].iter().all(|node| node.timestep.fract() == 0.0));
        }
        assert!(TimestepGrid::Uniform.nodes(&schedule, 0, false).is_err());
        // The same with no signal at the end.
        let schedule = schedule.rescale_zero_terminal_snr().unwrap();
        for (name, grid) in TimestepGrid::NAMES {
            let nodes = grid.nodes(&schedule, 11, false).unwrap();
            assert_eq!((nodes.len(), nodes[0].timestep, nodes[0].level.alpha), (12, 999.0, 0.0), "{name}");
            assert!(nodes.windows(2).all(|pair| pair[0].level.alpha < pair[1].level.alpha), "{name}");
        }
        assert_eq!(TimestepGrid::Karras.nodes(&schedule, 1, false).unwrap().len(), 2);
    }
}
