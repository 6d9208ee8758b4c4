//! Interpolation between two images: both are noised to x_t with the same ε, mixed, and denoised (Ho et al. 2020,
//! section 4.3 and figure 8). A larger t mixes coarser features. Alternatively, the DDIM latents of the images are
//! mixed, which preserves more of them (Song et al. 2021, section 5.3).

use diffusion::{SchedulerConfig, SolverTable};
use model::{Denoiser, Images};

use crate::invert::inversion_tables;
use crate::noise::{initial_noise, noised};
use crate::solve::{Request, sample};
use crate::{Error, Sampler, SamplerOptions};

/// The mixture of two noisy images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mix {
    /// Linear, (1−λ)·a + λ·b, as in Ho et al.
    #[default]
    Linear,
    /// Spherical, along the great circle, which preserves the norm of noise (Song et al. 2021, appendix D.5).
    Spherical,
}

/// Two images and the options of their interpolation.
#[derive(Clone, Debug)]
pub struct Interpolation<'a> {
    /// The images at λ = 0 and λ = 1, one each.
    pub ends: [&'a Images; 2],
    /// The timesteps to which the images are noised.
    pub at: &'a [usize],
    /// The weights λ of the second image.
    pub lambdas: &'a [f64],
    /// The mixture.
    pub mix: Mix,
    /// The sampler that denoises, restricted to its timesteps below t.
    pub sampler: Sampler,
    /// Number of steps of the sampler from T−1. Defaults to all.
    pub steps: Option<usize>,
    /// Mixes DDIM latents instead of noised images. `sampler` and `seed` are then ignored.
    pub invert: bool,
    /// The class of the images, if the network has classes.
    pub label: Option<u32>,
    /// Seed of the noise.
    pub seed: u64,
    /// Images per batch.
    pub batch_size: usize,
}

/// Interpolates between two images: for each λ, the images at each t. `progress(done, total)` is called after each row
/// of the sampler's tables; return `false` to cancel.
///
/// # Errors
/// If the images differ in size or do not match the network, or a timestep is outside the chain. Also as
/// [`sample`](crate::sample()).
pub fn interpolate(
    denoiser: &dyn Denoiser,
    scheduler: &SchedulerConfig,
    interpolation: &Interpolation,
    mut progress: impl FnMut(usize, usize) -> bool,
) -> Result<Vec<Images>, Error> {
    let Interpolation { ends: [a, b], at, lambdas, mix, seed, batch_size, .. } = *interpolation;
    if a.n != 1 || a.shape() != b.shape() {
        return Err(Error::Request("an interpolation needs two images of one size".into()));
    }
    let schedule = scheduler.noise_schedule()?;
    // One table from the data to the latents, if these are mixed, and one back to the images.
    let tables = |&t: &usize| {
        if interpolation.invert {
            let (up, down) = inversion_tables(scheduler, t, interpolation.steps.unwrap_or(schedule.len()))?;
            return Ok((Some(up), down));
        }
        let options = SamplerOptions { steps: interpolation.steps, ..Default::default() };
        Ok((None, interpolation.sampler.table_from(scheduler, options, t)?))
    };
    let tables: Vec<(Option<SolverTable>, SolverTable)> = at.iter().map(tables).collect::<Result<_, Error>>()?;
    let count = lambdas.len();
    let batches = |images: usize| images.div_ceil(batch_size.max(1));
    let rows = |(up, down): &(Option<SolverTable>, SolverTable)| {
        up.as_ref().map_or(0, |up| batches(2) * up.rows.len()) + batches(count) * down.rows.len()
    };
    let total = tables.iter().map(rows).sum::<usize>();

    let labels = interpolation.label.map(|label| vec![label; count.max(2)]);
    let mut done = 0;
    let mut run = |table: &SolverTable, start: Images| {
        let labels = labels.as_ref().map(|labels| labels[..start.n].to_vec());
        let start = start.with_labels(labels);
        let request = Request { seed, first_image: 0, noise: &start, batch_size, shared: None };
        sample(denoiser, table, &request, |_| {
            done += 1;
            progress(done, total)
        })
    };
    let epsilon = initial_noise(seed, 0, 1, [a.height, a.width, a.channels]);
    let mut frames = vec![Images { n: 0, pixels: Vec::new(), labels: None, ..*a }; count];
    for (&t, (up, down)) in at.iter().zip(&tables) {
        let (from, to) = match up {
            Some(up) => {
                let both = Images { n: 2, pixels: [a.pixels.as_slice(), &b.pixels].concat(), labels: None, ..*a };
                let latents = run(up, both)?;
                (latents.slice(0, 1), latents.slice(1, 1))
            }
            None => {
                let level = schedule.level(t);
                (noised(a, level, epsilon.clone()), noised(b, level, epsilon.clone()))
            }
        };
        let pixels = lambdas.iter().flat_map(|&lambda| mixed(mix, &from.pixels, &to.pixels, lambda)).collect();
        let images = run(down, Images { n: count, pixels, labels: None, ..*a })?;
        for (frame, image) in frames.iter_mut().zip(images.each()) {
            frame.n += 1;
            frame.pixels.extend_from_slice(image);
        }
    }
    Ok(frames)
}

fn mixed(mix: Mix, a: &[f32], b: &[f32], lambda: f64) -> Vec<f32> {
    let (from, to) = match mix {
        Mix::Linear => (1.0 - lambda, lambda),
        Mix::Spherical => {
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
            let angle = (dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()).clamp(-1.0, 1.0).acos();
            // If the images have the same direction, the great circle is undefined and a straight line is exact.
            if angle.sin() < 1e-6 {
                (1.0 - lambda, lambda)
            } else {
                (((1.0 - lambda) * angle).sin() / angle.sin(), (lambda * angle).sin() / angle.sin())
            }
        }
    };
    a.iter().zip(b).map(|(a, b)| (from * f64::from(*a) + to * f64::from(*b)) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixtures_start_and_end_at_the_images_and_spherical_ones_keep_the_norm() {
        let (a, b) = (vec![3.0f32, 0.0, 4.0], vec![0.0f32, 5.0, 0.0]);
        for mix in [Mix::Linear, Mix::Spherical] {
            for (lambda, end) in [(0.0, &a), (1.0, &b)] {
                let got = mixed(mix, &a, &b, lambda);
                assert!(got.iter().zip(end).all(|(g, e)| (g - e).abs() < 1e-5), "{mix:?} {got:?}");
            }
        }
        let norm = |x: &[f32]| x.iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!((norm(&mixed(Mix::Spherical, &a, &b, 0.3)) - 5.0).abs() < 1e-5);
        assert!(norm(&mixed(Mix::Linear, &a, &b, 0.5)) < 4.0);
        assert_eq!(mixed(Mix::Spherical, &a, &a, 0.4), a);
    }
}
