"""Writes TensorFlow checkpoints without TensorFlow: LevelDB's table format and the protocol buffers of tensor_bundle.proto
and saved_tensor_slice.proto, implemented from their specifications. Shares no code with the reader."""

import struct

import numpy
from goldens_common import CRATES, randn
from safetensors.numpy import save_file

FOLDER = CRATES / "weights/tests/files/tensorflow"
TYPES = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "bool": 10, "float16": 19}


def remainder(byte):
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


REMAINDERS = [remainder(byte) for byte in range(256)]


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ REMAINDERS[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def number(field, n):
    return varint(field << 3) + varint(n)


def message(field, data):
    return varint(field << 3 | 2) + varint(len(data)) + data


def shape(a):
    return b"".join(message(2, number(1, n)) for n in a.shape)


def block(entries, interval):
    out, restarts, last = b"", [], b""
    for i, (key, value) in enumerate(entries):
        shared = 0
        if i % interval == 0:
            restarts.append(len(out))
        else:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    return out + b"".join(struct.pack("<I", r) for r in restarts or [0]) + struct.pack("<I", len(restarts or [0]))


def table(entries, per_block=5):
    out, index = b"", []

    def add(data):
        nonlocal out
        handle = varint(len(out)) + varint(len(data))
        out += data + b"\0" + struct.pack("<I", masked(data + b"\0"))
        return handle

    for i in range(0, len(entries), per_block):
        part = entries[i : i + per_block]
        index.append((part[-1][0], add(block(part, 16))))
    handles = add(block([], 1)) + add(block(index, 1))
    return out + handles.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def bundle(path, variables, shards=2):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = [b""] * shards
    header = number(1, shards) + message(3, number(1, 1))
    entries = [(b"", header), (b"_strings", number(1, 7) + number(5, 3))]
    for i, (key, a) in enumerate(sorted(variables.items())):
        raw, shard = a.tobytes(), i % shards
        entry = number(1, TYPES[a.dtype.name]) + message(2, shape(a))
        if shard:
            entry += number(3, shard)
        if data[shard]:
            entry += number(4, len(data[shard]))
        entry += number(5, len(raw)) + varint(6 << 3 | 5) + struct.pack("<I", masked(raw))
        entries.append((key.encode(), entry))
        data[shard] += raw
    path.with_name(f"{path.name}.index").write_bytes(table(sorted(entries)))
    for i, raw in enumerate(data):
        path.with_name(f"{path.name}.data-{i:05}-of-{shards:05}").write_bytes(raw)


def version1(name, variables):
    meta, entries = b"", []
    fields = {"float32": 5, "float64": 6, "int32": 7, "int64": 10, "bool": 11, "float16": 13}
    for key, a in sorted(variables.items()):
        full = message(4, message(1, b"") * a.ndim)
        meta += message(1, message(1, key.encode()) + message(2, shape(a)) + number(3, TYPES[a.dtype.name]) + full)
        field = fields[a.dtype.name]
        if field in (5, 6):
            packed = a.tobytes()
        else:
            bits = a.view(numpy.uint16) if field == 13 else a
            packed = b"".join(varint(int(n) % 2**64) for n in bits.flatten())
        values = number(1, TYPES[a.dtype.name]) + message(field, packed)
        saved = message(1, key.encode()) + message(2, message(1, b"") * a.ndim) + message(3, values)
        entries.append((b"\0" + key.encode(), message(2, saved)))
    (FOLDER / name).write_bytes(table([(b"", message(1, meta + message(2, number(1, 1))))] + entries, 2))


def tensorflow():
    FOLDER.mkdir(parents=True, exist_ok=True)
    names = ["model/conv_in/W", "model/conv_in/b", "model/down_0/block_0/norm1/gamma", "model/temb/dense0/W"]
    shapes = [(3, 3, 2, 4), (4,), (4,), (4, 6)]
    variables = {n: randn(s, i).numpy() for i, (n, s) in enumerate(zip(names, shapes))}
    variables |= {f"{n}/ExponentialMovingAverage": randn(s, 9 + i).numpy() for i, (n, s) in enumerate(zip(names, shapes))}
    variables["global_step"] = numpy.array(790000, dtype=numpy.int64)
    variables["half"] = numpy.array([1.5, -2.0], dtype=numpy.float16)
    variables["double"] = numpy.array([[1 / 3]])
    variables["counts"] = numpy.array([-1, 300], dtype=numpy.int32)
    bundle(FOLDER / "model.ckpt-790000", variables)
    version1("old.ckpt", variables)
    save_file({n: numpy.array(a, dtype=numpy.float32) for n, a in variables.items()}, FOLDER / "expected.safetensors")
    for path in FOLDER.iterdir():
        path.chmod(0o644)
    print(f"tensorflow: {len(variables)} variables")


if __name__ == "__main__":
    tensorflow()
