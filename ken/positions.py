"""Positions of kept entries as bytes, close to the entropy of the choice.

There are two codings: one bit per entry, or the gaps between the rarer kind of entries (kept or reset) in Rice codes.
The smaller one is used, so the size is within a few percent of log2 C(n, k) per row at every share.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Coded:
    """Coded positions of one tensor.

    Attributes:
        coding: "all", "none", "bits" or "gaps".
        low_bits: for "gaps", the number of bits of a gap that are stored unchanged; the rest is stored in unary.
        data: the bytes.
    """

    coding: str
    low_bits: int
    data: bytes


def encode(mask: np.ndarray) -> Coded:
    """Code a flat bool mask of entries in row-major order."""
    kept = int(np.count_nonzero(mask))
    if kept in (0, mask.size):
        return Coded("none" if kept == 0 else "all", 0, b"")
    gaps = _gaps(np.flatnonzero(mask == _rarer(kept, mask.size)))
    low_bits, size = _best_low_bits(gaps)
    if size >= mask.size:
        return Coded("bits", 0, np.packbits(mask).tobytes())
    return Coded("gaps", low_bits, _rice(gaps, low_bits))


def decode(coded: Coded, size: int, kept: int) -> np.ndarray:
    """The flat bool mask of `size` entries, `kept` of them True.

    Raises:
        ValueError: the bytes do not code such a mask.
    """
    if coded.coding in ("all", "none"):
        mask = np.full(size, coded.coding == "all")
    elif coded.coding == "bits":
        mask = unpacked(np.frombuffer(coded.data, np.uint8), size)
    elif coded.coding == "gaps":
        rarer = _rarer(kept, size)
        gaps = _unrice(coded.data, coded.low_bits, kept if rarer else size - kept)
        indices = np.cumsum(gaps + 1) - 1
        if indices.size and indices[-1] >= size:
            raise ValueError(f"coded positions reach entry {indices[-1]} of a tensor with {size} entries.")
        mask = np.full(size, not rarer)
        mask[indices] = rarer
    else:
        raise ValueError(f"unknown coding of positions {coded.coding!r}.")
    if np.count_nonzero(mask) != kept:
        raise ValueError(f"coded positions hold {np.count_nonzero(mask)} kept entries, expected {kept}.")
    return mask


def unpacked(bits: np.ndarray, count: int | None = None) -> np.ndarray:
    """(count,) bool, by default all; NumPy finds the True entries of bools many times as fast as those of bytes."""
    return np.unpackbits(bits, count=count).view(bool)


def _rarer(kept: int, size: int) -> bool:
    return 2 * kept <= size


def _gaps(indices: np.ndarray) -> np.ndarray:
    return np.diff(indices, prepend=-1) - 1


def _best_low_bits(gaps: np.ndarray) -> tuple[int, int]:
    """Low bits of the smallest Rice code, and its size in bits."""
    guess = int(np.log2(gaps.mean() + 1))
    sizes = {b: gaps.size * (b + 1) + int((gaps >> b).sum()) for b in range(max(0, guess - 2), guess + 2)}
    best = min(sizes, key=sizes.get)
    return best, sizes[best]


def _rice(gaps: np.ndarray, low_bits: int) -> bytes:
    low = np.empty((gaps.size, low_bits), np.uint8)
    for bit in range(low_bits):
        low[:, bit] = (gaps >> bit) & 1
    ends = np.cumsum((gaps >> low_bits) + 1) - 1  # a quotient q is q zeros and a one
    unary = np.zeros(ends[-1] + 1, np.uint8)
    unary[ends] = 1
    return np.packbits(low).tobytes() + np.packbits(unary).tobytes()


def _unrice(data: bytes, low_bits: int, count: int) -> np.ndarray:
    stored = np.frombuffer(data, np.uint8)
    split = (count * low_bits + 7) // 8
    low = np.unpackbits(stored[:split], count=count * low_bits).reshape(count, low_bits)
    ends = np.flatnonzero(unpacked(stored[split:]))
    if ends.size != count:
        raise ValueError(f"coded positions hold {ends.size} gaps, expected {count}.")
    gaps = _gaps(ends) << low_bits
    for bit in range(low_bits):
        gaps |= low[:, bit].astype(np.int64) << bit
    return gaps
