//! Between two images: both are noised to the same x_t with the same ε, mixed, and brought back (Ho et al. 2020, section
//! 4.3 and figure 8). The later the t, the coarser what is mixed: from blending pixels to inventing images. Or both are
//! taken up along DDIM's way, and what comes back keeps more of them (Song et al. 2021, section 5.3).

use diffusion::{NoiseSchedule, SchedulerConfig, SolverTable};
use random::{Random, Stream};
use unet::Unet;

use crate::output::Images;
use crate::walk::{Request, walk};
use crate::{Error, Options, Sampler, inversion};

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
    /// Instead of noise: the latents that DDIM makes the images from, and its way back; `sampler` and `seed` do nothing.
    pub invert: bool,
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
    // The way up, if there is one, and the way down.
    let ways = between.at.iter().map(|&t| {
        if between.invert {
            let (up, down) = inversion(scheduler, t, between.steps.unwrap_or(schedule.len()))?;
            return Ok((Some(up), down));
        }
        let options = Options { steps: between.steps, ..Default::default() };
        Ok((None, between.sampler.table_from(scheduler, options, t)?))
    });
    let ways: Vec<(Option<SolverTable>, SolverTable)> = ways.collect::<Result<_, Error>>()?;
    let count = between.shares.len();
    let batches = count.div_ceil(between.batch_size.max(1));
    let rows = |(up, down): &(Option<SolverTable>, SolverTable)| {
        up.as_ref().map_or(0, |up| 2_usize.div_ceil(between.batch_size.max(1)) * up.rows.len())
            + batches * down.rows.len()
    };
    let total = ways.iter().map(rows).sum::<usize>();

    let mut epsilon = vec![0.0; a.pixels.len()];
    Random::new(between.seed).normals(Stream::InitialNoise, 0, 0, &mut epsilon);
    let labels = between.label.map(|label| vec![label; count.max(2)]);
    let mut frames = vec![Images { n: 0, pixels: Vec::new(), ..a.clone() }; count];
    let mut done = 0;
    let mut go = |table: &SolverTable, start: &Images| {
        let request = Request {
            seed: between.seed,
            first_image: 0,
            noise: start,
            labels: labels.as_ref().map(|labels| &labels[..start.n]),
            batch_size: between.batch_size,
            share_until: None,
            guidance: None,
        };
        walk(unet, table, scheduler, &request, |_| {
            done += 1;
            progress(done, total)
        })
    };
    for (&t, (up, down)) in between.at.iter().zip(&ways) {
        let (from, to) = match up {
            Some(up) => {
                let both = Images { n: 2, pixels: [a.pixels.as_slice(), &b.pixels].concat(), ..a.clone() };
                let latents = go(up, &both)?.pixels;
                let (from, to) = latents.split_at(a.pixels.len());
                (from.to_vec(), to.to_vec())
            }
            None => (q_sample(&schedule, t, &a.pixels, &epsilon), q_sample(&schedule, t, &b.pixels, &epsilon)),
        };
        let pixels = between.shares.iter().flat_map(|&share| mixed(between.mix, &from, &to, share)).collect();
        let images = go(down, &Images { n: count, pixels, ..a.clone() })?;
        for (frame, image) in frames.iter_mut().zip(images.each()) {
            frame.n += 1;
            frame.pixels.extend_from_slice(image);
        }
    }
    Ok(frames)
}

/// x_t of an image for a given ε (Ho et al. eq. 4).
fn q_sample(schedule: &NoiseSchedule, t: usize, x0: &[f32], epsilon: &[f32]) -> Vec<f32> {
    let mut x_t = vec![0.0; x0.len()];
    schedule.level(t).q_sample(x0, epsilon, &mut x_t);
    x_t
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
