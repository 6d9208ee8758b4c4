//! The nodes at which the classes of higher order evaluate the network: diffusers' `set_timesteps`.
//!
//! σ here is Karras et al.'s, the noise ratio σ/α.

use super::keys::{FinalSigmasType, InterpolationType};
use super::{SchedulerClass, SchedulerConfig, error};
use crate::beta_schedule::KARRAS_RHO;
use crate::linspace::linspace;
use crate::timestep_grid::NO_SIGNAL;
use crate::{BetaSchedule, Error, Node, NoiseLevel, TimestepSpacing};

/// The noise ratio of every timestep.
pub(super) struct Sigmas(Vec<f64>);

impl Sigmas {
    pub fn of(config: &SchedulerConfig) -> Result<Self, Error> {
        let schedule = config.noise_schedule()?;
        let ratio = |bar: &f64| {
            let bar = if *bar == 0.0 { NO_SIGNAL } else { *bar };
            ((1.0 - bar) / bar).sqrt()
        };
        Ok(Self(schedule.alphas_cumprod().iter().map(ratio).collect()))
    }

    /// Interpolates σ linearly between timesteps.
    fn at(&self, timestep: f64) -> f64 {
        let t = timestep.clamp(0.0, (self.0.len() - 1) as f64);
        let (below, share) = (t as usize, t.fract());
        let low = self.0[below];
        if share == 0.0 { low } else { low + share * (self.0[below + 1] - low) }
    }

    /// Returns the timestep of σ, interpolated linearly in ln σ, between the first and the last (`_sigma_to_t`).
    fn timestep(&self, sigma: f64) -> f64 {
        let Some(last) = self.0.len().checked_sub(2) else { return 0.0 };
        let log = sigma.max(1e-10).ln();
        let low = self.0.partition_point(|sigma| sigma.ln() <= log).saturating_sub(1).min(last);
        let (from, to) = (self.0[low].ln(), self.0[low + 1].ln());
        low as f64 + ((log - from) / (to - from)).clamp(0.0, 1.0)
    }

    /// Returns the node of σ.
    pub fn node(&self, sigma: f64) -> Node {
        node(self.timestep(sigma), sigma)
    }

    /// Counts the last timesteps with λ = −ln σ below a bound.
    fn clipped(&self, lambda: f64) -> usize {
        self.0.iter().filter(|sigma| -sigma.ln() < lambda).count()
    }
}

/// Returns the nodes of a class, the end of sampling included.
pub(super) fn nodes(config: &SchedulerConfig, steps: usize) -> Result<Vec<Node>, Error> {
    let sigmas = Sigmas::of(config)?;
    let total = config.num_train_timesteps;
    if steps == 0 || steps > total {
        let spacing = config.timestep_spacing.to_string();
        return Err(Error::Steps { steps, num_train_timesteps: total, spacing });
    }
    use SchedulerClass::*;
    let nodes = match config.class {
        DpmSolverMultistep | DpmSolverSinglestep | UniPcMultistep | DeisMultistep => multistep(config, &sigmas, steps)?,
        _ => by_sigma(config, &sigmas, steps)?,
    };
    let last = (total - 1) as f64;
    if let Some(node) = nodes.iter().find(|node| node.timestep > last) {
        let (offset, t) = (config.steps_offset, node.timestep);
        return Err(error(format!(
            "`steps_offset` is {offset}, which with {steps} steps leads to timestep {t} of {total}; use fewer steps"
        )));
    }
    check(config, &nodes, steps)?;
    Ok(nodes)
}

/// Returns the nodes of a list of timesteps, the end of sampling included.
pub(super) fn over(config: &SchedulerConfig, timesteps: &[usize]) -> Result<Vec<Node>, Error> {
    if config.solver.as_ref().is_some_and(super::SolverKeys::respaces) {
        let class = config.class;
        return Err(error(format!("{class} spaces σ by a rule of its own, so that it has no list of timesteps")));
    }
    let sigmas = Sigmas::of(config)?;
    let timesteps = crate::timesteps::explicit(config.num_train_timesteps, timesteps)?;
    let mut nodes: Vec<Node> = timesteps.iter().map(|&t| node(t as f64, sigmas.0[t])).collect();
    nodes.push(end(config, &sigmas, None));
    check(config, &nodes, timesteps.len())?;
    Ok(nodes)
}

