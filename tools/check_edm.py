#!/usr/bin/env python3
"""Loads a state dictionary of `ddpm export` with the code of NVlabs/edm, and writes a snapshot that its programs take.

    ddpm export MODEL -o model.pt
    ddpm export MODEL -o model
    EDM=FOLDER python tools/check_edm.py model.pt model [--ddpm PROGRAM] [--snapshot network-snapshot-000000.pkl]

A snapshot is a pickle that contains the source code of its classes, so only NVlabs' own code can write one. With `--ddpm`, the
network's output is compared with that of `ddpm predict`, and the snapshot is imported again and compared.
"""

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

# The preconditioner of each `prediction_type`, besides that of `EDMEulerScheduler`.
PRECONDITIONERS = {"edm_vp": "VPPrecond", "edm_ve": "VEPrecond", "edm_iddpm": "iDDPMPrecond"}


def preconditioned(folder):
    """Returns a network of the original with the arguments of a diffusers folder, and new weights."""
    from training import networks

    config = json.loads((folder / "unet/config.json").read_text())
    scheduler = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    is_edm = scheduler["_class_name"] == "EDMEulerScheduler"
    precond = getattr(networks, "EDMPrecond" if is_edm else PRECONDITIONERS[scheduler["prediction_type"]])
    fixed = dict(model_type=config.pop("_class_name"), img_channels=config.pop("in_channels"))
    config.pop("out_channels")
    return precond(**fixed, **config).eval().requires_grad_(False)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("state", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ddpm", type=Path)
    parser.add_argument("--snapshot", type=Path)
    a = parser.parse_args()
    if "EDM" not in os.environ:
        sys.exit("EDM=FOLDER is missing: a checkout of https://github.com/NVlabs/edm")
    sys.path.insert(0, os.environ["EDM"])

    net = preconditioned(a.folder)
    print(net.model.load_state_dict(torch.load(a.state, map_location="cpu", weights_only=True), strict=True))
    size, channels, classes = net.img_resolution, net.img_channels, net.label_dim
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((3, channels, size, size), generator=generator)
    t, labels = torch.tensor([0.1, 0.5, 1.2]), torch.arange(3) % max(classes, 1)
    rows = torch.nn.functional.one_hot(labels, classes).float() if classes else None
    output = net.model(x, t, rows)
    print(f"{type(net).__name__} of {type(net.model).__name__}, {sum(p.numel() for p in net.parameters()):,} parameters")

    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        snapshot = a.snapshot or place / "network-snapshot-000000.pkl"
        with open(snapshot, "wb") as file:
            pickle.dump(dict(ema=net), file)
        with open(snapshot, "rb") as file:
            again = pickle.load(file)["ema"]
        assert torch.equal(again(x, torch.tensor(2.0), rows), net(x, torch.tensor(2.0), rows))
        print(f"a snapshot of {snapshot.stat().st_size:,} bytes has the same D(x, sigma)")
        if a.ddpm:
            tensors = dict(x=x, t=t) | (dict(labels=labels.float()) if classes else {})
            save_file(tensors, place / "in.safetensors")
            run = lambda *words: subprocess.run([a.ddpm, *words, "--quiet"], check=True)
            run("predict", a.folder, "--input", place / "in.safetensors", "-o", place / "out.safetensors")
            ours = load_file(place / "out.safetensors")["prediction"]
            error = ((ours - output).abs().max() / output.abs().max()).item()
            print(f"output of ddpm: off by {error:.1e} of the largest value")
            run("import", snapshot, "-o", place / "again")
            weights = "unet/diffusion_pytorch_model.safetensors"
            before, after = load_file(a.folder / weights), load_file(place / "again" / weights)
            assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
            print(f"the snapshot was imported with the same {len(after)} tensors")
            if error > 1e-5:
                sys.exit("the outputs differ")


if __name__ == "__main__":
    main()
