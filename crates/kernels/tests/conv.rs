//! Tests convolutions and matrix products against plain loops, and their bits for any number of threads and images.

mod common;

use common::*;
use ddpm_kernels::*;
use proptest::prelude::*;

/// Tolerance relative to the largest value. Winograd's transforms lose a digit; the other algorithms are far better.
const TOLERANCE: f64 = 1e-5;

struct Case {
    x: Vec<f32>,
    w: Vec<f32>,
    bias: Vec<f32>,
    shift: Vec<f32>,
    residual: Vec<f32>,
    dy: Vec<f32>,
}

impl Case {
    fn new(shape: &ConvShape) -> Self {
        Case {
            x: numbers(shape.input_len(), 1),
            w: numbers(shape.weight_len(), 2),
            bias: numbers(shape.c_out, 3),
            shift: numbers(shape.n * shape.c_out, 4),
            residual: numbers(shape.output_len(), 5),
            dy: numbers(shape.output_len(), 6),
        }
    }

    fn inputs(&self) -> ConvInputs<'_> {
        let (bias, shift, residual) = (Some(&self.bias[..]), Some(&self.shift[..]), Some(&self.residual[..]));
        ConvInputs { bias, shift, residual, ..ConvInputs::new(&self.x) }
    }

    fn forward(&self, shape: &ConvShape) -> Vec<f32> {
        let mut out = vec![f32::NAN; shape.output_len()];
        conv2d(shape, self.inputs(), &self.w, &mut out);
        out
    }

    fn grad_input(&self, shape: &ConvShape) -> Vec<f32> {
        let mut dx = vec![f32::NAN; shape.input_len()];
        conv2d_grad_input(shape, &self.dy, &self.w, &mut dx);
        dx
    }

    fn grad_weight(&self, shape: &ConvShape) -> Vec<f32> {
        let mut dw = vec![f32::NAN; shape.weight_len()];
        conv2d_grad_weight(shape, &self.x, &self.dy, &mut dw);
        dw
    }
}

