//! Access to the parameters by the names and in the layout of files.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use weights::Tensors;

use crate::error::Error;
use crate::ops::{self, GradientObserver};

/// The difference between the layout of a parameter in memory and on disk.
#[derive(Clone, Copy, PartialEq)]
enum Layout {
    /// The same layout.
    Same,
    /// `[I,O]` in memory, `[O,I]` on disk.
    Linear,
    /// `[kh,kw,I,O]` in memory, `[O,I,kh,kw]` on disk.
    Convolution,
    /// `[C]` in memory, `[1,C,1,1]` on disk.
    Gain,
}

impl Layout {
    fn of(name: &str, rank: usize) -> Self {
        match rank {
            // Embedding tables have a row for each class or timestep in both layouts.
            2 if !["class_embedding.weight", "time_proj.weight", "classes_emb.weight"].contains(&name) => Self::Linear,
            4 if !name.ends_with(".mem_kv") => Self::Convolution,
            1 if name.ends_with(".g") => Self::Gain,
            _ => Self::Same,
        }
    }

    /// Returns the shape on disk.
    fn shape_on_disk(self, shape: &[usize]) -> Vec<usize> {
        match self {
            Self::Same => shape.to_vec(),
            Self::Gain => vec![1, shape[0], 1, 1],
            Self::Linear | Self::Convolution => self.on_disk().iter().map(|&axis| shape[axis]).collect(),
        }
    }

    /// Returns the axes of the layout on disk, as axes of that in memory. None means the same order of values.
    fn on_disk(self) -> &'static [usize] {
        match self {
            Self::Same | Self::Gain => &[],
            Self::Linear => &[1, 0],
            Self::Convolution => &[3, 2, 0, 1],
        }
    }

    /// Returns the axes of the layout in memory, as axes of that on disk. None means the same order of values.
    fn here(self) -> &'static [usize] {
        match self {
            Self::Same | Self::Gain => &[],
            Self::Linear => &[1, 0],
            Self::Convolution => &[2, 3, 1, 0],
        }
    }
}

/// Permutes axes: axis i of the result is axis `axes[i]` of `values`. Returns the values and the new shape.
fn permuted(values: &[f32], shape: &[usize], axes: &[usize]) -> (Vec<f32>, Vec<usize>) {
    if axes.is_empty() {
        return (values.to_vec(), shape.to_vec());
    }
    let mut strides = vec![1; shape.len()];
    for i in (0..shape.len().saturating_sub(1)).rev() {
        strides[i] = strides[i + 1] * shape[i + 1];
    }
    let new_shape: Vec<usize> = axes.iter().map(|&a| shape[a]).collect();
    let new_strides: Vec<usize> = axes.iter().map(|&a| strides[a]).collect();
    let mut index = vec![0; shape.len()];
    let mut result = Vec::with_capacity(values.len());
    for _ in 0..values.len() {
        result.push(values[index.iter().zip(&new_strides).map(|(i, s)| i * s).sum::<usize>()]);
        for axis in (0..index.len()).rev() {
            index[axis] += 1;
            if index[axis] < new_shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    (result, new_shape)
}

/// The path to the current module of a traversal, as a parameter name.
#[derive(Default)]
struct NamePath(Vec<(String, bool)>);

impl NamePath {
    fn enter(&mut self, name: &str, container: &str) {
        // Two levels have no name in files: the struct of the time and class embeddings, and enum variants.
        let hidden = name == "time" || container.starts_with("Enum:");
        self.0.push((name.to_owned(), hidden));
    }

    fn exit(&mut self) {
        self.0.pop();
    }

    fn name(&self) -> String {
        let shown: Vec<&str> = self.0.iter().filter(|(_, hidden)| !hidden).map(|(name, _)| name.as_str()).collect();
        shown.join(".")
    }
}

/// A flattened parameter in the network's own layout.
#[derive(Clone, Debug)]
pub struct FlatParameter {
    /// The name in diffusers.
    pub name: String,
    /// The shape in the network's own layout.
    pub shape: Vec<usize>,
    /// The values, `[len]`.
    pub values: Tensor<1>,
}

struct ParameterVisitor<F> {
    path: NamePath,
    each: F,
}

impl<F: FnMut(String, ParamId, Vec<usize>, Tensor<1>, bool)> ModuleVisitor for ParameterVisitor<F> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        let shape = value.dims().to_vec();
        let len: usize = shape.iter().product();
        let trained = value.is_require_grad();
        (self.each)(self.path.name(), param.id, shape, value.inner().reshape([len]), trained);
    }

    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }
}

struct ParameterMapper<F> {
    path: NamePath,
    each: F,
}

impl<F: FnMut(String, Tensor<1>) -> Tensor<1>> ModuleMapper for ParameterMapper<F> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.name();
        let (id, value, mapper) = param.consume();
        let (shape, trained, autodiff) = (value.dims(), value.is_require_grad(), value.is_autodiff());
        let len: usize = shape.iter().product();
        let new = (self.each)(name, value.inner().reshape([len])).reshape(shape);
        let new = if autodiff { Tensor::from_inner(new).set_require_grad(trained) } else { new };
        Param::from_mapped_value(id, new, mapper)
    }

    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }
}

/// Gives the gradients of parameters to an observer.
struct Observe<'a> {
    index: usize,
    observer: &'a GradientObserver,
}

impl ModuleMapper for Observe<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let index = self.index;
        self.index += 1;
        let (id, value, mapper) = param.consume();
        let value = if value.is_require_grad() { ops::observe(value, index, self.observer) } else { value };
        Param::from_mapped_value(id, value, mapper)
    }
}

struct TakeGradients<'a> {
    gradients: &'a mut Gradients,
    taken: Vec<Option<Tensor<1>>>,
}

