//! A sampler as a table: each row takes x_t, predictions and fresh noise to the next x by a linear combination.
//!
//! With x̂0 and ε̂ the predictions of this and of earlier rows (index 0 is this row's, 1 the row before, …):
//!
//! x_next = x·x_t + Σ_k sample\[k\]·x̂0\[−k\] + Σ_k epsilon\[k\]·ε̂\[−k\] + noise·z,  z ~ N(0, I)
//!
//! One-step, multistep and predictor–corrector samplers all fit: a second evaluation is a row of its own whose history
//! coefficients take the first one back (Heun), and a corrector that reuses the next evaluation (UniPC) is linear in the
//! same history, so it merges into the next row.

use std::{collections::VecDeque, fmt};

use serde::{Deserialize, Serialize};

use crate::{
    Clip, Error, Node, NoiseLevel, NoiseSchedule, Variance,
    preconditioning::epsilon_from_sample,
    schedule::{Posterior, snr},
    timesteps,
    variance::LogVariance,
};

/// One network evaluation and the step made with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Where the network is evaluated: x_t has this noise level.
    #[serde(flatten)]
    pub node: Node,
    /// Coefficient of x_t.
    pub x: f64,
    /// Coefficients of the x̂0 predictions: now, one row ago, two rows ago, …
    pub sample: Vec<f64>,
    /// Coefficients of the ε predictions, likewise.
    pub epsilon: Vec<f64>,
    /// Standard deviation of the fresh noise; 0 where there is none. Where the variance is learned, that at the middle of
    /// its range, for the reader only.
    pub noise: f64,
    /// (min, max) log-variance where the network's second half of channels v interpolates:
    /// the noise has standard deviation exp(½·[`LogVariance::interpolate`]`(v)`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learned_log_variance: Option<(f64, f64)>,
}

impl Row {
    /// Returns the row of a node with all coefficients zero.
    pub(crate) fn at(node: Node) -> Self {
        Self { node, x: 0.0, sample: Vec::new(), epsilon: Vec::new(), noise: 0.0, learned_log_variance: None }
    }

    /// Whether the row asks for fresh noise.
    pub fn is_noisy(&self) -> bool {
        self.noise > 0.0 || self.learned_log_variance.is_some()
    }
}

/// A sampler: rows in the order they are applied, from noise to data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SolverTable {
    /// What to call it.
    pub name: String,
    /// The steps.
    pub rows: Vec<Row>,
    /// How every x̂0 is kept within bounds.
    pub clip_sample: Option<Clip>,
    /// Where x̂0 was clipped, derive ε̂ from it anew (improved-diffusion's DDIM) or keep the network's (diffusers').
    pub epsilon_from_clipped: bool,
}

/// Ancestral sampling over `timesteps` (descending), Ho et al. algorithm 2 with β recomputed for the sub-chain. The last
/// row adds no noise.
pub fn ddpm(
    schedule: &NoiseSchedule,
    timesteps: &[usize],
    variance: Variance,
    clip_sample: Option<Clip>,
) -> Result<SolverTable, Error> {
    let chain = schedule.respace(timesteps)?;
    let log_variances: Vec<_> = (0..chain.len()).map(|i| variance.log_variance(&chain, i)).collect();
    ancestral(format!("ddpm {variance}"), schedule, timesteps, &log_variances, clip_sample)
}

/// [`ddpm`] with a variance given for each step, in the order of `timesteps`; the last one is not used. For instance
/// [`optimal_variance`](crate::variance::optimal_variance) (Analytic-DPM).
pub fn ddpm_with_variances(
    schedule: &NoiseSchedule,
    timesteps: &[usize],
    variances: &[f64],
    clip_sample: Option<Clip>,
) -> Result<SolverTable, Error> {
    if variances.len() != timesteps.len() {
        return Err(Error::Length { name: "variances", found: variances.len(), expected: timesteps.len() });
    }
    let log_variances: Vec<_> = variances.iter().rev().map(|variance| LogVariance::fixed(variance.ln())).collect();
    ancestral("ddpm given variances".to_owned(), schedule, timesteps, &log_variances, clip_sample)
}

