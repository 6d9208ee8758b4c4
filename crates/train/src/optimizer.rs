//! Adam with the exponential moving average of the parameters, in one pass over memory.

use burn::tensor::{Device, Tensor};
use unet::Parameters;
use unet::ops::{self, AdamStep};
use weights::Tensors;

use crate::Error;

/// What Adam and the average keep of one parameter, flat.
#[derive(Clone, Debug)]
struct State {
    moment1: Tensor<1>,
    moment2: Tensor<1>,
    average: Tensor<1>,
}

/// The optimizer's state: moments (Kingma & Ba 2015) and averages of all parameters, in the order of
/// [`Parameters::flat_parameters`]. Averages cover parameters only; a new optimizer's are copies of them.
#[derive(Debug)]
pub struct Optimizer {
    states: Vec<State>,
}

impl Optimizer {
    /// Moments of zero and averages equal to the network's parameters.
    pub fn new(network: &impl Parameters) -> Self {
        let state =
            |value: Tensor<1>| State { moment1: value.zeros_like(), moment2: value.zeros_like(), average: value };
        Self { states: network.flat_parameters().into_iter().map(|flat| state(flat.values)).collect() }
    }

    /// One step: the network with its parameters moved. A parameter without a gradient is not trained and stays.
    pub fn step<N: Parameters>(&mut self, network: N, gradients: Vec<Option<Tensor<1>>>, step: AdamStep) -> N {
        let mut states = std::mem::take(&mut self.states).into_iter();
        let mut gradients = gradients.into_iter();
        let mut moved = Vec::with_capacity(states.len());
        let network = network.map_parameters(|_, parameter| {
            let (Some(state), Some(gradient)) = (states.next(), gradients.next()) else {
                return parameter;
            };
            let Some(gradient) = gradient else {
                moved.push(state);
                return parameter;
            };
            // State is moved into the kernel and out again, so that it can work in place.
            let State { moment1, moment2, average } = state;
            let (parameter, moment1, moment2, average) =
                ops::adam(parameter, gradient, moment1, moment2, average, step);
            moved.push(State { moment1, moment2, average });
            parameter
        });
        self.states = moved;
        network
    }

    /// The averages, in the order of [`Parameters::flat_parameters`].
    pub fn averages(&self) -> impl Iterator<Item = Tensor<1>> + '_ {
        self.states.iter().map(|state| state.average.clone())
    }

    /// Moments by name: `moment1.NAME` and `moment2.NAME`, in diffusers' layout.
    ///
    /// # Errors
    /// If a back end cannot hand its values over.
    pub fn tensors(&self, network: &impl Parameters) -> Result<Tensors, Error> {
        let mut all = Tensors::new();
        for (prefix, values) in [
            ("moment1.", self.states.iter().map(|s| s.moment1.clone()).collect::<Vec<_>>()),
            ("moment2.", self.states.iter().map(|s| s.moment2.clone()).collect()),
        ] {
            let tensors = network.tensors_of(values)?;
            all.extend(tensors.into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)));
        }
        Ok(all)
    }

    /// An optimizer from what [`Optimizer::tensors`] gave, and the averages by name.
    ///
    /// # Errors
    /// Names the tensors that are missing, left over or of another shape.
    pub fn from_tensors(
        network: &impl Parameters,
        moments: Tensors,
        averages: Tensors,
        device: &Device,
    ) -> Result<Self, Error> {
        let mut halves = [Tensors::new(), Tensors::new()];
        for (name, tensor) in moments {
            match (name.strip_prefix("moment1."), name.strip_prefix("moment2.")) {
                (Some(rest), _) => halves[0].insert(rest.to_owned(), tensor),
                (_, Some(rest)) => halves[1].insert(rest.to_owned(), tensor),
                _ => return Err(Error::Checkpoint(format!("tensor {name} is not a moment of Adam"))),
            };
        }
        let [moment1, moment2] = halves;
        let moment1 = network.flat_from(moment1, device)?;
        let moment2 = network.flat_from(moment2, device)?;
        let averages = network.flat_from(averages, device)?;
        let states = moment1.into_iter().zip(moment2).zip(averages);
        Ok(Self { states: states.map(|((moment1, moment2), average)| State { moment1, moment2, average }).collect() })
    }
}

/// The Euclidean norm of all gradients together.
pub fn global_norm(gradients: &[Option<Tensor<1>>]) -> f64 {
    gradients.iter().flatten().map(|g| ops::sum_of_squares(g.clone())).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use unet::{Config, Unet};

    /// ```python
    /// p = torch.tensor([1.0, -2.0]); p.grad = torch.tensor([0.5, 0.25])
    /// torch.optim.Adam([p], lr=0.1).step()   # twice, the same gradient
    /// # [0.8000, -2.2000] up to epsilon
    /// ```
    #[test]
    fn adam_moves_by_the_learning_rate_at_first_and_the_average_follows() {
        let device = Device::flex();
        let tensor = |v: [f32; 2]| Tensor::<1>::from_floats(v, &device);
        let mut state = (tensor([1.0, -2.0]), tensor([0.0; 2]), tensor([0.0; 2]), tensor([1.0, -2.0]));
        for step in 1..=2 {
            let step = AdamStep {
                learning_rate: 0.1,
                beta1: 0.9,
                beta2: 0.999,
                epsilon: 1e-8,
                step,
                gradient_scale: 0.5,
                ema_decay: 0.75,
            };
            state = ops::adam(state.0, tensor([1.0, 0.5]), state.1, state.2, state.3, step);
        }
        let values = |t: &Tensor<1>| t.to_data().iter::<f64>().collect::<Vec<_>>();
        for (got, expected) in values(&state.0).into_iter().zip([0.8, -2.2]) {
            assert!((got - expected).abs() < 1e-6, "{got} {expected}");
        }
        // 1 → .75·1 + .25·.9 = .975 → .75·.975 + .25·.8 = .93125
        assert!((values(&state.3)[0] - 0.93125).abs() < 1e-6);
        // m = .9·(.1·.5) + .1·.5
        assert!((values(&state.1)[0] - 0.095).abs() < 1e-7);
    }

    #[test]
    fn state_survives_its_tensors() {
        let device = Device::flex();
        let config = Config { norm_num_groups: 4, ..Config::ddpm(8, 1, &[8], 1, &[]) };
        let unet = Unet::new(&config, 3, &device).unwrap();
        let mut optimizer = Optimizer::new(&unet);
        let gradients = unet.flat_parameters().into_iter().map(|f| Some(f.values.ones_like())).collect();
        let step = AdamStep {
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            step: 1,
            gradient_scale: 1.0,
            ema_decay: 0.5,
        };
        let unet = optimizer.step(unet, gradients, step);
        let moments = optimizer.tensors(&unet).unwrap();
        let averages = unet.tensors_of(optimizer.averages()).unwrap();
        let again = Optimizer::from_tensors(&unet, moments.clone(), averages, &device).unwrap();
        assert_eq!(again.tensors(&unet).unwrap(), moments);
    }
}
