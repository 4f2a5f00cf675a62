"""The file of a sub-network: a safetensors container with few, large parts, so its overhead is small.

Parts: `values.<dtype>`, all stored entries of a dtype one after the other; `positions`, the coded positions
of all tensors; `table`, one row a tensor, as compressed JSON. The metadata has one key, `ken`, with the
settings and a checksum of everything.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
import zstandard
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ken import positions

FORMAT = "ken-subnetwork-1"
_SETTINGS = ("method", "k", "rule", "scope", "base")
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}


@dataclass(frozen=True)
class Content:
    """What a file holds; the fields are those of `ken.Subnetwork`."""

    masks: dict[str, torch.Tensor]
    values: dict[str, torch.Tensor]
    whole: dict[str, torch.Tensor]
    aliases: dict[str, str]


def fingerprint(tensors: Mapping[str, torch.Tensor]) -> str:
    """sha256 over names, dtypes, shapes and bytes, in the order of the names, as 64 hex digits."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def write(path: Path, content: Content, settings: dict) -> None:
    """Write the file under a temporary name and rename it.

    Raises:
        ValueError: a tensor has a dtype that the file cannot hold.
        OSError: the folder does not exist or cannot be written.
    """
    parts = _pack(content)
    header = {"format": FORMAT, "torch": torch.__version__, **settings}
    header["checksum"] = _checksum(parts, header)
    data = save(parts, metadata={"ken": json.dumps(header)})
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path) -> tuple[Content, dict]:
    """Content and settings of a file written by `write`.

    Raises:
        ValueError: the file is truncated, altered, or not a sub-network.
        FileNotFoundError: there is no such file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("ken", "{}"))
            foreign = not isinstance(header, dict) or header.get("format") != FORMAT
            parts = {} if foreign else {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is truncated or no safetensors file ({error}): write it again.") from error
    if foreign:
        raise ValueError(f"{path} is not a sub-network of format {FORMAT}: expected a file written by Subnetwork.save.")
    expected = header.pop("checksum", None)
    if _checksum(parts, header) != expected:
        raise ValueError(f"{path} was altered after it was written (its checksum differs): write it again.")
    return _unpack(parts), {name: header[name] for name in _SETTINGS}


def _checksum(parts: dict[str, torch.Tensor], header: dict) -> str:
    # Half of the hash is ample against damage and keeps the header of small files short.
    return hashlib.sha256((fingerprint(parts) + json.dumps(header, sort_keys=True)).encode()).hexdigest()[:32]


def _pack(content: Content) -> dict[str, torch.Tensor]:
    table, coded_positions = [], []
    stored: dict[str, list[torch.Tensor]] = {}
    for name, tensor in (content.values | content.whole).items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in _DTYPES:
            raise ValueError(f"tensor {name!r} is of {dtype}, which a sub-network file cannot hold: cast it.")
        stored.setdefault(dtype, []).append(tensor.reshape(-1).cpu())
        if name in content.masks:
            mask = content.masks[name]
            coded = positions.encode(mask.reshape(-1).numpy())
            coded_positions.append(coded.data)
            place = [coded.coding, tensor.numel(), coded.low_bits, len(coded.data)]
            table.append([name, dtype, list(mask.shape), *place])
        else:
            table.append([name, dtype, list(tensor.shape), "whole"])
    parts = {f"values.{dtype}": torch.cat(entries) for dtype, entries in stored.items()}
    blob = b"".join(coded_positions)
    squeezed = _compress(blob)
    smaller = len(squeezed) < len(blob)
    parts["positions.zstd" if smaller else "positions"] = _bytes_tensor(squeezed if smaller else blob)
    text = json.dumps({"tensors": table, "aliases": content.aliases}, separators=(",", ":"))
    parts["table"] = _bytes_tensor(_compress(text.encode()))
    return parts


def _unpack(parts: dict[str, torch.Tensor]) -> Content:
    table = json.loads(_decompress(parts["table"].numpy().tobytes()))
    blob = parts["positions"].numpy().tobytes() if "positions" in parts else None
    if blob is None:
        blob = _decompress(parts["positions.zstd"].numpy().tobytes())
    content = Content({}, {}, {}, table["aliases"])
    used = dict.fromkeys(_DTYPES, 0)
    read = 0
    for name, dtype, shape, coding, *place in table["tensors"]:
        count = prod(shape) if coding == "whole" else place[0]
        entries = parts[f"values.{dtype}"][used[dtype] : used[dtype] + count].clone()
        used[dtype] += count
        if coding == "whole":
            content.whole[name] = entries.reshape(shape)
            continue
        _, low_bits, length = place
        coded = positions.Coded(coding, low_bits, blob[read : read + length])
        read += length
        mask = positions.decode(coded, prod(shape), count)
        content.masks[name] = torch.from_numpy(mask).reshape(shape)
        content.values[name] = entries
    return content


def _compress(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=9).compress(data)


def _decompress(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompress(data)


def _bytes_tensor(data: bytes) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(data, np.uint8).copy())
