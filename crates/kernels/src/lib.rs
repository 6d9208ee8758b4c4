//! CPU kernels for the network of a diffusion model, on plain slices of f32: convolution, group and RMS normalization
//! with SiLU, attention, matrix products, resampling and the optimizer, forward and backward.
//!
//! # Conventions
//! * **Layout**: images are N,H,W,C; convolution weights `[kernel height, kernel width, in, out]`; linear weights
//!   `[in, out]`. All slices are contiguous.
//! * **Outputs** are overwritten. A slice of the wrong length is a programming error and panics.
//! * **Determinism**: results are bit-identical for any number of threads. The results of an image do not depend on the
//!   other images of the batch, except for sums over images (gradients of weights, biases and normalization
//!   parameters), whose order is fixed by the shape.
//! * **Threads** are those of the current rayon pool.
//! * **Instruction sets**: AVX-512, AVX2 or the target's baseline, detected at run time ([`instruction_set`]). All give the
//!   same bits. That makes the baseline of x86-64 slow, which has no multiply-add.
//!
//! [`mod@reference`] defines the same operations as plain loops in f64. The tests compare the kernels with it.

#![allow(unsafe_code)]

mod activation;
mod allocator;
mod attention;
mod buffer;
mod concat;
mod conv;
mod epilogue;
mod filter;
mod gemm;
mod im2col;
mod kn2row;
mod linear_attention;
mod matmul;
mod norm;
mod optimizer;
mod parallel;
mod profile;
mod reduce;
pub mod reference;
mod resample;
mod rms_norm;
mod scratch;
mod simd;
mod winograd;

pub use activation::{silu, silu_backward};
pub use allocator::CachingAllocator;
pub use attention::{AttentionGradients, AttentionInputs, AttentionShape, attention, attention_backward};
pub use buffer::init_with;
pub use concat::{concat_channels, split_channels};
pub use conv::{
    ConvInputs, ConvShape, PackedFilter, Pad, conv2d, conv2d_grad_input, conv2d_grad_weight, conv2d_packed,
};
pub use epilogue::Epilogue;
pub use filter::{FilterShape, average_pool2x, average_pool2x_backward, filter_down2x, filter_up2x};
pub use linear_attention::{linear_attention, linear_attention_backward};
pub use matmul::{MatMulShape, matmul};
pub use norm::{
    FusedGroupNorm, GroupNormGradients, GroupNormSaved, GroupNormShape, Normalization, group_norm, group_norm_backward,
};
pub use optimizer::{AdamBuffers, AdamStep, adam};
pub use profile::{ProfileEntry, start_profile, stop_profile};
pub use reduce::{channel_sums, per_image_channel_sums, sum_of_squares};
pub use resample::{upsample2x, upsample2x_backward};
pub use rms_norm::{FusedRmsNorm, RmsNormGradients, rms_norm, rms_norm_backward};
pub use simd::{InstructionSet, instruction_set, limit_instruction_set};
