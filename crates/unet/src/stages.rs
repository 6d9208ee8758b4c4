//! A network as a list of stages. What lies between two of them is stored by gradient checkpointing; what lies within one is
//! computed again.

use burn::tensor::Tensor;

use crate::blocks::Dropout;

/// What all stages of a pass have in common.
#[derive(Clone)]
pub(crate) struct Pass<'a> {
    /// The embedding of noise level and labels, after SiLU: `[N,E]`.
    pub embedding: Tensor<2>,
    /// The source of dropout masks, if dropout is applied.
    pub dropout: Option<&'a Dropout>,
}

/// The layers of a stage. Activations are `[N,H,W,C]`.
pub(crate) trait StageLayers {
    /// Computes the stage from its first input, and the second if it has one.
    fn forward(&self, x: Tensor<4>, second: Option<Tensor<4>>, pass: &Pass) -> Tensor<4>;

    /// Computes [`StageLayers::forward`] without autodiff, on a copy of the layers. The copy and the filters that it packs are
    /// dropped at the end of the call.
    fn forward_untracked(&self, x: Tensor<4>, second: Option<Tensor<4>>, pass: &Pass) -> Tensor<4>;

    /// Returns whether the stage has parameters.
    fn has_parameters(&self) -> bool {
        true
    }

    /// Returns how the stage uses the embedding.
    fn embedding(&self) -> EmbeddingUse {
        EmbeddingUse::None
    }

    /// Returns when the gradient of the second input is added to those of other stages.
    fn second_gradient(&self) -> GradientOrder {
        GradientOrder::First
    }
}

/// A stage's use of the embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EmbeddingUse {
    /// It has none.
    None,
    /// A depth-first search from the output, which visits the last parent of an operation first, finds it after the inputs.
    AfterInputs,
    /// The search finds it before the inputs.
    BeforeInputs,
}

/// The place of a gradient among those of a value, which Burn adds in the order of its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GradientOrder {
    /// Before those of the first stage that reads the value, since the operation is deeper.
    First,
    /// Before the first operations of that stage, which are as deep.
    BeforeFirstOperations,
    /// After the first operations of that stage.
    Last,
}

/// A stage of a network. Value 0 is the network's input, value i + 1 is the output of stage i.
pub(crate) struct Stage<L> {
    pub layers: L,
    /// The number of the value that it reads.
    pub input: usize,
    /// The number of a second value that it reads, such as a skip connection.
    pub second: Option<usize>,
}

impl<L> Stage<L> {
    pub(crate) fn inputs(&self) -> impl DoubleEndedIterator<Item = usize> {
        std::iter::once(self.input).chain(self.second)
    }
}

/// Lists the stages of a U-Net, which has a current value and a stack of skip connections.
pub(crate) struct StageList<L> {
    stages: Vec<Stage<L>>,
    /// The number of the current value.
    pub current: usize,
    skips: Vec<usize>,
}

impl<L> StageList<L> {
    /// Begins a list whose current value is the network's input.
    pub(crate) fn new() -> Self {
        Self { stages: Vec::new(), current: 0, skips: Vec::new() }
    }

    /// Adds a stage that reads the values with these numbers, and returns the number of its output.
    pub(crate) fn add(&mut self, layers: L, input: usize, second: Option<usize>) -> usize {
        self.stages.push(Stage { layers, input, second });
        self.stages.len()
    }

    /// Adds a stage that makes the next current value of the current one and perhaps a second.
    pub(crate) fn then(&mut self, layers: L, second: Option<usize>) {
        self.current = self.add(layers, self.current, second);
    }

    /// Makes the current value a skip connection.
    pub(crate) fn push_skip(&mut self) {
        self.skips.push(self.current);
    }

    /// Removes the last skip connection and returns its number.
    pub(crate) fn pop_skip(&mut self) -> Option<usize> {
        self.skips.pop()
    }

    /// Returns the stages.
    pub(crate) fn finish(self) -> Vec<Stage<L>> {
        self.stages
    }
}

/// A pass through a network that is about to begin.
pub(crate) struct Forward<'a, L> {
    /// The network's input.
    pub x: Tensor<4>,
    pub stages: Vec<Stage<L>>,
    pub pass: Pass<'a>,
}

impl<L: StageLayers> Forward<'_, L> {
    /// Computes the output of the last stage. A value is dropped when the last stage that reads it begins.
    pub(crate) fn run(self) -> Tensor<4> {
        let Self { x, stages, pass } = self;
        let mut values = Values::new(x, &stages);
        for stage in &stages {
            let second = stage.second.and_then(|number| values.read(number));
            if let Some(x) = values.read(stage.input) {
                values.push(stage.layers.forward(x, second, &pass));
            }
        }
        values.last()
    }
}

/// The values of a pass that are still to be read.
struct Values {
    values: Vec<Option<Tensor<4>>>,
    /// The number of stages that are still to read each value.
    readers: Vec<usize>,
}

impl Values {
    fn new<L>(x: Tensor<4>, stages: &[Stage<L>]) -> Self {
        let mut readers = vec![0; stages.len() + 1];
        stages.iter().flat_map(Stage::inputs).for_each(|number| readers[number] += 1);
        Self { values: vec![Some(x)], readers }
    }

    fn read(&mut self, number: usize) -> Option<Tensor<4>> {
        self.readers[number] -= 1;
        if self.readers[number] == 0 { self.values[number].take() } else { self.values[number].clone() }
    }

    fn push(&mut self, value: Tensor<4>) {
        self.values.push(Some(value));
    }

    fn last(mut self) -> Tensor<4> {
        self.values.pop().flatten().expect("the output of the last stage, or the input, which no stage has read")
    }
}

/// Returns the numbers of the stages in the order in which Burn finds their use of the embedding. It executes operations of one
/// depth in this order, so it adds the gradients of the embedding in it, and sums of three terms and more depend on the order.
pub(crate) fn embedding_order<L: StageLayers>(stages: &[Stage<L>]) -> Vec<usize> {
    let (mut order, mut is_found) = (Vec::new(), vec![false; stages.len()]);
    // Stages to search, and stages (marked) whose inputs were all searched.
    let mut stack: Vec<(usize, bool)> = stages.len().checked_sub(1).map(|last| (last, false)).into_iter().collect();
    while let Some((number, is_searched)) = stack.pop() {
        if is_searched {
            order.push(number);
            continue;
        }
        if std::mem::replace(&mut is_found[number], true) {
            continue;
        }
        let stage = &stages[number];
        match stage.layers.embedding() {
            EmbeddingUse::BeforeInputs => order.push(number),
            EmbeddingUse::AfterInputs => stack.push((number, true)),
            EmbeddingUse::None => {}
        }
        // The last one is searched first.
        stack.extend(stage.inputs().filter(|&value| value > 0).map(|value| (value - 1, false)));
    }
    order
}
