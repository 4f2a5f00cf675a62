"""Wanda (Sun et al. 2023, arXiv 2306.11695): weights times the norm of their inputs; what is kept is not updated."""

import torch

from baselines.layerwise.choice import apportioned, cheapest, two_of_four


def prune(
    weight: torch.Tensor, squares: torch.Tensor, structure: str, sparsity: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Remove the entries of lowest |W_ij| ‖X_j‖, compared within each row (section 3, equation 1).

    Args:
        weight: (rows, columns). squares: (columns,), mean square of the inputs.
        structure: "element" or "2:4". sparsity: share of the entries that is removed. Rows lose equal numbers, or
            numbers that differ by one if the share is not a whole number of entries.

    Returns:
        The weight with zeros, and bool (rows, columns), True = removed.

    Raises:
        ValueError: 2:4, and the number of columns is not a multiple of four.
    """
    costs = weight.abs() * squares.sqrt()
    rows, columns = costs.shape
    removed = two_of_four(costs) if structure == "2:4" else cheapest(costs, apportioned([columns] * rows, sparsity))
    return weight.masked_fill(removed, 0.0), removed
