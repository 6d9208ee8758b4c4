//! Noise schedules, the forward process, and tables of samplers, for the page that explains them.

use axum::http::StatusCode;
use ddpm::diffusion::{BetaSchedule, NoiseSchedule, TimestepGrid};
use ddpm::model::Images;
use ddpm::random::{Random, Stream};
use ddpm::sample::{Sampler, SamplerOptions};
use serde::{Deserialize, Serialize};

use crate::api::Failure;

/// The points of a curve.
const POINTS: usize = 250;
/// The most timesteps of a schedule.
const MOST_TIMESTEPS: usize = 10_000;
/// The bins of a histogram, from −3 to 3.
const BINS: usize = 48;

/// A schedule of a request.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleQuery {
    /// The name of the schedule.
    pub name: String,
    /// T.
    #[serde(default = "timesteps")]
    pub timesteps: usize,
    /// The first β, where the schedule takes it.
    #[serde(default = "beta_start")]
    pub beta_start: f64,
    /// The last β.
    #[serde(default = "beta_end")]
    pub beta_end: f64,
}

fn timesteps() -> usize {
    1000
}

fn beta_start() -> f64 {
    1e-4
}

fn beta_end() -> f64 {
    0.02
}

/// The curves of a schedule.
#[derive(Debug, Serialize)]
pub struct Curves {
    t: Vec<usize>,
    beta: Vec<f64>,
    alpha_cumprod: Vec<f64>,
    /// The signal-to-noise ratio ᾱ/(1−ᾱ).
    snr: Vec<f64>,
}

/// Returns the names of the schedules.
pub fn schedules() -> Vec<&'static str> {
    BetaSchedule::NAMES.iter().map(|(name, _)| *name).collect()
}

/// Returns the names of the samplers that a page offers.
pub fn samplers() -> Vec<&'static str> {
    Sampler::names().to_vec()
}

fn schedule(query: &ScheduleQuery) -> Result<NoiseSchedule, Failure> {
    let ScheduleQuery { name, timesteps, beta_start, beta_end } = query;
    if !(2..=MOST_TIMESTEPS).contains(timesteps) {
        let message = format!("`timesteps` is {timesteps}; expected 2 to {MOST_TIMESTEPS}");
        return Err(Failure::new(StatusCode::BAD_REQUEST, message));
    }
    Ok(NoiseSchedule::new(name.parse()?, *beta_start, *beta_end, *timesteps)?)
}

/// Returns the curves of a schedule, at some timesteps.
///
/// # Errors
/// If there is no such schedule, or its values are invalid.
pub fn curves(query: &ScheduleQuery) -> Result<Curves, Failure> {
    let schedule = schedule(query)?;
    let last = schedule.len() - 1;
    let mut t: Vec<usize> = (0..POINTS).map(|i| i * last / (POINTS - 1)).collect();
    t.dedup();
    Ok(Curves {
        beta: t.iter().map(|&t| schedule.betas()[t]).collect(),
        alpha_cumprod: t.iter().map(|&t| schedule.alpha_cumprod(t)).collect(),
        snr: t.iter().map(|&t| schedule.snr(t)).collect(),
        t,
    })
}

/// An image after t steps of the forward process.
#[derive(Debug)]
pub struct Noised {
    /// x_t.
    pub images: Images,
    /// √ᾱ_t, √(1−ᾱ_t) and the signal-to-noise ratio.
    pub alpha: f64,
    pub sigma: f64,
    pub snr: f64,
    /// The shares of its values in equal bins from −3 to 3.
    pub histogram: Vec<f64>,
}

