//! Sums values over all processes, checks the bits against a sum without MPI, and prints the time:
//!
//! ```text
//! cargo build --release -p ddpm-mpi --example sum
//! mpirun -n 2 target/release/examples/sum [VALUES] [LEAVES]
//! ```

use std::time::Instant;

use mpi::{Communicator, Launch, Mpi, SingleProcess, tree};

/// Values sent at once, 25 MB.
const BUCKET: usize = 25_000_000 / 4;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut numbers = std::env::args().skip(1).map(|word| word.parse::<usize>());
    // The parameters of the CIFAR-10 network of Ho et al. (2020).
    let values = numbers.next().transpose()?.unwrap_or(35_746_307);
    let leaves = numbers.next().transpose()?.unwrap_or(8);
    let job: Box<dyn Communicator> = match Launch::detect().filter(|launch| !launch.is_alone()) {
        Some(launch) => {
            let mpi = Mpi::join(&launch)?;
            println!("rank {} of {}, {:?} on this machine, {}", mpi.rank(), mpi.size(), mpi.local(), mpi.library());
            Box::new(mpi)
        }
        None => Box::new(SingleProcess),
    };
    let value = |leaf: usize, i: usize| ((leaf * 40503 + i * 2_654_435_761) % 65_536) as f32 * 1e-3 - 30.0;
    let node = |range, i| {
        let sum = tree::reduce(range, &mut |leaf| Ok::<_, ()>(value(leaf, i)), &mut |a, b| a + b);
        sum.expect("leaves do not fail")
    };
    let own = tree::subtrees(leaves, &tree::share(leaves, job.rank(), job.size()));
    let subtrees: Vec<Vec<f32>> =
        own.iter().map(|range| (0..values).map(|i| node(range.clone(), i)).collect()).collect();
    for _ in 0..4 {
        job.barrier()?;
        let start = Instant::now();
        let buckets: Vec<_> = (0..values).step_by(BUCKET).map(|first| first..values.min(first + BUCKET)).collect();
        let pending: Vec<_> = buckets
            .iter()
            .map(|range| job.start_sum(leaves, subtrees.iter().map(|sums| sums[range.clone()].to_vec()).collect()))
            .collect();
        let sums = pending.into_iter().map(mpi::PendingSum::wait).collect::<Result<Vec<_>, _>>()?;
        let seconds = start.elapsed().as_secs_f64();
        let wrong = sums.iter().flatten().enumerate().filter(|(i, sum)| node(0..leaves, *i) != **sum).count();
        if wrong > 0 {
            return Err(format!("rank {}: {wrong} of {values} sums have other bits", job.rank()).into());
        }
        if job.is_root() {
            println!("{values} values over {leaves} leaves: {seconds:.4} s, the same bits");
        }
    }
    Ok(())
}
