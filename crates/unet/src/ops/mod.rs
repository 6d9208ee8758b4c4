//! The operations of the network, on activations in N,H,W,C.
//!
//! Each operation has two implementations. [`mod@reference`] composes it from ordinary Burn operations, which all back
//! ends run and differentiate. On the CPU back end (Flex) it is a fused kernel of the crate `kernels` with its own
//! gradient. The tests compare the two.

mod autodiff;
mod flex;
pub mod reference;
mod types;

use burn::backend::{Dispatch, DispatchDevice};
use burn::tensor::{Device, Tensor};

use flex::{FlexOps, OptionalTensor};

pub use flex::PackedWeights;
pub use kernels::AdamStep;
pub use types::{Geometry, Norm, NormOptions};

/// Returns whether a device is the CPU back end, which runs the fused kernels.
pub fn is_cpu(device: &Device) -> bool {
    matches!(device.clone().without_autodiff().as_dispatch(), DispatchDevice::Flex(_))
}

/// Returns whether convolutions read a skip connection from its own tensor, without concatenating it first.
pub(crate) fn fuses_concat(device: &Device) -> bool {
    is_cpu(device) && !device.is_autodiff()
}

fn optional<const D: usize>(tensor: Option<Tensor<D>>) -> OptionalTensor<Dispatch> {
    match tensor {
        Some(tensor) => OptionalTensor::Present(tensor.into_dispatch()),
        None => OptionalTensor::Absent,
    }
}

/// Computes a 2-D convolution with the additions that usually follow it: y = x ∗ w + b (+ shift) (+ residual).
///
/// # Shapes
/// x `[N,H,W,I]`, weight `[kh,kw,I,O]`, bias `[O]`, shift `[N,O]` (from the time embedding), residual and result
/// `[N,H′,W′,O]`. If `skip` is given, x holds the first of the I channels and `skip` the last. `packed` is the cache
/// that belongs to the weights.
#[expect(clippy::too_many_arguments, reason = "a convolution and everything fused into it")]
pub fn conv2d(
    x: Tensor<4>,
    skip: Option<Tensor<4>>,
    weight: Tensor<4>,
    bias: Tensor<1>,
    shift: Option<Tensor<2>>,
    residual: Option<Tensor<4>>,
    geometry: Geometry,
    packed: &PackedWeights,
) -> Tensor<4> {
    if !is_cpu(&x.device()) {
        return reference::conv2d(concat_skip(x, skip), weight, bias, shift, residual, geometry);
    }
    Tensor::from_dispatch(<Dispatch as FlexOps>::conv2d(
        x.into_dispatch(),
        optional(skip),
        weight.into_dispatch(),
        bias.into_dispatch(),
        optional(shift),
        optional(residual),
        geometry,
        packed.share(),
    ))
}

/// Concatenates the channels of x and `skip`, if there is one.
pub(crate) fn concat_skip(x: Tensor<4>, skip: Option<Tensor<4>>) -> Tensor<4> {
    match skip {
        Some(skip) => concat(x, skip),
        None => x,
    }
}

/// Computes [`conv2d`] of the [`group_norm`] of x and `skip` concatenated.
///
/// On the CPU, the convolution normalizes its input while it reads it. The normalized images are never stored; the
/// backward pass recomputes them.
#[expect(clippy::too_many_arguments, reason = "the arguments of both operations")]
pub fn norm_conv2d(
    x: Tensor<4>,
    skip: Option<Tensor<4>>,
    norm: Norm,
    weight: Tensor<4>,
    bias: Tensor<1>,
    shift: Option<Tensor<2>>,
    residual: Option<Tensor<4>>,
    geometry: Geometry,
    packed: &PackedWeights,
) -> Tensor<4> {
    let Norm { gamma, beta, scale_shift, options } = norm;
    if !is_cpu(&x.device()) {
        let NormOptions { groups, epsilon, silu } = options;
        let x = reference::group_norm(concat_skip(x, skip), gamma, beta, scale_shift, groups, epsilon, silu);
        return reference::conv2d(x, weight, bias, shift, residual, geometry);
    }
    Tensor::from_dispatch(<Dispatch as FlexOps>::norm_conv2d(
        x.into_dispatch(),
        optional(skip),
        gamma.into_dispatch(),
        beta.into_dispatch(),
        optional(scale_shift),
        weight.into_dispatch(),
        bias.into_dispatch(),
        optional(shift),
        optional(residual),
        options,
        geometry,
        packed.share(),
    ))
}

/// Computes y = x·w + b (+ residual).
///
/// # Shapes
/// x `[M,I]`, weight `[I,O]`, bias `[O]`, residual and result `[M,O]`. `packed` is the cache that belongs to the
/// weights.
pub fn linear(
    x: Tensor<2>,
    weight: Tensor<2>,
    bias: Tensor<1>,
    residual: Option<Tensor<2>>,
    packed: &PackedWeights,
) -> Tensor<2> {
    if !is_cpu(&x.device()) {
        return reference::linear(x, weight, bias, residual);
    }
    Tensor::from_dispatch(<Dispatch as FlexOps>::linear(
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        optional(residual),
        packed.share(),
    ))
}

