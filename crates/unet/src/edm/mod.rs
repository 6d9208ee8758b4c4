//! The networks of NVlabs/edm (Karras et al. 2022): `SongUNet`, which is DDPM++ and NCSN++ of Song et al. (2021), and
//! `DhariwalUNet`, which is the ADM network of Dhariwal & Nichol (2021).
//!
//! [`EdmConfig`] has the arguments of their constructors, [`EdmUnet`] their parameter names. A preconditioner stands around
//! such a network; its arguments are not among these (see `Prediction::Edm` and those after it in the crate `diffusion`).

mod activations;
mod block;
mod config;
mod model;
mod plan;
mod stages;

pub use block::EdmBlock;
pub use config::{DecoderType, EdmClass, EdmConfig, EmbeddingType, EncoderType};
pub use model::{EdmLabels, EdmUnet, NoiseFrequencies, Part, PartLayers};
pub use plan::Role;
