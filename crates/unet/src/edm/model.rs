//! The complete network.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};

use super::block::{EdmBlock, conv, group_norm, linear};
use super::config::{EdmClass, EdmConfig, EmbeddingType};
use super::plan::{Layers, Piece, Role, plan};
use super::stages::{EdmLayers, stages};
use crate::blocks::Dropout;
use crate::checkpointing::{UnetInputs, checkpointed_gradients};
use crate::error::Error;
use crate::layers::{Conv2d, GroupNorm, Init, Linear, ZERO_INIT_SCALE, normal_parameter};
use crate::ops::{self, Geometry};
use crate::parameters::Parameters;
use crate::stages::{Forward, Pass};
use crate::time_embedding::{Positional, sines_and_cosines};

/// The layers of a [`Part`] with parameters.
#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "a network has a handful of them")]
pub enum PartLayers {
    /// A convolution.
    Conv(Conv2d),
    /// A normalization.
    Norm(GroupNorm),
    /// A residual block.
    Block(EdmBlock),
}

/// A part of the network with a name of its own.
#[derive(Module, Debug)]
pub struct Part {
    pub(super) layers: Option<PartLayers>,
    #[module(skip)]
    pub(super) role: Role,
    #[module(skip)]
    name: String,
}

impl Part {
    fn new(init: &mut Init, config: &EdmConfig, piece: Piece, number: usize) -> Self {
        let Piece { name, role, layers } = piece;
        let layers = match layers {
            Layers::Conv { c_in, c_out, .. } if role == Role::AuxResidual => {
                // The filter of the change of size comes after this convolution, so it computes its margin too.
                let margin = 1 + (config.resample_filter.len() - 1) / 2;
                let geometry = Geometry { stride: 1, before: margin, after: margin };
                Some(PartLayers::Conv(Conv2d::new(init, [3, 3, c_in, c_out], geometry, 1.0)))
            }
            Layers::Conv { kernel, c_in, c_out } => {
                let scale = if role == Role::Output { ZERO_INIT_SCALE } else { 1.0 };
                Some(PartLayers::Conv(conv(init, config, [kernel, c_in, c_out], scale)))
            }
            Layers::Norm { channels } => Some(PartLayers::Norm(group_norm(init, config, channels))),
            Layers::Block { .. } => EdmBlock::new(init, config, layers, number).map(PartLayers::Block),
            Layers::Resize => None,
        };
        Self { layers, role, name }
    }
}

/// Random frequencies, which are not trained.
#[derive(Module, Debug)]
pub struct NoiseFrequencies {
    freqs: Param<Tensor<1>>,
}

/// The labels of a batch. The default has none.
#[derive(Clone, Copy, Debug, Default)]
pub struct EdmLabels<'a> {
    /// The class of each image. A class of `label_dim` means no class.
    pub classes: Option<&'a [u32]>,
    /// `augment_dim` numbers for each image, which describe how it was augmented.
    pub augment: Option<&'a [f32]>,
}

/// The network `SongUNet` or `DhariwalUNet` of NVlabs/edm. Activations are in N,H,W,C.
#[derive(Module, Debug)]
pub struct EdmUnet {
    map_noise: Option<NoiseFrequencies>,
    map_label: Option<Linear>,
    /// The layer for vectors that describe how images were augmented. Without them, it has no effect and no gradient.
    map_augment: Option<Linear>,
    map_layer0: Linear,
    map_layer1: Linear,
    enc: Vec<Part>,
    dec: Vec<Part>,
    #[module(skip)]
    config: EdmConfig,
}

impl Parameters for EdmUnet {
    fn name_of(&self, path: String) -> String {
        let words: Vec<&str> = path.split('.').collect();
        let parts = match words[0] {
            "enc" => &self.enc,
            "dec" => &self.dec,
            _ => return path,
        };
        match words[1].parse::<usize>().ok().and_then(|index| parts.get(index)) {
            // After the index comes the field `layers`.
            Some(part) => [&[&*part.name], &words[3..]].concat().join("."),
            None => path,
        }
    }
}

impl EdmUnet {
    /// Creates a network with initial weights drawn from `seed`, of the original's distributions. The biases of `DhariwalUNet`
    /// are zero.
    ///
    /// # Errors
    /// If the configuration is invalid.
    pub fn new(config: &EdmConfig, seed: u64, device: &Device) -> Result<Self, Error> {
        config.validate()?;
        let init = &mut Init::new(seed, device);
        let (noise, embedding) = (config.noise_width(), config.embedding_width());
        let is_song = config.class == EdmClass::SongUnet;
        let map_noise = (config.embedding_type == EmbeddingType::Fourier).then(|| {
            let freqs = normal_parameter::<1>(init, [noise / 2]);
            let freqs = freqs.map(|freqs| freqs.mul_scalar(16.0)).set_require_grad(false);
            NoiseFrequencies { freqs }
        });
        let map_label = (config.label_dim > 0).then(|| match is_song {
            true => linear(init, config, [config.label_dim, noise]),
            // Normally distributed in the original; this is uniform of the same variance, 1.
            false => {
                let fans = (config.label_dim + embedding) as f64 / 2.0;
                Linear::new(init, config.label_dim, embedding, fans).without_bias()
            }
        });
        let map_augment = (config.augment_dim > 0).then(|| {
            let scale = if is_song { 1.0 } else { 0.0 };
            Linear::new(init, config.augment_dim, noise, scale).without_bias()
        });
        let map_layer0 = linear(init, config, [noise, embedding]);
        let map_layer1 = linear(init, config, [embedding, embedding]);
        let pieces = plan(config);
        let mut number = 0;
        let mut parts = |pieces: Vec<Piece>| -> Vec<Part> {
            let part = |piece: Piece| {
                number += usize::from(matches!(piece.layers, Layers::Block { .. }));
                Part::new(init, config, piece, number)
            };
            pieces.into_iter().map(part).collect()
        };
        let (enc, dec) = (parts(pieces.encoder), parts(pieces.decoder));
        Ok(Self { map_noise, map_label, map_augment, map_layer0, map_layer1, enc, dec, config: config.clone() })
    }

