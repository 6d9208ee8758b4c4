//! Inpainting by a product of the chain with the factor of the known pixels (Sohl-Dickstein et al. 2015, §2.5).

use burn::tensor::{Device, Tensor, TensorData};
use diffusion::product::{normal_variance, sample_shift};
use diffusion::{Node, NoiseLevel};
use model::denoiser::per_image;
use model::{Condition, Denoised, Denoiser, Error};

use crate::inpaint::Inpainting;

/// The least variance, as a share of that of a standard normal value.
const LEAST_SHARE: f64 = 0.01;
/// The greatest variance: far above that of any pixel, and finite at pure noise.
const MOST_VARIANCE: f64 = 1e6;

/// A denoiser of p(x_0)·r(x_0)/Z, for the factor r of known pixels: x̂0 moves by σ²/α·∂ln E[r | x_t]/∂x_t.
///
/// The expected factor of known values y is taken as Π N(y_i; x̂0_i, v_i). Cov[x_0 | x_t] is σ²/α·∂x̂0/∂x_t (Tweedie's formula of
/// second order); v_i is the sum of its row i over the known pixels, by which a matrix is replaced by a diagonal one that acts on
/// constant differences alike (Boys et al. 2023, "Tweedie moment projected diffusions", eq. 11). For Gaussian data and one known
/// value it is exact. Each prediction takes two passes through the network, forward and backward.
pub(crate) struct KnownPixels<'a> {
    /// With gradients with respect to its input.
    denoiser: Box<dyn Denoiser>,
    inpainting: Inpainting<'a>,
}

impl<'a> KnownPixels<'a> {
    /// Multiplies a denoiser by the factor of an inpainting's known pixels.
    pub fn new(denoiser: &dyn Denoiser, inpainting: Inpainting<'a>) -> Result<Self, Error> {
        Ok(Self { denoiser: denoiser.with_input_gradients()?, inpainting })
    }

    /// Computes the prediction, and (∂x̂0/∂x_t)ᵀ v for a v that is chosen by the prediction.
    fn pull_back(
        &self,
        x_t: &Tensor<4>,
        nodes: &[Node],
        condition: Condition,
        v: impl FnOnce(&Denoised) -> Tensor<4>,
    ) -> Result<(Denoised, Tensor<4>), Error> {
        let input = Tensor::from_inner(x_t.clone()).require_grad();
        let prediction = condition.prediction.cloned().map(Tensor::from_inner);
        let condition = Condition { prediction: prediction.as_ref(), ..condition };
        let denoised = self.denoiser.denoise(input.clone(), nodes, condition)?;
        let sample = denoised.sample();
        let denoised = denoised.inner();
        let gradients = (sample * Tensor::from_inner(v(&denoised))).sum().backward();
        let gradient = input.grad(&gradients).unwrap_or_else(|| x_t.zeros_like());
        Ok((denoised, gradient))
    }
}

impl Denoiser for KnownPixels<'_> {
    fn denoise(&self, x_t: Tensor<4>, nodes: &[Node], condition: Condition) -> Result<Denoised, Error> {
        let dims @ [n, _, _, channels] = x_t.dims();
        let device = self.denoiser.device();
        let tensor = |values: Vec<f32>| Tensor::<4>::from_data(TensorData::new(values.repeat(n), dims), &device);
        let column = |value: &dyn Fn(NoiseLevel) -> f64| {
            per_image(&nodes.iter().map(|node| value(node.level)).collect::<Vec<_>>(), &device).expand(dims)
        };
        let known = self.inpainting.unknown.iter().flat_map(|&unknown| vec![f32::from(u8::from(!unknown)); channels]);
        let (known, y) = (tensor(known.collect()), tensor(self.inpainting.image.pixels.clone()));

        let (_, row_sums) = self.pull_back(&x_t, nodes, condition, |_| known.clone())?;
        // Networks are not exact: the variance is kept within that of a value without any prior and a share of the normal one's.
        let variance = (row_sums * column(&sample_shift))
            .max_pair(column(&|level| LEAST_SHARE * normal_variance(level)))
            .min_pair(column(&|level| level.noise_ratio().powi(2).min(MOST_VARIANCE)));
        let residual = |denoised: &Denoised| (y.clone() - denoised.sample()) * known.clone() / variance.clone();
        let (denoised, gradient) = self.pull_back(&x_t, nodes, condition, residual)?;
        // The shift of x̂0, in terms of the network's output.
        let scale = (0..nodes.len()).map(|i| sample_shift(nodes[i].level) / denoised.maps(i).sample.output);
        let shift = gradient * per_image(&scale.collect::<Vec<_>>(), &device);
        let output = denoised.output().clone() + shift;
        Ok(denoised.with_output(output))
    }

    fn check(&self, shape: [usize; 4], condition: Condition) -> Result<(), Error> {
        self.denoiser.check(shape, condition)
    }

    fn check_node(&self, node: Node) -> Result<(), Error> {
        self.denoiser.check_node(node)
    }

    fn device(&self) -> Device {
        self.denoiser.device()
    }

    fn learns_variance(&self) -> bool {
        self.denoiser.learns_variance()
    }
}
