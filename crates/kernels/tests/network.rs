//! Tests normalization, attention, activation, resampling, sums and the optimizer against plain loops, finite
//! differences and closed forms, and their bits for any number of threads and images.

mod common;

use common::*;
use ddpm_kernels::*;
use proptest::prelude::*;

fn norms() -> impl Strategy<Value = (GroupNormShape, bool, bool)> {
    let channels = prop_oneof![(1usize..5, 1usize..12), (1usize..9, Just(8usize)), Just((32, 4))];
    (1usize..5, prop_oneof![1usize..12, 60usize..150], channels, any::<bool>(), any::<bool>()).prop_map(
        |(n, pixels, (groups, size), silu, scaled)| {
            (GroupNormShape { n, pixels, channels: groups * size, groups, eps: 1e-5 }, silu, scaled)
        },
    )
}

struct Norm {
    shape: GroupNormShape,
    silu: bool,
    x: Vec<f32>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
    scale_shift: Option<(Vec<f32>, Vec<f32>)>,
    dy: Vec<f32>,
}

impl Norm {
    fn new(shape: GroupNormShape, silu: bool, scaled: bool) -> Self {
        let (len, nc) = (shape.n * shape.pixels * shape.channels, shape.n * shape.channels);
        Norm {
            shape,
            silu,
            x: numbers(len, 1).iter().map(|x| 3.0 * x + 0.7).collect(),
            gamma: numbers(shape.channels, 2).iter().map(|x| x + 1.5).collect(),
            beta: numbers(shape.channels, 3),
            scale_shift: scaled.then(|| (numbers(nc, 4), numbers(nc, 5))),
            dy: numbers(len, 6),
        }
    }

