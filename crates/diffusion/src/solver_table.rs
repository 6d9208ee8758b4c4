//! A sampler as a table: each row combines x_t, predictions and fresh noise linearly into the next x.
//!
//! With x̂0 and ε̂ the predictions of this and of earlier rows (index 0 is this row, 1 the row before, …):
//!
//! x_next = x·x_t + Σ_k sample\[k\]·x̂0\[−k\] + Σ_k epsilon\[k\]·ε̂\[−k\] + noise·z,  z ~ N(0, I)
//!
//! One-step, multistep and predictor–corrector samplers all have this form. Heun's second evaluation is a row of its
//! own, whose history coefficients undo half of the first step. UniPC's corrector reuses the next evaluation and is
//! linear in the same history, so it is part of the next row.

use std::{collections::VecDeque, fmt};

use serde::{Deserialize, Serialize};

use crate::{Clip, Error, LogVariance, Node, NoiseLevel, preconditioning::epsilon_from_sample};

/// One evaluation of the network, and the step that uses it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The noise level of x_t, at which the network is evaluated.
    #[serde(flatten)]
    pub node: Node,
    /// Coefficient of x_t.
    pub x: f64,
    /// Coefficients of x̂0: of this row, the row before, …
    pub sample: Vec<f64>,
    /// Coefficients of ε̂: of this row, the row before, …
    pub epsilon: Vec<f64>,
    /// Standard deviation of the fresh noise, or 0. If the variance is learned, this is the value at the middle of its
    /// range, and is not used.
    pub noise: f64,
    /// The (min, max) log-variance if the variance is learned: with v the network's variance channels, the noise has
    /// standard deviation exp(½·[`LogVariance::interpolate`]`(v)`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learned_log_variance: Option<(f64, f64)>,
}

impl Row {
    /// Returns the row of a node with all coefficients zero.
    pub(crate) fn at(node: Node) -> Self {
        Self { node, x: 0.0, sample: Vec::new(), epsilon: Vec::new(), noise: 0.0, learned_log_variance: None }
    }

    /// Returns whether the row adds fresh noise.
    pub fn is_noisy(&self) -> bool {
        self.noise > 0.0 || self.learned_log_variance.is_some()
    }
}

/// A sampler: rows in the order they are applied, from noise to data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SolverTable {
    /// The sampler's name.
    pub name: String,
    /// The rows.
    pub rows: Vec<Row>,
    /// The clipping of every x̂0.
    pub clip_sample: Option<Clip>,
    /// Recomputes ε̂ from the clipped x̂0, as in improved-diffusion's DDIM. Otherwise ε̂ is the network's, as in
    /// diffusers.
    pub epsilon_from_clipped: bool,
    /// The scale of the noise from which sampling starts: diffusers' `init_noise_sigma`, relative to x_T.
    #[serde(default = "unscaled", skip_serializing_if = "is_unscaled")]
    pub initial_scale: f64,
}

fn unscaled() -> f64 {
    1.0
}

/// Leaves the scale out of tables without one, so that their digests stay the same.
fn is_unscaled(scale: &f64) -> bool {
    *scale == 1.0
}

/// A denoiser's estimates for one image.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    /// x̂0.
    pub sample: Vec<f64>,
    /// ε̂.
    pub epsilon: Vec<f64>,
    /// The network's variance channels v; empty unless the variance is learned.
    pub v: Vec<f64>,
}

impl SolverTable {
    /// Returns the table if [`SolverTable::check`] accepts it.
    pub(crate) fn checked(self) -> Result<Self, Error> {
        self.check()?;
        Ok(self)
    }

    /// Checks that the table can be applied. Tables made by this crate can be; one from a file may be damaged.
    ///
    /// # Errors
    /// If there are no rows, a number is not finite, α is outside [0, 1], σ or noise is negative, or a row uses a
    /// prediction from before the first row.
    pub fn check(&self) -> Result<(), Error> {
        let problem =
            |row: usize, problem: &str| Err(Error::Row { table: self.name.clone(), row, problem: problem.to_owned() });
        if self.rows.is_empty() {
            return problem(0, "the table has no rows");
        }
        if self.clip_sample.is_some_and(|clip| !clip.is_valid()) {
            return problem(
                0,
                "clip_sample is neither a positive range nor a ratio within 0 and 1 with a positive maximum",
            );
        }
        if !(self.initial_scale > 0.0 && self.initial_scale.is_finite()) {
            return problem(0, "initial_scale is not a positive number");
        }
        for (i, row) in self.rows.iter().enumerate() {
            let (min, max) = row.learned_log_variance.unwrap_or_default();
            let Node { timestep, level: NoiseLevel { alpha, sigma } } = row.node;
            let scalars = [timestep, alpha, sigma, row.x, row.noise, min, max];
            if !scalars.iter().chain(&row.sample).chain(&row.epsilon).all(|c| c.is_finite()) {
                return problem(i, "a coefficient is not finite");
            }
            if !(0.0..=1.0).contains(&alpha) || sigma < 0.0 {
                return problem(i, "alpha is not within 0 and 1, or sigma is negative");
            }
            if row.noise < 0.0 {
                return problem(i, "noise is negative");
            }
            if row.sample.len().max(row.epsilon.len()) > i + 1 {
                return problem(i, "it uses a prediction from before the first row");
            }
        }
        Ok(())
    }

