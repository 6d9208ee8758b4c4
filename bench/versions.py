#!/usr/bin/env python3
"""Compares two binaries of ddpm on the paper's CIFAR-10 network, alternating on the same cores.

    versions.py OLD [NEW] [--rounds 3] [--threads N]      NEW is target/release/ddpm by default

Needs no packages. Prints a Markdown table: medians of both, and new ÷ old, the median over the rounds.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROWS = [
    ("forward, batch 1", ["--batch", "1", "--runs", "20"], "forward_s"),
    ("forward, batch 16", ["--batch", "16", "--runs", "5"], "forward_s"),
    ("training step, batch 1", ["--batch", "1", "--runs", "20"], "train_step_s"),
    ("training step, batch 16", ["--batch", "16", "--runs", "5"], "train_step_s"),
]


def run(binary, arguments, cores):
    command = ["taskset", "-c", cores, str(binary), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def sampling(binary, cores):
    """Seconds of a process that samples a small model: 64 images, 50 steps of DDIM."""
    with tempfile.TemporaryDirectory() as folder:
        model = ROOT / "crates/sample/tests/goldens/pipeline"
        output = os.path.join(folder, "samples.npz")
        start = time.monotonic()
        run(binary, ["sample", str(model), "-q", "-n", "64", "--sampler", "ddim", "--steps", "50", "-o", output], cores)
        return time.monotonic() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("old", type=pathlib.Path)
    parser.add_argument("new", type=pathlib.Path, nargs="?", default=ROOT / "target/release/ddpm")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    cores = f"0-{arguments.threads - 1}"
    found = {}
    for _ in range(arguments.rounds):
        for batch in ["1", "16"]:
            for binary in [arguments.old, arguments.new]:
                rows = [row for row in ROWS if row[1][1] == batch]
                measured = json.loads(run(binary, ["bench", "--preset", "cifar10", *rows[0][1], "--json"], cores))
                for name, _, key in rows:
                    found.setdefault((name, binary), []).append(measured[key])
        for binary in [arguments.old, arguments.new]:
            found.setdefault(("64 samples, 50 steps, small model", binary), []).append(sampling(binary, cores))
    print("| | old | new | new ÷ old |\n|---|---|---|---|")
    for name in dict.fromkeys(name for name, _ in found):
        old, new = found[name, arguments.old], found[name, arguments.new]
        ratio = statistics.median(n / o for o, n in zip(old, new))
        print(f"| {name} | {statistics.median(old):.4f} s | {statistics.median(new):.4f} s | {ratio:.3f} |")


if __name__ == "__main__":
    main()
