"""An independent reader of sub-network files, written from docs/format.md alone: slow, plain, without torch."""

import hashlib
import json
import struct
import zlib

import numpy as np

SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
TORCH = {"F64": "torch.float64", "F32": "torch.float32", "F16": "torch.float16", "BF16": "torch.bfloat16"}
ENTRIES_OF_A_BLOCK = 4194304
WORD = 2**64 - 1


class Refused(ValueError):
    """The file does not follow docs/format.md, or does not fit its base."""


def safetensors(data):
    """The metadata, the header and {name: (dtype, shape, bytes)} of a safetensors file, in the order of the data."""
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, spec in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = spec["data_offsets"]
        content = data[8 + length + begin : 8 + length + end]
        if len(content) != end - begin:
            raise Refused("truncated")
        tensors[name] = (spec["dtype"], tuple(spec["shape"]), content)
    return metadata, header, tensors


def to_float32(dtype, content):
    """The values of bytes of a floating dtype, as float32."""
    if dtype == "BF16":
        return (np.frombuffer(content, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(content, {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float32)


def from_float32(dtype, values):
    """float32 values as unsigned integers with the bits of a dtype, rounded to nearest even."""
    if dtype in ("F64", "F32", "F16"):
        with np.errstate(over="ignore"):
            return values.astype(f"<f{SIZES[dtype]}").view(f"<u{SIZES[dtype]}")
    bits = values.astype("<f4").view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def cast(dtype, content, wanted):
    """Bytes of values of a dtype in another one."""
    return content if dtype == wanted else from_float32(wanted, to_float32(dtype, content)).tobytes()


def bits_of(content):
    return np.unpackbits(np.frombuffer(content, np.uint8))  # from the highest bit down


def members(coding, count, low_bits, content, m):
    """Which of m entries are in a coded set of `count`, as booleans."""
    if coding in ("all", "none"):
        return np.full(m, coding == "all")
    if coding == "bits":
        return bits_of(content)[:m] == 1
    assert coding == "gaps", coding
    inside = 2 * count <= m
    rarer = count if inside else m - count
    low_bytes = (rarer * low_bits + 7) // 8
    low, unary = bits_of(content[:low_bytes]), bits_of(content[low_bytes:])
    marked, at, read = np.full(m, not inside), -1, 0
    for number in range(rarer):
        gap = sum(int(low[number * low_bits + bit]) << bit for bit in range(low_bits))
        while not unary[read]:
            gap, read = gap + (1 << low_bits), read + 1
        read += 1
        at += gap + 1
        marked[at] = inside
    return marked


def seed_key(seed, name):
    return int.from_bytes(hashlib.sha256(f"{seed}\0{name}".encode()).digest()[:8], "big")


def splitmix64(key, i):
    x = (key + (i + 1) * 0x9E3779B97F4A7C15) & WORD
    y = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & WORD
    z = (y ^ (y >> 27)) * 0x94D049BB133111EB & WORD
    return z ^ (z >> 31)


def seeded_columns(key, row, n, k):
    """The kept columns of one row."""
    columns = []
    for j in range(k):
        begin, end = j * n // k, (j + 1) * n // k
        columns.append(begin + ((splitmix64(key, row * k + j) >> 32) * (end - begin) >> 32))
    return columns


def inflate(content):
    return zlib.decompress(content, -15)


def planes(content, width, dtype):
    """Numbers whose lowest bytes come first, then the next ones, and so on."""
    return np.frombuffer(np.frombuffer(content, np.uint8).reshape(width, -1).T.tobytes(), dtype)


def read_levels(bits, count, content):
    """(signs or levels, sizes or None) of the kept entries."""
    if bits == 1:
        return np.where(bits_of(content)[:count] == 1, -1, 1), None
    if bits == 2:
        pairs = bits_of(content)[: 2 * count].reshape(-1, 2)
        return np.where(pairs[:, 0] == 1, -1, 1), pairs[:, 1].astype(int)
    if not count:
        return np.zeros(0, int), None
    content = inflate(content)
    levels = planes(content, 2, "<i2") if bits == 16 else np.frombuffer(content, np.int8)
    if len(levels) != count or np.abs(levels.astype(int)).max() > 2 ** (bits - 1) - 1:
        raise Refused("levels")
    return levels, None


def read_scales(bits, content):
    if not content:
        return np.zeros(0, np.float32)
    content = inflate(content)
    if bits == 16:
        return planes(content, 4, "<f4")
    return to_float32("BF16", planes(content, 2, "<u2").tobytes())


class Bytes:
    """Bytes that are taken from the front."""

    def __init__(self, content):
        self.content, self.at = content, 0

    def take(self, count):
        taken = self.content[self.at : self.at + count]
        if len(taken) != count:
            raise Refused("too few bytes")
        self.at += count
        return taken


def rows_and_entries(shape):
    if len(shape) < 2:
        return 1, int(np.prod(shape, dtype=int))
    return shape[0], int(np.prod(shape[1:], dtype=int))


def dense_columns(base, dtype, k):
    """Positions `base`: the columns that ken.selection.select keeps on the pre-trained rows."""
    import torch

    from ken.selection import select

    rows = torch.from_numpy(np.ascontiguousarray(base)).to(getattr(torch, TORCH[dtype].removeprefix("torch.")))
    return [np.flatnonzero(row).tolist() for row in select(rows, rows, k).numpy()]


def kept_columns(coding, record, name, seed, first, changed, base, dtype, mask):
    """The kept columns of each changed row; `base`: pre-trained values of the block."""
    n = base.shape[1]
    _, positions, k, _ = coding
    kept, check = record[3], record[4]
    if positions == "all":
        return [list(range(n))] * len(changed)
    if positions == "stored":
        marked = members(mask[0], kept, mask[1], mask[2], len(changed) * n).reshape(len(changed), n)
        return [np.flatnonzero(row).tolist() for row in marked]
    if positions == "seed":
        return [seeded_columns(seed_key(seed, name), first + int(row), n, k) for row in changed]
    assert positions == "base", positions
    columns = dense_columns(base[changed], dtype, k) if len(changed) else []
    if zlib.crc32(np.array(columns, "<i8").tobytes()) != check:
        raise Refused("positions from the base")
    return columns


def add_updates(start, restored, record, coding, content, name, seed, dtype, block):
    """Write the restored values of one record.

    Args:
        start: (r, n) float32, the pre-trained values of the tensor, or zeros.
        restored: (r, n) unsigned integers with the bits of the tensor.
    """
    bits, _, _, group = coding
    number, _, changed_count, kept = record[:4]
    (rows_coding, rows_low, rows_bytes), (mask_coding, mask_low, mask_bytes) = record[5:8], record[8:11]
    scales_bytes, levels_bytes = record[11:13]
    height = max(1, block // max(start.shape[1], 1))
    first = number * height
    in_block = start[first : first + height]
    row_set = members(rows_coding, changed_count, rows_low, content.take(rows_bytes), len(in_block))
    changed = np.flatnonzero(row_set)
    mask = (mask_coding, mask_low, content.take(mask_bytes))
    columns = kept_columns(coding, record, name, seed, first, changed, in_block, dtype, mask)
    scales = read_scales(bits, content.take(scales_bytes))
    levels, sizes = read_levels(bits, kept, content.take(levels_bytes))
    if len(changed) != changed_count or sum(map(len, columns)) != kept or not np.isfinite(scales).all():
        raise Refused("record")
    index = 0
    for row, kept_of_row in zip(first + changed, columns, strict=True):
        for column in kept_of_row:
            part = index // group if group else 0
            scale = scales[part] if sizes is None else scales[2 * part + sizes[index]]
            value = start[row, column] + np.float32(levels[index]) * scale
            restored[row, column] = from_float32(dtype, np.array([value], np.float32))[0]
            index += 1


def fingerprint(bases, specs):
    digests = []
    for name in sorted(bases):
        dtype, shape = specs[name]
        text = json.dumps([name, TORCH[dtype], list(shape)])
        digests.append([name, hashlib.sha256(text.encode() + bases[name]).hexdigest()])
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def checksum(ken, header, parts):
    digests = [hashlib.sha256(content).hexdigest() for _, _, content in parts.values()]
    header_without = {key: value for key, value in ken.items() if key != "checksum"}
    text = json.dumps([header_without, header, digests], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def read_exact(table, parts, base_of):
    """The tensors of a file of format 1."""
    values = {name.removeprefix("values."): Bytes(part[2]) for name, part in parts.items() if "values." in name}
    positions, tensors = Bytes(parts["positions"][2]), {}
    for name, dtype, shape, blocks in table["tensors"]:
        rows, n = rows_and_entries(shape)
        width = SIZES[dtype]
        if blocks is None:
            tensors[name] = (dtype, tuple(shape), values[dtype].take(rows * n * width))
            continue
        entries = np.frombuffer(base_of(name, dtype, shape), f"<u{width}").copy()
        height = max(1, ENTRIES_OF_A_BLOCK // max(n, 1))
        for number, (coding, kept, low_bits, size) in enumerate(blocks):
            begin, end = number * height * n, min(rows, (number + 1) * height) * n
            marked = members(coding, kept, low_bits, positions.take(size), end - begin)
            entries[begin:end][marked] = np.frombuffer(values[dtype].take(kept * width), f"<u{width}")
        tensors[name] = (dtype, tuple(shape), entries.tobytes())
    return tensors


def read_coded(ken, table, parts, base_of, block):
    """The tensors of a file of format 2."""
    content, tensors = Bytes(parts["blocks"][2]), {}
    for name, dtype, shape, kind, contents in table["tensors"]:
        if kind == "raw":
            tensors[name] = (dtype, tuple(shape), zlib.decompress(content.take(contents)))
            continue
        rows, n = rows_and_entries(shape)
        data = base_of(name, dtype, shape) if kind == "body" else bytes(rows * n * SIZES[dtype])
        start = to_float32(dtype, data).reshape(rows, n)
        restored = np.frombuffer(data, f"<u{SIZES[dtype]}").reshape(rows, n).copy()
        for record in contents:
            coding = table["codings"][record[1]]
            entries = block if kind == "body" else max(1, rows * n)  # a head is one block
            add_updates(start, restored, record, coding, content, name, ken.get("seed"), dtype, entries)
        tensors[name] = (dtype, tuple(shape), restored.tobytes())
    return tensors


def restore(file, base, block=ENTRIES_OF_A_BLOCK):
    """{name: (dtype, shape, bytes)} of the fine-tuned model, from the bytes of its sub-network file and of its base.

    Raises Refused when the checksum or the fingerprint of the base differs.
    """
    metadata, header, parts = safetensors(file)
    ken = json.loads(metadata["ken"])
    if ken["format"] not in ("ken-subnetwork-1", "ken-subnetwork-2"):
        raise Refused("newer format")
    if checksum(ken, header, parts) != ken["checksum"]:
        raise Refused("checksum")
    table = json.loads(zlib.decompress(parts["table"][2]))
    given, used = safetensors(base)[2], {}
    specs = {name: (dtype, shape) for name, dtype, shape, *_ in table["tensors"]}

    def base_of(name, dtype, shape):
        base_dtype, base_shape, content = given[name]
        if base_shape[1:] != tuple(shape)[1:]:
            raise Refused("shape of the base")
        used[name] = cast(base_dtype, content, dtype)
        missing = int(np.prod(shape, dtype=int)) * SIZES[dtype] - len(used[name])  # rows of an extended vocabulary
        used[name] += bytes(missing)
        return used[name]

    if ken["format"] == "ken-subnetwork-1":
        tensors = read_exact(table, parts, base_of)
    else:
        tensors = read_coded(ken, table, parts, base_of, block)
    if fingerprint(used, specs) != ken["base"]:
        raise Refused("base")
    for alias, name in table["aliases"].items():
        tensors[alias] = tensors[name]
    return tensors