    fn norm(&self) -> FusedGroupNorm<'_> {
        let scale_shift = self.scale_shift.as_ref().map(|(a, b)| (&a[..], &b[..]));
        FusedGroupNorm { shape: self.shape, gamma: &self.gamma, beta: &self.beta, scale_shift, silu: self.silu }
    }

    /// Returns the output, and the means and 1/σ.
    fn forward(&self) -> (Vec<f32>, Vec<f32>) {
        let (mut out, mut mean_rstd) =
            (vec![f32::NAN; self.x.len()], vec![f32::NAN; 2 * self.shape.n * self.shape.groups]);
        group_norm(&self.norm(), &self.x, &mut out, &mut mean_rstd);
        (out, mean_rstd)
    }

    /// Returns dx, dgamma, dbeta, dscale and dshift.
    fn backward(&self) -> [Vec<f32>; 5] {
        let mean_rstd = self.forward().1;
        let nan = |len: usize| vec![f32::NAN; len];
        let (c, nc) = (self.shape.channels, self.shape.n * self.shape.channels);
        let [mut dx, mut dgamma, mut dbeta, mut dscale, mut dshift] =
            [nan(self.x.len()), nan(c), nan(c), nan(nc), nan(nc)];
        let dscale_shift = self.scale_shift.as_ref().map(|_| (&mut dscale[..], &mut dshift[..]));
        let saved = GroupNormSaved { x: &self.x, mean_rstd: &mean_rstd };
        let gradients = GroupNormGradients { dx: &mut dx, dgamma: &mut dgamma, dbeta: &mut dbeta, dscale_shift };
        group_norm_backward(&self.norm(), saved, &self.dy, gradients);
        [dx, dgamma, dbeta, dscale, dshift]
    }

    /// Computes the reference with one of x, gamma, beta, scale and shift replaced.
    fn reference(&self, replaced: usize, by: &[f64]) -> Vec<f64> {
        let (scale, shift) = self.scale_shift.clone().unwrap_or_default();
        let mut inputs = [&self.x, &self.gamma, &self.beta, &scale, &shift].map(|x| wide(x));
        inputs[replaced] = by.to_vec();
        let [x, gamma, beta, scale, shift] = &inputs;
        let scale_shift = self.scale_shift.as_ref().map(|_| (&scale[..], &shift[..]));
        let norm = FusedGroupNorm { shape: self.shape, gamma, beta, scale_shift, silu: self.silu };
        reference::group_norm(&norm, x)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) })]

    #[test]
    fn group_norm_matches_the_reference((shape, silu, scaled) in norms()) {
        // A group of one value has variance 0, and 1/√eps amplifies the f32 rounding of x − mean.
        prop_assume!(shape.pixels * shape.channels / shape.groups > 3);
        let case = Norm::new(shape, silu, scaled);
        assert_close(&case.forward().0, &case.reference(0, &wide(&case.x)), 2e-6, "group_norm");
    }

    #[test]
    fn group_norm_gradients_match_finite_differences((shape, silu, scaled) in norms()) {
        prop_assume!(shape.n * shape.pixels * shape.channels < 1500);
        // A group of one value has variance 0: dx is 0, as a sum of large terms of 1/√eps that cancel only in f64.
        prop_assume!(shape.pixels * shape.channels / shape.groups > 3);
        let case = Norm::new(shape, silu, scaled);
        let (scale, shift) = case.scale_shift.clone().unwrap_or_default();
        let inputs = [&case.x, &case.gamma, &case.beta, &scale, &shift];
        let names = ["dx", "dgamma", "dbeta", "dscale", "dshift"];
        for (i, actual) in case.backward().iter().enumerate().take(if scaled { 5 } else { 3 }) {
            let expected = finite_differences(inputs[i], &case.dy, |x| case.reference(i, x));
            assert_close(actual, &expected, 2e-5, names[i]);
        }
    }

    #[test]
    fn group_norm_bits_do_not_depend_on_threads_or_batch_size((shape, silu, scaled) in norms()) {
        let case = Norm::new(shape, silu, scaled);
        let all = on_every_pool(|| case.forward().0);
        for i in 0..3 {
            on_every_pool(|| case.backward()[i].clone());
        }
        let dx = &case.backward()[0];
        let (size, c) = (shape.pixels * shape.channels, shape.channels);
        for image in 0..shape.n {
            let part = |x: &[f32], len: usize| x[image * len..(image + 1) * len].to_vec();
            let alone = Norm {
                shape: GroupNormShape { n: 1, ..shape },
                silu,
                x: part(&case.x, size),
                gamma: case.gamma.clone(),
                beta: case.beta.clone(),
                scale_shift: case.scale_shift.as_ref().map(|(a, b)| (part(a, c), part(b, c))),
                dy: part(&case.dy, size),
            };
            assert_same_bits(&alone.forward().0, &part(&all, size), "forward");
            assert_same_bits(&alone.backward()[0], &part(dx, size), "dx");
        }
    }

    #[test]
    fn rms_norm_and_its_gradients_match_the_reference(
        n in 1usize..4, pixels in prop_oneof![1usize..20, 100usize..140], channels in 1usize..40, scales: bool, silu: bool,
    ) {
        let len = n * pixels * channels;
        let [mut x, dy] = [1, 2].map(|seed| numbers(len, seed));
        // A pixel of zeros stays zero, before the shift.
        x[..channels].fill(0.0);
        let gain = numbers(channels, 3);
        let [scale, shift] = [4, 5].map(|seed| numbers(n * channels, seed));
        let norm = FusedRmsNorm { n, pixels, gain: &gain, scale_shift: scales.then_some((&scale, &shift)), silu };
        let (wide_gain, wide_scale, wide_shift) = (wide(&gain), wide(&scale), wide(&shift));
        let reference = |gain: &[f64], scale: &[f64], shift: &[f64], x: &[f64]| {
            reference::rms_norm(&FusedRmsNorm { n, pixels, gain, scale_shift: scales.then_some((scale, shift)), silu }, x)
        };
        let out = on_every_pool(|| {
            let mut out = vec![f32::NAN; len];
            rms_norm(&norm, &x, &mut out);
            out
        });
        assert_close(&out, &reference(&wide_gain, &wide_scale, &wide_shift, &wide(&x)), 5e-6, "forward");

        let gradients = on_every_pool(|| {
            let mut dx = vec![f32::NAN; len];
            let mut rest = vec![f32::NAN; channels + 2 * n * channels * usize::from(scales)];
            let (dgain, of_image) = rest.split_at_mut(channels);
            let (dscale, dshift) = of_image.split_at_mut(of_image.len() / 2);
            let dscale_shift = scales.then_some((dscale, dshift));
            rms_norm_backward(&norm, &x, &dy, RmsNormGradients { dx: &mut dx, dgain, dscale_shift });
            [dx, rest].concat()
        });
        // Along a direction of everything together, but for the pixel of zeros, where the slope is 1e12.
        let mut direction = numbers(gradients.len(), 6);
        direction[..channels].fill(0.0);
        let direction_of = |start: usize, len: usize| if start + len <= direction.len() { &direction[start..][..len] } else { &[] };
        let parts = [(0, len), (len, channels), (len + channels, n * channels), (len + channels + n * channels, n * channels)];
        let [dx, dgain, dscale, dshift] = parts.map(|(start, len)| direction_of(start, len));
        let loss = |t: f64| -> f64 {
            let moved = |x: &[f32], d: &[f32]| -> Vec<f64> {
                let d = d.iter().copied().chain(std::iter::repeat(0.0));
                x.iter().zip(d).map(|(&x, d)| f64::from(x) + t * f64::from(d)).collect()
            };
            let out = reference(&moved(&gain, dgain), &moved(&scale, dscale), &moved(&shift, dshift), &moved(&x, dx));
            out.iter().zip(&dy).map(|(y, &dy)| y * f64::from(dy)).sum()
        };
        let expected = (loss(1e-6) - loss(-1e-6)) / 2e-6;
        let actual: f64 = gradients.iter().zip(&direction).map(|(&g, &d)| f64::from(g) * f64::from(d)).sum();
        // Of a single channel only the sign counts, so that gradients vanish.
        prop_assert!((actual - expected).abs() < 1e-4 * expected.abs().max(1.0), "found {actual}; expected {expected}");
    }

    #[test]
    fn attention_matches_the_reference(
        n in 1usize..4, tokens in prop_oneof![1usize..40, 60usize..140], more_keys in prop_oneof![Just(0usize), 0usize..40],
        heads in 1usize..4, head_dim in 1usize..40,
    ) {
        let shape = AttentionShape { n, tokens, keys: tokens + more_keys, heads, head_dim };
        let [len, key_len] = [shape.tokens, shape.keys].map(|rows| n * rows * heads * head_dim);
        let [q, k, v] = [(len, 1), (key_len, 2), (key_len, 3)]
            .map(|(len, seed)| numbers(len, seed).iter().map(|x| 3.0 * x).collect::<Vec<_>>());
        let forward = |shape: &AttentionShape, q: &[f32], k: &[f32], v: &[f32]| {
            let mut out = vec![f32::NAN; q.len()];
            attention(shape, AttentionInputs { q, k, v }, &mut out);
            out
        };
        let out = on_every_pool(|| forward(&shape, &q, &k, &v));
        assert_close(&out, &wide_attention(&shape, &q, &k, &v), 5e-6, "attention");
        let (one, last, last_key) = (AttentionShape { n: 1, ..shape }, len / n * (n - 1), key_len / n * (n - 1));
        let alone = forward(&one, &q[last..], &k[last_key..], &v[last_key..]);
        assert_same_bits(&alone, &out[last..], "the last image alone");
    }

    #[test]
    fn attention_gradients_match_finite_differences(
        n in 1usize..3, tokens in 1usize..20, keys in 1usize..25, heads in 1usize..3, head_dim in 1usize..8,
    ) {
        let shape = AttentionShape { n, tokens, keys, heads, head_dim };
        let [len, key_len] = [tokens, keys].map(|rows| n * rows * heads * head_dim);
        let [q, k, v, dout] = [(len, 1), (key_len, 2), (key_len, 3), (len, 4)].map(|(len, seed)| numbers(len, seed));
        let gradients = attention_gradients(&shape, &q, &k, &v, &dout);
        let [wq, wk, wv] = [&q, &k, &v].map(|x| wide(x));
        let f = |q: &[f64], k: &[f64], v: &[f64]| reference::attention(&shape, AttentionInputs { q, k, v });
        let expected = [
            finite_differences(&q, &dout, |q| f(q, &wk, &wv)),
            finite_differences(&k, &dout, |k| f(&wq, k, &wv)),
            finite_differences(&v, &dout, |v| f(&wq, &wk, v)),
        ];
        // Gradients may vanish (if there is one token), so the error is relative to the size of dout, 1.
        for (actual, expected) in gradients.iter().zip(expected) {
            for (a, e) in actual.iter().zip(expected) {
                prop_assert!((f64::from(*a) - e).abs() < 1e-5, "found {a}; expected {e}");
            }
        }
    }

    #[test]
    fn linear_attention_and_its_gradients_match_the_reference(
        n in 1usize..3, tokens in prop_oneof![1usize..12, 55usize..60], keys in prop_oneof![1usize..12, 62usize..70],
        heads in 1usize..3, head_dim in prop_oneof![1usize..6, 15usize..19],
    ) {
        let shape = AttentionShape { n, tokens, keys, heads, head_dim };
        let [len, key_len] = [tokens, keys].map(|rows| n * rows * heads * head_dim);
        let [q, k, v, dout] = [(len, 1), (key_len, 2), (key_len, 3), (len, 4)]
            .map(|(len, seed)| numbers(len, seed).iter().map(|x| 3.0 * x).collect::<Vec<_>>());
        let out = on_every_pool(|| {
            let mut out = vec![f32::NAN; len];
            linear_attention(&shape, AttentionInputs { q: &q, k: &k, v: &v }, &mut out);
            out
        });
        let [wq, wk, wv] = [&q, &k, &v].map(|x| wide(x));
        let f = |q: &[f64], k: &[f64], v: &[f64]| reference::linear_attention(&shape, AttentionInputs { q, k, v });
        assert_close(&out, &f(&wq, &wk, &wv), 3e-6, "linear attention");
        let gradients = on_every_pool(|| {
            let [mut dq, mut dk, mut dv] = [len, key_len, key_len].map(|len| vec![f32::NAN; len]);
            let gradients = AttentionGradients { dq: &mut dq, dk: &mut dk, dv: &mut dv };
            linear_attention_backward(&shape, AttentionInputs { q: &q, k: &k, v: &v }, &dout, gradients);
            [dq, dk, dv].concat()
        });
        // Some of the derivatives: the reference is slow.
        let derivative = |x: &[f64], i: usize, f: &dyn Fn(&[f64]) -> Vec<f64>| {
            let at = |step: f64| {
                let mut x = x.to_vec();
                x[i] += step;
                f(&x).iter().zip(&dout).map(|(y, &dy)| y * f64::from(dy)).sum::<f64>()
            };
            (at(1e-5) - at(-1e-5)) / 2e-5
        };
        for i in (0..len).step_by(1 + len / 20) {
            let expected = derivative(&wq, i, &|q| f(q, &wk, &wv));
            prop_assert!((f64::from(gradients[i]) - expected).abs() < 1e-5, "dq {}; expected {expected}", gradients[i]);
        }
        for i in (0..key_len).step_by(1 + key_len / 20) {
            for (from, expected) in [
                (len, derivative(&wk, i, &|k| f(&wq, k, &wv))),
                (len + key_len, derivative(&wv, i, &|v| f(&wq, &wk, v))),
            ] {
                let found = f64::from(gradients[from + i]);
                prop_assert!((found - expected).abs() < 1e-5 * (1.0 + expected.abs()), "found {found}; expected {expected}");
            }
        }
    }

    #[test]
    fn sums_and_upsampling_match_their_definitions(n in 1usize..5, h in 1usize..9, w in 1usize..20, c in 1usize..40) {
        let x = numbers(n * h * w * c, 1);
        let mut expected = vec![0.0; n * c];
        x.iter().enumerate().for_each(|(i, &x)| expected[i / (h * w * c) * c + i % c] += f64::from(x));
        let sums = on_every_pool(|| {
            let mut out = vec![f32::NAN; n * c];
            per_image_channel_sums(n, &x, &mut out);
            out
        });
        assert_close(&sums, &expected, 1e-5, "per image");
        let mut all = vec![f32::NAN; c];
        channel_sums(&x, &mut all);
        let expected: Vec<f64> = (0..c).map(|i| expected.iter().skip(i).step_by(c).sum()).collect();
        assert_close(&all, &expected, 1e-5, "over images");

        let mut up = vec![f32::NAN; 4 * x.len()];
        upsample2x([n, h, w, c], &x, &mut up);
        for (i, &value) in up.iter().enumerate() {
            let (channel, column, row, image) = (i % c, i / c % (2 * w), i / c / (2 * w) % (2 * h), i / c / (4 * w * h));
            prop_assert_eq!(value, x[((image * h + row / 2) * w + column / 2) * c + channel]);
        }
        // The adjoint identity ⟨up(x), y⟩ = ⟨x, upᵀ(y)⟩.
        let y = numbers(up.len(), 2);
        let mut down = vec![f32::NAN; x.len()];
        upsample2x_backward([n, h, w, c], &y, &mut down);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
        prop_assert!((dot(&up, &y) - dot(&x, &down)).abs() < 1e-4);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn filters_match_their_definition_and_are_adjoint(
        (n, h, w, c) in (1usize..4, 1usize..7, 1usize..7, 1usize..40), taps in 1usize..9, margin in 0usize..5,
    ) {
        let taps = numbers(taps, 7);
        // The last tap at the last small pixel is inside, or outside by no more than the margin.
        let small = |large: usize| (large + 2 * margin).checked_sub(taps.len()).map(|rest| rest / 2 + 1);
        let (Some(half_h), Some(half_w)) = (small(h), small(w)) else { return Ok(()) };
        let shape = FilterShape { n, large: [h, w], small: [half_h, half_w], channels: c, margin };
        let x = numbers(n * h * w * c, 1);
        let y = on_every_pool(|| {
            let mut y = vec![f32::NAN; n * half_h * half_w * c];
            filter_down2x(&shape, &taps, &x, &mut y);
            y
        });
        let mut expected = vec![0.0; y.len()];
        for (index, expected) in expected.iter_mut().enumerate() {
            let (channel, j, i, image) = (index % c, index / c % half_w, index / c / half_w % half_h, index / c / half_w / half_h);
            for (k, t) in taps.iter().enumerate() {
                for (l, u) in taps.iter().enumerate() {
                    let (r, s) = (2 * i + k, 2 * j + l);
                    if (margin..margin + h).contains(&r) && (margin..margin + w).contains(&s) {
                        let x = x[((image * h + r - margin) * w + s - margin) * c + channel];
                        *expected += f64::from(*t) * f64::from(*u) * f64::from(x);
                    }
                }
            }
        }
        assert_close(&y, &expected, 1e-5, "down");
        // ⟨down(x), g⟩ = ⟨x, up(g)⟩.
        let g = numbers(y.len(), 2);
        let up = on_every_pool(|| {
            let mut up = vec![f32::NAN; x.len()];
            filter_up2x(&shape, &taps, &g, &mut up);
            up
        });
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
        let scale = dot(&y, &y).sqrt() * dot(&g, &g).sqrt() + 1e-3;
        prop_assert!((dot(&y, &g) - dot(&x, &up)).abs() < 1e-5 * scale);
    }

    #[test]
    fn average_pooling_matches_its_definition(n in 1usize..4, h in 1usize..9, w in 1usize..9, c in 1usize..40) {
        let (x, (half_h, half_w)) = (numbers(n * h * w * c, 1), (h / 2, w / 2));
        let mut y = vec![f32::NAN; n * half_h * half_w * c];
        average_pool2x([n, h, w, c], &x, &mut y);
        for (index, &y) in y.iter().enumerate() {
            let (channel, j, i, image) = (index % c, index / c % half_w, index / c / half_w % half_h, index / c / half_w / half_h);
            let at = |a: usize, b: usize| x[((image * h + 2 * i + a) * w + 2 * j + b) * c + channel];
            let rows = [0, 1].map(|a| (at(a, 0) + at(a, 1)) / 2.0);
            prop_assert_eq!(y.to_bits(), ((rows[0] + rows[1]) / 2.0).to_bits());
        }
        let g = numbers(y.len(), 2);
        let mut dx = vec![f32::NAN; x.len()];
        average_pool2x_backward([n, h, w, c], &g, &mut dx);
        for (index, &dx) in dx.iter().enumerate() {
            let (channel, s, r, image) = (index % c, index / c % w, index / c / w % h, index / c / w / h);
            let inside = r / 2 < half_h && s / 2 < half_w;
            let expected = if inside { g[((image * half_h + r / 2) * half_w + s / 2) * c + channel] / 4.0 } else { 0.0 };
            prop_assert_eq!(dx, expected);
        }
    }
}

