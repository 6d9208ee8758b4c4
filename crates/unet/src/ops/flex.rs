//! The operations as single kernels on Burn's CPU back end, Flex, and the gradients of those kernels.

// All that happens around a convolution; the macro copies attributes of single functions to where they are not fulfilled.
#![expect(clippy::too_many_arguments)]

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, ExtensionType, Flex, backend_extension};
use burn::tensor::{Bytes, DType, Shape};
use burn_flex::{FlexTensor, Layout};
use kernels::{Around, Attention, Conv, GroupNorm, Normalization, Pad, PreparedFilter};

use super::{AdamStep, Geometry, NormKind};

/// A tensor that may be left out.
#[derive(ExtensionType)]
pub enum Maybe<B: Backend> {
    /// It is there.
    Given(FloatTensor<B>),
    /// It is not.
    Absent,
}

/// The weights of a convolution in its kernel's form, made at the first call without autodiff and used until the weights
/// are others. Sampling calls a network a thousand times with the same weights. A copy of a network has its own, made
/// when it needs them: what a copy for sampling made must not outlive it in the network that is trained.
#[derive(Default)]
pub struct Prepared(Arc<Mutex<Option<Made>>>);

/// A filter and the weights it was made from.
type Made = (FlexTensor, Arc<PreparedFilter>);

impl Prepared {
    /// The filter of `weight`. Holding the tensor that it was made from keeps that tensor's address from being another's.
    fn of(&self, shape: &Conv, weight: &FlexTensor) -> Arc<PreparedFilter> {
        let slot = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*slot() {
            Some((made_from, filter)) if Arc::ptr_eq(&made_from.data_arc(), &weight.data_arc()) => {
                return filter.clone();
            }
            _ => {}
        }
        // Not under the lock: making it may wait for tasks that want the lock too.
        let filter = Arc::new(PreparedFilter::new(shape, values(weight)));
        *slot() = Some((weight.clone(), filter.clone()));
        filter
    }

    /// The same filters for an operation.
    pub(super) fn share(&self) -> Self {
        Self(self.0.clone())
    }
}

impl Clone for Prepared {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Prepared")
    }
}

