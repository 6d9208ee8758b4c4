//! Compares values and gradients of all operations with the reference operations, for random shapes.

use burn::tensor::{Device, Distribution, Tensor};
use ddpm_unet::ops::{self, AdamState, Filter, Fusion, Geometry, Norm, NormOptions, PackedWeights, Weights, reference};
use proptest::prelude::*;

fn device() -> Device {
    Device::flex().autodiff()
}

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex()).autodiff().require_grad()
}

/// Returns the largest difference relative to the largest value. A value below 0.1 counts as 0.1: the inputs are of the order of 1,
/// so an output that small is what is left of terms that cancelled, with the rounding error of the terms.
fn relative<const D: usize>(got: &Tensor<D>, expected: &Tensor<D>) -> f64 {
    let values = |t: &Tensor<D>| t.clone().inner().into_data().iter::<f64>().collect::<Vec<_>>();
    let (got, expected) = (values(got), values(expected));
    assert_eq!(got.len(), expected.len());
    let scale = expected.iter().fold(0.1f64, |m, v| m.max(v.abs()));
    got.iter().zip(&expected).fold(0f64, |m, (g, e)| m.max((g - e).abs())) / scale
}

/// Compares the values of both implementations, and their gradients for the same random output gradient.
macro_rules! compare {
    ($tolerance:expr, [$($input:ident),+], $fused:expr, $reference:expr) => {{
        let (fused, reference) = ($fused, $reference);
        let error = relative(&fused, &reference);
        prop_assert!(error < $tolerance, "value off by {error:e}");
        let weights = random(fused.dims()).detach();
        let gradients = (fused * weights.clone()).sum().backward();
        let expected = (reference * weights).sum().backward();
        $(
            let got = $input.grad(&gradients).unwrap();
            let reference = $input.grad(&expected).unwrap();
            let error = relative(&got, &reference);
            prop_assert!(error < $tolerance, "gradient of {} off by {error:e}", stringify!($input));
        )+
    }};
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn conv2d(
        (n, h, w) in (1usize..4, 2usize..10, 2usize..10), (c_in, c_out) in (1usize..20, 1usize..20),
        kind in 0usize..4, extras in 0usize..4,
    ) {
        let (kernel, geometry) = [
            (3, Geometry::same(3)),
            (1, Geometry::same(1)),
            (3, Geometry { stride: 2, before: 1, after: 1 }),
            (3, Geometry { stride: 2, before: 0, after: 1 }),
        ][kind];
        let x = random([n, h, w, c_in]);
        let weight = random([kernel, kernel, c_in, c_out]);
        let bias = random([c_out]);
        let shift = random([n, c_out]);
        let residual = random([n, geometry.out(h, kernel), geometry.out(w, kernel), c_out]);
        let call = |f: fn(_, Weights<4>, _, _) -> _| -> Tensor<4> {
            let (shift, residual) = ((extras & 1 == 1).then(|| shift.clone()), (extras & 2 == 2).then(|| residual.clone()));
            let packed = PackedWeights::default();
            let weights = Weights { weight: weight.clone(), bias: bias.clone(), packed: &packed };
            f(x.clone(), weights, geometry, Fusion { shift, residual, ..Fusion::default() })
        };
        match extras {
            0 => compare!(2e-5, [x, weight, bias], call(ops::conv2d), call(reference::conv2d)),
            1 => compare!(2e-5, [x, weight, bias, shift], call(ops::conv2d), call(reference::conv2d)),
            2 => compare!(2e-5, [x, weight, bias, residual], call(ops::conv2d), call(reference::conv2d)),
            _ => compare!(2e-5, [x, weight, bias, shift, residual], call(ops::conv2d), call(reference::conv2d)),
        }
    }

    #[test]
    fn linear(m in 1usize..40, k in 1usize..40, n in 1usize..40) {
        let (x, weight, bias, residual) = (random([m, k]), random([k, n]), random([n]), random([m, n]));
        let call = |f: fn(_, Weights<2>, _) -> _| -> Tensor<2> {
            let packed = PackedWeights::default();
            let weights = Weights { weight: weight.clone(), bias: bias.clone(), packed: &packed };
            f(x.clone(), weights, Some(residual.clone()))
        };
        compare!(1e-5, [x, weight, bias, residual], call(ops::linear), call(reference::linear));
    }

    #[test]
    fn group_norm(
        (n, h, w) in (1usize..4, 1usize..7, 2usize..7), groups in 1usize..5, size in 1usize..9,
        scaled in any::<bool>(), silu in any::<bool>(),
    ) {
        let channels = groups * size;
        let (x, gamma, beta) = (random([n, h, w, channels]), random([channels]), random([channels]));
        let scale_shift = random([n, 2 * channels]);
        let call = |f: fn(_, _) -> _| -> Tensor<4> {
            let scale_shift = scaled.then(|| scale_shift.clone());
            let options = NormOptions { groups, epsilon: 1e-2, silu };
            f(x.clone(), Norm { gamma: gamma.clone(), beta: beta.clone(), scale_shift, options })
        };
        if scaled {
            compare!(1e-4, [x, gamma, beta, scale_shift], call(ops::group_norm), call(reference::group_norm));
        } else {
            compare!(1e-4, [x, gamma, beta], call(ops::group_norm), call(reference::group_norm));
        }
    }

    #[test]
    fn norm_conv2d(
        (n, h, w) in (1usize..4, 2usize..10, 2usize..10), groups in 1usize..4, size in 1usize..20,
        c_out in 1usize..40, scaled in any::<bool>(), silu in any::<bool>(),
    ) {
        let channels = groups * size;
        let (x, gamma, beta) = (random([n, h, w, channels]), random([channels]), random([channels]));
        let (scale_shift, weight, bias) = (random([n, 2 * channels]), random([3, 3, channels, c_out]), random([c_out]));
        let (shift, residual) = (random([n, c_out]), random([n, h, w, c_out]));
        let geometry = Geometry::same(3);
        let options = NormOptions { groups, epsilon: 1e-2, silu };
        let given = scaled.then(|| scale_shift.clone());
        let norm = Norm { gamma: gamma.clone(), beta: beta.clone(), scale_shift: given, options };
        let packed = PackedWeights::default();
        let weights = Weights { weight: weight.clone(), bias: bias.clone(), packed: &packed };
        let added = Fusion { shift: Some(shift.clone()), residual: Some(residual.clone()), ..Fusion::default() };
        let fusion = Fusion { norm: Some(norm.clone()), ..added.clone() };
        let fused = ops::conv2d(x.clone(), weights.clone(), geometry, fusion);
        let apart = reference::conv2d(reference::group_norm(x.clone(), norm), weights, geometry, added);
        if scaled {
            compare!(1e-4, [x, gamma, beta, scale_shift, weight, bias, shift, residual], fused, apart);
        } else {
            compare!(1e-4, [x, gamma, beta, weight, bias, shift, residual], fused, apart);
        }
    }

    #[test]
    fn rms_norm(
        (n, h, w, c) in (1usize..4, 1usize..6, 1usize..6, 2usize..40), scales in any::<bool>(), silu in any::<bool>(),
    ) {
        let (x, gain) = (random([n, h, w, c]), random([c]));
        match scales {
            true => {
                let rows = random([n, 2 * c]);
                compare!(
                    2e-5, [x, gain, rows],
                    ops::rms_norm(x.clone(), gain.clone(), Some(rows.clone()), silu),
                    reference::rms_norm(x.clone(), gain.clone(), Some(rows.clone()), silu)
                );
            }
            false => compare!(
                2e-5, [x, gain],
                ops::rms_norm(x.clone(), gain.clone(), None, silu),
                reference::rms_norm(x.clone(), gain.clone(), None, silu)
            ),
        }
    }

    /// Linear attention is that of its definition, Σ_t softmax(k)_t v_t weighted by softmax(q), for a single query.
    #[test]
    fn linear_attention_of_one_query((keys, d) in (1usize..12, 1usize..6)) {
        let (q, k, v) = (random([1, 1, d]).inner(), random([1, keys, d]).inner(), random([1, keys, d]).inner());
        let values = |x: &Tensor<3>| x.to_data().iter::<f64>().collect::<Vec<f64>>();
        let (q, k, v, out) = (values(&q), values(&k), values(&v), values(&ops::linear_attention(q.clone(), k.clone(), v.clone(), 1)));
        let softmax = |x: Vec<f64>| {
            let sum: f64 = x.iter().map(|x| x.exp()).sum();
            x.into_iter().map(|x| x.exp() / sum).collect::<Vec<f64>>()
        };
        let q = softmax(q);
        for e in 0..d {
            let of_channel = |c: usize| -> f64 {
                softmax((0..keys).map(|t| k[t * d + c]).collect()).iter().enumerate().map(|(t, p)| p * v[t * d + e]).sum()
            };
            let expected = (0..d).map(|c| q[c] * of_channel(c)).sum::<f64>() / (d as f64).sqrt();
            prop_assert!((out[e] - expected).abs() < 1e-5, "found {}; expected {expected}", out[e]);
        }
    }

    #[test]
    fn attention(
        n in 1usize..4, tokens in 1usize..40, more_keys in 0usize..9, heads in 1usize..4, head_dim in 1usize..20,
    ) {
        let shape = [n, tokens, heads * head_dim];
        let keys = [n, tokens + more_keys, heads * head_dim];
        let (q, k, v) = (random(shape), random(keys), random(keys));
        compare!(
            2e-5, [q, k, v],
            ops::attention(q.clone(), k.clone(), v.clone(), heads),
            reference::attention(q.clone(), k.clone(), v.clone(), heads)
        );
        compare!(
            2e-5, [q, k, v],
            ops::linear_attention(q.clone(), k.clone(), v.clone(), heads),
            reference::linear_attention(q.clone(), k.clone(), v.clone(), heads)
        );
    }

    #[test]
    fn row_means(rows in 1usize..5, columns in prop_oneof![1usize..20, 60usize..70, 1000usize..1030]) {
        let x = random([rows, columns]);
        let means = ops::row_means(x.clone());
        // Each value takes part in ⌈log₂ columns⌉ additions and one division, each of which rounds once.
        let roundings = (columns as f64).log2().ceil() + 1.0;
        let values = x.clone().inner().into_data().iter::<f64>().collect::<Vec<_>>();
        for (row, mean) in values.chunks(columns).zip(means.clone().inner().into_data().iter::<f64>()) {
            let exact = row.iter().sum::<f64>() / columns as f64;
            let magnitude = row.iter().map(|v| v.abs()).sum::<f64>() / columns as f64;
            let bound = 1.01 * roundings * f64::from(f32::EPSILON) / 2.0 * magnitude;
            prop_assert!((mean - exact).abs() <= bound, "found {mean}; expected {exact} within {bound:e}");
        }
        let weights = random([rows]).detach();
        let gradient = x.grad(&(means * weights.clone()).sum().backward()).unwrap();
        let gradient = Tensor::from_inner(gradient).mul_scalar(columns as f64);
        prop_assert!(relative(&gradient, &weights.reshape([rows, 1]).expand([rows, columns])) < 1e-6);
    }

    #[test]
    fn silu_upsample2x_and_concat((n, h, w, c) in (1usize..4, 1usize..6, 1usize..6, 1usize..20)) {
        let rows = random([n * h, w * c]);
        compare!(1e-5, [rows], ops::silu(rows.clone()), reference::silu(rows.clone()));
        let x = random([n, h, w, c]);
        compare!(1e-6, [x], ops::upsample2x(x.clone()), reference::upsample2x(x.clone()));
        let y = random([n, h, w, 3]);
        compare!(1e-6, [x, y], ops::concat(x.clone(), y.clone()), reference::concat(x.clone(), y.clone()));
    }

    #[test]
    fn changes_of_size(
        (n, h, w, c) in (1usize..4, 1usize..6, 1usize..6, 1usize..20), taps in 1usize..5, more in 0usize..3,
    ) {
        let filter: Vec<f64> = (0..2 * taps).map(|k| 1.0 + (k as f64 * 1.7).sin()).collect();
        let x = random([n, h, w, c]);
        let up = Filter::new(&filter, 2.0, taps - 1);
        compare!(1e-6, [x], ops::filter_up2x(x.clone(), &filter), reference::filter_up2x(x.clone(), &up));
        // The margin of a layer that halves the size, and others.
        let margin = taps - 1 + more;
        let x = random([n, 2 * h, 2 * w, c]);
        let down = Filter::new(&filter, 1.0, margin);
        compare!(1e-6, [x], ops::filter_down2x(x.clone(), &filter, margin), reference::filter_down2x(x.clone(), &down));
        let x = random([n, 2 * h + 1, 2 * w + more, c]);
        compare!(1e-7, [x], ops::average_pool2x(x.clone()), reference::average_pool2x(x.clone()));
    }

    #[test]
    fn adam(len in 1usize..3000, step in 1u64..1000, weight_decay in 0.0f64..1.0) {
        let inner = |_: ()| Tensor::<1>::random([len], Distribution::Normal(0.0, 1.0), &Device::flex());
        let (parameter, gradient, moment1, average) = (inner(()), inner(()), inner(()), inner(()));
        let moment2 = inner(()).abs();
        let step = ops::AdamStep {
            learning_rate: 2e-4, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, step, gradient_scale: 0.3, ema_decay: 0.99,
            weight_decay,
        };
        let state = AdamState { parameter, moment1, moment2, average };
        let fused = ops::adam(state.clone(), gradient.clone(), step);
        let reference = reference::adam(state, gradient.clone(), step);
        for error in [
            relative(&fused.parameter, &reference.parameter), relative(&fused.moment1, &reference.moment1),
            relative(&fused.moment2, &reference.moment2), relative(&fused.average, &reference.average),
        ] {
            prop_assert!(error < 1e-6, "{error:e}");
        }
        let sum = gradient.to_data().iter::<f64>().map(|v| v * v).sum::<f64>();
        prop_assert!((ops::sum_of_squares([gradient]) - sum).abs() < 1e-6 * sum);
    }
}

