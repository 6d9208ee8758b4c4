#!/usr/bin/env python3
"""Compares the bits/dim of `ddpm evaluate` with PyTorch, term by term. For maintainers; see tools/README.md.

    python tools/check_bound.py [CHECKPOINT ...] [--images IDX_OR_NPZ] [--ddpm target/release/ddpm] [-n 4]

The network is diffusers' UNet2DModel in float64. The bound is implemented from the papers (Ho et al. 2020; Nichol &
Dhariwal 2021) with the conventions of improved-diffusion's `calc_bpd_loop`: x̂0 is clipped, the normal distribution function
has its tanh form, likelihoods are at least 1e-12, and β̃_1 replaces β̃_0. The noise is that of `ddpm`: Philox4x32-10 and
Box-Muller, in numpy. Images smaller than the network's size get a black border; both sides measure the same bytes. Defaults:
the two small random networks of the golden files (RGB; one has a learned variance), and random bytes as images. Exits with 1
if the prior, a term, the bound or a squared error differs by more than 1e-4.
"""

import argparse
import gzip
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers import UNet2DModel

torch.set_num_threads(1)
diffusers.utils.logging.set_verbosity_error()
LIMIT = 1e-4
EVALUATE = 10  # the random stream of `ddpm evaluate`, see crates/random
GOLDENS = Path(__file__).parent.parent / "crates/sample/tests/goldens/pipeline"


def philox(counter, key):
    """Returns four arrays of words of Philox4x32-10 (Salmon et al. 2011) from four arrays of counters."""
    mask, c = np.uint64(0xFFFFFFFF), [np.asarray(word, np.uint64) for word in counter]
    k0, k1 = key
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        high0, high1 = p0 >> np.uint64(32), p1 >> np.uint64(32)
        c = [high1 ^ c[1] ^ np.uint64(k0), p1 & mask, high0 ^ c[3] ^ np.uint64(k1), p0 & mask]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c


# Known answers of Random123, for a counter and key of zeros and of ones.
assert [int(w) for w in philox([0] * 4, (0, 0))] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
assert [int(w) for w in philox([2**32 - 1] * 4, (2**32 - 1,) * 2)] == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


