//! The processes of an MPI job: who prints, how many threads each has, and how all of them end.

use std::fs;
use std::process::exit;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, bail};
use ddpm::files::{self, MemoryLimit};
use ddpm::mpi::{Communicator, Launch, Mpi, SingleProcess};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The job, once it was joined.
static JOB: OnceLock<Arc<Mpi>> = OnceLock::new();

/// The number of processes that may use the same cores of the same machine as this one.
static SHARING: OnceLock<usize> = OnceLock::new();

/// The time that a rank with an error waits for the report of rank 0, which usually has the same one.
const COURTESY: Duration = Duration::from_millis(1500);

/// Returns how this process was launched, if it is one of several of an MPI job.
pub fn launch() -> Option<&'static Launch> {
    static LAUNCH: OnceLock<Option<Launch>> = OnceLock::new();
    LAUNCH.get_or_init(|| Launch::detect().filter(|launch| !launch.is_alone())).as_ref()
}

/// Joins the job that this process belongs to, if any.
///
/// # Errors
/// If there is no library of MPI, it is that of another launcher, or the ranks run other versions of the program.
pub fn join() -> anyhow::Result<()> {
    let Some(launch) = launch() else { return Ok(()) };
    // Joined once, by `main`.
    let _ = JOB.set(Arc::new(Mpi::join(launch)?));
    let (place, mine) = (cores_of_process(), env!("CARGO_PKG_VERSION").to_owned());
    let places = communicator().all_gather_values(&place)?;
    // Set once, as above.
    let _ = SHARING.set(places.iter().filter(|other| **other == place).count());
    let all = communicator().all_gather_values(&mine)?;
    if let Some(rank) = all.iter().position(|other| *other != all[0]) {
        bail!("rank {rank} runs ddpm {}, but rank 0 runs {}; use one version", all[rank], all[0]);
    }
    Ok(())
}

/// Returns the value of rank 0, which is the only one to compute it. If that fails, rank 0 ends the job.
///
/// # Errors
/// Those of `compute`, or if a rank cannot be reached.
pub fn of_root<T: Serialize + DeserializeOwned>(compute: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let communicator = communicator();
    // A list, since JSON has no difference between no value and an empty one.
    let value = if communicator.is_root() { vec![compute()?] } else { Vec::new() };
    let all = communicator.all_gather_values(&value)?;
    all.into_iter().flatten().next().context("rank 0 sent nothing")
}

/// Returns the number of the card of this process among those of its machine. Launchers of batch systems often show each
/// process its own cards only.
pub fn card() -> usize {
    let visible = ["CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"];
    let cards = visible.iter().find_map(|name| Some(std::env::var(name).ok()?.split(',').count()));
    local().0 % cards.unwrap_or(usize::MAX)
}

/// Returns the processes that divide the work.
pub fn communicator() -> Arc<dyn Communicator> {
    match JOB.get() {
        Some(mpi) => mpi.clone(),
        None => Arc::new(SingleProcess),
    }
}

/// Returns the number of this process in its job; 0 for one that runs alone.
pub fn rank() -> usize {
    JOB.get().map(|mpi| mpi.rank()).or(launch().map(|launch| launch.rank)).unwrap_or(0)
}

/// Returns whether this process has joined a job, whose other processes wait for it.
pub fn is_joined() -> bool {
    JOB.get().is_some()
}

/// Leaves the job, when all processes do.
pub fn leave() {
    if let Some(mpi) = JOB.get() {
        mpi.leave();
    }
}

/// Ends all processes of the job with a status, or this one if it runs alone.
pub fn exit_all(status: i32) -> ! {
    match JOB.get() {
        Some(mpi) => mpi.abort(status),
        None => exit(status),
    }
}

/// Returns the start of a line about this process alone: empty for process 0.
pub fn prefix() -> String {
    match rank() {
        0 => String::new(),
        rank => format!("rank {rank}: "),
    }
}

/// Lets rank 0 report an error first, and end the job, so that an error of all ranks is one line.
pub fn wait_for_root() {
    if rank() > 0 {
        std::thread::sleep(COURTESY);
    }
}

/// Returns the number of this process among those on its machine, and their number.
pub fn local() -> (usize, usize) {
    JOB.get().map_or((0, 1), |mpi| mpi.local())
}

/// Returns the threads of this process when the processes of a machine divide its cores; 0, which is one for each core, for a
/// process that runs alone. The second value warns if the launcher allows it fewer cores than its part.
pub fn threads() -> (usize, Option<String>) {
    let (_, processes) = local();
    if processes == 1 {
        return (0, None);
    }
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    let cores = online_cores().unwrap_or(allowed).max(allowed);
    divided(processes, SHARING.get().copied().unwrap_or(processes), allowed, cores)
}

/// Returns the threads of one of several processes of a machine, and the warning. This process may use `allowed` cores, as
/// may `sharing` processes, this one included.
fn divided(processes: usize, sharing: usize, allowed: usize, cores: usize) -> (usize, Option<String>) {
    let (threads, part) = ((allowed / sharing).max(1), (cores / processes).max(1));
    // Without binding, all processes share what a container or a batch system allows.
    let warning = (sharing < processes && threads < part).then(|| {
        format!(
            "mpirun binds each rank to {allowed} of the machine's {cores} cores, but {processes} ranks could have {part} each; \
             Open MPI's mpirun needs --bind-to none (or --map-by slot:PE={part}) for that"
        )
    });
    (threads, warning)
}

/// Returns the machine of this process and the cores that it may use there, as Linux names them.
fn cores_of_process() -> (String, String) {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or_default();
    (host.trim().to_owned(), list.trim().to_owned())
}

/// Returns the number of cores of the machine, whether this process may use them or not.
fn online_cores() -> Option<usize> {
    let text = fs::read_to_string("/sys/devices/system/cpu/online").ok()?;
    let count = |range: &str| -> Option<usize> {
        match range.split_once('-') {
            Some((first, last)) => Some(last.parse::<usize>().ok()? + 1 - first.parse::<usize>().ok()?),
            None => range.parse().ok().map(|_: usize| 1),
        }
    };
    text.trim().split(',').map(count).sum()
}

/// Returns the memory that each process may use when the processes of a machine divide it.
pub fn memory() -> Option<MemoryLimit> {
    let (_, processes) = local();
    let limit = files::memory_limit().filter(|_| processes > 1)?;
    let source = format!("the part of each of {processes} ranks in {}", limit.source);
    Some(MemoryLimit { bytes: limit.bytes / processes as u64, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_divide_the_cores_and_a_pinned_rank_is_explained() {
        assert_eq!(divided(4, 4, 64, 64), (16, None));
        assert_eq!(divided(4, 4, 2, 2), (1, None));
        // In a container that may use 8 of 64 cores.
        assert_eq!(divided(4, 4, 8, 64), (2, None));
        // Each bound to a NUMA domain of its own, or two to each of two.
        assert_eq!(divided(4, 1, 16, 64), (16, None));
        assert_eq!(divided(4, 2, 32, 64), (16, None));
        // Open MPI binds each of two ranks to a core.
        let (threads, warning) = divided(2, 1, 1, 64);
        assert_eq!(threads, 1);
        let warning = warning.unwrap();
        assert!(warning.contains("1 of the machine's 64 cores") && warning.contains("--bind-to none"), "{warning}");
    }
}
