//! The gradients of the kernels in Burn's autodiff graph.

use std::fmt;
use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Flex};
use burn_flex::FlexTensor;
use kernels::{
    AdamStep, AttentionGradients, ConvInputs, FilterShape, GroupNormGradients, GroupNormSaved, MatMulShape,
    RmsNormGradients,
};

use super::flex::{self, FlexNorm, FlexOps, FlexRmsNorm, OptionalTensor, PackedWeights, dims, tensor_with, values};
use super::types::{AttentionKind, Filter, Geometry, GradientObserver, NormOptions};

/// A function that maps the gradient of the output to the gradients of those inputs that need one.
type Pullback<const N: usize> = dyn Fn(FlexTensor, [bool; N]) -> [Option<FlexTensor>; N] + Send + Sync;

/// The saved state of a node: the pullback, which owns the tensors that it needs.
#[derive(Clone)]
struct Saved<const N: usize>(Arc<Pullback<N>>);

impl<const N: usize> fmt::Debug for Saved<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Saved")
    }
}

#[derive(Debug)]
struct ApplyPullback;

impl<const N: usize> Backward<Flex, N> for ApplyPullback {
    type State = Saved<N>;

    fn backward(self, ops: Ops<Saved<N>, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<Flex>(&ops.node).to_contiguous();
        let needed = ops.parents.each_ref().map(Option::is_some);
        for (parent, gradient) in ops.parents.into_iter().zip(ops.state.0(dy, needed)) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                grads.register::<Flex>(parent.id, gradient);
            }
        }
    }
}

/// Records an operation and its pullback in the graph. For an absent input, pass the node of another input and return
/// `None` as its gradient.
fn record<C: CheckpointStrategy, const N: usize>(
    inputs: [NodeGuard; N],
    output: FlexTensor,
    pullback: impl Fn(FlexTensor, [bool; N]) -> [Option<FlexTensor>; N] + Send + Sync + 'static,
) -> FloatTensor<Autodiff<Flex, C>> {
    match ApplyPullback.prepare::<C>(inputs).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(Saved(Arc::new(pullback)), output),
        OpsKind::UnTracked(prep) => prep.finish(output),
    }
}

/// Returns the tensor and the node of an [`OptionalTensor`], if it is present.
fn tensor_and_node<C: CheckpointStrategy>(
    tensor: OptionalTensor<Autodiff<Flex, C>>,
) -> (Option<FlexTensor>, Option<NodeGuard>) {
    match tensor {
        OptionalTensor::Present(tensor) => {
            let (tensor, guard) = tensor.into_parts();
            (Some(tensor.to_contiguous()), Some(guard))
        }
        OptionalTensor::Absent => (None, None),
    }
}

/// Concatenates x and `skip`, since the backward pass reads them several times.
fn concat_skip<C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<Flex, C>>,
    skip: OptionalTensor<Autodiff<Flex, C>>,
) -> FloatTensor<Autodiff<Flex, C>> {
    match skip {
        OptionalTensor::Present(skip) => <Autodiff<Flex, C> as FlexOps>::concat(x, skip),
        OptionalTensor::Absent => x,
    }
}

/// Computes the input gradient of a convolution. Only the shape of `x` matters.
fn grad_input(x: &FlexTensor, weight: &FlexTensor, dy: &FlexTensor, geometry: Geometry) -> FlexTensor {
    let shape = flex::conv_shape(x, weight, geometry);
    tensor_with(dims::<4>(x), |d| kernels::conv2d_grad_input(&shape, values(dy), values(weight), d))
}

/// Computes the weight gradient of a convolution. Only the shape of `weight` matters.
fn grad_weight(x: &FlexTensor, weight: &FlexTensor, dy: &FlexTensor, geometry: Geometry) -> FlexTensor {
    let shape = flex::conv_shape(x, weight, geometry);
    tensor_with(dims::<4>(weight), |d| kernels::conv2d_grad_weight(&shape, values(x), values(dy), d))
}

/// Computes the gradient of a time shift: the sums over the pixels of each image.
fn per_image_sums(dy: &FlexTensor) -> FlexTensor {
    let [n, _, _, channels] = dims(dy);
    tensor_with([n, channels], |d| kernels::per_image_channel_sums(n, values(dy), d))
}