/// The operations that have a kernel. Shapes are those of the functions of the same names in [`super`].
#[backend_extension(Flex, Autodiff)]
pub trait FlexOps: Backend {
    /// See [`super::conv2d`].
    fn conv2d(
        x: FloatTensor<Self>,
        #[extension_type] skip: Maybe<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        #[extension_type] shift: Maybe<Self>,
        #[extension_type] residual: Maybe<Self>,
        geometry: Geometry,
        prepared: Prepared,
    ) -> FloatTensor<Self>;
    /// See [`super::norm_conv2d`].
    fn norm_conv2d(
        x: FloatTensor<Self>,
        #[extension_type] skip: Maybe<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        #[extension_type] scale_shift: Maybe<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        #[extension_type] shift: Maybe<Self>,
        #[extension_type] residual: Maybe<Self>,
        kind: NormKind,
        geometry: Geometry,
        prepared: Prepared,
    ) -> FloatTensor<Self>;
    /// See [`super::linear`].
    fn linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        #[extension_type] residual: Maybe<Self>,
        prepared: Prepared,
    ) -> FloatTensor<Self>;
    /// See [`super::group_norm`].
    fn group_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        #[extension_type] scale_shift: Maybe<Self>,
        groups: usize,
        epsilon: f64,
        silu: bool,
    ) -> FloatTensor<Self>;
    /// See [`super::attention`].
    fn attention(q: FloatTensor<Self>, k: FloatTensor<Self>, v: FloatTensor<Self>, heads: usize) -> FloatTensor<Self>;
    /// See [`super::silu`].
    fn silu(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// See [`super::upsample2x`].
    fn upsample2x(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// See [`super::concat`].
    fn concat(x: FloatTensor<Self>, y: FloatTensor<Self>) -> FloatTensor<Self>;
    /// See [`super::adam`].
    fn adam(
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        moment1: FloatTensor<Self>,
        moment2: FloatTensor<Self>,
        average: FloatTensor<Self>,
        step: AdamStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
    /// See [`super::sum_of_squares`]: the sum as `[rounded to f32, the rest]`.
    fn sum_of_squares(x: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl FlexOps for Flex {
    fn conv2d(
        x: FlexTensor,
        skip: Maybe<Self>,
        weight: FlexTensor,
        bias: FlexTensor,
        shift: Maybe<Self>,
        residual: Maybe<Self>,
        geometry: Geometry,
        prepared: Prepared,
    ) -> FlexTensor {
        let (x, weight, bias) = (x.to_contiguous(), weight.to_contiguous(), bias.to_contiguous());
        let (skip, shift, residual) = (given(skip), given(shift), given(residual));
        let shape = conv_shape(&x, &weight, geometry);
        let filter = prepared.of(&shape, &weight);
        filled([shape.n, shape.out_h(), shape.out_w(), shape.c_out], |y| {
            let around = around(None, &bias, shift.as_ref(), residual.as_ref());
            let around = Around { more: skip.as_ref().map(values), ..around };
            kernels::conv2d_prepared(&shape, values(&x), &filter, around, y);
        })
    }

    fn norm_conv2d(
        x: FlexTensor,
        skip: Maybe<Self>,
        gamma: FlexTensor,
        beta: FlexTensor,
        scale_shift: Maybe<Self>,
        weight: FlexTensor,
        bias: FlexTensor,
        shift: Maybe<Self>,
        residual: Maybe<Self>,
        kind: NormKind,
        geometry: Geometry,
        prepared: Prepared,
    ) -> FlexTensor {
        let (x, weight, bias) = (x.to_contiguous(), weight.to_contiguous(), bias.to_contiguous());
        let (gamma, beta) = (gamma.to_contiguous(), beta.to_contiguous());
        let (skip, shift, residual) = (given(skip), given(shift), given(residual));
        let shape = conv_shape(&x, &weight, geometry);
        let norm = Measured::new(&x, skip.as_ref(), &gamma, &beta, given(scale_shift).as_ref(), kind).normalization;
        let filter = prepared.of(&shape, &weight);
        filled([shape.n, shape.out_h(), shape.out_w(), shape.c_out], |y| {
            let around = around(Some(&norm), &bias, shift.as_ref(), residual.as_ref());
            let around = Around { more: skip.as_ref().map(values), ..around };
            kernels::conv2d_prepared(&shape, values(&x), &filter, around, y);
        })
    }

    fn linear(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        residual: Maybe<Self>,
        prepared: Prepared,
    ) -> FlexTensor {
        let residual = given(residual);
        let (x, weight, bias) = (x.to_contiguous(), weight.to_contiguous(), bias.to_contiguous());
        let shape = linear_shape(&x, &weight);
        let filter = prepared.of(&shape, &weight);
        filled([shape.w, shape.c_out], |y| {
            kernels::conv2d_prepared(&shape, values(&x), &filter, around(None, &bias, None, residual.as_ref()), y);
        })
    }

    fn group_norm(
        x: FlexTensor,
        gamma: FlexTensor,
        beta: FlexTensor,
        scale_shift: Maybe<Self>,
        groups: usize,
        epsilon: f64,
        silu: bool,
    ) -> FlexTensor {
        let (x, gamma, beta) = (x.to_contiguous(), gamma.to_contiguous(), beta.to_contiguous());
        group_norm(&x, &gamma, &beta, given(scale_shift).as_ref(), groups, epsilon, silu).0
    }

    fn attention(q: FlexTensor, k: FlexTensor, v: FlexTensor, heads: usize) -> FlexTensor {
        attention(&q.to_contiguous(), &k.to_contiguous(), &v.to_contiguous(), heads)
    }

    fn silu(x: FlexTensor) -> FlexTensor {
        let x = x.to_contiguous();
        filled(dims::<2>(&x), |y| kernels::silu(values(&x), y))
    }

    fn upsample2x(x: FlexTensor) -> FlexTensor {
        let x = x.to_contiguous();
        let [n, h, w, c] = dims(&x);
        filled([n, 2 * h, 2 * w, c], |y| kernels::upsample2x(n, h, w, c, values(&x), y))
    }

    fn concat(x: FlexTensor, y: FlexTensor) -> FlexTensor {
        concat(&x.to_contiguous(), &y.to_contiguous())
    }

    fn adam(
        mut parameter: FlexTensor,
        gradient: FlexTensor,
        mut moment1: FlexTensor,
        mut moment2: FlexTensor,
        mut average: FlexTensor,
        step: AdamStep,
    ) -> (FlexTensor, FlexTensor, FlexTensor, FlexTensor) {
        let gradient = gradient.to_contiguous();
        let step = kernels::AdamStep {
            lr: step.learning_rate,
            beta1: step.beta1,
            beta2: step.beta2,
            eps: step.epsilon,
            step: step.step,
            grad_scale: step.gradient_scale,
            ema_decay: Some(step.ema_decay),
        };
        kernels::adam(
            &step,
            parameter.storage_mut(),
            values(&gradient),
            moment1.storage_mut(),
            moment2.storage_mut(),
            Some(average.storage_mut()),
        );
        (parameter, moment1, moment2, average)
    }

    fn sum_of_squares(x: FlexTensor) -> FlexTensor {
        let sum = kernels::sum_of_squares(values(&x.to_contiguous()));
        let high = sum as f32;
        filled([2], |y| y.copy_from_slice(&[high, (sum - f64::from(high)) as f32]))
    }
}

/// The elements of a contiguous tensor. What is passed here went through `to_contiguous`.
pub(super) fn values(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().expect("a contiguous f32 tensor")
}

/// The shape of a tensor of known rank.
pub(super) fn dims<const D: usize>(tensor: &FlexTensor) -> [usize; D] {
    tensor.layout().shape().dims()
}

/// A new tensor, written whole by `fill`.
pub(super) fn filled<const D: usize>(dims: [usize; D], fill: impl FnOnce(&mut [f32])) -> FlexTensor {
    tensor(dims, kernels::written(dims.iter().product(), fill))
}

/// A tensor of values.
pub(super) fn tensor<const D: usize>(dims: [usize; D], values: Vec<f32>) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(Shape::from(dims)), DType::F32)
}

/// The tensor of a [`Maybe`], contiguous.
pub(super) fn given(maybe: Maybe<Flex>) -> Option<FlexTensor> {
    match maybe {
        Maybe::Given(tensor) => Some(tensor.to_contiguous()),
        Maybe::Absent => None,
    }
}

/// The kernels' description of a convolution of these tensors.
pub(super) fn conv_shape(x: &FlexTensor, weight: &FlexTensor, geometry: Geometry) -> Conv {
    // Of x only the first channels may be there.
    let ([n, h, w, _], [kh, kw, c_in, c_out]) = (dims(x), dims(weight));
    let Geometry { stride, before, after } = geometry;
    let pad = Pad { top: before, bottom: after, left: before, right: after };
    Conv { n, h, w, c_in, c_out, kernel: (kh, kw), stride, pad }
}

/// What is around a convolution.
fn around<'a>(
    norm: Option<&'a Normalization>,
    bias: &'a FlexTensor,
    shift: Option<&'a FlexTensor>,
    residual: Option<&'a FlexTensor>,
) -> Around<'a> {
    Around { more: None, norm, bias: Some(values(bias)), shift: shift.map(values), residual: residual.map(values) }
}

