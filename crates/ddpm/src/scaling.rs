//! Predicts how data-parallel training over MPI scales, from measurements at one and two ranks.
//!
//! A step has M passes (micro-batches), the leaves of a binary tree that is the same for every number of ranks. Rank r
//! of R computes passes ⌊rM/R⌋ … ⌊(r+1)M/R⌋ − 1 and sends the sums of its s largest subtrees to R owners, each of 1/R
//! of the values. The owners add them in the tree's order and gather the totals. A step takes
//!
//! T = c·⌈M/R⌉·pass·(1 + σ√(2 ln R)) + c·fixed + max(D/n, D − W) + 4α⌈log₂R⌉ + input + checkpoint
//!
//! - c = max(1, ranks·threads/cores) of a node, whose ranks share the cores. `fixed` is not divided: every rank updates
//!   all weights.
//! - σ√(2 ln R) bounds the expected maximum of R independent Gaussian delays of standard deviation σ.
//! - D = n·2(R−1)·α + q·(s+1)·(R−1)/R·4P/β + c·h reduces the gradients of P parameters in n buckets. α is the latency,
//!   β the bandwidth that q ranks of a node share (Hockney 1994), h the time of copies and sums. For s = 1 the bytes
//!   are those of a ring or of Rabenseifner's algorithm (Thakur, Rabenseifner & Gropp 2005).
//! - The last backward pass, of ⅔·c·pass, completes the buckets at equal intervals, and the reduction of each starts as
//!   soon as it is complete (Li et al. 2020, "PyTorch Distributed"). W is (n−1)/n of that pass with overlap, else 0.
//! - `input` is the time by which reading, which a thread does in advance, exceeds the rest of the step. A checkpoint
//!   of 16P bytes (weights, their average and two moments) is written while every rank waits.

use std::fmt;
use std::str::FromStr;

use mpi::tree;
use serde::Serialize;

/// Bytes of a bucket of gradients, the unit that is reduced at once: 25 MB.
pub const BUCKET_BYTES: f64 = train::BUCKET_BYTES as f64;

/// The backward pass's share of a pass: it does about twice the forward pass's operations.
pub const BACKWARD_SHARE: f64 = 2.0 / 3.0;

/// The most passes per rank that [`Workload::smallest_passes`] considers.
pub const MAX_PASSES_PER_RANK: usize = 256;

/// An unknown network name, or measurements from which [`fit`] cannot determine a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScalingError(String);

impl fmt::Display for ScalingError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ScalingError {}

/// A network in Hockney's model: a message of b bytes takes `latency_s` + b / `bytes_per_s`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Network {
    /// The name of a preset, or `custom`.
    pub name: String,
    /// Seconds of an empty message (α).
    pub latency_s: f64,
    /// Bytes per second in each direction (β): of a node if `shared`, else of a rank.
    pub bytes_per_s: f64,
    /// Whether the ranks of a node share the bandwidth, as those behind one adapter do.
    pub shared: bool,
}

impl Network {
    /// Returns the named networks. Their figures are typical ones, for plans: measure and [`fit`] where it matters.
    pub fn presets() -> [Self; 5] {
        let new =
            |name: &str, latency_s, bytes_per_s, shared| Self { name: name.to_owned(), latency_s, bytes_per_s, shared };
        [
            // Kernel TCP: tens of microseconds; headers at an MTU of 1500 take 6 % of the line rate.
            new("25GbE", 20e-6, 0.9 * 25e9 / 8.0, true),
            // RDMA (RoCE v2): a few microseconds. TCP through one connection reaches about half of this bandwidth.
            new("100GbE", 5e-6, 0.9 * 100e9 / 8.0, true),
            // 200 Gb InfiniBand: 1–2 µs; four adapters a node reach 96 of 100 GB/s (NVIDIA/nccl-tests issue 119).
            new("HDR", 2e-6, 0.95 * 200e9 / 8.0, true),
            // Twelve links of an A100: 208 GB/s (NVIDIA/nccl-tests issue 178). Copies through the host are not in it.
            new("NVLink", 3e-6, 200e9, false),
            // Open MPI, two ranks on two cores: 143 MB reduced in 35 ms, sums included. A server's memory is faster.
            new("shared-memory", 1e-6, 8.2e9, true),
        ]
    }
}

impl FromStr for Network {
    type Err = ScalingError;

