#!/usr/bin/env python3
"""Compares data-parallel training, two ranks of one thread, with one process of two threads: ddpm over MPI and PyTorch's
DistributedDataParallel over Gloo, alternating on the same two cores.

    ranks.py [--rounds 3] [--micro-batch 8] [--passes 4] [--quick]      called by bench/run, which installs and builds

All train the paper's CIFAR-10 network in f32 with the same global batch: a step is the same number of forward and backward
passes, divided among the ranks, and one update. ddpm also runs with three and four ranks, which share the two cores.
Prints Markdown tables and writes them to bench/results/ranks.md, and every measurement to ranks.json. MPIRUN is the command
that starts the ranks of ddpm (default: mpirun).
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time

import measure

MPIRUN = os.environ.get("MPIRUN", "mpirun")
CORES = 2
NAMES = {"ddpm": "**ddpm**, MPI", "pytorch": "PyTorch DDP, Gloo"}
# Program, ranks, threads of each rank; in the order of a round.
CONFIGURATIONS = [
    ("ddpm", 1, 2),
    ("pytorch", 1, 2),
    ("ddpm", 2, 1),
    ("pytorch", 2, 1),
    ("ddpm", 3, 1),
    ("ddpm", 4, 1),
]
EFFICIENCY = 0.95  # goal for ddpm at two ranks
RUNS = 5


def mpi_version():
    if not shutil.which(MPIRUN):
        sys.exit(f"{MPIRUN}: not found; install Open MPI or MPICH, or set MPIRUN to the path of mpirun")
    lines = subprocess.run([MPIRUN, "--version"], capture_output=True, text=True).stdout.splitlines()
    # MPICH's version is on the second line.
    return " ".join(" ".join(lines[: 1 if "Open MPI" in lines[0] else 2]).split()) if lines else "unknown MPI"


class Bench:
    def __init__(self, micro_batch, passes):
        self.micro_batch, self.passes, self.mpi = micro_batch, passes, mpi_version()
        self.figures, self.raw, self.versions, self.reference = {}, [], {}, None

    def launcher(self, ranks):
        if ranks == 1:
            return []
        if "Open MPI" not in self.mpi:
            return [MPIRUN, "-n", ranks]
        # Open MPI would refuse more ranks than cores, and bind each rank to one core.
        root = ["--allow-run-as-root"] * (os.geteuid() == 0)
        return [MPIRUN, "-n", ranks, *root, "--oversubscribe", "--bind-to", "none"]

    def ours(self, ranks, threads):
        sizes = ["--batch-size", self.micro_batch, "--passes", self.passes, "--train-only"]
        command = [measure.DDPM, "bench", "--preset", "cifar10", "--device", "cpu", *sizes, "--threads", threads, "--runs", RUNS]
        result = measure.child([*self.launcher(ranks), *command, "--set", "model.dropout=0.0", "--json"], threads)
        if result["ranks"] != ranks:
            sys.exit(f"ddpm ran on {result['ranks']} ranks instead of {ranks}; does it use the same MPI as {MPIRUN}?")
        images = result["train_images_s"] * result["train_step_s"]
        if abs(images / self.images() - 1) > 0.01:
            sys.exit(f"ddpm's step has {images:.1f} images instead of {self.images()}")
        return result

    def peer(self, ranks, threads):
        sizes = ["--micro-batch", self.micro_batch, "--passes", self.passes]
        command = [sys.executable, measure.BENCH / "peers_ddp.py", "--ranks", ranks, "--threads", threads]
        result = measure.child([*command, *sizes, "--runs", RUNS], threads)
        measure.same_network(self.reference, result)
        self.versions |= result["versions"]
        return result

    def images(self):
        return self.micro_batch * self.passes

    def measure(self, who, ranks, threads):
        """Runs one configuration and stores its time and, for ddpm, the exposed time of the reduction."""
        if who == "ddpm":
            result = self.reference = self.ours(ranks, threads)
            seconds, reduction = result["train_step_s"], result.get("reduction_s") or 0.0
        else:
            result = self.peer(ranks, threads)
            seconds, reduction = result["median_s"], None
        self.raw.append({"who": who, **result, "ranks": ranks, "threads": threads})
        self.figures.setdefault((who, ranks), []).append((seconds, reduction))
        waiting = "" if reduction is None else f"  reduction {reduction:.4g} s"
        measure.say(f"  {who:8} {ranks} × {threads}  step {seconds:.4g} s{waiting}")

    def seconds(self, who, ranks):
        return statistics.median(seconds for seconds, _ in self.figures[who, ranks])

    def reduction(self, ranks):
        return statistics.median(reduction for _, reduction in self.figures["ddpm", ranks])

    def efficiency(self, who):
        """Returns the time of one process of two threads, divided by that of two ranks of one thread."""
        return self.seconds(who, 1) / self.seconds(who, 2)

    def spread(self):
        """Returns the largest ratio between rounds of one measurement."""
        times = [[seconds for seconds, _ in found] for found in self.figures.values()]
        return max(max(found) / min(found) for found in times)


def table(bench):
    figure = lambda value: f"{value:#.3g}".rstrip(".")
    rate = lambda seconds: figure(bench.images() / seconds)
    rows = [["", "1 process × 2 threads, s/step", "images/s", "2 ranks × 1 thread, s/step", "images/s", "efficiency"], ["---"] * 6]
    for who, name in NAMES.items():
        one, two = bench.seconds(who, 1), bench.seconds(who, 2)
        rows.append([name, figure(one), rate(one), figure(two), rate(two), f"{bench.efficiency(who):.3f}"])
    verdict = lambda reached: "yes" if reached else "**no**"
    efficiency, ratio = bench.efficiency("ddpm"), bench.seconds("pytorch", 2) / bench.seconds("ddpm", 2)
    goals = [["ratio", "goal", "reached"], ["---"] * 3]
    goals.append(["efficiency of ddpm at 2 ranks", f"≥ {EFFICIENCY:g}", f"{efficiency:.3f}: {verdict(efficiency >= EFFICIENCY)}"])
    goals.append(["step at 2 ranks, PyTorch DDP ÷ ddpm", "> 1", f"{ratio:.2f}: {verdict(ratio > 1)}"])
    scaling = [["ddpm", "passes of a rank, at most", "s/step", "images/s", "waiting for the reduction, s/step"], ["---"] * 5]
    for who, ranks, threads in CONFIGURATIONS:
        if who == "ddpm" and (who, ranks) in bench.figures:
            name = f"{ranks} {'ranks' if ranks > 1 else 'process'} × {threads} thread{'s' * (threads > 1)}"
            seconds = bench.seconds(who, ranks)
            scaling.append([name, str(-(-bench.passes // ranks)), figure(seconds), rate(seconds), f"{bench.reduction(ranks):.3f}"])
    return "\n\n".join("\n".join(f"| {' | '.join(row)} |" for row in rows) for rows in (rows, goals, scaling))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="number of times that every measurement is repeated")
    parser.add_argument("--micro-batch", type=int, default=8, help="images of a pass")
    parser.add_argument("--passes", type=int, default=4, help="passes of a step, over all ranks; a multiple of 2")
    parser.add_argument("--quick", action="store_true", help="one round")
    a = parser.parse_args()
    if a.passes < 2 or a.passes % 2 != 0:
        parser.error(f"--passes {a.passes} is not a multiple of 2")
    if a.quick:
        a.rounds = 1
    if measure.cores(CORES) < CORES:
        sys.exit(f"this benchmark requires {CORES} cores")
    bench = Bench(a.micro_batch, a.passes)
    load, start = measure.check_quiet(), time.time()
    for number in range(a.rounds):
        measure.say(f"round {number + 1} of {a.rounds}, {(time.time() - start) / 60:.1f} min")
        for configuration in CONFIGURATIONS:
            # ddpm refuses more ranks than passes.
            if configuration[1] <= a.passes:
                bench.measure(*configuration)
    facts = [
        f"{measure.machine(CORES)}; {time.strftime('%Y-%m-%d')}.",
        f"{measure.version()}; {bench.mpi}; " + ", ".join(f"{name} {number}" for name, number in bench.versions.items()) + ".",
        f"{bench.reference['parameters']:,} parameters, dropout 0, f32. A step is {a.passes} passes of {a.micro_batch} images over all ranks. "
        f"Median over {a.rounds} round{'s' * (a.rounds > 1)} of the median of each process; ddpm and PyTorch alternate. "
        f"Rounds differed by up to {100 * (bench.spread() - 1):.0f} %. {measure.quiet(load)}",
        f"Efficiency is the time of 1 process × 2 threads ÷ that of 2 ranks × 1 thread. More than {CORES} ranks share {CORES} cores.",
    ]
    text = "\n".join(facts) + "\n\n" + table(bench) + "\n"
    measure.RESULTS.mkdir(exist_ok=True)
    (measure.RESULTS / "ranks.md").write_text(text)
    (measure.RESULTS / "ranks.json").write_text(json.dumps({"facts": facts, "measurements": bench.raw}, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    main()
