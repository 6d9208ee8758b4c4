#!/usr/bin/env python3
"""Compares `ddpm evaluate` with pytorch-fid and torch-fidelity on the same images and the same weights.

    python tools/check_quality.py [--ddpm target/release/ddpm] [-n 256] [--weights pt_inception-2015-12-05-6726825d.pth]

Without --weights, weights are generated from the parameters' names. Exits with 1 if a figure differs by more than 1e-3
(relative).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from goldens_quality import images, inception, inception_weights, pytorch_fid
from safetensors.torch import save_file
from torch_fidelity.metric_isc import isc_features_to_metric


def gaussian(features):
    return features.mean(axis=0), np.cov(features, rowvar=False)


def in_batches(network, x, batch=16):
    with torch.no_grad():
        return [network(part) for part in x.split(batch)]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ddpm", default="target/release/ddpm")
    parser.add_argument("-n", type=int, default=256)
    parser.add_argument("--weights")
    options = parser.parse_args()
    state = torch.load(options.weights, weights_only=True) if options.weights else inception_weights()
    samples, real = images(options.n, 32, 32, 50), images(options.n, 32, 32, 60) // 2 + 60
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        first, second = inception(state, folder / "weights.pth")
        second = second.float()
        second.feature_extractor_internal_dtype = torch.float32
        save_file({key: value.float() for key, value in state.items() if value.ndim}, folder / "weights.safetensors")
        for name, x in (("samples", samples), ("real", real)):
            np.savez(folder / f"{name}.npz", arr_0=x.permute(0, 2, 3, 1).numpy())

        def ddpm(resize, metrics):
            command = [options.ddpm, "evaluate", folder / "samples.npz", "--data", folder / "real.npz", "--resize", resize]
            command += ["--features", folder / "weights.safetensors", "--metrics", metrics, "--json", "--quiet"]
            command += ["--save-stats", folder / f"{resize}.npz"]
            start = time.time()
            report = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
            return report, np.load(folder / f"{resize}.npz"), 2 * options.n / (time.time() - start)

        start = time.time()
        pooled = [torch.cat([y[0] for y in in_batches(first, x.float() / 255)]).flatten(1).double().numpy() for x in (samples, real)]
        speed = 2 * options.n / (time.time() - start)
        fid = pytorch_fid.fid_score.calculate_frechet_distance(*gaussian(pooled[0]), *gaussian(pooled[1]))
        ours, stats, our_speed = ddpm("pytorch-fid", "fid")
        mean, covariance = gaussian(pooled[1])
        rows = [
            ("pytorch-fid: FID", ours["fid"]["value"], fid),
            ("pytorch-fid: |mu|", np.linalg.norm(stats["mu"]), np.linalg.norm(mean)),
            ("pytorch-fid: |sigma|", np.linalg.norm(stats["sigma"]), np.linalg.norm(covariance)),
        ]
        print(f"images/s: ddpm {our_speed:.1f} including start and statistics, pytorch-fid's network alone {speed:.1f}")
        both = [[torch.cat(y) for y in zip(*in_batches(second, x))] for x in (samples, real)]
        pooled = [y[0].double().numpy() for y in both]
        fid = pytorch_fid.fid_score.calculate_frechet_distance(*gaussian(pooled[0]), *gaussian(pooled[1]))
        score = isc_features_to_metric(both[0][1], splits=10, shuffle=False)["inception_score_mean"]
        ours, *_ = ddpm("tensorflow1", "fid,is")
        rows += [("torch-fidelity: FID", ours["fid"]["value"], fid), ("torch-fidelity: IS", ours["is"]["value"], score)]
    worst = 0
    for name, got, expected in rows:
        difference = abs(got / expected - 1)
        worst = max(worst, difference)
        print(f"{name:22} ddpm {got:.7g}, Python {expected:.7g}, relative difference {difference:.1e}")
    return int(worst > 1e-3)


if __name__ == "__main__":
    sys.exit(main())