/// Checks that the noise decreases, as every step divides by its length. Only the last step may have none, as it has for
/// some spacings in σ; it changes nothing.
fn check(config: &SchedulerConfig, nodes: &[Node], steps: usize) -> Result<(), Error> {
    let ratios: Vec<f64> = nodes.iter().map(|node| node.level.noise_ratio()).collect();
    let falls = |pair: &[f64]| pair[0] > pair[1];
    let (before, last) = ratios.split_at(ratios.len() - 2);
    let descends = before.windows(2).all(falls) && before.last().is_none_or(|ratio| *ratio > last[0]);
    if descends && (falls(last) || (last[0] / last[1] - 1.0).abs() < 1e-9) {
        return Ok(());
    }
    let (class, spacing, total) = (config.class, config.timestep_spacing, config.num_train_timesteps);
    Err(error(format!(
        "{steps} steps of {class} with `timestep_spacing` {spacing} do not descend through the {total} timesteps; use \
         fewer steps"
    )))
}

/// Returns the node of a timestep and a noise ratio.
fn node(timestep: f64, sigma: f64) -> Node {
    Node { timestep, level: NoiseLevel::from_noise_ratio(sigma) }
}

/// Returns the end of sampling; `last` is the last noise ratio of a spacing in σ.
fn end(config: &SchedulerConfig, sigmas: &Sigmas, last: Option<f64>) -> Node {
    use SchedulerClass::*;
    let zero = config.solver.as_ref().is_none_or(|keys| keys.final_sigmas_type == FinalSigmasType::Zero);
    match (config.class, last) {
        // DEIS has no `final_sigmas_type`: it ends at t = 0, or after a spacing in σ where it is.
        (DeisMultistep, None) => node(0.0, sigmas.0[0]),
        (DeisMultistep, Some(last)) => node(0.0, last),
        _ if zero => Node::DATA,
        (UniPcMultistep, Some(last)) => node(0.0, last),
        _ => node(0.0, sigmas.0[0]),
    }
}

/// DPM-Solver, UniPC and DEIS: whole timesteps, the last step of which leads to t = 0 or to the data.
fn multistep(config: &SchedulerConfig, sigmas: &Sigmas, steps: usize) -> Result<Vec<Node>, Error> {
    let keys = config.keys();
    let total = config.num_train_timesteps;
    let last = total - sigmas.clipped(keys.lambda_min_clipped);
    if last == 0 {
        let lambda = keys.lambda_min_clipped;
        return Err(error(format!("`lambda_min_clipped` is {lambda}, which leaves no timestep")));
    }
    if let Some(sigma) = respaced(config, [sigmas.0[total - 1], sigmas.0[0]], steps) {
        let is_cosine = config.beta_schedule == BetaSchedule::SquaredcosCapV2;
        let truncates = if keys.use_karras_sigmas || keys.use_lu_lambdas {
            config.class == SchedulerClass::DpmSolverMultistep && is_cosine
        } else {
            true
        };
        // A timestep that is whole but for rounding is not truncated to the one before.
        let whole = |t: f64| if truncates { (t + 1e-9).floor() } else { t.round_ties_even() };
        let end = end(config, sigmas, sigma.last().copied());
        return Ok(sigma.iter().map(|&s| node(whole(sigmas.timestep(s)), s)).chain([end]).collect());
    }
    let timesteps: Vec<f64> = match config.timestep_spacing {
        TimestepSpacing::Linspace => {
            let points = linspace(0.0, (last - 1) as f64, steps + 1);
            points[1..].iter().rev().map(|t| t.round_ties_even()).collect()
        }
        TimestepSpacing::Leading => {
            let stride = last / (steps + 1);
            (1..=steps).rev().map(|i| (i * stride).saturating_add(config.steps_offset) as f64).collect()
        }
        _ => trailing(last as f64, total as f64 / steps as f64),
    };
    let nodes = timesteps.into_iter().map(|t| node(t, sigmas.at(t)));
    Ok(nodes.chain([end(config, sigmas, None)]).collect())
}

