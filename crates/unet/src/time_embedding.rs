//! The embedding of timesteps and class labels, which every residual block receives.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};

use crate::config::{ClassEmbedType, TimeEmbeddingType, UnetConfig};
use crate::layers::{Embedding, FourierFrequencies, INIT_SCALE, Init, Linear};
use crate::ops;

/// Two linear layers with SiLU between them.
#[derive(Module, Debug)]
pub struct TimestepEmbedding {
    linear_1: Linear,
    linear_2: Linear,
}

impl TimestepEmbedding {
    pub(crate) fn new(init: &mut Init, c_in: usize, width: usize) -> Self {
        Self {
            linear_1: Linear::new(init, c_in, width, INIT_SCALE),
            linear_2: Linear::new(init, width, width, INIT_SCALE),
        }
    }

    pub(crate) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.linear_2.forward(ops::silu(self.linear_1.forward(x)))
    }
}

/// The embedding of a class label.
#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "a network has a handful of them")]
pub enum ClassEmbedding {
    /// A table with one row per class.
    Table(Embedding),
    /// Layers that embed the label like a timestep.
    Timestep(TimestepEmbedding),
}

/// The parameters of a timestep's projection, if it has any.
#[derive(Module, Debug)]
pub enum TimeProjection {
    /// Random frequencies.
    Fourier(FourierFrequencies),
    /// A table with one row per timestep.
    Learned(Embedding),
}

