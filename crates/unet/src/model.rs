//! The complete network.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};

use crate::blocks::{BlockCounter, DownBlock, Dropout, Layer, MidBlock, UpBlock};
use crate::checkpointing::{UnetInputs, checkpointed_gradients};
use crate::config::{TimeEmbeddingType, UnetConfig};
use crate::error::Error;
use crate::layers::{Conv2d, GroupNorm, INIT_SCALE, Init, ZERO_INIT_SCALE};
use crate::ops::{Fusion, Geometry};
use crate::parameters::Parameters;
use crate::stages::{Forward, Pass, Stage, StageList};
use crate::time_embedding::{Labels, TimeEmbedding};

/// The U-Net of denoising diffusion models: diffusers' `UNet2DModel`. With [`UnetConfig::ddpm`] it is the network of Ho
/// et al. (2020), appendix B. Activations are in N,H,W,C.
#[derive(Module, Debug)]
pub struct Unet {
    pub(crate) time: TimeEmbedding,
    pub(crate) conv_in: Conv2d,
    pub(crate) down_blocks: Vec<DownBlock>,
    pub(crate) mid_block: Option<MidBlock>,
    pub(crate) up_blocks: Vec<UpBlock>,
    pub(crate) conv_norm_out: GroupNorm,
    pub(crate) conv_out: Conv2d,
    #[module(skip)]
    config: UnetConfig,
}

impl Parameters for Unet {}

impl Unet {
    /// Creates a network with Ho et al.'s initialization, drawn from `seed`.
    ///
    /// # Errors
    /// If the configuration is invalid.
    pub fn new(config: &UnetConfig, seed: u64, device: &Device) -> Result<Self, Error> {
        config.validate()?;
        let init = &mut Init::new(seed, device);
        let counter = &mut BlockCounter::default();
        let widths = &config.block_out_channels;
        let same = Geometry::same(3);

        let time = TimeEmbedding::new(init, config);
        let conv_in = Conv2d::new(init, [3, 3, config.in_channels, widths[0]], same, INIT_SCALE);
        let (mut skips, mut channels) = (vec![widths[0]], widths[0]);
        let mut down_blocks = Vec::new();
        for (level, &c_out) in widths.iter().enumerate() {
            down_blocks.push(DownBlock::new(init, config, counter, level, channels));
            channels = c_out;
            let downsampled = usize::from(level + 1 < widths.len());
            skips.extend(std::iter::repeat_n(channels, config.layers_per_block + downsampled));
        }
        let mid_block = config.mid_block_type.map(|_| MidBlock::new(init, config, counter, channels));
        let mut up_blocks = Vec::new();
        for (index, &c_out) in widths.iter().rev().enumerate() {
            up_blocks.push(UpBlock::new(init, config, counter, index, channels, &mut skips));
            channels = c_out;
        }
        Ok(Self {
            time,
            conv_in,
            down_blocks,
            mid_block,
            up_blocks,
            conv_norm_out: GroupNorm::new(init, channels, config.norm_num_groups, config.norm_eps),
            conv_out: Conv2d::new(init, [3, 3, channels, config.out_channels], same, ZERO_INIT_SCALE),
            config: config.clone(),
        })
    }

    /// Returns the configuration of the network.
    pub fn config(&self) -> &UnetConfig {
        &self.config
    }

    /// Computes the output of the network for noisy images.
    ///
    /// x is `[N,H,W,in_channels]`, the result `[N,H,W,out_channels]`; `timesteps` and `labels` have N entries. Dropout
    /// is applied only if `dropout` is given, as in training.
    ///
    /// # Panics
    /// If shapes do not match. Check sizes with [`UnetConfig::check_size`], and labels against the configuration,
    /// first.
    pub fn forward(
        &self,
        x: Tensor<4>,
        timesteps: &[f32],
        labels: Option<Labels>,
        dropout: Option<&Dropout>,
    ) -> Tensor<4> {
        self.output(self.begin(x, timesteps, labels, dropout).run(), timesteps)
    }

    /// Computes the gradients of `loss(self.forward(…))` with respect to the parameters, in the order of
    /// [`Parameters::flat_parameters`], with gradient checkpointing.
    ///
    /// They equal those of an ordinary backward pass. Dropout uses the same masks in both forward passes.
    ///
    /// # Panics
    /// As [`Unet::forward`], and if the network is not on an autodiff device.
    pub fn checkpointed_gradients(
        &self,
        inputs: UnetInputs,
        loss: impl FnOnce(Tensor<4>) -> Tensor<1>,
    ) -> Vec<Option<Tensor<1>>> {
        let UnetInputs { x, timesteps, condition, dropout, observer } = inputs;
        let forward = self.begin(x, timesteps, condition, dropout);
        checkpointed_gradients(self, forward, observer, |x| loss(self.output(x, timesteps)))
    }

    /// Returns the stages from the input image to the last activation.
    fn stages(&self) -> Vec<Stage<Layer<'_>>> {
        let mut list = StageList::new();
        list.then(Layer::Conv(&self.conv_in), None);
        list.push_skip();
        self.down_blocks.iter().for_each(|block| block.add_stages(&mut list));
        self.mid_block.iter().for_each(|block| block.add_stages(&mut list));
        self.up_blocks.iter().for_each(|block| block.add_stages(&mut list));
        list.finish()
    }

    fn begin<'a>(
        &'a self,
        x: Tensor<4>,
        timesteps: &[f32],
        labels: Option<Labels>,
        dropout: Option<&'a Dropout>,
    ) -> Forward<'a, Layer<'a>> {
        assert_eq!(x.dims()[0], timesteps.len(), "expected one timestep per image");
        let embedding = self.time.forward(timesteps, labels, &x.device());
        Forward { x: self.centered(x), stages: self.stages(), pass: Pass { embedding, dropout } }
    }

    fn centered(&self, x: Tensor<4>) -> Tensor<4> {
        if self.config.center_input_sample { x.mul_scalar(2.0).sub_scalar(1.0) } else { x }
    }

    /// Computes the output from the last activation.
    fn output(&self, x: Tensor<4>, timesteps: &[f32]) -> Tensor<4> {
        let device = x.device();
        let norm = Some(self.conv_norm_out.with_silu(None));
        let y = self.conv_out.forward_fused(x, Fusion { norm, ..Fusion::default() });
        match self.config.time_embedding_type {
            TimeEmbeddingType::Positional | TimeEmbeddingType::Learned => y,
            // The score is the output of the network divided by σ (Song et al. 2021); diffusers divides by the
            // timestep.
            TimeEmbeddingType::Fourier => {
                let sigmas = TensorData::new(timesteps.to_vec(), [timesteps.len(), 1, 1, 1]);
                y / Tensor::from_data(sigmas, &device)
            }
        }
    }
}
