//! The network's operations, on activations in N,H,W,C.
//!
//! Each is one function over Burn tensors with two bodies: [`mod@reference`] composes it from ordinary Burn operations,
//! which every back end runs and differentiates; on the CPU back end (Flex) it is one operation with its own gradient,
//! computed by the crate `kernels`. The tests hold the two against each other.

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

/// Whether a device is the CPU back end, whose operations are single kernels.
pub fn is_cpu(device: &Device) -> bool {
    matches!(device.clone().without_autodiff().as_dispatch(), DispatchDevice::Flex(_))
}

/// Whether convolutions read the skip connection from its own tensor instead of a concatenated copy.
pub(crate) fn fuses_concat(device: &Device) -> bool {
    is_cpu(device) && !device.is_autodiff()
}

fn optional<const D: usize>(tensor: Option<Tensor<D>>) -> OptionalTensor<Dispatch> {
    match tensor {
        Some(tensor) => OptionalTensor::Present(tensor.into_dispatch()),
        None => OptionalTensor::Absent,
    }
}

/// 2-D convolution with what usually follows it: y = x ∗ w + b (+ shift) (+ residual).
///
/// # Shapes
/// x `[N,H,W,I]`, weight `[kh,kw,I,O]`, bias `[O]`, shift `[N,O]` (the time embedding's), residual and result
/// `[N,H′,W′,O]`. With `skip`, x has the first of the I channels and `skip` the last. `packed` belongs to the weights,
/// and caches them in the kernel's layout between calls.
#[expect(clippy::too_many_arguments, reason = "all that happens around a convolution")]
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

/// The channels of x and of `skip`, if there is one.
pub(crate) fn concat_skip(x: Tensor<4>, skip: Option<Tensor<4>>) -> Tensor<4> {
    match skip {
        Some(skip) => concat(x, skip),
        None => x,
    }
}

/// [`conv2d`] of [`group_norm`] of x and `skip` concatenated. On the CPU the convolution normalises as it reads, and the
/// normalised images are neither stored nor kept for the backward pass, which recomputes them.
#[expect(clippy::too_many_arguments, reason = "those of both operations")]
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

/// y = x·w + b (+ residual). Shapes: x `[M,I]`, weight `[I,O]`, bias `[O]`, residual and result `[M,O]`. `packed`
/// belongs to the weights.
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

/// Group normalisation (Wu & He 2018), then optionally ·(1 + scale) + shift per image and channel, then optionally SiLU.
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

/// Scaled dot-product attention, softmax(q·kᵀ/√d)·v for each head of d channels.
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

/// x·sigmoid(x), also called swish.
pub fn silu(x: Tensor<2>) -> Tensor<2> {
    if !is_cpu(&x.device()) {
        return reference::silu(x);
    }
    Tensor::from_dispatch(<Dispatch as FlexOps>::silu(x.into_dispatch()))
}

/// Nearest-neighbour enlargement, each pixel four times. Shapes: `[N,H,W,C]` to `[N,2H,2W,C]`.
pub fn upsample2x(x: Tensor<4>) -> Tensor<4> {
    if !is_cpu(&x.device()) {
        return reference::upsample2x(x);
    }
    Tensor::from_dispatch(<Dispatch as FlexOps>::upsample2x(x.into_dispatch()))
}

/// The channels of x, then those of y. Shapes: `[N,H,W,A]` and `[N,H,W,B]` to `[N,H,W,A+B]`.
pub fn concat(x: Tensor<4>, y: Tensor<4>) -> Tensor<4> {
    if !is_cpu(&x.device()) {
        return reference::concat(x, y);
    }
    Tensor::from_dispatch(<Dispatch as FlexOps>::concat(x.into_dispatch(), y.into_dispatch()))
}

/// The mean of each 2×2 square. Shapes: `[N,H,W,C]` to `[N,H/2,W/2,C]`.
pub fn average_pool2x(x: Tensor<4>) -> Tensor<4> {
    let [n, h, w, c] = x.dims();
    let pairs = x.narrow(1, 0, h / 2 * 2).narrow(2, 0, w / 2 * 2).reshape([n, h / 2, 2, w / 2, 2, c]);
    pairs.mean_dim(4).mean_dim(2).reshape([n, h / 2, w / 2, c])
}

/// One Adam step with the exponential moving average of the result: `(parameter, first moment, second moment, average)`.
///
/// On the CPU this is one pass over memory, in place where nothing else holds the tensors.
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

/// Σx²: short sums in f32, added up in f64 on the CPU.
pub fn sum_of_squares(x: Tensor<1>) -> f64 {
    if !is_cpu(&x.device()) {
        return x.clone().mul(x).sum().into_scalar::<f32>().into();
    }
    match Tensor::<1>::from_dispatch(<Dispatch as FlexOps>::sum_of_squares(x.into_dispatch()))
        .into_data()
        .as_slice::<f32>()
    {
        // Two f32 carry the f64: its rounding and the rest.
        Ok(&[high, low]) => f64::from(high) + f64::from(low),
        _ => f64::NAN,
    }
}