    /// Parses the name of a preset, in any case, or `LATENCY_US,GB_PER_S` of a node.
    fn from_str(text: &str) -> Result<Self, ScalingError> {
        let presets = Self::presets();
        if let Some(preset) = presets.iter().find(|preset| preset.name.eq_ignore_ascii_case(text)) {
            return Ok(preset.clone());
        }
        let number = |text: &str| text.trim().parse::<f64>().ok().filter(|x| x.is_finite());
        let numbers = text.split_once(',').and_then(|(us, gb)| number(us).zip(number(gb)));
        match numbers {
            Some((us, gb)) if us >= 0.0 && gb > 0.0 => {
                Ok(Self { name: "custom".into(), latency_s: 1e-6 * us, bytes_per_s: 1e9 * gb, shared: true })
            }
            _ => {
                let names = presets.map(|preset| preset.name).join(", ");
                Err(ScalingError(format!("network `{text}` is unknown; expected {names} or LATENCY_US,GB_PER_S")))
            }
        }
    }
}

/// A training step and the nodes that compute it. Seconds are those of a rank with its cores to itself.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Workload {
    /// Parameters of the network (P).
    pub parameters: usize,
    /// Passes of a step on all ranks together (M).
    pub passes: usize,
    /// Images of a pass.
    pub images_per_pass: usize,
    /// Seconds of a pass, forward and backward.
    pub pass_s: f64,
    /// Seconds of the work that every rank does once a step: Adam, average and clipping norm.
    pub fixed_s: f64,
    /// Seconds of reading the images of a pass.
    pub input_s: f64,
    /// Steps between checkpoints; 0 for none.
    pub checkpoint_every: usize,
    /// Bytes per second of writing a checkpoint.
    pub disk_bytes_per_s: f64,
    /// Standard deviation of a rank's compute time, relative to its mean (σ).
    pub jitter: f64,
    /// Ranks on each node. All messages count as leaving it, so predictions for few nodes are pessimistic.
    pub ranks_per_node: usize,
    /// Threads that compute in each rank.
    pub threads_per_rank: usize,
    /// Cores of a node.
    pub cores_per_node: usize,
    /// Bytes per second, read and written, of a rank's copies and sums of gradients.
    pub host_bytes_per_s: f64,
    /// Whether buckets are reduced during the backward pass, which requires a core that does not compute.
    pub overlap: bool,
}

/// The predicted time of a step and its parts, in seconds. All but `reduction` and `hidden` add up to `total`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StepTime {
    /// The number of ranks (R).
    pub ranks: usize,
    /// Passes of the rank that has most, ⌈M/R⌉.
    pub passes_per_rank: usize,
    /// Images of a step on all ranks together.
    pub batch: usize,
    /// The passes of the slowest rank.
    pub compute: f64,
    /// Optimizer, average and clipping norm.
    pub fixed: f64,
    /// The whole reduction of the gradients.
    pub reduction: f64,
    /// The part of the reduction that follows the backward pass.
    pub exposed: f64,
    /// The part of the reduction during the backward pass.
    pub hidden: f64,
    /// Four small collectives: loss, norm and agreement to continue or stop.
    pub small_collectives: f64,
    /// Waiting for images.
    pub input: f64,
    /// A checkpoint's time over the steps between two.
    pub checkpoint: f64,
    /// The step.
    pub total: f64,
    /// Images per second of all ranks together.
    pub images_per_s: f64,
    /// Images per second and rank, relative to one rank alone.
    pub efficiency: f64,
}

/// A line of the table of [`Workload::table`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ScalingRow {
    /// The number of ranks.
    pub ranks: usize,
    /// The same batch as on one rank; none with more ranks than passes, which training refuses.
    pub strong: Option<StepTime>,
    /// As many passes on each rank as on one rank.
    pub weak: StepTime,
    /// The smallest batch, on all ranks together, with a weak-scaling efficiency of at least 0.9, if there is one.
    pub smallest_batch: Option<usize>,
}

impl Workload {
    /// Predicts a step of `passes` passes on `ranks` ranks (strong scaling). Ranks beyond `passes` compute nothing.
    ///
    /// # Panics
    /// If `ranks` is 0.
    pub fn step(&self, network: &Network, ranks: usize) -> StepTime {
        self.relative_to(self, network, ranks)
    }

    /// Predicts a step of `passes` passes on each of `ranks` ranks (weak scaling).
    ///
    /// # Panics
    /// If `ranks` is 0.
    pub fn weak_step(&self, network: &Network, ranks: usize) -> StepTime {
        Self { passes: self.passes * ranks, ..*self }.relative_to(self, network, ranks)
    }

