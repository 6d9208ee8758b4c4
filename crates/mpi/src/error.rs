//! The errors of communication.

use std::path::PathBuf;

/// An error of communication between processes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No library of MPI could be loaded, though a launcher of MPI started this process.
    #[error(
        "this is process {rank} of {size} of an MPI job, but no MPI library could be loaded ({tried}); install the \
         library of the launcher, give its path in DDPM_MPI, or set DDPM_MPI=off to run without MPI"
    )]
    NoLibrary {
        /// The rank that the launcher assigned.
        rank: usize,
        /// The number of processes that the launcher started.
        size: String,
        /// The names that were tried, each with its error.
        tried: String,
    },
    /// The library of MPI belongs to another launcher than the one that was used, so each process is alone in its job.
    #[error(
        "the launcher started {launched} processes, but {library} knows of {found}: it is the library of another MPI. \
         Use its own mpirun, or give the path of the launcher's library in DDPM_MPI"
    )]
    OtherLauncher {
        /// The number of processes that the launcher started.
        launched: usize,
        /// The number of processes that the library finds.
        found: usize,
        /// The library and its version.
        library: String,
    },
    /// A function of MPI failed.
    #[error("{function} failed with code {code}")]
    Call {
        /// The name of the function.
        function: &'static str,
        /// The code that it returned.
        code: i32,
    },
    /// The library lacks a function.
    #[error("{library} has no {symbol}")]
    NoSymbol {
        /// The library.
        library: String,
        /// The name of the function or constant.
        symbol: String,
    },
    /// A message is larger than MPI's 32-bit counts allow.
    #[error("a message of {0} bytes is too long; MPI counts in 32 bits")]
    TooLong(usize),
    /// The other processes sent something else than expected: they run another program or another command.
    #[error("rank {rank} sent an unexpected message ({message}): it runs another command or version")]
    Unexpected {
        /// The sender.
        rank: usize,
        /// The problem.
        message: String,
    },
    /// An error of another process.
    #[error("rank {rank}: {message}")]
    OtherRank {
        /// The process.
        rank: usize,
        /// Its error.
        message: String,
    },
    /// The processes do not compute the same.
    #[error(
        "rank {rank} has another model, other images or other options than rank 0; all ranks must do the same work"
    )]
    OtherWork {
        /// The first process that differs from process 0.
        rank: usize,
    },
    /// A result that cannot be sent, or one that cannot be read.
    #[error("a result of another process: {0}")]
    Encoding(String),
    /// The file of a shard that cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file of a shard that does not fit the others, or is damaged.
    #[error("{path}: {message}")]
    Shard {
        /// The file.
        path: PathBuf,
        /// The problem.
        message: String,
    },
    /// Not a failure: the items of a shard are in its file, and the result is known when all shards are merged.
    #[error("{path}: has the {items} items of this shard; merge all shards")]
    Recorded {
        /// The file.
        path: PathBuf,
        /// The number of items.
        items: usize,
    },
    /// The thread that calls MPI could not be started, or has ended.
    #[error("the thread that calls MPI: {0}")]
    Thread(String),
    /// The system has no MPI that this program can load.
    #[error("MPI is not supported on this system")]
    Unsupported,
}
