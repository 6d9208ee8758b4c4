//! Gradient checkpointing (Chen et al. 2016, arXiv:1604.06174): the forward pass stores only the activations between
//! stages, and the backward pass recomputes each stage.
//!
//! The gradients are those of an ordinary backward pass, to the last bit: sums of more than two terms have the same order.

use burn::tensor::{Gradients, Tensor};

use crate::blocks::Dropout;
use crate::ops::{self, GradientObserver};
use crate::parameters::Parameters;
use crate::stages::{EmbeddingUse, Forward, GradientOrder, Pass, Stage, StageLayers, embedding_order};
use crate::time_embedding::Labels;

/// The inputs of a training pass through a network whose condition is a `C`.
#[derive(Clone, Debug)]
pub struct UnetInputs<'a, C = Option<Labels<'a>>> {
    /// Noisy images `[N,H,W,in_channels]`.
    pub x: Tensor<4>,
    /// The timestep of each image, or another number for its noise level.
    pub timesteps: &'a [f32],
    /// The labels of the images, or what else the network is conditioned on.
    pub condition: C,
    /// The source of dropout masks, if dropout is applied.
    pub dropout: Option<&'a Dropout>,
    /// Gets the gradients of each stage as soon as they are known, in place of the result.
    pub observer: Option<&'a GradientObserver>,
}

/// Computes the gradients of `loss(forward.run())` with respect to the parameters of `network`, in the order of
/// [`Parameters::flat_parameters`]. Dropout uses the same masks in both forward passes.
///
/// # Panics
/// If the network is not on an autodiff device.
pub(crate) fn checkpointed_gradients<N: Parameters, L: StageLayers>(
    network: &N,
    forward: Forward<L>,
    observer: Option<&GradientObserver>,
    loss: impl FnOnce(Tensor<4>) -> Tensor<1>,
) -> Vec<Option<Tensor<1>>> {
    let Forward { x, stages, pass } = forward;
    let mut parameters = Taken { network, observer, all: Vec::new() };
    let untracked = Pass { embedding: pass.embedding.clone().inner(), ..pass };
    let mut values = vec![x.inner()];
    for stage in &stages {
        let [x, second] = [Some(stage.input), stage.second].map(|number| number.map(|number| values[number].clone()));
        values.extend(x.map(|x| stage.layers.forward_untracked(x, second, &untracked)));
    }

    let mut gradients = ValueGradients::new(&stages);
    let last = values[stages.len()].clone().autodiff().require_grad();
    let mut found = loss(last.clone()).backward();
    gradients.add(stages.len(), last.grad(&found), GradientOrder::First);
    parameters.take(&mut found);
    let mut embeddings: Vec<Option<Tensor<2>>> = stages.iter().map(|_| None).collect();
    for (number, stage) in stages.iter().enumerate().rev() {
        // No later stage reads the output.
        values.truncate(number + 1);
        let Some(dy) = gradients.first[number + 1].take() else { continue };
        let leaf = |value: usize| {
            let x = values[value].clone().autodiff();
            if gradients.is_tracked[value] { x.require_grad() } else { x }
        };
        let leaves: Vec<(usize, Tensor<4>)> = stage.inputs().map(|value| (value, leaf(value))).collect();
        // As deep in the graph as what is computed from the embedding alone, if they are as deep in an ordinary pass.
        let input = |(value, leaf): &(usize, Tensor<4>)| match gradients.is_deep[*value] {
            true => ops::identity(leaf.clone()),
            false => leaf.clone(),
        };
        let inputs: Vec<Tensor<4>> = leaves.iter().map(input).collect();
        let pass = Pass { embedding: untracked.embedding.clone().autodiff().require_grad(), ..pass };
        let y = stage.layers.forward(inputs[0].clone(), inputs.get(1).cloned(), &pass);
        let mut root = ops::with_gradient(y, dy, None);
        for ((value, _), input) in leaves.iter().zip(inputs) {
            if gradients.first_reader[*value] == number {
                root = gradients.of_other_stages(*value, input, root);
            }
        }
        let mut found = root.backward();
        embeddings[number] = pass.embedding.grad(&found);
        let orders = [GradientOrder::First, stage.layers.second_gradient()];
        for ((value, leaf), order) in leaves.into_iter().zip(orders) {
            if gradients.is_tracked[value] {
                let is_whole = gradients.first_reader[value] == number;
                gradients.add(value, leaf.grad(&found), if is_whole { GradientOrder::First } else { order });
            }
        }
        parameters.take(&mut found);
    }
    let terms = embedding_order(&stages).into_iter().filter_map(|number| embeddings[number].take());
    if let Some(dembedding) = terms.reduce(|sum, term| term + sum) {
        parameters.take(&mut ops::with_gradient(pass.embedding, dembedding, None).backward());
    }
    parameters.all
}

