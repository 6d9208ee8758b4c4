//! Between two images: both are noised to the same x_t with the same ε, mixed, and brought back (Ho et al. 2020, section
//! 4.3 and figure 8). The later the t, the coarser what is mixed: from blending pixels to inventing images.

use diffusion::{NoiseSchedule, SchedulerConfig};
use random::{Random, Stream};
use unet::Unet;

use crate::output::Images;
use crate::walk::{Request, walk};
use crate::{Error, Sampler};

/// How two noisy images are mixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// (1−λ)·a + λ·b, as Ho et al.
    Linear,
    /// Along the great circle between them, which keeps the length that noise has (Song et al. 2021, appendix D.5).
    Spherical,
}

/// What lies between two images.
#[derive(Clone, Debug)]
pub struct Between<'a> {
    /// The timesteps to which the images are noised.
    pub at: &'a [usize],
    /// The λ.
    pub shares: &'a [f64],
    /// How they are mixed.
    pub mix: Mix,
    /// The way back, over those of its timesteps below t.
    pub sampler: Sampler,
    /// Steps of the whole way; all by default.
    pub steps: Option<usize>,
    /// Class of the images, where the network has classes.
    pub label: Option<u32>,
    /// Seed of the noise.
    pub seed: u64,
    /// Images that go through the network at once.
    pub batch_size: usize,
}

/// For each λ the images at each t. `progress` is told how many rows of the sampler's tables of how many are done, and ends
/// the walk by returning false.
///
/// # Errors
/// If the images differ in size or do not fit the network, or a timestep is not the chain's; and as [`walk`].
pub fn interpolate(
    unet: &Unet,
    scheduler: &SchedulerConfig,
    [a, b]: [&Images; 2],
    between: &Between,
    mut progress: impl FnMut(usize, usize) -> bool,
) -> Result<Vec<Images>, Error> {
    if a.n != 1 || a.shape() != b.shape() {
        return Err(Error::Request("an interpolation is between two images of one size".into()));
    }
    let schedule = scheduler.noise_schedule()?;
    let all = scheduler.timesteps(between.steps.unwrap_or(schedule.len()))?;
    let mut tables = Vec::new();
    for &t in between.at {
        if t >= schedule.len() {
            let last = schedule.len() - 1;
            return Err(Error::Request(format!("t = {t} is not a timestep of the chain; expected 0 to {last}")));
        }
        let list: Vec<usize> = std::iter::once(t).chain(all.iter().copied().filter(|&s| s < t)).collect();
        tables.push(between.sampler.table_over(scheduler, &list)?);
    }
    let count = between.shares.len();
    let batches = count.div_ceil(between.batch_size.max(1));
    let total = batches * tables.iter().map(|table| table.rows.len()).sum::<usize>();

    let mut epsilon = vec![0.0; a.pixels.len()];
    Random::new(between.seed).normals(Stream::InitialNoise, 0, 0, &mut epsilon);
    let labels = between.label.map(|label| vec![label; count]);
    let mut frames = vec![Images { n: 0, pixels: Vec::new(), ..a.clone() }; count];
    let mut done = 0;
    for (&t, table) in between.at.iter().zip(&tables) {
        let noisy = |image: &Images| q_sample(&schedule, t, &image.pixels, &epsilon);
        let (from, to) = (noisy(a), noisy(b));
        let pixels = between.shares.iter().flat_map(|&share| mixed(between.mix, &from, &to, share)).collect();
        let noise = Images { n: count, pixels, ..a.clone() };
        let request = Request {
            seed: between.seed,
            first_image: 0,
            noise: &noise,
            labels: labels.as_deref(),
            batch_size: between.batch_size,
        };
        let images = walk(unet, table, scheduler.prediction_type, &request, |_| {
            done += 1;
            progress(done, total)
        })?;
        for (frame, image) in frames.iter_mut().zip(images.each()) {
            frame.n += 1;
            frame.pixels.extend_from_slice(image);
        }
    }
    Ok(frames)
}

fn q_sample(schedule: &NoiseSchedule, t: usize, x0: &[f32], epsilon: &[f32]) -> Vec<f32> {
    let (signal, noise) = schedule.q_sample(t);
    x0.iter().zip(epsilon).map(|(x0, e)| signal as f32 * x0 + noise as f32 * e).collect()
}

fn mixed(mix: Mix, a: &[f32], b: &[f32], share: f64) -> Vec<f32> {
    let (from, to) = match mix {
        Mix::Linear => (1.0 - share, share),
        Mix::Spherical => {
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
            let angle = (dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()).clamp(-1.0, 1.0).acos();
            // Images that point the same way have a straight line between them.
            if angle.sin() < 1e-6 {
                (1.0 - share, share)
            } else {
                (((1.0 - share) * angle).sin() / angle.sin(), (share * angle).sin() / angle.sin())
            }
        }
    };
    a.iter().zip(b).map(|(a, b)| (from * f64::from(*a) + to * f64::from(*b)) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixtures_begin_and_end_at_the_images_and_keep_their_length_on_the_sphere() {
        let (a, b) = (vec![3.0f32, 0.0, 4.0], vec![0.0f32, 5.0, 0.0]);
        for mix in [Mix::Linear, Mix::Spherical] {
            for (share, end) in [(0.0, &a), (1.0, &b)] {
                let got = mixed(mix, &a, &b, share);
                assert!(got.iter().zip(end).all(|(g, e)| (g - e).abs() < 1e-5), "{mix:?} {got:?}");
            }
        }
        let length = |x: &[f32]| x.iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!((length(&mixed(Mix::Spherical, &a, &b, 0.3)) - 5.0).abs() < 1e-5);
        assert!(length(&mixed(Mix::Linear, &a, &b, 0.5)) < 4.0);
        assert_eq!(mixed(Mix::Spherical, &a, &a, 0.4), a);
    }
}
