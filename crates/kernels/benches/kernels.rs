//! Measures the speed of each kernel on this machine: `cargo bench -p ddpm-kernels [-- FILTER] [THREADS]`.
//!
//! Convolutions count the operations of a direct convolution (2·n·out_h·out_w·kernel·c_in·c_out), memory-bound kernels
//! the minimum number of bytes moved. Each time is the minimum of many runs.

use ddpm_kernels::*;
use std::hint::black_box;
use std::time::{Duration, Instant};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let threads = words.iter().find_map(|word| word.parse().ok()).unwrap_or(0);
    let filter = words.into_iter().find(|word| word.parse::<usize>().is_err()).unwrap_or_default();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
    println!("{:?}, {} threads", instruction_set(), pool.current_num_threads());
    pool.install(|| {
        let bench = Bench { filter };
        bench.convolutions();
        bench.products();
        bench.the_rest();
    });
}

struct Bench {
    filter: String,
}

impl Bench {
    /// Runs `run` for about a second and prints its least time, and `work` in units of 10⁹ per second.
    fn time(&self, name: &str, work: usize, unit: &str, mut run: impl FnMut()) {
        if !name.contains(&self.filter) {
            return;
        }
        run();
        let (start, mut least) = (Instant::now(), Duration::MAX);
        while start.elapsed() < Duration::from_millis(700) {
            let begin = Instant::now();
            run();
            least = least.min(begin.elapsed());
        }
        let seconds = if name.starts_with("cold") {
            let start = Instant::now();
            (0..400).for_each(|_| run());
            start.elapsed().as_secs_f64() / 400.0
        } else {
            least.as_secs_f64()
        };
        println!("{name:<44} {:>9.3} ms {:>8.1} {unit}", seconds * 1e3, work as f64 / seconds / 1e9);
    }

    fn convolutions(&self) {
        let same = |n, side, c_in, c_out| ConvShape {
            n,
            h: side,
            w: side,
            c_in,
            c_out,
            kernel: (3, 3),
            stride: 1,
            pad: Pad::same(1),
        };
        let down = |n, side, c| ConvShape {
            stride: 2,
            pad: Pad { top: 0, bottom: 1, left: 0, right: 1 },
            ..same(n, side, c, c)
        };
        let one =
            |n, side, c_in, c_out| ConvShape { kernel: (1, 1), pad: Pad::default(), ..same(n, side, c_in, c_out) };
        let shapes = [
            same(16, 32, 128, 128),
            same(16, 16, 256, 256),
            same(16, 16, 512, 256),
            same(16, 8, 256, 256),
            same(16, 4, 256, 256),
            same(64, 32, 32, 32),
            same(64, 16, 64, 64),
            same(64, 28, 32, 32),
            same(64, 14, 64, 64),
            same(64, 7, 64, 64),
            same(16, 32, 3, 128),
            same(16, 32, 128, 3),
            same(64, 28, 1, 32),
            same(64, 28, 32, 1),
            same(1, 32, 128, 128),
            same(1, 16, 256, 256),
            same(1, 8, 256, 256),
            same(1, 4, 256, 256),
            down(16, 32, 128),
            one(1, 16, 256, 256),
            one(16, 16, 256, 256),
            one(16, 16, 512, 256),
            one(16, 32, 256, 128),
        ];
        for shape in shapes {
            let ConvShape { n, h, c_in, c_out, kernel, stride, .. } = shape;
            let name = format!("n{n} {c_in}->{c_out} @{h} k{} s{stride}", kernel.0);
            let work = 2 * n * shape.out_h() * shape.out_w() * shape.weight_len();
            let (x, w, bias) = (ramp(shape.input_len()), ramp(shape.weight_len()), ramp(c_out));
            let dy = ramp(shape.output_len());
            let (mut out, mut dx, mut dw) = (dy.clone(), x.clone(), w.clone());
            let inputs = ConvInputs { bias: Some(&bias), ..ConvInputs::new(&x) };
            self.time(&format!("forward {name}"), work, "GFLOP/s", || {
                conv2d(&shape, black_box(inputs), &w, &mut out);
            });
            let filter = PackedFilter::new(&shape, &w);
            self.time(&format!("packed {name}"), work, "GFLOP/s", || {
                conv2d_packed(&shape, black_box(inputs), &filter, &mut out);
            });
            // Filters that come from memory, as in a network: cycle through 100 MB of them.
            let count = (100 << 20) / (4 * shape.weight_len()) + 1;
            let filters: Vec<_> = (0..count.min(40)).map(|_| PackedFilter::new(&shape, &w)).collect();
            let mut filters = filters.iter().cycle();
            self.time(&format!("cold {name}"), work, "GFLOP/s", || {
                if let Some(filter) = filters.next() {
                    conv2d_packed(&shape, black_box(inputs), filter, &mut out);
                }
            });
            self.time(&format!("grad_input {name}"), work, "GFLOP/s", || {
                conv2d_grad_input(&shape, black_box(&dy), &w, &mut dx);
            });
            self.time(&format!("grad_weight {name}"), work, "GFLOP/s", || {
                conv2d_grad_weight(&shape, black_box(&x), &dy, &mut dw);
            });
        }
    }

