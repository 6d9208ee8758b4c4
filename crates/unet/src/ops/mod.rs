//! The operations of the network, on activations in N,H,W,C.
//!
//! Each operation has two implementations. [`mod@reference`] composes it from ordinary Burn operations, which all back
//! ends run and differentiate. On the CPU back end (Flex) it is a fused kernel of the crate `kernels` with its own
//! gradient. The tests compare the two.

mod autodiff;
mod filter;
mod flex;
pub mod reference;
mod types;

use burn::backend::{Dispatch, DispatchDevice};
use burn::tensor::{Device, Tensor};

use flex::{FlexOps, OptionalTensor};

pub use filter::{average_pool2x, filter_down2x, filter_up2x};
pub use flex::{PackedWeights, Weights};
pub use kernels::AdamStep;
use types::AttentionKind;
pub use types::{AdamState, Filter, Fusion, Geometry, GradientObserver, Norm, NormOptions};

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

/// Computes a 2-D convolution and the operations that usually surround it: y = norm(x) ∗ w + b + shift + residual.
///
/// On the CPU, the convolution normalizes its input while it reads it. The normalized images are never stored; the
/// backward pass recomputes them.
///
/// # Shapes
/// x `[N,H,W,I]`, result `[N,H′,W′,O]`.
pub fn conv2d(x: Tensor<4>, weights: Weights<4>, geometry: Geometry, fusion: Fusion) -> Tensor<4> {
    if !is_cpu(&x.device()) {
        return reference::conv2d(x, weights, geometry, fusion);
    }
    let Fusion { skip, norm, shift, residual } = fusion;
    let (x, skip) = (x.into_dispatch(), optional(skip));
    let (weight, bias) = (weights.weight.into_dispatch(), weights.bias.into_dispatch());
    let (shift, residual, packed) = (optional(shift), optional(residual), weights.packed.share());
    Tensor::from_dispatch(match norm {
        None => <Dispatch as FlexOps>::conv2d(x, skip, weight, bias, shift, residual, geometry, packed),
        Some(Norm { gamma, beta, scale_shift, options }) => <Dispatch as FlexOps>::norm_conv2d(
            x,
            skip,
            gamma.into_dispatch(),
            beta.into_dispatch(),
            optional(scale_shift),
            weight,
            bias,
            shift,
            residual,
            options,
            geometry,
            packed,
        ),
    })
}

/// Concatenates the channels of x and `skip`, if there is one.
pub(crate) fn concat_skip(x: Tensor<4>, skip: Option<Tensor<4>>) -> Tensor<4> {
    match skip {
        Some(skip) => concat(x, skip),
        None => x,
    }
}

/// Computes y = x·w + b (+ residual).
///
/// # Shapes
/// x `[M,I]`, residual and result `[M,O]`.
pub fn linear(x: Tensor<2>, weights: Weights<2>, residual: Option<Tensor<2>>) -> Tensor<2> {
    if !is_cpu(&x.device()) {
        return reference::linear(x, weights, residual);
    }
    Tensor::from_dispatch(<Dispatch as FlexOps>::linear(
        x.into_dispatch(),
        weights.weight.into_dispatch(),
        weights.bias.into_dispatch(),
        optional(residual),
        weights.packed.share(),
    ))
}

/// Computes a group normalization (Wu & He 2018), then, if given, ·(1 + scale) + shift per image and channel, then, if
/// `silu`, SiLU.
///
/// # Shapes
/// x and result `[N,H,W,C]`.
pub fn group_norm(x: Tensor<4>, norm: Norm) -> Tensor<4> {
    if !is_cpu(&x.device()) {
        return reference::group_norm(x, norm);
    }
    let Norm { gamma, beta, scale_shift, options } = norm;
    Tensor::from_dispatch(<Dispatch as FlexOps>::group_norm(
        x.into_dispatch(),
        gamma.into_dispatch(),
        beta.into_dispatch(),
        optional(scale_shift),
        options,
    ))
}

