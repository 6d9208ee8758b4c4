//! Layers of the feature networks: convolutions with folded batch normalization, and pooling. Activations are N,H,W,C.

use burn::tensor::ops::{AvgPoolOptions, ConvOptions, MaxPoolOptions};
use burn::tensor::{Device, Tensor, TensorData, activation, module};
use unet::ops::{self, Geometry, PackedWeights};
use weights::Tensors;

use crate::Error;

/// The ε of both networks' batch normalization.
const EPSILON: f64 = 1e-3;

/// The weights of a file by name.
pub struct NamedWeights<'a> {
    /// The name of the file, for errors.
    pub name: &'a str,
    /// Its tensors.
    pub tensors: &'a Tensors,
    /// The device of the layers.
    pub device: &'a Device,
}

impl NamedWeights<'_> {
    /// Returns the values of a tensor, and checks its shape.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<&[f32], Error> {
        let bad = |what: String| Error::Request(format!("{}: tensor `{name}` {what}", self.name));
        let tensor = self.tensors.get(name).ok_or_else(|| bad("is missing".into()))?;
        match tensor.shape == shape {
            true => Ok(&tensor.data),
            false => Err(bad(format!("has shape {:?}, expected {shape:?}", tensor.shape))),
        }
    }

    /// Folds a convolution `[O,I,kh,kw]` without bias and its batch normalization into a weight w·γ/√(σ² + ε) and a bias
    /// β − μ·γ/√(σ² + ε).
    fn folded(&self, conv: &str, norm: &str, shape: [usize; 4]) -> Result<(Vec<f32>, Vec<f32>), Error> {
        let channels = [shape[0]];
        let weight = self.get(&format!("{conv}.weight"), &shape)?;
        let [gamma, beta, mean, variance] = ["weight", "bias", "running_mean", "running_var"]
            .map(|name| self.get(&format!("{norm}.{name}"), &channels));
        let (gamma, beta, mean, variance) = (gamma?, beta?, mean?, variance?);
        let scale: Vec<f64> =
            gamma.iter().zip(variance).map(|(&g, &v)| f64::from(g) / (f64::from(v) + EPSILON).sqrt()).collect();
        let filter = shape[1..].iter().product::<usize>();
        let folded = weight.chunks(filter).zip(&scale);
        let folded = folded.flat_map(|(filter, scale)| filter.iter().map(move |&w| (f64::from(w) * scale) as f32));
        let bias = beta.iter().zip(mean).zip(&scale).map(|((&b, &m), s)| (f64::from(b) - f64::from(m) * s) as f32);
        Ok((folded.collect(), bias.collect()))
    }
}

/// A convolution whose padding may differ between rows and columns.
#[derive(Debug)]
pub struct Convolution {
    /// `[kh,kw,I,O]`.
    weight: Tensor<4>,
    bias: Tensor<1>,
    geometry: Geometry,
    /// Padding of rows and of columns, in addition to that of `geometry`.
    margin: [usize; 2],
    packed: PackedWeights,
}

impl Convolution {
    /// Builds a convolution from `c_in` to `c_out` channels. `same` means zero padding that keeps the size, otherwise there is
    /// none.
    pub fn new(
        weights: &NamedWeights,
        (conv, norm): (&str, &str),
        [c_in, c_out]: [usize; 2],
        [height, width]: [usize; 2],
        stride: usize,
        same: bool,
    ) -> Result<Self, Error> {
        let (weight, bias) = weights.folded(conv, norm, [c_out, c_in, height, width])?;
        let taps = height * width;
        // Not a permuted view, which would be packed again for every batch.
        let place = |at: usize| {
            let (tap, i, o) = (at / (c_in * c_out), at / c_out % c_in, at % c_out);
            weight[(o * c_in + i) * taps + tap]
        };
        let laid_out = (0..weight.len()).map(place).collect();
        let zeros = if same { [height / 2, width / 2] } else { [0, 0] };
        // The kernel pads rows and columns alike; the difference is padded before.
        let common = zeros[0].min(zeros[1]);
        Ok(Self {
            weight: tensor(laid_out, [height, width, c_in, c_out], weights.device),
            bias: tensor(bias, [c_out], weights.device),
            geometry: Geometry { stride, before: common, after: common },
            margin: zeros.map(|zeros| zeros - common),
            packed: PackedWeights::default(),
        })
    }