fn attention_gradients(shape: &AttentionShape, q: &[f32], k: &[f32], v: &[f32], dout: &[f32]) -> [Vec<f32>; 3] {
    let [mut out, mut dq, mut dk, mut dv] = [q, q, k, v].map(|of| vec![f32::NAN; of.len()]);
    let inputs = AttentionInputs { q, k, v };
    attention(shape, inputs, &mut out);
    attention_backward(shape, inputs, dout, AttentionGradients { dq: &mut dq, dk: &mut dk, dv: &mut dv });
    [dq, dk, dv]
}

#[test]
fn attention_gradients_of_many_tokens() {
    let shape = AttentionShape { n: 1, tokens: 150, keys: 150, heads: 2, head_dim: 5 };
    let [q, k, v, dout] = [1, 2, 3, 4].map(|seed| numbers(1500, seed));
    let gradients = on_every_pool(|| attention_gradients(&shape, &q, &k, &v, &dout).concat());
    let loss = |q: &[f64], k: &[f64], v: &[f64]| -> f64 {
        let out = reference::attention(&shape, AttentionInputs { q, k, v });
        out.iter().zip(&dout).map(|(y, &dy)| y * f64::from(dy)).sum()
    };
    // Compare the derivative along one random direction of q, k and v together.
    let direction = numbers(4500, 9);
    let moved = |t: f64| {
        let step = |x: &[f32], d: &[f32]| wide(x).iter().zip(d).map(|(x, &d)| x + t * f64::from(d)).collect::<Vec<_>>();
        loss(&step(&q, &direction[..1500]), &step(&k, &direction[1500..3000]), &step(&v, &direction[3000..]))
    };
    let expected = (moved(1e-5) - moved(-1e-5)) / 2e-5;
    let actual: f64 = gradients.iter().zip(&direction).map(|(&g, &d)| f64::from(g) * f64::from(d)).sum();
    assert!((actual - expected).abs() < 1e-4 * expected.abs().max(1.0), "found {actual}; expected {expected}");
}

