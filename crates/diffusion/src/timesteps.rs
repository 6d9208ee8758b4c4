//! Which timesteps a sampler visits. Every list descends and is exact down to the rounding of the code it comes from,
//! because FIDs of different subsets do not compare.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    Error,
    linspace::linspace,
    names::{name_of, named},
};

/// A rule that takes K of the T training timesteps. The first three are diffusers' `timestep_spacing` (named after table
/// 2 of Lin et al. 2023, arXiv 2305.08891), the last is from DDIM's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepSpacing {
    /// Multiples of ⌊T/K⌋ plus `steps_offset`: 980, 960, …, 0 for 50 of 1000. Never sees t = T−1.
    #[default]
    Leading,
    /// Down from T−1 in strides of T/K: 999, 979, …, 19.
    Trailing,
    /// Both ends included, rounded half to even: 999, 979, 958, …, 0.
    Linspace,
    /// Squares of evenly spaced numbers up to √(0.8 T), truncated: denser near the data. Where neighbours coincide they
    /// are one step, so the list may be shorter than K (DDIM's code repeats them, which moves nothing).
    #[serde(alias = "quad")]
    Quadratic,
}

impl TimestepSpacing {
    /// Every spacing with its name.
    pub const NAMES: [(&'static str, Self); 4] = [
        ("leading", Self::Leading),
        ("trailing", Self::Trailing),
        ("linspace", Self::Linspace),
        ("quadratic", Self::Quadratic),
    ];

    /// `steps` of the `num_train_timesteps`, descending. `steps_offset` shifts `Leading` only, as in diffusers.
    ///
    /// Errors for `steps` outside 1 … T and for an offset that leads past T−1.
    pub fn timesteps(self, num_train_timesteps: usize, steps: usize, steps_offset: usize) -> Result<Vec<usize>, Error> {
        let total = num_train_timesteps;
        if steps == 0 || steps > total {
            let spacing = self.to_string();
            return Err(Error::Steps { steps, num_train_timesteps, spacing });
        }
        let mut timesteps: Vec<usize> = match self {
            Self::Leading => (0..steps).rev().map(|i| (i * (total / steps)).saturating_add(steps_offset)).collect(),
            Self::Trailing => {
                // numpy.arange(T, 0, -T/K) advances by its first difference, which is what decides ties.
                let start = total as f64;
                let stride = (start - start / steps as f64) - start;
                (0..steps).map(|i| (start + i as f64 * stride).round_ties_even() as usize - 1).collect()
            }
            Self::Linspace => {
                let points = linspace(0.0, (total - 1) as f64, steps);
                points.iter().rev().map(|t| t.round_ties_even() as usize).collect()
            }
            Self::Quadratic => {
                let roots = linspace(0.0, (total as f64 * 0.8).sqrt(), steps);
                roots.iter().rev().map(|root| (root * root) as usize).collect()
            }
        };
        timesteps.dedup();
        check(&timesteps, total)?;
        Ok(timesteps)
    }
}

impl fmt::Display for TimestepSpacing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(name_of(self, &Self::NAMES))
    }
}

impl FromStr for TimestepSpacing {
    type Err = Error;

    /// Reads the names of [`TimestepSpacing::NAMES`] and `quad`.
    fn from_str(name: &str) -> Result<Self, Error> {
        named("timestep spacing", if name == "quad" { "quadratic" } else { name }, &Self::NAMES)
    }
}

/// improved-diffusion's `--timestep_respacing`, descending.
///
/// `"50"`: both ends of the chain and a fractional stride between. `"10,15,20"`: so many in each of three equal sections.
/// `"ddim50"`: the integer stride that gives exactly 50.
pub fn space_timesteps(num_train_timesteps: usize, respacing: &str) -> Result<Vec<usize>, Error> {
    let unreadable = || Error::Respacing(respacing.to_owned());
    let impossible = |steps: usize| Error::Steps { steps, num_train_timesteps, spacing: format!("`{respacing}`") };
    if let Some(count) = respacing.strip_prefix("ddim") {
        let count: usize = count.trim().parse().map_err(|_| unreadable())?;
        let stride = (1..num_train_timesteps).find(|&stride| num_train_timesteps.div_ceil(stride) == count);
        let stride = stride.ok_or_else(|| impossible(count))?;
        return Ok((0..num_train_timesteps).step_by(stride).rev().collect());
    }
    let counts = respacing.split(',').map(|count| count.trim().parse());
    let counts: Vec<usize> = counts.collect::<Result<_, _>>().map_err(|_| unreadable())?;
    let (section, extra) = (num_train_timesteps / counts.len(), num_train_timesteps % counts.len());
    let mut start = 0;
    let mut timesteps = Vec::new();
    for (i, &count) in counts.iter().enumerate() {
        let size = section + usize::from(i < extra);
        if count > size {
            return Err(impossible(count));
        }
        let stride = size.saturating_sub(1) as f64 / (count.max(2) - 1) as f64;
        // The original adds the stride up, which is not the same f64 as a multiple of it.
        let mut position = 0.0_f64;
        for _ in 0..count {
            timesteps.push(start + position.round_ties_even() as usize);
            position += stride;
        }
        start += size;
    }
    timesteps.dedup();
    timesteps.reverse();
    check(&timesteps, num_train_timesteps)?;
    Ok(timesteps)
}

/// Puts a list of timesteps in sampling order. Errors where one is repeated or not below T.
pub fn explicit(num_train_timesteps: usize, timesteps: &[usize]) -> Result<Vec<usize>, Error> {
    let mut timesteps = timesteps.to_vec();
    timesteps.sort_unstable_by(|a, b| b.cmp(a));
    check(&timesteps, num_train_timesteps)?;
    Ok(timesteps)
}

/// Every timestep, T−1 … 0.
pub fn all(num_train_timesteps: usize) -> Vec<usize> {
    (0..num_train_timesteps).rev().collect()
}

/// Errors unless the list is not empty, strictly descending and below T.
pub(crate) fn check(timesteps: &[usize], num_train_timesteps: usize) -> Result<(), Error> {
    let mut bound = num_train_timesteps;
    for (index, &timestep) in timesteps.iter().enumerate() {
        if timestep >= bound {
            return Err(Error::Timestep { index, timestep, num_train_timesteps });
        }
        bound = timestep;
    }
    if timesteps.is_empty() { Err(Error::NoTimesteps) } else { Ok(()) }
}