/// Euler, Heun, LMS and KDPM2: fractional timesteps, and the step from the last one leads to the data.
fn by_sigma(config: &SchedulerConfig, sigmas: &Sigmas, steps: usize) -> Result<Vec<Node>, Error> {
    let keys = config.keys();
    let total = config.num_train_timesteps;
    let timesteps: Vec<f64> = match config.timestep_spacing {
        TimestepSpacing::Linspace => {
            let mut points = linspace(0.0, (total - 1) as f64, steps);
            points.reverse();
            points
        }
        TimestepSpacing::Leading => {
            let stride = total / steps;
            (0..steps).rev().map(|i| (i * stride).saturating_add(config.steps_offset) as f64).collect()
        }
        _ => trailing(total as f64, total as f64 / steps as f64),
    };
    let mut sigma: Vec<f64> = timesteps.iter().map(|&t| sigmas.at(t)).collect();
    let mut end = end(config, sigmas, None);
    if keys.interpolation_type == InterpolationType::LogLinear {
        let logs = linspace(sigmas.0[total - 1].ln(), sigmas.0[0].ln(), steps + 1);
        sigma = logs.into_iter().map(f64::exp).collect();
    }
    let range = [sigma[0], sigma[sigma.len() - 1]];
    if let Some(sigma) = respaced(config, range, steps) {
        let rounds = keys.use_karras_sigmas
            && matches!(config.class, SchedulerClass::Kdpm2Discrete | SchedulerClass::Kdpm2AncestralDiscrete);
        let timestep = |sigma: f64| {
            let t = sigmas.timestep(sigma);
            if rounds { t.round_ties_even() } else { t }
        };
        return Ok(sigma.iter().map(|&s| node(timestep(s), s)).chain([end]).collect());
    }
    // A spacing of its own has one noise ratio more than there are timesteps, and ends there.
    if let Some(&last) = sigma.get(steps) {
        end = node(0.0, last);
    }
    let nodes = timesteps.into_iter().zip(sigma).map(|(t, sigma)| node(t, sigma));
    Ok(nodes.chain([end]).collect())
}

/// Counts down from `start` in strides, as diffusers does for `trailing`.
fn trailing(start: f64, stride: f64) -> Vec<f64> {
    let count = (start / stride).ceil() as usize;
    // numpy.arange advances by its first difference.
    let difference = (start - stride) - start;
    (0..count).map(|i| (start + i as f64 * difference).round_ties_even() - 1.0).filter(|t| *t >= 0.0).collect()
}

/// Returns noise ratios spaced by a rule in σ from the greatest to the least, if the configuration has one.
fn respaced(config: &SchedulerConfig, [max, min]: [f64; 2], steps: usize) -> Option<Vec<f64>> {
    let keys = config.keys();
    let (max, min) = (keys.sigma_max.unwrap_or(max), keys.sigma_min.unwrap_or(min));
    let spaced = |from: f64, to: f64, of: fn(f64) -> f64| linspace(from, to, steps).into_iter().map(of).collect();
    if keys.use_karras_sigmas {
        let (from, to) = (max.powf(1.0 / KARRAS_RHO), min.powf(1.0 / KARRAS_RHO));
        let ramp = linspace(0.0, 1.0, steps);
        return Some(ramp.into_iter().map(|share| (from + share * (to - from)).powf(KARRAS_RHO)).collect());
    }
    if keys.use_lu_lambdas || keys.use_exponential_sigmas {
        return Some(spaced(max.ln(), min.ln(), f64::exp));
    }
    if keys.use_beta_sigmas {
        let ramp = linspace(0.0, 1.0, steps);
        return Some(ramp.into_iter().map(|share| min + beta_quantile(1.0 - share) * (max - min)).collect());
    }
    None
}

/// Returns the quantile of the Beta(0.6, 0.6) distribution, by bisection.
fn beta_quantile(probability: f64) -> f64 {
    if probability > 0.5 {
        return 1.0 - beta_quantile(1.0 - probability);
    }
    let (mut low, mut high) = (0.0, 0.5);
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if beta_cdf(middle) < probability { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

/// Returns the distribution function of Beta(a, a) for a = 0.6 at x ≤ ½, x^a/(a B(a, a)) ₂F₁(a, 1 − a; a + 1; x).
fn beta_cdf(x: f64) -> f64 {
    const A: f64 = 0.6;
    // Γ(0.6)²/Γ(1.2).
    const B: f64 = 2.4153442080024723;
    let (mut term, mut sum) = (1.0, 1.0);
    for n in 0..200 {
        let n = f64::from(n);
        term *= (A + n) * (1.0 - A + n) / ((A + 1.0 + n) * (n + 1.0)) * x;
        sum += term;
    }
    x.powf(A) / (A * B) * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `scipy.stats.beta.ppf(p, 0.6, 0.6)`
    #[test]
    fn quantiles_equal_those_of_scipy() {
        for (p, expected) in [
            (0.0, 0.0),
            (0.001, 1.855873851745199e-5),
            (0.1, 0.03958440558878085),
            (0.37, 0.3227940020973615),
            (0.5, 0.5),
            (0.8, 0.8770782495416671),
            (0.999, 0.9999814412614826),
            (1.0, 1.0),
        ] {
            assert!((beta_quantile(p) - expected).abs() < 1e-12, "{p}: {}", beta_quantile(p));
        }
    }
}
