#!/usr/bin/env python3
"""Compares ddpm with PyTorch and OpenVINO on the paper's CIFAR-10 network, alternating on the same cores.

    compare.py [--rounds 3] [--compile] [--quick]      called by bench/run, which installs and builds

Prints Markdown tables and writes them to bench/results/compare.md, and every measurement to compare.json.
"""

import argparse
import json
import statistics
import time

import measure

PEERS = {
    "f32": "PyTorch eager f32, channels_last",
    "bf16": "PyTorch eager bf16 autocast",
    "f32-compile": "PyTorch `torch.compile` f32",
    "bf16-compile": "PyTorch `torch.compile` bf16",
    "openvino-f32": "OpenVINO f32",
    "openvino-bf16": "OpenVINO bf16",
}
# Column: heading, goal, unit.
COLUMNS = {
    "forward1": ("forward, batch 1", 0.040, "s"),
    "forward16": ("forward, batch 16", 0.40, "s"),
    "step16": ("training step, batch 16", 1.6, "s"),
    "peak16": ("peak memory of training", 1.6, "GB"),
}
# Label, column, peers of which the fastest counts, goal.
RATIOS = [
    ("training, PyTorch eager f32 ÷ ddpm", "step16", ["f32"], 2.0),
    ("training, PyTorch's best mode ÷ ddpm", "step16", ["f32", "bf16", "f32-compile", "bf16-compile"], 1.15),
    ("forward at batch 16, PyTorch f32 ÷ ddpm", "forward16", ["f32"], 2.3),
    ("forward at batch 16, OpenVINO bf16 ÷ ddpm", "forward16", ["openvino-bf16"], 1.2),
    ("forward at batch 1, OpenVINO f32 ÷ ddpm", "forward1", ["openvino-f32"], 1.5),
]
RUNS = {1: 20, 16: 5}  # repetitions within a process, by batch


class Bench:
    def __init__(self, threads):
        self.threads, self.figures, self.raw, self.versions = threads, {}, [], {}
        self.reference = None

    def measure(self, who, what, batch):
        """Runs one process and stores its figures by `who` and column."""
        if who == "ours":
            result = measure.ours(batch, self.threads, RUNS[batch])
            found = {f"forward{batch}": result["forward_s"], f"step{batch}": result["train_step_s"]}
            self.reference = result
        else:
            result = measure.peer(who, what, batch, self.threads, RUNS[batch])
            measure.same_network(self.reference, result)
            found = {f"{what}{batch}": result["median_s"]}
            self.versions |= result["versions"]
        if (who == "ours" or what == "step") and result["peak_bytes"]:
            found[f"peak{batch}"] = result["peak_bytes"] / 1e9
        self.raw.append({"who": who, **result})
        for column, value in found.items():
            self.figures.setdefault((who, column), []).append(value)
        measure.say(f"  {who:13} " + "  ".join(f"{c} {v:.4g} {c.startswith('peak') and 'GB' or 's'}" for c, v in found.items()))

    def median(self, who, column):
        values = self.figures.get((who, column))
        return statistics.median(values) if values else None

    def spread(self):
        """Returns the largest ratio between rounds of one measurement."""
        times = [v for (_, column), v in self.figures.items() if not column.startswith("peak")]
        return max(max(v) / min(v) for v in times)


def table(bench, modes):
    def cell(who, column):
        value, mine = bench.median(who, column), bench.median("ours", column)
        if value is None:
            return "–"
        figure = f"{value:#.3g}".rstrip(".")
        return f"**{figure}**" if who == "ours" else f"{figure} ({value / mine:.2f}×)"

    rows = [["", *(f"{heading}, {unit}" for heading, _, unit in COLUMNS.values())], ["---"] * (1 + len(COLUMNS))]
    rows.append(["**ddpm f32**", *(cell("ours", column) for column in COLUMNS)])
    rows += [[PEERS[mode], *(cell(mode, column) for column in COLUMNS)] for mode in modes]
    rows.append(["goal", *(f"≤ {goal:g}: {verdict((bench.median('ours', c) or 1e9) <= goal)}" for c, (_, goal, _) in COLUMNS.items())])
    ratios = [["ratio", "goal", "reached"], ["---"] * 3]
    for text, column, candidates, goal in RATIOS:
        ratio = min(bench.median(mode, column) for mode in candidates if mode in modes) / bench.median("ours", column)
        ratios.append([text, f"≥ {goal:g}", f"{ratio:.2f}: {verdict(ratio >= goal)}"])
    return "\n\n".join("\n".join(f"| {' | '.join(row)} |" for row in rows) for rows in (rows, ratios))


