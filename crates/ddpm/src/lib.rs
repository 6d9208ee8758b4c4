//! Denoising diffusion probabilistic models (Ho et al. 2020) in Rust: one crate for everything that the program `ddpm`
//! does. Each of its parts is a crate of its own, re-exported here.
//!
//! Train a small network on the built-in images and draw from it:
//! ```
//! use ddpm::{Device, Images, Pipeline, Request, Sampler, SamplerOptions, initial_noise, train, walk};
//!
//! let mut config = train::Config::preset("fashion")?;
//! for assignment in ["train.steps=2", "train.batch_size=4", "model.block_out_channels=[16, 16]",
//!                    "model.attention_resolutions=[]", "train.samples=0"] {
//!     config.set(assignment)?;
//! }
//! let folder = tempfile::tempdir()?;
//! let finished = train::train(&config, folder.path(), &Device::flex(), &|| false, &mut |_event| {})?;
//!
//! let pipeline = Pipeline::load(&finished.checkpoint, &Device::flex())?;
//! let options = SamplerOptions { steps: Some(4), ..Default::default() };
//! let table = Sampler::Ddim { eta: 0.0 }.table(&pipeline.scheduler, options)?;
//! let noise = initial_noise(0, 0, 2, [32, 32, 1]);
//! let request = Request { seed: 0, first_image: 0, noise: &noise, labels: None, batch_size: 2, share_until: None, guidance: None };
//! let images: Images = walk(&pipeline.unet, &table, &pipeline.scheduler, &request, |_step| true)?;
//! assert_eq!(images.shape(), [2, 32, 32, 1]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod bench;
mod device;
pub mod predict;

pub use burn::tensor::Device;
pub use data;
pub use device::{DeviceError, device, devices};
pub use diffusion;
pub use evaluate;
pub use kernels::{self, CachingAllocator};
pub use random;
pub use sample::output::{self, Images, Output};
pub use sample::{self, Options as SamplerOptions, Pipeline, Request, Sampler, initial_noise, walk};
pub use train;
pub use unet::{self, Unet};
pub use weights;