/// `log_variances` ascend, as the chain's own index does.
fn ancestral(
    name: String,
    schedule: &NoiseSchedule,
    timesteps: &[usize],
    log_variances: &[LogVariance],
    clip_sample: Option<Clip>,
) -> Result<SolverTable, Error> {
    timesteps::check(timesteps, schedule.len())?;
    let rows = steps(schedule, timesteps)
        .zip(log_variances.iter().rev())
        .map(|((t, alpha_cumprod_s), &log_variance)| {
            let mut row = ddpm_row(schedule, t, alpha_cumprod_s);
            if alpha_cumprod_s < 1.0 {
                set_noise(&mut row, log_variance);
            }
            row
        })
        .collect();
    SolverTable { name, rows, clip_sample, epsilon_from_clipped: false }.checked()
}

/// (t, ᾱ_s) for each step of a descending list; the last one leads to the data.
fn steps<'a>(schedule: &'a NoiseSchedule, timesteps: &'a [usize]) -> impl Iterator<Item = (usize, f64)> + 'a {
    let next = timesteps.iter().skip(1).map(|&s| schedule.alpha_cumprod(s)).chain([1.0]);
    timesteps.iter().copied().zip(next)
}

/// The row of a whole timestep with all coefficients zero.
fn row(schedule: &NoiseSchedule, t: usize) -> Row {
    Row::at(Node { timestep: t as f64, level: schedule.level(t) })
}

/// The mean of the ancestral step t → s, without its noise.
pub(crate) fn ddpm_row(schedule: &NoiseSchedule, t: usize, alpha_cumprod_s: f64) -> Row {
    let posterior = Posterior::between(schedule.alpha_cumprod(t), alpha_cumprod_s);
    Row { x: posterior.coef_xt, sample: vec![posterior.coef_x0], ..row(schedule, t) }
}

/// Gives a row the noise of a log-variance or of a range of them.
pub(crate) fn set_noise(row: &mut Row, log_variance: LogVariance) {
    let LogVariance { min, max } = log_variance;
    row.noise = (0.5 * log_variance.interpolate(0.0)).exp();
    row.learned_log_variance = (min < max).then_some((min, max));
}

/// DDIM over `timesteps` (descending), Song et al. 2021 (arXiv 2010.02502) eq. 12 and 16: η = 0 is deterministic, η = 1
/// is [`ddpm`] with `fixed_small`. The last row leads to ᾱ = 1 (diffusers' `set_alpha_to_one`).
///
/// Set [`SolverTable::epsilon_from_clipped`] to clip as improved-diffusion does. Errors for η < 0 or so large that the
/// noise exceeds the whole variance of x_s.
pub fn ddim(
    schedule: &NoiseSchedule,
    timesteps: &[usize],
    eta: f64,
    clip_sample: Option<Clip>,
) -> Result<SolverTable, Error> {
    timesteps::check(timesteps, schedule.len())?;
    let rows = steps(schedule, timesteps)
        .map(|(t, alpha_cumprod_s)| ddim_row(schedule, t, alpha_cumprod_s, eta))
        .collect::<Result<_, _>>()?;
    SolverTable { name: format!("ddim eta={eta}"), rows, clip_sample, epsilon_from_clipped: false }.checked()
}

/// The DDIM step from t to noise level ᾱ_s.
pub(crate) fn ddim_row(schedule: &NoiseSchedule, t: usize, alpha_cumprod_s: f64, eta: f64) -> Result<Row, Error> {
    let noise = eta * Posterior::between(schedule.alpha_cumprod(t), alpha_cumprod_s).variance.sqrt();
    let direction = 1.0 - alpha_cumprod_s - noise * noise;
    // Rounding can leave a hair below zero at eta = 1.
    if !(eta >= 0.0 && direction > -1e-12) {
        return Err(Error::Value { name: "eta", value: eta, expected: "0 to 1" });
    }
    Ok(Row {
        sample: vec![alpha_cumprod_s.sqrt()],
        epsilon: vec![direction.max(0.0).sqrt()],
        noise,
        ..row(schedule, t)
    })
}