    /// Returns the fewest passes per rank, at most [`MAX_PASSES_PER_RANK`], with a weak-scaling efficiency of at least
    /// `efficiency`. A larger number may have less, if its s is greater or the jitter dominates.
    pub fn smallest_passes(&self, network: &Network, ranks: usize, efficiency: f64) -> Option<usize> {
        (1..=MAX_PASSES_PER_RANK)
            .find(|&passes| Self { passes, ..*self }.weak_step(network, ranks).efficiency >= efficiency)
    }

    /// Predicts 1, 2, 4, … ranks, and `most`.
    pub fn table(&self, network: &Network, most: usize) -> Vec<ScalingRow> {
        let row = |ranks| ScalingRow {
            ranks,
            strong: (ranks <= self.passes).then(|| self.step(network, ranks)),
            weak: self.weak_step(network, ranks),
            smallest_batch: self
                .smallest_passes(network, ranks, 0.9)
                .map(|passes| passes * ranks * self.images_per_pass),
        };
        let powers = (0..usize::BITS).map(|power| 1 << power).take_while(|&ranks| ranks < most);
        powers.chain([most]).map(row).collect()
    }

    /// Returns the bytes that a rank sends in a step, (s + 1)·(R−1)/R·4P.
    pub fn wire_bytes(&self, ranks: usize) -> f64 {
        (max_subtrees(self.passes, ranks) + 1) as f64 * (1.0 - 1.0 / ranks as f64) * self.gradient_bytes()
    }

    fn relative_to(&self, alone: &Self, network: &Network, ranks: usize) -> StepTime {
        let step = self.time(network, ranks);
        let one = alone.time(network, 1).images_per_s;
        StepTime { efficiency: step.images_per_s / (ranks as f64 * one), ..step }
    }

    fn time(&self, network: &Network, ranks: usize) -> StepTime {
        let slowdown = self.slowdown(ranks);
        let passes_per_rank = self.passes.div_ceil(ranks);
        let compute = self.effective_passes(ranks) * self.pass_s;
        let fixed = slowdown * self.fixed_s;
        let (other, bytes) = self.reduction_parts(network, ranks);
        let reduction = other + bytes / network.bytes_per_s;
        let exposed = (reduction / self.buckets()).max(reduction - self.overlap_s(ranks));
        let small_collectives = small_collectives(network, ranks);
        let busy = compute + fixed + exposed + small_collectives;
        let input = (slowdown * passes_per_rank as f64 * self.input_s - busy).max(0.0);
        let checkpoint = match self.checkpoint_every {
            0 => 0.0,
            steps => 4.0 * self.gradient_bytes() / self.disk_bytes_per_s / steps as f64,
        };
        let (batch, total) = (self.passes * self.images_per_pass, busy + input + checkpoint);
        StepTime {
            ranks,
            passes_per_rank,
            batch,
            compute,
            fixed,
            reduction,
            exposed,
            hidden: reduction - exposed,
            small_collectives,
            input,
            checkpoint,
            total,
            images_per_s: batch as f64 / total,
            efficiency: 1.0,
        }
    }

    fn gradient_bytes(&self) -> f64 {
        4.0 * self.parameters as f64
    }

    /// Returns n.
    fn buckets(&self) -> f64 {
        (self.gradient_bytes() / BUCKET_BYTES).ceil().max(1.0)
    }

    /// Returns c.
    fn slowdown(&self, ranks: usize) -> f64 {
        let threads = ranks.min(self.ranks_per_node) * self.threads_per_rank;
        (threads as f64 / self.cores_per_node as f64).max(1.0)
    }

    /// Returns the compute time of the slowest rank in units of `pass_s`.
    fn effective_passes(&self, ranks: usize) -> f64 {
        let straggler = 1.0 + self.jitter * (2.0 * (ranks as f64).ln()).sqrt();
        self.slowdown(ranks) * self.passes.div_ceil(ranks) as f64 * straggler
    }

    /// Returns W.
    fn overlap_s(&self, ranks: usize) -> f64 {
        let n = self.buckets();
        if self.overlap { self.slowdown(ranks) * BACKWARD_SHARE * self.pass_s * (n - 1.0) / n } else { 0.0 }
    }