fn compare(shape: &ConvShape) {
    let case = Case::new(shape);
    let (x, w, dy) = (wide(&case.x), wide(&case.w), wide(&case.dy));
    let (bias, shift, residual) = (wide(&case.bias), wide(&case.shift), wide(&case.residual));
    let epilogue = Epilogue { bias: Some(&bias[..]), shift: Some(&shift[..]), residual: Some(&residual[..]) };
    let expected = reference::conv2d(shape, &x, &w, epilogue);
    assert_close(&case.forward(shape), &expected, TOLERANCE, &format!("{shape:?}: forward"));
    let expected = reference::conv2d_grad_input(shape, &dy, &w);
    assert_close(&case.grad_input(shape), &expected, TOLERANCE, &format!("{shape:?}: grad_input"));
    let expected = reference::conv2d_grad_weight(shape, &x, &dy);
    assert_close(&case.grad_weight(shape), &expected, TOLERANCE, &format!("{shape:?}: grad_weight"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(120) })]

    #[test]
    fn convolution_matches_the_reference(shape in convolutions()) {
        compare(&shape);
    }

    #[test]
    fn bits_do_not_depend_on_threads_or_batch_size(shape in convolutions()) {
        let case = Case::new(&shape);
        let all = on_every_pool(|| case.forward(&shape));
        let dx = on_every_pool(|| case.grad_input(&shape));
        on_every_pool(|| case.grad_weight(&shape));
        let one = ConvShape { n: 1, ..shape };
        for image in 0..shape.n {
            let part = |x: &[f32], len: usize| x[image * len..(image + 1) * len].to_vec();
            let alone = Case {
                x: part(&case.x, one.input_len()),
                w: case.w.clone(),
                bias: case.bias.clone(),
                shift: part(&case.shift, one.c_out),
                residual: part(&case.residual, one.output_len()),
                dy: part(&case.dy, one.output_len()),
            };
            assert_same_bits(&alone.forward(&one), &part(&all, one.output_len()), "forward");
            assert_same_bits(&alone.grad_input(&one), &part(&dx, one.input_len()), "grad_input");
        }
    }

    #[test]
    fn small_images_of_many_channels_use_small_tiles(
        n in 1usize..4, h in 1usize..5, w in 1usize..5, c_in in 128usize..150, c_out in 128usize..150, pad in 0usize..3,
    ) {
        prop_assume!(h + 2 * pad >= 3 && w + 2 * pad >= 3);
        let shape = ConvShape { n, h, w, c_in, c_out, kernel: (3, 3), stride: 1, pad: Pad::same(pad) };
        compare(&shape);
        let case = Case::new(&shape);
        let all = on_every_pool(|| case.forward(&shape));
        let one = ConvShape { n: 1, ..shape };
        let first = Case { x: case.x[..one.input_len()].to_vec(), shift: case.shift[..c_out].to_vec(),
            residual: case.residual[..one.output_len()].to_vec(), dy: case.dy[..one.output_len()].to_vec(),
            w: case.w.clone(), bias: case.bias.clone() };
        assert_same_bits(&first.forward(&one), &all[..one.output_len()], "forward");
    }

    #[test]
    fn packed_filters_give_the_same_bits(shape in convolutions()) {
        let case = Case::new(&shape);
        // The filter is packed for one image of another size.
        let filter = PackedFilter::new(&ConvShape { n: 1, h: 20, w: 9, ..shape }, &case.w);
        let mut out = vec![f32::NAN; shape.output_len()];
        conv2d_packed(&shape, case.inputs(), &filter, &mut out);
        assert_same_bits(&out, &case.forward(&shape), "packed");
    }

    #[test]
    fn fused_normalization_gives_the_same_bits(shape in convolutions(), silu: bool) {
        let case = Case::new(&shape);
        let norm = GroupNormShape { n: shape.n, pixels: shape.h * shape.w, channels: shape.c_in, groups: 1, eps: 1e-5 };
        let (gamma, beta) = (numbers(shape.c_in, 7), numbers(shape.c_in, 8));
        let norm = FusedGroupNorm { shape: norm, gamma: &gamma, beta: &beta, scale_shift: None, silu };
        let mut saved = vec![f32::NAN; 2 * shape.n];
        let mut normed = vec![f32::NAN; shape.input_len()];
        group_norm(&norm, &case.x, &mut normed, &mut saved);
        let mut before = vec![f32::NAN; shape.output_len()];
        conv2d(&shape, ConvInputs { x: &normed, ..case.inputs() }, &case.w, &mut before);

        let mut again = vec![f32::NAN; 2 * shape.n];
        let fused = Normalization::new(&norm, [&case.x, &[]], &mut again);
        assert_same_bits(&again, &saved, "mean and 1/σ");
        let mut out = vec![f32::NAN; shape.output_len()];
        fused.apply(&case.x, &mut normed.clone());
        let inputs = ConvInputs { norm: Some(&fused), ..case.inputs() };
        conv2d(&shape, inputs, &case.w, &mut out);
        assert_same_bits(&out, &before, "fused normalization");
        out.fill(f32::NAN);
        let filter = PackedFilter::new(&shape, &case.w);
        conv2d_packed(&shape, inputs, &filter, &mut out);
        assert_same_bits(&out, &before, "fused normalization, packed");
    }

    #[test]
    fn an_input_in_two_parts_gives_the_same_bits(
        shape in convolutions(), second in 1usize..64, normed: bool, sixteens: bool,
    ) {
        // Parts whose channels are multiples of 16 are read in place; others are concatenated first.
        let (c_in, second) = if sixteens { (shape.c_in.next_multiple_of(16) + 16, second.next_multiple_of(16)) } else { (shape.c_in + 1, second) };
        let second = second.min(c_in - if sixteens { 16 } else { 1 });
        let shape = ConvShape { c_in, ..shape };
        let case = Case::new(&shape);
        let pixels = shape.n * shape.h * shape.w;
        let first = c_in - second;
        let (mut x, mut y) = (vec![0.0; pixels * first], vec![0.0; pixels * second]);
        split_channels([first, second], &case.x, [&mut x, &mut y]);

        let norm = GroupNormShape { n: shape.n, pixels: shape.h * shape.w, channels: c_in, groups: 1, eps: 1e-5 };
        let (gamma, beta) = (numbers(c_in, 7), numbers(c_in, 8));
        let norm = FusedGroupNorm { shape: norm, gamma: &gamma, beta: &beta, scale_shift: None, silu: true };
        let (mut saved, mut again) = (vec![f32::NAN; 2 * shape.n], vec![f32::NAN; 2 * shape.n]);
        let whole = Normalization::new(&norm, [&case.x, &[]], &mut saved);
        let joined = Normalization::new(&norm, [&x, &y], &mut again);
        assert_same_bits(&again, &saved, "mean and 1/σ");

        let filter = PackedFilter::new(&shape, &case.w);
        let (mut expected, mut out) = (vec![f32::NAN; shape.output_len()], vec![f32::NAN; shape.output_len()]);
        let inputs = ConvInputs { norm: normed.then_some(&whole), ..case.inputs() };
        conv2d_packed(&shape, inputs, &filter, &mut expected);
        let inputs = ConvInputs { x: &x, skip: Some(&y), norm: normed.then_some(&joined), ..case.inputs() };
        conv2d_packed(&shape, inputs, &filter, &mut out);
        assert_same_bits(&out, &expected, "packed");
        out.fill(f32::NAN);
        conv2d(&shape, inputs, &case.w, &mut out);
        assert_same_bits(&out, &expected, "not packed");
    }

    #[test]
    fn matrix_products_match_the_reference(
        m in 1usize..90, k in 1usize..80, n in 1usize..70, a_transposed: bool, b_transposed: bool,
    ) {
        let shape = MatMulShape { m, k, n, a_transposed, b_transposed };
        let (a, b, bias) = (numbers(m * k, 1), numbers(k * n, 2), numbers(n, 3));
        let store = |x: &[f32], rows: usize, columns: usize, transposed: bool| -> Vec<f32> {
            if transposed { (0..rows * columns).map(|i| x[i % rows * columns + i / rows]).collect() } else { x.to_vec() }
        };
        let (stored_a, stored_b) = (store(&a, m, k, a_transposed), store(&b, k, n, b_transposed));
        let out = on_every_pool(|| {
            let mut out = vec![f32::NAN; m * n];
            matmul(&shape, [&stored_a, &stored_b], Some(&bias), &mut out);
            out
        });
        let mut expected = reference::matmul(&MatMulShape::new(m, k, n), [&wide(&a), &wide(&b)]);
        expected.iter_mut().enumerate().for_each(|(i, x)| *x += f64::from(bias[i % n]));
        assert_close(&out, &expected, 1e-6, "matmul");
    }
}

