//! Denoisers, which predict x̂0 and ε̂ from noisy images.
//!
//! Only [`Process::denoised`] converts the output of a network to x̂0 and ε̂. Sampling, likelihoods and training all
//! use it.

use burn::tensor::{Device, Tensor, TensorData};
use diffusion::preconditioning::epsilon_from_sample;
use diffusion::{LinearMap, Node, NoiseSchedule, Preconditioning, Prediction, SchedulerConfig};

use crate::backbone::{Condition, Network};
use crate::{Error, Images};

/// A model that predicts x_0 from x_t.
pub trait Denoiser {
    /// Denoises images `[N,H,W,C]`. `nodes` has one noise level for all images, or one per image.
    ///
    /// # Errors
    /// If x_0 cannot be predicted at a noise level.
    fn denoise(&self, x_t: Tensor<4>, nodes: &[Node], condition: Condition) -> Result<Denoised, Error>;

    /// Checks that images `[N,H,W,C]` and their condition match the model.
    ///
    /// # Errors
    /// If they do not; the error says what was expected.
    fn check(&self, shape: [usize; 4], condition: Condition) -> Result<(), Error>;

    /// Checks that x_0 can be predicted at a noise level.
    ///
    /// # Errors
    /// If it cannot; for example, from ε at pure noise.
    fn check_node(&self, node: Node) -> Result<(), Error>;

    /// Returns the device of the model.
    fn device(&self) -> Device;

    /// Returns whether the model also predicts a variance.
    fn learns_variance(&self) -> bool {
        false
    }

    /// Returns a copy whose [`Denoised::output`] can be differentiated with respect to x_t.
    ///
    /// # Errors
    /// If the denoiser cannot be differentiated.
    fn with_input_gradients(&self) -> Result<Box<dyn Denoiser>, Error> {
        Err(Error::Input("this denoiser cannot be differentiated".into()))
    }
}

/// The prediction for a batch: x̂0 and ε̂ as linear maps of x_t and the output of the network.
#[derive(Clone, Debug)]
pub struct Denoised {
    x_t: Tensor<4>,
    output: Tensor<4>,
    variance: Option<Tensor<4>>,
    /// One for all images, or one per image.
    maps: Vec<OutputMaps>,
}

/// The maps from (x_t, output) to x̂0 and to ε̂ at a noise level.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OutputMaps {
    /// The map to x̂0.
    pub sample: LinearMap,
    /// The map to ε̂.
    pub epsilon: LinearMap,
}

/// The prediction for one image, in f64.
#[derive(Clone, Debug, PartialEq)]
pub struct DenoisedImage {
    /// x̂0, H,W,C.
    pub sample: Vec<f64>,
    /// ε̂, H,W,C.
    pub epsilon: Vec<f64>,
    /// The variance channels, H,W,C, if there are any.
    pub variance: Option<Vec<f64>>,
}

impl Denoised {
    /// Creates a prediction from x̂0.
    pub fn from_sample(x_t: Tensor<4>, sample: Tensor<4>, nodes: &[Node]) -> Self {
        let maps = |node: &Node| OutputMaps {
            sample: LinearMap { x: 0.0, output: 1.0 },
            epsilon: epsilon_from_sample(node.level),
        };
        Self { x_t, output: sample, variance: None, maps: nodes.iter().map(maps).collect() }
    }

    /// Returns the noisy images, `[N,H,W,C]`.
    pub fn x_t(&self) -> &Tensor<4> {
        &self.x_t
    }

    /// Returns the output of the network without its variance channels, `[N,H,W,C]`.
    pub fn output(&self) -> &Tensor<4> {
        &self.output
    }

    /// Returns the variance channels, `[N,H,W,C]`, if the network has them.
    pub fn variance(&self) -> Option<&Tensor<4>> {
        self.variance.as_ref()
    }

    /// Returns the maps from (x_t, output) of an image to x̂0 and ε̂.
    pub fn maps(&self, image: usize) -> OutputMaps {
        if self.maps.len() == 1 { self.maps[0] } else { self.maps[image] }
    }

