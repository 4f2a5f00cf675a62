"""What pruning by curvature needs: bytes and floating-point operations, from the shapes of linear layers."""

from collections.abc import Mapping

from baselines.estimates import FLOAT32_BYTES, count_entries
from baselines.llm_surgeon.curvature import HELD_BYTES
from baselines.llm_surgeon.schedule import Settings

FLOAT64_BYTES = 8
MASK_BYTES = 2  # an entry: what is removed, and what was before
OPEN_FACTORS, OPEN_WEIGHTS = 3, 6  # copies in float64 while a layer is open: factor, triangle, inverse; costs, updates
ITERATIONS = 60  # of conjugate gradients in a layer, the mean on two small BLOOM models (docs/surgeon.md)

Linear = Mapping[str, tuple[int, int]]
"""Layer -> (outputs, inputs)."""


def factor_entries(linear: Linear) -> int:
    """Entries of the factors of all layers, as if no layers shared their inputs."""
    return sum(outputs**2 + (inputs + 1) ** 2 for outputs, inputs in linear.values())


def memory_bytes(linear: Linear) -> float:
    """Bytes of one shot besides the model: factors of all layers (in memory or in a file), masks, one open layer."""
    one = max(outputs**2 + (inputs + 1) ** 2 for outputs, inputs in linear.values())
    held = max(min(factor_entries(linear) * FLOAT32_BYTES, HELD_BYTES), one * FLOAT32_BYTES)
    opened = OPEN_FACTORS * one + OPEN_WEIGHTS * max(outputs * inputs for outputs, inputs in linear.values())
    return held + MASK_BYTES * count_entries(linear) + FLOAT64_BYTES * opened


def estimate_flops(linear: Linear, tokens: float) -> float:
    """Operations of the sums of outer products over a number of tokens, besides gradients."""
    return 2 * tokens * factor_entries(linear)


def shot_flops(linear: Linear, settings: Settings) -> float:
    """Operations of one shot, without the curvature: inverses, and updates of what remains."""
    inversions = (settings.kind == "obs") + (settings.update and not settings.solves_factors)
    iterations = 0
    if settings.update:
        iterations = ITERATIONS if settings.correlated and not settings.solves_factors else 2
    return sum(
        inversions * (outputs**3 + inputs**3) + iterations * 2 * outputs * inputs * (outputs + inputs)
        for outputs, inputs in linear.values()
    )
