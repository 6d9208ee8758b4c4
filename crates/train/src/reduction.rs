//! Sums gradients over the passes of a step and over the processes, in the fixed order of a [tree](mpi::tree).

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::tensor::{Device, Tensor};
use mpi::{Communicator, PendingSum};
use unet::ops::GradientObserver;

use crate::Error;

/// The gradients of all parameters, `None` for those that are not trained.
pub(crate) type Gradients = Vec<Option<Tensor<1>>>;

/// The bytes of gradients that are sent at once, as many as PyTorch's DDP sends (Li et al. 2020, arXiv:2006.15704).
pub const BUCKET_BYTES: usize = 25_000_000;
/// The same in values.
const BUCKET: usize = BUCKET_BYTES / size_of::<f32>();

/// Adds gradients: the sum of two nodes of the tree.
pub(crate) fn add(left: Gradients, right: Gradients) -> Gradients {
    let add = |(left, right): (Option<Tensor<1>>, Option<Tensor<1>>)| match (left, right) {
        (Some(left), Some(right)) => Some(left + right),
        (left, right) => left.or(right),
    };
    left.into_iter().zip(right).map(add).collect()
}

/// Sums gradients over all processes. `subtrees` are the sums of this process over the largest subtrees of its passes.
///
/// # Errors
/// If a process cannot be reached.
pub(crate) fn sum_over_processes(
    communicator: &Arc<dyn Communicator>,
    passes: usize,
    mut subtrees: Vec<Gradients>,
) -> Result<Gradients, Error> {
    let Some(last) = subtrees.pop() else { return Ok(Vec::new()) };
    if communicator.size() == 1 {
        return Ok(last);
    }
    let lengths = last.iter().map(|gradient| gradient.as_ref().map_or(0, |gradient| gradient.dims()[0])).collect();
    let device = last.iter().flatten().map(Tensor::device).next().unwrap_or_default();
    Reduction::new(communicator.clone(), passes, subtrees, Vec::new(), lengths).finish(last, &device)
}

/// A sum over all processes that begins while the last pass of this process is still computed: the gradient of each
/// parameter is added and sent as soon as it is known, in buckets.
#[derive(Clone)]
pub(crate) struct Reduction(Arc<Mutex<State>>);

struct State {
    communicator: Arc<dyn Communicator>,
    passes: usize,
    /// The sums of this process over its subtrees but the last.
    subtrees: Vec<Gradients>,
    /// The sums over the left siblings on the way from the root of the last subtree to its last leaf.
    lefts: Vec<Gradients>,
    /// The lengths of the parameters.
    lengths: Vec<usize>,
    /// The buckets in the order in which they are sent, which is the same in all processes: the last parameters come first, as in the
    /// backward pass.
    buckets: Vec<Bucket>,
    /// The bucket of each parameter.
    bucket_of: Vec<usize>,
    /// The gradients that are known.
    known: Vec<bool>,
    pending: Vec<PendingSum>,
}

/// Consecutive parameters that are sent together.
struct Bucket {
    parameters: Range<usize>,
    /// The sums over the last subtree of this process.
    values: Vec<f32>,
    /// The parameters whose gradient is not known yet.
    missing: usize,
}