/// The gradients of the parameters that are known so far.
struct Taken<'a, N> {
    network: &'a N,
    observer: Option<&'a GradientObserver>,
    all: Vec<Option<Tensor<1>>>,
}

impl<N: Parameters> Taken<'_, N> {
    fn take(&mut self, gradients: &mut Gradients) {
        let mut taken = self.network.take_gradients(gradients);
        if let Some(observer) = self.observer {
            for (index, gradient) in taken.iter_mut().enumerate() {
                if let Some(gradient) = gradient.take() {
                    observer.call(index, &gradient.into_data().iter::<f32>().collect::<Vec<_>>());
                }
            }
        }
        if self.all.is_empty() {
            self.all = taken;
        } else {
            // Each parameter belongs to exactly one stage.
            for (all, new) in self.all.iter_mut().zip(taken) {
                *all = all.take().or(new);
            }
        }
    }
}

/// The gradients of the values of a pass.
struct ValueGradients {
    /// Sums of the gradients of the stages that were visited. They are whole when the first stage that reads the value was visited.
    first: Vec<Option<Tensor<4>>>,
    /// Gradients of another order than [`GradientOrder::First`].
    others: Vec<Option<(Tensor<4>, GradientOrder)>>,
    /// The first stage that reads each value, which is the last to be visited.
    first_reader: Vec<usize>,
    /// Whether a value depends on parameters.
    is_tracked: Vec<bool>,
    /// Whether a value depends on the embedding.
    is_deep: Vec<bool>,
}

impl ValueGradients {
    fn new<L: StageLayers>(stages: &[Stage<L>]) -> Self {
        let mut first_reader = vec![stages.len(); stages.len() + 1];
        let (mut is_tracked, mut is_deep) = (vec![false], vec![false]);
        for (number, stage) in stages.iter().enumerate() {
            stage.inputs().for_each(|value| first_reader[value] = first_reader[value].min(number));
            let tracked = stage.layers.has_parameters() || stage.inputs().any(|value| is_tracked[value]);
            is_tracked.push(tracked);
            let deep = stage.layers.embedding() != EmbeddingUse::None || stage.inputs().any(|value| is_deep[value]);
            is_deep.push(deep);
        }
        let first = (0..=stages.len()).map(|_| None).collect();
        let others = (0..=stages.len()).map(|_| None).collect();
        Self { first, others, first_reader, is_tracked, is_deep }
    }

    /// Adds to the root of a stage's graph the gradients of an input that other stages gave, in their order.
    fn of_other_stages(&mut self, value: usize, input: Tensor<4>, mut root: Tensor<1>) -> Tensor<1> {
        // Burn finds the last term of a sum first.
        match self.others[value].take() {
            Some((gradient, GradientOrder::Last)) => root = ops::with_gradient(input.clone(), gradient, None) + root,
            Some((gradient, _)) => root = root + ops::with_gradient(input.clone(), gradient, None),
            None => {}
        }
        match self.first[value].take() {
            Some(gradient) => ops::with_gradient(input, gradient, Some(root)),
            None => root,
        }
    }

    fn add(&mut self, value: usize, gradient: Option<Tensor<4>>, order: GradientOrder) {
        match (gradient, order) {
            (None, _) => {}
            (Some(gradient), GradientOrder::First) => {
                self.first[value] = Some(match self.first[value].take() {
                    Some(sum) => sum + gradient,
                    None => gradient,
                });
            }
            (Some(gradient), order) => self.others[value] = Some((gradient, order)),
        }
    }
}