/// Computes the gradient of a bias, from the sums per image if they are known.
fn grad_bias(dy: &FlexTensor, per_image: Option<&FlexTensor>) -> FlexTensor {
    let [.., channels] = dims::<4>(dy);
    tensor_with([channels], |d| kernels::channel_sums(values(per_image.unwrap_or(dy)), d))
}

/// Joins scales and shifts, each `[N,C]`, to rows `[N,2C]`.
fn join_scale_shift([scale, shift]: [Vec<f32>; 2], [n, c]: [usize; 2]) -> FlexTensor {
    tensor_with([n, 2 * c], |d| {
        for ((row, scale), shift) in d.chunks_mut(2 * c).zip(scale.chunks(c)).zip(shift.chunks(c)) {
            row[..c].copy_from_slice(scale);
            row[c..].copy_from_slice(shift);
        }
    })
}

/// Computes the gradients of an RMS normalization: of x, gain, and, if present, scale and shift.
fn grad_rms_norm(norm: &FlexRmsNorm, x: &FlexTensor, dy: &FlexTensor) -> [Option<FlexTensor>; 3] {
    norm.with_kernel(x, |kernel| {
        let (n, channels) = (kernel.n, kernel.gain.len());
        let mut dgain = vec![0.0; channels];
        let mut halves = kernel.scale_shift.map(|_| [(); 2].map(|()| vec![0.0; n * channels]));
        let dx = tensor_with(dims::<4>(x), |dx| {
            let dscale_shift = halves.as_mut().map(|[dscale, dshift]| (&mut dscale[..], &mut dshift[..]));
            let gradients = RmsNormGradients { dx, dgain: &mut dgain, dscale_shift };
            kernels::rms_norm_backward(kernel, values(x), values(dy), gradients);
        });
        let dscale_shift = halves.map(|halves| join_scale_shift(halves, [n, channels]));
        [Some(dx), Some(flex::tensor([channels], dgain)), dscale_shift]
    })
}

/// Computes the gradients of a group normalization: of x, gamma, beta, and, if present, scale and shift.
fn grad_norm(norm: &FlexNorm, x: &FlexTensor, mean_rstd: &[f32], dy: &FlexTensor) -> [Option<FlexTensor>; 4] {
    norm.with_kernel(x, |norm| {
        let (n, c) = (norm.shape.n, norm.shape.channels);
        let [mut dgamma, mut dbeta] = [vec![0.0; c], vec![0.0; c]];
        let mut dhalves = norm.scale_shift.map(|_| [vec![0.0; n * c], vec![0.0; n * c]]);
        let dx = tensor_with(dims::<4>(x), |dx| {
            let dscale_shift = dhalves.as_mut().map(|[scale, shift]| (scale.as_mut_slice(), shift.as_mut_slice()));
            let saved = GroupNormSaved { x: values(x), mean_rstd };
            let gradients = GroupNormGradients { dx, dgamma: &mut dgamma, dbeta: &mut dbeta, dscale_shift };
            kernels::group_norm_backward(norm, saved, values(dy), gradients);
        });
        let dscale_shift = dhalves.map(|halves| join_scale_shift(halves, [n, c]));
        [Some(dx), Some(flex::tensor([c], dgamma)), Some(flex::tensor([c], dbeta)), dscale_shift]
    })
}