/// Computes scaled dot-product attention, softmax(q·kᵀ/√d)·v, for each head of d channels.
///
/// # Shapes
/// q and result `[N,tokens,C]`; k, v `[N,keys,C]`; head h has channels h·d to (h+1)·d.
pub fn attention(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, heads: usize) -> Tensor<3> {
    if !is_cpu(&q.device()) {
        return reference::attention(q, k, v, heads);
    }
    Tensor::from_dispatch(<Dispatch as FlexOps>::attention(
        q.into_dispatch(),
        k.into_dispatch(),
        v.into_dispatch(),
        heads,
        AttentionKind::Full,
    ))
}

/// Computes linear attention (Shen et al. 2021) for each head of d channels: softmax(q)·(softmax(k)ᵀ·v)/√d, where the softmax
/// of q is over its d channels and that of k over the tokens.
///
/// # Shapes
/// q and result `[N,tokens,C]`; k, v `[N,keys,C]`; head h has channels h·d to (h+1)·d.
pub fn linear_attention(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, heads: usize) -> Tensor<3> {
    if !is_cpu(&q.device()) {
        return reference::linear_attention(q, k, v, heads);
    }
    let (q, k, v) = (q.into_dispatch(), k.into_dispatch(), v.into_dispatch());
    Tensor::from_dispatch(<Dispatch as FlexOps>::attention(q, k, v, heads, AttentionKind::Linear))
}

/// Divides each pixel by the root mean square of its channels (Zhang & Sennrich 2019) and multiplies it by `gain`, then, if
/// given, computes ·(1 + scale) + shift per image and channel, then, if `silu`, SiLU.
///
/// # Shapes
/// x and result `[N,H,W,C]`, gain `[C]`, scale_shift `[N,2C]`.
pub fn rms_norm(x: Tensor<4>, gain: Tensor<1>, scale_shift: Option<Tensor<2>>, silu: bool) -> Tensor<4> {
    if !is_cpu(&x.device()) {
        return reference::rms_norm(x, gain, scale_shift, silu);
    }
    let (x, gain) = (x.into_dispatch(), gain.into_dispatch());
    Tensor::from_dispatch(<Dispatch as FlexOps>::rms_norm(x, gain, optional(scale_shift), silu))
}

/// Moves each square of `side`×`side` pixels into channels: `[N,H,W,C]` to `[N,H/side,W/side,side²·C]`, where the channels of a
/// square are in the order (channel, row, column), as in PyTorch's `pixel_unshuffle`.
pub fn space_to_depth(x: Tensor<4>, side: usize) -> Tensor<4> {
    if side == 1 {
        return x;
    }
    let [n, h, w, c] = x.dims();
    let (h, w) = (h / side, w / side);
    x.reshape([n, h, side, w, side, c]).permute([0, 1, 3, 5, 2, 4]).reshape([n, h, w, side * side * c])
}

/// Moves channels into squares of pixels: the inverse of [`space_to_depth`].
pub fn depth_to_space(x: Tensor<4>, side: usize) -> Tensor<4> {
    if side == 1 {
        return x;
    }
    let [n, h, w, channels] = x.dims();
    let c = channels / (side * side);
    x.reshape([n, h, w, c, side, side]).permute([0, 1, 4, 2, 5, 3]).reshape([n, side * h, side * w, c])
}

/// Computes SiLU, x·sigmoid(x), also called swish.
pub fn silu(x: Tensor<2>) -> Tensor<2> {
    if !is_cpu(&x.device()) {
        return reference::silu(x);
    }
    Tensor::from_dispatch(<Dispatch as FlexOps>::silu(x.into_dispatch()))
}

/// Returns parameter number `index` itself, whose gradient the observer gets in place of the graph. Only the CPU back end
/// supports it; on others, the gradient is in the graph as usual.
pub(crate) fn observe<const D: usize>(x: Tensor<D>, index: usize, observer: &GradientObserver) -> Tensor<D> {
    if !is_cpu(&x.device()) {
        return x;
    }
    Tensor::from_dispatch(<Dispatch as FlexOps>::observe(x.into_dispatch(), index, observer.clone()))
}

