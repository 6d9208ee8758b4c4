//! Networks: the trait [`Backbone`], and [`Network`], which holds a backbone of any type.

use std::fmt::Debug;

use burn::tensor::{Device, Tensor};
use serde_json::Value;
use unet::ops::GradientObserver;
use unet::{Dropout, FlatParameter, Labels, Parameters, UnetInputs};
use weights::Tensors;

use crate::Error;

/// The inputs of a network besides x and the noise level.
#[derive(Clone, Copy, Debug, Default)]
pub struct Condition<'a> {
    /// A class or a vector for each image.
    pub labels: Option<Labels<'a>>,
    /// The previous prediction of x_0, `[N,H,W,C]`, for networks that take one (Chen et al. 2022, "self-conditioning"). Others
    /// ignore it; those that take it read an absent one as zeros.
    pub prediction: Option<&'a Tensor<4>>,
    /// The vectors that describe how training images were augmented, for networks that take them (Karras et al. 2022). Others ignore
    /// them; those that take them read absent ones as zeros, which stand for images as they are.
    pub augment_labels: Option<&'a [f32]>,
}

impl<'a> Condition<'a> {
    /// Creates a condition on classes, one for each image, or an empty condition for `None`.
    pub fn classes(classes: Option<&'a [u32]>) -> Self {
        Self { labels: classes.map(Labels::Classes), ..Self::default() }
    }
}

/// The kind of labels that a network expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LabelKind {
    /// No labels: the network is unconditional.
    None,
    /// Classes below this number.
    Classes(usize),
    /// Classes below this number; the number itself means no class.
    OptionalClass(usize),
    /// Class numbers of any size.
    AnyClass,
    /// Vectors of this width.
    Vectors(usize),
}

/// The kind of data that a network is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DataKind {
    /// Images, of 8-bit values that are scaled to [-1, 1].
    #[default]
    Images,
    /// Points `[N,1,1,D]`: vectors of real numbers.
    Points,
}

/// The inputs and outputs of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The kind of data.
    pub kind: DataKind,
    /// Height and width of the training images, or `None` if the network was trained for several sizes.
    pub size: Option<[usize; 2]>,
    /// Channels of the images.
    pub in_channels: usize,
    /// Channels of the output: `in_channels`, or twice as many if the variance is learned.
    pub out_channels: usize,
    /// The kind of labels.
    pub labels: LabelKind,
    /// Number of timesteps, if the network has a table of them.
    pub timesteps: Option<usize>,
    /// Whether the network takes the previous prediction of x_0.
    pub takes_prediction: bool,
}

impl Signature {
    /// Returns the signature of an unconditional network for images of any size with `channels` channels.
    pub fn unconditional(channels: usize) -> Self {
        Self {
            kind: DataKind::Images,
            size: None,
            in_channels: channels,
            out_channels: channels,
            labels: LabelKind::None,
            timesteps: None,
            takes_prediction: false,
        }
    }

    /// Returns the number of classes, if labels are classes of a known number.
    pub fn classes(&self) -> Option<usize> {
        match self.labels {
            LabelKind::Classes(classes) | LabelKind::OptionalClass(classes) => Some(classes),
            _ => None,
        }
    }

    /// Checks that a condition matches `images` images.
    ///
    /// # Errors
    /// If it does not; the error names the expected labels.
    pub fn check_condition(&self, images: usize, condition: Condition) -> Result<(), Error> {
        let expected = match self.labels {
            LabelKind::None => "none, since the network has no classes".to_owned(),
            LabelKind::Classes(classes) => format!("{images} class numbers below {classes}"),
            LabelKind::OptionalClass(classes) => format!("{images} class numbers up to {classes}"),
            LabelKind::AnyClass => format!("{images} class numbers"),
            LabelKind::Vectors(width) => format!("{images} vectors of {width} numbers"),
        };
        let fits = match (self.labels, condition.labels) {
            (LabelKind::None, labels) => labels.is_none(),
            (LabelKind::Classes(classes), Some(Labels::Classes(labels))) => {
                labels.len() == images && labels.iter().all(|&label| (label as usize) < classes)
            }
            (LabelKind::OptionalClass(classes), Some(Labels::Classes(labels))) => {
                labels.len() == images && labels.iter().all(|&label| label as usize <= classes)
            }
            (LabelKind::AnyClass, Some(Labels::Classes(labels))) => labels.len() == images,
            (LabelKind::Vectors(width), Some(Labels::Vectors(vectors))) => vectors.len() == images * width,
            _ => false,
        };
        let found = match condition.labels {
            None => "none".to_owned(),
            Some(Labels::Classes(labels)) => {
                format!("{} class numbers up to {}", labels.len(), labels.iter().max().unwrap_or(&0))
            }
            Some(Labels::Vectors(vectors)) => format!("{} numbers", vectors.len()),
        };
        if fits { Ok(()) } else { Err(unet::Error::Labels(format!("expected {expected}; found {found}")).into()) }
    }
}

