//! Inpainting by a product of the chain with the factor of the known pixels (Sohl-Dickstein et al. 2015, §2.5).

use burn::tensor::{Device, Tensor, TensorData};
use diffusion::product::{normal_variance, sample_shift};
use diffusion::{Node, NoiseLevel};
use model::denoiser::per_image;
use model::{Condition, Denoised, Denoiser, Error};

use crate::inpaint::Inpainting;

/// A denoiser of p(x_0)·r(x_0)/Z, for the factor r of known pixels: x̂0 moves by σ²/α·∂ln E[r | x_t]/∂x_t.
///
/// The expected factor of a known value y is N(y; x̂0, v_t), with the variance v_t of a standard normal value given its noised one
/// (Song et al. 2023, "Pseudoinverse-guided diffusion models for inverse problems"). It is exact if x̂0 is and the known pixels are
/// independent and standard normal a priori. Each prediction takes a backward pass through the network.
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
}

impl Denoiser for KnownPixels<'_> {
    fn denoise(&self, x_t: Tensor<4>, nodes: &[Node], condition: Condition) -> Result<Denoised, Error> {
        let dims @ [n, _, _, channels] = x_t.dims();
        let device = self.denoiser.device().autodiff();
        let tensor = |values: Vec<f32>| Tensor::<4>::from_data(TensorData::new(values, dims), &device);
        let known = self.inpainting.unknown.iter().flat_map(|&unknown| vec![f32::from(u8::from(!unknown)); channels]);
        let known = tensor(known.collect::<Vec<f32>>().repeat(n));
        let y = tensor(self.inpainting.image.pixels.repeat(n));
        let column = |value: &dyn Fn(NoiseLevel) -> f64, device: &Device| {
            per_image(&nodes.iter().map(|node| value(node.level)).collect::<Vec<_>>(), device)
        };

        let input = Tensor::from_inner(x_t).require_grad();
        let prediction = condition.prediction.cloned().map(Tensor::from_inner);
        let condition = Condition { prediction: prediction.as_ref(), ..condition };
        let denoised = self.denoiser.denoise(input.clone(), nodes, condition)?;
        let error = (denoised.sample() - y) * known;
        let log_factor = (error.clone() * error * column(&|level| -0.5 / normal_variance(level), &device)).sum();
        let gradient = input.grad(&log_factor.backward());
        let denoised = denoised.inner();
        let Some(gradient) = gradient else { return Ok(denoised) };
        // The shift of x̂0, in terms of the network's output.
        let scale = (0..nodes.len()).map(|i| sample_shift(nodes[i].level) / denoised.maps(i).sample.output);
        let shift = gradient * per_image(&scale.collect::<Vec<_>>(), &self.device());
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