    /// Returns the seconds of the reduction's messages, copies and sums, and the bytes that share a bandwidth.
    fn reduction_parts(&self, network: &Network, ranks: usize) -> (f64, f64) {
        if ranks == 1 {
            return (0.0, 0.0);
        }
        let (r, s) = (ranks as f64, max_subtrees(self.passes, ranks) as f64);
        let messages = self.buckets() * 2.0 * (r - 1.0);
        // Read and written: s sums to the buffer and the totals from it; read: s/R of R ranks; written: their 1/R.
        let host_bytes = (2.0 * s + 2.0 + s + 1.0 / r) * self.gradient_bytes();
        let sharing = if network.shared { ranks.min(self.ranks_per_node) } else { 1 };
        let host_s = self.slowdown(ranks) * host_bytes / self.host_bytes_per_s;
        (messages * network.latency_s + host_s, sharing as f64 * self.wire_bytes(ranks))
    }
}

/// Returns the time of the four small collectives of a step, each by recursive doubling.
fn small_collectives(network: &Network, ranks: usize) -> f64 {
    4.0 * network.latency_s * f64::from(ranks.next_power_of_two().ilog2())
}

/// Returns s, the most subtrees that cover the passes of a rank: 1 if M/R is a power of two.
pub fn max_subtrees(passes: usize, ranks: usize) -> usize {
    let subtrees = |rank| tree::subtrees(passes, &tree::share(passes, rank, ranks)).len();
    (0..ranks).map(subtrees).max().unwrap_or(0)
}

/// A measured step, without checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// The number of ranks.
    pub ranks: usize,
    /// Threads that compute in each rank.
    pub threads_per_rank: usize,
    /// Cores of a node.
    pub cores: usize,
    /// Passes of the step on all ranks together.
    pub passes: usize,
    /// Seconds of the step.
    pub step_s: f64,
    /// Seconds of the reduction after the backward pass; the least of all ranks, since the others wait for the last.
    pub reduction_s: f64,
}

