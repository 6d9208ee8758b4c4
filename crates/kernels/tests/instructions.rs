//! Tests that all instruction sets of this machine give the same bits, which are close to the reference. It is a single test,
//! because the limit is global.

mod common;

use common::*;
use ddpm_kernels::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

#[test]
fn every_instruction_set_gives_the_same_bits() {
    let best = instruction_set();
    let mut first: Option<Vec<(String, Vec<f32>)>> = None;
    for set in [InstructionSet::Avx512, InstructionSet::Avx2, InstructionSet::Portable] {
        limit_instruction_set(set);
        assert_eq!(instruction_set(), set.min(best));
        let results = results(set);
        let first = first.get_or_insert_with(|| results.clone());
        for ((what, found), (_, expected)) in results.iter().zip(first.iter()) {
            assert_same_bits(found, expected, &format!("{set:?}: {what}"));
        }
    }
}

/// Every operation, compared with the reference where it has one.
fn results(set: InstructionSet) -> Vec<(String, Vec<f32>)> {
    let mut all = Vec::new();
    let mut keep = |what: &str, result: Vec<f32>| all.push((what.to_owned(), result));
    let mut runner = TestRunner::deterministic();
    for _ in 0..60 {
        let shape = proptest::strategy::Strategy::new_tree(&convolutions(), &mut runner).expect("a shape").current();
        let (x, w) = (numbers(shape.input_len(), 1), numbers(shape.weight_len(), 2));
        let dy = numbers(shape.output_len(), 3);
        let mut out = vec![f32::NAN; shape.output_len()];
        conv2d(&shape, ConvInputs::new(&x), &w, &mut out);
        let expected = reference::conv2d(&shape, &wide(&x), &wide(&w), Epilogue::default());
        assert_close(&out, &expected, 2e-5, &format!("{set:?} {shape:?}: forward"));
        let mut dx = vec![f32::NAN; shape.input_len()];
        conv2d_grad_input(&shape, &dy, &w, &mut dx);
        let expected = reference::conv2d_grad_input(&shape, &wide(&dy), &wide(&w));
        assert_close(&dx, &expected, 2e-5, &format!("{set:?} {shape:?}: grad_input"));
        let mut dw = vec![f32::NAN; shape.weight_len()];
        conv2d_grad_weight(&shape, &x, &dy, &mut dw);
        let expected = reference::conv2d_grad_weight(&shape, &wide(&x), &wide(&dy));
        assert_close(&dw, &expected, 2e-5, &format!("{set:?} {shape:?}: grad_weight"));
        [out, dx, dw].into_iter().for_each(|result| keep(&format!("{shape:?}"), result));
    }
    let shape = AttentionShape { n: 2, tokens: 37, keys: 37, heads: 2, head_dim: 19 };
    let [q, k, v] = [1, 2, 3].map(|seed| numbers(2 * 37 * 38, seed));
    let mut out = vec![f32::NAN; q.len()];
    attention(&shape, AttentionInputs { q: &q, k: &k, v: &v }, &mut out);
    assert_close(&out, &wide_attention(&shape, &q, &k, &v), 1e-5, "attention");
    let (dout, mut gradients) = (numbers(q.len(), 4), [1, 2, 3].map(|_| vec![f32::NAN; q.len()]));
    let [dq, dk, dv] = &mut gradients;
    attention_backward(&shape, AttentionInputs { q: &q, k: &k, v: &v }, &dout, AttentionGradients { dq, dk, dv });
    keep("attention", [vec![out.clone()], gradients.to_vec()].concat().concat());
    let [dq, dk, dv] = &mut gradients;
    linear_attention(&shape, AttentionInputs { q: &q, k: &k, v: &v }, &mut out);
    linear_attention_backward(
        &shape,
        AttentionInputs { q: &q, k: &k, v: &v },
        &dout,
        AttentionGradients { dq, dk, dv },
    );
    keep("linear attention", [vec![out], gradients.to_vec()].concat().concat());
    let shape = GroupNormShape { n: 2, pixels: 70, channels: 24, groups: 8, eps: 1e-5 };
    let x = numbers(2 * 70 * 24, 1);
    let (gamma, beta) = (numbers(24, 2), numbers(24, 3));
    let mut out = vec![f32::NAN; x.len()];
    let norm = FusedGroupNorm { shape, gamma: &gamma, beta: &beta, scale_shift: None, silu: true };
    let mut mean_rstd = [0.0; 32];
    group_norm(&norm, &x, &mut out, &mut mean_rstd);
    let dy = numbers(x.len(), 4);
    let (mut dx, mut dgamma, mut dbeta) = (vec![f32::NAN; x.len()], [f32::NAN; 24], [f32::NAN; 24]);
    let gradients = GroupNormGradients { dx: &mut dx, dgamma: &mut dgamma, dbeta: &mut dbeta, dscale_shift: None };
    group_norm_backward(&norm, GroupNormSaved { x: &x, mean_rstd: &mean_rstd }, &dy, gradients);
    keep("group norm", [&out, &mean_rstd[..], &dx, &dgamma, &dbeta].concat());
    let rms = FusedRmsNorm { n: 2, pixels: 70, gain: &gamma, scale_shift: None, silu: true };
    let (mut normalized, mut dgain) = (vec![f32::NAN; x.len()], [f32::NAN; 24]);
    rms_norm(&rms, &x, &mut normalized);
    rms_norm_backward(&rms, &x, &dy, RmsNormGradients { dx: &mut dx, dgain: &mut dgain, dscale_shift: None });
    keep("RMS norm", [&normalized[..], &dx, &dgain].concat());
    silu_backward(&x, &dy, &mut dx);
    silu(&x, &mut normalized);
    keep("SiLU", [&normalized[..], &dx].concat());
    let mut sums = [f32::NAN; 48];
    per_image_channel_sums(2, &x, &mut sums);
    keep("sums", [&sums[..], &[sum_of_squares(&x) as f32]].concat());
    for (a_transposed, b_transposed) in [(false, false), (true, false), (false, true)] {
        let mut product = vec![f32::NAN; 70 * 35];
        let shape = MatMulShape { m: 70, k: 48, n: 35, a_transposed, b_transposed };
        matmul(&shape, [&x[..70 * 48], &numbers(48 * 35, 5)], None, &mut product);
        keep("product", product);
    }
    let [mut parameter, mut moment1, mut moment2, mut average] = [6, 7, 8, 9].map(|seed| numbers(1003, seed));
    moment2.iter_mut().for_each(|moment| *moment = moment.abs());
    let buffers =
        AdamBuffers { parameter: &mut parameter, moment1: &mut moment1, moment2: &mut moment2, average: &mut average };
    let step = AdamStep {
        learning_rate: 1e-3,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        step: 17,
        gradient_scale: 0.7,
        ema_decay: 0.99,
        weight_decay: 0.01,
    };
    adam(&step, &numbers(1003, 10), buffers);
    keep("Adam", [parameter, moment1, moment2, average].concat());
    let (gamma, beta) = (wide(&gamma), wide(&beta));
    let norm = FusedGroupNorm { shape, gamma: &gamma, beta: &beta, scale_shift: None, silu: true };
    let expected = reference::group_norm(&norm, &wide(&x));
    assert_close(&out, &expected, 5e-6, &format!("{set:?}: group_norm"));
    all
}
