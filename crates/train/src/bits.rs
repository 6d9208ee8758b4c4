//! The losses of binomial chains, whose network predicts the logit of each bit of b_0.

use burn::tensor::{Device, Tensor, TensorData};
use diffusion::{BinomialChain, NoiseSchedule};
use model::denoiser::per_image;

use crate::objective::NoisedBatch;

/// ln 0 in f32 sums: e^−1e4 is 0, and products with 0 are no NaN.
const LOG_ZERO: f64 = -1e4;

/// Draws b_t as pixels of ±1, from b_0 as such pixels and uniform numbers: a bit is kept if its number is below (1 + ᾱ_t)/2.
pub(crate) fn q_sample(schedule: &NoiseSchedule, t: usize, (b_0, uniforms): (&[f32], &[f32]), b_t: &mut [f32]) {
    let keep = 0.5 * (1.0 + schedule.alpha_cumprod(t));
    for ((b_t, &b_0), &u) in b_t.iter_mut().zip(b_0).zip(uniforms) {
        *b_t = if f64::from(u) < keep { b_0 } else { -b_0 };
    }
}

/// The logarithms of a step from t: of the posterior probabilities that b_{t−1} = b_t.
struct StepLogs {
    /// ln q(b_{t−1} = b_t | b_t, b_0 = b_t), and of the opposite.
    same: [f64; 2],
    /// ln q(b_{t−1} = b_t | b_t, b_0 ≠ b_t), and of the opposite.
    other: [f64; 2],
}

impl StepLogs {
    fn new(schedule: &NoiseSchedule, t: usize) -> Self {
        // The values of the bits do not matter, only whether they are equal.
        let of = |b_0| {
            let posterior = BinomialChain::new(schedule).posterior(t, true, b_0);
            [posterior.one, posterior.zero].map(|p| if p > 0.0 { p.ln() } else { LOG_ZERO })
        };
        Self { same: of(true), other: of(false) }
    }
}

/// Computes the term of the bound of each bit in bits, `[N,H,W,C]`: KL(q(b_{t−1} | b_t, b_0) ‖ p(b_{t−1} | b_t)), from logits and b_t.
///
/// With u = s_t·logit, the probability that b_0 = b_t is 1/(1 + e^{−u}), and p(b_{t−1} = b_t) = (A·e^u + B)/(e^u + 1) for the
/// posteriors A and B of equal and unlike b_0. Logarithms of sums are taken of the greater term, so that nothing cancels.
pub(crate) fn bound(schedule: &NoiseSchedule, logits: Tensor<4>, b_t: &Tensor<4>, noised: &NoisedBatch) -> Tensor<4> {
    let device = logits.device();
    let steps: Vec<StepLogs> = noised.timesteps.iter().map(|&t| StepLogs::new(schedule, t)).collect();
    let shape = logits.dims();
    let column = |value: &dyn Fn(&StepLogs) -> f64| {
        per_image(&steps.iter().map(value).collect::<Vec<_>>(), &device).expand(shape)
    };
    let u = logits * b_t.clone();
    let normalizer = softplus(u.clone());
    let log_p = |i: usize| {
        let (equal, unlike) = (u.clone() + column(&|step| step.same[i]), column(&|step| step.other[i]));
        log_sum(equal, unlike) - normalizer.clone()
    };
    let [keeps, flips] = [0, 1].map(log_p);
    let q = posteriors(&steps, b_t, noised, &device);
    let entropy = q[2].clone();
    let cross = q[0].clone() * keeps + q[1].clone() * flips;
    (entropy - cross).div_scalar(std::f64::consts::LN_2)
}

/// Computes −log₂ p(b_0 | b_t) of each bit, `[N,H,W,C]`.
pub(crate) fn cross_entropy(logits: Tensor<4>, noised: &NoisedBatch) -> Tensor<4> {
    let b_0 = noised.images.tensor(&logits.device());
    softplus((logits * b_0).neg()).div_scalar(std::f64::consts::LN_2)
}