/// A network F(x, c_noise, condition), the learned part of a denoiser.
pub trait Backbone: Parameters + Sync + 'static {
    /// Computes the output for noisy images.
    ///
    /// `x` is `[N,H,W,in_channels]`, the result `[N,H,W,out_channels]`. `c_noise` has one number per image; for the
    /// discrete chains of Ho et al. (2020) it is the timestep. Dropout is applied only if `dropout` is given, as in
    /// training.
    ///
    /// # Panics
    /// May panic if shapes do not match; callers call [`Backbone::check`] first.
    fn forward(&self, x: Tensor<4>, c_noise: &[f32], condition: Condition, dropout: Option<&Dropout>) -> Tensor<4>;

    /// Returns the shapes of the inputs and outputs.
    fn signature(&self) -> Signature;

    /// Returns the text of `config.json`, with the class of the network under `_class_name`.
    fn config(&self) -> String;

    /// Returns the tensors that the state dictionary of the original code has besides the parameters.
    fn buffers(&self) -> Tensors {
        Tensors::new()
    }

    /// Returns the name that a parameter has in the original code.
    fn original_name(&self, name: &str) -> String {
        name.to_owned()
    }

    /// Checks that images `[N,H,W,C]` and their condition match the network.
    ///
    /// # Errors
    /// If they do not; the error says what was expected.
    fn check(&self, shape: [usize; 4], condition: Condition) -> Result<(), Error> {
        let [n, height, width, channels] = shape;
        let signature = self.signature();
        self.check_size(height, width)?;
        if channels != signature.in_channels {
            let expected = signature.in_channels;
            if signature.kind == DataKind::Points {
                let message = format!("the points have {channels} dimensions, but the network takes {expected}");
                return Err(Error::Input(message));
            }
            let message = format!("the images have {channels} channels, but the network takes {expected}");
            return Err(Error::Input(message));
        }
        signature.check_condition(n, condition)
    }

    /// Checks a height and a width.
    ///
    /// # Errors
    /// If the network does not support them; the error says what was expected.
    fn check_size(&self, height: usize, width: usize) -> Result<(), Error> {
        match self.signature().size {
            Some([h, w]) if [h, w] != [height, width] && self.signature().kind == DataKind::Points => {
                Err(Error::Input(format!(
                    "images of {height}x{width}, but the network is one of points, vectors of numbers; give it points"
                )))
            }
            Some([h, w]) if [h, w] != [height, width] => {
                Err(Error::Input(format!("images of {height}x{width}, but the network takes {h}x{w}")))
            }
            _ => Ok(()),
        }
    }

    /// Computes the gradients of `loss(forward(…))` with respect to the parameters, in the order of
    /// [`Parameters::flat_parameters`].
    ///
    /// `inputs.checkpointing` saves memory by a second forward pass.
    fn gradients(&self, inputs: Inputs, loss: &mut dyn FnMut(Tensor<4>) -> Tensor<1>) -> Vec<Option<Tensor<1>>> {
        if inputs.checkpointing {
            return self.checkpointed_gradients(inputs, loss);
        }
        let Inputs { x, c_noise, condition, dropout, checkpointing: _, observer } = inputs;
        let loss = match observer {
            Some(observer) => loss(self.clone().observed(observer).forward(x, c_noise, condition, dropout)),
            None => loss(self.forward(x, c_noise, condition, dropout)),
        };
        self.take_gradients(&mut loss.backward())
    }

    /// Computes the same gradients as [`Backbone::gradients`] with a second forward pass and less memory. Networks without support
    /// for it compute them as usual.
    fn checkpointed_gradients(
        &self,
        inputs: Inputs,
        loss: &mut dyn FnMut(Tensor<4>) -> Tensor<1>,
    ) -> Vec<Option<Tensor<1>>> {
        self.gradients(Inputs { checkpointing: false, ..inputs }, loss)
    }
}

/// The inputs of a training pass.
#[derive(Clone)]
pub struct Inputs<'a> {
    /// Noisy images `[N,H,W,C]`, scaled by c_in.
    pub x: Tensor<4>,
    /// The noise level of each image, in the form that the network expects.
    pub c_noise: &'a [f32],
    /// The labels.
    pub condition: Condition<'a>,
    /// The source of dropout masks, or `None` for no dropout.
    pub dropout: Option<&'a Dropout>,
    /// Recomputes activations in the backward pass (Chen et al. 2016, arXiv 1604.06174).
    pub checkpointing: bool,
    /// Gets gradients during the backward pass, in place of the result: those are `None` then.
    pub observer: Option<&'a GradientObserver>,
}