/// Computes a group normalization (Wu & He 2018), then, if given, ·(1 + scale) + shift per image and channel, then, if
/// `silu`, SiLU.
///
/// # Shapes
/// x and result `[N,H,W,C]`, gamma and beta `[C]`, scale_shift `[N,2C]` (scales first).
pub fn group_norm(
    x: Tensor<4>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    scale_shift: Option<Tensor<2>>,
    groups: usize,
    epsilon: f64,
    silu: bool,
) -> Tensor<4> {
    if !is_cpu(&x.device()) {
        return reference::group_norm(x, gamma, beta, scale_shift, groups, epsilon, silu);
    }
    Tensor::from_dispatch(<Dispatch as FlexOps>::group_norm(
        x.into_dispatch(),
        gamma.into_dispatch(),
        beta.into_dispatch(),
        optional(scale_shift),
        groups,
        epsilon,
        silu,
    ))
}

/// Computes scaled dot-product attention, softmax(q·kᵀ/√d)·v, for each head of d channels.
///
/// # Shapes
/// q, k, v and result `[N,tokens,C]`; head h has channels h·d to (h+1)·d.
pub fn attention(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, heads: usize) -> Tensor<3> {
    if !is_cpu(&q.device()) {
        return reference::attention(q, k, v, heads);
    }
    Tensor::from_dispatch(<Dispatch as FlexOps>::attention(
        q.into_dispatch(),
        k.into_dispatch(),
        v.into_dispatch(),
        heads,
    ))
}

/// Computes SiLU, x·sigmoid(x), also called swish.
pub fn silu(x: Tensor<2>) -> Tensor<2> {
    if !is_cpu(&x.device()) {
        return reference::silu(x);
    }
    Tensor::from_dispatch(<Dispatch as FlexOps>::silu(x.into_dispatch()))
}

/// Doubles the size by nearest-neighbor upsampling: `[N,H,W,C]` to `[N,2H,2W,C]`.
pub fn upsample2x(x: Tensor<4>) -> Tensor<4> {
    if !is_cpu(&x.device()) {
        return reference::upsample2x(x);
    }
    Tensor::from_dispatch(<Dispatch as FlexOps>::upsample2x(x.into_dispatch()))
}

/// Concatenates channels: `[N,H,W,A]` and `[N,H,W,B]` to `[N,H,W,A+B]`.
pub fn concat(x: Tensor<4>, y: Tensor<4>) -> Tensor<4> {
    if !is_cpu(&x.device()) {
        return reference::concat(x, y);
    }
    Tensor::from_dispatch(<Dispatch as FlexOps>::concat(x.into_dispatch(), y.into_dispatch()))
}

/// Halves the size by averaging 2×2 squares: `[N,H,W,C]` to `[N,H/2,W/2,C]`.
pub fn average_pool2x(x: Tensor<4>) -> Tensor<4> {
    let [n, h, w, c] = x.dims();
    let pairs = x.narrow(1, 0, h / 2 * 2).narrow(2, 0, w / 2 * 2).reshape([n, h / 2, 2, w / 2, 2, c]);
    pairs.mean_dim(4).mean_dim(2).reshape([n, h / 2, w / 2, c])
}

/// Performs one Adam step and updates the exponential moving average; returns `(parameter, first moment, second moment,
/// average)`.
///
/// On the CPU this is one pass over memory, in place if no other handle shares the tensors.
pub fn adam(
    parameter: Tensor<1>,
    gradient: Tensor<1>,
    moment1: Tensor<1>,
    moment2: Tensor<1>,
    average: Tensor<1>,
    step: AdamStep,
) -> (Tensor<1>, Tensor<1>, Tensor<1>, Tensor<1>) {
    if !is_cpu(&parameter.device()) {
        return reference::adam(parameter, gradient, moment1, moment2, average, step);
    }
    let (parameter, moment1, moment2, average) = <Dispatch as FlexOps>::adam(
        parameter.into_dispatch(),
        gradient.into_dispatch(),
        moment1.into_dispatch(),
        moment2.into_dispatch(),
        average.into_dispatch(),
        step,
    );
    (
        Tensor::from_dispatch(parameter),
        Tensor::from_dispatch(moment1),
        Tensor::from_dispatch(moment2),
        Tensor::from_dispatch(average),
    )
}

/// Computes Σx². On the CPU, short sums are in f32 and their total in f64.
pub fn sum_of_squares(x: Tensor<1>) -> f64 {
    if !is_cpu(&x.device()) {
        return x.clone().mul(x).sum().into_scalar::<f32>().into();
    }
    match Tensor::<1>::from_dispatch(<Dispatch as FlexOps>::sum_of_squares(x.into_dispatch()))
        .into_data()
        .as_slice::<f32>()
    {
        // The f64 is transferred as two f32: rounded, and the remainder.
        Ok(&[high, low]) => f64::from(high) + f64::from(low),
        _ => f64::NAN,
    }
}