/// The class labels of a batch.
#[derive(Clone, Copy, Debug)]
pub enum Labels<'a> {
    /// A class number for each image.
    Classes(&'a [u32]),
    /// Vectors of the width of the time embedding, concatenated (`class_embed_type` identity).
    Vectors(&'a [f32]),
}

/// The embedding of timesteps and labels as vectors `[N, time_embed_dim]`.
#[derive(Module, Debug)]
pub struct TimeEmbedding {
    time_proj: Option<TimeProjection>,
    time_embedding: TimestepEmbedding,
    class_embedding: Option<ClassEmbedding>,
    #[module(skip)]
    positional: Positional,
    width: usize,
}

/// The options of a sinusoidal embedding.
#[derive(Clone, Copy, Debug)]
pub struct Positional {
    /// Width of the embedding.
    pub width: usize,
    /// Shift in the divisor (width/2 − freq_shift) of the exponents.
    pub freq_shift: f64,
    /// Puts cosines before sines.
    pub flip_sin_to_cos: bool,
}

impl Positional {
    /// Computes sines and cosines of t·10000^(−i/(width/2 − freq_shift)) as rows `[N,width]`.
    ///
    /// The f32 operations are in the order of Ho et al.'s code, like in all later implementations. Near t = 1000,
    /// another order would change the arguments by 6e-5.
    pub fn embed(&self, timesteps: &[f32]) -> Vec<f32> {
        let half = self.width / 2;
        // If the width is odd, the last column is zero.
        let divisor = (half as f64 - self.freq_shift) as f32;
        let frequencies: Vec<f32> = (0..half)
            .map(|i| {
                let exponent = -(10000f64.ln() as f32) * i as f32 / divisor;
                f64::from(exponent).exp() as f32
            })
            .collect();
        let arguments = timesteps.iter().flat_map(|&t| frequencies.iter().map(move |f| t * f));
        let mut rows = sines_and_cosines(arguments, half, self.flip_sin_to_cos);
        if self.width % 2 == 1 {
            rows = rows.chunks(2 * half).flat_map(|row| row.iter().copied().chain([0.0])).collect();
        }
        rows
    }
}

/// Computes sines and cosines of t·θ^(−i/(dim/2 − 1)) as rows `[N,dim]`, in the order of f32 operations of
/// denoising-diffusion-pytorch and hmdolatabadi/denoising_diffusion.
pub(crate) fn sinusoidal(timesteps: &[f32], dim: usize, theta: f64) -> Vec<f32> {
    let half = dim / 2;
    let slope = (theta.ln() / (half as f64 - 1.0)) as f32;
    let frequencies: Vec<f32> = (0..half).map(|i| f64::from(i as f32 * -slope).exp() as f32).collect();
    let mut rows = Vec::with_capacity(timesteps.len() * dim);
    for &t in timesteps {
        let arguments = || frequencies.iter().map(move |f| f64::from(t * f));
        rows.extend(arguments().map(|a| a.sin() as f32).chain(arguments().map(|a| a.cos() as f32)));
    }
    rows
}

/// Returns rows of `half` sines and `half` cosines of the arguments, cosines first if `cosines_first`.
pub(crate) fn sines_and_cosines(arguments: impl Iterator<Item = f32>, half: usize, cosines_first: bool) -> Vec<f32> {
    let arguments: Vec<f64> = arguments.map(f64::from).collect();
    let mut rows = Vec::with_capacity(2 * arguments.len());
    for row in arguments.chunks(half) {
        let sines = row.iter().map(|a| a.sin() as f32);
        let cosines = row.iter().map(|a| a.cos() as f32);
        if cosines_first {
            rows.extend(cosines.chain(sines));
        } else {
            rows.extend(sines.chain(cosines));
        }
    }
    rows
}

impl TimeEmbedding {
    pub(crate) fn new(init: &mut Init, config: &UnetConfig) -> Self {
        let (c_in, width) = (config.time_proj_dim(), config.time_embed_dim());
        Self {
            time_proj: match config.time_embedding_type {
                TimeEmbeddingType::Positional => None,
                TimeEmbeddingType::Fourier => {
                    Some(TimeProjection::Fourier(FourierFrequencies::new(init, config.block_out_channels[0])))
                }
                TimeEmbeddingType::Learned => {
                    let rows = config.num_train_timesteps.unwrap_or(1);
                    Some(TimeProjection::Learned(Embedding::new(init, rows, config.block_out_channels[0])))
                }
            },
            time_embedding: TimestepEmbedding::new(init, c_in, width),
            class_embedding: match (config.class_embed_type, config.num_class_embeds) {
                (Some(ClassEmbedType::Timestep), _) => {
                    Some(ClassEmbedding::Timestep(TimestepEmbedding::new(init, c_in, width)))
                }
                (Some(ClassEmbedType::Identity), _) | (None, None) => None,
                (None, Some(classes)) => Some(ClassEmbedding::Table(Embedding::new(init, classes, width))),
            },
            positional: Positional {
                width: config.block_out_channels[0],
                freq_shift: config.freq_shift,
                flip_sin_to_cos: config.flip_sin_to_cos,
            },
            width,
        }
    }

    /// Computes SiLU of the embedding. Every residual block starts with this SiLU, so it is applied once here.
    pub(crate) fn forward(&self, timesteps: &[f32], labels: Option<Labels>, device: &Device) -> Tensor<2> {
        let embedding = self.time_embedding.forward(self.project(timesteps, device));
        let class = match (&self.class_embedding, labels) {
            (_, None) => None,
            (Some(ClassEmbedding::Table(table)), Some(Labels::Classes(labels))) => Some(table.forward(labels)),
            (Some(ClassEmbedding::Timestep(layers)), Some(Labels::Classes(labels))) => {
                let labels: Vec<f32> = labels.iter().map(|&l| l as f32).collect();
                Some(layers.forward(self.project(&labels, device)))
            }
            (None, Some(Labels::Vectors(vectors))) => {
                let data = TensorData::new(vectors.to_vec(), [timesteps.len(), self.width]);
                Some(Tensor::from_data(data, device))
            }
            (_, Some(labels)) => unreachable!("callers check labels; this network takes no {labels:?}"),
        };
        ops::silu(match class {
            Some(class) => embedding + class,
            None => embedding,
        })
    }

    fn project(&self, timesteps: &[f32], device: &Device) -> Tensor<2> {
        let rows = match &self.time_proj {
            None => self.positional.embed(timesteps),
            Some(TimeProjection::Learned(table)) => {
                let rows: Vec<u32> = timesteps.iter().map(|&t| t as u32).collect();
                return table.forward(&rows);
            }
            Some(TimeProjection::Fourier(frequencies)) => {
                let frequencies = frequencies.values();
                let tau = 2.0 * std::f32::consts::PI;
                let arguments = timesteps
                    .iter()
                    .flat_map(|t| frequencies.iter().map(move |f| t.ln() * f * tau))
                    .collect::<Vec<_>>();
                sines_and_cosines(arguments.into_iter(), frequencies.len(), false)
            }
        };
        let width = rows.len() / timesteps.len();
        Tensor::from_data(TensorData::new(rows, [timesteps.len(), width]), device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positional_embedding_matches_the_papers() {
        // Ho et al.'s get_timestep_embedding: half = 2, frequencies 1 and 10000^-1.
        let positional = Positional { width: 4, freq_shift: 1.0, flip_sin_to_cos: false };
        let [t, f] = [7.0f64, 1e-4];
        let expected = [t.sin(), (t * f).sin(), t.cos(), (t * f).cos()];
        for (got, expected) in positional.embed(&[7.0]).into_iter().zip(expected) {
            assert!((f64::from(got) - expected).abs() < 1e-7, "found {got}; expected {expected}");
        }
        // OpenAI's: cosines first, frequencies 1 and 10000^-½.
        let positional = Positional { width: 4, freq_shift: 0.0, flip_sin_to_cos: true };
        let expected = [t.cos(), (t * 0.01).cos(), t.sin(), (t * 0.01).sin()];
        for (got, expected) in positional.embed(&[7.0]).into_iter().zip(expected) {
            assert!((f64::from(got) - expected).abs() < 1e-7, "found {got}; expected {expected}");
        }
    }
}