impl<'a> Inputs<'a> {
    /// Returns the inputs of a network of the crate `unet`, with its form of the condition.
    pub(crate) fn with_condition<C>(self, form: impl FnOnce(Condition<'a>) -> C) -> UnetInputs<'a, C> {
        let Inputs { x, c_noise, condition, dropout, checkpointing: _, observer } = self;
        UnetInputs { x, timesteps: c_noise, condition: form(condition), dropout, observer }
    }
}

/// A backbone of any type. Clones share the memory of the parameters.
#[derive(Debug)]
pub struct Network(Box<dyn AnyBackbone>);

impl Clone for Network {
    fn clone(&self) -> Self {
        self.0.boxed_clone()
    }
}

impl<B: Backbone> From<B> for Network {
    fn from(backbone: B) -> Self {
        Self(Box::new(Owned(Some(backbone))))
    }
}

impl Network {
    /// See [`Backbone::forward`].
    pub fn forward(&self, x: Tensor<4>, c_noise: &[f32], condition: Condition, dropout: Option<&Dropout>) -> Tensor<4> {
        self.0.forward(x, c_noise, condition, dropout)
    }

    /// See [`Backbone::gradients`].
    pub fn gradients(&self, inputs: Inputs, loss: &mut dyn FnMut(Tensor<4>) -> Tensor<1>) -> Vec<Option<Tensor<1>>> {
        self.0.gradients(inputs, loss)
    }

    /// See [`Backbone::signature`].
    pub fn signature(&self) -> Signature {
        self.0.signature()
    }

    /// See [`Backbone::config`].
    pub fn config(&self) -> String {
        self.0.config()
    }

    /// Returns the configuration as a JSON value.
    pub fn config_value(&self) -> Value {
        serde_json::from_str(&self.config()).unwrap_or_default()
    }

    /// See [`Backbone::check`].
    ///
    /// # Errors
    /// As [`Backbone::check`].
    pub fn check(&self, shape: [usize; 4], condition: Condition) -> Result<(), Error> {
        self.0.check(shape, condition)
    }

    /// See [`Backbone::check_size`].
    ///
    /// # Errors
    /// As [`Backbone::check_size`].
    pub fn check_size(&self, height: usize, width: usize) -> Result<(), Error> {
        self.0.check_size(height, width)
    }

    /// See [`Parameters::flat_parameters`].
    pub fn flat_parameters(&self) -> Vec<FlatParameter> {
        self.0.flat_parameters()
    }

    /// Returns the number of parameters.
    pub fn parameter_count(&self) -> usize {
        self.flat_parameters().iter().map(|flat| flat.shape.iter().product::<usize>()).sum()
    }

    /// Replaces each parameter, in the order of [`Network::flat_parameters`]. `each` owns the old values and may modify
    /// them in place.
    pub fn map_parameters(&mut self, mut each: impl FnMut(&str, Tensor<1>) -> Tensor<1>) {
        self.0.map_parameters(&mut each);
    }

    /// See [`Parameters::tensors_of`].
    ///
    /// # Errors
    /// If the back end cannot read a tensor.
    pub fn tensors_of(&self, values: impl IntoIterator<Item = Tensor<1>>) -> Result<Tensors, Error> {
        Ok(self.0.tensors_of(values.into_iter().collect())?)
    }

    /// Returns the state dictionary of the original code: the parameters and [`Backbone::buffers`].
    ///
    /// # Errors
    /// If the back end cannot read a parameter.
    pub fn state_dict(&self) -> Result<Tensors, Error> {
        let mut tensors: Tensors =
            self.tensors()?.into_iter().map(|(name, tensor)| (self.0.original_name(&name), tensor)).collect();
        tensors.extend(self.0.buffers());
        Ok(tensors)
    }

    /// Returns the parameters by name, in the layout on disk.
    ///
    /// # Errors
    /// If the back end cannot read a parameter.
    pub fn tensors(&self) -> Result<Tensors, Error> {
        self.tensors_of(self.flat_parameters().into_iter().map(|flat| flat.values))
    }

    /// See [`Parameters::flat_from`].
    ///
    /// # Errors
    /// As [`Parameters::flat_from`].
    pub fn flat_from(&self, tensors: Tensors, device: &Device) -> Result<Vec<Tensor<1>>, Error> {
        Ok(self.0.flat_from(tensors, device)?)
    }

    /// Replaces the parameters by tensors in the layout on disk.
    ///
    /// # Errors
    /// As [`Parameters::flat_from`].
    pub fn set_tensors(&mut self, tensors: Tensors) -> Result<(), Error> {
        let mut values = self.flat_from(tensors, &self.device())?.into_iter();
        self.map_parameters(|_, old| values.next().unwrap_or(old));
        Ok(())
    }

    /// Returns a copy with other parameters, such as moving averages, without autodiff.
    pub fn with_parameters(&self, values: impl IntoIterator<Item = Tensor<1>>) -> Self {
        let mut network = self.valid();
        let mut values = values.into_iter();
        network.map_parameters(|_, old| values.next().unwrap_or(old));
        network
    }

    /// Returns a copy without autodiff, for inference.
    pub fn valid(&self) -> Self {
        self.0.valid()
    }

    /// Returns a copy that can be differentiated with respect to the input but not the parameters.
    pub fn with_input_gradients(&self) -> Self {
        self.0.with_input_gradients()
    }

    /// Returns the device of the parameters, without autodiff.
    pub fn device(&self) -> Device {
        self.0.device()
    }
}

/// An object-safe form of [`Backbone`], without generic methods.
trait AnyBackbone: Debug + Send + Sync {
    fn forward(&self, x: Tensor<4>, c_noise: &[f32], condition: Condition, dropout: Option<&Dropout>) -> Tensor<4>;
    fn gradients(&self, inputs: Inputs, loss: &mut dyn FnMut(Tensor<4>) -> Tensor<1>) -> Vec<Option<Tensor<1>>>;
    fn signature(&self) -> Signature;
    fn config(&self) -> String;
    fn buffers(&self) -> Tensors;
    fn original_name(&self, name: &str) -> String;
    fn check(&self, shape: [usize; 4], condition: Condition) -> Result<(), Error>;
    fn check_size(&self, height: usize, width: usize) -> Result<(), Error>;
    fn flat_parameters(&self) -> Vec<FlatParameter>;
    fn map_parameters(&mut self, each: &mut dyn FnMut(&str, Tensor<1>) -> Tensor<1>);
    fn tensors_of(&self, values: Vec<Tensor<1>>) -> Result<Tensors, unet::Error>;
    fn flat_from(&self, tensors: Tensors, device: &Device) -> Result<Vec<Tensor<1>>, unet::Error>;
    fn boxed_clone(&self) -> Network;
    fn valid(&self) -> Network;
    fn with_input_gradients(&self) -> Network;
    fn device(&self) -> Device;
}

/// A boxed backbone. It is `None` only during [`AnyBackbone::map_parameters`], since Burn maps modules by value.
#[derive(Debug)]
struct Owned<B>(Option<B>);

impl<B> Owned<B> {
    fn get(&self) -> &B {
        self.0.as_ref().expect("present outside of map_parameters")
    }
}

impl<B: Backbone> AnyBackbone for Owned<B> {
    fn forward(&self, x: Tensor<4>, c_noise: &[f32], condition: Condition, dropout: Option<&Dropout>) -> Tensor<4> {
        self.get().forward(x, c_noise, condition, dropout)
    }

    fn gradients(&self, inputs: Inputs, loss: &mut dyn FnMut(Tensor<4>) -> Tensor<1>) -> Vec<Option<Tensor<1>>> {
        self.get().gradients(inputs, loss)
    }

    fn signature(&self) -> Signature {
        self.get().signature()
    }

    fn config(&self) -> String {
        self.get().config()
    }

    fn buffers(&self) -> Tensors {
        self.get().buffers()
    }

    fn original_name(&self, name: &str) -> String {
        self.get().original_name(name)
    }

    fn check(&self, shape: [usize; 4], condition: Condition) -> Result<(), Error> {
        self.get().check(shape, condition)
    }

    fn check_size(&self, height: usize, width: usize) -> Result<(), Error> {
        self.get().check_size(height, width)
    }

    fn flat_parameters(&self) -> Vec<FlatParameter> {
        self.get().flat_parameters()
    }

    fn map_parameters(&mut self, each: &mut dyn FnMut(&str, Tensor<1>) -> Tensor<1>) {
        self.0 = self.0.take().map(|backbone| backbone.map_parameters(each));
    }

    fn tensors_of(&self, values: Vec<Tensor<1>>) -> Result<Tensors, unet::Error> {
        self.get().tensors_of(values)
    }

    fn flat_from(&self, tensors: Tensors, device: &Device) -> Result<Vec<Tensor<1>>, unet::Error> {
        self.get().flat_from(tensors, device)
    }

    fn boxed_clone(&self) -> Network {
        self.get().clone().into()
    }

    fn valid(&self) -> Network {
        self.get().valid().into()
    }

    fn with_input_gradients(&self) -> Network {
        self.get().clone().train().no_grad().into()
    }

    fn device(&self) -> Device {
        Parameters::device(self.get())
    }
}
