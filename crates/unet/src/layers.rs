//! Layers with parameters, and their initialization. Field names are the parameter names of diffusers.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use random::{Random, Stream};

use crate::ops::{self, Fusion, Geometry, Norm, NormOptions, PackedWeights, Weights};

/// Draws initial parameters like Ho et al. (2020): weights uniform with variance scale/fan_avg, biases zero.
pub struct Init<'a> {
    random: Random,
    device: &'a Device,
    drawn: u64,
}

impl<'a> Init<'a> {
    /// Creates an initializer for parameters on `device`, drawn from `seed`.
    pub fn new(seed: u64, device: &'a Device) -> Self {
        Self { random: Random::new(seed), device, drawn: 0 }
    }

    fn tensor<const D: usize>(&self, values: Vec<f32>, shape: [usize; D]) -> Param<Tensor<D>> {
        Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), self.device))
    }

    fn constant(&self, value: f32, len: usize) -> Param<Tensor<1>> {
        self.tensor(vec![value; len], [len])
    }

    /// Draws weights by `variance_scaling(scale, "fan_avg", "uniform")`: uniform in ±√(3·scale/fan_avg).
    fn uniform<const D: usize>(&mut self, shape: [usize; D], fan_avg: f64, scale: f64) -> Param<Tensor<D>> {
        let mut values = vec![0.0; shape.iter().product()];
        self.random.uniforms(Stream::Parameters, self.drawn, 0, &mut values);
        self.drawn += 1;
        let limit = (3.0 * scale / fan_avg).sqrt();
        values.iter_mut().for_each(|v| *v = (limit * (2.0 * f64::from(*v) - 1.0)) as f32);
        self.tensor(values, shape)
    }

    fn normal<const D: usize>(&mut self, shape: [usize; D], deviation: f32) -> Param<Tensor<D>> {
        let mut values = vec![0.0; shape.iter().product()];
        self.random.normals(Stream::Parameters, self.drawn, 0, &mut values);
        self.drawn += 1;
        values.iter_mut().for_each(|v| *v *= deviation);
        self.tensor(values, shape)
    }
}

/// The scale of initial weights, except in the last layer of a block.
pub const INIT_SCALE: f64 = 1.0;
/// The scale of initial weights in the last layer of a block (Ho et al.'s "zero"), so that a block starts as the
/// identity.
pub(crate) const ZERO_INIT_SCALE: f64 = 1e-10;

/// A convolution. Weights are `[kh,kw,I,O]` in memory and `[O,I,kh,kw]` on disk.
#[derive(Module, Debug)]
pub struct Conv2d {
    weight: Param<Tensor<4>>,
    bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    geometry: Geometry,
    #[module(skip)]
    packed: PackedWeights,
}

impl Conv2d {
    /// Creates a convolution with weights of `shape` `[kh,kw,I,O]`.
    pub fn new(init: &mut Init, shape: [usize; 4], geometry: Geometry, scale: f64) -> Self {
        let [kh, kw, c_in, c_out] = shape;
        let fan_avg = (kh * kw * (c_in + c_out)) as f64 / 2.0;
        Self {
            weight: init.uniform(shape, fan_avg, scale),
            bias: Some(init.constant(0.0, c_out)),
            geometry,
            packed: PackedWeights::default(),
        }
    }

    /// Returns the convolution without biases.
    pub fn without_bias(self) -> Self {
        Self { bias: None, ..self }
    }

    /// Maps `[N,H,W,I]` to `[N,H′,W′,O]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.forward_fused(x, Fusion::default())
    }

    /// Computes [`Conv2d::forward`] and the operations of `fusion`.
    pub(crate) fn forward_fused(&self, x: Tensor<4>, fusion: Fusion) -> Tensor<4> {
        let weight = self.weight.val();
        let bias = bias_or_zeros(&self.bias, weight.dims()[3], &weight.device());
        ops::conv2d(x, Weights { weight, bias, packed: &self.packed }, self.geometry, fusion)
    }
}

fn bias_or_zeros(bias: &Option<Param<Tensor<1>>>, len: usize, device: &Device) -> Tensor<1> {
    match bias {
        Some(bias) => bias.val(),
        None => Tensor::zeros([len], device),
    }
}

