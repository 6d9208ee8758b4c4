//! Inpainting (RePaint: Lugmayr et al. 2022, arXiv 2201.09865). At each step, the known part of the image is replaced
//! by the known pixels at that step's noise level. Repeating steps makes both parts consistent. Or
//! the chain is multiplied by the factor of the known pixels ([`diffusion::product`]).

use burn::tensor::Tensor;
use diffusion::{FactorSchedule, NoiseLevel, SolverTable};
use model::{Denoiser, Images};
use random::Stream;

use crate::Error;
use crate::product::KnownPixels;
use crate::solve::{Batch, History, Progress, Request, SamplerStep, sample_by};

/// The known image and the mask of an inpainting.
#[derive(Clone, Copy, Debug)]
pub struct Inpainting<'a> {
    /// One image, H,W,C.
    pub image: &'a Images,
    /// For each pixel, H,W, whether it is unknown and will be filled in.
    pub unknown: &'a [bool],
    /// The method.
    pub method: InpaintMethod,
}

/// The way in which the known pixels enter the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InpaintMethod {
    /// They are replaced after each step by the known pixels at that step's noise level.
    Replace {
        /// Number of times that each step is taken: 1 for replacement only, 10 in the RePaint paper.
        resample: usize,
    },
    /// The chain is multiplied by a factor, which is 0 unless they have their values (Sohl-Dickstein et al. 2015, §2.5).
    Product(FactorSchedule),
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
    if let InpaintMethod::Product(factor) = inpainting.method {
        return product(denoiser, table, (request, inpainting, factor), progress);
    }
    if inpainting.method == (InpaintMethod::Replace { resample: 0 }) {
        return Err(Error::Request("`resample` is 0; expected at least 1".into()));
    }
    if table.history() > 1 {
        let name = &table.name;
        return Err(Error::Request(format!("{name} uses earlier steps, which inpainting repeats; use ddpm or ddim")));
    }
    let strategy = |batch: &Batch, x, progress: &mut Progress| fill(batch, x, inpainting, progress);
    sample_by(denoiser, table, request, progress, strategy)
}

/// Samples the product of the chain with the factor of the known pixels.
fn product(
    denoiser: &dyn Denoiser,
    table: &SolverTable,
    (request, inpainting, factor): (&Request, Inpainting, FactorSchedule),
    progress: impl FnMut(&SamplerStep) -> bool,
) -> Result<Images, Error> {
    // The factor of x_0, and with `constant` of every x_t, sets known pixels to their values.
    let set = |batch: &Batch, x: Tensor<4>| {
        let (image, mask, kept) = known(batch, inpainting);
        x * mask + image * kept
    };
    let run = |batch: &Batch, mut x, progress: &mut Progress| {
        let (mut history, rows) = (History::default(), batch.table.rows.len());
        for row in 0..rows {
            if factor == FactorSchedule::Constant {
                x = set(batch, x);
            }
            x = batch.step(row, row as u64, x, &mut history)?;
            if row + 1 == rows {
                x = set(batch, x);
            }
            if !progress(row, &x, &history.samples[0]) {
                return Err(Error::Stopped);
            }
        }
        Ok(x)
    };
    match factor {
        FactorSchedule::Constant => sample_by(denoiser, table, request, progress, run),
        FactorSchedule::Expected => {
            let multiplied = KnownPixels::new(denoiser, inpainting)?;
            sample_by(&multiplied, table, request, progress, run)
        }
    }
}

/// Returns the image, the mask of unknown values and that of known ones, for each image of a batch.
fn known(batch: &Batch, inpainting: Inpainting) -> (Tensor<4>, Tensor<4>, Tensor<4>) {
    let [n, height, width, channels] = batch.dims;
    let image = batch.tensor(inpainting.image.pixels.repeat(n));
    let mask: Vec<f32> =
        (0..height * width * channels).map(|i| f32::from(u8::from(inpainting.unknown[i / channels]))).collect();
    let mask = batch.tensor(mask.repeat(n));
    let kept = mask.clone().neg().add_scalar(1.0);
    (image, mask, kept)
}

