//! The operations as fused kernels on Flex, Burn's CPU back end.

// An attribute for the whole file, because the macro below copies attributes to functions that do not need them.
#![expect(clippy::too_many_arguments)]

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, ExtensionType, Flex, backend_extension};
use burn::tensor::{Bytes, DType, Shape, Tensor};
use burn_flex::{FlexTensor, Layout};
use kernels::{
    AdamBuffers, AdamStep, AttentionInputs, AttentionShape, ConvInputs, ConvShape, FilterShape, FusedGroupNorm,
    FusedRmsNorm, GroupNormShape, Normalization, PackedFilter, Pad,
};

use super::types::{AttentionKind, Filter, Geometry, GradientObserver, NormOptions};

/// The parameters of a convolution, whose weights have D = 4 dimensions, or of a linear layer (D = 2).
#[derive(Clone, Debug)]
pub struct Weights<'a, const D: usize> {
    /// Weights `[kh,kw,I,O]` of a convolution, or `[I,O]` of a linear layer.
    pub weight: Tensor<D>,
    /// Biases `[O]`.
    pub bias: Tensor<1>,
    /// The cache that belongs to the weights.
    pub packed: &'a PackedWeights,
}

/// An optional tensor, as an `Option` cannot be an argument of a Burn extension.
#[derive(ExtensionType)]
pub enum OptionalTensor<B: Backend> {
    /// A tensor.
    Present(FloatTensor<B>),
    /// No tensor.
    Absent,
}

/// A cache of a convolution's weights in the layout of its kernel, packed at the first call without autodiff.
///
/// Sampling calls a network many times with the same weights. The cache is valid until the weights change. A clone of a
/// network starts with an empty cache, so that filters packed for sampling are freed with the copy.
#[derive(Default)]
pub struct PackedWeights(Arc<Mutex<Option<Cached>>>);

/// The weights that were packed, and the packed filter.
type Cached = (FlexTensor, Arc<PackedFilter>);

impl PackedWeights {
    /// Returns the packed filter of `weight`. The cache holds the tensor too, so no other tensor can have its address.
    fn get_or_pack(&self, shape: &ConvShape, weight: &FlexTensor) -> Arc<PackedFilter> {
        let slot = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*slot() {
            Some((packed_from, filter)) if Arc::ptr_eq(&packed_from.data_arc(), &weight.data_arc()) => {
                return filter.clone();
            }
            _ => {}
        }
        // Pack without the lock: packing may wait for tasks that need it.
        let filter = Arc::new(PackedFilter::new(shape, values(weight)));
        *slot() = Some((weight.clone(), filter.clone()));
        filter
    }

    /// Returns a handle to the same cache, to pass to an operation.
    pub(super) fn share(&self) -> Self {
        Self(self.0.clone())
    }
}

impl Clone for PackedWeights {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl fmt::Debug for PackedWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PackedWeights")
    }
}