/// [`ddim`] backwards, from data to noise (Song et al. 2021, section 4.3): over `timesteps`, ascending, each row takes x at
/// its own timestep to the next, so that the last of them is where it ends. The data counts as x at the first timestep. Over
/// the same timesteps `ddim` brings the latents back, the nearer the more of them there are. Nothing is clipped.
pub fn ddim_inversion(schedule: &NoiseSchedule, timesteps: &[usize]) -> Result<SolverTable, Error> {
    if timesteps.len() < 2 {
        return Err(Error::Length { name: "timesteps of an inversion", found: timesteps.len(), expected: 2 });
    }
    let descending: Vec<usize> = timesteps.iter().rev().copied().collect();
    timesteps::check(&descending, schedule.len())?;
    let rows = timesteps.windows(2).map(|pair| {
        let to = schedule.level(pair[1]);
        Row { sample: vec![to.alpha], epsilon: vec![to.sigma], ..row(schedule, pair[0]) }
    });
    let name = "ddim inversion".to_owned();
    SolverTable { name, rows: rows.collect(), clip_sample: None, epsilon_from_clipped: false }.checked()
}

/// What decides the noise of [`ddim_analytic`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AnalyticNoise<'a> {
    /// η of the DDIM step that it starts from.
    pub eta: f64,
    /// M_t = E‖x_0 − x̂0‖²/D of the denoiser for t = 0 … T−1.
    pub mse: &'a [f64],
}

/// Analytic-DPM's DDIM (Bao et al. 2022, arXiv 2201.06503, theorem 1): [`ddim`] whose noise has the variance that the
/// step's law has when x̂0 misses x_0 by M_t per dimension. From x_s = √ᾱ_s x_0 + √(1−ᾱ_s−λ²) ε(x_t, x_0) + λ z,
///
/// σ*² = λ² + (√ᾱ_s − √(1−ᾱ_s−λ²) √(ᾱ_t/(1−ᾱ_t)))² M_t, λ² = η² β̃.
///
/// At η = 1 it is [`optimal_variance`](crate::variance::optimal_variance). The last row adds no noise.
///
/// # Errors
/// As [`ddim`], and unless `mse` has a finite number, 0 or more, for each of the chain's timesteps.
pub fn ddim_analytic(
    schedule: &NoiseSchedule,
    timesteps: &[usize],
    noise: AnalyticNoise,
    clip_sample: Option<Clip>,
) -> Result<SolverTable, Error> {
    let AnalyticNoise { eta, mse } = noise;
    if mse.len() != schedule.len() {
        return Err(Error::Length { name: "mse", found: mse.len(), expected: schedule.len() });
    }
    if let Some(&value) = mse.iter().find(|mse| !(mse.is_finite() && **mse >= 0.0)) {
        return Err(Error::Value { name: "mse", value, expected: "a finite number, 0 or more" });
    }
    let mut table = ddim(schedule, timesteps, eta, clip_sample)?;
    table.name = format!("ddim analytic eta={eta}");
    let last = table.rows.len() - 1;
    for (row, &t) in table.rows[..last].iter_mut().zip(timesteps) {
        let missed = row.sample[0] - row.epsilon[0] * snr(schedule.alpha_cumprod(t)).sqrt();
        row.noise = (row.noise * row.noise + missed * missed * mse[t]).sqrt();
    }
    Ok(table)
}

/// A denoiser's answer for one image.
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

    /// Errors, naming the row, for a table that cannot be applied: no rows, numbers that are not finite, α outside
    /// [0, 1], negative σ, negative noise, or a prediction from before the first row. Tables from here pass; one from a file may not.
    pub fn check(&self) -> Result<(), Error> {
        let problem =
            |row: usize, problem: &str| Err(Error::Row { table: self.name.clone(), row, problem: problem.to_owned() });
        if self.rows.is_empty() {
            return problem(0, "the table has no rows");
        }
        if self.clip_sample.is_some_and(|clip| !clip.is_valid()) {
            return problem(0, "clip_sample is not a positive range, or a ratio within 0 and 1 and a positive maximum");
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

    /// How many predictions a row looks back on at most, its own included.
    pub fn history(&self) -> usize {
        self.rows.iter().map(|row| row.sample.len().max(row.epsilon.len())).max().unwrap_or(0)
    }

    /// Applies the table to `x_init`, one image, in f64: the reference for every other application of it.
    ///
    /// `denoiser(x_t, node)` gives the estimates at a row's node; `noise(row)` gives standard normals and is asked on noisy
    /// rows only. Errors as [`SolverTable::check`] and the denoiser do, and where a length does not fit.
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
        let mut x = x_init.to_vec();
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
        writeln!(f, "{}, {} rows, clip_sample {clip}", self.name, self.rows.len())?;
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