/// A linear layer. Weights are `[I,O]` in memory and `[O,I]` on disk.
#[derive(Module, Debug)]
pub struct Linear {
    weight: Param<Tensor<2>>,
    bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    packed: PackedWeights,
}

impl Linear {
    /// Creates a layer with `c_in` inputs and `c_out` outputs.
    pub fn new(init: &mut Init, c_in: usize, c_out: usize, scale: f64) -> Self {
        let fan_avg = (c_in + c_out) as f64 / 2.0;
        Self {
            weight: init.uniform([c_in, c_out], fan_avg, scale),
            bias: Some(init.constant(0.0, c_out)),
            packed: PackedWeights::default(),
        }
    }

    /// Returns the layer without biases.
    pub fn without_bias(self) -> Self {
        Self { bias: None, ..self }
    }

    /// Maps `[M,I]` to `[M,O]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.forward_with(x, None)
    }

    /// Computes [`Linear::forward`] and adds `residual` `[M,O]`.
    pub(crate) fn forward_with(&self, x: Tensor<2>, residual: Option<Tensor<2>>) -> Tensor<2> {
        let weight = self.weight.val();
        let bias = bias_or_zeros(&self.bias, weight.dims()[1], &weight.device());
        ops::linear(x, Weights { weight, bias, packed: &self.packed }, residual)
    }
}

/// Group normalization.
#[derive(Module, Debug)]
pub struct GroupNorm {
    weight: Param<Tensor<1>>,
    bias: Param<Tensor<1>>,
    groups: usize,
    epsilon: f64,
}

impl GroupNorm {
    /// Creates a normalization of `channels` in `groups` groups.
    pub fn new(init: &mut Init, channels: usize, groups: usize, epsilon: f64) -> Self {
        Self { weight: init.constant(1.0, channels), bias: init.constant(0.0, channels), groups, epsilon }
    }

    /// Maps `[N,H,W,C]` to the same shape.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        ops::group_norm(x, self.norm(None, false))
    }

    /// Computes [`GroupNorm::forward`], applies ·(1 + scale) + shift if `scale_shift` `[N,2C]` is given, then SiLU.
    pub fn forward_silu(&self, x: Tensor<4>, scale_shift: Option<Tensor<2>>) -> Tensor<4> {
        ops::group_norm(x, self.with_silu(scale_shift))
    }

    /// Returns the normalization of [`GroupNorm::forward_silu`], to be fused into a convolution.
    pub(crate) fn with_silu(&self, scale_shift: Option<Tensor<2>>) -> Norm {
        self.norm(scale_shift, true)
    }

    /// Returns the normalization of [`GroupNorm::forward`], to be fused into a convolution.
    pub(crate) fn plain(&self) -> Norm {
        self.norm(None, false)
    }

    fn norm(&self, scale_shift: Option<Tensor<2>>, silu: bool) -> Norm {
        let options = NormOptions { groups: self.groups, epsilon: self.epsilon, silu };
        Norm { gamma: self.weight.val(), beta: self.bias.val(), scale_shift, options }
    }
}

/// Root mean square normalization of the channels of each pixel.
#[derive(Module, Debug)]
pub struct RmsNorm {
    g: Param<Tensor<1>>,
}

impl RmsNorm {
    /// Creates a normalization of `channels`.
    pub fn new(init: &mut Init, channels: usize) -> Self {
        Self { g: init.constant(1.0, channels) }
    }

    /// Maps `[N,H,W,C]` to the same shape.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        ops::rms_norm(x, self.g.val(), None, false)
    }

    /// Computes [`RmsNorm::forward`], applies ·(1 + scale) + shift if `scale_shift` `[N,2C]` is given, then SiLU.
    pub fn forward_silu(&self, x: Tensor<4>, scale_shift: Option<Tensor<2>>) -> Tensor<4> {
        ops::rms_norm(x, self.g.val(), scale_shift, true)
    }
}

/// Layer normalization of the channels of each pixel (Ba et al. 2016), without a shift.
#[derive(Module, Debug)]
pub struct LayerNorm {
    g: Param<Tensor<1>>,
    epsilon: f64,
}

impl LayerNorm {
    /// Creates a normalization of `channels`.
    pub fn new(init: &mut Init, channels: usize, epsilon: f64) -> Self {
        Self { g: init.constant(1.0, channels), epsilon }
    }

