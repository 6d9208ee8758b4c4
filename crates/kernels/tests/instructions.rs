//! Tests that all instruction sets of this machine agree. It is a single test, because the limit is global.

mod common;

use common::*;
use ddpm_kernels::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

#[test]
fn every_instruction_set_matches_the_reference() {
    let best = instruction_set();
    let mut runner = TestRunner::deterministic();
    for set in [InstructionSet::Portable, InstructionSet::Avx2, InstructionSet::Avx512] {
        limit_instruction_set(set);
        assert_eq!(instruction_set(), set.min(best));
        for _ in 0..25 {
            let shape =
                proptest::strategy::Strategy::new_tree(&convolutions(), &mut runner).expect("a shape").current();
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
        }
        let shape = AttentionShape { n: 2, tokens: 37, keys: 37, heads: 2, head_dim: 19 };
        let [q, k, v] = [1, 2, 3].map(|seed| numbers(2 * 37 * 38, seed));
        let mut out = vec![f32::NAN; q.len()];
        attention(&shape, AttentionInputs { q: &q, k: &k, v: &v }, &mut out);
        assert_close(&out, &wide_attention(&shape, &q, &k, &v), 1e-5, "attention");
        let shape = GroupNormShape { n: 2, pixels: 70, channels: 24, groups: 8, eps: 1e-5 };
        let x = numbers(2 * 70 * 24, 1);
        let (gamma, beta) = (numbers(24, 2), numbers(24, 3));
        let mut out = vec![f32::NAN; x.len()];
        let norm = FusedGroupNorm { shape, gamma: &gamma, beta: &beta, scale_shift: None, silu: true };
        group_norm(&norm, &x, &mut out, &mut [0.0; 32]);
        let (gamma, beta) = (wide(&gamma), wide(&beta));
        let norm = FusedGroupNorm { shape, gamma: &gamma, beta: &beta, scale_shift: None, silu: true };
        let expected = reference::group_norm(&norm, &wide(&x));
        assert_close(&out, &expected, 5e-6, &format!("{set:?}: group_norm"));
    }
}
