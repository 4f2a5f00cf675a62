"""Updates as integer levels of a few bits with scales, to the nearest level or by unbiased rounding.

All arithmetic is in float32 on the CPU, one rounding an operation, so that levels and restored values are the same on
every machine.
"""

import torch

BITS = (16, 8, 4, 3, 2, 1)
"""Widths of a level; 32 bits are values as they are, without a level."""
CLIPS = (1.0, 0.85, 0.7, 0.55)
"""Candidates for the largest level, relative to the largest update of a group."""


def largest_level(bits: int) -> int:
    """Levels are -L to L without a gap for 3 bits and more; without 0 for 2 bits (L = 2) and 1 bit (L = 1)."""
    return 2 ** (bits - 1) - 1 if bits >= 3 else bits


def scales_per_group(bits: int) -> int:
    """Scales that one group of updates needs: with 2 bits each of the two sizes has one."""
    return 2 if bits == 2 else 1


def quantize(updates: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Nearest levels.

    Args:
        updates: (g, m) float32, groups of updates that share their scales.
        bits: one of `BITS`.

    Returns:
        int16 levels (g, m), and scales (g, `scales_per_group`), float32 with the precision in which they are stored.
    """
    sizes = updates.abs()
    if bits == 1:
        return _signs(updates), stored_scales(sizes.mean(1, keepdim=True), bits)
    if bits == 2:
        return _two_sizes(updates, sizes)
    unclipped = sizes.amax(1, keepdim=True) / largest_level(bits)
    best = _least_error(updates, unclipped, bits) if bits < 8 else stored_scales(unclipped, bits)
    return _nearest(updates, best, bits).to(torch.int16), best


def round_unbiased(updates: torch.Tensor, step: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """floor(x) + Bernoulli(x - floor(x)) for x = update / step, so that step times the mean level is the update."""
    if not step:
        return torch.zeros(updates.shape, dtype=torch.int32)
    scaled = updates / step
    floor = scaled.floor()
    drawn = torch.rand(updates.shape, generator=generator)
    return (floor + (drawn < scaled - floor)).to(torch.int32)


def dequantize(levels: torch.Tensor, scales: torch.Tensor, bits: int) -> torch.Tensor:
    """(g, m) float32 updates of levels and scales."""
    if bits != 2:
        return levels.to(torch.float32) * scales[:, :1]
    sizes = torch.where(levels.abs() == 2, scales[:, 1:], scales[:, :1])
    return sizes * levels.sign().to(torch.float32)


def stored_scales(scales: torch.Tensor, bits: int) -> torch.Tensor:
    """Scales rounded to what the file holds: float32 for 16 bits, else bfloat16."""
    return scales if bits == 16 else scales.to(torch.bfloat16).to(torch.float32)


def _signs(updates: torch.Tensor) -> torch.Tensor:
    return torch.where(updates < 0, -1, 1).to(torch.int16)


def _nearest(updates: torch.Tensor, scales: torch.Tensor, bits: int) -> torch.Tensor:
    """Nearest levels, as float32."""
    largest = largest_level(bits)
    return (updates / torch.where(scales > 0, scales, 1)).round_().clamp_(-largest, largest)


def _least_error(updates: torch.Tensor, unclipped: torch.Tensor, bits: int) -> torch.Tensor:
    """The scales of least squared error among those that clip the largest levels at `CLIPS`."""
    candidates = [stored_scales(unclipped * clip, bits) for clip in CLIPS]
    errors = [_nearest(updates, c, bits).mul_(c).sub_(updates).square_().sum(1, keepdim=True) for c in candidates]
    chosen = torch.cat(errors, 1).argmin(1, keepdim=True)
    return torch.cat(candidates, 1).gather(1, chosen)


def _two_sizes(updates: torch.Tensor, sizes: torch.Tensor, rounds: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Two sizes by Lloyd's rule on |update|, beginning with half and one and a half times the mean."""
    mean = sizes.mean(1, keepdim=True)
    small, large = 0.5 * mean, 1.5 * mean
    for _ in range(rounds):
        upper = sizes > (small + large) / 2
        count = upper.sum(1, keepdim=True)
        total = (sizes * upper).sum(1, keepdim=True)
        large = torch.where(count > 0, total / count.clamp(min=1), large)
        others = sizes.shape[1] - count
        small = torch.where(others > 0, (sizes.sum(1, keepdim=True) - total) / others.clamp(min=1), small)
    scales = stored_scales(torch.cat([small, large], 1), 2)
    upper = sizes > scales.sum(1, keepdim=True) / 2
    return _signs(updates) * torch.where(upper, 2, 1).to(torch.int16), scales