/// A group normalisation of given images.
pub(super) struct Measured {
    pub normalization: Normalization,
    /// Each image's and group's mean and 1/σ `[N,groups,2]`.
    pub mean_rstd: Vec<f32>,
}

impl Measured {
    pub(super) fn new(
        x: &FlexTensor,
        skip: Option<&FlexTensor>,
        gamma: &FlexTensor,
        beta: &FlexTensor,
        scale_shift: Option<&FlexTensor>,
        kind: NormKind,
    ) -> Self {
        let mut shape = group_norm_shape(x, kind.groups, kind.epsilon);
        shape.channels = dims::<1>(gamma)[0];
        let mut mean_rstd = vec![0.0; shape.n * kind.groups * 2];
        let halves = scale_shift.map(|s| halves(values(s), shape.channels));
        let halves = halves.as_ref().map(|[scale, shift]| (scale.as_slice(), shift.as_slice()));
        let parts = [values(x), skip.map(values).unwrap_or_default()];
        let (gamma, beta) = (values(gamma), values(beta));
        let normalization = Normalization::joined(&shape, parts, gamma, beta, halves, kind.silu, &mut mean_rstd);
        Self { normalization, mean_rstd }
    }
}

pub(super) fn conv2d(
    x: &FlexTensor,
    norm: Option<&Normalization>,
    weight: &FlexTensor,
    bias: &FlexTensor,
    shift: Option<&FlexTensor>,
    residual: Option<&FlexTensor>,
    geometry: Geometry,
) -> FlexTensor {
    let shape = conv_shape(x, weight, geometry);
    filled([shape.n, shape.out_h(), shape.out_w(), shape.c_out], |y| {
        kernels::conv2d(&shape, values(x), values(weight), around(norm, bias, shift, residual), y);
    })
}

