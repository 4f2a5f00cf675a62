"""Kept neighbours of kept entries, and their expected number for an even random choice.

The paper claims that kept entries are spread evenly. The two means are compared to check this.
"""

import numpy as np
import torch

from ken.tensors import as_rows


def neighbour_counts(mask: torch.Tensor) -> np.ndarray:
    """Kept neighbours (up, down, left, right) of every kept entry.

    Args:
        mask: bool, True = kept; any shape, read as rows (`ken.tensors.as_rows`).

    Returns:
        (r, n) int8: 0 to 4 for kept entries, -1 for the others. Entries beyond the border are not kept.

    Example:
        >>> neighbour_counts(torch.tensor([[True, True, False], [True, False, True]]))
        array([[ 2,  1, -1],
               [ 1, -1,  0]], dtype=int8)
    """
    kept = as_rows(mask).cpu().numpy()
    padded = np.pad(kept, 1).astype(np.int8)
    counts = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    return np.where(kept, counts, np.int8(-1))


def expected_neighbours(mask: torch.Tensor) -> float:
    """Expected mean of `neighbour_counts` if each row kept as many entries, chosen uniformly at random."""
    kept = as_rows(mask).cpu().numpy()
    n, counts = kept.shape[1], kept.sum(1).astype(float)
    if counts.sum() == 0:
        return 0.0
    pairs = (counts * (counts - 1)).sum() / n + (counts[1:] * counts[:-1]).sum() / n
    return float(2 * pairs / counts.sum())
