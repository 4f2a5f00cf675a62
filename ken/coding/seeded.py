"""Positions derived from a seed, by a generator that belongs to the file format.

A row of n entries is cut into k cells of nearly equal length, and one entry of each cell is kept: a stratified draw, so
positions ascend, never collide, and need one random number each. The generator is SplitMix64 (Steele, Lea and Flood,
"Fast splittable pseudorandom number generators", OOPSLA 2014, figure 17) as a function of a counter. It is written out
here because the streams of torch and numpy are no file format: they may change with any release.
"""

import hashlib

import numpy as np

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def key_of(seed: int, name: str) -> int:
    """Key of the generator of one tensor: the first 8 bytes of SHA-256("<seed>\\0<name>"), big-endian."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{name}".encode()).digest()[:8], "big")


def random_bits(key: int, counters: np.ndarray) -> np.ndarray:
    """SplitMix64 at uint64 counters: 64 random bits each, a function of key and counter alone.

    Example:
        >>> [hex(value) for value in random_bits(0, np.arange(3, dtype=np.uint64)).tolist()]
        ['0xe220a8397b1dcdaf', '0x6e789e6aa1b965f4', '0x6c45d188009454f']
    """
    state = (counters + np.uint64(1)) * _STEP  # wraps, as the definition wants
    state += np.uint64(key)
    state ^= state >> np.uint64(30)
    state *= _FIRST
    state ^= state >> np.uint64(27)
    state *= _SECOND
    state ^= state >> np.uint64(31)
    return state


def cells(n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """First entry and length of each of the k cells of a row, both (k,) int64."""
    edges = np.arange(k + 1, dtype=np.int64) * n // k
    return edges[:-1], np.diff(edges)


def columns(key: int, rows: np.ndarray, n: int, k: int) -> np.ndarray:
    """Kept columns of some rows of a tensor, ascending in each row.

    Args:
        rows: (r,) int64, their numbers in the tensor.
        n: entries of a row. k: kept entries of a row, 1 to n.

    Returns:
        (r, k) int64.
    """
    starts, lengths = cells(n, k)
    counters = rows.astype(np.uint64)[:, None] * np.uint64(k) + np.arange(k, dtype=np.uint64)
    upper = random_bits(key, counters) >> np.uint64(32)
    return starts + (upper * lengths.astype(np.uint64) >> np.uint64(32)).astype(np.int64)