fn fill(batch: &Batch, mut x: Tensor<4>, inpainting: Inpainting, progress: &mut Progress) -> Result<Tensor<4>, Error> {
    let (image, mask, kept) = known(batch, inpainting);
    let resample = match inpainting.method {
        InpaintMethod::Replace { resample } => resample,
        InpaintMethod::Product(_) => 1,
    };
    let rows = &batch.table.rows;
    for (index, row) in rows.iter().enumerate() {
        let level_t = row.node.level;
        let level_s = rows.get(index + 1).map_or(NoiseLevel::DATA, |next| next.node.level);
        let is_last = level_s.sigma == 0.0;
        let mut history = History::default();
        for turn in 0..resample {
            let number = (index * resample + turn) as u64;
            let made = batch.step(index, number, x, &mut history)?;
            let mut place = image.clone().mul_scalar(level_s.alpha);
            if !is_last {
                place = place + batch.normals(Stream::Inpaint, 2 * number).mul_scalar(level_s.sigma);
            }
            x = made * mask.clone() + place * kept.clone();
            if is_last {
                break;
            }
            if turn + 1 < resample {
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
    use model::{Condition, Denoised, Oracle};

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
        let method = InpaintMethod::Replace { resample };
        let inpainting = Inpainting { image: &image, unknown: &[false, true], method };
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

    /// The same data as [`exact`], by operations that can be differentiated.
    struct Pair;

    impl Denoiser for Pair {
        fn denoise(&self, x_t: Tensor<4>, nodes: &[Node], _: Condition) -> Result<Denoised, model::Error> {
            let NoiseLevel { alpha, sigma } = nodes[0].level;
            let scale = |eigenvalue: f64| 0.5 * alpha * eigenvalue / (alpha * alpha * eigenvalue + sigma * sigma);
            let (sum, difference) = (scale(1.0 + CORRELATION), scale(1.0 - CORRELATION));
            let swapped = x_t.clone().flip([2]);
            let sample = x_t.clone().mul_scalar(sum + difference) + swapped.mul_scalar(sum - difference);
            Ok(Denoised::from_sample(x_t, sample, nodes))
        }

        fn check(&self, _: [usize; 4], _: Condition) -> Result<(), model::Error> {
            Ok(())
        }

        fn check_node(&self, _: Node) -> Result<(), model::Error> {
            Ok(())
        }

        fn device(&self) -> Device {
            Device::flex()
        }

        fn with_input_gradients(&self) -> Result<Box<dyn Denoiser>, model::Error> {
            Ok(Box::new(Pair))
        }
    }

    /// Returns the mean and variance of the unknown pixel by a product.
    fn multiplied(factor: FactorSchedule, sampler: Sampler, steps: usize) -> (f64, f64) {
        let scheduler = SchedulerConfig { clip_sample: false, ..SchedulerConfig::default() };
        let options = SamplerOptions { steps: Some(steps), ..Default::default() };
        let table = sampler.table(&scheduler, options).unwrap();
        let noise = initial_noise(1, 0, 4000, [1, 2, 1]);
        let request = Request { seed: 1, first_image: 0, noise: &noise, batch_size: 4000, shared: None };
        let image = Images::new([1, 1, 2, 1], vec![1.5, 0.0]);
        let method = InpaintMethod::Product(factor);
        let inpainting = Inpainting { image: &image, unknown: &[false, true], method };
        let images = inpaint(&Pair, &table, (&request, inpainting), |_| true).unwrap();
        assert!(images.each().all(|image| image[0] == 1.5));
        let values: Vec<f64> = images.each().map(|image| f64::from(image[1])).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        (mean, values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / values.len() as f64)
    }

    /// The expected factor beside the constant one, replacement and RePaint.
    #[test]
    fn products_with_the_expected_factor_are_nearer_to_the_posterior_than_replacement() {
        let mean = 1.5 * CORRELATION;
        let expected = multiplied(FactorSchedule::Expected, Sampler::Ddpm, 500);
        let constant = multiplied(FactorSchedule::Constant, Sampler::Ddpm, 500);
        let ode = multiplied(FactorSchedule::Expected, "dpmpp-2m".parse().unwrap(), 100);
        let (once, often) = (filled(1), filled(20));
        println!("exact {mean:.3} {:.3}", 1.0 - CORRELATION * CORRELATION);
        println!("expected {expected:.3?}, by dpmpp-2m {ode:.3?}, constant {constant:.3?}");
        println!("replacement {once:.3?}, RePaint {often:.3?}");
        let away = |found: (f64, f64)| (found.0 - mean).abs();
        assert!(away(expected) < 0.05 && away(ode) < 0.05, "{expected:?} {ode:?}");
        assert!(away(constant) > 2.0 * away(expected) && away(once) > 2.0 * away(expected), "{constant:?} {once:?}");
    }

    #[test]
    fn a_denoiser_without_gradients_is_refused() {
        let scheduler = SchedulerConfig::default();
        let table = Sampler::Ddpm.table(&scheduler, SamplerOptions { steps: Some(2), ..Default::default() }).unwrap();
        let noise = initial_noise(1, 0, 1, [1, 2, 1]);
        let request = Request { seed: 1, first_image: 0, noise: &noise, batch_size: 1, shared: None };
        let image = Images::new([1, 1, 2, 1], vec![1.5, 0.0]);
        let method = InpaintMethod::Product(FactorSchedule::Expected);
        let inpainting = Inpainting { image: &image, unknown: &[false, true], method };
        let denoiser = Oracle::new(exact, &Device::flex());
        assert!(inpaint(&denoiser, &table, (&request, inpainting), |_| true).is_err());
    }
}
