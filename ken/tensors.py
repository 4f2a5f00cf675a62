"""The spec of a tensor, its rows, and its bytes."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
import torch

BLOCK = 2**22
"""Entries read and ranked at once, about: bounds the memory of scores and sorting for very large embeddings.

It is the same for all steps, so that a random choice is the same from memory and from disk.
"""

DTYPES = {
    "F64": torch.float64, "I64": torch.int64, "F32": torch.float32, "I32": torch.int32, "F16": torch.float16,
    "BF16": torch.bfloat16, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""Name in safetensors -> dtype, widest first: in this order every tensor begins at a multiple of its width."""
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def as_rows(tensor: torch.Tensor) -> torch.Tensor:
    """(r, n) view or copy: 2-D as is, 1-D and 0-D one row, more dimensions flattened after the first."""
    if tensor.ndim <= 1:
        return tensor.reshape(1, tensor.numel())
    return tensor.reshape(tensor.shape[0], prod(tensor.shape[1:]))


def row_blocks(r: int, n: int, entries: int | None = None) -> Iterator[slice]:
    """Consecutive row ranges of at most about so many entries, or `BLOCK`; one empty range if there are no rows."""
    height = max(1, (entries or BLOCK) // max(1, n))
    for start in range(0, max(1, r), height):
        yield slice(start, min(r, start + height))


@dataclass(frozen=True)
class TensorSpec:
    """Dtype and shape of a tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: torch.Tensor) -> "TensorSpec":
        """The spec of an existing tensor."""
        return cls(tensor.dtype, tuple(tensor.shape))

    @property
    def size(self) -> int:
        """Number of entries."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """Size of the entries in bytes."""
        return self.size * self.dtype.itemsize

    @property
    def row_shape(self) -> tuple[int, int]:
        """(r, n) of the rows it is read as, see `as_rows`."""
        return (1, self.size) if len(self.shape) <= 1 else (self.shape[0], prod(self.shape[1:]))

    def blocks(self) -> Iterator[slice]:
        """`row_blocks` of the tensor."""
        return row_blocks(*self.row_shape)


def indices_of(mask: torch.Tensor) -> torch.Tensor:
    """Row-major indices of the True entries of a bool mask, ascending, int64, (entries,).

    On a CPU by NumPy: `torch.nonzero` takes 20 times as long if half of the entries are True.
    """
    flat = mask.reshape(-1)
    return torch.from_numpy(np.flatnonzero(flat.numpy())) if mask.device.type == "cpu" else flat.nonzero()[:, 0]


def entries_at(tensor: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Entries of a tensor where a bool mask is True, in row-major order, as `masked_select` gives them."""
    return tensor.reshape(-1).index_select(0, indices_of(mask))


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """The bytes of a tensor's entries, in row-major order."""
    return memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
