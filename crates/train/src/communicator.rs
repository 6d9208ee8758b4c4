//! Communication between the processes that share a training run.

use crate::Error;

/// The processes of a run. Each works on its own part of every batch; gradients are summed over all of them.
///
/// The parts are whole passes of `train.batch_size` images. Since sums are added in the order of ranks, P processes give
/// the same parameters, to the bit, as one process that accumulates the gradients of P passes.
pub trait Communicator: Send + Sync {
    /// Returns the number of this process, 0 to `size() − 1`.
    fn rank(&self) -> usize;

    /// Returns the number of processes.
    fn size(&self) -> usize;

    /// Replaces values by their sums over all processes, added in the order of ranks.
    ///
    /// # Errors
    /// If a process cannot be reached.
    fn all_reduce(&self, values: &mut [f32]) -> Result<(), Error>;

    /// Replaces values by those of process 0.
    ///
    /// # Errors
    /// If a process cannot be reached.
    fn broadcast(&self, values: &mut [f32]) -> Result<(), Error>;

    /// Waits until all processes have called it.
    ///
    /// # Errors
    /// If a process cannot be reached.
    fn barrier(&self) -> Result<(), Error>;
}

/// One process, which has nothing to communicate.
#[derive(Clone, Copy, Debug, Default)]
pub struct SingleProcess;

impl Communicator for SingleProcess {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn all_reduce(&self, _: &mut [f32]) -> Result<(), Error> {
        Ok(())
    }

    fn broadcast(&self, _: &mut [f32]) -> Result<(), Error> {
        Ok(())
    }

    fn barrier(&self) -> Result<(), Error> {
        Ok(())
    }
}