impl<C: CheckpointStrategy> FlexOps for Autodiff<Flex, C> {
    fn conv2d(
        x: FloatTensor<Self>,
        skip: OptionalTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        shift: OptionalTensor<Self>,
        residual: OptionalTensor<Self>,
        geometry: Geometry,
        // Weights change at every training step, so caching them is useless.
        _: PackedWeights,
    ) -> FloatTensor<Self> {
        let x = concat_skip(x, skip);
        let absent = || x.node();
        let (shift, shift_node) = tensor_and_node(shift);
        let (residual, residual_node) = tensor_and_node(residual);
        let nodes = [
            x.node(),
            weight.node(),
            bias.node(),
            shift_node.unwrap_or_else(absent),
            residual_node.unwrap_or_else(absent),
        ];
        let (has_shift, has_residual) = (shift.is_some(), residual.is_some());
        let (x, weight) = (x.into_primitive().to_contiguous(), weight.into_primitive().to_contiguous());
        let bias = bias.into_primitive().to_contiguous();
        let inputs = flex::conv_inputs(&x, &bias, shift.as_ref(), residual.as_ref());
        let y = flex::conv2d(&flex::conv_shape(&x, &weight, geometry), inputs, &weight);
        record::<C, 5>(nodes, y, move |dy, [dx, dw, db, dshift, dresidual]| {
            let shift_gradient = (has_shift && dshift).then(|| per_image_sums(&dy));
            [
                dx.then(|| grad_input(&x, &weight, &dy, geometry)),
                dw.then(|| grad_weight(&x, &weight, &dy, geometry)),
                db.then(|| grad_bias(&dy, shift_gradient.as_ref())),
                shift_gradient,
                (has_residual && dresidual).then_some(dy),
            ]
        })
    }

    fn norm_conv2d(
        x: FloatTensor<Self>,
        skip: OptionalTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        scale_shift: OptionalTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        shift: OptionalTensor<Self>,
        residual: OptionalTensor<Self>,
        options: NormOptions,
        geometry: Geometry,
        _: PackedWeights,
    ) -> FloatTensor<Self> {
        let x = concat_skip(x, skip);
        let absent = || x.node();
        let (scale_shift, scale_shift_node) = tensor_and_node(scale_shift);
        let (shift, shift_node) = tensor_and_node(shift);
        let (residual, residual_node) = tensor_and_node(residual);
        let nodes = [
            x.node(),
            gamma.node(),
            beta.node(),
            scale_shift_node.unwrap_or_else(absent),
            weight.node(),
            bias.node(),
            shift_node.unwrap_or_else(absent),
            residual_node.unwrap_or_else(absent),
        ];
        let (has_shift, has_residual) = (shift.is_some(), residual.is_some());
        let [x, weight, bias] = [x, weight, bias].map(|tensor| tensor.into_primitive().to_contiguous());
        let norm = FlexNorm::new(gamma.into_primitive(), beta.into_primitive(), scale_shift, options);
        let stats = norm.stats(&x, None);
        let inputs = flex::conv_inputs(&x, &bias, shift.as_ref(), residual.as_ref());
        let inputs = ConvInputs { norm: Some(&stats.normalization), ..inputs };
        let y = flex::conv2d(&flex::conv_shape(&x, &weight, geometry), inputs, &weight);
        record::<C, 8>(nodes, y, move |dy, [_, _, _, _, dw, db, dshift, dresidual]| {
            let shift_gradient = (has_shift && dshift).then(|| per_image_sums(&dy));
            let dw = dw.then(|| {
                // Recomputed instead of stored: it takes one pass over memory and saves a third of a block's
                // activations.
                let normed = tensor_with(dims::<4>(&x), |y| stats.normalization.apply(values(&x), y));
                grad_weight(&normed, &weight, &dy, geometry)
            });
            let dnormed = grad_input(&x, &weight, &dy, geometry);
            let [dx, dgamma, dbeta, dscale_shift] = grad_norm(&norm, &x, &stats.mean_rstd, &dnormed);
            let db = db.then(|| grad_bias(&dy, shift_gradient.as_ref()));
            [dx, dgamma, dbeta, dscale_shift, dw, db, shift_gradient, (has_residual && dresidual).then_some(dy)]
        })
    }

