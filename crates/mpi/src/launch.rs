//! The launcher that started this process.

use std::env;

/// The place of this process in a job, as the environment of its launcher says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The number of this process.
    pub rank: usize,
    /// The number of processes, if the launcher gives it.
    pub size: Option<usize>,
    /// Whether the launcher is that of Open MPI, or a PMIx server, which Open MPI uses.
    pub is_pmix: bool,
}

/// Variables of the rank and the number of processes, by launcher. Open MPI's mpirun; Hydra (MPICH, Intel MPI, MVAPICH) and
/// `srun --mpi=pmi2`; older MVAPICH; `srun --mpi=pmix`, whose number of processes is Slurm's.
const VARIABLES: [(&str, &str, bool); 4] = [
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", true),
    ("PMI_RANK", "PMI_SIZE", false),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", false),
    ("PMIX_RANK", "SLURM_STEP_NUM_TASKS", true),
];

impl Launch {
    /// Returns the place of this process in its job, or `None` if no launcher of MPI started it, or if `DDPM_MPI` is `off`.
    pub fn detect() -> Option<Self> {
        if env::var_os("DDPM_MPI").is_some_and(|value| value == "off") {
            return None;
        }
        Self::read(|name| env::var(name).ok())
    }

    fn read(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let number = |name: &str| variable(name)?.parse().ok();
        VARIABLES
            .iter()
            .find_map(|&(rank, size, is_pmix)| Some(Self { rank: number(rank)?, size: number(size), is_pmix }))
    }

    /// Returns the number of processes that Slurm started without MPI, if it is more than one. They do not know each other.
    pub fn slurm_without_mpi() -> Option<usize> {
        let tasks = env::var("SLURM_STEP_NUM_TASKS").ok()?.parse().ok().filter(|&tasks| tasks > 1);
        tasks.filter(|_| env::var_os("DDPM_MPI").is_none() && Self::detect().is_none())
    }

    /// Returns whether this is the only process of its job.
    pub fn is_alone(&self) -> bool {
        self.size == Some(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launchers_are_recognized_by_their_variables() {
        let read = |set: &[(&str, &str)]| {
            Launch::read(|name| set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
        };
        assert_eq!(read(&[]), None);
        let open_mpi = read(&[("OMPI_COMM_WORLD_RANK", "2"), ("OMPI_COMM_WORLD_SIZE", "4"), ("PMIX_RANK", "2")]);
        assert_eq!(open_mpi, Some(Launch { rank: 2, size: Some(4), is_pmix: true }));
        let hydra = read(&[("PMI_RANK", "0"), ("PMI_SIZE", "1")]).unwrap();
        assert!(hydra.is_alone() && !hydra.is_pmix);
        let slurm = read(&[("PMIX_RANK", "3"), ("SLURM_STEP_NUM_TASKS", "8")]);
        assert_eq!(slurm, Some(Launch { rank: 3, size: Some(8), is_pmix: true }));
        assert_eq!(read(&[("PMIX_RANK", "3")]), Some(Launch { rank: 3, size: None, is_pmix: true }));
    }
}
