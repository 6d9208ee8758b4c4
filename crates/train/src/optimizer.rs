//! Adam with an exponential moving average of the parameters, in one pass over memory.

use burn::tensor::Tensor;
use model::Network;
use unet::FlatParameter;
use unet::ops::{self, AdamState, AdamStep};
use weights::Tensors;

use crate::Error;

/// The optimizer's tensors for one parameter, flat.
#[derive(Clone, Debug)]
struct Slot {
    moment1: Tensor<1>,
    moment2: Tensor<1>,
    average: Tensor<1>,
}

/// Adam's moments (Kingma & Ba 2015) and the moving averages of all parameters, in the order of the parameters.
#[derive(Debug)]
pub struct Optimizer {
    /// Empty only while the kernel works on its tensors.
    slots: Vec<Option<Slot>>,
}

impl Optimizer {
    /// Moments of zero, and averages equal to the parameters.
    pub fn new(parameters: &[FlatParameter]) -> Self {
        let slot = |parameter: &FlatParameter| Slot {
            moment1: parameter.values.zeros_like(),
            moment2: parameter.values.zeros_like(),
            average: parameter.values.clone(),
        };
        Self { slots: parameters.iter().map(|parameter| Some(slot(parameter))).collect() }
    }

    /// Returns the function that updates the parameters, called with each of them in order: the argument of
    /// [`Network::map_parameters`]. A parameter without a gradient is not changed.
    ///
    /// ```no_run
    /// # use ddpm_train::optimizer::Optimizer;
    /// # fn update(mut network: model::Network, mut optimizer: Optimizer, gradients: Vec<Option<burn::tensor::Tensor<1>>>, step: unet::ops::AdamStep) {
    /// network.map_parameters(optimizer.update(gradients, step));
    /// # }
    /// ```
    pub fn update(
        &mut self,
        gradients: Vec<Option<Tensor<1>>>,
        step: AdamStep,
    ) -> impl FnMut(&str, Tensor<1>) -> Tensor<1> + '_ {
        let mut slots = self.slots.iter_mut();
        let mut gradients = gradients.into_iter();
        move |_, parameter| {
            let (Some(slot), Some(Some(gradient))) = (slots.next(), gradients.next()) else {
                return parameter;
            };
            // The tensors are moved into the kernel and out of it, since it works in place on tensors that it owns.
            let Some(Slot { moment1, moment2, average }) = slot.take() else {
                return parameter;
            };
            let state = AdamState { parameter, moment1, moment2, average };
            let AdamState { parameter, moment1, moment2, average } = ops::adam(state, gradient, step);
            *slot = Some(Slot { moment1, moment2, average });
            parameter
        }
    }

    /// Iterates over the averages, in the order of the parameters.
    pub fn averages(&self) -> impl Iterator<Item = Tensor<1>> + '_ {
        self.slots.iter().flatten().map(|slot| slot.average.clone())
    }

    /// Returns the tensors in the order of the parameters: first moments, second moments, averages.
    pub(crate) fn values(&self) -> [Vec<Tensor<1>>; 3] {
        let slots = || self.slots.iter().flatten();
        [
            slots().map(|slot| slot.moment1.clone()).collect(),
            slots().map(|slot| slot.moment2.clone()).collect(),
            slots().map(|slot| slot.average.clone()).collect(),
        ]
    }

    /// Builds the optimizer from what [`Optimizer::values`] returned.
    pub(crate) fn from_values([moments1, moments2, averages]: [Vec<Tensor<1>>; 3]) -> Self {
        let slots = moments1.into_iter().zip(moments2).zip(averages);
        let slot = |((moment1, moment2), average)| Some(Slot { moment1, moment2, average });
        Self { slots: slots.map(slot).collect() }
    }

    /// Returns the moments by name, `moment1.NAME` and `moment2.NAME`, in the layout of files.
    ///
    /// # Errors
    /// If a back end cannot read its values back.
    pub fn tensors(&self, network: &Network) -> Result<Tensors, Error> {
        let [moments1, moments2, _] = self.values();
        let mut all = Tensors::new();
        for (prefix, values) in [("moment1.", moments1), ("moment2.", moments2)] {
            let tensors = network.tensors_of(values)?;
            all.extend(tensors.into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)));
        }
        Ok(all)
    }

    /// Builds the optimizer of a network from the moments that [`Optimizer::tensors`] returned, and averages by name.
    ///
    /// # Errors
    /// Names the tensors that are missing, unexpected or of another shape.
    pub fn from_tensors(network: &Network, moments: Tensors, averages: Tensors) -> Result<Self, Error> {
        let (mut moments1, mut moments2) = (Tensors::new(), Tensors::new());
        for (name, tensor) in moments {
            match (name.strip_prefix("moment1."), name.strip_prefix("moment2.")) {
                (Some(rest), _) => moments1.insert(rest.to_owned(), tensor),
                (_, Some(rest)) => moments2.insert(rest.to_owned(), tensor),
                _ => return Err(Error::Checkpoint(format!("tensor {name} is not a moment of Adam"))),
            };
        }
        let device = network.device();
        let moments1 = network.flat_from(moments1, &device)?;
        let moments2 = network.flat_from(moments2, &device)?;
        let averages = network.flat_from(averages, &device)?;
        Ok(Self::from_values([moments1, moments2, averages]))
    }
}

