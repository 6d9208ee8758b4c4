//! Counter-based random numbers: every random number of the program is a pure function of
//! `(seed, stream, index, step, position)`.
//!
//! A [`Random`] holds a seed and no other state. A number is addressed by its purpose ([`Stream`]), the image or
//! parameter that it belongs to (`index`) and the time of the draw (`step`). A resumed run therefore needs no saved
//! generator state, and an image does not depend on the batch size, the number of threads or earlier draws.
//!
//! ```
//! use ddpm_random::{Random, Stream};
//!
//! let random = Random::new(42);
//! let (image, step) = (7, 1000);
//! let t = random.below(Stream::Timestep, image, step, 1000);
//! let mut noise = vec![0.0; 3 * 32 * 32];
//! random.normals(Stream::Noise, image, step, &mut noise);
//! assert!(t < 1000);
//! ```
//!
//! # The numbers are part of the format
//! The key is the seed as two 32-bit words, low word first. The counter is
//! `[index bits 0–31, index bits 32–47 | stream << 16, step, block]`. Each block yields the four words of Philox4x32-10
//! (Salmon et al. 2011). Word `p` of a draw is word `p % 4` of block `p / 4`, so a shorter draw is a prefix of a longer
//! one. All arithmetic is on integers or uses `+ − × ÷ √` of IEEE 754, so the bits are the same on every platform and
//! instruction set.
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod normal;
mod philox;
mod shuffle;

use philox::{LANES, Words, blocks, philox4x32_10};

/// The purpose of a random number. The numeric values are part of the format and never change.
#[repr(u16)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Initial parameters; `index` is the parameter's number.
    Parameters = 1,
    /// The order of the training images; `step` is the epoch (see [`Random::shuffled`]).
    Shuffle = 2,
    /// Horizontal flips of training images.
    Flip = 3,
    /// The timestep t of a training image.
    Timestep = 4,
    /// The noise ε of a training image.
    Noise = 5,
    /// Dropout in the network.
    Dropout = 6,
    /// Dropped labels of training images (classifier-free guidance).
    LabelDropout = 7,
    /// The initial noise x_T of a sample; `index` is the sample's number.
    InitialNoise = 8,
    /// The noise that a sampler adds; `index` is the sample's number, `step` the sampling step.
    SamplerNoise = 9,
    /// Noise and timesteps of an evaluation (bits/dim, denoising error).
    Evaluate = 10,
    /// Crop positions of training images.
    Crop = 11,
    /// Subsets and bootstrap resampling in metrics (such as the blocks of KID).
    Subset = 12,
    /// Labels drawn for samples.
    Label = 13,
    /// Noise in inpainting: for the known part and for resampling steps; `index` is the image's number.
    Inpaint = 14,
    /// Dequantization noise of 8-bit pixels; `index` is the image's number.
    Dequantize = 15,
    /// Probe vectors of a stochastic trace estimate; `index` is the image's number, `step` the vector's.
    Trace = 16,
    /// Whether a training step gives the network its prediction of x_0 (self-conditioning).
    SelfCondition = 17,
    /// Which augmentations a training image has, and their angles.
    Augment = 18,
    /// The sizes of a training image's augmentations.
    AugmentSize = 19,
    /// The offset of the noise ε of a training image, one number for each channel.
    OffsetNoise = 20,
    /// The place of a point of a built-in set; `index` is the point's number, `step` 0 for training points, 1 for held-out ones.
    Points = 30,
    /// The noise of such a point, addressed alike.
    PointNoise = 31,
}

/// A seed: the source of every random number of a run.
///
/// The methods take the address of a draw: a [`Stream`], an `index` < 2⁴⁸ (image, sample, parameter) and a `step` < 2³²
/// (training step, sampling step, epoch). They panic if either is out of range. A draw has up to 2³⁴ words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Random {
    seed: u64,
}

impl Random {
    /// Creates the source for `seed`. Sources with different seeds are independent.
    pub const fn new(seed: u64) -> Self {
        Random { seed }
    }

    /// Fills `out` with random 32-bit words.
    pub fn bits(&self, stream: Stream, index: u64, step: u64, out: &mut [u32]) {
        self.fill(stream, index, step, out, interleave);
    }

    /// Fills `out` with uniform numbers in `[0, 1)`: multiples of 2⁻²⁴, one word each.
    pub fn uniforms(&self, stream: Stream, index: u64, step: u64, out: &mut [f32]) {
        self.fill(stream, index, step, out, |words| {
            interleave(words).map(|word| (word >> 8) as f32 * (1.0 / 16_777_216.0))
        });
    }

    /// Fills `out` with uniform numbers in `[0, 1)`: multiples of 2⁻⁵³, two words each, low word first.
    pub fn uniforms_f64(&self, stream: Stream, index: u64, step: u64, out: &mut [f64]) {
        self.fill(stream, index, step, out, |words| {
            let word = interleave(words);
            std::array::from_fn::<f64, { 2 * LANES }, _>(|i| to_unit_f64(word[2 * i], word[2 * i + 1]))
        });
    }

    /// Returns one uniform number in `[0, 1)` with 53 bits: the first of [`uniforms_f64`](Self::uniforms_f64).
    pub fn uniform(&self, stream: Stream, index: u64, step: u64) -> f64 {
        let [low, high, ..] = self.block(stream, index, step, 0);
        to_unit_f64(low, high)
    }