    /// Builds a convolution with TensorFlow's `SAME` padding for images of even sides: the odd row and column of zeros come
    /// last.
    pub fn tensorflow(
        weights: &NamedWeights,
        names: (&str, &str),
        channels: [usize; 2],
        kernel: usize,
        stride: usize,
    ) -> Result<Self, Error> {
        let mut convolution = Self::new(weights, names, channels, [kernel; 2], stride, false)?;
        let zeros = kernel - stride.min(kernel);
        convolution.geometry = Geometry { stride, before: zeros / 2, after: zeros.div_ceil(2) };
        Ok(convolution)
    }

    /// Applies the convolution: `[N,H,W,I]` to `[N,H′,W′,O]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = padded(padded(x, 1, self.margin[0]), 2, self.margin[1]);
        let (weight, bias) = (self.weight.clone(), self.bias.clone());
        ops::conv2d(x, None, weight, bias, None, None, self.geometry, &self.packed)
    }
}

/// A depthwise convolution with TensorFlow's `SAME` padding for images of even sides.
#[derive(Debug)]
pub struct Depthwise {
    /// `[C,1,k,k]`.
    weight: Tensor<4>,
    bias: Tensor<1>,
    stride: usize,
}

impl Depthwise {
    /// Builds `channels` filters of `kernel`×`kernel`.
    pub fn new(
        weights: &NamedWeights,
        (conv, norm): (&str, &str),
        channels: usize,
        kernel: usize,
        stride: usize,
    ) -> Result<Self, Error> {
        let shape = [channels, 1, kernel, kernel];
        let (weight, bias) = weights.folded(conv, norm, shape)?;
        Ok(Self {
            weight: tensor(weight, shape, weights.device),
            bias: tensor(bias, [channels], weights.device),
            stride,
        })
    }

    /// Applies the convolution: `[N,H,W,C]` to `[N,H′,W′,C]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [channels, _, kernel, _] = self.weight.dims();
        let mut options = ConvOptions::new([self.stride; 2], [0, 0], [1, 1], channels);
        let zeros = kernel - self.stride;
        options.padding = [(zeros / 2, zeros.div_ceil(2)); 2];
        planar(x, |x| module::conv2d(x, self.weight.clone(), Some(self.bias.clone()), options))
    }
}

/// Adds `zeros` rows (axis 1) or columns (axis 2) of zeros on either side.
fn padded(x: Tensor<4>, axis: usize, zeros: usize) -> Tensor<4> {
    if zeros == 0 {
        return x;
    }
    let mut dims = x.dims();
    dims[axis] = zeros;
    let border = Tensor::zeros(dims, &x.device());
    Tensor::cat(vec![border.clone(), x, border], axis)
}

/// Applies an operation of N,C,H,W tensors.
fn planar(x: Tensor<4>, operation: impl FnOnce(Tensor<4>) -> Tensor<4>) -> Tensor<4> {
    operation(x.permute([0, 3, 1, 2])).permute([0, 2, 3, 1])
}

/// Computes the maximum of each 3×3 window. Padding by `zeros` pixels is never the maximum.
pub fn max_pool(x: Tensor<4>, stride: usize, zeros: usize) -> Tensor<4> {
    let options = MaxPoolOptions::new([3; 2]).with_stride([stride; 2]).with_padding([zeros; 2]);
    planar(x, |x| module::max_pool2d(x, options))
}

/// Computes the mean of each 3×3 window without its padding, and keeps the size of the image.
pub fn average_pool(x: Tensor<4>) -> Tensor<4> {
    let options = AvgPoolOptions::new([3; 2]).with_stride([1; 2]).with_padding([1; 2]).with_count_include_pad(false);
    planar(x, |x| module::avg_pool2d(x, options))
}

/// Computes the mean over all pixels, `[N,C]`.
pub fn global_average(x: Tensor<4>) -> Tensor<2> {
    let [n, h, w, c] = x.dims();
    x.reshape([n, h * w, c]).mean_dim(1).reshape([n, c])
}

/// Computes max(x, 0).
pub fn relu(x: Tensor<4>) -> Tensor<4> {
    activation::relu(x)
}

/// Builds a tensor from its values.
pub fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), device)
}
