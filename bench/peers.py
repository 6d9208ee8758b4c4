#!/usr/bin/env python3
"""Measures a peer once: diffusers' UNet2DModel in PyTorch or OpenVINO on this CPU. Prints one line of JSON.

    peers.py f32|bf16|f32-compile|bf16-compile|openvino-f32|openvino-bf16 [--what forward|step] [--batch N] …

The network is that of the paper for CIFAR-10; --side and --width change its size. A step is only what training requires:
forward, squared error, backward, clipping and Adam, without the moving average and without drawing noise.
"""

import argparse
import contextlib
import importlib.metadata
import json
import statistics
import time
from pathlib import Path

import diffusers
import torch
from diffusers import UNet2DModel

MODES = ("f32", "bf16", "f32-compile", "bf16-compile", "openvino-f32", "openvino-bf16")
LEVELS = 4


def network(side, width):
    # Attention at 16x16, as in Ho et al. 2020, appendix B.
    attends = [side >> level == 16 for level in range(LEVELS)]
    return UNet2DModel(
        sample_size=side, in_channels=3, out_channels=3, block_out_channels=(width, 2 * width, 2 * width, 2 * width),
        down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        layers_per_block=2, norm_num_groups=32, norm_eps=1e-6, attention_head_dim=None, downsample_padding=0,
        time_embedding_type="positional", freq_shift=1, flip_sin_to_cos=False, act_fn="silu", dropout=0.0,
    )  # fmt: skip


def pytorch(net, mode, what, x, t):
    """Returns the function to time."""
    net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    call = torch.compile(net) if mode.endswith("compile") else net
    cast = (lambda: torch.autocast("cpu", torch.bfloat16)) if mode.startswith("bf16") else contextlib.nullcontext

    @torch.no_grad()
    def forward():
        with cast():
            call(x, t)

    if what == "forward":
        return forward
    target = torch.randn_like(x)
    optimizer = torch.optim.Adam(net.parameters(), 2e-4, fused=True)

    def step():
        optimizer.zero_grad()
        with cast():
            loss = torch.nn.functional.mse_loss(call(x, t).sample, target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()

    return step


def openvino(net, precision, x, t, threads):
    import openvino as ov

    class Output(torch.nn.Module):
        """Returns the network's output tensor instead of a dictionary, which the converter cannot trace."""

        def __init__(self):
            super().__init__()
            self.net = net.eval()

        def forward(self, x, t):
            return self.net(x, t, return_dict=False)[0]

    shapes = [(list(x.shape), ov.Type.f32), (list(t.shape), ov.Type.i64)]
    model = ov.convert_model(Output(), example_input=(x, t), input=shapes)
    hints = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
    request = ov.Core().compile_model(model, "CPU", hints).create_infer_request()
    inputs = [x.numpy(), t.numpy()]
    return lambda: request.infer(inputs)


def seconds(call, warmup, runs):
    times = []
    for _ in range(warmup + runs):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times[warmup:]


def memory(field):
    """Returns bytes from the file that `ddpm bench` also reads: VmHWM is the peak, VmRSS the present use."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return 1024 * int(line.split()[1])
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("--what", choices=("forward", "step"), default="step")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--side", type=int, default=32, help="height and width of the images")
    parser.add_argument("--width", type=int, default=128, help="channels of the first level; the other levels have twice as many")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    a = parser.parse_args()
    if a.mode.startswith("openvino") and a.what != "forward":
        parser.error("OpenVINO does not train")
    imported = memory("VmRSS")
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    versions = {"torch": torch.__version__, "diffusers": diffusers.__version__}
    net = network(a.side, a.width)
    parameters = sum(p.numel() for p in net.parameters())
    x, t = torch.randn(a.batch, 3, a.side, a.side), torch.randint(0, 1000, (a.batch,))
    if a.mode.startswith("openvino"):
        call = openvino(net, a.mode.removeprefix("openvino-"), x, t, a.threads)
        versions["openvino"] = importlib.metadata.version("openvino")
    else:
        call = pytorch(net, a.mode, a.what, x, t)
    times = seconds(call, a.warmup, a.runs)
    print(json.dumps({
        "mode": a.mode, "what": a.what, "batch": a.batch, "side": a.side, "width": a.width, "parameters": parameters,
        "median_s": statistics.median(times), "min_s": min(times), "runs": a.runs, "threads": a.threads,
        "peak_bytes": memory("VmHWM"), "imported_bytes": imported, "versions": versions,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
