//! Communication between the processes of a job.
//!
//! | item | what |
//! |---|---|
//! | [`Communicator`] | the operations that the other crates need: a gather and a sum |
//! | [`SingleProcess`] | the communicator of a program that runs alone |
//! | [`Mpi`] | MPI, loaded at run time: Open MPI, MPICH and their relatives, or the MPI-5 ABI |
//! | [`Threads`] | threads in place of processes, for tests |
//! | [`tree`] | the order in which values are summed |
//!
//! The library of MPI is not needed to build, and not to run a single process.
//!
//! # Determinism
//! Sums are taken over the leaves of one fixed binary tree, whichever process computed which leaf. So every number of
//! processes gives the same bits; `MPI_Allreduce` does not promise that.

mod communicator;
mod error;
mod launch;
#[cfg(unix)]
mod library;
#[cfg_attr(not(unix), path = "unsupported.rs")]
mod mpi;
mod threads;
pub mod tree;

pub use communicator::{Communicator, PendingSum, SingleProcess};
pub use error::Error;
pub use launch::Launch;
pub use mpi::Mpi;
pub use threads::Threads;
