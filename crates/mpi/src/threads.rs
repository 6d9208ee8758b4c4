//! Threads in place of processes.

use std::sync::{Arc, Barrier, Mutex, PoisonError};

use crate::communicator::PendingSum;
use crate::{Communicator, Error, tree};

/// A job whose processes are threads of one program, to test code that communicates.
///
/// ```
/// use mpi::{Communicator, Threads};
///
/// let ranks = Threads::run(3, |communicator| communicator.all_gather(&[communicator.rank() as u8]).unwrap());
/// assert_eq!(ranks, vec![vec![vec![0], vec![1], vec![2]]; 3]);
/// ```
pub struct Threads {
    rank: usize,
    shared: Arc<Shared>,
}

struct Shared {
    barrier: Barrier,
    slots: Mutex<Vec<Vec<u8>>>,
}

impl Threads {
    /// Calls a function on `size` threads, each with its communicator, and returns the results in the order of ranks.
    ///
    /// # Panics
    /// If a thread panics.
    pub fn run<T: Send>(size: usize, function: impl Fn(Self) -> T + Sync) -> Vec<T> {
        let shared = Arc::new(Shared { barrier: Barrier::new(size), slots: Mutex::new(vec![Vec::new(); size]) });
        let function = &function;
        std::thread::scope(|scope| {
            let start = |rank| {
                let communicator = Self { rank, shared: shared.clone() };
                scope.spawn(move || function(communicator))
            };
            let threads: Vec<_> = (0..size).map(start).collect();
            threads.into_iter().map(|thread| thread.join().expect("a thread of the job panicked")).collect()
        })
    }
}

impl Communicator for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.shared.slots.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn all_gather(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        let slots = || self.shared.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots()[self.rank] = mine.to_vec();
        self.shared.barrier.wait();
        let all = slots().clone();
        self.shared.barrier.wait();
        Ok(all)
    }

    fn start_sum(&self, leaves: usize, subtrees: Vec<Vec<f32>>) -> PendingSum {
        let bytes: Vec<u8> = subtrees.concat().iter().flat_map(|value| value.to_le_bytes()).collect();
        PendingSum::known(self.all_gather(&bytes).map(|all| {
            let length = subtrees.first().map_or(0, Vec::len);
            let values: Vec<f32> = all.concat().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            let nodes = (0..self.size()).flat_map(|r| tree::subtrees(leaves, &tree::share(leaves, r, self.size())));
            let known: Vec<_> = nodes.zip(values.chunks(length.max(1))).collect();
            let mut sum = vec![0.0; length];
            tree::sum(leaves, &known, &mut sum);
            sum
        }))
    }
}
