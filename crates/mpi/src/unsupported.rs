//! Stands in for MPI where its library cannot be loaded.

use crate::communicator::PendingSum;
use crate::{Communicator, Error, Launch};

/// The processes of a job of MPI, which this system does not support.
pub struct Mpi(std::convert::Infallible);

impl Mpi {
    /// Returns an error: MPI is not supported on this system.
    ///
    /// # Errors
    /// Always.
    pub fn join(_: &Launch) -> Result<Self, Error> {
        Err(Error::Unsupported)
    }

    /// The rank on this machine and the number of ranks on it.
    pub fn local(&self) -> (usize, usize) {
        match self.0 {}
    }

    /// The name and version of the library.
    pub fn library(&self) -> &str {
        match self.0 {}
    }

    /// Ends the use of MPI.
    pub fn leave(&self) {
        match self.0 {}
    }

    /// Ends all processes of the job.
    pub fn abort(&self, _: i32) -> ! {
        match self.0 {}
    }
}

impl Communicator for Mpi {
    fn rank(&self) -> usize {
        match self.0 {}
    }

    fn size(&self) -> usize {
        match self.0 {}
    }

    fn all_gather(&self, _: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        match self.0 {}
    }

    fn start_sum(&self, _: usize, _: Vec<Vec<f32>>) -> PendingSum {
        match self.0 {}
    }
}