def normals(seed, index, steps, count):
    """Returns normals [len(steps), count]. Two words of counter [index, index >> 32 | stream << 16, step, block] give two."""
    blocks = np.arange(-(-count // 4))
    counter = np.broadcast_arrays(index & 0xFFFFFFFF, index >> 32 | EVALUATE << 16, np.asarray(steps)[:, None], blocks)
    words = np.stack(philox(counter, (seed & 0xFFFFFFFF, seed >> 32)), -1).astype(np.float64)
    words = words.reshape(len(steps), -1, 2)
    radius = np.sqrt(-2 * np.log((words[..., 0] + 0.5) / 2**32))
    angle = 2 * np.pi * words[..., 1] / 2**32
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1).reshape(len(steps), -1)[:, :count]


def make_betas(config):
    steps, kind = config["num_train_timesteps"], config["beta_schedule"]
    if config.get("trained_betas") is not None:
        betas = np.array(config["trained_betas"], np.float64)
    elif kind == "linear":
        betas = np.linspace(config["beta_start"], config["beta_end"], steps)
    elif kind == "squaredcos_cap_v2":
        alpha_bar = lambda t: math.cos((t / steps + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = np.array([min(1 - alpha_bar(t + 1) / alpha_bar(t), 0.999) for t in range(steps)])
    else:
        sys.exit(f"beta_schedule {kind} is not supported")
    if config.get("rescale_betas_zero_snr"):
        sys.exit("rescale_betas_zero_snr is not supported")
    return betas


class Diffusion:
    """Tables over t, and the bound's terms in nats. Images are [B,C,H,W]; `t` is a tensor of B timesteps."""

    def __init__(self, config):
        betas = make_betas(config)
        alphas_bar = np.cumprod(1 - betas)
        before = np.append(1.0, alphas_bar[:-1])
        variance = betas * (1 - before) / (1 - alphas_bar)
        log_small = np.log(np.append(variance[1], variance[1:]))
        tables = {
            "signal": np.sqrt(alphas_bar),
            "noise": np.sqrt(1 - alphas_bar),
            "coef_x0": betas * np.sqrt(before) / (1 - alphas_bar),
            "coef_xt": np.sqrt(1 - betas) * (1 - before) / (1 - alphas_bar),
            "log_small": log_small,
            "log_large": np.log(np.append(variance[1], betas[1:])),
            "log_beta": np.log(betas),
        }
        self.tables = {name: torch.from_numpy(table)[:, None, None, None] for name, table in tables.items()}
        self.steps = len(betas)
        self.prediction = config["prediction_type"]
        self.clip = config.get("clip_sample_range", 1.0)

    def at(self, t, *names):
        return [self.tables[name][t] for name in names]

    def add_noise(self, x0, t, epsilon):
        signal, noise = self.at(t, "signal", "noise")
        return signal * x0 + noise * epsilon

    def predict(self, x, t, output):
        """Returns the clipped x̂0, and the network's ε̂."""
        signal, noise = self.at(t, "signal", "noise")
        if self.prediction == "epsilon":
            sample, epsilon = (x - noise * output) / signal, output
        elif self.prediction == "sample":
            sample, epsilon = output, (x - signal * output) / noise
        elif self.prediction == "v_prediction":
            sample, epsilon = signal * x - noise * output, noise * x + signal * output
        else:
            sys.exit(f"prediction_type {self.prediction} is not supported")
        return sample.clamp(-self.clip, self.clip), epsilon

    def log_variance(self, kind, t, v):
        small, large, beta = self.at(t, "log_small", "log_large", "log_beta")
        if kind == "learned_range":
            share = (v + 1) / 2
            return share * beta + (1 - share) * small
        return {"fixed_small": small, "fixed_large": large}[kind]

    def mean(self, x, t, sample):
        coef_x0, coef_xt = self.at(t, "coef_x0", "coef_xt")
        return coef_x0 * sample + coef_xt * x

    def terms(self, x0, x, t, sample, log_variance):
        """Returns the KL of each step; at t = 0, the decoder's term."""
        mean, (log_small,) = self.mean(x, t, sample), self.at(t, "log_small")
        kl = normal_kl(self.mean(x, t, x0), log_small, mean, log_variance)
        return torch.where(t == 0, per_dim(decoder(x0, mean, log_variance)), per_dim(kl))

    def prior(self, x0):
        signal, noise = self.at(self.steps - 1, "signal", "noise")
        zero = torch.zeros((), dtype=torch.float64)
        return per_dim(normal_kl(signal * x0, 2 * noise.log(), zero, zero))


def per_dim(values):
    return values.mean((1, 2, 3))


def normal_kl(mean1, log1, mean2, log2):
    return 0.5 * (log2 - log1 + (log1 - log2).exp() - 1 + (mean1 - mean2) ** 2 * (-log2).exp())


def normal_cdf(z):
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))


def decoder(x, mean, log_variance):
    """Returns −ln of the mass of x ± 1/255; the outermost bins are unbounded."""
    scale = (-0.5 * log_variance).exp()
    above, below = normal_cdf(scale * (x - mean + 1 / 255)), normal_cdf(scale * (x - mean - 1 / 255))
    mass = torch.where(x < -0.999, above, torch.where(x > 0.999, 1 - below, above - below))
    return -mass.clamp(min=1e-12).log()


@torch.no_grad()
def measure(unet, diffusion, x0, labels, kinds, candidates, seed, batch_size):
    """Returns all values by [image, timestep], bits in bits/dim. One evaluation of the network is used for all variances."""
    n, channels, height, width = x0.shape
    steps = diffusion.steps
    bits = {kind: torch.zeros(n, steps, dtype=torch.float64) for kind in kinds}
    mse, epsilon_mse = torch.zeros(2, n, steps, dtype=torch.float64)
    table = torch.zeros(n, len(candidates), dtype=torch.float64)
    for i in range(n):
        for t in torch.arange(steps).split(batch_size):
            noise = normals(seed, i, t.numpy(), height * width * channels)
            noise = torch.from_numpy(noise).reshape(-1, height, width, channels).permute(0, 3, 1, 2)
            image = x0[i : i + 1]
            x = diffusion.add_noise(image, t, noise)
            classes = None if labels is None else labels[i].expand(len(t))
            output = unet(x, t, class_labels=classes).sample
            answer, v = output[:, :channels], output[:, channels:]
            sample, epsilon = diffusion.predict(x, t, answer)
            mse[i, t], epsilon_mse[i, t] = per_dim((image - sample) ** 2), per_dim((epsilon - noise) ** 2)
            for kind in kinds:
                log_variance = diffusion.log_variance(kind, t, v)
                bits[kind][i, t] = diffusion.terms(image, x, t, sample, log_variance) / math.log(2)
            if t[0] == 0:
                for j, log_variance in enumerate(candidates):
                    table[i, j] = decoder(image, sample[:1], log_variance).mean() / math.log(2)
            print(f"\rPyTorch: {i * steps + int(t[-1]) + 1} of {n * steps} noisy images", end="", file=sys.stderr)
    print(file=sys.stderr)
    return bits, mse, epsilon_mse, table


def read_idx(path):
    data = gzip.open(path).read() if path.name.endswith(".gz") else path.read_bytes()
    sizes = np.frombuffer(data, ">u4", data[3], 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * len(sizes)).reshape(sizes)


def read_images(path, shape, n):
    """Returns up to n images as bytes [N,H,W,C], centered on black, and the labels if the file has any."""
    height, width, channels = shape
    if path is None:
        generator = np.random.default_rng(0)
        # A third of the values are 0 and a third 255, where the decoder's bins are unbounded.
        images = np.clip(generator.integers(-255, 511, (n, *shape)), 0, 255).astype(np.uint8)
        return images, np.arange(n)
    if path.suffix == ".npz":
        arrays = np.load(path)
        images, labels = arrays["arr_0"][:n], arrays["arr_1"][:n] if "arr_1" in arrays else None
    else:
        beside = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
        images, labels = read_idx(path)[:n, :, :, None], read_idx(beside)[:n] if beside.is_file() else None
    top, left = (height - images.shape[1]) // 2, (width - images.shape[2]) // 2
    if top < 0 or left < 0 or images.shape[3] != channels:
        sys.exit(f"{path}: the images do not fit the network's size, {height}x{width}x{channels}")
    bottom, right = height - images.shape[1] - top, width - images.shape[2] - left
    return np.pad(images, ((0, 0), (top, bottom), (left, right), (0, 0))), labels


def find(checkpoint):
    """Returns the checkpoint, or the newest checkpoint of a run."""
    latest = checkpoint / "checkpoints/latest"
    return latest.parent / latest.read_text().strip() if latest.is_file() else checkpoint


def check(checkpoint, args):
    """Prints a row for each variance and returns the largest difference."""
    unet = UNet2DModel.from_pretrained(checkpoint, subfolder="unet").eval().double()
    scheduler = json.loads((checkpoint / "scheduler/scheduler_config.json").read_text())
    config, size = unet.config, unet.config.sample_size
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    channels = config.in_channels
    images, labels = read_images(args.images, (height, width, channels), args.n)
    n = len(images)
    x0 = torch.from_numpy(images).double().permute(0, 3, 1, 2) / 127.5 - 1
    classes = None
    if config.num_class_embeds is not None:
        if labels is None:
            sys.exit("the network has classes, but the images have no labels")
        labels = labels.astype(np.int64) % config.num_class_embeds
        classes = torch.from_numpy(labels)
    kinds = ["fixed_small", "fixed_large"] + ["learned_range"] * (config.out_channels == 2 * channels)
    diffusion = Diffusion(scheduler)

    reports = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "images.npz"
        np.savez(file, arr_0=images, **({} if classes is None else {"arr_1": labels}))
        for kind in kinds:
            command = [args.ddpm, "evaluate", checkpoint, "--data", file, "-n", n, "--seed", args.seed]
            command += ["--variance", kind, "--clip-sample", "true", "--json", "--quiet"]
            output = subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE).stdout
            reports[kind] = json.loads(output)["nll"]
    candidates = torch.tensor([log_variance for log_variance, _ in reports[kinds[0]]["decoder"]], dtype=torch.float64)
    measured = measure(unet, diffusion, x0, classes, kinds, candidates, args.seed, args.batch_size)
    bits, mse, epsilon_mse, table = measured
    priors = diffusion.prior(x0) / math.log(2)

    print(f"{n} images of {height}x{width}x{channels}, {diffusion.steps} timesteps; largest differences:")
    columns = ["bound", "each", "prior", "terms", "(at t)", "decoder", "(any σ)", "x̂0 MSE", "ε MSE"]
    print(f"{'variance':<14}{'ddpm':>13}{'PyTorch':>13}" + "".join(f"{name:>9}" for name in columns))
    worst = 0.0
    for kind in kinds:
        ours = reports[kind]
        points = {point["timestep"]: point for point in ours["points"]}
        assert sorted(points) == list(range(diffusion.steps)), "expected one point for every timestep"
        column = lambda name: torch.tensor([points[t][name] for t in range(diffusion.steps)], dtype=torch.float64)
        terms = (column("bits") - bits[kind].mean(0)).abs()
        each = priors + bits[kind].sum(1)
        total, distortion = each.mean().item(), bits[kind][:, 0].mean().item()
        differences = {
            "bound": abs(ours["bits_per_dim"] - total),
            "each": (torch.tensor(ours["each"], dtype=torch.float64) - each).abs().max().item(),
            "prior": abs(ours["prior"] - priors.mean().item()),
            "terms": terms.max().item(),
            "decoder": max(abs(ours["distortion"] - distortion), abs(ours["rate"] - total + distortion)),
            "(any σ)": (torch.tensor(ours["decoder"], dtype=torch.float64)[:, 1] - table.mean(0)).abs().max().item(),
            "x̂0 MSE": (column("mse") - mse.mean(0)).abs().max().item(),
            "ε MSE": (column("epsilon_mse") - epsilon_mse.mean(0)).abs().max().item(),
        }
        worst = max([worst, *(math.inf if math.isnan(value) else value for value in differences.values())])
        cells = {name: f"{value:.1e}" for name, value in differences.items()} | {"(at t)": str(int(terms.argmax()))}
        row = "".join(f"{cells[name]:>9}" for name in columns)
        print(f"{kind:<14}{ours['bits_per_dim']:>13.6f}{total:>13.6f}{row}")
    return worst


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path, nargs="*", help="checkpoints or runs (default: the golden pipelines)")
    parser.add_argument("--images", type=Path, help="an IDX file of images (also .gz), or an .npz with arr_0")
    parser.add_argument("--ddpm", default="target/release/ddpm", help="the ddpm binary")
    parser.add_argument("-n", type=int, default=4, help="number of images")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise")
    parser.add_argument("--batch-size", type=int, default=50, help="batch size of PyTorch")
    args = parser.parse_args()

    worst = 0.0
    for checkpoint in args.checkpoint or [GOLDENS, GOLDENS / "learned_range"]:
        checkpoint = find(checkpoint)
        print(checkpoint)
        worst = max(worst, check(checkpoint, args))
    print(f"{'ok' if worst <= LIMIT else 'FAILED'}: the largest difference is {worst:.1e}, allowed are {LIMIT:.0e}")
    sys.exit(0 if worst <= LIMIT else 1)


if __name__ == "__main__":
    main()
