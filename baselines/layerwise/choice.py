"""Which entries of a layer are removed, with exact counts."""

import torch

from baselines.llm_surgeon.costs import semi_structured_costs
from ken.selection import rank_scores


def two_of_four(costs: torch.Tensor) -> torch.Tensor:
    """Bool (rows, columns), True for the two cheapest of every four neighbours in a row.

    Raises:
        ValueError: the number of columns is not a multiple of four.
    """
    return semi_structured_costs(costs).isfinite()


def cheapest(costs: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Bool (groups, entries), True for the `counts` (groups,) cheapest entries of every group; ties: the first."""
    return rank_scores(-costs) < counts.to(costs.device)[:, None]


def apportioned(sizes: list[int], share: float) -> torch.Tensor:
    """(groups,): a share of every group, rounded up or down so that the sum is round(share · sum of the sizes)."""
    ends = (torch.tensor([0, *sizes], dtype=torch.float64).cumsum(0) * share).round()
    return ends.diff().long()
