//! Tables of one-step samplers over whole timesteps: DDPM, DDIM, DDIM inversion and Analytic-DPM's DDIM.

use crate::{
    Clip, Error, Node, NoiseSchedule, Posterior, SolverTable, Variance, schedule::snr, solver_table::Row, timesteps,
    variance::LogVariance,
};

/// Builds the table of ancestral sampling over descending `timesteps` (Ho et al. 2020, algorithm 2), with β recomputed
/// for the sub-chain. The last row adds no noise.
///
/// # Errors
/// As [`NoiseSchedule::respace`], and for an invalid `clip_sample`.
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

/// Builds the table of [`ddpm`] with the given variance of each step, such as
/// [`optimal_variance`](crate::variance::optimal_variance) (Analytic-DPM). `variances` has the order of `timesteps`;
/// the last entry is not used.
///
/// # Errors
/// As [`ddpm`], and if there are not as many variances as timesteps or one is negative.
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

/// `log_variances` are in ascending order of t.
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
    SolverTable { name, rows, clip_sample, epsilon_from_clipped: false, initial_scale: 1.0 }.checked()
}

/// Returns (t, ᾱ_s) of each step of a descending list; the last step leads to the data.
fn steps<'a>(schedule: &'a NoiseSchedule, timesteps: &'a [usize]) -> impl Iterator<Item = (usize, f64)> + 'a {
    let next = timesteps.iter().skip(1).map(|&s| schedule.alpha_cumprod(s)).chain([1.0]);
    timesteps.iter().copied().zip(next)
}

/// Returns the row of a whole timestep with all coefficients zero.
fn row(schedule: &NoiseSchedule, t: usize) -> Row {
    Row::at(Node { timestep: t as f64, level: schedule.level(t) })
}

/// Returns the row of the ancestral step t → s without its noise.
pub(crate) fn ddpm_row(schedule: &NoiseSchedule, t: usize, alpha_cumprod_s: f64) -> Row {
    let posterior = Posterior::between(schedule.alpha_cumprod(t), alpha_cumprod_s);
    Row { x: posterior.coef_xt, sample: vec![posterior.coef_x0], ..row(schedule, t) }
}

/// Sets a row's noise to a fixed or learned log-variance.
pub(crate) fn set_noise(row: &mut Row, log_variance: LogVariance) {
    let LogVariance { min, max } = log_variance;
    row.noise = (0.5 * log_variance.interpolate(0.0)).exp();
    row.learned_log_variance = (min < max).then_some((min, max));
}

/// Builds the table of DDIM over descending `timesteps` (Song et al. 2021, arXiv 2010.02502, eq. 12 and 16). η = 0 is
/// deterministic, η = 1 is [`ddpm`] with `fixed_small`. The last row leads to ᾱ = 1 (diffusers' `set_alpha_to_one`).
///
/// To clip as improved-diffusion does, set [`SolverTable::epsilon_from_clipped`].
///
/// # Errors
/// If `timesteps` is empty or does not descend within the chain, if η is negative or so large that the noise exceeds
/// the variance of x_s, or for an invalid `clip_sample`.
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
    let name = format!("ddim eta={eta}");
    SolverTable { name, rows, clip_sample, epsilon_from_clipped: false, initial_scale: 1.0 }.checked()
}

/// Returns the row of the DDIM step from t to noise level ᾱ_s.
pub(crate) fn ddim_row(schedule: &NoiseSchedule, t: usize, alpha_cumprod_s: f64, eta: f64) -> Result<Row, Error> {
    let noise = eta * Posterior::between(schedule.alpha_cumprod(t), alpha_cumprod_s).variance.sqrt();
    let direction = 1.0 - alpha_cumprod_s - noise * noise;
    // At eta = 1 rounding can make it slightly negative.
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

/// Builds the table of DDIM inversion, which maps images to latents (Song et al. 2021, section 4.3).
///
/// `timesteps` ascend. Each row takes x from one timestep to the next; the image is treated as x at the first timestep,
/// and the latent is x at the last. [`ddim`] over the same timesteps reconstructs the image, more accurately the more
/// steps there are. Nothing is clipped.
///
/// # Errors
/// If there are fewer than two timesteps, or they do not ascend within the chain.
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
    SolverTable { name, rows: rows.collect(), clip_sample: None, epsilon_from_clipped: false, initial_scale: 1.0 }
        .checked()
}

/// The settings of [`ddim_analytic`]'s noise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AnalyticNoise<'a> {
    /// η of DDIM, as in [`ddim`].
    pub eta: f64,
    /// The denoiser's squared error M_t = E‖x_0 − x̂0‖²/D for t = 0 … T−1.
    pub mse: &'a [f64],
}

/// Builds the table of Analytic-DPM's DDIM (Bao et al. 2022, arXiv 2201.06503, theorem 1): [`ddim`] with the noise
/// variance that is optimal given the denoiser's squared error M_t.
///
/// From x_s = √ᾱ_s x_0 + √(1−ᾱ_s−λ²) ε(x_t, x_0) + λ z,
///
/// σ*² = λ² + (√ᾱ_s − √(1−ᾱ_s−λ²) √(ᾱ_t/(1−ᾱ_t)))² M_t, λ² = η² β̃.
///
/// which is [`optimal_variance`](crate::variance::optimal_variance) at η = 1. The last row adds no noise.
///
/// # Errors
/// As [`ddim`], and if `mse` does not have T entries or one is negative or not finite.
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