/// Draws x_t of an image: √ᾱ_t x_0 + √(1−ᾱ_t) ε.
///
/// # Errors
/// As [`curves`], and if t is not one of its timesteps.
pub fn noised(query: &ScheduleQuery, image: &Images, t: usize, seed: u64) -> Result<Noised, Failure> {
    let schedule = schedule(query)?;
    if t >= schedule.len() {
        let message = format!("t is {t}; expected a timestep below {}", schedule.len());
        return Err(Failure::new(StatusCode::BAD_REQUEST, message));
    }
    let mut epsilon = vec![0.0; image.pixels.len()];
    Random::new(seed).normals(Stream::Noise, 0, 0, &mut epsilon);
    let level = schedule.level(t);
    let mut pixels = vec![0.0; image.pixels.len()];
    level.q_sample(&image.pixels, &epsilon, &mut pixels);
    let mut histogram = vec![0.0; BINS];
    for &value in &pixels {
        let bin = ((f64::from(value) + 3.0) / 6.0 * BINS as f64).clamp(0.0, BINS as f64 - 1.0);
        histogram[bin as usize] += 1.0 / pixels.len() as f64;
    }
    let images = Images::new(image.shape(), pixels);
    Ok(Noised { images, alpha: level.alpha, sigma: level.sigma, snr: level.snr(), histogram })
}

/// A row of a sampler's table.
#[derive(Debug, Serialize)]
pub struct Row {
    timestep: f64,
    /// The deviation of the noise in x_t relative to the signal, σ/α.
    sigma: f64,
    /// The coefficients of x_t, of x̂0 and of ε̂ of this row and earlier ones, and the deviation of fresh noise.
    x: f64,
    sample: Vec<f64>,
    epsilon: Vec<f64>,
    noise: f64,
}

/// Returns the table of a sampler for a model's scheduler.
///
/// # Errors
/// If there is no such sampler, or its steps do not match the chain.
pub fn table(
    scheduler: &ddpm::diffusion::SchedulerConfig,
    sampler: &str,
    steps: Option<usize>,
    grid: Option<&str>,
) -> Result<Vec<Row>, Failure> {
    let sampler: Sampler = sampler.parse()?;
    let grid = grid.map(str::parse::<TimestepGrid>).transpose()?;
    let table = sampler.table(scheduler, SamplerOptions { steps, grid, ..SamplerOptions::default() })?;
    let row = |row: ddpm::diffusion::solver_table::Row| Row {
        timestep: row.node.timestep,
        sigma: row.node.level.sigma / row.node.level.alpha,
        x: row.x,
        sample: row.sample,
        epsilon: row.epsilon,
        noise: row.noise,
    };
    Ok(table.rows.into_iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str) -> ScheduleQuery {
        ScheduleQuery { name: name.into(), timesteps: 1000, beta_start: 1e-4, beta_end: 0.02 }
    }

    #[test]
    fn curves_are_those_of_the_schedule() {
        let curves = curves(&query("linear")).unwrap();
        assert_eq!((curves.t[0], *curves.t.last().unwrap(), curves.t.len()), (0, 999, POINTS));
        assert!((curves.alpha_cumprod.last().unwrap() - 4.03583e-5).abs() < 1e-9);
        assert!((curves.snr[0] - 0.9999 / 1e-4).abs() < 1e-6);
        assert!(super::curves(&query("nothing")).is_err());
        assert!(super::curves(&ScheduleQuery { timesteps: 100_000_000, ..query("linear") }).is_err());
        for name in schedules() {
            super::curves(&query(name)).unwrap();
        }
    }

    #[test]
    fn the_last_x_t_is_noise() {
        let image = Images::new([1, 32, 32, 1], vec![1.0; 1024]);
        let first = noised(&query("linear"), &image, 0, 1).unwrap();
        assert!(first.images.pixels.iter().all(|&x| (x - 1.0).abs() < 0.06));
        let last = noised(&query("linear"), &image, 999, 1).unwrap();
        let mean = last.images.pixels.iter().sum::<f32>() / 1024.0;
        let square = last.images.pixels.iter().map(|x| x * x).sum::<f32>() / 1024.0;
        assert!(mean.abs() < 0.1 && (square - 1.0).abs() < 0.15, "{mean} {square}");
        assert!((last.histogram.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        assert!((last.alpha.powi(2) + last.sigma.powi(2) - 1.0).abs() < 1e-12);
        assert!(noised(&query("linear"), &image, 1000, 1).is_err());
    }
}
