"""Shared by the golden writers."""

import json
from pathlib import Path

import diffusers
import torch
from safetensors.torch import save_file

CRATES = Path(__file__).resolve().parent.parent / "crates"
torch.set_num_threads(1)
diffusers.utils.logging.set_verbosity_error()


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def randn(shape, seed):
    return torch.randn(shape, generator=seeded(seed))


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n")


def write_tensors(path, tensors):
    """Writes tensors; float64 is rounded to float32, other dtypes are kept."""
    path.parent.mkdir(parents=True, exist_ok=True)
    single = {k: (v.float() if v.is_floating_point() else v).detach().contiguous() for k, v in tensors.items()}
    save_file(single, path)


def readable(folder):
    """Makes files readable for everyone; safetensors' writers restrict them to the owner."""
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def relative(got, want):
    """Returns the largest difference divided by the largest expected value."""
    return ((got.double() - want).abs().max() / want.abs().max()).item()