/// The operations with a kernel. Shapes are those of the functions of the same names in [`super`].
#[backend_extension(Flex, Autodiff)]
pub trait FlexOps: Backend {
    /// See [`super::conv2d`].
    fn conv2d(
        x: FloatTensor<Self>,
        #[extension_type] skip: OptionalTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        #[extension_type] shift: OptionalTensor<Self>,
        #[extension_type] residual: OptionalTensor<Self>,
        geometry: Geometry,
        packed: PackedWeights,
    ) -> FloatTensor<Self>;
    /// See [`super::norm_conv2d`].
    fn norm_conv2d(
        x: FloatTensor<Self>,
        #[extension_type] skip: OptionalTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        #[extension_type] scale_shift: OptionalTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        #[extension_type] shift: OptionalTensor<Self>,
        #[extension_type] residual: OptionalTensor<Self>,
        options: NormOptions,
        geometry: Geometry,
        packed: PackedWeights,
    ) -> FloatTensor<Self>;
    /// See [`super::linear`].
    fn linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        #[extension_type] residual: OptionalTensor<Self>,
        packed: PackedWeights,
    ) -> FloatTensor<Self>;
    /// See [`super::group_norm`].
    fn group_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        #[extension_type] scale_shift: OptionalTensor<Self>,
        options: NormOptions,
    ) -> FloatTensor<Self>;
    /// See [`super::rms_norm`].
    fn rms_norm(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        #[extension_type] scale_shift: OptionalTensor<Self>,
        silu: bool,
    ) -> FloatTensor<Self>;
    /// See [`super::attention`] and [`super::linear_attention`].
    fn attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        heads: usize,
        kind: AttentionKind,
    ) -> FloatTensor<Self>;
    /// See [`super::silu`].
    fn silu(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// See [`super::observe`].
    fn observe(x: FloatTensor<Self>, index: usize, observer: GradientObserver) -> FloatTensor<Self>;
    /// See [`super::with_gradient`].
    fn with_gradient(
        x: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        #[extension_type] after: OptionalTensor<Self>,
    ) -> FloatTensor<Self>;
    /// See [`super::identity`].
    fn identity(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// See [`super::upsample2x`].
    fn upsample2x(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// See [`super::average_pool2x`].
    fn average_pool2x(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// See [`super::filter_down2x`].
    fn filter_down2x(x: FloatTensor<Self>, filter: Filter) -> FloatTensor<Self>;
    /// See [`super::filter_up2x`].
    fn filter_up2x(x: FloatTensor<Self>, filter: Filter) -> FloatTensor<Self>;
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
    /// See [`super::sum_of_squares`]. Returns the sum as two f32: rounded, and the remainder.
    fn sum_of_squares(x: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl FlexOps for Flex {
    fn conv2d(
        x: FlexTensor,
        skip: OptionalTensor<Self>,
        weight: FlexTensor,
        bias: FlexTensor,
        shift: OptionalTensor<Self>,
        residual: OptionalTensor<Self>,
        geometry: Geometry,
        packed: PackedWeights,
    ) -> FlexTensor {
        let (x, weight, bias) = (x.to_contiguous(), weight.to_contiguous(), bias.to_contiguous());
        let (skip, shift, residual) = (contiguous(skip), contiguous(shift), contiguous(residual));
        let shape = conv_shape(&x, &weight, geometry);
        let filter = packed.get_or_pack(&shape, &weight);
        tensor_with([shape.n, shape.out_h(), shape.out_w(), shape.c_out], |y| {
            let inputs = conv_inputs(&x, &bias, shift.as_ref(), residual.as_ref());
            let inputs = ConvInputs { skip: skip.as_ref().map(values), ..inputs };
            kernels::conv2d_packed(&shape, inputs, &filter, y);
        })
    }

    fn norm_conv2d(
        x: FlexTensor,
        skip: OptionalTensor<Self>,
        gamma: FlexTensor,
        beta: FlexTensor,
        scale_shift: OptionalTensor<Self>,
        weight: FlexTensor,
        bias: FlexTensor,
        shift: OptionalTensor<Self>,
        residual: OptionalTensor<Self>,
        options: NormOptions,
        geometry: Geometry,
        packed: PackedWeights,
    ) -> FlexTensor {
        let (x, weight, bias) = (x.to_contiguous(), weight.to_contiguous(), bias.to_contiguous());
        let (skip, shift, residual) = (contiguous(skip), contiguous(shift), contiguous(residual));
        let shape = conv_shape(&x, &weight, geometry);
        let norm = FlexNorm::new(gamma, beta, contiguous(scale_shift), options);
        let norm = norm.stats(&x, skip.as_ref()).normalization;
        let filter = packed.get_or_pack(&shape, &weight);
        tensor_with([shape.n, shape.out_h(), shape.out_w(), shape.c_out], |y| {
            let inputs = conv_inputs(&x, &bias, shift.as_ref(), residual.as_ref());
            let inputs = ConvInputs { skip: skip.as_ref().map(values), norm: Some(&norm), ..inputs };
            kernels::conv2d_packed(&shape, inputs, &filter, y);
        })
    }

    fn linear(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        residual: OptionalTensor<Self>,
        packed: PackedWeights,
    ) -> FlexTensor {
        let residual = contiguous(residual);
        let (x, weight, bias) = (x.to_contiguous(), weight.to_contiguous(), bias.to_contiguous());
        let shape = linear_shape(&x, &weight);
        let filter = packed.get_or_pack(&shape, &weight);
        tensor_with([shape.w, shape.c_out], |y| {
            kernels::conv2d_packed(&shape, conv_inputs(&x, &bias, None, residual.as_ref()), &filter, y);
        })
    }

    fn group_norm(
        x: FlexTensor,
        gamma: FlexTensor,
        beta: FlexTensor,
        scale_shift: OptionalTensor<Self>,
        options: NormOptions,
    ) -> FlexTensor {
        FlexNorm::new(gamma, beta, contiguous(scale_shift), options).forward(&x.to_contiguous()).0
    }

    fn rms_norm(x: FlexTensor, gain: FlexTensor, scale_shift: OptionalTensor<Self>, silu: bool) -> FlexTensor {
        FlexRmsNorm::new(gain, contiguous(scale_shift), silu).forward(&x.to_contiguous())
    }

    fn attention(q: FlexTensor, k: FlexTensor, v: FlexTensor, heads: usize, kind: AttentionKind) -> FlexTensor {
        attention([&q.to_contiguous(), &k.to_contiguous(), &v.to_contiguous()], heads, kind)
    }

    fn observe(x: FlexTensor, _: usize, _: GradientObserver) -> FlexTensor {
        x
    }

    fn with_gradient(_: FlexTensor, _: FlexTensor, _: OptionalTensor<Self>) -> FlexTensor {
        tensor([1], vec![0.0])
    }

    fn identity(x: FlexTensor) -> FlexTensor {
        x
    }

    fn silu(x: FlexTensor) -> FlexTensor {
        let x = x.to_contiguous();
        tensor_with(dims::<2>(&x), |y| kernels::silu(values(&x), y))
    }

    fn upsample2x(x: FlexTensor) -> FlexTensor {
        let x = x.to_contiguous();
        let [n, h, w, c] = dims(&x);
        tensor_with([n, 2 * h, 2 * w, c], |y| kernels::upsample2x([n, h, w, c], values(&x), y))
    }

    fn average_pool2x(x: FlexTensor) -> FlexTensor {
        let x = x.to_contiguous();
        let [n, h, w, c] = dims(&x);
        tensor_with([n, h / 2, w / 2, c], |y| kernels::average_pool2x([n, h, w, c], values(&x), y))
    }

    fn filter_down2x(x: FlexTensor, filter: Filter) -> FlexTensor {
        let x = x.to_contiguous();
        let shape = filter_shape(dims(&x), &filter);
        let [h, w] = shape.small;
        tensor_with([shape.n, h, w, shape.channels], |y| kernels::filter_down2x(&shape, &filter.taps, values(&x), y))
    }

    fn filter_up2x(x: FlexTensor, filter: Filter) -> FlexTensor {
        let x = x.to_contiguous();
        let [n, h, w, c] = dims(&x);
        let shape = FilterShape { small: [h, w], ..filter_shape([n, 2 * h, 2 * w, c], &filter) };
        tensor_with([n, 2 * h, 2 * w, c], |y| kernels::filter_up2x(&shape, &filter.taps, values(&x), y))
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
        let buffers = AdamBuffers {
            parameter: parameter.storage_mut(),
            moment1: moment1.storage_mut(),
            moment2: moment2.storage_mut(),
            average: average.storage_mut(),
        };
        kernels::adam(&step, values(&gradient), buffers);
        (parameter, moment1, moment2, average)
    }

    fn sum_of_squares(x: FlexTensor) -> FlexTensor {
        let sum = kernels::sum_of_squares(values(&x.to_contiguous()));
        let high = sum as f32;
        tensor_with([2], |y| y.copy_from_slice(&[high, (sum - f64::from(high)) as f32]))
    }
}

/// Returns the elements of a contiguous tensor. Callers use `to_contiguous` first.
pub(super) fn values(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().expect("a contiguous f32 tensor")
}

/// Returns the shape of a tensor of known rank.
pub(super) fn dims<const D: usize>(tensor: &FlexTensor) -> [usize; D] {
    tensor.layout().shape().dims()
}

/// Creates a tensor whose elements `init` writes, all of them.
pub(super) fn tensor_with<const D: usize>(dims: [usize; D], init: impl FnOnce(&mut [f32])) -> FlexTensor {
    tensor(dims, kernels::init_with(dims.iter().product(), init))
}

/// Creates a tensor from values.
pub(super) fn tensor<const D: usize>(dims: [usize; D], values: Vec<f32>) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(Shape::from(dims)), DType::F32)
}

/// Returns the tensor of an [`OptionalTensor`], made contiguous.
pub(super) fn contiguous(tensor: OptionalTensor<Flex>) -> Option<FlexTensor> {
    match tensor {
        OptionalTensor::Present(tensor) => Some(tensor.to_contiguous()),
        OptionalTensor::Absent => None,
    }
}

/// Returns the shape of a convolution of these tensors.
pub(super) fn conv_shape(x: &FlexTensor, weight: &FlexTensor, geometry: Geometry) -> ConvShape {
    // x may hold only the first channels, so c_in is taken from the weights.
    let ([n, h, w, _], [kh, kw, c_in, c_out]) = (dims(x), dims(weight));
    let Geometry { stride, before, after } = geometry;
    let pad = Pad { top: before, bottom: after, left: before, right: after };
    ConvShape { n, h, w, c_in, c_out, kernel: (kh, kw), stride, pad }
}

/// Returns the shape of a change of size from or to these large images.
pub(super) fn filter_shape([n, h, w, channels]: [usize; 4], filter: &Filter) -> FilterShape {
    let small = [h, w].map(|size| filter.small(size));
    FilterShape { n, large: [h, w], small, channels, margin: filter.margin }
}

/// Returns the inputs of a convolution, without skip connection and normalization.
pub(super) fn conv_inputs<'a>(
    x: &'a FlexTensor,
    bias: &'a FlexTensor,
    shift: Option<&'a FlexTensor>,
    residual: Option<&'a FlexTensor>,
) -> ConvInputs<'a> {
    let (bias, shift, residual) = (Some(values(bias)), shift.map(values), residual.map(values));
    ConvInputs { bias, shift, residual, ..ConvInputs::new(values(x)) }
}

/// A group normalization: [`Norm`](super::Norm) with tensors of Flex, all contiguous.
pub(super) struct FlexNorm {
    gamma: FlexTensor,
    beta: FlexTensor,
    scale_shift: Option<FlexTensor>,
    options: NormOptions,
}

impl FlexNorm {
    /// Makes `gamma` and `beta` contiguous; `scale_shift` is contiguous.
    pub(super) fn new(
        gamma: FlexTensor,
        beta: FlexTensor,
        scale_shift: Option<FlexTensor>,
        options: NormOptions,
    ) -> Self {
        Self { gamma: gamma.to_contiguous(), beta: beta.to_contiguous(), scale_shift, options }
    }

    /// Calls `f` with the argument of the kernels for images of the size of `x`.
    pub(super) fn with_kernel<T>(&self, x: &FlexTensor, f: impl FnOnce(&FusedGroupNorm) -> T) -> T {
        // x may hold only the first channels, so their number is taken from the parameters.
        let ([n, h, w, _], [channels]) = (dims(x), dims(&self.gamma));
        let NormOptions { groups, epsilon, silu } = self.options;
        let shape = GroupNormShape { n, pixels: h * w, channels, groups, eps: epsilon as f32 };
        let halves = self.scale_shift.as_ref().map(|rows| split_scale_shift(values(rows), channels));
        let scale_shift = halves.as_ref().map(|[scale, shift]| (scale.as_slice(), shift.as_slice()));
        f(&FusedGroupNorm { shape, gamma: values(&self.gamma), beta: values(&self.beta), scale_shift, silu })
    }

    /// Returns the normalized images, and the mean and 1/σ of each image and group, `[N,groups,2]`.
    pub(super) fn forward(&self, x: &FlexTensor) -> (FlexTensor, Vec<f32>) {
        self.with_kernel(x, |norm| {
            let mut mean_rstd = vec![0.0; norm.shape.n * norm.shape.groups * 2];
            let y = tensor_with(dims::<4>(x), |y| kernels::group_norm(norm, values(x), y, &mut mean_rstd));
            (y, mean_rstd)
        })
    }

    /// Computes the statistics of x and `skip` concatenated.
    pub(super) fn stats(&self, x: &FlexTensor, skip: Option<&FlexTensor>) -> NormStats {
        self.with_kernel(x, |norm| {
            let mut mean_rstd = vec![0.0; norm.shape.n * norm.shape.groups * 2];
            let parts = [values(x), skip.map(values).unwrap_or_default()];
            let normalization = Normalization::new(norm, parts, &mut mean_rstd);
            NormStats { normalization, mean_rstd }
        })
    }
}

/// An RMS normalization with tensors of Flex, all contiguous.
pub(super) struct FlexRmsNorm {
    gain: FlexTensor,
    scale_shift: Option<FlexTensor>,
    silu: bool,
}

impl FlexRmsNorm {
    /// Makes `gain` contiguous; `scale_shift` is contiguous.
    pub(super) fn new(gain: FlexTensor, scale_shift: Option<FlexTensor>, silu: bool) -> Self {
        Self { gain: gain.to_contiguous(), scale_shift, silu }
    }

    /// Calls `f` with the argument of the kernels for images of the size of `x`.
    pub(super) fn with_kernel<T>(&self, x: &FlexTensor, f: impl FnOnce(&FusedRmsNorm) -> T) -> T {
        let [n, h, w, channels] = dims(x);
        let halves = self.scale_shift.as_ref().map(|rows| split_scale_shift(values(rows), channels));
        let scale_shift = halves.as_ref().map(|[scale, shift]| (scale.as_slice(), shift.as_slice()));
        f(&FusedRmsNorm { n, pixels: h * w, gain: values(&self.gain), scale_shift, silu: self.silu })
    }

    /// Returns the normalized images.
    pub(super) fn forward(&self, x: &FlexTensor) -> FlexTensor {
        self.with_kernel(x, |norm| tensor_with(dims::<4>(x), |y| kernels::rms_norm(norm, values(x), y)))
    }
}

/// A group normalization with the statistics of given images.
pub(super) struct NormStats {
    pub normalization: Normalization,
    /// Mean and 1/σ of each image and group, `[N,groups,2]`.
    pub mean_rstd: Vec<f32>,
}

pub(super) fn conv2d(shape: &ConvShape, inputs: ConvInputs, weight: &FlexTensor) -> FlexTensor {
    tensor_with([shape.n, shape.out_h(), shape.out_w(), shape.c_out], |y| {
        kernels::conv2d(shape, inputs, values(weight), y);
    })
}

pub(super) fn concat(x: &FlexTensor, y: &FlexTensor) -> FlexTensor {
    let ([n, h, w, a], [.., b]) = (dims::<4>(x), dims::<4>(y));
    tensor_with([n, h, w, a + b], |out| kernels::concat_channels([a, b], [values(x), values(y)], out))
}

/// Returns the shape of a linear layer as a 1×1 convolution over an image of one row.
pub(super) fn linear_shape(x: &FlexTensor, weight: &FlexTensor) -> ConvShape {
    let ([w, c_in], [_, c_out]) = (dims(x), dims(weight));
    ConvShape { n: 1, h: 1, w, c_in, c_out, kernel: (1, 1), stride: 1, pad: Pad::default() }
}

pub(super) fn linear(
    x: &FlexTensor,
    weight: &FlexTensor,
    bias: &FlexTensor,
    residual: Option<&FlexTensor>,
) -> FlexTensor {
    let shape = linear_shape(x, weight);
    tensor_with([shape.w, shape.c_out], |y| {
        kernels::conv2d(&shape, conv_inputs(x, bias, None, residual), values(weight), y);
    })
}

/// Splits rows of scales and shifts into the scales and the shifts, each `[N,C]`.
pub(super) fn split_scale_shift(rows: &[f32], channels: usize) -> [Vec<f32>; 2] {
    let half =
        |start: usize| rows.chunks(2 * channels).flat_map(|row| row[start..][..channels].iter().copied()).collect();
    [half(0), half(channels)]
}

pub(super) fn attention_shape(q: &FlexTensor, k: &FlexTensor, heads: usize) -> AttentionShape {
    let ([n, tokens, channels], [_, keys, _]) = (dims(q), dims::<3>(k));
    AttentionShape { n, tokens, keys, heads, head_dim: channels / heads }
}

pub(super) fn attention_inputs<'a>(q: &'a FlexTensor, k: &'a FlexTensor, v: &'a FlexTensor) -> AttentionInputs<'a> {
    AttentionInputs { q: values(q), k: values(k), v: values(v) }
}

pub(super) fn attention([q, k, v]: [&FlexTensor; 3], heads: usize, kind: AttentionKind) -> FlexTensor {
    let shape = attention_shape(q, k, heads);
    let forward = match kind {
        AttentionKind::Full => kernels::attention,
        AttentionKind::Linear => kernels::linear_attention,
    };
    tensor_with(dims::<3>(q), |out| forward(&shape, attention_inputs(q, k, v), out))
}