    fn linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        residual: OptionalTensor<Self>,
        _: PackedWeights,
    ) -> FloatTensor<Self> {
        let (residual, residual_node) = tensor_and_node(residual);
        let nodes = [x.node(), weight.node(), bias.node(), residual_node.unwrap_or_else(|| x.node())];
        let has_residual = residual.is_some();
        let [x, weight, bias] = [x, weight, bias].map(|tensor| tensor.into_primitive());
        let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
        let y = flex::linear(&x, &weight, &bias.to_contiguous(), residual.as_ref());
        record::<C, 4>(nodes, y, move |dy, [dx, dw, db, dresidual]| {
            let ([m, k], [_, n]) = (dims(&x), dims(&weight));
            [
                dx.then(|| {
                    let shape = MatMulShape::new(m, n, k).transpose_b();
                    tensor_with([m, k], |d| kernels::matmul(&shape, [values(&dy), values(&weight)], None, d))
                }),
                dw.then(|| {
                    let shape = MatMulShape::new(k, m, n).transpose_a();
                    tensor_with([k, n], |d| kernels::matmul(&shape, [values(&x), values(&dy)], None, d))
                }),
                db.then(|| tensor_with([n], |d| kernels::channel_sums(values(&dy), d))),
                (has_residual && dresidual).then_some(dy),
            ]
        })
    }

    fn group_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        scale_shift: OptionalTensor<Self>,
        options: NormOptions,
    ) -> FloatTensor<Self> {
        let (scale_shift, scale_shift_node) = tensor_and_node(scale_shift);
        let nodes = [x.node(), gamma.node(), beta.node(), scale_shift_node.unwrap_or_else(|| x.node())];
        let x = x.into_primitive().to_contiguous();
        let norm = FlexNorm::new(gamma.into_primitive(), beta.into_primitive(), scale_shift, options);
        let (y, mean_rstd) = norm.forward(&x);
        record::<C, 4>(nodes, y, move |dy, _| grad_norm(&norm, &x, &mean_rstd, &dy))
    }

    fn rms_norm(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        scale_shift: OptionalTensor<Self>,
        silu: bool,
    ) -> FloatTensor<Self> {
        let (scale_shift, scale_shift_node) = tensor_and_node(scale_shift);
        let nodes = [x.node(), gain.node(), scale_shift_node.unwrap_or_else(|| x.node())];
        let x = x.into_primitive().to_contiguous();
        let norm = FlexRmsNorm::new(gain.into_primitive(), scale_shift, silu);
        record::<C, 3>(nodes, norm.forward(&x), move |dy, _| grad_rms_norm(&norm, &x, &dy))
    }

    fn attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        heads: usize,
        kind: AttentionKind,
    ) -> FloatTensor<Self> {
        let nodes = [q.node(), k.node(), v.node()];
        let [q, k, v] = [q, k, v].map(|x| x.into_primitive().to_contiguous());
        let out = flex::attention([&q, &k, &v], heads, kind);
        let backward = match kind {
            AttentionKind::Full => kernels::attention_backward,
            AttentionKind::Linear => kernels::linear_attention_backward,
        };
        record::<C, 3>(nodes, out, move |dy, _| {
            let shape = flex::attention_shape(&q, &k, heads);
            let (mut dk, mut dv) = (Vec::new(), Vec::new());
            let len = values(&k).len();
            let dq = tensor_with(dims::<3>(&q), |dq| {
                dk = kernels::init_with(len, |dk| {
                    dv = kernels::init_with(len, |dv| {
                        let inputs = flex::attention_inputs(&q, &k, &v);
                        backward(&shape, inputs, values(&dy), AttentionGradients { dq, dk, dv });
                    });
                });
            });
            [Some(dq), Some(flex::tensor(dims::<3>(&k), dk)), Some(flex::tensor(dims::<3>(&v), dv))]
        })
    }

    fn silu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let nodes = [x.node()];
        let x = x.into_primitive().to_contiguous();
        let y = <Flex as FlexOps>::silu(x.clone());
        record::<C, 1>(nodes, y, move |dy, _| {
            [Some(tensor_with(dims::<2>(&x), |d| kernels::silu_backward(values(&x), values(&dy), d)))]
        })
    }

    fn observe(x: FloatTensor<Self>, index: usize, observer: GradientObserver) -> FloatTensor<Self> {
        let nodes = [x.node()];
        record::<C, 1>(nodes, x.into_primitive(), move |dy, _| {
            observer.call(index, values(&dy));
            [None]
        })
    }

    fn with_gradient(
        x: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        after: OptionalTensor<Self>,
    ) -> FloatTensor<Self> {
        let (after, after_node) = tensor_and_node(after);
        let nodes = [x.node(), after_node.unwrap_or_else(|| x.node())];
        let (gradient, has_after) = (gradient.into_primitive(), after.is_some());
        let zero = <Flex as FlexOps>::with_gradient(x.into_primitive(), gradient.clone(), OptionalTensor::Absent);
        record::<C, 2>(nodes, zero, move |dy, _| [Some(gradient.clone()), has_after.then_some(dy)])
    }

    fn identity(x: FloatTensor<Self>) -> FloatTensor<Self> {
        record::<C, 1>([x.node()], x.into_primitive(), |dy, _| [Some(dy)])
    }

    fn upsample2x(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let nodes = [x.node()];
        let x = x.into_primitive();
        let [n, h, w, c] = dims(&x);
        record::<C, 1>(nodes, <Flex as FlexOps>::upsample2x(x), move |dy, _| {
            [Some(tensor_with([n, h, w, c], |d| kernels::upsample2x_backward([n, h, w, c], values(&dy), d)))]
        })
    }

    fn average_pool2x(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let nodes = [x.node()];
        let x = x.into_primitive();
        let shape = dims::<4>(&x);
        record::<C, 1>(nodes, <Flex as FlexOps>::average_pool2x(x), move |dy, _| {
            [Some(tensor_with(shape, |d| kernels::average_pool2x_backward(shape, values(&dy), d)))]
        })
    }

    fn filter_down2x(x: FloatTensor<Self>, filter: Filter) -> FloatTensor<Self> {
        let nodes = [x.node()];
        let x = x.into_primitive();
        let (large, shape) = (dims::<4>(&x), flex::filter_shape(dims(&x), &filter));
        record::<C, 1>(nodes, <Flex as FlexOps>::filter_down2x(x, filter.clone()), move |dy, _| {
            [Some(tensor_with(large, |d| kernels::filter_up2x(&shape, &filter.taps, values(&dy), d)))]
        })
    }

    fn filter_up2x(x: FloatTensor<Self>, filter: Filter) -> FloatTensor<Self> {
        let nodes = [x.node()];
        let x = x.into_primitive();
        let [n, h, w, c] = dims(&x);
        let shape = FilterShape { small: [h, w], ..flex::filter_shape([n, 2 * h, 2 * w, c], &filter) };
        record::<C, 1>(nodes, <Flex as FlexOps>::filter_up2x(x, filter.clone()), move |dy, _| {
            [Some(tensor_with([n, h, w, c], |d| kernels::filter_down2x(&shape, &filter.taps, values(&dy), d)))]
        })
    }

    fn concat(x: FloatTensor<Self>, y: FloatTensor<Self>) -> FloatTensor<Self> {
        let nodes = [x.node(), y.node()];
        let (x, y) = (x.into_primitive().to_contiguous(), y.into_primitive().to_contiguous());
        let ([n, h, w, a], [.., b]) = (dims::<4>(&x), dims::<4>(&y));
        record::<C, 2>(nodes, flex::concat(&x, &y), move |dy, _| {
            let pixels = n * h * w;
            let mut second = Vec::new();
            let first = tensor_with([n, h, w, a], |dx| {
                second =
                    kernels::init_with(pixels * b, |second| kernels::split_channels([a, b], values(&dy), [dx, second]));
            });
            [Some(first), Some(flex::tensor([n, h, w, b], second))]
        })
    }

    fn adam(
        parameter: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        moment1: FloatTensor<Self>,
        moment2: FloatTensor<Self>,
        average: FloatTensor<Self>,
        step: AdamStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        // An optimizer step has no gradient, so its results are leaves.
        let [parameter, gradient, moment1, moment2, average] =
            [parameter, gradient, moment1, moment2, average].map(|x| x.into_primitive());
        let (parameter, moment1, moment2, average) =
            <Flex as FlexOps>::adam(parameter, gradient, moment1, moment2, average, step);
        let leaf = FloatTensor::<Self>::new;
        (leaf(parameter), leaf(moment1), leaf(moment2), leaf(average))
    }

    fn sum_of_squares(x: FloatTensor<Self>) -> FloatTensor<Self> {
        FloatTensor::<Self>::new(<Flex as FlexOps>::sum_of_squares(x.into_primitive()))
    }
}