    /// Returns the greatest number of predictions that a row uses, its own included.
    pub fn history(&self) -> usize {
        self.rows.iter().map(|row| row.sample.len().max(row.epsilon.len())).max().unwrap_or(0)
    }

    /// Applies the table to one image in f64: the reference for other implementations.
    ///
    /// `denoiser(x_t, node)` returns the estimates at a row's node. `noise(row)` returns standard normals; it is called
    /// for noisy rows only.
    ///
    /// # Errors
    /// As [`SolverTable::check`] and the denoiser, and if an array does not have as many entries as `x_init`.
    pub fn run(
        &self,
        x_init: &[f64],
        mut denoiser: impl FnMut(&[f64], Node) -> Result<Estimate, Error>,
        mut noise: impl FnMut(usize) -> Vec<f64>,
    ) -> Result<Vec<f64>, Error> {
        self.check()?;
        let dims = x_init.len();
        let length = |name, found: usize, expected: usize| {
            if found == expected { Ok(()) } else { Err(Error::Length { name, found, expected }) }
        };
        let mut x: Vec<f64> = x_init.iter().map(|x| x * self.initial_scale).collect();
        let mut samples: VecDeque<Vec<f64>> = VecDeque::new();
        let mut epsilons: VecDeque<Vec<f64>> = VecDeque::new();
        for (i, row) in self.rows.iter().enumerate() {
            let Estimate { mut sample, mut epsilon, v } = denoiser(&x, row.node)?;
            length("denoised sample", sample.len(), dims)?;
            length("denoised epsilon", epsilon.len(), dims)?;
            if let Some(clip) = self.clip_sample {
                clip.apply(&mut sample);
                if self.epsilon_from_clipped {
                    let from_sample = epsilon_from_sample(row.node.level);
                    epsilon = x.iter().zip(&sample).map(|(&x, &x0)| from_sample.apply(x, x0)).collect();
                }
            }
            samples.push_front(sample);
            epsilons.push_front(epsilon);
            samples.truncate(self.history());
            epsilons.truncate(self.history());

            x.iter_mut().for_each(|x| *x *= row.x);
            let terms = row.sample.iter().zip(&samples).chain(row.epsilon.iter().zip(&epsilons));
            for (coefficient, prediction) in terms {
                x.iter_mut().zip(prediction).for_each(|(x, p)| *x += coefficient * p);
            }
            if row.is_noisy() {
                let z = noise(i);
                length("noise", z.len(), dims)?;
                match row.learned_log_variance {
                    None => x.iter_mut().zip(&z).for_each(|(x, z)| *x += row.noise * z),
                    Some((min, max)) => {
                        length("learned variance", v.len(), dims)?;
                        let range = LogVariance { min, max };
                        let deviation = v.iter().map(|&v| (0.5 * range.interpolate(v)).exp());
                        x.iter_mut().zip(&z).zip(deviation).for_each(|((x, z), deviation)| *x += deviation * z);
                    }
                }
            }
        }
        Ok(x)
    }
}

impl fmt::Display for SolverTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clip = self.clip_sample.map_or("none".to_owned(), |clip| clip.to_string());
        write!(f, "{}, {} rows, clip_sample {clip}", self.name, self.rows.len())?;
        if self.initial_scale != 1.0 {
            write!(f, ", initial noise times {:.9}", self.initial_scale)?;
        }
        writeln!(f)?;
        writeln!(f, "{:>9} {:>12} {:>12} {:>12} {:>12}  sample; epsilon", "timestep", "alpha", "sigma", "x", "noise")?;
        let list = |coefficients: &[f64]| coefficients.iter().map(|c| format!("{c:.9}")).collect::<Vec<_>>().join(" ");
        for row in &self.rows {
            let Row { node: Node { timestep, level: NoiseLevel { alpha, sigma } }, x, noise, .. } = row;
            write!(f, "{timestep:>9.2} {alpha:>12.6e} {sigma:>12.6e} {x:>12.9} {noise:>12.6e}  ")?;
            write!(f, "{}; {}", list(&row.sample), list(&row.epsilon))?;
            match row.learned_log_variance {
                Some((min, max)) => writeln!(f, "; learned log-variance {min:.6} to {max:.6}")?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}
