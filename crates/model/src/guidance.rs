//! Guidance: denoisers that modify the prediction of another denoiser.

use burn::tensor::{Bool, Device, Tensor, TensorData};
use diffusion::Node;
use unet::Labels;

use crate::backbone::Condition;
use crate::{Denoised, Denoiser, Error};

/// A denoiser with classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598).
///
/// The output is F(none) + scale·(F(class) − F(none)), at two evaluations of the network; the paper's w is scale − 1. A
/// learned variance is taken from F(class).
#[derive(Clone, Copy, Debug)]
pub struct ClassifierFree<D> {
    /// The denoiser to guide.
    pub denoiser: D,
    /// The settings.
    pub guidance: Guidance,
}

/// The settings of classifier-free guidance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guidance {
    /// The scale: 1 is the plain conditional prediction, 0 the unconditional one.
    pub scale: f64,
    /// The label that means "no class".
    pub null_label: u32,
    /// The first and last timestep with guidance. Outside, the prediction is conditional without guidance (Kynkäänniemi
    /// et al. 2024, arXiv 2404.07724).
    pub interval: (f64, f64),
}

impl Guidance {
    /// Creates settings for guidance at every timestep.
    pub fn new(scale: f64, null_label: u32) -> Self {
        Self { scale, null_label, interval: (f64::NEG_INFINITY, f64::INFINITY) }
    }

    /// Limits the guidance to the timesteps of an interval, if one is given.
    pub fn within(self, interval: Option<(f64, f64)>) -> Self {
        Self { interval: interval.unwrap_or(self.interval), ..self }
    }

    /// Adds guidance to a denoiser.
    pub fn around<D: Denoiser>(self, denoiser: D) -> ClassifierFree<D> {
        ClassifierFree { denoiser, guidance: self }
    }

    /// Adds guidance to a denoiser if `guidance` is given, and boxes the result.
    pub fn around_boxed(guidance: Option<Self>, denoiser: impl Denoiser + 'static) -> Box<dyn Denoiser> {
        match guidance {
            Some(guidance) => Box::new(guidance.around(denoiser)),
            None => Box::new(denoiser),
        }
    }

    fn applies(&self, node: &Node) -> bool {
        let (from, to) = self.interval;
        self.scale != 1.0 && (from..=to).contains(&node.timestep)
    }
}

impl<D: Denoiser + ?Sized> Denoiser for Box<D> {
    fn denoise(&self, x_t: Tensor<4>, nodes: &[Node], condition: Condition) -> Result<Denoised, Error> {
        (**self).denoise(x_t, nodes, condition)
    }

    fn check(&self, shape: [usize; 4], condition: Condition) -> Result<(), Error> {
        (**self).check(shape, condition)
    }

    fn check_node(&self, node: Node) -> Result<(), Error> {
        (**self).check_node(node)
    }

    fn device(&self) -> Device {
        (**self).device()
    }

    fn learns_variance(&self) -> bool {
        (**self).learns_variance()
    }

    fn with_input_gradients(&self) -> Result<Box<dyn Denoiser>, Error> {
        (**self).with_input_gradients()
    }
}

impl<D: Denoiser> Denoiser for ClassifierFree<D> {
    fn denoise(&self, x_t: Tensor<4>, nodes: &[Node], condition: Condition) -> Result<Denoised, Error> {
        let conditional = self.denoiser.denoise(x_t.clone(), nodes, condition)?;
        if !nodes.iter().any(|node| self.guidance.applies(node)) {
            return Ok(conditional);
        }
        let [n, height, width, channels] = x_t.dims();
        let device = x_t.device();
        let none = vec![self.guidance.null_label; n];
        let condition = Condition { labels: Some(Labels::Classes(&none)), ..condition };
        let unconditional = self.denoiser.denoise(x_t, nodes, condition)?.output().clone();
        let difference = conditional.output().clone() - unconditional.clone();
        let mut guided = unconditional + difference.mul_scalar(self.guidance.scale);
        if !nodes.iter().all(|node| self.guidance.applies(node)) {
            let outside: Vec<bool> = nodes.iter().map(|node| !self.guidance.applies(node)).collect();
            let outside = Tensor::<4, Bool>::from_data(TensorData::new(outside, [n, 1, 1, 1]), &device);
            guided = guided.mask_where(outside.expand([n, height, width, channels]), conditional.output().clone());
        }
        Ok(conditional.with_output(guided))
    }

    fn check(&self, shape: [usize; 4], condition: Condition) -> Result<(), Error> {
        if !matches!(condition.labels, Some(Labels::Classes(_))) {
            return Err(Error::Input("guidance needs a class for each image, and there are no labels".into()));
        }
        self.denoiser.check(shape, condition)?;
        let [_, height, width, channels] = shape;
        self.denoiser.check([1, height, width, channels], Condition::classes(Some(&[self.guidance.null_label])))
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

    fn with_input_gradients(&self) -> Result<Box<dyn Denoiser>, Error> {
        Ok(Box::new(self.guidance.around(self.denoiser.with_input_gradients()?)))
    }
}
