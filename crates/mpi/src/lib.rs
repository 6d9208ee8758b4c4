//! Communication between the processes of a job.
//!
//! | item | what |
//! |---|---|
//! | [`Communicator`] | the operations that the other crates need: a gather and a sum |
//! | [`SingleProcess`] | the communicator of a program that runs alone |
//! | [`Mpi`] | MPI, loaded at run time: Open MPI, MPICH and their relatives, or the MPI-5 ABI |
//! | [`Division`] | independent items, divided between the processes of a job or between shards |
//! | [`Recording`], [`Shards`] | the files of shards, which independent processes write |
//! | [`Threads`] | threads in place of processes, for tests |
//! | [`tree`] | the order in which values are summed |
//!
//! The library of MPI is not needed to build, and not to run a single process.
//!
//! # Determinism
//! Sums are taken over the leaves of one fixed binary tree, whichever process computed which leaf. So every number of
//! processes gives the same bits; `MPI_Allreduce` does not promise that.

mod communicator;
mod division;
mod error;
mod launch;
// Handles of 32 bits are read from variables of pointer size.
#[cfg(all(unix, target_endian = "little"))]
mod library;
#[cfg_attr(not(all(unix, target_endian = "little")), path = "unsupported.rs")]
mod mpi;
mod shard;
mod threads;
pub mod tree;

pub use communicator::{Communicator, PendingSum, SingleProcess};
pub use division::{Division, Items};
pub use error::Error;
pub use launch::Launch;
pub use mpi::Mpi;
pub use shard::{Recording, Shard, Shards};
pub use threads::Threads;
