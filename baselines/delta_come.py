"""Delta-CoMe: singular vectors of the update with fewer bits the smaller their singular value (Ping et al. 2024)."""

import math

import torch

from baselines.base import register
from baselines.estimates import FLOAT32_BYTES
from baselines.matrix_updates import EncodedTensor
from baselines.packed_files import Parts, pack_bits, unpack_bits
from baselines.svd import Spectral
from ken.low_rank import Spectrum, factors

PRECISIONS = ((2, 8), (32, 3), (math.inf, 2))
"""Number of singular vectors, largest first, and bits of each of their entries: the paper's "triple precision"."""
CLIPS = (1.0, 0.85, 0.7, 0.55, 0.4, 0.3)
"""Largest level in units of the largest entry; for each vector the best in squared error is used."""


class DeltaCoMe(Spectral):
    """W0 + U V from the singular vectors of Δ: the first 2 with 8 bits an entry, the next 32 with 3, all others with 2.

    A budget is the mean bits of an entry of Δ. As many vectors as fit are stored, at least one, each with a float32
    scale. The paper's setting is 1 bit. It treats linear layers alone and quantises with GPTQ, which needs calibration
    texts. Here all matrices of the body are treated, and every singular vector is rounded to uniform levels by itself.
    """

    name = "delta-come"
    budgets = (0.25, 0.5, 1)
    unit = "bits"

    def encode(self, update: torch.Tensor, budget: float | int, prepared: Spectrum) -> EncodedTensor:
        rows, n = update.shape
        counts = vector_counts(rows, n, budget)
        left, right = factors(update, sum(counts.values()), prepared)
        parts, start = {}, 0
        for bits, count in counts.items():
            vectors = slice(start, start + count)
            left_levels, left_steps = quantise(left.T[vectors], bits)
            right_levels, right_steps = quantise(right[vectors], bits)
            parts[f"levels{bits}"] = pack_bits(torch.cat([left_levels, right_levels], dim=1).numpy(), bits)
            parts[f"scales{bits}"] = left_steps * right_steps
            start += count
        return EncodedTensor(parts, start * (rows + n))

    def decode(self, parts: Parts, rows: int, n: int) -> torch.Tensor:
        update = torch.zeros(rows, n)
        for _, bits in PRECISIONS:
            if f"levels{bits}" in parts:
                scales = parts[f"scales{bits}"]
                levels = unpack_bits(parts[f"levels{bits}"], bits, len(scales) * (rows + n))
                centred = torch.from_numpy(levels).float().view(len(scales), rows + n) - (2**bits - 1) / 2
                left, right = centred.split([rows, n], dim=1)
                update += (left.T * scales) @ right
        return update

    def matrix_bytes(self, rows: int, n: int, budget: float | int) -> float:
        counts = vector_counts(rows, n, budget)
        return sum(count * ((rows + n) * bits / 8 + FLOAT32_BYTES) for bits, count in counts.items())


def vector_counts(rows: int, n: int, budget: float) -> dict[int, int]:
    """Bits of an entry -> number of singular vectors stored with them, without zeros; scales are not counted."""
    left, most, counts = budget * rows * n / (rows + n), min(rows, n), {}
    for limit, bits in PRECISIONS:
        counts[bits] = int(min(limit, most, left // bits))
        left, most = left - bits * counts[bits], most - counts[bits]
    if not any(counts.values()):
        counts[PRECISIONS[0][1]] = 1
    return {bits: count for bits, count in counts.items() if count}


def quantise(vectors: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors (count, n) in float32 -> levels in uint8 and the step of each vector.

    A level q stands for step * (q - (2^bits - 1) / 2), so that the levels lie symmetrically about zero.
    """
    half = 2 ** (bits - 1)
    tops = vectors.abs().amax(dim=1)
    levels, steps, errors = None, torch.zeros_like(tops), torch.full_like(tops, math.inf)
    for clip in CLIPS:
        tried = (tops * clip / half).clamp(min=torch.finfo(torch.float32).tiny)
        rounded = (vectors / tried[:, None]).floor().clamp(-half, half - 1)
        error = ((rounded + 0.5) * tried[:, None] - vectors).square().sum(dim=1)
        better = error < errors
        levels = rounded if levels is None else torch.where(better[:, None], rounded, levels)
        steps, errors = torch.where(better, tried, steps), torch.where(better, error, errors)
    return (levels + half).to(torch.uint8), steps


register(DeltaCoMe())
