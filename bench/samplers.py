#!/usr/bin/env python3
"""Measures samplers of a model: the Fréchet distance over the number of steps. Prints Markdown for docs/samplers.md.

    bench/samplers.py MODEL FEATURES [--samplers ddim,dpmpp-2m] [--steps 5,10,20] [--samples 1000] [--plot FILE]

MODEL is what `ddpm sample` takes, FEATURES a file of `ddpm classifier`. `DDPM=PATH` measures another binary. Needs only Python,
and matplotlib for --plot.
"""

import argparse
import json
import os
import subprocess
from pathlib import Path

DDPM = os.environ.get("DDPM", str(Path(__file__).parent.parent / "target/release/ddpm"))
SAMPLERS = "ddpm,ddim,dpmpp-2m,dpmpp-3m,unipc-2,unipc-3,deis-3,heun"
STEPS = "5,8,10,15,20,50,100,1000"
# More steps than a solver of higher order needs, which would take hours.
LAST_OF_HIGHER_ORDER = 100


def distance(a, sampler, steps):
    """Returns the distance and its floor, that of as many real images."""
    # heun evaluates the network twice in each step but the last.
    own = (steps + 1) // 2 if sampler == "heun" else steps
    command = [DDPM, "evaluate", a.model, "--data", a.data, "--features", a.features, "--metrics", "fd", "--json"]
    command += ["--samples", str(a.samples), "--sampler", sampler, "--sampler-steps", str(own)]
    result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["fd"]
    return result["value"], result["floor"]


def plot(path, table, steps, floor):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2))
    for sampler, row in table.items():
        known = [(k, v) for k, v in zip(steps, row) if v is not None]
        axes.plot([k for k, _ in known], [v for _, v in known], marker="o", label=sampler)
    axes.axhline(floor, color="gray", linestyle="--", label="real images")
    axes.set(xscale="log", yscale="log", xlabel="evaluations of the network", ylabel="Fréchet distance")
    axes.set_xticks(steps, [str(k) for k in steps])
    axes.minorticks_off()
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("features")
    parser.add_argument("--data", default="builtin")
    parser.add_argument("--samplers", default=SAMPLERS)
    parser.add_argument("--steps", default=STEPS)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--plot", type=Path)
    a = parser.parse_args()
    steps, table, floor = [int(k) for k in a.steps.split(",")], {}, 0.0
    for sampler in a.samplers.split(","):
        table[sampler] = []
        for k in steps:
            if k > LAST_OF_HIGHER_ORDER and sampler not in ("ddpm", "ddim"):
                table[sampler].append(None)
                continue
            value, floor = distance(a, sampler, k)
            table[sampler].append(value)
    print(f"Fréchet distance of {a.samples} samples; that of as many real images is {floor:.3f}.\n")
    print("| sampler | " + " | ".join(map(str, steps)) + " |\n|" + "---|" * (len(steps) + 1))
    for sampler, row in table.items():
        print(f"| `{sampler}` | " + " | ".join("" if v is None else f"{v:.3f}" for v in row) + " |")
    if a.plot:
        plot(a.plot, table, steps, floor)


if __name__ == "__main__":
    main()