/// Weights packed without autodiff are cached between calls. The results must be those of the current weights.
#[test]
fn packed_weights_are_updated_when_weights_change() {
    let inner = |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex());
    let (x, bias) = (inner([2, 8, 8, 16]), Tensor::<1>::zeros([32], &Device::flex()));
    let packed = PackedWeights::default();
    for _ in 0..3 {
        let weight = inner([3, 3, 16, 32]);
        let call = |weight: Tensor<4>, packed: &PackedWeights| {
            let weights = Weights { weight, bias: bias.clone(), packed };
            ops::conv2d(x.clone(), weights, Geometry::same(3), Fusion::default()).into_data()
        };
        let fresh = call(weight.clone(), &PackedWeights::default());
        assert_eq!(call(weight.clone(), &packed), fresh);
        assert_eq!(call(weight.clone(), &packed), fresh);
        let (weight, bias) = (weight.autodiff().require_grad(), bias.clone().autodiff());
        let weights = Weights { weight, bias, packed: &packed };
        let tracked = ops::conv2d(x.clone().autodiff(), weights, Geometry::same(3), Fusion::default());
        assert_eq!(tracked.inner().into_data(), fresh);
    }
}

#[test]
fn flex_is_the_cpu() {
    assert!(ops::is_cpu(&device()));
    assert!(ops::is_cpu(&Device::flex()));
}