/// The unused lanes of the last vector of scores must not count as scores of zero.
#[test]
fn attention_handles_scores_far_below_zero() {
    let shape = AttentionShape { n: 1, tokens: 5, keys: 5, heads: 1, head_dim: 1 };
    let (q, k, v) = ([100.0f32; 5], [-30.0, -30.01, -30.02, -30.03, -30.04f32], numbers(5, 1));
    let mut out = vec![f32::NAN; 5];
    attention(&shape, AttentionInputs { q: &q, k: &k, v: &v }, &mut out);
    // Scores near -3000 have an error of 1e-4.
    assert_close(&out, &wide_attention(&shape, &q, &k, &v), 1e-3, "attention");
}

#[test]
fn group_norm_is_accurate_for_a_small_variance_and_a_large_mean() {
    let shape = GroupNormShape { n: 1, pixels: 256, channels: 8, groups: 2, eps: 1e-6 };
    let mut case = Norm::new(shape, false, false);
    case.x = numbers(2048, 1).iter().map(|x| 100.0 + 0.1 * x).collect();
    // The rounding error of x is 4e-6, at a standard deviation of 0.06.
    assert_close(&case.forward().0, &case.reference(0, &wide(&case.x)), 2e-4, "group_norm");
}

#[test]
fn silu_is_accurate_and_saturates() {
    let x: Vec<f32> = (-60_000..60_000).map(|i| i as f32 * 1.5e-3).chain([1e4, -1e4, 1e30, 0.0]).collect();
    let mut y = vec![f32::NAN; x.len()];
    silu(&x, &mut y);
    for (&x, &y) in x.iter().zip(&y) {
        let expected = reference::silu(f64::from(x));
        let allowed = 3.0 * f64::from(f32::EPSILON) * expected.abs() + 1e-30;
        assert!((f64::from(y) - expected).abs() <= allowed, "silu({x}) is {y}; expected {expected}");
    }
    let mut nan = [0.0];
    silu(&[f32::NAN], &mut nan);
    assert!(nan[0].is_nan());

    let x = numbers(1003, 1).iter().map(|x| 8.0 * x).collect::<Vec<_>>();
    let dy = numbers(x.len(), 2);
    let mut dx = vec![f32::NAN; x.len()];
    silu_backward(&x, &dy, &mut dx);
    let expected = finite_differences(&x, &dy, |x| x.iter().map(|&x| reference::silu(x)).collect());
    assert_close(&dx, &expected, 1e-6, "silu_backward");
}

