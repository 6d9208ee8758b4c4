"""Measures what followers cost a training that runs in `ddpm studio`: its speed alone and with many clients, one of them slow.

    python3 bench/studio.py [--ddpm target/release/ddpm] [--clients 50] [--steps 60] [--rounds 3]

Alone and with clients take turns. The clients yield the processors to the training (nice 19), as if they ran elsewhere, where browsers
do. Half of them follow the run, half the job, and each asks for the lists every two seconds, as the page does. One more client reads a
byte a second. Needs Python only.
"""

import argparse
import asyncio
import json
import os
import pathlib
import re
import resource
import statistics
import subprocess
import tempfile
import time
import urllib.request


def call(url, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


async def get(address, path, until, each):
    """Sends a request and reads the answer until `until` is set; returns the bytes read."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: {address[0]}:{address[1]}\r\nconnection: close\r\n\r\n".encode())
    count = 0
    try:
        while not until.is_set():
            try:
                chunk = await asyncio.wait_for(reader.read(each), 1.0)
            except TimeoutError:
                continue
            if not chunk:
                break
            assert count or chunk.startswith(b"HTTP/1.1 200"[: len(chunk)]), chunk[:200]
            count += len(chunk)
            if each == 1:
                await asyncio.sleep(1)
    finally:
        writer.close()
    return count


async def client(address, path, until):
    following = asyncio.create_task(get(address, path, until, 1 << 16))
    while not until.is_set():
        for lists in ["/api/runs", "/api/jobs", "/api/about"]:
            await get(address, lists, asyncio.Event(), 1 << 16)
        try:
            await asyncio.wait_for(until.wait(), 2)
        except TimeoutError:
            pass
    return await following


def memory(process):
    text = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return {key: int(value) / 1024 for key, value in re.findall(r"(VmHWM|VmRSS):\s+(\d+) kB", text)}


def seconds(process):
    """The CPU time of a process."""
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


def own():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def train(url, address, run, steps, clients):
    request = {"kind": "train", "run": run, "set": [f"train.steps={steps}", "train.log_every=5"]}
    job = call(url, "/api/jobs", request)["id"]
    while call(url, f"/api/jobs/{job}")["done"] < 1:
        await asyncio.sleep(0.2)
    until = asyncio.Event()
    paths = [f"/api/run/events?run={run}", f"/api/jobs/{job}/events"]
    tasks = [asyncio.create_task(client(address, paths[i % 2], until)) for i in range(clients)]
    if clients:
        tasks.append(asyncio.create_task(get(address, paths[1], until, 1)))
    loop = asyncio.get_running_loop()
    while (state := await loop.run_in_executor(None, call, url, f"/api/jobs/{job}"))["status"] == "running":
        await asyncio.sleep(0.5)
    until.set()
    received = await asyncio.gather(*tasks, return_exceptions=True)
    assert state["status"] == "done", state
    return received


def speed(folder, run):
    records = [json.loads(line) for line in (folder / run / "metrics.jsonl").read_text().splitlines()]
    # The first records have the caches' warming and the clients' start.
    return statistics.median(record["images_per_second"] for record in records[2:])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ddpm", default="target/release/ddpm")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place)
        studio = subprocess.Popen([options.ddpm, "studio", place, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        os.nice(19)
        try:
            line = studio.stdout.readline()
            url = re.search(r"http://[\d.]+:\d+", line)[0]
            host, port = url.removeprefix("http://").split(":")
            speeds = {0: [], options.clients: []}
            shares = {clients: [] for clients in speeds}
            failures = 0
            for i in range(options.rounds):
                for clients in speeds:
                    run = f"{i}-{clients}"
                    before = seconds(studio), own()
                    received = asyncio.run(train(url, (host, int(port)), run, options.steps, clients))
                    failures += sum(isinstance(one, BaseException) for one in received)
                    for one in received:
                        if isinstance(one, BaseException):
                            print(f"a client failed: {one!r}")
                    speeds[clients].append(speed(folder, run))
                    count = sum(one for one in received if isinstance(one, int))
                    print(f"{clients} clients: {speeds[clients][-1]:.1f} images/s, {count / 1e6:.2f} MB sent, "
                          f"CPU of the clients {own() - before[1]:.1f} s, of the studio {seconds(studio) - before[0]:.1f} s, memory {memory(studio)}", flush=True)
                    shares[clients].append((own() - before[1]) / (seconds(studio) - before[0]))
                    time.sleep(2)
        finally:
            studio.terminate()
            studio.wait()
    alone, followed = (statistics.median(values) for values in speeds.values())
    print(f"alone {alone:.1f} images/s, with {options.clients} clients and a slow one {followed:.1f}: {followed / alone:.3f} of the speed; {failures} clients failed")
    share = statistics.median(shares[options.clients]) - statistics.median(shares[0])
    print(f"the clients, which run on the same machine, took {share:.1%} as much CPU as the studio")


if __name__ == "__main__":
    main()
