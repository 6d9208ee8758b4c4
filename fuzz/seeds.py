#!/usr/bin/env python3
"""Writes the seeds of every fuzz target to corpus/TARGET/: files of the tests, and small files made here."""

import gzip
import io
import json
import pathlib
import pickle
import struct
import tarfile
import zipfile
import zlib

HERE = pathlib.Path(__file__).parent
CRATES = HERE.parent / "crates"
FILES = CRATES / "weights/tests/files"


def put(target, name, data):
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def png(level, side=5):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = b"".join(b"\0" + bytes([level, x, 255 - x] * side) for x in range(side))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tar(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def packed(files, method):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def content(file):
    """Returns the pickle of an archive of torch.save."""
    with zipfile.ZipFile(file) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("/data.pkl")))


def zeroed(file):
    """Returns an archive of torch.save with zeros for numbers, which take no space in a fuzzer's input."""
    with zipfile.ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    return packed(
        {name: bytes(len(data)) if "/data/" in name else data for name, data in entries.items()}, zipfile.ZIP_DEFLATED
    )


def npy(kind, shape, data):
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (63 - (10 + len(header)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


# Weights.
for file in FILES.glob("*.pt"):
    put("torch", file.name, file.read_bytes())
for file in FILES.glob("legacy*.pt"):
    # The object's pickle follows those of the magic number, the version and the machine.
    with file.open("rb") as stream:
        for _ in range(3):
            pickle.load(stream)
        put("pickle", file.name, stream.read())
put("pickle", "plain", (FILES / "plain.pkl").read_bytes())
put("torch", "tensors", (FILES / "tensors.pkl").read_bytes())
# Checkpoints of other code bases: whole modules of NVlabs/edm in plain pickles, and archives, whose pickle is a seed of its own.
FAMILIES = CRATES / "sample/tests/goldens"
for file in [*FAMILIES.glob("edm*/*.pkl"), *FAMILIES.glob("*/*.pt"), *FAMILIES.glob("*/*.ckpt")]:
    if zipfile.is_zipfile(file):
        put("torch", file.name, zeroed(file))
        put("pickle", file.name, content(file))
    else:
        put("torch", file.name, file.read_bytes())
for file in [*(CRATES / "unet/tests/goldens").glob("lucidrains*/*.pt"), *(CRATES / "unet/tests/goldens/families").glob("*.pt")]:
    put("torch", file.parent.name + "-" + file.name, zeroed(file))
for file in FILES.glob("protocol*.pt"):
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                if name.endswith("data.pkl"):
                    put("pickle", file.stem, archive.read(name))
for file in [*FILES.glob("*.safetensors"), FILES / "tensorflow/expected.safetensors"]:
    put("safetensors", file.name, file.read_bytes())
checkpoint = FILES / "tensorflow/model.ckpt-790000"
index = checkpoint.with_name(checkpoint.name + ".index").read_bytes()
shards = [checkpoint.with_name(f"{checkpoint.name}.data-0000{i}-of-00002").read_bytes() for i in (0, 1)]
put("tensorflow", "shards", struct.pack("<H", len(index)) + index + b"".join(shards))
put("tensorflow", "index", struct.pack("<H", len(index)) + index)
old = (FILES / "tensorflow/old.ckpt").read_bytes()
put("tensorflow", "old", struct.pack("<H", len(old)) + old)
shard = (FILES / "more.safetensors").read_bytes()
header = json.loads(shard[8 : 8 + struct.unpack("<Q", shard[:8])[0]])
index = json.dumps({"weight_map": {name: "a.safetensors" for name in header if name != "__metadata__"}}).encode()
put("index", "one", struct.pack("<H", len(index)) + index + shard)
model_index = {"_class_name": "DDPMPipeline", "scheduler": ["diffusers", "DDPMScheduler"], "unet": ["diffusers", "UNet2DModel"]}
scheduler = {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02}
config = {"_class_name": "UNet2DModel", "in_channels": 3, "block_out_channels": [32, 64]}
checksums = {"files": {"model_index.json": {"bytes": len(json.dumps(model_index)), "crc32": "00000000"}}}
parts = [model_index, scheduler, config, checksums, {"weight_map": {"w": "a.safetensors"}}]
put("pipeline", "ddpm", b"\xff".join(json.dumps(part).encode() for part in parts))

# Image sets.
classes = {"train/cat/a.png": png(1), "train/dog/b.png": png(9), "test/dog/c.png": png(200)}
labelled = {"a.png": png(3), "b.png": png(4), "dataset.json": b'{"labels": [["a.png", 1], ["b.png", 0]]}'}
listed = {"a.png": png(5), "metadata.jsonl": b'{"file_name": "a.png", "label": "cat"}\n'}
table = {"a.png": png(5), "metadata.csv": b"file_name,label\na.png,3\n"}
shard = {"0001.png": png(6), "0001.cls": b"1", "0002.png": png(7), "0002.json": b'{"label": 2}'}
for name, files in {"classes": classes, "labelled": labelled, "listed": listed, "table": table, "shard": shard}.items():
    put("zip", name, packed(files, zipfile.ZIP_STORED))
    put("zip", name + "-deflated", packed(files, zipfile.ZIP_DEFLATED))
    put("tar", name, tar(files))
    put("tar_gz", name, gzip.compress(tar(files)))
put("parquet", "hub", (CRATES / "data/tests/hub.parquet").read_bytes())
for file in (CRATES / "data/tests/goldens").glob("*.mat"):
    put("mat", file.name, file.read_bytes())
pixels = bytes(range(96))
arrays = {"arr_0.npy": npy("|u1", (2, 4, 4, 3), pixels), "arr_1.npy": npy("<i8", (2,), bytes(16))}
keras = {"x_train.npy": npy("|u1", (6, 4, 4), pixels), "y_train.npy": npy("|u1", (6,), bytes(6))}
for name, files in {"openai": arrays, "keras": keras}.items():
    put("npz", name, packed(files, zipfile.ZIP_STORED))
    put("npz", name + "-deflated", packed(files, zipfile.ZIP_DEFLATED))
put("idx", "images", struct.pack(">IIII", 0x803, 6, 4, 4) + pixels)
put("cifar", "two", (b"\3" + bytes(range(256)) * 12) * 2)
put("image", "png", png(7))
put("image", "gif", b"GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\1\0\1\0\0\2\2D\1\0;")
put("image", "pgm", b"P5 2 2 255\n\1\2\3\4")
put("image", "ppm", b"P3 1 2 255\n1 2 3 4 5 6\n")
put("image", "bmp", b"BM" + struct.pack("<IIIIIIHHIIIIII", 62, 0, 54, 40, 2, 1, 1, 24, 0, 8, 0, 0, 0, 0) + bytes(8))
entries = [(256, 4, 2), (257, 4, 2), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 98), (278, 4, 2), (279, 4, 4)]
directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
put("image", "tiff", b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + directory + bytes(4) + b"\1\2\3\4")
put("image", "webp", b"RIFF\x1a\0\0\0WEBPVP8L\x0d\0\0\0\x2f\0\0\0\x10\x07\x10\x11\x11\x88\x88\xfe\x07\0")
put("labels", "json", b'\0{"labels": [["a.pgm", 1], ["b.pgm", 0]]}')
put("labels", "jsonl", b'\1{"file_name": "a.pgm", "label": "x"}\n{"file_name": "b.pgm", "label": 2}\n')
put("labels", "csv", b'\2file_name,label\na.pgm,x\n"b.pgm",2\n')
put("labels", "column", b"\x83name,label\na,x\nb,2\n")
