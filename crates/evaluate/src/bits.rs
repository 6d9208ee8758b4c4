//! The variational bound of binomial chains (Sohl-Dickstein et al. 2015, §2.4), in bits per sequence.

use diffusion::{Bernoulli, BinomialChain, NoiseSchedule};
use model::bits::{BitDenoiser, bits_of, pixels_of};
use model::{Condition, Images};
use mpi::Division;
use random::{Random, Stream};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::likelihood::mean_and_error;

/// The chain whose bound is measured, and the noise that measures it.
#[derive(Clone, Debug)]
pub struct BitChain<'a> {
    /// The chain that the network was trained for.
    pub schedule: &'a NoiseSchedule,
    /// The timesteps of the chain, descending.
    pub timesteps: &'a [usize],
    /// Noise draws for each image and timestep.
    pub draws: usize,
    /// Images that go through the network at once. It does not change any number.
    pub batch_size: usize,
    /// The seed of the noise. The noise of image i and draw d at t depends on (seed, i, d, t) alone.
    pub seed: u64,
    /// The processes that divide the batches. It does not change any number either.
    pub division: Division,
}

/// The bound of a set of sequences of bits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BitLikelihood {
    /// The bound on −log₂ p(b_0) of a whole image or sequence, the mean over images.
    pub bits_per_sequence: f64,
    /// The standard error of `bits_per_sequence`, from the spread over images.
    pub standard_error: f64,
    /// `bits_per_sequence` over the number of bits.
    pub bits_per_dim: f64,
    /// KL(q(b_T | b_0) ‖ fair coins).
    pub prior: f64,
    /// Bits of a sequence, D.
    pub dims: usize,
    /// The number of images.
    pub images: usize,
    /// Noise draws for each image and timestep.
    pub draws: usize,
    /// Evaluations of the network for one image and one draw: the number of timesteps.
    pub evaluations: usize,
    /// t and the term of the bound, averaged over images and draws, from noise to data.
    pub points: Vec<(usize, f64)>,
    /// The bound of each image.
    pub each: Vec<f64>,
}

/// Measures the bound of images, whose pixels above 0 are bits of 1. `progress(done, total)` is called after each batch; return
/// `false` to cancel.
///
/// # Errors
/// If sizes or labels do not fit the denoiser, a timestep is not in the schedule, a prediction is not finite, or `progress`
/// returned `false`.
pub fn bit_likelihood(
    denoiser: &dyn BitDenoiser,
    images: &Images,
    chain: &BitChain,
    mut progress: impl FnMut(usize, usize) -> bool,
) -> Result<BitLikelihood, Error> {
    let size = images.pixels.len() / images.n.max(1);
    if size == 0 || chain.draws == 0 || chain.batch_size == 0 {
        return Err(Error::Request("images, draws and the batch size must be at least 1".into()));
    }
    denoiser.check(images.shape(), Condition::classes(images.labels.as_deref()))?;
    let sub_chain = chain.schedule.respace(chain.timesteps)?;
    let measurement = Measurement { images, bits: bits_of(&images.pixels), size, chain, sub_chain: &sub_chain };
    let steps = chain.timesteps.len();
    let (total, batch_size) = (images.n * steps * chain.draws, chain.batch_size);
    let batches = total.div_ceil(batch_size);
    let items = |batch: usize| batch * batch_size..(batch * batch_size + batch_size).min(total);
    let (mut each, mut points) = (vec![0.0; images.n], vec![0.0; steps]);
    let finished = chain.division.run(
        || format!("bits {:?} {} {batch_size} {}", chain.timesteps, chain.draws, chain.seed),
        batches,
        |batch| {
            let measured = measurement.batch(denoiser, items(batch).collect())?;
            let (before, total) = chain.division.progress(batch, batches, (batch_size, total));
            Ok::<_, Error>(progress(before + measured.len(), total).then_some(measured))
        },
        |batch, measured: Vec<f64>| {
            if measured.len() != items(batch).len() {
                return Err(Error::Request(format!("the results of batch {batch} are not those of this evaluation")));
            }
            for (item, term) in items(batch).zip(measured) {
                let (image, row) = measurement.place(item);
                if !term.is_finite() {
                    return Err(Error::NotFinite { image, timestep: chain.timesteps[row] });
                }
                each[image] += term / chain.draws as f64;
                points[row] += term / (chain.draws * images.n) as f64;
            }
            Ok(true)
        },
    )?;
    if !finished {
        return Err(Error::Stopped);
    }
    let prior = BinomialChain::new(&sub_chain).prior(size);
    each.iter_mut().for_each(|each| *each += prior);
    let (bits_per_sequence, standard_error) = mean_and_error(&each);
    Ok(BitLikelihood {
        bits_per_sequence,
        standard_error,
        bits_per_dim: bits_per_sequence / size as f64,
        prior,
        dims: size,
        images: images.n,
        draws: chain.draws,
        evaluations: steps,
        points: chain.timesteps.iter().copied().zip(points).collect(),
        each,
    })
}

/// The inputs of every batch. An item is a noisy image, with the number (image·steps + row)·draws + draw.
struct Measurement<'a> {
    images: &'a Images,
    bits: Vec<bool>,
    size: usize,
    chain: &'a BitChain<'a>,
    sub_chain: &'a NoiseSchedule,
}

