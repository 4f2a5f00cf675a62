"""The updates of one block of rows as bytes: which rows changed, positions, scales and levels (docs/format.md)."""

import zlib
from dataclasses import dataclass

import numpy as np
import torch

from ken import positions, selection
from ken.coding import levels, seeded

POSITIONS = ("stored", "seed", "base")
GROUP = 64
"""Entries that share their scales, at least."""


@dataclass(frozen=True)
class TensorCoding:
    """How the updates of one tensor are coded.

    Attributes:
        bits: of a level, see `levels.BITS`.
        positions: one of `POSITIONS`, or "all": every entry of a changed row is kept.
        k: entries kept of a row by "seed" and "base"; 0 otherwise.
        group: consecutive kept entries that share their scales; 0: all of a block.
    """

    bits: int
    positions: str
    k: int = 0
    group: int = 0

    @classmethod
    def of_rows(cls, bits: int, kind: str, k: int) -> "TensorCoding":
        """Scales for every row, or for as many rows as have `GROUP` entries."""
        return cls(bits, kind, 0 if kind in ("stored", "all") else k, k * -(-GROUP // max(1, k)))


@dataclass(frozen=True)
class CodedBlock:
    """Bytes of a block.

    Attributes:
        changed: number of changed rows. kept: number of kept entries.
        rows: which rows changed. mask: which entries of these are kept, if positions are stored, else empty.
        scales, levels: deflated, or as they are where that is shorter.
        check: CRC-32 of the positions that were derived from the base, else 0.
    """

    changed: int
    kept: int
    rows: positions.Coded
    mask: positions.Coded
    scales: bytes
    levels: bytes
    check: int = 0


NO_MASK = positions.Coded("none", 0, b"")


def chosen_columns(coding: TensorCoding, key: int, rows: np.ndarray, base: torch.Tensor) -> torch.Tensor:
    """(r, k) kept columns of changed rows, for positions that are not stored.

    Args:
        key: of the tensor's generator.
        rows: (r,) their numbers in the tensor. base: (r, n) their pre-trained values.
    """
    n = base.shape[1]
    if coding.positions == "seed":
        return torch.from_numpy(seeded.columns(key, rows, n, coding.k))
    if coding.positions == "base":
        return selection.select(base, base, coding.k).nonzero()[:, 1].reshape(len(base), coding.k)
    return torch.arange(n).expand(len(base), n)


def encode(coding: TensorCoding, changed: torch.Tensor, kept: torch.Tensor, updates: torch.Tensor) -> CodedBlock:
    """Code updates to their nearest levels.

    Args:
        changed: (r,) bool, rows with an update.
        kept: if positions are stored, the flat bool mask of the kept entries of the changed rows, else their columns.
        updates: (N,) float32, the kept updates of the changed rows in row-major order.
    """
    parts = [levels.quantize(group, coding.bits) for group in _groups(updates, coding.group)]
    flat = torch.cat([part[0].reshape(-1) for part in parts]) if parts else torch.empty(0, dtype=torch.int16)
    scales = torch.cat([part[1].reshape(-1) for part in parts]) if parts else torch.empty(0)
    return from_levels(coding, changed, kept, flat, scales)


def from_levels(
    coding: TensorCoding,
    changed: torch.Tensor,
    kept: torch.Tensor,
    flat: torch.Tensor,
    scales: torch.Tensor,
) -> CodedBlock:
    """Code levels (N,) and the scales of their groups, one after the other; the others are as in `encode`."""
    return CodedBlock(
        int(changed.sum()),
        flat.numel(),
        positions.encode(changed.numpy()),
        positions.encode(kept.reshape(-1).numpy()) if coding.positions == "stored" else NO_MASK,
        _scale_bytes(scales, coding.bits),
        _level_bytes(flat.numpy(), coding.bits),
        _check(kept) if coding.positions == "base" else 0,
    )


def decode(
    coding: TensorCoding, block: CodedBlock, base: torch.Tensor, first_row: int, key: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Flat indices in the block (N,) int64, and updates (N,) float32, of the kept entries.

    Args:
        base: (r, n) pre-trained values of the block. first_row: number of its first row in the tensor.

    Raises:
        ValueError: the bytes hold no such block, or the positions that this machine derives from the base differ.
    """
    r, n = base.shape
    changed = np.flatnonzero(positions.decode(block.rows, r, block.changed))
    if coding.positions == "stored":
        inner = np.flatnonzero(positions.decode(block.mask, changed.size * n, block.kept))
        indices = torch.from_numpy(changed[inner // n] * n + inner % n)
    else:
        columns = chosen_columns(coding, key, changed + first_row, base[changed])
        if coding.positions == "base" and _check(columns) != block.check:
            raise ValueError(
                "the positions derived from the base differ from those of the writer: give the pre-trained values the "
                "sub-network was made from, or, if these are the ones, write it again here."
            )
        indices = (torch.from_numpy(changed)[:, None] * n + columns).reshape(-1)
    if indices.numel() != block.kept:
        raise ValueError(f"it has {block.kept} levels for {indices.numel()} positions: write it again.")
    return indices, _updates(coding, block)


def _updates(coding: TensorCoding, block: CodedBlock) -> torch.Tensor:
    per_group, group = levels.scales_per_group(coding.bits), coding.group or max(1, block.kept)
    flat = torch.from_numpy(_levels(block.levels, block.kept, coding.bits))
    scales = _scales(block.scales, -(-block.kept // group) * per_group, coding.bits).reshape(-1, per_group)
    parts, start = [torch.empty(0)], 0
    for part in _groups(flat, group):
        parts.append(levels.dequantize(part, scales[start : start + len(part)], coding.bits).reshape(-1))
        start += len(part)
    return torch.cat(parts)


def _groups(flat: torch.Tensor, group: int) -> list[torch.Tensor]:
    """The full groups as (g, m), and the shorter last one as (1, m)."""
    group = group or max(1, flat.numel())
    full = flat.numel() // group * group
    parts = [flat[:full].reshape(-1, group), flat[full:].reshape(1, -1)]
    return [part for part in parts if part.numel()]


def _check(columns: torch.Tensor) -> int:
    return zlib.crc32(columns.to(torch.int64).contiguous().numpy().astype("<i8", copy=False))


def _level_bytes(flat: np.ndarray, bits: int) -> bytes:
    """1 or 2 bits a level as they are; wider levels, of which small ones are more frequent, in Huffman codes."""
    if bits == 1:
        return np.packbits(flat < 0).tobytes()
    if bits == 2:
        return np.packbits(np.stack([flat < 0, np.abs(flat) == 2], 1)).tobytes()
    return _deflated(_planes(flat.astype("<i2" if bits > 8 else "<i1")))


def _levels(data: bytes, count: int, bits: int) -> np.ndarray:
    """(count,) int16."""
    if bits > 2:
        width = 2 if bits > 8 else 1
        flat = _unplaned(_inflated(data, count * width), width).astype(np.int16)
        if count and np.abs(flat.astype(np.int32)).max() > levels.largest_level(bits):
            raise ValueError(f"it has a level beyond {levels.largest_level(bits)}: write it again.")
        return flat
    if len(data) != -(-count * bits // 8):
        raise ValueError(f"it has {len(data)} bytes for {count} levels of {bits} bits: write it again.")
    stored = np.unpackbits(np.frombuffer(data, np.uint8), count=count * bits).reshape(count, bits).astype(np.int16)
    signs = 1 - 2 * stored[:, 0]
    return signs if bits == 1 else signs * (1 + stored[:, 1])


def _scale_bytes(scales: torch.Tensor, bits: int) -> bytes:
    if not scales.isfinite().all():
        raise ValueError("an update is too large for a scale: keep values as they are (--values 32bit).")
    whole = scales.view(torch.int32) if bits == 16 else scales.to(torch.bfloat16).view(torch.int16)
    return _deflated(_planes(whole.numpy()))


def _scales(data: bytes, count: int, bits: int) -> torch.Tensor:
    width = 4 if bits == 16 else 2
    whole = torch.from_numpy(_unplaned(_inflated(data, count * width), width))
    scales = whole.view(torch.float32 if bits == 16 else torch.bfloat16).to(torch.float32)
    if not scales.isfinite().all():
        raise ValueError("it has a scale that is not a finite number: write it again.")
    return scales


def _deflated(data: bytes) -> bytes:
    """Raw DEFLATE (RFC 1951) with Huffman codes alone, since there are no repetitions to find."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    return packer.compress(data) + packer.flush() if data else b""


def _inflated(data: bytes, size: int) -> bytes:
    unpacker = zlib.decompressobj(-15)
    try:
        result = unpacker.decompress(data, size + 1) if data else b""
    except zlib.error as error:
        raise ValueError(f"it cannot be inflated ({error}): write it again.") from None
    if len(result) != size:
        raise ValueError(f"it inflates to {len(result)} bytes, expected {size}: write it again.")
    return result


def _planes(flat: np.ndarray) -> bytes:
    """Bytes of integers, all lowest bytes first: each plane has its own distribution."""
    width = flat.dtype.itemsize
    return flat.astype(f"<i{width}").view(np.uint8).reshape(-1, width).T.tobytes()


def _unplaned(data: bytes, width: int) -> np.ndarray:
    planes = np.frombuffer(data, np.uint8).reshape(width, -1)
    return np.ascontiguousarray(planes.T).view(f"<i{width}").reshape(-1).astype(f"i{width}")
