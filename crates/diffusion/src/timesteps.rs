//! Subsets of the T timesteps for samplers. Lists descend, and equal those of the reference code in every rounding:
//! FIDs of different subsets cannot be compared.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    Error,
    linspace::linspace,
    names::{name_of, named},
};

/// A rule that selects K of the T training timesteps. The first three are diffusers' `timestep_spacing` (Lin et al.
/// 2023, arXiv 2305.08891, table 2), the last is that of DDIM's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepSpacing {
    /// Multiples of ⌊T/K⌋ plus `steps_offset`: 980, 960, …, 0 for 50 of 1000. Leaves out t = T−1.
    #[default]
    Leading,
    /// Down from T−1 in strides of T/K: 999, 979, …, 19.
    Trailing,
    /// Both ends included, rounded half to even: 999, 979, 958, …, 0.
    Linspace,
    /// Squares of evenly spaced numbers up to √(0.8 T), truncated: denser near the data. Duplicates are removed, so the
    /// list may be shorter than K. (DDIM's code keeps them; the repeated steps change nothing.)
    #[serde(alias = "quad")]
    Quadratic,
}

impl TimestepSpacing {
    /// Other names, which are read and not written.
    pub const ALIASES: [(&'static str, Self); 1] = [("quad", Self::Quadratic)];

    /// Every spacing with its name.
    pub const NAMES: [(&'static str, Self); 4] = [
        ("leading", Self::Leading),
        ("trailing", Self::Trailing),
        ("linspace", Self::Linspace),
        ("quadratic", Self::Quadratic),
    ];

    /// Returns `steps` of the T = `num_train_timesteps` timesteps, descending. `steps_offset` applies to `Leading`
    /// only, as in diffusers.
    ///
    /// # Errors
    /// If `steps` is outside 1 … T, or the offset leads to a timestep above T−1.
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

    /// Reads a name of [`TimestepSpacing::NAMES`] or [`TimestepSpacing::ALIASES`].
    fn from_str(name: &str) -> Result<Self, Error> {
        named("timestep spacing", name, [&Self::NAMES, &Self::ALIASES])
    }
}

/// Returns the timesteps of improved-diffusion's `--timestep_respacing`, descending.
///
/// * `"50"`: 50 timesteps from the first to the last, with a fractional stride.
/// * `"10,15,20"`: the chain in three equal sections, with 10, 15 and 20 timesteps, the first section nearest the data.
/// * `"ddim50"`: the integer stride that gives exactly 50.
///
/// # Errors
/// If the text has none of these forms, or the chain is too short for it.
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
        // A running sum as in the original; a product would round differently.
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

/// Sorts a list of timesteps into descending order.
///
/// # Errors
/// If the list is empty, or an entry is repeated or not below T.
pub fn explicit(num_train_timesteps: usize, timesteps: &[usize]) -> Result<Vec<usize>, Error> {
    let mut timesteps = timesteps.to_vec();
    timesteps.sort_unstable_by(|a, b| b.cmp(a));
    check(&timesteps, num_train_timesteps)?;
    Ok(timesteps)
}

/// Returns every timestep, T−1 … 0.
pub fn all(num_train_timesteps: usize) -> Vec<usize> {
    (0..num_train_timesteps).rev().collect()
}

/// Checks that a list is not empty, descends strictly and stays below T.
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
