//! Ancestral sampling of binomial chains.

use burn::tensor::{Tensor, TensorData};
use diffusion::{Bernoulli, BinomialChain, NoiseSchedule};
use model::bits::{BitDenoiser, pixels_of};
use model::{Condition, Images};
use random::{Random, Stream};

use crate::Error;
use crate::solve::{Request, SamplerStep};

/// The steps of a binomial chain.
#[derive(Clone, Copy, Debug)]
pub struct BitSteps<'a> {
    /// The chain that the network was trained for.
    pub schedule: &'a NoiseSchedule,
    /// The timesteps that are visited, descending.
    pub timesteps: &'a [usize],
}

/// Samples bits `[N,H,W,C]`, as pixels of ±1, from fair coins. The request's noise gives shape and labels only: the coins of image
/// i are those of its number and the seed. `progress` is called after each step of each batch; it returns `false` to cancel.
///
/// # Errors
/// If sizes or labels do not match the denoiser, a prediction is not finite, or `progress` returned `false`.
pub fn sample_bits(
    denoiser: &dyn BitDenoiser,
    steps: BitSteps,
    request: &Request,
    mut progress: impl FnMut(&SamplerStep) -> bool,
) -> Result<Images, Error> {
    let Request { seed, first_image, noise, batch_size, shared } = *request;
    if batch_size == 0 || shared.is_some() {
        let message = "a binomial chain is sampled in batches of 1 or more, without shared noise";
        return Err(Error::Request(message.into()));
    }
    denoiser.check(noise.shape(), Condition::classes(noise.labels.as_deref()))?;
    let sub_chain = steps.schedule.respace(steps.timesteps)?;
    let chain = BinomialChain::new(&sub_chain);
    let (random, device) = (Random::new(seed), denoiser.device());
    let mut pixels = Vec::with_capacity(noise.pixels.len());
    for first in (0..noise.n).step_by(batch_size) {
        let start = noise.slice(first, batch_size.min(noise.n - first));
        let size = (start.pixels.len() / start.n).max(1);
        let uniforms = |stream: Stream, step: u64| {
            let mut u = vec![0.0; start.pixels.len()];
            for (i, u) in u.chunks_mut(size).enumerate() {
                random.uniforms_f64(stream, first_image + (first + i) as u64, step, u);
            }
            u
        };
        let tensor = |values| Tensor::<4>::from_data(TensorData::new(values, start.shape()), &device);
        let coins = uniforms(Stream::InitialNoise, 0);
        let mut bits: Vec<bool> = coins.into_iter().map(|u| Bernoulli::FAIR.sample(u)).collect();
        for (row, &timestep) in steps.timesteps.iter().enumerate() {
            let condition = Condition::classes(start.labels.as_deref());
            let logits = denoiser.logits(tensor(pixels_of(&bits)), &vec![timestep; start.n], condition)?;
            let t = steps.timesteps.len() - 1 - row;
            let u = uniforms(Stream::SamplerNoise, row as u64);
            let predictions = logits.to_data();
            for ((bit, logit), u) in bits.iter_mut().zip(predictions.iter::<f64>()).zip(u) {
                if !logit.is_finite() {
                    return Err(Error::NotFinite { timestep: timestep as f64 });
                }
                *bit = chain.reverse(t, *bit, Bernoulli::from_logit(logit)).sample(u);
            }
            // E of a bit as a pixel, 2p − 1.
            let sample = logits.mul_scalar(0.5).tanh();
            let (x, sample) = (&tensor(pixels_of(&bits)), &sample);
            let rows = steps.timesteps.len();
            if !progress(&SamplerStep { first, images: start.n, row, rows, x, sample }) {
                return Err(Error::Stopped);
            }
        }
        pixels.extend(pixels_of(&bits));
    }
    Ok(Images { pixels, ..noise.clone() }.binarized())
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use diffusion::BetaSchedule;
    use diffusion::oracle::{Bits, generated};
    use model::bits::{BitOracle, bits_of};

    fn data() -> Bits {
        let support = [(0.5, [true, true, false]), (0.3, [false, true, true]), (0.2, [false, false, false])];
        Bits::new(support.into_iter().map(|(weight, bits)| (weight, bits.to_vec())).collect()).unwrap()
    }

    /// Frequencies of all sequences are those of the exact reverse chain, also of a sub-chain.
    #[test]
    fn samples_have_the_law_of_the_chain() {
        let data = data();
        let schedule = NoiseSchedule::new(BetaSchedule::Jsd, 0.0, 0.0, 20).unwrap();
        let oracle = BitOracle::new(|b: &[bool], t| data.predict(b, schedule.alpha_cumprod(t)), &Device::flex());
        const N: usize = 20_000;
        for timesteps in [(0..20).rev().collect::<Vec<_>>(), vec![19, 12, 5, 0]] {
            let noise = Images::new([N, 1, 3, 1], vec![0.0; 3 * N]);
            let request = |batch_size| Request { seed: 3, first_image: 0, noise: &noise, batch_size, shared: None };
            let steps = BitSteps { schedule: &schedule, timesteps: &timesteps };
            let images = sample_bits(&oracle, steps, &request(N), |_| true).unwrap();
            assert_eq!(images, sample_bits(&oracle, steps, &request(777), |_| true).unwrap());
            let mut counts = [0.0; 8];
            for image in images.each() {
                let number: usize = bits_of(image).iter().enumerate().map(|(i, &bit)| usize::from(bit) << i).sum();
                counts[number] += 1.0 / N as f64;
            }
            let sub_chain = schedule.respace(&timesteps).unwrap();
            let chain = BinomialChain::new(&sub_chain);
            let law = generated(3, timesteps.len(), |b, t| {
                let predictions = data.predict(b, sub_chain.alpha_cumprod(t));
                b.iter().zip(predictions).map(|(&bit, p)| chain.reverse(t, bit, p)).collect()
            });
            for (count, p) in counts.iter().zip(law.unwrap()) {
                assert!((count - p).abs() < 4.0 * (p * (1.0 - p) / N as f64).sqrt() + 1e-9, "{counts:?}");
            }
        }
    }
}