    /// Maps `[N,H,W,C]` to the same shape.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [n, h, w, channels] = x.dims();
        let mean = |x: Tensor<4>| ops::row_means(x.reshape([n * h * w, channels])).reshape([n, h, w, 1]);
        let centered = x.clone() - mean(x);
        let variance = mean(centered.clone().powi_scalar(2));
        centered / variance.add_scalar(self.epsilon).sqrt() * self.g.val().unsqueeze()
    }
}

/// Draws a parameter of any shape from a normal distribution of deviation 1.
pub(crate) fn normal_parameter<const D: usize>(init: &mut Init, shape: [usize; D]) -> Param<Tensor<D>> {
    init.normal(shape, 1.0)
}

/// A table of vectors, one per class or timestep.
#[derive(Module, Debug)]
pub struct Embedding {
    weight: Param<Tensor<2>>,
}

impl Embedding {
    /// Creates a table of `classes` vectors of length `width`.
    pub fn new(init: &mut Init, classes: usize, width: usize) -> Self {
        Self { weight: init.normal([classes, width], 1.0) }
    }

    /// Returns all vectors, `[classes,width]`.
    pub(crate) fn table(&self) -> Tensor<2> {
        self.weight.val()
    }

    /// Returns the vectors of `labels`, `[N,width]`.
    pub fn forward(&self, labels: &[u32]) -> Tensor<2> {
        let table = self.weight.val();
        let labels: Vec<i64> = labels.iter().map(|&l| i64::from(l)).collect();
        let indices = Tensor::from_data(TensorData::from(labels.as_slice()), &table.device());
        table.select(0, indices)
    }
}

/// Random frequencies (Song et al. 2021): not trained, but stored with the parameters.
#[derive(Module, Debug)]
pub struct FourierFrequencies {
    weight: Param<Tensor<1>>,
}

impl FourierFrequencies {
    /// Draws `width` frequencies with standard deviation 16.
    pub fn new(init: &mut Init, width: usize) -> Self {
        Self { weight: init.normal([width], 16.0).set_require_grad(false) }
    }

    /// Returns the frequencies.
    pub fn values(&self) -> Vec<f32> {
        self.weight.val().into_data().iter::<f32>().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the mean and mean square of a parameter.
    fn moments<const D: usize>(parameter: &Param<Tensor<D>>) -> (f64, f64) {
        let values: Vec<f64> = parameter.val().into_data().iter::<f64>().collect();
        let mean = |f: &dyn Fn(f64) -> f64| values.iter().map(|&v| f(v)).sum::<f64>() / values.len() as f64;
        (mean(&|v| v), mean(&|v| v * v))
    }

    /// Checks Ho et al.'s `variance_scaling(scale, "fan_avg", "uniform")`: variance scale/fan_avg, where the fans
    /// include the pixels of the kernel. "zero" is a scale of 1e-10.
    #[test]
    fn initial_weights_have_the_variance_of_the_paper() {
        let device = Device::flex();
        let mut init = Init::new(0, &device);
        for scale in [INIT_SCALE, ZERO_INIT_SCALE] {
            let conv = Conv2d::new(&mut init, [3, 3, 64, 32], Geometry::same(3), scale);
            let (mean, square) = moments(&conv.weight);
            let variance = scale / (9.0 * 48.0);
            assert!(mean.abs() < 4.0 * (variance / 18432.0).sqrt(), "{mean}");
            assert!((square / variance - 1.0).abs() < 0.03, "{square} {variance}");
            assert_eq!(moments(conv.bias.as_ref().unwrap()), (0.0, 0.0));
            let linear = Linear::new(&mut init, 100, 300, scale);
            assert!((moments(&linear.weight).1 / (scale / 200.0) - 1.0).abs() < 0.03);
        }
    }

    #[test]
    fn initial_weights_depend_on_seed_and_layer_only() {
        let device = Device::flex();
        let draw = |seed: u64, skip: usize| {
            let mut init = Init::new(seed, &device);
            (0..skip).for_each(|_| drop(Linear::new(&mut init, 4, 4, INIT_SCALE)));
            Linear::new(&mut init, 4, 4, INIT_SCALE).weight.val().into_data()
        };
        assert_eq!(draw(1, 0), draw(1, 0));
        assert_ne!(draw(1, 0), draw(2, 0));
        assert_ne!(draw(1, 0), draw(1, 1));
    }
}