/// Returns a number whose gradient with respect to x is `gradient`. Its value has no meaning. If `after` is given, its gradients are
/// those of the sum, and on the CPU they are added to that of x, where they reach it, and not the other way around.
pub(crate) fn with_gradient<const D: usize>(x: Tensor<D>, gradient: Tensor<D>, after: Option<Tensor<1>>) -> Tensor<1> {
    let gradient = if gradient.is_autodiff() { gradient } else { gradient.autodiff() };
    if !is_cpu(&x.device()) {
        let sum = (x * gradient).sum();
        return match after {
            Some(after) => after + sum,
            None => sum,
        };
    }
    let (x, gradient) = (x.into_dispatch(), gradient.into_dispatch());
    Tensor::from_dispatch(<Dispatch as FlexOps>::with_gradient(x, gradient, optional(after)))
}

/// Returns x itself as the result of an operation, which is deeper in the graph than x. Burn adds the gradients of deeper operations
/// first. Only the CPU back end supports it.
pub(crate) fn identity(x: Tensor<4>) -> Tensor<4> {
    if !is_cpu(&x.device()) {
        return x;
    }
    Tensor::from_dispatch(<Dispatch as FlexOps>::identity(x.into_dispatch()))
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

/// Computes the mean of each row: `[rows, columns]` to `[rows]`. The second half of each row is added to the first, and so on, because the
/// order of a back end's own sum depends on the processor.
pub fn row_means(mut x: Tensor<2>) -> Tensor<1> {
    let [rows, columns] = x.dims();
    let mut left = columns;
    while left > 1 {
        let half = left / 2;
        let sums = x.clone().narrow(1, 0, half) + x.clone().narrow(1, left - half, half);
        x = if left.is_multiple_of(2) { sums } else { Tensor::cat(vec![sums, x.narrow(1, half, 1)], 1) };
        left -= half;
    }
    x.div_scalar(columns as f64).reshape([rows])
}

/// Performs one Adam step and updates the exponential moving average.
///
/// On the CPU this is one pass over memory, in place if no other handle shares the tensors.
pub fn adam(state: AdamState, gradient: Tensor<1>, step: AdamStep) -> AdamState {
    if !is_cpu(&state.parameter.device()) {
        return reference::adam(state, gradient, step);
    }
    let AdamState { parameter, moment1, moment2, average } = state;
    let (parameter, moment1, moment2, average) = <Dispatch as FlexOps>::adam(
        parameter.into_dispatch(),
        gradient.into_dispatch(),
        moment1.into_dispatch(),
        moment2.into_dispatch(),
        average.into_dispatch(),
        step,
    );
    AdamState {
        parameter: Tensor::from_dispatch(parameter),
        moment1: Tensor::from_dispatch(moment1),
        moment2: Tensor::from_dispatch(moment2),
        average: Tensor::from_dispatch(average),
    }
}

/// Computes Σx² of all tensors together. On the CPU, short sums are in f32 and their total in f64. Elsewhere the sum of each
/// tensor is in f32, and all of them are read at once, because each reading waits for the device.
pub fn sum_of_squares(tensors: impl IntoIterator<Item = Tensor<1>>) -> f64 {
    let (mut total, mut elsewhere) = (0.0, Vec::new());
    for x in tensors {
        match is_cpu(&x.device()) {
            true => total += sum_of_squares_on_cpu(x),
            false => elsewhere.push(x.clone().mul(x).sum()),
        }
    }
    if !elsewhere.is_empty() {
        total += Tensor::cat(elsewhere, 0).into_data().iter::<f64>().sum::<f64>();
    }
    total
}

fn sum_of_squares_on_cpu(x: Tensor<1>) -> f64 {
    match Tensor::<1>::from_dispatch(<Dispatch as FlexOps>::sum_of_squares(x.into_dispatch()))
        .into_data()
        .as_slice::<f32>()
    {
        // The f64 is transferred as two f32: rounded, and the remainder.
        Ok(&[high, low]) => f64::from(high) + f64::from(low),
        _ => f64::NAN,
    }
}
