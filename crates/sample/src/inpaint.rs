//! Inpainting (RePaint: Lugmayr et al. 2022, arXiv 2201.09865). At each step, the known part of the image is replaced
//! by the known pixels at that step's noise level. Repeating steps makes both parts consistent.

use burn::tensor::Tensor;
use diffusion::{NoiseLevel, SolverTable};
use model::{Denoiser, Images};
use random::Stream;

use crate::Error;
use crate::solve::{Batch, History, Progress, Request, SamplerStep, sample_by};

/// The known image and the mask of an inpainting.
#[derive(Clone, Copy, Debug)]
pub struct Inpainting<'a> {
    /// One image, H,W,C.
    pub image: &'a Images,
    /// For each pixel, H,W, whether it is unknown and will be filled in.
    pub unknown: &'a [bool],
    /// Number of times that each step is taken: 1 for replacement only, 10 in the RePaint paper.
    pub resample: usize,
}

/// Fills in the unknown part of an image, once for each noise of the request. `progress` is called after each row of
/// each batch; it returns `false` to cancel.
///
/// # Errors
/// If sizes do not match or the sampler uses earlier predictions, which repeated steps would invalidate. Also as
/// [`sample`](crate::sample()).
pub fn inpaint(
    denoiser: &dyn Denoiser,
    table: &SolverTable,
    (request, inpainting): (&Request, Inpainting),
    progress: impl FnMut(&SamplerStep) -> bool,
) -> Result<Images, Error> {
    let Images { n, height, width, channels, .. } = *inpainting.image;
    if n != 1 || [height, width, channels] != request.noise.shape()[1..] || inpainting.unknown.len() != height * width {
        return Err(Error::Request("image, mask and noise differ in size".into()));
    }
    if inpainting.resample == 0 {
        return Err(Error::Request("`resample` is 0; expected at least 1".into()));
    }
    if table.history() > 1 {
        let name = &table.name;
        return Err(Error::Request(format!("{name} uses earlier steps, which inpainting repeats; use ddpm or ddim")));
    }
    let strategy = |batch: &Batch, x, progress: &mut Progress| fill(batch, x, inpainting, progress);
    sample_by(denoiser, table, request, progress, strategy)
}

fn fill(batch: &Batch, mut x: Tensor<4>, inpainting: Inpainting, progress: &mut Progress) -> Result<Tensor<4>, Error> {
    let [n, height, width, channels] = batch.dims;
    let image = batch.tensor(inpainting.image.pixels.repeat(n));
    let mask: Vec<f32> =
        (0..height * width * channels).map(|i| f32::from(u8::from(inpainting.unknown[i / channels]))).collect();
    let mask = batch.tensor(mask.repeat(n));
    let kept = mask.clone().neg().add_scalar(1.0);
    let rows = &batch.table.rows;
    for (index, row) in rows.iter().enumerate() {
        let level_t = row.node.level;
        let level_s = rows.get(index + 1).map_or(NoiseLevel::DATA, |next| next.node.level);
        let is_last = level_s.sigma == 0.0;
        let mut history = History::default();
        for turn in 0..inpainting.resample {
            let number = (index * inpainting.resample + turn) as u64;
            let made = batch.step(index, number, x, &mut history)?;
            let mut place = image.clone().mul_scalar(level_s.alpha);
            if !is_last {
                place = place + batch.normals(Stream::Inpaint, 2 * number).mul_scalar(level_s.sigma);
            }
            x = made * mask.clone() + place * kept.clone();
            if is_last {
                break;
            }
            if turn + 1 < inpainting.resample {
                // q(x_t | x_s), the forward chain.
                let alpha = level_t.alpha / level_s.alpha;
                let variance = level_t.sigma.powi(2) - (alpha * level_s.sigma).powi(2);
                let z = batch.normals(Stream::Inpaint, 2 * number + 1);
                x = x.mul_scalar(alpha) + z.mul_scalar(variance.sqrt());
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
    use crate::{Sampler, SamplerOptions, initial_noise};
    use burn::tensor::Device;
    use diffusion::{Node, SchedulerConfig};
    use model::Oracle;

    /// The correlation of two pixels of unit variance: given one of them, the other is N(0.9·known, 1 − 0.81).
    const CORRELATION: f64 = 0.9;

    /// Computes E[x_0 | x_t] of such data, along the eigenvectors (1, 1) and (1, −1) of their covariance.
    fn exact(x: &[f64], node: Node) -> Vec<f64> {
        let NoiseLevel { alpha, sigma } = node.level;
        // α·eigenvalue/(α²·eigenvalue + σ²), halved for the mean of the two.
        let scale = |eigenvalue: f64| 0.5 * alpha * eigenvalue / (alpha * alpha * eigenvalue + sigma * sigma);
        let sum = scale(1.0 + CORRELATION) * (x[0] + x[1]);
        let difference = scale(1.0 - CORRELATION) * (x[0] - x[1]);
        vec![sum + difference, sum - difference]
    }

    /// Returns the mean and variance of the unknown pixel, if the known one is 1.5.
    fn filled(resample: usize) -> (f64, f64) {
        let scheduler = SchedulerConfig { clip_sample: false, ..SchedulerConfig::default() };
        let options = SamplerOptions { steps: Some(500), ..Default::default() };
        let table = Sampler::Ddpm.table(&scheduler, options).unwrap();
        let noise = initial_noise(1, 0, 4000, [1, 2, 1]);
        let request = Request { seed: 1, first_image: 0, noise: &noise, batch_size: 4000, shared: None };
        let image = Images::new([1, 1, 2, 1], vec![1.5, 0.0]);
        let inpainting = Inpainting { image: &image, unknown: &[false, true], resample };
        let denoiser = Oracle::new(exact, &Device::flex());
        let images = inpaint(&denoiser, &table, (&request, inpainting), |_| true).unwrap();
        assert!(images.each().all(|image| image[0] == 1.5));
        let values: Vec<f64> = images.each().map(|image| f64::from(image[1])).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        (mean, values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / values.len() as f64)
    }

    /// Replacement alone is biased, because the noisy known part has too little information about the unknown one. With
    /// repeated steps the result converges to the exact posterior.
    #[test]
    fn resampling_converges_to_the_exact_posterior() {
        let (mean, variance) = (1.5 * CORRELATION, 1.0 - CORRELATION * CORRELATION);
        let (once, often) = (filled(1), filled(20));
        println!("exact {mean:.3} {variance:.3}, replacement {once:.3?}, resampled {often:.3?}");
        assert!((often.0 - mean).abs() < 0.05 && (often.1 / variance - 1.0).abs() < 0.2, "{often:?}");
        assert!((once.0 - mean).abs() > 2.0 * (often.0 - mean).abs(), "{once:?} {often:?}");
    }
}