impl Reduction {
    /// Begins the sum of a step's passes. The last pass of this process is still to come: `subtrees` are the sums over its
    /// other subtrees, and `lefts` those over the left siblings of its last leaf, the largest first.
    pub fn new(
        communicator: Arc<dyn Communicator>,
        passes: usize,
        subtrees: Vec<Gradients>,
        lefts: Vec<Gradients>,
        lengths: Vec<usize>,
    ) -> Self {
        let mut end = lengths.len();
        let mut bucket_of = vec![0; end];
        let mut all = Vec::new();
        for (number, count) in buckets(lengths.iter().rev().copied()).into_iter().enumerate() {
            let parameters = end - count..end;
            end -= count;
            bucket_of[parameters.clone()].fill(number);
            all.push(Bucket { parameters, values: Vec::new(), missing: count });
        }
        let (known, pending) = (vec![false; lengths.len()], Vec::new());
        let state = State { communicator, passes, subtrees, lefts, lengths, buckets: all, bucket_of, known, pending };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Returns the function that adds the gradients of the last pass.
    pub fn observer(&self) -> GradientObserver {
        let state = self.0.clone();
        GradientObserver::new(move |parameter, values| lock(&state).add(parameter, Some(values)))
    }

    /// Adds the gradients that were not observed, and waits for the sums.
    ///
    /// # Errors
    /// If a process cannot be reached.
    pub fn finish(self, rest: Gradients, device: &Device) -> Result<Gradients, Error> {
        let mut state = lock(&self.0);
        let mut has_gradient = state.known.clone();
        for (parameter, gradient) in rest.into_iter().enumerate().rev() {
            if let Some(gradient) = gradient {
                has_gradient[parameter] = true;
                state.add(parameter, Some(&numbers(gradient)));
            } else if !state.known[parameter] {
                state.add(parameter, None);
            }
        }
        let mut gradients: Gradients = vec![None; has_gradient.len()];
        for (number, pending) in std::mem::take(&mut state.pending).into_iter().enumerate() {
            let sums = pending.wait()?;
            let mut start = 0;
            for parameter in state.buckets[number].parameters.clone() {
                let values = &sums[start..start + state.lengths[parameter]];
                start += values.len();
                gradients[parameter] = has_gradient[parameter].then(|| Tensor::from_data(values, device));
            }
        }
        Ok(gradients)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// Adds the gradient of a parameter in the last pass, and sends the buckets that are complete.
    fn add(&mut self, parameter: usize, values: Option<&[f32]>) {
        let Self { lefts, lengths, buckets, bucket_of, known, .. } = self;
        let bucket = &mut buckets[bucket_of[parameter]];
        if bucket.values.is_empty() {
            bucket.values = vec![0.0; lengths[bucket.parameters.clone()].iter().sum()];
        }
        let start: usize = lengths[bucket.parameters.start..parameter].iter().sum();
        let sum = &mut bucket.values[start..start + lengths[parameter]];
        if let Some(values) = values {
            sum.copy_from_slice(values);
        }
        // From the last leaf up.
        for left in lefts.iter_mut().rev() {
            if let Some(left) = left[parameter].take() {
                sum.iter_mut().zip(numbers(left)).for_each(|(sum, left)| *sum += left);
            }
        }
        known[parameter] = true;
        bucket.missing -= 1;
        while self.buckets.get(self.pending.len()).is_some_and(|bucket| bucket.missing == 0) {
            self.send();
        }
    }

    /// Sends the next bucket.
    fn send(&mut self) {
        let bucket = &mut self.buckets[self.pending.len()];
        let parameters = bucket.parameters.clone();
        let flat = |gradients: &mut Gradients| -> Vec<f32> {
            let of = |parameter: usize| gradients[parameter].take().map_or_else(Vec::new, numbers);
            parameters.clone().flat_map(of).collect()
        };
        let mut sums: Vec<Vec<f32>> = self.subtrees.iter_mut().map(flat).collect();
        sums.push(std::mem::take(&mut bucket.values));
        self.pending.push(self.communicator.start_sum(self.passes, sums));
    }
}

/// Returns the values of a tensor.
fn numbers(tensor: Tensor<1>) -> Vec<f32> {
    tensor.into_data().try_into_vec_as::<f32>().expect("a gradient is made of numbers")
}

/// Divides parameters of these lengths into buckets, and returns the number of parameters of each.
fn buckets(lengths: impl Iterator<Item = usize>) -> Vec<usize> {
    let (mut counts, mut length) = (vec![0], 0);
    for next in lengths {
        if length > 0 && length + next > BUCKET {
            counts.push(0);
            length = 0;
        }
        length += next;
        if let Some(last) = counts.last_mut() {
            *last += 1;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use mpi::{Threads, tree};

    #[test]
    fn buckets_are_full_and_keep_the_order() {
        let third = BUCKET / 3;
        assert_eq!(buckets([third, 0, third, third, third, 5, 2 * BUCKET, 1].into_iter()), [4, 2, 1, 1]);
        assert_eq!(buckets([0, 0].into_iter()), [2]);
    }

    /// More than a bucket, with a parameter that is not trained.
    #[test]
    fn processes_get_the_gradients_of_one() {
        let device = Device::flex();
        let lengths = [Some(BUCKET - 1), None, Some(7), Some(3)];
        let leaf = |pass: usize| -> Result<Gradients, Error> {
            let value = |length: usize, i: usize| ((pass * 40503 + length + i * 7919) % 65_536) as f32 * 1e-3 - 30.0;
            let values = |length| (0..length).map(|i| value(length, i)).collect::<Vec<_>>();
            let tensor = |length| Tensor::from_data(&*values(length), &device);
            Ok(lengths.iter().map(|length| length.map(tensor)).collect())
        };
        let all_numbers = |gradients: Gradients| -> Vec<Option<Vec<f32>>> {
            gradients.into_iter().map(|gradient| gradient.map(numbers)).collect()
        };
        let passes = 7;
        let expected = all_numbers(tree::reduce(0..passes, &mut { leaf }, &mut add).unwrap());
        let found = Threads::run(3, |communicator| {
            let own = tree::subtrees(passes, &tree::share(passes, communicator.rank(), 3));
            let reduce = |node: Range<usize>| tree::reduce(node, &mut { leaf }, &mut add).unwrap();
            let communicator: Arc<dyn Communicator> = Arc::new(communicator);
            let sums = own.iter().cloned().map(reduce).collect();
            let at_once = sum_over_processes(&communicator, passes, sums).unwrap();
            // The last pass by observation, in any order.
            let (last, others) = own.split_last().unwrap();
            let (lefts, last_pass) = tree::path_to_last(last.clone());
            let [others, lefts] = [others, &lefts].map(|nodes| nodes.iter().cloned().map(reduce).collect());
            let all = lengths.map(|length| length.unwrap_or(0)).to_vec();
            let reduction = Reduction::new(communicator, passes, others, lefts, all);
            let (observer, mut rest) = (reduction.observer(), leaf(last_pass).unwrap());
            for parameter in [2, 0] {
                let values = rest[parameter].take().map(numbers).unwrap();
                observer.call(parameter, &values);
            }
            let observed = reduction.finish(rest, &device).unwrap();
            [all_numbers(at_once), all_numbers(observed)]
        });
        assert!(found.iter().flatten().all(|found| *found == expected));
    }
}