    /// Returns the prediction off the autodiff graph.
    pub fn inner(self) -> Self {
        Self { x_t: self.x_t.inner(), output: self.output.inner(), variance: self.variance.map(Tensor::inner), ..self }
    }

    /// Returns the prediction with another output, such as a guided one.
    pub fn with_output(self, output: Tensor<4>) -> Self {
        Self { output, ..self }
    }

    /// Computes x̂0, `[N,H,W,C]`.
    pub fn sample(&self) -> Tensor<4> {
        self.mapped(|maps| maps.sample)
    }

    /// Computes ε̂, `[N,H,W,C]`.
    pub fn epsilon(&self) -> Tensor<4> {
        self.mapped(|maps| maps.epsilon)
    }

    fn mapped(&self, choose: impl Fn(&OutputMaps) -> LinearMap) -> Tensor<4> {
        let maps: Vec<LinearMap> = self.maps.iter().map(choose).collect();
        if let [map] = maps[..] {
            return match (map.x, map.output) {
                (0.0, 1.0) => self.output.clone(),
                (0.0, scale) => self.output.clone().mul_scalar(scale),
                (x, scale) => self.x_t.clone().mul_scalar(x) + self.output.clone().mul_scalar(scale),
            };
        }
        let device = self.x_t.device();
        let column = |values: Vec<f64>| per_image(&values, &device);
        self.x_t.clone() * column(maps.iter().map(|map| map.x).collect())
            + self.output.clone() * column(maps.iter().map(|map| map.output).collect())
    }

    /// Computes the predictions in f64, one per image.
    pub fn images(&self) -> Vec<DenoisedImage> {
        let values = |tensor: &Tensor<4>| tensor.to_data().iter::<f32>().collect::<Vec<f32>>();
        let [n, height, width, channels] = self.x_t.dims();
        let size = height * width * channels;
        let (x_t, output) = (values(&self.x_t), values(&self.output));
        let variance = self.variance.as_ref().map(values);
        let image = |i: usize| {
            let maps = self.maps(i);
            let part = |all: &[f32]| all[i * size..][..size].iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
            let (x_t, output) = (part(&x_t), part(&output));
            let apply = |map: LinearMap| x_t.iter().zip(&output).map(|(&x, &y)| map.apply(x, y)).collect();
            DenoisedImage {
                sample: apply(maps.sample),
                epsilon: apply(maps.epsilon),
                variance: variance.as_deref().map(part),
            }
        };
        (0..n).map(image).collect()
    }
}

