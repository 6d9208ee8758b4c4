#!/usr/bin/env python3
"""Loads a checkpoint of `ddpm` in diffusers and compares results. For maintainers; see tools/README.md.

    python tools/check_pipeline.py CHECKPOINT_DIR [--ddpm target/release/ddpm] [--run RUN_DIR]

Loads CHECKPOINT_DIR with DDPMPipeline.from_pretrained. With --ddpm, also compares `ddpm predict` and a 50-step DDIM
`ddpm sample` with diffusers' results from the same inputs. With --run, checks that TensorBoard reads the run's logs. Exits
with 1 if a result differs by more than rounding in float32 explains.
"""

import argparse
import copy
import subprocess
import sys
import tempfile
from pathlib import Path

import diffusers
import torch
from diffusers import DDIMScheduler, DDPMPipeline
from safetensors.torch import load_file, save_file

torch.set_num_threads(1)
diffusers.utils.logging.set_verbosity_error()
failures = []


def compare(what, got, single, exact, floor):
    """Compares ddpm's result, and diffusers' in float32, with diffusers' in float64."""
    if got.shape != exact.shape:
        failures.append(what)
        print(f"{what}: FAILED, shape is {tuple(got.shape)}, expected {tuple(exact.shape)}")
        return
    scale = exact.abs().max().item()
    worst = lambda v: (v.double() - exact).abs().max().item()
    ours, theirs = worst(got), worst(single)
    limit = max(floor * scale, 10 * theirs)
    verdict = "ok" if ours <= limit else "FAILED"  # a NaN fails
    if verdict != "ok":
        failures.append(what)
    print(
        f"{what}: {verdict}; largest value {scale:.3g}; error of ddpm {ours:.1e} (relative {ours / scale:.1e}), "
        f"of diffusers in float32 {theirs:.1e} (relative {theirs / scale:.1e}), allowed {limit:.1e}"
    )


@torch.no_grad()
def ddim(unet, config, noise, steps=50):
    scheduler = DDIMScheduler.from_config(config)
    scheduler.set_timesteps(steps)
    x = noise.to(unet.dtype)
    for t in scheduler.timesteps:
        prediction = unet(x, t).sample[:, : x.shape[1]]  # with a learned variance, DDIM uses only the first half
        x = scheduler.step(prediction, t, x).prev_sample
    return x


def execute(binary, *arguments):
    command = [binary, *map(str, arguments)]
    print("$", *command)
    subprocess.run(command, check=True)


def check_binary(binary, checkpoint, pipeline):
    unet = pipeline.unet.eval()
    exact_unet = copy.deepcopy(unet).double()
    c = unet.config
    size = c.sample_size if isinstance(c.sample_size, (list, tuple)) else (c.sample_size, c.sample_size)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((2, c.in_channels, *size), generator=generator)
    inputs = {"x": noise, "t": torch.tensor([10, pipeline.scheduler.config.num_train_timesteps - 1])}
    if c.num_class_embeds is not None and c.class_embed_type is None:
        inputs["labels"] = torch.randint(c.num_class_embeds, (2,), generator=generator)
    with torch.no_grad():
        predict = lambda net: net(noise.to(net.dtype), inputs["t"], class_labels=inputs.get("labels")).sample
        single, exact = predict(unet), predict(exact_unet)

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        save_file(inputs, folder / "in.safetensors")
        execute(binary, "predict", checkpoint, "--input", folder / "in.safetensors", "-o", folder / "out.safetensors")
        compare("predict", load_file(folder / "out.safetensors")["prediction"], single, exact, 1e-5)

        if unet.class_embedding is not None:
            print("sample: skipped, the network is class-conditional")
            return
        save_file({"noise": noise}, folder / "noise.safetensors")
        arguments = "sample", checkpoint, "-n", 2, "--sampler", "ddim", "--steps", 50
        execute(binary, *arguments, "--init", folder / "noise.safetensors", "-o", folder / "samples.safetensors")
        config = pipeline.scheduler.config
        single, exact = ddim(unet, config, noise), ddim(exact_unet, config, noise)
        compare("sample (DDIM, 50 steps)", load_file(folder / "samples.safetensors")["samples"], single, exact, 1e-3)


def check_logs(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    files = sorted(run.glob("events.out.tfevents.*"))
    if not files:
        failures.append("logs")
        print(f"logs: FAILED, no events.out.tfevents.* in {run}")
    for file in files:
        events = EventAccumulator(str(file), size_guidance={"scalars": 0, "images": 0}).Reload()
        tags = events.Tags()
        if not tags["scalars"]:
            failures.append("logs")
        print(f"logs: {file.name}: {'ok' if tags['scalars'] else 'FAILED, no scalars'}")
        for tag in tags["scalars"]:
            points = events.Scalars(tag)
            first, last = points[0], points[-1]
            print(f"  {tag}: {len(points)} points, steps {first.step} to {last.step}, last {last.value:.6g}")
        for tag in tags["images"]:
            image = events.Images(tag)[-1]
            print(f"  {tag}: images, last at step {image.step}, {image.width}x{image.height}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--ddpm", help="the ddpm binary")
    parser.add_argument("--run", type=Path, help="a run folder with TensorBoard logs")
    args = parser.parse_args()

    pipeline = DDPMPipeline.from_pretrained(args.checkpoint)
    # from_pretrained only warns about missing weights and initializes them randomly. Load again for its report.
    _, info = type(pipeline.unet).from_pretrained(args.checkpoint, subfolder="unet", output_loading_info=True)
    info = {k: v for k, v in info.items() if v}
    if info:
        failures.append("load")
    count = sum(p.numel() for p in pipeline.unet.parameters())
    print(f"load: {f'FAILED, {info}' if info else 'ok'}; {count} parameters, {pipeline.scheduler.__class__.__name__}")
    if args.ddpm:
        check_binary(args.ddpm, args.checkpoint, pipeline)
    if args.run:
        check_logs(args.run)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
