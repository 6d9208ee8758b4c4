"""Writes checkpoint files of every kind that crates/weights reads: files of torch.save, and their tensors as safetensors."""

import argparse
import collections
import io
import pathlib
import pickle
import zipfile

import numpy
import torch
from goldens_common import CRATES, randn
from safetensors.torch import save_file

FOLDER = CRATES / "weights/tests/files"


def contents():
    """Returns every dtype, every kind of view, and the plain values that are stored with weights."""
    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4) / 8
    shared = randn((6, 5), 1)
    state = collections.OrderedDict()
    state["plain"] = base.clone()
    state["transposed"] = base.permute(2, 0, 1)
    state["slice"] = base[:, 1:, ::2]
    state["row"] = shared[4]
    state["column"] = shared[:, 2]
    state["expanded"] = torch.tensor([[1.5], [-2.0]]).expand(2, 3)
    state["scalar"] = torch.tensor(3.25)
    state["empty"] = torch.zeros(0, 3)
    state["parameter"] = torch.nn.Parameter(torch.tensor([0.5, -0.25]))
    values = torch.tensor([0.0, 1.0, 3.0, 100.0])
    for dtype in ("float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool"):
        state[dtype] = values.to(getattr(torch, dtype))
    state["halfway"] = torch.tensor([2.0**-24, -65504.0, 1 / 3]).half()
    state._metadata = collections.OrderedDict([("", {"version": 1})])
    return {
        "state_dict": state,
        "list": [torch.tensor([1.0]), {"x": torch.tensor([2.0])}],
        "optimizer": {"state": {0: {"step": torch.tensor(7.0)}}, "param_groups": [{"lr": 2e-4, "betas": (0.9, 0.999)}]},
        "step": 12345,
        "big": 2**70,
        "loss": numpy.float64(0.125),
        "name": "ema – 0.9999",
        "config": argparse.Namespace(width=128, path=pathlib.PurePosixPath("a/b").as_posix()),
        "size": torch.Size([1, 2]),
        "device": torch.device("cpu"),
        "dtype": torch.float16,
        "rng": numpy.random.RandomState(0).get_state(),
        "bytes": b"\x00\xff",
        "nothing": None,
        "tags": {"only"},
    }


def flat(value, prefix=""):
    """Returns the tensors by dotted path, the names that crates/weights gives them."""
    if isinstance(value, torch.Tensor):
        return {prefix[:-1]: value.detach().float().contiguous().clone()}
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    return {name: t for key, inner in pairs for name, t in flat(inner, f"{prefix}{key}.").items()}


def rewritten(data, compression=zipfile.ZIP_STORED, edit=lambda name, bytes: bytes, leave_out=()):
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", compression) as new:
        for info in old.infolist():
            if info.filename.endswith(leave_out):
                continue
            new.writestr(zipfile.ZipInfo(info.filename), edit(info.filename, old.read(info)), compression)
    return out.getvalue()


def saved(value, **options):
    out = io.BytesIO()
    torch.save(value, out, **options)
    return out.getvalue()


def swapped(value):
    """Returns the archive as a big-endian machine writes it. All storages are float32, so groups of four bytes are swapped."""

    def edit(name, data):
        if name.endswith("/byteorder"):
            return b"big"
        return numpy.frombuffer(data, "<u4").byteswap().tobytes() if "/data/" in name else data

    return rewritten(saved(value), edit=edit)


def files():
    FOLDER.mkdir(parents=True, exist_ok=True)
    value = contents()
    save_file(flat(value), FOLDER / "expected.safetensors")
    torch.manual_seed(3)
    module = torch.nn.Sequential(collections.OrderedDict(conv=torch.nn.Conv2d(2, 3, 1), norm=torch.nn.BatchNorm2d(3)))
    floats = {"a": randn((3, 2), 5), "b": randn((4,), 6).expand(2, 4)}
    save_file(flat(floats) | flat(module.state_dict(), "module."), FOLDER / "more.safetensors")
    out = {"zip.pt": saved(value), "legacy.pt": saved(value, _use_new_zipfile_serialization=False)}
    for protocol in (3, 4, 5):
        out[f"protocol{protocol}.pt"] = saved(floats, pickle_protocol=protocol)
    out["legacy_protocol1.pt"] = saved(floats, pickle_protocol=1, _use_new_zipfile_serialization=False)
    out["deflated.pt"] = rewritten(saved(floats), zipfile.ZIP_DEFLATED)
    out["big_endian.pt"] = swapped(floats)
    out["module.pt"] = saved(module)
    torch.serialization.set_crc32_options(False)
    out["no_crc.pt"] = saved(floats)
    torch.serialization.set_crc32_options(True)
    script = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), script)
    # Without the debug records, which contain source paths.
    out["script.pt"] = rewritten(script.getvalue(), leave_out=".debug_pkl")
    out["plain.pkl"] = pickle.dumps({"weights": [1.0, 2.0]})
    # Not by torch.save: each storage is a file of torch.save within the pickle.
    out["tensors.pkl"] = pickle.dumps(floats | {"module": module})
    for name, data in out.items():
        (FOLDER / name).write_bytes(data)
        print(f"files {name:20} {len(data):6} bytes")
    for path in FOLDER.iterdir():
        path.chmod(0o644)


if __name__ == "__main__":
    files()
