#!/usr/bin/env python3
"""Measures whether samples help a classifier that has few images. Prints Markdown for docs/augmentation.md.

    bench/augmentation.py FOLDER [--images 5,20,100,1000] [--seeds 3] [--train-steps 600] [--classifier-steps 1000]

For each number of built-in images per class and each seed: the accuracy on the 1,000 held-out images of a classifier trained on
those images alone, with mirroring, and with 1,000 samples per class of a model that was trained on the same images only. FOLDER
keeps models, samples and results, and a second call continues. Takes hours on two cores. `DDPM=PATH` measures another binary.
"""

import argparse
import json
import os
import statistics
import subprocess
from pathlib import Path

DDPM = os.environ.get("DDPM", str(Path(__file__).parent.parent / "target/release/ddpm"))
# The recipe of the preset `fashion`, with dropout for the few images.
MODEL = ["model.dropout=0.1", "sample.steps=10", "train.samples=0"]
WAYS = ("alone", "mirrored", "with samples")


def keys(*assignments):
    return [word for assignment in assignments for word in ("--set", assignment)]


def ddpm(*arguments):
    return subprocess.run([DDPM, *map(str, arguments)], check=True, stdout=subprocess.PIPE).stdout


def synthetic(a, images, name, seed):
    """Trains a model on the images and samples it."""
    run, folder = a.folder / f"{name}-run", a.folder / f"{name}-samples"
    if not (run / "checkpoints").exists():
        ddpm("train", "-o", run, *images, *keys(*MODEL, f"train.steps={a.train_steps}", f"train.seed={seed}"), "--quiet")
    ddpm("sample", run, "--by-class", "-n", a.samples, "-o", f"{folder}/", "--seed", seed, "--batch-size", 64, "--quiet")
    return folder


def accuracy(a, images, way, name, seed):
    path = a.folder / f"{name}-{way.replace(' ', '-')}.json"
    if not path.exists():
        extra = ["--extra", synthetic(a, images, name, seed)] if way == "with samples" else []
        flip = keys("data.flip=true") if way == "mirrored" else []
        file = a.folder / "classifier.safetensors"
        options = ["--seed", seed, "--steps", a.classifier_steps, "-o", file, "--json"]
        path.write_bytes(ddpm("classifier", *images, *flip, *extra, *options))
    return json.loads(path.read_text())["accuracy"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", default="5,20,100,1000")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=1000, help="samples per class")
    parser.add_argument("--train-steps", type=int, default=600)
    parser.add_argument("--classifier-steps", type=int, default=1000)
    a = parser.parse_args()
    a.folder.mkdir(parents=True, exist_ok=True)
    print("| images per class | " + " | ".join(WAYS) + " |\n|" + "---|" * (1 + len(WAYS)), flush=True)
    for n in map(int, a.images.split(",")):
        cells = []
        for way in WAYS:
            found = []
            for seed in range(a.seeds):
                # Other images for each seed, as long as there are any: the program has 1,000 of each class.
                fold = seed if (seed + 1) * n <= 1000 else 0
                images = keys(f"data.images_per_class={n}", f"data.fold={fold}")
                found.append(accuracy(a, images, way, f"{n}-{seed}", seed))
            spread = statistics.stdev(found) if len(found) > 1 else 0.0
            cells.append(f"{statistics.mean(found):.3f} ± {spread:.3f}")
        print(f"| {n} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
