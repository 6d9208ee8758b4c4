//! CPU kernels of a diffusion model's network over plain slices: convolution, group normalisation with SiLU, attention,
//! matrix products, resampling and the optimizer, forward and backward, in f32.
//!
//! # Conventions
//! * **Layout**: images are N,H,W,C; convolution weights \[kernel height, kernel width, in, out\]; linear weights
//!   \[in, out\]; all contiguous.
//! * **Outputs are overwritten**, whatever they held. A slice of the wrong length is a programming error and panics.
//! * **Determinism**: results are bit-identical for any number of threads. Apart from sums over images (gradients of
//!   weights, biases and normalisation parameters, whose order is fixed by the shape), an image's results do not depend
//!   on the other images of the batch or on their number.
//! * **Threads** are those of the rayon pool that the caller is in.
//! * **Instructions**: AVX-512, AVX2 or the target's baseline, found at run time ([`instruction_set`]). Bits differ
//!   between instruction sets, never within one.
//!
//! [`mod@reference`] holds the same operations as plain loops in f64: what the fast ones are tested against, and the place
//! to read what they compute.

#![allow(unsafe_code)]

mod activation;
mod allocator;
mod attention;
mod buffer;
mod concat;
mod conv;
mod epilogue;
mod gemm;
mod im2col;
mod kn2row;
mod matmul;
mod norm;
mod optimizer;
mod parallel;
mod profile;
mod reduce;
pub mod reference;
mod resample;
mod scratch;
mod simd;
mod winograd;

pub use activation::{silu, silu_backward};
pub use allocator::CachingAllocator;
pub use attention::{AttentionShape, attention, attention_backward};
pub use buffer::init_with;
pub use concat::{concat_channels, split_channels};
pub use conv::{ConvShape, Fusion, PackedFilter, Pad, conv2d, conv2d_grad_input, conv2d_grad_weight, conv2d_packed};
pub use matmul::{MatMulShape, matmul};
pub use norm::{GroupNormShape, Normalization, group_norm, group_norm_backward};
pub use optimizer::{AdamStep, adam};
pub use profile::{ProfileEntry, start_profile, stop_profile};
pub use reduce::{channel_sums, per_image_channel_sums, sum_of_squares};
pub use resample::{upsample2x, upsample2x_backward};
pub use simd::{InstructionSet, instruction_set, limit_instruction_set};