    /// Returns the configuration of the network.
    pub fn config(&self) -> &EdmConfig {
        &self.config
    }

    /// Computes the output of the network for noisy images.
    ///
    /// x is `[N,H,W,in_channels]`, the result is `[N,H,W,out_channels]`. `noise_labels` has the preconditioner's c_noise for
    /// each image. Dropout is applied only if `dropout` is given, as in training.
    ///
    /// # Panics
    /// If shapes do not match. Check sizes with [`EdmConfig::check_size`] first.
    pub fn forward(
        &self,
        x: Tensor<4>,
        noise_labels: &[f32],
        labels: EdmLabels,
        dropout: Option<&Dropout>,
    ) -> Tensor<4> {
        self.begin(x, noise_labels, labels, dropout).run()
    }

    /// Computes the gradients of `loss(self.forward(…))`, as [`Unet::checkpointed_gradients`](crate::Unet::checkpointed_gradients).
    ///
    /// # Panics
    /// As [`EdmUnet::forward`], and if the network is not on an autodiff device.
    pub fn checkpointed_gradients(
        &self,
        inputs: UnetInputs<EdmLabels>,
        loss: impl FnOnce(Tensor<4>) -> Tensor<1>,
    ) -> Vec<Option<Tensor<1>>> {
        let UnetInputs { x, timesteps, condition, dropout, observer } = inputs;
        checkpointed_gradients(self, self.begin(x, timesteps, condition, dropout), observer, loss)
    }

    fn begin<'a>(
        &'a self,
        x: Tensor<4>,
        noise_labels: &[f32],
        labels: EdmLabels,
        dropout: Option<&'a Dropout>,
    ) -> Forward<'a, EdmLayers<'a>> {
        assert_eq!(x.dims()[0], noise_labels.len(), "expected one noise label per image");
        let embedding = self.embedding(noise_labels, labels, &x.device());
        Forward { x, stages: stages(&self.enc, &self.dec, &self.config), pass: Pass { embedding, dropout } }
    }

    /// Computes the embedding of noise levels and classes, `[N,E]`.
    fn embedding(&self, noise_labels: &[f32], labels: EdmLabels, device: &Device) -> Tensor<2> {
        let EdmLabels { classes, augment } = labels;
        let is_song = self.config.class == EdmClass::SongUnet;
        let width = self.config.noise_width();
        let rows = match &self.map_noise {
            // Sines first in `SongUNet`, cosines first in `DhariwalUNet`.
            None => {
                let freq_shift = if is_song { 1.0 } else { 0.0 };
                Positional { width, freq_shift, flip_sin_to_cos: !is_song }.embed(noise_labels)
            }
            Some(NoiseFrequencies { freqs }) => {
                let freqs: Vec<f32> =
                    freqs.val().into_data().iter::<f32>().map(|f| std::f32::consts::TAU * f).collect();
                let arguments = noise_labels.iter().flat_map(|t| freqs.iter().map(move |f| t * f));
                sines_and_cosines(arguments, width / 2, false)
            }
        };
        let mut embedding = Tensor::from_data(TensorData::new(rows, [noise_labels.len(), width]), device);
        if let (Some(layer), true) = (&self.map_label, is_song) {
            embedding = embedding + layer.forward(self.one_hot(noise_labels.len(), classes, device));
        }
        if let (Some(layer), Some(augment)) = (&self.map_augment, augment) {
            let vectors = TensorData::new(augment.to_vec(), [noise_labels.len(), self.config.augment_dim]);
            embedding = embedding + layer.forward(Tensor::from_data(vectors, device));
        }
        embedding = self.map_layer1.forward(ops::silu(self.map_layer0.forward(embedding)));
        if let (Some(layer), false) = (&self.map_label, is_song) {
            embedding = embedding + layer.forward(self.one_hot(noise_labels.len(), classes, device));
        }
        ops::silu(embedding)
    }

    /// Returns vectors `[N,label_dim]` with one value for the class, √label_dim in `SongUNet`, and zeros for no class.
    fn one_hot(&self, images: usize, classes: Option<&[u32]>, device: &Device) -> Tensor<2> {
        let width = self.config.label_dim;
        let value = if self.config.class == EdmClass::SongUnet { (width as f32).sqrt() } else { 1.0 };
        let mut rows = vec![0.0; images * width];
        for (row, &class) in rows.chunks_mut(width.max(1)).zip(classes.unwrap_or_default()) {
            if let Some(entry) = row.get_mut(class as usize) {
                *entry = value;
            }
        }
        Tensor::from_data(TensorData::new(rows, [images, width]), device)
    }
}
