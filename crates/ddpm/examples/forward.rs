//! Draws the forward chain of five images: x_t at eleven timesteps, with the noise level of each.
//!
//!     cargo run --release -p ddpm --example forward

use std::path::Path;

use ddpm::data::{Dataset, Fit, ReadOptions};
use ddpm::diffusion::SchedulerConfig;
use ddpm::prelude::*;
use ddpm::sample::{initial_noise, noised};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    run("forward.png".as_ref()).map(drop)
}

/// Writes the picture: a row for each image, and a column for each t. Returns the signal-to-noise ratios.
pub fn run(picture: &Path) -> Result<Vec<f64>, Box<dyn std::error::Error>> {
    let options = ReadOptions { resolution: Some((32, 32)), fit: Fit::Pad, ..ReadOptions::default() };
    let images = Images::read(&Dataset::Builtin.open(&options)?, &[0, 1, 16, 18, 23])?;
    // T = 1000, β from 1e-4 to 0.02.
    let schedule = SchedulerConfig::default().noise_schedule()?;
    let epsilon = initial_noise(0, 0, images.each().len(), [32, 32, 1]);
    let (mut frames, mut ratios) = (vec![images.clone()], Vec::new());
    for t in [0, 24, 49, 99, 199, 299, 399, 499, 699, 999] {
        // Equation 4: x_t = √ᾱ_t·x_0 + √(1−ᾱ_t)·ε.
        let level = schedule.level(t);
        println!("t = {:4}: √ᾱ {:.4}, √(1−ᾱ) {:.4}, SNR {:.3e}", t + 1, level.alpha, level.sigma, level.snr());
        ratios.push(level.snr());
        let each = (0..images.each().len()).map(|i| noised(&images.slice(i, 1), level, epsilon.slice(i, 1)));
        frames.push(
            each.reduce(|mut all, next| {
                all.append(next);
                all
            })
            .expect("there are images"),
        );
    }
    ddpm::output::sheet(picture, &frames, frames.len(), &[])?;
    Ok(ratios)
}
