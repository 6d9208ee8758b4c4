//! The network's operations, on activations in N,H,W,C.
//!
//! Each is one function over Burn tensors with two bodies: [`mod@reference`] composes it from ordinary Burn operations,
//! which every back end runs and differentiates; on the CPU back end (Flex) it is one operation with its own gradient,
//! computed by the crate `kernels`. The tests hold the two against each other.

mod autodiff;
mod flex;
pub mod reference;

use burn::backend::{Dispatch, DispatchDevice};
use burn::tensor::{Device, Tensor};

pub use flex::Prepared;
use flex::{FlexOps, Maybe};

/// Stride and padding of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Step between outputs, in pixels, both ways.
    pub stride: usize,
    /// Zeros before the first row and column.
    pub before: usize,
    /// Zeros after the last row and column.
    pub after: usize,
}

impl Geometry {
    /// Stride 1, as many zeros on each side as keep a `kernel`×`kernel` convolution's size.
    pub fn same(kernel: usize) -> Self {
        Self { stride: 1, before: kernel / 2, after: kernel / 2 }
    }

    /// Rows (or columns) of the output.
    pub fn out(&self, size: usize, kernel: usize) -> usize {
        (size + self.before + self.after - kernel) / self.stride + 1
    }
}

/// The scalars of one Adam step (Kingma & Ba 2015, Algorithm 1; ε where PyTorch puts it).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamStep {
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Number of this step, from 1.
    pub step: u64,
    /// The gradient is multiplied by it first: 1/accumulated batches, and the global-norm clip.
    pub gradient_scale: f64,
    /// The averages become `decay`·average + (1 − `decay`)·parameter.
    pub ema_decay: f64,
}

/// Whether a device is the CPU back end, where the operations are single kernels.
pub fn is_fused(device: &Device) -> bool {
    matches!(device.clone().without_autodiff().as_dispatch(), DispatchDevice::Flex(_))
}

/// Whether convolutions read a skip connection where it lies, instead of joining it first.
pub(crate) fn reads_parts(device: &Device) -> bool {
    is_fused(device) && !device.is_autodiff()
}

fn maybe<const D: usize>(tensor: Option<Tensor<D>>) -> Maybe<Dispatch> {
    match tensor {
        Some(tensor) => Maybe::Given(tensor.into_dispatch()),
        None => Maybe::Absent,
    }
}

/// 2-D convolution with what usually follows it: y = x ∗ w + b (+ shift) (+ residual).
///
/// # Shapes
/// x `[N,H,W,I]`, weight `[kh,kw,I,O]`, bias `[O]`, shift `[N,O]` (the time embedding's), residual and result
/// `[N,H′,W′,O]`. With `skip`, x has the first of the I channels and `skip` the last. `prepared` belongs to the weights,
/// and keeps them in the kernel's form between calls.
#[expect(clippy::too_many_arguments, reason = "all that happens around a convolution")]
pub fn conv2d(
    x: Tensor<4>,
    skip: Option<Tensor<4>>,
    weight: Tensor<4>,
    bias: Tensor<1>,
    shift: Option<Tensor<2>>,
    residual: Option<Tensor<4>>,
    geometry: Geometry,
    prepared: &Prepared,
) -> Tensor<4> {
    if !is_fused(&x.device()) {
        return reference::conv2d(joined(x, skip), weight, bias, shift, residual, geometry);
    }
    Tensor::from_dispatch(<Dispatch as FlexOps>::conv2d(
        x.into_dispatch(),
        maybe(skip),
        weight.into_dispatch(),
        bias.into_dispatch(),
        maybe(shift),
        maybe(residual),
        geometry,
        prepared.share(),
    ))
}

/// A group normalisation: its parameters, what scales and shifts it, and whether SiLU follows.
#[derive(Clone, Debug)]
pub struct Norm {
    /// `[C]`.
    pub gamma: Tensor<1>,
    /// `[C]`.
    pub beta: Tensor<1>,
    /// `[N,2C]`, scales first.
    pub scale_shift: Option<Tensor<2>>,
    /// How it is computed.
    pub kind: NormKind,
}

/// The numbers of a group normalisation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormKind {
    /// Groups of channels.
    pub groups: usize,
    /// Added to the variance.
    pub epsilon: f64,
    /// Whether SiLU follows.
    pub silu: bool,
}

/// The channels of x and of `skip`, if there is one.
pub(crate) fn joined(x: Tensor<4>, skip: Option<Tensor<4>>) -> Tensor<4> {
    match skip {
        Some(skip) => concat(x, skip),
        None => x,
    }
}

/// [`conv2d`] of [`group_norm`] of x and `skip` joined. On the CPU the convolution normalises as it reads, and the normalised images are
/// neither stored nor kept for the backward pass, which makes them again.
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
    prepared: &Prepared,
) -> Tensor<4> {
    let Norm { gamma, beta, scale_shift, kind } = norm;
    if !is_fused(&x.device()) {
        let NormKind { groups, epsilon, silu } = kind;
        let x = reference::group_norm(joined(x, skip), gamma, beta, scale_shift, groups, epsilon, silu);
        return reference::conv2d(x, weight, bias, shift, residual, geometry);
    }
    Tensor::from_dispatch(<Dispatch as FlexOps>::norm_conv2d(
        x.into_dispatch(),
        maybe(skip),
        gamma.into_dispatch(),
        beta.into_dispatch(),
        maybe(scale_shift),
        weight.into_dispatch(),
        bias.into_dispatch(),
        maybe(shift),
        maybe(residual),
        kind,
        geometry,
        prepared.share(),
    ))
}

/// y = x·w + b (+ residual). Shapes: x `[M,I]`, weight `[I,O]`, bias `[O]`, residual and result `[M,O]`. `prepared`
/// belongs to the weights.
pub fn linear(
    x: Tensor<2>,
    weight: Tensor<2>,
    bias: Tensor<1>,
    residual: Option<Tensor<2>>,
    prepared: &Prepared,
) -> Tensor<2> {
    if !is_fused(&x.device()) {
        return reference::linear(x, weight, bias, residual);
    }
    Tensor::from_dispatch(<Dispatch as FlexOps>::linear(
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        maybe(residual),
        prepared.share(),
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
    if !is_fused(&x.device()) {
        return reference::group_norm(x, gamma, beta, scale_shift, groups, epsilon, silu);
    }
    Tensor::from_dispatch(<Dispatch as FlexOps>::group_norm(
        x.into_dispatch(),
        gamma.into_dispatch(),
        beta.into_dispatch(),
        maybe(scale_shift),
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
    if !is_fused(&q.device()) {
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
    if !is_fused(&x.device()) {
        return reference::silu(x);
    }
    Tensor::from_dispatch(<Dispatch as FlexOps>::silu(x.into_dispatch()))
}

/// Nearest-neighbour enlargement, each pixel four times. Shapes: `[N,H,W,C]` to `[N,2H,2W,C]`.
pub fn upsample2x(x: Tensor<4>) -> Tensor<4> {
    if !is_fused(&x.device()) {
        return reference::upsample2x(x);
    }
    Tensor::from_dispatch(<Dispatch as FlexOps>::upsample2x(x.into_dispatch()))
}

/// The channels of x, then those of y. Shapes: `[N,H,W,A]` and `[N,H,W,B]` to `[N,H,W,A+B]`.
pub fn concat(x: Tensor<4>, y: Tensor<4>) -> Tensor<4> {
    if !is_fused(&x.device()) {
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
    if !is_fused(&parameter.device()) {
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
    if !is_fused(&x.device()) {
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
