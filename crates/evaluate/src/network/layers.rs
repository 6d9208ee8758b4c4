//! What the networks are made of: convolutions with their batch normalisation folded in, and pools. N,H,W,C throughout.

use burn::tensor::ops::{AvgPoolOptions, ConvOptions, MaxPoolOptions};
use burn::tensor::{Device, Tensor, TensorData, activation, module};
use unet::ops::{self, Geometry, PackedWeights};
use weights::Tensors;

use crate::Error;

/// The ε of both networks' batch normalisations.
const EPSILON: f64 = 1e-3;

/// A network's weights by name, as they are taken out.
pub struct Weights<'a> {
    /// What the file is called, for messages.
    pub name: &'a str,
    /// What is in it.
    pub tensors: &'a Tensors,
    /// Where layers are put.
    pub device: &'a Device,
}

impl Weights<'_> {
    /// The values of a tensor of this shape.
    pub fn take(&self, name: &str, shape: &[usize]) -> Result<&[f32], Error> {
        let bad = |what: String| Error::Request(format!("{}: tensor `{name}` {what}", self.name));
        let tensor = self.tensors.get(name).ok_or_else(|| bad("is missing".into()))?;
        match tensor.shape == shape {
            true => Ok(&tensor.data),
            false => Err(bad(format!("has shape {:?}, expected {shape:?}", tensor.shape))),
        }
    }

    /// The weights `[O,I,kh,kw]` of a convolution without bias followed by a batch normalisation, which are another
    /// convolution with one: w·γ/√(σ² + ε) and β − μ·γ/√(σ² + ε).
    fn folded(&self, conv: &str, norm: &str, shape: [usize; 4]) -> Result<(Vec<f32>, Vec<f32>), Error> {
        let channels = [shape[0]];
        let weight = self.take(&format!("{conv}.weight"), &shape)?;
        let [gamma, beta, mean, variance] = ["weight", "bias", "running_mean", "running_var"]
            .map(|name| self.take(&format!("{norm}.{name}"), &channels));
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

/// A convolution whose zeros may differ between rows and columns.
#[derive(Debug)]
pub struct Convolution {
    /// `[kh,kw,I,O]`.
    weight: Tensor<4>,
    bias: Tensor<1>,
    geometry: Geometry,
    /// Zeros on either side of rows and of columns, besides those of `geometry`.
    margin: [usize; 2],
    prepared: PackedWeights,
}

impl Convolution {
    /// Of `c_in` to `c_out` channels, with zeros that keep an image's size if `same`.
    pub fn new(
        weights: &Weights,
        (conv, norm): (&str, &str),
        [c_in, c_out]: [usize; 2],
        [height, width]: [usize; 2],
        stride: usize,
        same: bool,
    ) -> Result<Self, Error> {
        let (weight, bias) = weights.folded(conv, norm, [c_out, c_in, height, width])?;
        let taps = height * width;
        // Laid out anew here: a tensor that is only looked at in another order would be prepared anew for every batch.
        let place = |at: usize| {
            let (tap, i, o) = (at / (c_in * c_out), at / c_out % c_in, at % c_out);
            weight[(o * c_in + i) * taps + tap]
        };
        let laid_out = (0..weight.len()).map(place).collect();
        let zeros = if same { [height / 2, width / 2] } else { [0, 0] };
        // What both have is the kernel's to add, the rest is added before.
        let common = zeros[0].min(zeros[1]);
        Ok(Self {
            weight: tensor(laid_out, [height, width, c_in, c_out], weights.device),
            bias: tensor(bias, [c_out], weights.device),
            geometry: Geometry { stride, before: common, after: common },
            margin: zeros.map(|zeros| zeros - common),
            prepared: PackedWeights::default(),
        })
    }

    /// As [`Convolution::new`], with TensorFlow's zeros for images of even sides: the odd one comes last.
    pub fn tensorflow(
        weights: &Weights,
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

    /// `[N,H,W,I]` to `[N,H′,W′,O]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = bordered(bordered(x, 1, self.margin[0]), 2, self.margin[1]);
        let (weight, bias) = (self.weight.clone(), self.bias.clone());
        ops::conv2d(x, None, weight, bias, None, None, self.geometry, &self.prepared)
    }
}

/// A filter for each channel, with TensorFlow's zeros for images of even sides.
#[derive(Debug)]
pub struct Depthwise {
    /// `[C,1,k,k]`.
    weight: Tensor<4>,
    bias: Tensor<1>,
    stride: usize,
}

impl Depthwise {
    /// Of `channels` filters of `kernel`×`kernel`.
    pub fn new(
        weights: &Weights,
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

    /// `[N,H,W,C]` to `[N,H′,W′,C]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [channels, _, kernel, _] = self.weight.dims();
        let mut options = ConvOptions::new([self.stride; 2], [0, 0], [1, 1], channels);
        let zeros = kernel - self.stride;
        options.padding = [(zeros / 2, zeros.div_ceil(2)); 2];
        planar(x, |x| module::conv2d(x, self.weight.clone(), Some(self.bias.clone()), options))
    }
}

/// `zeros` rows (axis 1) or columns (2) of zeros on either side.
fn bordered(x: Tensor<4>, axis: usize, zeros: usize) -> Tensor<4> {
    if zeros == 0 {
        return x;
    }
    let mut dims = x.dims();
    dims[axis] = zeros;
    let border = Tensor::zeros(dims, &x.device());
    Tensor::cat(vec![border.clone(), x, border], axis)
}

/// An operation on N,C,H,W.
fn planar(x: Tensor<4>, operation: impl FnOnce(Tensor<4>) -> Tensor<4>) -> Tensor<4> {
    operation(x.permute([0, 3, 1, 2])).permute([0, 2, 3, 1])
}

/// The greatest of each 3×3 window, `stride` apart, `zeros` pixels beyond the border that never win.
pub fn max_pool(x: Tensor<4>, stride: usize, zeros: usize) -> Tensor<4> {
    let options = MaxPoolOptions::new([3; 2]).with_stride([stride; 2]).with_padding([zeros; 2]);
    planar(x, |x| module::max_pool2d(x, options))
}

/// The mean of the pixels of the image in each 3×3 window, which keeps the image's size.
pub fn average_pool(x: Tensor<4>) -> Tensor<4> {
    let options = AvgPoolOptions::new([3; 2]).with_stride([1; 2]).with_padding([1; 2]).with_count_include_pad(false);
    planar(x, |x| module::avg_pool2d(x, options))
}

/// The mean over all pixels, `[N,C]`.
pub fn global_average(x: Tensor<4>) -> Tensor<2> {
    let [n, h, w, c] = x.dims();
    x.reshape([n, h * w, c]).mean_dim(1).reshape([n, c])
}

/// max(x, 0).
pub fn relu(x: Tensor<4>) -> Tensor<4> {
    activation::relu(x)
}

/// A tensor of values.
pub fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), device)
}