    /// Returns a uniform integer in `0..n` (0 if `n` is 0), by multiplying 64 bits by `n` and shifting.
    ///
    /// The probability of a value differs from 1/n by less than 2⁻⁶⁴.
    pub fn below(&self, stream: Stream, index: u64, step: u64, n: u64) -> u64 {
        let [low, high, ..] = self.block(stream, index, step, 0);
        multiply_shift(low, high, n)
    }

    /// Fills `out` with standard normals by the Box–Muller transform: two words make two normals, all within ±6.77.
    ///
    /// The error of a normal, relative to the radius of its pair, is below 4e-7.
    pub fn normals(&self, stream: Stream, index: u64, step: u64, out: &mut [f32]) {
        self.fill(stream, index, step, out, |[w0, w1, w2, w3]| {
            let mut normals = [[0.0; LANES]; 4];
            for l in 0..LANES {
                [normals[0][l], normals[1][l]] = normal::box_muller(w0[l], w1[l]);
                [normals[2][l], normals[3][l]] = normal::box_muller(w2[l], w3[l]);
            }
            interleave(&normals)
        });
    }

    /// Returns the mask of a dropout with probability `p`.
    ///
    /// `p` is clamped to `[0, 1]` and rounded to a multiple of 1/65536.
    pub fn dropout(&self, stream: Stream, index: u64, step: u64, p: f32) -> DropoutMask {
        let dropped = (p.clamp(0.0, 1.0) * 65536.0).round() as u32;
        DropoutMask { counter: counter(stream, index, step), key: self.key(), dropped }
    }

    fn key(&self) -> [u32; 2] {
        [self.seed as u32, (self.seed >> 32) as u32]
    }

    fn block(&self, stream: Stream, index: u64, step: u64, block: u32) -> [u32; 4] {
        let [c0, c1, c2] = counter(stream, index, step);
        philox4x32_10([c0, c1, c2, block], self.key())
    }

    /// Fills `out` with the values that `convert` computes from [`LANES`] blocks at a time.
    #[inline(always)]
    fn fill<T: Copy, const N: usize>(
        &self,
        stream: Stream,
        index: u64,
        step: u64,
        out: &mut [T],
        convert: impl Fn(&Words) -> [T; N],
    ) {
        let counter = counter(stream, index, step);
        let mut block = 0u32;
        for out in out.chunks_mut(N) {
            let values = convert(&blocks(counter, block, self.key()));
            match <&mut [T; N]>::try_from(&mut *out) {
                Ok(whole) => *whole = values,
                Err(_) => out.copy_from_slice(&values[..out.len()]),
            }
            block = block.wrapping_add(LANES as u32);
        }
    }
}

/// The mask of a dropout: zeroes each element with probability p and scales the others by 1/(1 − p).
///
/// The factor is computed from the rounded p, so the mean is preserved exactly. The mask is a pure function of the
/// draw's address; it is computed while it is applied and never stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropoutMask {
    counter: [u32; 3],
    key: [u32; 2],
    /// p in units of 1/65536.
    dropped: u32,
}

impl DropoutMask {
    /// Multiplies `x` by the mask, starting with its block number `first_block`. Applied to the gradient of the output,
    /// it computes the gradient of the input.
    ///
    /// Element `e` uses 16 bits of block `first_block + e/8`; each word serves two elements, its low half first. A
    /// slice may therefore be split at multiples of 8 and the parts processed in any order. The layers of a network use
    /// consecutive ranges of blocks.
    pub fn apply(&self, first_block: u32, x: &mut [f32]) {
        let DropoutMask { counter, key, dropped } = *self;
        if dropped == 0 {
            return;
        }
        let factor = if dropped == 65536 { 0.0 } else { 65536.0 / (65536 - dropped) as f32 };
        let factor_of = |half: u32| if half < dropped { 0.0 } else { factor };
        let mut block = first_block;
        for x in x.chunks_mut(8 * LANES) {
            let words = interleave(&blocks(counter, block, key));
            let mut factors = [0.0; 8 * LANES];
            for (pair, word) in factors.chunks_exact_mut(2).zip(words) {
                pair[0] = factor_of(word & 0xffff);
                pair[1] = factor_of(word >> 16);
            }
            for (x, factor) in x.iter_mut().zip(factors) {
                *x *= factor;
            }
            block = block.wrapping_add(LANES as u32);
        }
    }
}

fn counter(stream: Stream, index: u64, step: u64) -> [u32; 3] {
    assert!(index < 1 << 48, "random: index is {index}; expected at most 48 bits");
    assert!(step < 1 << 32, "random: step is {step}; expected at most 32 bits");
    [index as u32, (index >> 32) as u32 | u32::from(stream as u16) << 16, step as u32]
}

/// Returns the words in block order: element `4 l + w` is word `w` of block `l`.
#[inline(always)]
fn interleave<T: Copy + Default>(words: &[[T; LANES]; 4]) -> [T; 4 * LANES] {
    let mut out = [T::default(); 4 * LANES];
    for l in 0..LANES {
        for w in 0..4 {
            out[4 * l + w] = words[w][l];
        }
    }
    out
}

fn to_unit_f64(low: u32, high: u32) -> f64 {
    (join_words(low, high) >> 11) as f64 * (1.0 / 9_007_199_254_740_992.0)
}

/// Returns `⌊bits · n / 2⁶⁴⌋`.
fn multiply_shift(low: u32, high: u32, n: u64) -> u64 {
    ((u128::from(join_words(low, high)) * u128::from(n)) >> 64) as u64
}

fn join_words(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}
