"""Masks of kept entries in little memory: bools take a byte an entry, for a large model more than its file."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from ken.positions import unpacked
from ken.tensors import indices_of

_SPARSE = 8  # indices up to one kept entry in so many, else a bit for every entry


@dataclass(frozen=True)
class _Packed:
    """Kept entries of one tensor: ascending indices, or bits."""

    shape: torch.Size
    kept: int
    indices: torch.Tensor | None
    bits: np.ndarray | None

    @classmethod
    def of(cls, mask: torch.Tensor) -> "_Packed":
        flat = mask.reshape(-1).cpu()
        kept = int(np.count_nonzero(flat.numpy()))
        if kept * _SPARSE <= flat.numel():
            narrow = torch.int32 if flat.numel() < 2**31 else torch.int64
            return cls(mask.shape, kept, indices_of(flat).to(narrow), None)
        return cls(mask.shape, kept, None, np.packbits(flat.numpy()))

    @property
    def entries(self) -> int:
        return self.shape.numel()

    def blocks(self, size: int) -> Iterator[torch.Tensor]:
        """Row-major indices of the kept entries, int64, by blocks of `size` entries of the tensor."""
        if self.indices is None:
            for start in range(0, self.entries, size):
                bits = self.bits[start // 8 : (start + size) // 8]
                block = unpacked(bits, min(size, self.entries - start))
                indices = np.flatnonzero(block)
                indices += start
                yield torch.from_numpy(indices)
        else:
            ends = torch.arange(0, self.entries + size, size, dtype=torch.int64).to(self.indices.dtype)
            bounds = torch.searchsorted(self.indices, ends).tolist()
            for start, stop in itertools.pairwise(bounds):
                yield self.indices[start:stop].long()

    def mask(self) -> torch.Tensor:
        if self.indices is None:
            return torch.from_numpy(unpacked(self.bits, self.entries)).reshape(self.shape)
        return torch.zeros(self.entries, dtype=torch.bool).scatter_(0, self.indices.long(), True).reshape(self.shape)


class Masks(Mapping[str, torch.Tensor]):
    """Name -> bool mask, True = kept, which is unpacked at every access."""

    def __init__(self, masks: Mapping[str, torch.Tensor]):
        self._packed = {name: _Packed.of(mask) for name, mask in masks.items()}

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._packed[name].mask()

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)

    def __contains__(self, name: object) -> bool:
        return name in self._packed

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a mask."""
        return tuple(self._packed[name].shape)

    def blocks(self, name: str, size: int) -> Iterator[torch.Tensor]:
        """Row-major indices of the kept entries, ascending, int64, by blocks of `size` entries of the tensor.

        Args:
            size: a multiple of 8.
        """
        return self._packed[name].blocks(size)

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        """Name -> (kept entries, all entries)."""
        return {name: (packed.kept, packed.entries) for name, packed in self._packed.items()}

    @property
    def bytes(self) -> int:
        """Memory held."""
        parts = (packed.bits if packed.indices is None else packed.indices for packed in self._packed.values())
        return sum(part.nbytes for part in parts)
