#!/usr/bin/env python3
"""Trains on Fashion-MNIST with ddpm and then with PyTorch for the same time, and compares the results.

    race.py FOLDER [--minutes 10] [--seed 0]      FOLDER contains {train,t10k}-images-idx3-ubyte.gz

Network (1,112,801 parameters), batch size, learning rate, warm-up, clipping, moving average and loss are those of the preset
`fashion-ho`. PyTorch runs in the faster of f32 and bf16, which is measured first. PyTorch's clock starts at its first step,
ddpm's with the process. The same PyTorch code then scores and samples both averaged networks.
Prints a table and writes bench/results/race.{md,json} and docs/pictures/race-{ddpm,pytorch}.png.
"""

import argparse
import contextlib
import copy
import gzip
import json
import shutil
import signal
import statistics
import subprocess
import time
from pathlib import Path

import diffusers
import measure
import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from PIL import Image

BATCH, RATE, WARMUP, CLIP, DECAY = 64, 1e-3, 200, 1.0, 0.999


def images(path):
    """Reads u8 [N,1,28,28] as f32 in [-1,1], padded with black to 32x32."""
    pixels = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    return torch.nn.functional.pad(torch.from_numpy(pixels.copy()).float() / 127.5 - 1, (2, 2, 2, 2), value=-1.0)


def network():
    return UNet2DModel(
        sample_size=32, in_channels=1, out_channels=1, block_out_channels=(32, 64, 64), layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        norm_num_groups=16, norm_eps=1e-6, attention_head_dim=None, downsample_padding=0, freq_shift=1, flip_sin_to_cos=False,
    ).to(memory_format=torch.channels_last)  # fmt: skip


class PyTorch:
    def __init__(self, mode, train, seed):
        torch.manual_seed(seed)
        self.cast = (lambda: torch.autocast("cpu", torch.bfloat16)) if mode == "bf16" else contextlib.nullcontext
        self.train, self.net, self.steps, self.scheduler = train, network(), 0, DDPMScheduler()
        self.average = copy.deepcopy(self.net).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.net.parameters(), RATE, fused=True)

    def step(self):
        x0 = self.train[torch.randint(len(self.train), (BATCH,))]
        t, noise = torch.randint(1000, (BATCH,)), torch.randn_like(x0)
        x = self.scheduler.add_noise(x0, noise, t)
        with self.cast():
            loss = torch.nn.functional.mse_loss(self.net(x, t).sample, noise)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), CLIP)
        self.optimizer.param_groups[0]["lr"] = RATE * min(1, (self.steps + 1) / WARMUP)
        self.optimizer.step()
        decay = min(DECAY, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.net.parameters()), 1 - decay)
        self.steps += 1


def fastest_mode(train):
    """Returns the mode with the fastest step, and the time of a step in each mode."""

    def median(mode):
        run, times = PyTorch(mode, train, 0), []
        for _ in range(12):
            start = time.perf_counter()
            run.step()
            times.append(time.perf_counter() - start)
        return statistics.median(times[2:])

    times = {mode: median(mode) for mode in ("f32", "bf16")}
    return min(times, key=times.get), times


def race_pytorch(mode, train, seconds, seed):
    run, start = PyTorch(mode, train, seed), time.monotonic()
    while time.monotonic() - start < seconds:
        run.step()
    return run.average.eval(), run.steps, time.monotonic() - start


def race_ours(folder, seconds, threads, seed):
    """Runs `ddpm train`, and stops it with SIGTERM: it finishes its step, saves a checkpoint and prints a report."""
    out = measure.RESULTS / "race"
    shutil.rmtree(out, ignore_errors=True)
    settings = ["train.steps=1000000000", "train.sample_every=0", "train.checkpoint_every=0", "train.samples=0"]
    command = [measure.DDPM, "train", "--preset", "fashion-ho", "--data", folder, "--out", out, "--seed", seed, "--device", "cpu"]
    command += ["--threads", threads, "--json", "--quiet", *(word for setting in settings for word in ("--set", setting))]
    start = time.monotonic()
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, text=True)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"ddpm train failed with exit status {process.returncode}")
    done = json.loads(output)
    return UNet2DModel.from_pretrained(Path(done["checkpoint"]) / "unet").eval(), done["step"], time.monotonic() - start


@torch.no_grad()
def held_out(net, test):
    """Returns the mean squared error of epsilon on test images; t and noise are the same for every network."""
    rng, scheduler, errors = torch.Generator().manual_seed(1), DDPMScheduler(), []
    for x0 in test.split(250):
        t, noise = torch.randint(1000, (len(x0),), generator=rng), torch.randn(x0.shape, generator=rng)
        errors.append(((net(scheduler.add_noise(x0, noise, t), t).sample - noise) ** 2).mean().item())
    return statistics.mean(errors)


@torch.no_grad()
def grid(net, path):
    """Writes 64 samples of DDIM with 50 steps, from the same noise for every network."""
    x, scheduler = torch.randn(64, 1, 32, 32, generator=torch.Generator().manual_seed(2)), DDIMScheduler()
    scheduler.set_timesteps(50)
    for t in scheduler.timesteps:
        x = scheduler.step(net(x, t).sample, t, x).prev_sample
    pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().byte().numpy().reshape(8, 8, 32, 32)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.transpose(0, 2, 1, 3).reshape(256, 256)).resize((512, 512), Image.Resampling.NEAREST).save(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="number of cores to use (default: all)")
    parser.add_argument("--pictures", type=Path, default=measure.PICTURES, help="folder of the sample grids")
    a = parser.parse_args()
    threads = measure.cores(a.threads)
    torch.set_num_threads(threads)
    train, test = (images(a.folder / f"{split}-images-idx3-ubyte.gz") for split in ("train", "t10k"))
    load = measure.check_quiet()
    mode, times = fastest_mode(train)
    measure.say(f"PyTorch: {', '.join(f'{name} {BATCH / s:.0f} images/s' for name, s in times.items())}; using {mode}")
    results = {}
    for name, file, run in (
        ("**ddpm f32**", "race-ddpm.png", lambda: race_ours(a.folder.resolve(), 60 * a.minutes, threads, a.seed)),
        (f"PyTorch {mode}", "race-pytorch.png", lambda: race_pytorch(mode, train, 60 * a.minutes, a.seed)),
    ):
        measure.others.append(measure.busy())
        net, steps, seconds = run()
        parameters = sum(p.numel() for p in net.parameters())
        results[name] = {"steps": steps, "images": steps * BATCH, "seconds": seconds, "parameters": parameters}
        results[name] |= {"images_s": steps * BATCH / seconds, "held_out_mse": held_out(net, test[:2000])}
        grid(net, a.pictures / file)
        measure.say(f"{name}: {results[name]}")
    first, second = results.values()
    measure.same_network(first, second)
    facts = (
        f"{measure.machine(threads)}; {time.strftime('%Y-%m-%d')}; {measure.version()}, torch {torch.__version__}, diffusers {diffusers.__version__}. "
        f"{a.minutes:g} minutes each, {first['parameters']:,} parameters. {measure.quiet(load)}"
    )
    rows = [f"| {n} | {r['images_s']:.0f} | {r['images']:,} | {r['held_out_mse']:.4f} |" for n, r in results.items()]
    text = "\n".join([facts, "", "| | images/s | images seen | held-out ε-MSE |", "|---|---|---|---|", *rows]) + "\n"
    (measure.RESULTS / "race.md").write_text(text)
    (measure.RESULTS / "race.json").write_text(json.dumps({"facts": facts, "modes_s": times, "results": results}, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    main()
