//! The network of denoising diffusion probabilistic models: diffusers' `UNet2DModel` on Burn, with activations in
//! N,H,W,C.
//!
//! Other networks have the parts and names of their PyTorch code: [`lucidrains`], [`edm`] and [`hmdolatabadi`]. [`mlp`] is a
//! network for points.
//!
//! [`UnetConfig`] has the keys of diffusers, [`Unet`] its parameter names. On the CPU back end, the operations are the
//! fused kernels of the crate `kernels`; all other back ends run the same definitions as ordinary Burn operations (see
//! [`ops`]).
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use ddpm_unet::{UnetConfig, Unet};
//! let config = UnetConfig { norm_num_groups: 8, ..UnetConfig::ddpm([16, 16, 1], &[16, 32], 1, &[8]) };
//! let device = Device::flex();
//! let network = Unet::new(&config, 0, &device)?;
//! let epsilon = network.forward(Tensor::zeros([2, 16, 16, 1], &device), &[0.0, 999.0], None, None);
//! assert_eq!(epsilon.dims(), [2, 16, 16, 1]);
//! # Ok::<(), ddpm_unet::Error>(())
//! ```

mod activations;
mod blocks;
mod checkpointing;
mod config;
pub mod edm;
mod error;
pub mod hmdolatabadi;
mod json;
pub mod layers;
pub mod lucidrains;
pub mod mlp;
mod model;
pub mod ops;
mod parameters;
mod sample_size;
mod stages;
mod time_embedding;

pub use activations::Activations;
pub use blocks::Dropout;
pub use checkpointing::UnetInputs;
pub use config::{
    ClassEmbedType, DownBlockType, MidBlockType, ResampleType, ResnetTimeScaleShift, TimeEmbeddingType, UnetConfig,
    UpBlockType,
};
pub use error::Error;
pub use model::Unet;
pub use parameters::{FlatParameter, Parameters, count_by_part};
pub use sample_size::SampleSize;
pub use time_embedding::Labels;