/// Returns q(b_{t−1} = b_t | b_t, b_0) of each bit, that of the opposite, and Σ q ln q, each `[N,H,W,C]`.
fn posteriors(steps: &[StepLogs], b_t: &Tensor<4>, noised: &NoisedBatch, device: &Device) -> [Tensor<4>; 3] {
    let b_t: Vec<f32> = b_t.to_data().iter::<f32>().collect();
    let b_0 = &noised.images.pixels;
    let size = (b_0.len() / noised.images.n.max(1)).max(1);
    let mut values = [(); 3].map(|()| Vec::with_capacity(b_0.len()));
    for (i, (&b_t, &b_0)) in b_t.iter().zip(b_0).enumerate() {
        let step = &steps[i / size];
        let logs = if b_t == b_0 { step.same } else { step.other };
        let q = logs.map(f64::exp);
        values[0].push(q[0] as f32);
        values[1].push(q[1] as f32);
        values[2].push((q[0] * logs[0] + q[1] * logs[1]) as f32);
    }
    values.map(|values| Tensor::from_data(TensorData::new(values, noised.images.shape()), device))
}

/// ln(1 + e^x), exact for large |x|.
fn softplus(x: Tensor<4>) -> Tensor<4> {
    x.clone().clamp_min(0.0) + x.abs().neg().exp().log1p()
}

/// ln(e^a + e^b).
fn log_sum(a: Tensor<4>, b: Tensor<4>) -> Tensor<4> {
    a.clone().max_pair(b.clone()) + (a - b).abs().neg().exp().log1p()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use diffusion::{Bernoulli, BetaSchedule};
    use model::Images;
    use model::bits::bits_of;

    fn noised() -> NoisedBatch {
        let timesteps = vec![0, 1, 7, 18, 19];
        let values = |seed: usize| (0..30).map(move |i| (i * seed + 7) % 31);
        NoisedBatch {
            images: Images::new([5, 1, 6, 1], values(11).map(|v| if v % 2 == 0 { 1.0 } else { -1.0 }).collect()),
            augment_labels: Vec::new(),
            epsilon: values(5).map(|v| v as f32 / 31.0).collect(),
            importance: vec![1.0; 5],
            timesteps,
            first: 0,
        }
    }

    /// Against crate `diffusion`, in f64, at the first and last step too, and for logits of any size.
    #[test]
    fn the_losses_are_those_of_crate_diffusion_and_their_gradients_are_finite() {
        let device = Device::flex().autodiff();
        for rule in [BetaSchedule::Jsd, BetaSchedule::SquaredcosCapV2] {
            let schedule = NoiseSchedule::new(rule, 0.0, 0.0, 20).unwrap();
            let chain = BinomialChain::new(&schedule);
            let noised = noised();
            let mut pixels = vec![0.0; 30];
            for (i, &t) in noised.timesteps.iter().enumerate() {
                let part = 6 * i..6 * i + 6;
                let b_0 = &noised.images.pixels[part.clone()];
                let uniforms = &noised.epsilon[part.clone()];
                q_sample(&schedule, t, (b_0, uniforms), &mut pixels[part.clone()]);
                for ((b_t, b_0), &u) in pixels[part].iter().zip(b_0).zip(uniforms) {
                    assert_eq!(b_t == b_0, f64::from(u) < 0.5 * (1.0 + schedule.alpha_cumprod(t)));
                }
            }
            for scale in [0.3, 3.0, 40.0] {
                let logits: Vec<f32> = (0..30).map(|i| scale * ((i * 13 % 17) as f32 - 8.0) / 8.0).collect();
                let tensor = |values: Vec<f32>| Tensor::<4>::from_data(TensorData::new(values, [5, 1, 6, 1]), &device);
                let input = tensor(logits.clone()).require_grad();
                let bound = bound(&schedule, input.clone(), &tensor(pixels.clone()), &noised);
                let gradients = bound.clone().sum().backward();
                let gradient = input.grad(&gradients).unwrap();
                assert!(gradient.into_data().iter::<f32>().all(|g: f32| g.is_finite()));
                let found: Vec<f64> = bound.inner().into_data().iter::<f64>().collect();
                let entropy = cross_entropy(tensor(logits.clone()), &noised).inner().into_data();
                let entropy: Vec<f64> = entropy.iter::<f64>().collect();
                let (b_t, b_0) = (bits_of(&pixels), bits_of(&noised.images.pixels));
                for i in 0..30 {
                    let t = noised.timesteps[i / 6];
                    let prediction = Bernoulli::from_logit(logits[i].into());
                    let step = chain.reverse(t, b_t[i], prediction);
                    let exact = chain.term(t, &b_0[i..=i], &b_t[i..=i], &[step]).unwrap();
                    assert!((found[i] - exact).abs() < 2e-5 * exact.max(1.0), "{t} {i}: {} {exact}", found[i]);
                    let exact = -prediction.of(b_0[i]).log2();
                    assert!((entropy[i] - exact).abs() < 1e-5 * exact.max(1.0), "{} {exact}", entropy[i]);
                }
            }
        }
    }
}