/// Tests the shapes of real networks, whose long sums have larger errors.
#[test]
fn wide_convolutions_are_accurate() {
    for (n, side, c_in, c_out) in [(1, 16, 256, 256), (3, 8, 512, 256), (2, 4, 256, 256), (2, 32, 32, 32)] {
        compare(&ConvShape { n, h: side, w: side, c_in, c_out, kernel: (3, 3), stride: 1, pad: Pad::same(1) });
    }
}

/// Tests the reference gradients against finite differences of the reference forward pass.
#[test]
fn reference_gradients_match_finite_differences() {
    let pad = Pad { top: 0, bottom: 1, left: 1, right: 2 };
    let shape = ConvShape { n: 2, h: 4, w: 5, c_in: 3, c_out: 2, kernel: (3, 2), stride: 2, pad };
    let case = Case::new(&shape);
    let (x, w, dy) = (wide(&case.x), wide(&case.w), wide(&case.dy));
    let narrow = |x: Vec<f64>| x.into_iter().map(|x| x as f32).collect::<Vec<_>>();
    let expected = finite_differences(&case.x, &case.dy, |x| reference::conv2d(&shape, x, &w, Epilogue::default()));
    assert_close(&narrow(reference::conv2d_grad_input(&shape, &dy, &w)), &expected, 1e-6, "grad_input");
    let expected = finite_differences(&case.w, &case.dy, |w| reference::conv2d(&shape, &x, w, Epilogue::default()));
    assert_close(&narrow(reference::conv2d_grad_weight(&shape, &x, &dy)), &expected, 1e-6, "grad_weight");
}
