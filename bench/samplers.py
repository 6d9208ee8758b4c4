#!/usr/bin/env python3
"""Measures samplers of a model: the Fréchet distance over the number of steps. Prints Markdown for docs/samplers.md.

    bench/samplers.py MODEL FEATURES [--samplers ddim,dpmpp-2m] [--steps 5,10,20] [--samples 1000] [--guidance 1] [--keep FILE]

MODEL is what `ddpm sample` takes, FEATURES a file of `ddpm classifier`. --keep FILE keeps every measurement, so that a second call
continues. `DDPM=PATH` measures another binary. Needs only Python, and matplotlib for --plot FILE.
"""

import argparse
import json
import os
import subprocess
from pathlib import Path

DDPM = os.environ.get("DDPM", str(Path(__file__).parent.parent / "target/release/ddpm"))
SAMPLERS = "dpmpp-2m,unipc-3,heun,ddim,ddpm"
STEPS = "5,8,10,15,20,50,100,1000"
# A solver of higher order changes no more with more steps, which take hours.
LAST_OF_HIGHER_ORDER = 50


def distance(a, sampler, steps):
    """Returns the distance and its floor, that of as many real images."""
    known = json.loads(a.keep.read_text()) if a.keep and a.keep.exists() else {}
    key = f"{a.model} and {a.data}: {a.samples} samples of {sampler}, {steps} evaluations, guidance {a.guidance or 'of the model'}"
    if key not in known:
        known[key] = measure(a, sampler, steps)
        if a.keep:
            a.keep.write_text(json.dumps(known, indent=1))
    return known[key]


def measure(a, sampler, steps):
    # heun evaluates the network twice in each step but the last.
    own = (steps + 1) // 2 if sampler == "heun" else steps
    command = [DDPM, "evaluate", a.model, "--data", a.data, "--features", a.features, "--metrics", "fd", "--json"]
    command += ["--samples", str(a.samples), "--sampler", sampler, "--sampler-steps", str(own)]
    command += ["--guidance", a.guidance] if a.guidance else []
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
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--guidance", help="in place of the model's")
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
