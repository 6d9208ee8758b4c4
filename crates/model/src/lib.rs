//! The interface between networks and the code that uses them.
//!
//! | module | content |
//! |---|---|
//! | [`backbone`] | [`Backbone`], a network; [`Network`], a backbone of any type |
//! | [`networks`] | [`NetworkConfig`], the configuration in a `config.json`, of a network of any class |
//! | [`denoiser`] | [`Denoiser`], a model that predicts x̂0 and ε̂; [`Process`], which converts the output of a network |
//! | [`bits`] | [`BitDenoiser`](bits::BitDenoiser), a model that predicts bits of a binomial chain |
//! | [`guidance`] | [`ClassifierFree`], a denoiser with classifier-free guidance |
//! | [`oracle`] | [`Oracle`], the exact denoiser of known data |
//! | [`images`] | [`Images`], floating-point images with labels |
//! | [`preprocessing`] | [`Preprocessing`], the image preprocessing of a model |
//! | [`sampling`] | [`Sampling`], the sampler and guidance of a model's run |
//! | [`pipeline`] | [`Pipeline`], the contents of a checkpoint folder: network, scheduler, preprocessing |
//!
//! Crates above this one name no concrete network: they sample, score and train through these types. A new network
//! implements [`Backbone`]:
//!
//! ```
//! use burn::module::Module;
//! use burn::tensor::{Device, Tensor};
//! use ddpm_model::{Backbone, Condition, Labels, Network, Process, Signature};
//! use diffusion::{Prediction, SchedulerConfig};
//! use unet::layers::{Init, Linear};
//! use unet::{Dropout, Parameters};
//!
//! /// Predicts the noise in two pixels by one linear layer.
//! #[derive(Module, Debug)]
//! struct Line {
//!     layer: Linear,
//! }
//!
//! impl Parameters for Line {}
//!
//! impl Backbone for Line {
//!     fn forward(&self, x: Tensor<4>, _t: &[f32], _condition: Condition, _dropout: Option<&Dropout>) -> Tensor<4> {
//!         let [n, height, width, channels] = x.dims();
//!         self.layer.forward(x.reshape([n, height * width * channels])).reshape([n, height, width, channels])
//!     }
//!
//!     fn signature(&self) -> Signature {
//!         Signature { size: Some([1, 2]), ..Signature::unconditional(1) }
//!     }
//!
//!     fn config(&self) -> String {
//!         r#"{ "_class_name": "Line" }"#.to_owned()
//!     }
//! }
//!
//! let device = Device::flex();
//! let network = Network::from(Line { layer: Linear::new(&mut Init::new(0, &device), 2, 2, 1.0) });
//! let denoiser = Process::new(&SchedulerConfig::default())?.denoiser(network);
//! # Ok::<(), ddpm_model::Error>(())
//! ```

pub mod backbone;
pub mod bits;
pub mod denoiser;
mod error;
pub mod guidance;
pub mod images;
pub mod memory;
pub mod networks;
pub mod oracle;
pub mod pipeline;
pub mod preprocessing;
pub mod sampling;
pub mod training_data;

pub use backbone::{Backbone, Condition, DataKind, LabelKind, Network, Signature};
pub use denoiser::{Denoised, Denoiser, NetworkDenoiser, Process};
pub use error::Error;
pub use guidance::ClassifierFree;
pub use images::Images;
pub use networks::NetworkConfig;
pub use oracle::Oracle;
pub use pipeline::{Pipeline, PipelineImport};
pub use preprocessing::Preprocessing;
pub use sampling::Sampling;
pub use training_data::TrainingData;
pub use unet::{Dropout, Labels};