pub(super) fn concat(x: &FlexTensor, y: &FlexTensor) -> FlexTensor {
    let ([n, h, w, a], [.., b]) = (dims::<4>(x), dims::<4>(y));
    filled([n, h, w, a + b], |out| kernels::concat_channels(a, b, values(x), values(y), out))
}

/// A linear layer as a convolution of one tap over an image of one row.
pub(super) fn linear_shape(x: &FlexTensor, weight: &FlexTensor) -> Conv {
    let ([w, c_in], [_, c_out]) = (dims(x), dims(weight));
    Conv { n: 1, h: 1, w, c_in, c_out, kernel: (1, 1), stride: 1, pad: Pad::default() }
}

pub(super) fn linear(
    x: &FlexTensor,
    weight: &FlexTensor,
    bias: &FlexTensor,
    residual: Option<&FlexTensor>,
) -> FlexTensor {
    let shape = linear_shape(x, weight);
    filled([shape.w, shape.c_out], |y| {
        kernels::conv2d(&shape, values(x), values(weight), around(None, bias, None, residual), y);
    })
}

pub(super) fn group_norm_shape(x: &FlexTensor, groups: usize, epsilon: f64) -> GroupNorm {
    let [n, h, w, channels] = dims(x);
    GroupNorm { n, pixels: h * w, channels, groups, eps: epsilon as f32 }
}

/// The result, and each image's and group's mean and 1/σ `[N,groups,2]`.
pub(super) fn group_norm(
    x: &FlexTensor,
    gamma: &FlexTensor,
    beta: &FlexTensor,
    scale_shift: Option<&FlexTensor>,
    groups: usize,
    epsilon: f64,
    silu: bool,
) -> (FlexTensor, Vec<f32>) {
    let shape = group_norm_shape(x, groups, epsilon);
    let mut mean_rstd = vec![0.0; shape.n * groups * 2];
    let y = filled(dims::<4>(x), |y| {
        let halves = scale_shift.map(|s| halves(values(s), shape.channels));
        let halves = halves.as_ref().map(|[scale, shift]| (scale.as_slice(), shift.as_slice()));
        kernels::group_norm(&shape, values(x), values(gamma), values(beta), halves, silu, y, &mut mean_rstd);
    });
    (y, mean_rstd)
}

/// The scales and the shifts of rows of both, each `[N,C]`.
pub(super) fn halves(rows: &[f32], channels: usize) -> [Vec<f32>; 2] {
    let half =
        |start: usize| rows.chunks(2 * channels).flat_map(|row| row[start..][..channels].iter().copied()).collect();
    [half(0), half(channels)]
}

pub(super) fn attention_shape(q: &FlexTensor, heads: usize) -> Attention {
    let [n, tokens, channels] = dims(q);
    Attention { n, tokens, heads, head_dim: channels / heads }
}

pub(super) fn attention(q: &FlexTensor, k: &FlexTensor, v: &FlexTensor, heads: usize) -> FlexTensor {
    let shape = attention_shape(q, heads);
    filled(dims::<3>(q), |out| kernels::attention(&shape, values(q), values(k), values(v), out))
}
