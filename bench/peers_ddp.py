#!/usr/bin/env python3
"""Measures a training step of PyTorch's DistributedDataParallel on this CPU once. Prints one line of JSON.

    peers_ddp.py [--ranks R] [--threads T] [--micro-batch B] [--passes M] …

Starts R processes of T threads, connected by Gloo over 127.0.0.1. A step is M forward and backward passes of B images, M/R of
them on each rank: gradients accumulate, and the last pass reduces them over the ranks. Then every rank clips and applies Adam.
One rank runs the same step without a process group. Network, optimizer and data are those of `peers.py f32 --what step`.
"""

import argparse
import contextlib
import json
import os
import socket
import statistics

import diffusers
import torch
import torch.distributed
import torch.multiprocessing
from torch.nn.parallel import DistributedDataParallel

import peers

SIDE, WIDTH = 32, 128


def training_step(net, call, batches):
    """Returns the function to time. `call` is `net`, or DDP around it."""
    optimizer = torch.optim.Adam(net.parameters(), 2e-4, fused=True)

    def step():
        optimizer.zero_grad()
        for number, (x, t, target) in enumerate(batches, 1):
            # DDP reduces at the end of every backward pass that is not inside no_sync().
            local = call is not net and number < len(batches)
            with call.no_sync() if local else contextlib.nullcontext():
                loss = torch.nn.functional.mse_loss(call(x, t).sample, target)
                (loss / len(batches)).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()

    return step


def run(rank, a, port):
    """Measures on one rank; rank 0 prints the result."""
    imported = peers.memory("VmRSS")
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    net = call = peers.network(SIDE, WIDTH).to(memory_format=torch.channels_last)
    if a.ranks > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        if "lo" in (name for _, name in socket.if_nameindex()):
            # Otherwise Gloo uses the interface that the host's name resolves to, which may not exist in a container.
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        torch.distributed.init_process_group("gloo", rank=rank, world_size=a.ranks)
        # The gradients are views of the buckets that are sent, which saves a copy.
        call = DistributedDataParallel(net, gradient_as_bucket_view=True)
    torch.manual_seed(1 + rank)
    batches = []
    for _ in range(a.passes // a.ranks):
        x = torch.randn(a.micro_batch, 3, SIDE, SIDE).to(memory_format=torch.channels_last)
        batches.append((x, torch.randint(0, 1000, (a.micro_batch,)), torch.randn_like(x)))
    # All ranks wait for each other in every step, so rank 0's median is that of the group.
    times = peers.seconds(training_step(net, call, batches), a.warmup, a.runs)
    if rank == 0:
        median = statistics.median(times)
        print(json.dumps({
            "ranks": a.ranks, "threads": a.threads, "micro_batch": a.micro_batch, "passes": a.passes,
            "parameters": sum(p.numel() for p in net.parameters()),
            "median_s": median, "min_s": min(times), "images_s": a.passes * a.micro_batch / median, "runs": a.runs,
            "peak_bytes": peers.memory("VmHWM"), "imported_bytes": imported,
            "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
        }), flush=True)  # fmt: skip
    if a.ranks > 1:
        torch.distributed.destroy_process_group()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=1, help="number of processes")
    parser.add_argument("--threads", type=int, default=1, help="threads of each process")
    parser.add_argument("--micro-batch", type=int, default=8, help="images of a pass")
    parser.add_argument("--passes", type=int, default=4, help="passes of a step, over all ranks")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    a = parser.parse_args()
    if a.passes % a.ranks != 0:
        parser.error(f"--passes {a.passes} is not a multiple of --ranks {a.ranks}")
    if a.ranks == 1:
        return run(0, a, None)
    # Read by OpenMP when a process imports torch.
    os.environ["OMP_NUM_THREADS"] = str(a.threads)
    torch.multiprocessing.spawn(run, (a, free_port()), nprocs=a.ranks)


if __name__ == "__main__":
    main()