/// Fits `pass_s`, `fixed_s` and the network's bandwidth to measurements by linear least squares. The rest is taken from
/// `workload` and `network`, except threads and cores, which are the measurements'. No step may wait for images.
///
/// # Errors
/// If the number of threads varies, if every measurement has the same passes per rank, if none has two ranks, or if a
/// fitted time would not be positive.
pub fn fit(workload: &Workload, network: &Network, all: &[Measured]) -> Result<(Workload, Network), ScalingError> {
    let fail = |message: &str| Err(ScalingError(message.to_owned()));
    let Some(first) = all.first() else { return fail("there are no measurements; expected at least two") };
    if all.iter().any(|one| one.threads_per_rank != first.threads_per_rank) {
        return fail("the measurements differ in `threads_per_rank`; use the same for every number of ranks");
    }
    let with = |one: &Measured, workload: &Workload| Workload {
        passes: one.passes,
        threads_per_rank: one.threads_per_rank,
        cores_per_node: one.cores,
        ..*workload
    };
    // Normal equations of y = x·pass_s + c·fixed_s.
    let [mut xx, mut xc, mut cc, mut xy, mut cy] = [0.0; 5];
    for one in all {
        let at = with(one, workload);
        let (x, c) = (at.effective_passes(one.ranks), at.slowdown(one.ranks));
        let y = one.step_s - one.reduction_s - small_collectives(network, one.ranks);
        (xx, xc, cc, xy, cy) = (xx + x * x, xc + x * c, cc + c * c, xy + x * y, cy + c * y);
    }
    let determinant = xx * cc - xc * xc;
    if determinant <= 1e-9 * xx * cc {
        return fail("the measurements do not determine both `pass_s` and `fixed_s`; vary the passes per rank");
    }
    let (mut pass_s, mut fixed_s) = ((xy * cc - cy * xc) / determinant, (xx * cy - xc * xy) / determinant);
    if fixed_s < 0.0 {
        // The constrained minimum lies on the boundary.
        (pass_s, fixed_s) = (xy / xx, 0.0);
    }
    let fitted = Workload { pass_s, fixed_s, ..with(first, workload) };
    // bytes / bandwidth = D − other; the exposed part e = max(D/n, D − W) gives D = min(n·e, e + W).
    let (mut bb, mut bt) = (0.0, 0.0);
    for one in all.iter().filter(|one| one.ranks > 1) {
        let at = with(one, &fitted);
        let (other, bytes) = at.reduction_parts(network, one.ranks);
        let reduction = (at.buckets() * one.reduction_s).min(one.reduction_s + at.overlap_s(one.ranks));
        (bb, bt) = (bb + bytes * bytes, bt + bytes * (reduction - other));
    }
    match (pass_s > 0.0, bb > 0.0, bt > 0.0) {
        (false, ..) => fail("the steps are not longer than their reductions; measure more passes"),
        (_, false, _) => fail("no measurement has gradients and at least two ranks; the bandwidth needs one"),
        (.., false) => fail(
            "the reduction is faster than its latency and copies alone; lower `latency_s` or raise `host_bytes_per_s`",
        ),
        _ => Ok((Workload { passes: workload.passes, ..fitted }, Network { bytes_per_s: bb / bt, ..network.clone() })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CIFAR10: usize = 35_746_307;

    fn network(latency_s: f64, bytes_per_s: f64) -> Network {
        Network { name: "custom".into(), latency_s, bytes_per_s, shared: true }
    }

    fn workload() -> Workload {
        Workload {
            parameters: CIFAR10,
            passes: 16,
            images_per_pass: 8,
            pass_s: 0.2,
            fixed_s: 0.1,
            input_s: 0.0,
            checkpoint_every: 0,
            disk_bytes_per_s: 1e9,
            jitter: 0.0,
            ranks_per_node: 1,
            threads_per_rank: 1,
            cores_per_node: 1,
            host_bytes_per_s: 10e9,
            overlap: true,
        }
    }

    fn assert_close(a: f64, b: f64) {
        assert!((a - b).abs() <= 1e-12 * a.abs().max(b.abs()), "{a} and {b}");
    }

    #[test]
    fn one_rank_computes_and_writes_checkpoints() {
        let workload = Workload { checkpoint_every: 10, disk_bytes_per_s: 16e6, jitter: 0.1, ..workload() };
        let step = workload.step(&network(1.0, 1.0), 1);
        assert_close(step.total, 16.0 * 0.2 + 0.1 + CIFAR10 as f64 / 1e7);
        assert_eq!((step.reduction, step.efficiency), (0.0, 1.0));
    }

    #[test]
    fn a_free_network_leaves_fixed_work_and_stragglers() {
        let free = network(0.0, f64::INFINITY);
        let workload = Workload { host_bytes_per_s: f64::INFINITY, ..workload() };
        assert_close(workload.step(&free, 8).efficiency, (16.0 * 0.2 + 0.1) / (8.0 * (2.0 * 0.2 + 0.1)));
        assert_close(workload.weak_step(&free, 1024).efficiency, 1.0);
        let late = Workload { jitter: 0.05, fixed_s: 0.0, ..workload };
        assert_close(late.weak_step(&free, 8).efficiency, 1.0 / (1.0 + 0.05 * (2.0 * 8f64.ln()).sqrt()));
    }

    #[test]
    fn the_bytes_are_a_rings_if_each_rank_has_one_subtree() {
        let bytes = 4.0 * CIFAR10 as f64;
        for ranks in [2, 4, 16] {
            assert_close(workload().wire_bytes(ranks), 2.0 * (ranks - 1) as f64 / ranks as f64 * bytes);
        }
        assert_eq!([(8, 3), (8, 8), (12, 4), (7, 2), (6, 1)].map(|(m, r)| max_subtrees(m, r)), [2, 1, 2, 2, 1]);
        assert_close(Workload { passes: 8, ..workload() }.wire_bytes(3), 3.0 * 2.0 / 3.0 * bytes);
        // Aligned blocks from left to right, where the tree is complete.
        for (passes, ranks) in [16, 64].into_iter().flat_map(|m| (2..=m).map(move |r| (m, r))) {
            let blocks = |rank: usize| {
                let (mut low, high, mut count) = (rank * passes / ranks, (rank + 1) * passes / ranks, 0);
                while low < high {
                    let fits = |size: &usize| low.is_multiple_of(*size) && low + size <= high;
                    low += (0..10).map(|power| 1 << power).filter(fits).max().unwrap();
                    count += 1;
                }
                count
            };
            assert_eq!(max_subtrees(passes, ranks), (0..ranks).map(blocks).max().unwrap());
        }
    }

    #[test]
    fn overlap_equals_a_simulated_queue_of_buckets() {
        for bytes_per_s in [1e8, 1e9, 3e9, 1e11] {
            let (workload, network) = (workload(), network(1e-5, bytes_per_s));
            let step = workload.step(&network, 4);
            let (n, backward) = (workload.buckets(), 2.0 / 3.0 * workload.pass_s);
            let end = (1..=n as usize).fold(0.0f64, |end, i| end.max(i as f64 / n * backward) + step.reduction / n);
            assert!((end - backward - step.exposed).abs() < 1e-12, "{end} {step:?}");
            assert_close(step.exposed + step.hidden, step.reduction);
            assert_eq!(Workload { overlap: false, ..workload }.step(&network, 4).hidden, 0.0);
        }
    }

    #[test]
    fn more_ranks_cost_and_more_bandwidth_helps() {
        let workload = Workload { jitter: 0.02, input_s: 0.1, ranks_per_node: 4, ..workload() };
        for network in Network::presets() {
            let rows = workload.table(&network, 1024);
            assert_eq!(rows.iter().map(|row| row.ranks).max(), Some(1024));
            assert!(rows.windows(2).all(|pair| pair[0].weak.total <= pair[1].weak.total));
            assert!(rows.windows(2).all(|pair| pair[0].weak.efficiency >= pair[1].weak.efficiency));
            assert!(rows.iter().all(|row| row.strong.is_none_or(|step| step.efficiency <= 1.0)));
            let faster = Network { bytes_per_s: 2.0 * network.bytes_per_s, ..network.clone() };
            assert!((1..64).all(|ranks| workload.step(&faster, ranks).total <= workload.step(&network, ranks).total));
        }
    }

    #[test]
    fn input_is_hidden_until_it_is_longer_than_the_rest() {
        let step = |input_s| Workload { input_s, ..workload() }.step(&network(1e-5, 1e9), 2);
        assert_eq!(step(0.2), step(0.0));
        assert_close(step(1.0).total, 8.0);
    }

    #[test]
    fn smallest_passes_solve_the_efficiency_for_the_batch() {
        // m passes of 1 s and six latencies of 0.1 s: m / (m + 0.6) ≥ 0.9 from m = 5.4.
        let workload = Workload { parameters: 0, images_per_pass: 3, pass_s: 1.0, fixed_s: 0.0, ..workload() };
        assert_eq!(workload.smallest_passes(&network(0.1, 1e9), 2, 0.9), Some(6));
        assert_eq!(workload.table(&network(0.1, 1e9), 1024)[1].smallest_batch, Some(36));
        assert_eq!(Workload { jitter: 0.2, ..workload }.smallest_passes(&network(0.0, 1e9), 2, 0.9), None);
    }

    #[test]
    fn fit_recovers_the_parameters_and_predicts_four_ranks_on_two_cores() {
        for (overlap, bytes_per_s) in [(false, 5e9), (true, 5e8), (true, 5e10)] {
            let truth = Workload { ranks_per_node: 4, cores_per_node: 2, jitter: 0.01, overlap, ..workload() };
            let network = network(2e-6, bytes_per_s);
            let measure = |ranks| {
                let step = truth.step(&network, ranks);
                let (passes, step_s, reduction_s) = (truth.passes, step.total, step.exposed);
                Measured { ranks, threads_per_rank: 1, cores: 2, passes, step_s, reduction_s }
            };
            let guess = Workload { pass_s: 1.0, fixed_s: 1.0, cores_per_node: 9, ..truth };
            let start = Network { bytes_per_s: 1.0, ..network.clone() };
            let (fitted, found) = fit(&guess, &start, &[measure(1), measure(2)]).unwrap();
            let error = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-10, "{a} and {b}");
            error(fitted.pass_s, truth.pass_s);
            error(fitted.fixed_s, truth.fixed_s);
            error(found.bytes_per_s, bytes_per_s);
            let (four, expected) = (fitted.step(&found, 4), truth.step(&network, 4));
            error(four.total, expected.total);
            assert_close(expected.fixed, 2.0 * truth.fixed_s);
            assert!(fit(&guess, &start, &[measure(1)]).unwrap_err().to_string().contains("vary the passes"));
        }
    }

    #[test]
    fn shared_memory_is_as_measured() {
        let workload = Workload { ranks_per_node: 2, cores_per_node: 2, host_bytes_per_s: f64::INFINITY, ..workload() };
        let reduction = workload.step(&"shared-memory".parse().unwrap(), 2).reduction;
        assert!((reduction - 0.035).abs() < 1e-3, "{reduction}");
    }

    #[test]
    fn networks_are_parsed() {
        assert_eq!("hdr".parse(), Ok(Network::presets()[2].clone()));
        assert_eq!("5, 12.5".parse(), Ok(Network { latency_s: 1e-6 * 5.0, ..network(0.0, 12.5e9) }));
        for wrong in ["", "1GbE", "-1,2", "1,0", "1,inf", "NaN,1"] {
            let error = wrong.parse::<Network>().unwrap_err().to_string();
            assert!(error.contains("25GbE, 100GbE, HDR, NVLink, shared-memory"), "{error}");
        }
    }
}
