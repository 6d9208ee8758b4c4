"""Shared by the benchmarks. A measurement is one new process, of ddpm or of a peer, on the same cores."""

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

BENCH = Path(__file__).resolve().parent
RESULTS = BENCH / "results"
PICTURES = BENCH.parent / "docs" / "pictures"
DDPM = Path(os.environ.get("DDPM", BENCH.parent / "target/release/ddpm")).resolve()
BUSY = 0.15  # cores that other programs may use before a measurement counts as disturbed
others = []  # cores that other programs used before each measurement


def cores(wanted=None):
    """Binds this process and its children to the first `wanted` of its cores (default: all); returns their number."""
    if not hasattr(os, "sched_setaffinity"):
        return wanted or os.cpu_count()
    mine = sorted(os.sched_getaffinity(0))[:wanted]
    os.sched_setaffinity(0, mine)
    return len(mine)


def child(command, threads, cwd=None):
    """Runs a command that prints one JSON object as its last line."""
    # With a cache, compiled modes compile once and not in every process.
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "TORCHINDUCTOR_CACHE_DIR": str(RESULTS / "inductor")}
    command = [str(word) for word in command]
    others.append(busy())
    done = subprocess.run(command, env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0 or not done.stdout.strip():
        sys.exit(f"{' '.join(command)}\nfailed with exit status {done.returncode}:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1]) | {"busy": others[-1]}


def ours(batch, threads, runs, side=32, width=128):
    """Runs `ddpm bench` on the paper's CIFAR-10 network, or on one of another size; without dropout, like the peers."""
    settings = {
        "model.dropout": "0.0",
        "data.resolution": side,
        "model.block_out_channels": [width, 2 * width, 2 * width, 2 * width],
    }
    sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    command = [DDPM, "bench", "--preset", "cifar10", "--device", "cpu", "--batch", batch, "--threads", threads]
    return child([*command, "--runs", runs, *sets, "--json"], threads)


def peer(mode, what, batch, threads, runs, side=32, width=128):
    """Runs one measurement by peers.py."""
    sizes = ["--batch", batch, "--threads", threads, "--runs", runs, "--side", side, "--width", width]
    return child([sys.executable, BENCH / "peers.py", mode, "--what", what, *sizes], threads)


def same_network(a, b):
    if a["parameters"] != b["parameters"]:
        sys.exit(f"the networks differ: ddpm's has {a['parameters']:,} parameters, the peer's has {b['parameters']:,}")


def busy(seconds=0.5):
    """Returns how many cores other programs use while this process sleeps; 0 where /proc/stat does not exist."""

    def ticks():
        counts = [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
        return sum(counts), counts[3] + counts[4]  # total; idle and I/O wait

    try:
        total, idle = ticks()
        time.sleep(seconds)
        later, later_idle = ticks()
    except OSError:
        return 0.0
    return os.cpu_count() * (1 - (later_idle - idle) / max(1, later - total))


def check_quiet():
    """Warns if another program is running; returns the load average. Call it before the first measurement."""
    load, now = os.getloadavg()[0], busy(2)
    if load > 0.5 or now > BUSY:
        # Programs whose threads wait for each other, such as PyTorch, slow down most.
        say(f"warning: another program is running (load average {load:.2f}, {now:.2f} cores busy); the comparison will not be fair")
    return load


def quiet(load):
    """Returns the sentences of a report about the load."""
    disturbed = sum(cores > BUSY for cores in others)
    during = f" **Another program was running before {disturbed} of {len(others)} measurements.**" if disturbed else ""
    return f"Load average at the start {load:.2f}.{during}"


def machine(threads):
    """Returns the CPU, its used cores, the memory and the system in one line."""
    try:
        info = Path("/proc/cpuinfo").read_text().splitlines()
        field = lambda name: next((line.split(":", 1)[1].strip() for line in info if line.startswith(name)), "")
        simd = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_tile", "asimd") if name in (field("flags") + field("Features")).split()]
        cpu = f"{field('model name') or platform.machine()} (family {field('cpu family')}, model {field('model')}; {' '.join(simd)})"
        memory = f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB"
    except OSError:
        cpu, memory = platform.processor() or platform.machine(), ""
    return f"{cpu}, {threads} of {os.cpu_count()} cores{memory}, {platform.system()} {platform.release()}"


def version():
    """Returns ddpm's version, and the commit if git knows it."""
    run = lambda *command: subprocess.run(command, cwd=BENCH, capture_output=True, text=True).stdout.strip()
    try:
        commit = run("git", "rev-parse", "--short", "HEAD")
    except OSError:
        commit = ""
    return f"{run(DDPM, '--version')}{commit and f' ({commit})'}"


def say(line):
    print(line, file=sys.stderr, flush=True)
