#!/usr/bin/env python3
"""Compares ddpm with the original PyTorch code of each network that it took from another code base, alternating on the same cores.

    families.py [NAME ...] [--rounds 2]        called by bench/run families, which installs and builds

NAME is lucidrains, ddpmpp, ncsnpp, adm or hmdolatabadi (default: all whose code is there). `lucidrains` needs the package
denoising-diffusion-pytorch; the others need checkouts of NVlabs/edm (`EDM=FOLDER`) and of hmdolatabadi/denoising_diffusion
(`HMDOLATABADI=FOLDER`). Prints a Markdown table of forward passes and training steps of 16 images of 32x32.
"""

import argparse
import json
import os
import statistics
import sys
import time

import measure

BATCH, SIDE = 16, 32
SONG = dict(model_channels=128, channel_mult=[2, 2, 2], num_blocks=4, attn_resolutions=[16], dropout=0.0)
NCSN = SONG | dict(
    embedding_type="fourier", channel_mult_noise=2, encoder_type="residual", resample_filter=[1, 3, 3, 1]
)
ADM = dict(model_channels=64, channel_mult=[1, 2, 3, 4], num_blocks=2, attn_resolutions=[16, 8], dropout=0.0)
# name: (heading, our class, its arguments, variable with the folder of the original)
NETWORKS = {
    "lucidrains": ("lucidrains' `Unet`", "LucidrainsUnet", dict(dim=64, dim_mults=[1, 2, 4, 8]), None),
    "ddpmpp": ("`SongUNet`, DDPM++", "SongUNet", SONG, "EDM"),
    "ncsnpp": ("`SongUNet`, NCSN++", "SongUNet", NCSN, "EDM"),
    "adm": ("`DhariwalUNet`", "DhariwalUNet", ADM, "EDM"),
    "hmdolatabadi": (
        "hmdolatabadi's `UNet`",
        "HmdolatabadiUNet",
        dict(channel=128, channel_multiplier=[1, 2, 2, 2], n_res_blocks=2, attn_strides=[16], dropout=0.0, fold=1),
        "HMDOLATABADI",
    ),
}


def ours(name, threads, runs):
    _, network, arguments, _ = NETWORKS[name]
    settings = {"model.class": network} | {f"model.{key}": json.dumps(value) for key, value in arguments.items()}
    sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    command = [measure.DDPM, "bench", "--preset", "cifar10", "--device", "cpu", "--batch-size", BATCH, "--threads", threads]
    return measure.child([*command, "--runs", runs, *sets, "--json"], threads)


def original(name):
    """Returns the original's network, as a function of images and noise levels, and its parameters."""
    import torch

    _, network, arguments, folder = NETWORKS[name]
    if folder:
        sys.path.insert(0, os.environ[folder])
    if name == "lucidrains":
        from denoising_diffusion_pytorch import Unet

        net = Unet(**arguments)
        return net, lambda x: net(x, torch.full((len(x),), 500))
    if name == "hmdolatabadi":
        from lib.model import UNet

        net = UNet(in_channel=3, **arguments)
        return net, lambda x: net(x, torch.full((len(x),), 500))
    from training import networks

    net = getattr(networks, network)(img_resolution=SIDE, in_channels=3, out_channels=3, **arguments)
    return net, lambda x: net(x, torch.full((len(x),), 0.25), None)


def peer(name, runs):
    """Measures the original once: eager f32, channels last, fused Adam. Prints one line of JSON."""
    import torch

    torch.manual_seed(0)
    net, call = original(name)
    net = net.to(memory_format=torch.channels_last)
    x = torch.randn(BATCH, 3, SIDE, SIDE).to(memory_format=torch.channels_last)
    target = torch.randn_like(x)
    optimizer = torch.optim.Adam(net.parameters(), 2e-4, fused=True)

    @torch.no_grad()
    def forward():
        call(x)

    def step():
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(call(x), target).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()

    def median(run):
        times = []
        for _ in range(2 + runs):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        return statistics.median(times[2:])

    count = sum(p.numel() for p in net.parameters())
    # Random frequencies are a buffer there and a parameter here.
    count += sum(b.numel() for n, b in net.named_buffers() if n.endswith("freqs"))
    print(json.dumps({"forward_s": median(forward), "train_step_s": median(step), "parameters": count, "torch": torch.__version__}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*NETWORKS, []])
    parser.add_argument("--rounds", type=int, default=2, help="number of times that every measurement is repeated")
    parser.add_argument("--runs", type=int, default=3, help="repetitions within a process, after two to warm up")
    parser.add_argument("--threads", type=int, help="number of cores to use (default: all)")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.peer:
        return peer(a.peer, a.runs)
    names = a.names or [name for name, (*_, folder) in NETWORKS.items() if not folder or folder in os.environ]
    threads = measure.cores(a.threads)
    load = measure.check_quiet()
    rows = []
    for name in names:
        found = {"ours": [], "theirs": []}
        for _ in range(a.rounds):
            found["ours"].append(ours(name, threads, a.runs))
            command = [sys.executable, __file__, "--peer", name, "--runs", a.runs]
            found["theirs"].append(measure.child(command, threads))
            measure.same_network(found["ours"][-1], found["theirs"][-1])
            measure.say(f"  {name}: {[{k: round(r[-1][k], 3) for k in ('forward_s', 'train_step_s')} for r in found.values()]}")
        cells = [NETWORKS[name][0], f"{found['ours'][0]['parameters']:,}"]
        for key in ("forward_s", "train_step_s"):
            mine, theirs = (statistics.median(result[key] for result in results) for results in found.values())
            cells += [f"{mine:#.3g}", f"{theirs:#.3g}", f"**{theirs / mine:.2f}**"]
        rows.append(cells)
    heading = ["network", "parameters", "forward, s", "PyTorch", "ratio", "training step, s", "PyTorch", "ratio"]
    print("\n".join(f"| {' | '.join(row)} |" for row in [heading, ["---"] * len(heading), *rows]))
    print(f"\n{measure.machine(threads)}; {measure.version()}. {measure.quiet(load)}")


if __name__ == "__main__":
    main()
