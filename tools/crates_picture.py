"""Draws docs/pictures/crates.svg: the crates of the workspace and their dependencies, from `cargo metadata`.

    python3 tools/crates_picture.py
"""

import json
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Each row of the picture, from the bottom; a crate depends on crates of lower rows or to its left only.
ROWS = [
    ["diffusion", "random", "kernels", "mpi", "files", "resize"],
    ["data", "weights"],
    ["unet"],
    ["model"],
    ["sample"],
    ["evaluate"],
    ["train"],
    ["ddpm"],
    ["studio"],
    ["cli"],
]
SAYS = {
    "diffusion": "the mathematics, f64",
    "random": "(seed, stream, index, step)",
    "kernels": "CPU kernels",
    "mpi": "processes, division of work",
    "files": "opening, memory budget",
    "resize": "resizing of images",
    "data": "image sets",
    "weights": "checkpoint files",
    "unet": "the U-Net on Burn",
    "model": "Backbone, Denoiser, guidance, Pipeline",
    "sample": "samplers, generation, editing, output files",
    "evaluate": "bits/dim, sample quality",
    "train": "configuration, trainer, observers",
    "ddpm": "the facade",
    "studio": "the page in the browser",
    "cli": "the program",
}
WIDTH, HEIGHT, GAP, ROW = 176, 52, 16, 92


def dependencies():
    command = ["cargo", "metadata", "--format-version", "1", "--no-deps", "--offline"]
    packages = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)["packages"]
    short = {p["name"]: p["name"].removeprefix("ddpm-") for p in packages}
    found = {}
    for package in packages:
        normal = [d["name"] for d in package["dependencies"] if d["kind"] is None and d["name"] in short]
        found[short[package["name"]]] = {short[name] for name in normal}
    return found


def direct(crate, all_of):
    """Dependencies that no other dependency implies."""
    def reach(name):
        return set().union(*({d} | reach(d) for d in all_of[name])) if all_of[name] else set()

    implied = set().union(*(reach(d) for d in all_of[crate])) if all_of[crate] else set()
    return all_of[crate] - implied


def main():
    all_of = dependencies()
    assert set(all_of) == set(SAYS), set(all_of) ^ set(SAYS)
    most = max(map(len, ROWS))
    total_width = most * WIDTH + (most + 1) * GAP
    total_height = len(ROWS) * ROW + GAP
    boxes = {}
    for row, crates in enumerate(ROWS):
        width = WIDTH if len(crates) > 1 else 2 * WIDTH
        left = (total_width - len(crates) * width - (len(crates) - 1) * GAP) / 2
        top = total_height - (row + 1) * ROW + (ROW - HEIGHT) / 2
        for i, crate in enumerate(crates):
            boxes[crate] = (left + i * (width + GAP), top, width)
    lines = []
    for crate in all_of:
        x, y, w = boxes[crate]
        for to in sorted(direct(crate, all_of)):
            tx, ty, tw = boxes[to]
            assert ty > y, f"{crate} depends on {to}, which is not below it"
            lines.append(f'<path d="M{x + w / 2:.0f} {y + HEIGHT} C{x + w / 2:.0f} {y + HEIGHT + 24} '
                         f'{tx + tw / 2:.0f} {ty - 24} {tx + tw / 2:.0f} {ty - 4}" marker-end="url(#arrow)"/>')
    rects = []
    for crate, (x, y, w) in boxes.items():
        framework = ROWS[0].count(crate) == 0
        rects.append(f'<rect x="{x:.0f}" y="{y:.0f}" width="{w}" height="{HEIGHT}" rx="6" '
                     f'fill="{"#dbeafe" if framework else "#dcfce7"}"/>')
        middle = x + w / 2
        rects.append(f'<text x="{middle:.0f}" y="{y + 21:.0f}" class="name">{crate}</text>')
        rects.append(f'<text x="{middle:.0f}" y="{y + 39:.0f}">{SAYS[crate]}</text>')
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total_width} {total_height}" '
        f'width="{total_width}" font-family="sans-serif" font-size="11" text-anchor="middle">\n'
        '<style>.name{font-weight:bold;font-size:14px}path{fill:none;stroke:#64748b;stroke-width:1.2}'
        'rect{stroke:#334155;stroke-width:1}</style>\n'
        f'<rect width="{total_width}" height="{total_height}" fill="white" stroke="none"/>\n'
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" '
        'orient="auto"><path d="M0 0L8 4L0 8z" style="fill:#64748b;stroke:none"/></marker></defs>\n'
        + "\n".join(lines + rects) + "\n</svg>\n"
    )
    (ROOT / "docs/pictures/crates.svg").write_text(svg)


if __name__ == "__main__":
    main()
