"""Files of many small tensors: a safetensors file whose header does not grow with the model.

Parts of one kind, such as the scales of all tensors, are stored one after the other as one tensor `<kind>.<dtype>`. The
tensor `table` lists what they belong to, as compressed JSON.
"""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from ken.files import replacing
from ken.tensors import DTYPE_NAMES, DTYPES

Parts = dict[str, torch.Tensor]
"""Kind, such as "scales" -> values."""


def save_parts(path: Path, stored: dict[str, Parts]) -> None:
    """Write the parts of every tensor: name of the tensor -> kind -> values. A name has no other meaning here."""
    table, groups = [], {}
    for name, parts in stored.items():
        for kind, part in parts.items():
            dtype = DTYPE_NAMES[part.dtype]
            table.append([name, kind, dtype, list(part.shape)])
            groups.setdefault(f"{kind}.{dtype}", []).append(part.detach().cpu().reshape(-1))
    joined = {key: torch.cat(parts) for key, parts in groups.items()}
    packed = zlib.compress(json.dumps(table, separators=(",", ":")).encode(), 9)
    joined["table"] = torch.from_numpy(np.frombuffer(packed, np.uint8).copy())
    with replacing(path) as temporary:
        save_file(joined, temporary)


def load_parts(path: Path) -> dict[str, Parts]:
    """What `save_parts` has written."""
    joined = load_file(path)
    table = json.loads(zlib.decompress(joined.pop("table").numpy().tobytes()))
    starts, stored = dict.fromkeys(joined, 0), {}
    for name, kind, dtype, shape in table:
        key, size = f"{kind}.{dtype}", math.prod(shape)
        part = joined[key][starts[key] : starts[key] + size]
        stored.setdefault(name, {})[kind] = part.to(DTYPES[dtype]).reshape(shape)
        starts[key] += size
    return stored


def pack_bits(levels: np.ndarray, bits: int) -> torch.Tensor:
    """Whole numbers from 0 to 2^bits - 1 (at most 8 bits), packed without gaps into bytes, highest bit first."""
    columns = np.unpackbits(levels.astype(np.uint8).reshape(-1, 1), axis=1)[:, 8 - bits :]
    return torch.from_numpy(np.packbits(columns))


def unpack_bits(packed: torch.Tensor, bits: int, count: int) -> np.ndarray:
    """The first `count` numbers that `pack_bits` has packed, as uint8."""
    columns = np.unpackbits(packed.numpy(), count=count * bits).reshape(count, bits)
    return np.packbits(np.pad(columns, ((0, 0), (8 - bits, 0))), axis=1).reshape(-1)
