#!/usr/bin/env python3
"""Measures how the cost of a training step grows with batch size, image size and width: ddpm and PyTorch, both f32.

    growth.py [--batches 1,2,4] [--sides 16,32] [--widths 32,64]

Changes one size of the paper's CIFAR-10 network at a time; ddpm and PyTorch alternate. Prints Markdown tables and writes
bench/results/growth.{md,json} and docs/pictures/growth.png. An exponent k means that time grows as size^k; the operation
count alone would give 1 for the batch and 2 for side and width.
"""

import argparse
import json
import math
import time
from pathlib import Path

import measure

# Size that varies: heading, values, sizes that stay fixed.
SWEEPS = {
    "batch": ("batch (32×32, 128 channels)", [1, 2, 4, 8, 16, 32, 64], {"side": 32, "width": 128}),
    "side": ("side of the image (batch 4, 128 channels)", [16, 32, 64, 128], {"batch": 4, "width": 128}),
    "width": ("channels of the first level (batch 8, 32×32)", [32, 64, 128, 256], {"batch": 8, "side": 32}),
}
RUNS = 3
NOISE = 0.1  # smaller differences between exponents are ignored


def exponent(sizes, values):
    """Returns the slope of the least-squares line through the logarithms."""
    x, y = [[math.log(v) for v in values] for values in (sizes, values)]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y)) / sum((a - mean_x) ** 2 for a in x)


def point(sizes, threads):
    mine = measure.ours(threads=threads, runs=RUNS, **sizes)
    theirs = measure.peer("f32", "step", threads=threads, runs=RUNS, **sizes)
    measure.same_network(mine, theirs)
    return {
        **sizes, "parameters": mine["parameters"],
        "seconds": [mine["train_step_s"], theirs["median_s"]],
        "gigabytes": [(result["peak_bytes"] or math.nan) / 1e9 for result in (mine, theirs)],
        "versions": theirs["versions"],
    }  # fmt: skip


def table(heading, name, points):
    """Returns the table of one sweep, with the exponents and the steps at which ddpm's time grows faster."""
    lines = [f"| {heading} | ddpm, s | PyTorch, s | ratio | exponent, ddpm | PyTorch | ddpm, GB | PyTorch, GB |", "|" + "---|" * 8]
    faster, sizes = [], [p[name] for p in points]
    curves = {kind: [[p[kind][side] for p in points] for side in (0, 1)] for kind in ("seconds", "gigabytes")}
    for i, p in enumerate(points):
        slopes = ["", ""]
        if i > 0:
            local = [exponent(sizes[i - 1 : i + 1], curve[i - 1 : i + 1]) for curve in curves["seconds"]]
            slopes = [f"{slope:.2f}" for slope in local]
            if local[0] > local[1] + NOISE:
                faster.append(f"{sizes[i - 1]} → {sizes[i]}")
        (a, b), (m, n) = p["seconds"], p["gigabytes"]
        lines.append(f"| {p[name]} | {a:#.3g} | {b:#.3g} | {b / a:.2f} | {slopes[0]} | {slopes[1]} | {m:.2f} | {n:.2f} |")
    if len(points) > 1:
        fits = {kind: [f"{exponent(sizes, curve):.2f}" for curve in pair] for kind, pair in curves.items()}
        (a, b), (m, n) = fits["seconds"], fits["gigabytes"]
        lines += ["", f"Exponents over all sizes: time ddpm {a}, PyTorch {b}; memory ddpm {m}, PyTorch {n}. "
                      f"Sizes between which ddpm's time grew faster: {', '.join(faster) or 'none'}."]  # fmt: skip
    return "\n".join(lines)


def plot(results, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator

    kinds = {"seconds": "seconds of a training step", "gigabytes": "peak memory, GB"}
    figure, axes = plt.subplots(2, len(results), figsize=(11, 6.5), sharey="row", squeeze=False)
    for column, (name, points) in enumerate(results.items()):
        for row, (kind, label) in zip(axes, kinds.items()):
            for side, (who, style) in enumerate((("ddpm", "o-"), ("PyTorch", "s-"))):
                row[column].loglog([p[name] for p in points], [p[kind][side] for p in points], style, label=who)
            ticks = [p[name] for p in points]
            row[column].set_xticks(ticks, [str(tick) for tick in ticks])
            # The memory of all sizes lies within a factor of 30, in which powers of ten alone would say nothing.
            row[column].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            row[column].yaxis.set_major_formatter("{x:g}")
            row[column].minorticks_off()
            row[column].grid(alpha=0.3)
            row[column].set_xlabel(SWEEPS[name][0], fontsize=9)
            if column == 0:
                row[column].set_ylabel(label, fontsize=9)
    axes[0][0].legend()
    figure.tight_layout()
    path.mkdir(parents=True, exist_ok=True)
    figure.savefig(path / "growth.png", dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = lambda text: [int(word) for word in text.split(",")]
    for name, plural in (("batch", "batches"), ("side", "sides"), ("width", "widths")):
        default = SWEEPS[name][1]
        parser.add_argument(f"--{plural}", dest=name, type=numbers, default=default, metavar="N,N", help=f"default: {default}")
    parser.add_argument("--threads", type=int, help="number of cores to use (default: all)")
    parser.add_argument("--pictures", type=Path, default=measure.PICTURES, help="folder of growth.png")
    a = parser.parse_args()
    threads = measure.cores(a.threads)
    load, start, results = measure.check_quiet(), time.time(), {}
    for name, (_, _, held) in SWEEPS.items():
        for size in getattr(a, name):
            results.setdefault(name, []).append(found := point({**held, name: size}, threads))
            mine, theirs = found["seconds"]
            measure.say(f"{name} {size}: ddpm {mine:.4g} s, PyTorch {theirs:.4g} s, {(time.time() - start) / 60:.1f} min")
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    facts = f"{measure.machine(threads)}; {time.strftime('%Y-%m-%d')}; {measure.version()}, {versions}. {measure.quiet(load)}"
    text = "\n\n".join([facts, *(table(SWEEPS[name][0], name, points) for name, points in results.items())]) + "\n"
    measure.RESULTS.mkdir(exist_ok=True)
    (measure.RESULTS / "growth.md").write_text(text)
    (measure.RESULTS / "growth.json").write_text(json.dumps({"facts": facts, "sweeps": results}, indent=1) + "\n")
    plot(results, a.pictures)
    print(text)


if __name__ == "__main__":
    main()
