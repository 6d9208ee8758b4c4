//! Sums gradients over the passes of a step and over the processes, in the fixed order of a [tree](mpi::tree).

use burn::tensor::{Device, Tensor, TensorData};
use mpi::{Communicator, PendingSum};

use crate::Error;

/// The gradients of all parameters, `None` for those that are not trained.
pub(crate) type Gradients = Vec<Option<Tensor<1>>>;

/// Gradients are sent in buckets of about 25 MB, as PyTorch's DDP does (Li et al. 2020, arXiv:2006.15704).
const BUCKET: usize = 25_000_000 / size_of::<f32>();

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
    communicator: &dyn Communicator,
    passes: usize,
    mut subtrees: Vec<Gradients>,
) -> Result<Gradients, Error> {
    if communicator.size() == 1 {
        return Ok(subtrees.pop().unwrap_or_default());
    }
    let shapes: Vec<Option<(usize, Device)>> =
        subtrees[0].iter().map(|gradient| gradient.as_ref().map(|g| (g.dims()[0], g.device()))).collect();
    let mut pending: Vec<PendingSum> = Vec::new();
    let mut first = 0;
    for bucket in buckets(shapes.iter().map(|shape| shape.as_ref().map_or(0, |(length, _)| *length))) {
        let values = |gradients: &mut Gradients| -> Vec<f32> {
            let taken = gradients[first..first + bucket].iter_mut().filter_map(Option::take);
            // Each is copied once, and freed.
            taken.fold(Vec::new(), |mut all, gradient| {
                let data = gradient.into_data();
                match data.as_slice::<f32>() {
                    Ok(values) => all.extend_from_slice(values),
                    Err(_) => all.extend(data.iter::<f32>()),
                }
                all
            })
        };
        pending.push(communicator.start_sum(passes, subtrees.iter_mut().map(values).collect()));
        first += bucket;
    }
    let mut sums = pending.into_iter().map(PendingSum::wait);
    let (mut bucket, mut start) = (Vec::new(), 0);
    let mut read = |shape: Option<(usize, Device)>| -> Result<Option<Tensor<1>>, Error> {
        let Some((length, device)) = shape else { return Ok(None) };
        if start == bucket.len() {
            (bucket, start) = (sums.next().transpose()?.unwrap_or_default(), 0);
        }
        let values = bucket[start..start + length].to_vec();
        start += length;
        Ok(Some(Tensor::from_data(TensorData::new(values, [length]), &device)))
    };
    shapes.into_iter().map(&mut read).collect()
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
            let tensor = |length| {
                Tensor::from_data(TensorData::new((0..length).map(|i| value(length, i)).collect(), [length]), &device)
            };
            Ok(lengths.iter().map(|length| length.map(tensor)).collect())
        };
        let numbers = |gradients: Gradients| -> Vec<Option<Vec<f32>>> {
            gradients.into_iter().map(|g| g.map(|g| g.into_data().iter::<f32>().collect())).collect()
        };
        let passes = 5;
        let expected = numbers(tree::reduce(0..passes, &mut { leaf }, &mut add).unwrap());
        let found = Threads::run(3, |communicator| {
            let own = tree::subtrees(passes, &tree::share(passes, communicator.rank(), 3));
            let sums = own.into_iter().map(|node| tree::reduce(node, &mut { leaf }, &mut add).unwrap()).collect();
            numbers(sum_over_processes(&communicator, passes, sums).unwrap())
        });
        assert!(found.iter().all(|found| *found == expected));
    }
}