/// Computes the Euclidean norm of all gradients together.
pub fn global_norm(gradients: &[Option<Tensor<1>>]) -> f64 {
    ops::sum_of_squares(gradients.iter().flatten().cloned()).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use model::NetworkConfig;

    fn step(step: u64) -> AdamStep {
        AdamStep {
            learning_rate: 0.1,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            step,
            gradient_scale: 0.5,
            ema_decay: 0.75,
            weight_decay: 0.0,
        }
    }

    /// ```python
    /// p = torch.tensor([1.0, -2.0]); p.grad = torch.tensor([0.5, 0.25])
    /// torch.optim.Adam([p], lr=0.1).step()   # twice, the same gradient
    /// # [0.8000, -2.2000] up to epsilon
    /// ```
    #[test]
    fn first_steps_have_the_length_of_the_learning_rate_and_the_average_follows() {
        let device = Device::flex();
        let tensor = |v: [f32; 2]| Tensor::<1>::from_floats(v, &device);
        let mut values = tensor([1.0, -2.0]);
        let parameter = FlatParameter { name: "p".into(), shape: vec![2], values: values.clone() };
        let mut optimizer = Optimizer::new(&[parameter]);
        for n in 1..=2 {
            values = optimizer.update(vec![Some(tensor([1.0, 0.5]))], step(n))("p", values);
        }
        let numbers = |t: &Tensor<1>| t.to_data().iter::<f64>().collect::<Vec<_>>();
        for (found, expected) in numbers(&values).into_iter().zip([0.8, -2.2]) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
        // 1 → .75·1 + .25·.9 = .975 → .75·.975 + .25·.8 = .93125
        let average = optimizer.averages().next().unwrap();
        assert!((numbers(&average)[0] - 0.93125).abs() < 1e-6);
        // m = .9·(.1·.5) + .1·.5
        let moment1 = &optimizer.slots[0].as_ref().unwrap().moment1;
        assert!((numbers(moment1)[0] - 0.095).abs() < 1e-7);
        // Without a gradient nothing changes.
        let same = optimizer.update(vec![None], step(3))("p", values.clone());
        assert_eq!(numbers(&same), numbers(&values));
    }

    #[test]
    fn moments_and_averages_are_restored_from_their_tensors() {
        let device = Device::flex();
        let config = unet::UnetConfig { norm_num_groups: 4, ..unet::UnetConfig::ddpm([8, 8, 1], &[8], 1, &[]) };
        let mut network = NetworkConfig::from(config).build(3, &device).unwrap();
        let mut optimizer = Optimizer::new(&network.flat_parameters());
        let gradients = network.flat_parameters().into_iter().map(|flat| Some(flat.values.ones_like())).collect();
        network.map_parameters(optimizer.update(gradients, step(1)));
        let moments = optimizer.tensors(&network).unwrap();
        let averages = network.tensors_of(optimizer.averages()).unwrap();
        assert_ne!(averages, network.tensors().unwrap());
        let restored = Optimizer::from_tensors(&network, moments.clone(), averages.clone()).unwrap();
        assert_eq!(restored.tensors(&network).unwrap(), moments);
        assert_eq!(network.tensors_of(restored.averages()).unwrap(), averages);
    }
}