/// Returns one number per image as a tensor `[N,1,1,1]`, for products with images.
pub fn per_image(values: &[f64], device: &Device) -> Tensor<4> {
    let values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
    let shape = [values.len(), 1, 1, 1];
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// The diffusion process that a network was trained for: its noise levels, and the meaning of its output.
#[derive(Clone, Debug)]
pub struct Process {
    /// The noise level of each timestep.
    pub schedule: NoiseSchedule,
    /// The quantity that the network predicts.
    pub prediction: Prediction,
}

impl Process {
    /// Creates the process of a scheduler's configuration.
    ///
    /// # Errors
    /// If its betas are invalid.
    pub fn new(scheduler: &SchedulerConfig) -> Result<Self, Error> {
        Ok(Self { schedule: scheduler.noise_schedule()?, prediction: scheduler.prediction_type })
    }

    /// Combines a network with this process to a denoiser.
    pub fn denoiser(self, network: Network) -> NetworkDenoiser {
        NetworkDenoiser { network, process: self }
    }

    /// Returns the nodes of integer timesteps.
    pub fn nodes(&self, timesteps: &[usize]) -> Vec<Node> {
        timesteps.iter().map(|&t| Node::at(&self.schedule, t as f64)).collect()
    }

    /// Returns the network's inputs for N noisy images: c_in·x_t, and c_noise for each.
    ///
    /// # Errors
    /// If the prediction type is undefined at a noise level.
    pub fn inputs(&self, x_t: Tensor<4>, nodes: &[Node]) -> Result<(Tensor<4>, Vec<f32>), Error> {
        let n = x_t.dims()[0];
        let rows = nodes.iter().map(|&node| self.preconditioning(node)).collect::<Result<Vec<_>, _>>()?;
        let scaled = match rows[..] {
            _ if rows.iter().all(|row| row.c_in == 1.0) => x_t,
            [row] => x_t.mul_scalar(row.c_in),
            _ => {
                let c_in: Vec<f64> = rows.iter().map(|row| row.c_in).collect();
                let device = x_t.device();
                x_t * per_image(&c_in, &device)
            }
        };
        let mut c_noise: Vec<f32> = rows.iter().map(|row| row.c_noise as f32).collect();
        if let [one] = c_noise[..] {
            c_noise = vec![one; n];
        }
        Ok((scaled, c_noise))
    }

    /// Converts the output of a network, `[N,H,W,C]` or `[N,H,W,2C]` with a variance, to predictions from x_t
    /// `[N,H,W,C]`.
    ///
    /// # Errors
    /// If x_0 cannot be predicted from the output at a noise level.
    pub fn denoised(&self, x_t: Tensor<4>, nodes: &[Node], output: Tensor<4>) -> Result<Denoised, Error> {
        let channels = x_t.dims()[3];
        let (output, variance) = if output.dims()[3] == 2 * channels {
            (output.clone().narrow(3, 0, channels), Some(output.narrow(3, channels, channels)))
        } else {
            (output, None)
        };
        let maps = nodes.iter().map(|&node| self.maps(node)).collect::<Result<_, _>>()?;
        Ok(Denoised { x_t, output, variance, maps })
    }

    /// Checks that x_0 can be predicted at a noise level.
    ///
    /// # Errors
    /// If it cannot; for example, from ε at pure noise.
    pub fn check_node(&self, node: Node) -> Result<(), Error> {
        self.maps(node).map(drop)
    }

    /// Returns the coefficients at a noise level of this process.
    fn preconditioning(&self, node: Node) -> Result<Preconditioning, Error> {
        let previous = self.prediction.previous_level(&self.schedule, node.timestep)?;
        Ok(self.prediction.preconditioning(node, previous))
    }

    /// Returns the maps at a noise level of this process.
    fn maps(&self, node: Node) -> Result<OutputMaps, Error> {
        let previous = self.prediction.previous_level(&self.schedule, node.timestep)?;
        let (sample, epsilon) = self.prediction.maps(node, previous)?;
        Ok(OutputMaps { sample, epsilon })
    }
}

/// A network with the process that it was trained for. Clones share the memory of the network.
#[derive(Clone, Debug)]
pub struct NetworkDenoiser {
    /// The network.
    pub network: Network,
    /// The process.
    pub process: Process,
}

impl Denoiser for NetworkDenoiser {
    fn denoise(&self, x_t: Tensor<4>, nodes: &[Node], condition: Condition) -> Result<Denoised, Error> {
        let (x, c_noise) = self.process.inputs(x_t.clone(), nodes)?;
        self.process.denoised(x_t, nodes, self.network.forward(x, &c_noise, condition, None))
    }

    fn check(&self, shape: [usize; 4], condition: Condition) -> Result<(), Error> {
        self.network.check(shape, condition)
    }

    fn check_node(&self, node: Node) -> Result<(), Error> {
        self.process.check_node(node)
    }

    fn device(&self) -> Device {
        self.network.device()
    }

    fn learns_variance(&self) -> bool {
        let signature = self.network.signature();
        signature.out_channels == 2 * signature.in_channels
    }

    fn with_input_gradients(&self) -> Result<Box<dyn Denoiser>, Error> {
        Ok(Box::new(Self { network: self.network.with_input_gradients(), process: self.process.clone() }))
    }
}

/// Denoises host images at one noise level.
///
/// # Errors
/// As [`Denoiser::denoise`].
pub fn denoise_images(denoiser: &dyn Denoiser, images: &Images, node: Node) -> Result<Images, Error> {
    let x_t = images.tensor(&denoiser.device());
    let condition = Condition::classes(images.labels.as_deref());
    denoiser.check(images.shape(), condition)?;
    let sample = denoiser.denoise(x_t, &[node], condition)?.sample();
    Ok(Images { labels: images.labels.clone(), ..Images::from_tensor(&sample) })
}