def operations(account):
    """Tables of the time by operation of ddpm's training step and forward pass, from the last process at batch 16."""
    lines = [
        f"Time by operation at batch 16. A plain matrix product reaches {account['product_gflops']:.0f} GFLOP/s here, a plain copy "
        f"{account['copy_gbs']:.0f} GB/s. Convolutions are counted with the operations of the direct algorithm, so Winograd's can exceed 100 %."
    ]
    for title, key in (("training step", "train_step"), ("forward pass", "forward")):
        rows = [[title, "calls", "ms", "share", "GFLOP/s", "GB/s", "of the limit"], ["---"] * 7]
        for part in account[key]:
            if part["share"] < 0.002:
                continue
            limits = [f"{part['gflops']:.0f}", f"{part['gbs']:.1f}", f"{100 * part['of_limit']:.0f} %"]
            figures = [f"{part['calls']:.0f}", f"{1e3 * part['seconds']:.1f}", f"{100 * part['share']:.1f} %"]
            rows.append([part["operation"], *figures, *(limits if part["of_limit"] else ["", "", ""])])
        lines.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
    return "\n\n".join(lines)


def verdict(reached):
    return "yes" if reached else "**no**"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="number of times that every measurement is repeated")
    parser.add_argument("--threads", type=int, help="number of cores to use (default: all)")
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile, which takes minutes to warm up")
    parser.add_argument("--quick", action="store_true", help="one round, without --compile")
    a = parser.parse_args()
    if a.quick:
        a.rounds, a.compile = 1, False
    modes = [mode for mode in PEERS if a.compile or "compile" not in mode]
    bench = Bench(measure.cores(a.threads))
    load, start = measure.check_quiet(), time.time()
    for number in range(a.rounds):
        for mode in modes:
            measure.say(f"round {number + 1} of {a.rounds}, {mode}, {(time.time() - start) / 60:.1f} min")
            for batch in (1, 16):
                bench.measure("ours", None, batch)
                bench.measure(mode, "forward", batch)
            if not mode.startswith("openvino"):
                bench.measure("ours", None, 16)
                bench.measure(mode, "step", 16)
    facts = [
        f"{measure.machine(bench.threads)}; {time.strftime('%Y-%m-%d')}.",
        f"{measure.version()}; " + ", ".join(f"{name} {number}" for name, number in bench.versions.items()) + ".",
        f"{bench.reference['parameters']:,} parameters, dropout 0. Median over {a.rounds} round{'s' * (a.rounds > 1)} of the median of each process; ddpm and peers alternate. "
        f"Rounds differed by up to {100 * (bench.spread() - 1):.0f} %. {measure.quiet(load)}",
    ]
    if not a.compile:
        facts.append("Without `torch.compile`: PyTorch's best mode is the faster of its eager modes.")
    imported = max(result.get("imported_bytes") or 0 for result in bench.raw)
    if imported:
        facts.append(f"PyTorch's peak memory includes {imported / 1e9:.2f} GB that importing it takes.")
    text = "\n".join(facts) + "\n\n" + table(bench, modes) + "\n"
    if bench.reference.get("account"):
        text += "\n" + operations(bench.reference["account"]) + "\n"
    measure.RESULTS.mkdir(exist_ok=True)
    (measure.RESULTS / "compare.md").write_text(text)
    (measure.RESULTS / "compare.json").write_text(json.dumps({"facts": facts, "measurements": bench.raw}, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    main()
