//! A part of an image made anew so that it fits the rest: at every step the known part is put in its place, with the noise of
//! that step, and steps are gone back and made again until both agree (RePaint: Lugmayr et al. 2022, arXiv 2201.09865).

use burn::tensor::{Device, Tensor};
use diffusion::{NoiseLevel, SchedulerConfig, SolverTable};
use random::Stream;
use unet::{Parameters, Unet};

use crate::Error;
use crate::output::Images;
use crate::walk::{Batch, History, Network, Progress, Request, Step, network, walk_by};

/// What is known of the images to be made.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// One image, H,W,C.
    pub image: &'a Images,
    /// For each pixel whether it is to be made anew, H,W.
    pub unknown: &'a [bool],
    /// How often each step is made: 1 is replacement alone, 10 what RePaint uses.
    pub resample: usize,
}

/// Makes the unknown part of an image, once for each noise of the request. `progress` is called after every row.
///
/// # Errors
/// If sizes do not fit, or the table looks back on earlier predictions, which going back would make false; and as
/// [`walk`](crate::walk()).
pub fn inpaint(
    unet: &Unet,
    table: &SolverTable,
    scheduler: &SchedulerConfig,
    request: &Request,
    known: Known,
    progress: impl FnMut(&Step) -> bool,
) -> Result<Images, Error> {
    inpaint_by(&network(unet, request)?, &unet.device(), table, scheduler, request, known, progress)
}

fn inpaint_by(
    network: &Network,
    device: &Device,
    table: &SolverTable,
    scheduler: &SchedulerConfig,
    request: &Request,
    known: Known,
    progress: impl FnMut(&Step) -> bool,
) -> Result<Images, Error> {
    let Images { n, height, width, channels, .. } = *known.image;
    if n != 1 || [height, width, channels] != request.noise.shape()[1..] || known.unknown.len() != height * width {
        return Err(Error::Request("image, mask and noise are not of one size".into()));
    }
    if known.resample == 0 {
        return Err(Error::Request("each step is to be made at least once".into()));
    }
    if table.history() > 1 {
        return Err(Error::Request(format!("{} remembers earlier steps; inpaint with ddpm or ddim", table.name)));
    }
    let way = |batch: &Batch, x, progress: &mut Progress| fill(batch, x, known, progress);
    walk_by(network, device, table, scheduler, request, progress, way)
}

fn fill(batch: &Batch, mut x: Tensor<4>, known: Known, progress: &mut Progress) -> Result<Tensor<4>, Error> {
    let [n, height, width, channels] = batch.dims;
    let image = batch.tensor(known.image.pixels.repeat(n));
    let mask: Vec<f32> =
        (0..height * width * channels).map(|i| f32::from(u8::from(known.unknown[i / channels]))).collect();
    let mask = batch.tensor(mask.repeat(n));
    let kept = mask.clone().neg().add_scalar(1.0);
    let rows = &batch.table.rows;
    for (index, row) in rows.iter().enumerate() {
        let from = row.node.level;
        let to = rows.get(index + 1).map_or(NoiseLevel::DATA, |next| next.node.level);
        let mut history = History::default();
        for turn in 0..known.resample {
            let number = (index * known.resample + turn) as u64;
            let made = batch.step(index, number, x, &mut history)?;
            let mut place = image.clone().mul_scalar(to.alpha);
            if to.sigma > 0.0 {
                place = place + batch.normals(Stream::Inpaint, 2 * number).mul_scalar(to.sigma);
            }
            x = made * mask.clone() + place * kept.clone();
            if turn + 1 < known.resample && to.sigma > 0.0 {
                // q(x_t | x_s), the forward chain.
                let alpha = from.alpha_cumprod() / to.alpha_cumprod();
                let z = batch.normals(Stream::Inpaint, 2 * number + 1);
                x = x.mul_scalar(alpha.sqrt()) + z.mul_scalar((1.0 - alpha).sqrt());
            } else if to.sigma == 0.0 {
                break;
            }
        }
        if !progress(index, &x, &history.samples[0]) {
            return Err(Error::Stopped);
        }
    }
    Ok(x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Sampler, initial_noise};

    /// Two pixels of unit variance and correlation 0.9: knowing the one, the other is N(0.9·known, 1 − 0.81).
    const CORRELATION: f64 = 0.9;

    /// The exact ε̂ of such data, along the eigenvectors (1, 1) and (1, −1) of their covariance.
    fn exact(scheduler: &SchedulerConfig) -> impl Fn(Tensor<4>, f64, Option<&[u32]>) -> Tensor<4> {
        let schedule = scheduler.noise_schedule().unwrap();
        move |x, timestep, _| {
            let alpha = schedule.alpha_cumprod(timestep as usize);
            let (left, right) = (x.clone().narrow(2, 0, 1), x.narrow(2, 1, 1));
            // σ/(ᾱ·eigenvalue + 1 − ᾱ), half of it for the mean of the two.
            let scale = |eigenvalue: f64| 0.5 * (1.0 - alpha).sqrt() / (alpha * eigenvalue + 1.0 - alpha);
            let sum = (left.clone() + right.clone()).mul_scalar(scale(1.0 + CORRELATION));
            let difference = (left - right).mul_scalar(scale(1.0 - CORRELATION));
            Tensor::cat(vec![sum.clone() + difference.clone(), sum - difference], 2)
        }
    }

    /// (mean, variance) of what is made beside a known pixel of 1.5.
    fn made(resample: usize) -> (f64, f64) {
        let scheduler = SchedulerConfig { clip_sample: false, ..SchedulerConfig::default() };
        let table = Sampler::Ddpm.table(&scheduler, crate::Options { steps: Some(500), ..Default::default() }).unwrap();
        let noise = initial_noise(1, 0, 4000, [1, 2, 1]);
        let request = Request {
            seed: 1,
            first_image: 0,
            noise: &noise,
            labels: None,
            batch_size: 4000,
            share_until: None,
            guidance: None,
        };
        let image = Images { n: 1, height: 1, width: 2, channels: 1, pixels: vec![1.5, 0.0] };
        let known = Known { image: &image, unknown: &[false, true], resample };
        let images =
            inpaint_by(&exact(&scheduler), &Device::flex(), &table, &scheduler, &request, known, |_| true).unwrap();
        assert!(images.each().all(|image| image[0] == 1.5));
        let values: Vec<f64> = images.each().map(|image| f64::from(image[1])).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        (mean, values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / values.len() as f64)
    }

    /// Replacement alone is biased: the noisy known part tells the unknown one less than it should. Going back and again
    /// leads to the exact posterior.
    #[test]
    fn going_back_leads_to_the_exact_posterior() {
        let (mean, variance) = (1.5 * CORRELATION, 1.0 - CORRELATION * CORRELATION);
        let (once, often) = (made(1), made(20));
        println!("exact {mean:.3} {variance:.3}, replacement {once:.3?}, resampled {often:.3?}");
        assert!((often.0 - mean).abs() < 0.05 && (often.1 / variance - 1.0).abs() < 0.2, "{often:?}");
        assert!((once.0 - mean).abs() > 2.0 * (often.0 - mean).abs(), "{once:?} {often:?}");
    }
}