    fn products(&self) {
        for (m, k, n) in [(1024, 1024, 1024), (4096, 256, 256), (16, 512, 512), (1, 512, 512)] {
            let (a, b, mut out) = (ramp(m * k), ramp(k * n), vec![0.0; m * n]);
            self.time(&format!("matmul {m}x{k}x{n}"), 2 * m * k * n, "GFLOP/s", || {
                matmul(&MatMulShape::new(m, k, n), [black_box(&a), &b], None, &mut out);
            });
        }
        for (n, tokens, heads, head_dim) in [(16, 256, 1, 256), (1, 256, 1, 256), (64, 64, 4, 16), (16, 1024, 1, 128)] {
            let shape = AttentionShape { n, tokens, keys: tokens, heads, head_dim };
            let len = n * tokens * heads * head_dim;
            let x = ramp(len);
            let inputs = AttentionInputs { q: &x, k: &x, v: &x };
            let mut out = vec![0.0; len];
            let work = 4 * len * tokens;
            let name = format!("n{n} {tokens} tokens {heads}x{head_dim}");
            self.time(&format!("attention {name}"), work, "GFLOP/s", || {
                attention(&shape, black_box(inputs), &mut out);
            });
            let (mut dq, mut dk, mut dv) = (x.clone(), x.clone(), x.clone());
            self.time(&format!("attention backward {name}"), work * 5 / 2, "GFLOP/s", || {
                let gradients = AttentionGradients { dq: &mut dq, dk: &mut dk, dv: &mut dv };
                attention_backward(&shape, black_box(inputs), &x, gradients);
            });
        }
    }

    fn the_rest(&self) {
        for (n, pixels, channels) in [(16, 1024, 128), (16, 256, 256), (1, 1024, 128), (64, 784, 32)] {
            let shape = GroupNormShape { n, pixels, channels, groups: 32, eps: 1e-5 };
            let len = n * pixels * channels;
            let (x, gamma) = (ramp(len), ramp(channels));
            let (mut out, mut mean_rstd, mut dx) = (x.clone(), vec![0.0; n * 64], x.clone());
            let norm = FusedGroupNorm { shape, gamma: &gamma, beta: &gamma, scale_shift: None, silu: true };
            let name = format!("n{n} {pixels}x{channels}");
            self.time(&format!("group_norm+silu {name}"), 8 * len, "GB/s", || {
                group_norm(&norm, black_box(&x), &mut out, &mut mean_rstd);
            });
            let (mut dgamma, mut dbeta) = (gamma.clone(), gamma.clone());
            self.time(&format!("group_norm+silu backward {name}"), 12 * len, "GB/s", || {
                let saved = GroupNormSaved { x: black_box(&x), mean_rstd: &mean_rstd };
                let gradients =
                    GroupNormGradients { dx: &mut dx, dgamma: &mut dgamma, dbeta: &mut dbeta, dscale_shift: None };
                group_norm_backward(&norm, saved, &out, gradients);
            });
        }
        let len = 1 << 22;
        let (x, mut y, mut z) = (ramp(len), ramp(len), ramp(len));
        self.time("copy", 8 * len, "GB/s", || y.copy_from_slice(black_box(&x)));
        self.time("silu", 8 * len, "GB/s", || silu(black_box(&x), &mut y));
        self.time("silu backward", 12 * len, "GB/s", || silu_backward(black_box(&x), &y, &mut z));
        self.time("sum_of_squares", 4 * len, "GB/s", || {
            black_box(sum_of_squares(black_box(&x)));
        });
        let mut sums = vec![0.0; 128];
        self.time("channel_sums", 4 * len, "GB/s", || channel_sums(black_box(&x), &mut sums));
        let mut up = vec![0.0; 4 * len];
        self.time("upsample2x", 20 * len, "GB/s", || upsample2x([16, 32, 64, 128], black_box(&x), &mut up));
        self.time("upsample2x backward", 20 * len, "GB/s", || {
            upsample2x_backward([16, 32, 64, 128], black_box(&up), &mut y);
        });
        let step = AdamStep {
            learning_rate: 1e-4,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            step: 5,
            gradient_scale: 1.0,
            ema_decay: 0.9999,
            weight_decay: 0.0,
        };
        let (mut m, mut v, mut ema) = (ramp(len), vec![1.0; len], ramp(len));
        self.time("adam with ema", 36 * len, "GB/s", || {
            let buffers = AdamBuffers { parameter: &mut y, moment1: &mut m, moment2: &mut v, average: &mut ema };
            adam(&step, black_box(&x), buffers);
        });
    }
}

/// Returns numbers in [-1, 1) that are neither constant nor denormal.
fn ramp(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 8 & 0xFFFF) as f32 / 32768.0 - 1.0).collect()
}
