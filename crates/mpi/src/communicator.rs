//! The operations that the other crates need: a gather and a sum.

use std::sync::mpsc::{Receiver, channel};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Error;

/// The processes of a job. Every process makes the same calls in the same order; each call waits for the others.
pub trait Communicator: Send + Sync {
    /// Returns the number of this process, 0 to `size() − 1`.
    fn rank(&self) -> usize;

    /// Returns the number of processes.
    fn size(&self) -> usize;

    /// Returns the bytes that each process gave, in the order of ranks.
    ///
    /// # Errors
    /// If a process cannot be reached.
    fn all_gather(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>, Error>;

    /// Starts to sum values over the leaves of a [tree](crate::tree). `subtrees` are the sums of this process: one for
    /// each of the [subtrees](crate::tree::subtrees) of its [share](crate::tree::share). All of them have the same
    /// length, on every process.
    ///
    /// Several sums may be in progress; they complete in the order in which they were started.
    fn start_sum(&self, leaves: usize, subtrees: Vec<Vec<f32>>) -> PendingSum;

    /// Returns whether this is process 0, which writes files and shows progress.
    fn is_root(&self) -> bool {
        self.rank() == 0
    }
}

impl dyn Communicator + '_ {
    /// Returns the values that each process gave, in the order of ranks.
    ///
    /// # Errors
    /// If a process cannot be reached, or sent something else.
    pub fn all_gather_values<T: Serialize + DeserializeOwned>(&self, mine: &T) -> Result<Vec<T>, Error> {
        let bytes = serde_json::to_vec(mine)
            .map_err(|error| Error::Unexpected { rank: self.rank(), message: error.to_string() })?;
        let all = self.all_gather(&bytes)?;
        let read = |(rank, bytes): (usize, &Vec<u8>)| {
            serde_json::from_slice(bytes).map_err(|error| Error::Unexpected { rank, message: error.to_string() })
        };
        all.iter().enumerate().map(read).collect()
    }

    /// Returns the numbers that each process gave, one process after the other.
    ///
    /// # Errors
    /// If a process cannot be reached.
    pub fn all_gather_f64(&self, mine: &[f64]) -> Result<Vec<f64>, Error> {
        let bytes: Vec<u8> = mine.iter().flat_map(|value| value.to_le_bytes()).collect();
        let all = self.all_gather(&bytes)?.concat();
        let (values, _) = all.as_chunks::<8>();
        Ok(values.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect())
    }

    /// Returns the bytes of process 0; those of the others are not sent.
    ///
    /// # Errors
    /// If a process cannot be reached.
    pub fn broadcast(&self, bytes: Vec<u8>) -> Result<Vec<u8>, Error> {
        /// Messages are divided, since MPI counts in 32 bits.
        const PIECE: usize = 64 << 20;
        if self.size() == 1 {
            return Ok(bytes);
        }
        let sent = if self.is_root() { bytes } else { Vec::new() };
        let length = self.all_gather(&sent.len().to_le_bytes())?.swap_remove(0);
        let length = usize::from_le_bytes(length.try_into().map_err(|bytes: Vec<u8>| Error::Unexpected {
            rank: 0,
            message: format!("a length of {} bytes", bytes.len()),
        })?);
        let mut received = Vec::new();
        for first in (0..length).step_by(PIECE) {
            let piece = sent.get(first..length.min(first + PIECE)).unwrap_or_default();
            received.append(&mut self.all_gather(piece)?[0]);
        }
        Ok(received)
    }

    /// Waits until all processes have called it.
    ///
    /// # Errors
    /// If a process cannot be reached.
    pub fn barrier(&self) -> Result<(), Error> {
        self.all_gather(&[]).map(|_| ())
    }
}

/// A sum in progress.
#[must_use = "the sum is complete when it has been waited for"]
pub struct PendingSum(pub(crate) Receiver<Result<Vec<f32>, Error>>);

impl PendingSum {
    /// A sum that is known already.
    pub(crate) fn known(sum: Result<Vec<f32>, Error>) -> Self {
        let (sender, receiver) = channel();
        // The receiver is here.
        let _ = sender.send(sum);
        Self(receiver)
    }

    /// Waits for the sum.
    ///
    /// # Errors
    /// If a process could not be reached.
    pub fn wait(self) -> Result<Vec<f32>, Error> {
        self.0.recv().unwrap_or_else(|_| Err(Error::Thread("ended before a sum was complete".into())))
    }
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

    fn all_gather(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        Ok(vec![mine.to_vec()])
    }

    fn start_sum(&self, _: usize, mut subtrees: Vec<Vec<f32>>) -> PendingSum {
        // The whole tree is one subtree.
        PendingSum::known(Ok(subtrees.pop().unwrap_or_default()))
    }
}