/// Compares ten steps with `torch.optim.AdamW` written in f64, with clipping and a moving average.
#[test]
fn adam_matches_the_formula() {
    for weight_decay in [0.0, 0.3] {
        compare_adam(weight_decay);
    }
}

fn compare_adam(weight_decay: f64) {
    const LEN: usize = 1003;
    let (mut p, mut m, mut v, mut ema) = (numbers(LEN, 1), vec![0.0; LEN], vec![0.0; LEN], numbers(LEN, 1));
    let (mut wp, mut wm, mut wv, mut wema) = (wide(&p), vec![0.0f64; LEN], vec![0.0f64; LEN], wide(&p));
    let (learning_rate, beta1, beta2, epsilon, ema_decay, gradient_scale) = (2e-2, 0.9, 0.999, 1e-8, 0.99, 0.5);
    for t in 1..=10 {
        let grad = numbers(LEN, 10 + t);
        let step = AdamStep { learning_rate, beta1, beta2, epsilon, step: t, gradient_scale, ema_decay, weight_decay };
        let buffers = AdamBuffers { parameter: &mut p, moment1: &mut m, moment2: &mut v, average: &mut ema };
        adam(&step, &grad, buffers);
        for i in 0..LEN {
            let g = f64::from(grad[i]) * gradient_scale;
            wm[i] = beta1 * wm[i] + (1.0 - beta1) * g;
            wv[i] = beta2 * wv[i] + (1.0 - beta2) * g * g;
            let (m_hat, v_hat) = (wm[i] / (1.0 - beta1.powf(t as f64)), wv[i] / (1.0 - beta2.powf(t as f64)));
            wp[i] *= 1.0 - learning_rate * weight_decay;
            wp[i] -= learning_rate * m_hat / (v_hat.sqrt() + epsilon);
            wema[i] = ema_decay * wema[i] + (1.0 - ema_decay) * wp[i];
        }
    }
    assert_close(&p, &wp, 2e-6, "parameters");
    assert_close(&ema, &wema, 2e-6, "moving average");
    let before = ema.clone();
    let step =
        AdamStep { learning_rate, beta1, beta2, epsilon, step: 11, gradient_scale: 1.0, ema_decay: 1.0, weight_decay };
    let grad = m.clone();
    let buffers = AdamBuffers { parameter: &mut p, moment1: &mut m, moment2: &mut v, average: &mut ema };
    adam(&step, &grad, buffers);
    assert_eq!(ema, before, "a decay of 1 leaves the average unchanged");
}

#[test]
fn sum_of_squares_is_the_same_on_all_pools() {
    let x = numbers(200_001, 1);
    let expected: f64 = x.iter().map(|&x| f64::from(x).powi(2)).sum();
    let sum = on_every_pool(|| {
        let sum = sum_of_squares(&x);
        vec![sum as f32, (sum - f64::from(sum as f32)) as f32]
    });
    assert!((f64::from(sum[0]) / expected - 1.0).abs() < 1e-6);
}
