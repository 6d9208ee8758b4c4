//! DDIM inversion: from images to the latents that DDIM maps to them (Song et al. 2021, section 4.3).

use diffusion::{SchedulerConfig, SolverTable, solver};
use model::{Denoiser, Images};

use crate::Error;
use crate::solve::{Request, sample};

/// The options of an inversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inversion {
    /// The timestep of the latents.
    pub at: usize,
    /// Number of steps from the data to T−1.
    pub steps: usize,
    /// Images per batch.
    pub batch_size: usize,
}

/// The latents of images and their reconstructions by DDIM.
#[derive(Clone, Debug)]
pub struct Inverted {
    /// The latents: x at the requested timestep.
    pub latents: Images,
    /// The images that DDIM reconstructs from the latents.
    pub reconstruction: Images,
    /// The root mean squared error of each reconstruction, in pixel values of 0 to 255.
    pub rmse: Vec<f64>,
    /// The root mean square of each latent; 1 for Gaussian noise.
    pub latent_rms: Vec<f64>,
    /// Evaluations of the network per image.
    pub evaluations: usize,
}

/// Inverts images to DDIM latents and reconstructs them. `progress(done, total)` is called after each step; return
/// `false` to cancel.
///
/// # Errors
/// If images or timesteps do not match the model. Also as [`sample`](crate::sample()).
pub fn invert(
    denoiser: &dyn Denoiser,
    scheduler: &SchedulerConfig,
    (images, inversion): (&Images, Inversion),
    mut progress: impl FnMut(usize, usize) -> bool,
) -> Result<Inverted, Error> {
    let Inversion { at, steps, batch_size } = inversion;
    let (up, down) = inversion_tables(scheduler, at, steps)?;
    let evaluations = up.rows.len() + down.rows.len();
    let total = images.n.div_ceil(batch_size.max(1)) * evaluations;
    let mut done = 0;
    let mut run = |table: &SolverTable, start: &Images| {
        let request = Request { seed: 0, first_image: 0, noise: start, batch_size, shared: None };
        sample(denoiser, table, &request, |_| {
            done += 1;
            progress(done, total)
        })
    };
    let latents = run(&up, images)?;
    let reconstruction = run(&down, &latents)?;

    let rmse = |(image, back): (&[f32], &[f32])| {
        let square = image.iter().zip(back).map(|(a, b)| f64::from(a - b.clamp(-1.0, 1.0)).powi(2)).sum::<f64>();
        127.5 * (square / image.len() as f64).sqrt()
    };
    let rms = |x: &[f32]| (x.iter().map(|x| f64::from(x * x)).sum::<f64>() / x.len() as f64).sqrt();
    Ok(Inverted {
        rmse: images.each().zip(reconstruction.each()).map(rmse).collect(),
        latent_rms: latents.each().map(rms).collect(),
        latents,
        reconstruction,
        evaluations,
    })
}

/// Returns two tables of DDIM steps over the same timesteps: from images to x at t, and back. `steps` steps span the
/// range from the data to T−1. Neither table clips x̂0, since clipping cannot be inverted.
///
/// # Errors
/// If t is 0 or outside the chain, or the number of steps is below 2 or above that of the chain.
pub fn inversion_tables(
    scheduler: &SchedulerConfig,
    t: usize,
    steps: usize,
) -> Result<(SolverTable, SolverTable), Error> {
    let schedule = scheduler.noise_schedule()?;
    let last = schedule.len() - 1;
    if !(1..=last).contains(&t) || !(2..=last + 1).contains(&steps) {
        let all = last + 1;
        return Err(Error::Request(format!(
            "cannot invert to t = {t} in {steps} steps; expected t from 1 to {last} and 2 to {all} steps"
        )));
    }
    let even = (0..steps).map(|i| i * last / (steps - 1));
    let mut list: Vec<usize> = even.take_while(|&s| s < t).chain([t]).collect();
    let up = solver::ddim_inversion(&schedule, &list)?;
    list.reverse();
    Ok((up, solver::ddim(&schedule, &list, 0.0, None)?))
}