impl Measurement<'_> {
    /// Returns the image of an item, and the row of its timestep.
    fn place(&self, item: usize) -> (usize, usize) {
        let per_image = self.chain.timesteps.len() * self.chain.draws;
        (item / per_image, item % per_image / self.chain.draws)
    }

    /// Returns the term of the bound of each item, in bits.
    fn batch(&self, denoiser: &dyn BitDenoiser, items: Vec<usize>) -> Result<Vec<f64>, Error> {
        let Self { images, chain, sub_chain, size, .. } = *self;
        let random = Random::new(chain.seed);
        let (trained, part) = (BinomialChain::new(chain.schedule), BinomialChain::new(sub_chain));
        let noised = |&item: &usize| {
            let ((image, row), draw) = (self.place(item), item % chain.draws);
            let mut uniforms = vec![0.0; size];
            let t = chain.timesteps[row];
            random.uniforms_f64(Stream::Evaluate, (image * chain.draws + draw) as u64, t as u64, &mut uniforms);
            trained.q_sample(t, &self.bits[image * size..][..size], &uniforms)
        };
        let b_t: Vec<Vec<bool>> = items.par_iter().map(noised).collect();
        let timesteps: Vec<usize> = items.iter().map(|&item| chain.timesteps[self.place(item).1]).collect();
        let label = |labels: &Vec<u32>| items.iter().map(|&item| labels[self.place(item).0]).collect();
        let labels: Option<Vec<u32>> = images.labels.as_ref().map(label);
        let x = Images { n: items.len(), pixels: pixels_of(&b_t.concat()), labels: None, ..*images };
        let condition = Condition::classes(labels.as_deref());
        let logits = denoiser.logits(x.tensor(&denoiser.device()), &timesteps, condition)?;
        let logits: Vec<f64> = logits.to_data().iter::<f64>().collect();
        let term = |((&item, b_t), logits): ((&usize, &Vec<bool>), &[f64])| {
            let (image, row) = self.place(item);
            let t = chain.timesteps.len() - 1 - row;
            let step = |(&bit, &logit): (&bool, &f64)| part.reverse(t, bit, Bernoulli::from_logit(logit));
            let reverse: Vec<Bernoulli> = b_t.iter().zip(logits).map(step).collect();
            Ok(part.term(t, &self.bits[image * size..][..size], b_t, &reverse)?)
        };
        items.par_iter().zip(&b_t).zip(logits.par_chunks(size)).map(term).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use diffusion::BetaSchedule;
    use diffusion::oracle::{Bits, states};
    use model::bits::BitOracle;

    /// The estimate agrees with the sum over all states, of the whole chain and of a sub-chain, within its error bar.
    #[test]
    fn the_bound_is_that_of_the_enumeration() {
        let weights = [5.0, 1.0, 0.5, 2.0, 3.0, 0.25, 1.5, 4.0];
        let data = Bits::new(weights.into_iter().zip(states(3).unwrap()).collect()).unwrap();
        let schedule = NoiseSchedule::new(BetaSchedule::SquaredcosCapV2, 0.0, 0.0, 12).unwrap();
        let predict = |b: &[bool], t: usize| -> Vec<Bernoulli> {
            let exact = data.predict(b, schedule.alpha_cumprod(t));
            exact.into_iter().map(|p| Bernoulli::from_logit(0.8 * p.logit() + 0.1)).collect()
        };
        let oracle = BitOracle::new(predict, &Device::flex());
        // Each sequence as often as it is probable: 69 quarters.
        let mut pixels = Vec::new();
        for (weight, bits) in weights.into_iter().zip(states(3).unwrap()) {
            pixels.extend(pixels_of(&bits).repeat((4.0 * weight) as usize));
        }
        let images = Images::new([pixels.len() / 3, 1, 3, 1], pixels);
        for timesteps in [(0..12).rev().collect::<Vec<_>>(), vec![11, 6, 3, 0]] {
            let measure = |batch_size| {
                let (division, draws) = (Division::default(), 400);
                let chain =
                    BitChain { schedule: &schedule, timesteps: &timesteps, draws, batch_size, seed: 1, division };
                bit_likelihood(&oracle, &images, &chain, |_, _| true).unwrap()
            };
            let found = measure(5000);
            assert_eq!(found, measure(999));
            let sub_chain = schedule.respace(&timesteps).unwrap();
            let trained = |t: usize| timesteps[timesteps.len() - 1 - t];
            let exact = data.bound(BinomialChain::new(&sub_chain), |b, t| predict(b, trained(t))).unwrap();
            println!("{} ± {}, exact {exact}", found.bits_per_sequence, found.standard_error);
            assert!((found.bits_per_sequence - exact).abs() < 0.02, "{} {exact}", found.bits_per_sequence);
            assert!(
                (found.points.iter().map(|(_, bits)| bits).sum::<f64>() + found.prior - found.bits_per_sequence).abs()
                    < 1e-9
            );
            assert!((found.bits_per_dim * 3.0 - found.bits_per_sequence).abs() < 1e-12);
        }
    }
}
