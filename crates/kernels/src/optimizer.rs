//! Adam (Kingma & Ba 2015) with an exponential moving average of the parameters, in one pass over memory.

use crate::profile;
use crate::simd::{LANES, Simd, dispatch};
use rayon::prelude::*;

/// The scalars of one Adam step (Algorithm 1, with ε as in PyTorch).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamStep {
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// ε, added to the square root of the second moment.
    pub epsilon: f64,
    /// Number of this step, counted from 1.
    pub step: u64,
    /// Factor on the gradient: 1/(accumulated batches), times the global-norm clip.
    pub gradient_scale: f64,
    /// Decay of the moving average.
    pub ema_decay: f64,
    /// λ of AdamW (Loshchilov & Hutter 2019): the parameter is first multiplied by 1 − learning rate · λ.
    pub weight_decay: f64,
}

/// A parameter with its moments and its moving average. A step of Adam updates all of them.
#[derive(Debug)]
pub struct AdamBuffers<'a> {
    /// The parameter.
    pub parameter: &'a mut [f32],
    /// The first moment: the moving average of the gradient.
    pub moment1: &'a mut [f32],
    /// The second moment: the moving average of the squared gradient.
    pub moment2: &'a mut [f32],
    /// The exponential moving average of the parameter.
    pub average: &'a mut [f32],
}

/// Performs one step of `torch.optim.AdamW` on a parameter and its moments (of `torch.optim.Adam` if the weight decay is
/// 0), then updates the average: average ← average + (1 − decay)·(parameter − average).
///
/// # Panics
/// If the lengths differ.
pub fn adam(step: &AdamStep, gradient: &[f32], buffers: AdamBuffers) {
    const TASK: usize = 16 * 1024;
    let AdamBuffers { parameter, moment1, moment2, average } = buffers;
    let len = parameter.len();
    assert!(
        [gradient.len(), moment1.len(), moment2.len(), average.len()] == [len; 4],
        "adam: the slices differ in length"
    );
    let _span = profile::span(|| "Adam and EMA".into(), 15 * len, 9 * len);
    let coefficients = Coefficients::new(step);
    let tasks = parameter.par_chunks_mut(TASK).zip(gradient.par_chunks(TASK)).zip(moment1.par_chunks_mut(TASK));
    let tasks = tasks.zip(moment2.par_chunks_mut(TASK)).zip(average.par_chunks_mut(TASK));
    tasks.for_each(|((((param, grad), m), v), ema)| adam_part(coefficients, param, grad, m, v, ema));
}

#[derive(Clone, Copy)]
struct Coefficients {
    gradient_scale: f32,
    m_gain: f32,
    beta2: f32,
    v_gain: f32,
    root_correction: f32,
    eps: f32,
    step_size: f32,
    ema_gain: f32,
    /// 1 without weight decay, which changes no bit of a parameter.
    shrink: f32,
}

impl Coefficients {
    fn new(step: &AdamStep) -> Self {
        let AdamStep { beta1, beta2, .. } = *step;
        let correction = |beta: f64| 1.0 - beta.powf(step.step as f64);
        Coefficients {
            gradient_scale: step.gradient_scale as f32,
            m_gain: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            v_gain: (1.0 - beta2) as f32,
            root_correction: (1.0 / correction(beta2).sqrt()) as f32,
            eps: step.epsilon as f32,
            step_size: (step.learning_rate / correction(beta1)) as f32,
            ema_gain: (1.0 - step.ema_decay) as f32,
            shrink: (1.0 - step.learning_rate * step.weight_decay) as f32,
        }
    }
}

dispatch! {
    fn adam_part(
        k: Coefficients, param: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32], ema: &mut [f32],
    ) = adam_kernel;
}

#[inline(always)]
fn adam_kernel<S: Simd>(
    s: S,
    k: Coefficients,
    param: &mut [f32],
    grad: &[f32],
    m: &mut [f32],
    v: &mut [f32],
    ema: &mut [f32],
) {
    let moments = m.chunks_mut(LANES).zip(v.chunks_mut(LANES)).zip(ema.chunks_mut(LANES));
    for ((param, grad), ((m, v), ema)) in param.chunks_mut(LANES).zip(grad.chunks(LANES)).zip(moments) {
        let g = s.mul(s.load_up_to(grad), s.splat(k.gradient_scale));
        let first = s.load_up_to(m);
        let first = s.fma(s.sub(g, first), s.splat(k.m_gain), first);
        let second = s.mul(s.load_up_to(v), s.splat(k.beta2));
        let second = s.fma(s.mul(g, g), s.splat(k.v_gain), second);
        let root = s.fma(s.sqrt(second), s.splat(k.root_correction), s.splat(k.eps));
        let p = s.mul(s.load_up_to(param), s.splat(k.shrink));
        let p = s.fnma(s.splat(k.step_size), s.div(first, root), p);
        s.store_up_to(first, m);
        s.store_up_to(second, v);
        s.store_up_to(p, param);
        let e = s.load_up_to(ema);
        s.store_up_to(s.fma(s.sub(p, e), s.splat(k.ema_gain), e), ema);
    }
}