impl ModuleVisitor for TakeGradients<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        let len: usize = value.dims().iter().product();
        self.taken.push(value.grad_remove(self.gradients).map(|g| g.reshape([len])));
    }
}

/// A module whose parameters are read and replaced by name, in the layout of PyTorch.
pub trait Parameters: Module {
    /// Returns the name on disk of the parameter with a path of fields, such as `mid_block.resnets.0.conv1.weight`.
    fn name_of(&self, path: String) -> String {
        path
    }

    /// Returns all parameters in a fixed order: flattened, without autodiff, sharing memory with the network.
    fn flat_parameters(&self) -> Vec<FlatParameter> {
        let mut all = Vec::new();
        let each =
            |path: String, _, shape, values, _| all.push(FlatParameter { name: self.name_of(path), shape, values });
        self.visit(&mut ParameterVisitor { path: NamePath::default(), each });
        all
    }

    /// Removes and returns the gradients of the parameters, in the order of [`Parameters::flat_parameters`]. They are
    /// `None` for parameters that are not trained.
    fn take_gradients(&self, gradients: &mut Gradients) -> Vec<Option<Tensor<1>>> {
        let mut visitor = TakeGradients { gradients, taken: Vec::new() };
        self.visit(&mut visitor);
        visitor.taken
    }

    /// Returns the module with parameters whose gradients an observer gets during the backward pass. On the CPU they are not
    /// among those of [`Parameters::take_gradients`] then; other back ends do not call the observer.
    fn observed(self, observer: &GradientObserver) -> Self {
        self.map(&mut Observe { index: 0, observer })
    }

    /// Replaces each flattened parameter by the result of `each`, in the order of [`Parameters::flat_parameters`].
    /// `each` owns the old tensor and may modify it in place.
    fn map_parameters(self, mut each: impl FnMut(&str, Tensor<1>) -> Tensor<1>) -> Self {
        let names: Vec<String> = self.flat_parameters().into_iter().map(|flat| flat.name).collect();
        let mut names = names.into_iter();
        let each = |path: String, values| each(&names.next().unwrap_or(path), values);
        self.map(&mut ParameterMapper { path: NamePath::default(), each })
    }

    /// Returns tensors by diffusers' names and in its layout. `values` has one flat tensor per parameter in the order
    /// of [`Parameters::flat_parameters`], for instance moving averages.
    ///
    /// # Errors
    /// If the back end cannot read a tensor.
    fn tensors_of(&self, values: impl IntoIterator<Item = Tensor<1>>) -> Result<Tensors, Error> {
        let mut tensors = Tensors::new();
        for (flat, values) in self.flat_parameters().into_iter().zip(values) {
            let data = values.try_into_vec_as::<f32>().map_err(|e| Error::Device(flat.name.clone(), e.to_string()))?;
            let layout = Layout::of(&flat.name, flat.shape.len());
            let (data, _) = permuted(&data, &flat.shape, layout.on_disk());
            let shape = layout.shape_on_disk(&flat.shape);
            tensors.insert(flat.name, weights::Tensor { shape, data });
        }
        Ok(tensors)
    }

    /// Returns the parameters by diffusers' names and in its layout.
    ///
    /// # Errors
    /// If the back end cannot read a parameter.
    fn tensors(&self) -> Result<Tensors, Error> {
        self.tensors_of(self.flat_parameters().into_iter().map(|flat| flat.values))
    }

    /// Converts tensors with diffusers' names to flat values in the order of [`Parameters::flat_parameters`].
    ///
    /// # Errors
    /// If a tensor is missing, unexpected or of the wrong shape; the error names it.
    fn flat_from(&self, mut tensors: Tensors, device: &Device) -> Result<Vec<Tensor<1>>, Error> {
        let mut values = Vec::new();
        let mut missing = Vec::new();
        for flat in self.flat_parameters() {
            let layout = Layout::of(&flat.name, flat.shape.len());
            let Some(tensor) = tensors.remove(&flat.name) else {
                missing.push(flat.name);
                continue;
            };
            let expected = layout.shape_on_disk(&flat.shape);
            if tensor.shape != expected {
                return Err(Error::Shape { name: flat.name, found: tensor.shape, expected });
            }
            let (data, _) = permuted(&tensor.data, &expected, layout.here());
            let len = data.len();
            values.push(Tensor::from_data(TensorData::new(data, [len]), device));
        }
        if !missing.is_empty() || !tensors.is_empty() {
            return Err(Error::Names { missing, unexpected: tensors.into_keys().collect() });
        }
        Ok(values)
    }

    /// Replaces the parameters by tensors with diffusers' names.
    ///
    /// # Errors
    /// As [`Parameters::flat_from`].
    fn with_tensors(self, tensors: Tensors) -> Result<Self, Error> {
        let device = self.device();
        let mut values = self.flat_from(tensors, &device)?.into_iter();
        Ok(self.map_parameters(|_, old| values.next().unwrap_or(old)))
    }

    /// Returns the device of the parameters, without autodiff.
    fn device(&self) -> Device {
        let mut device = None;
        let each = |_: String, _, _, values: Tensor<1>, _| device = Some(values.device());
        self.visit(&mut ParameterVisitor { path: NamePath::default(), each });
        device.unwrap_or_default().without_autodiff()
    }
}

/// Counts the parameters of each part of the network, for `ddpm inspect`.
pub fn count_by_part(parameters: &[FlatParameter]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for flat in parameters {
        let mut words = flat.name.split('.');
        let first = words.next().unwrap_or_default();
        let part = match words.next() {
            Some(index) if index.parse::<usize>().is_ok() => format!("{first}.{index}"),
            _ => first.to_owned(),
        };
        *counts.entry(part).or_default() += flat.shape.iter().product::<usize>();
    }
    counts
}
