"""SparseGPT (Frantar & Alistarh 2023, arXiv 2301.00774): columns removed in order, later ones updated to compensate."""

import torch

from baselines.layerwise.choice import apportioned, cheapest, two_of_four
from baselines.llm_surgeon.costs import GROUP

DAMPING = 0.01  # added to the diagonal, in units of its mean
BLOCK = 128  # columns whose removed entries are chosen together, and whose updates of later columns are applied at once


def prune(
    weight: torch.Tensor, moments: torch.Tensor, structure: str, sparsity: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Remove entries and update later columns so that the layer's outputs change little (algorithm 1).

    With H the damped moments, column j's entries are removed or kept when the columns before it are fixed. Then the
    inverse that counts is that of H without these columns; row j of the factor U with H⁻¹ = UᵀU and U upper triangular
    is its first row over the root of its first entry. An entry costs (W_ij / U_jj)², and its removal changes the later
    columns of its row by -W_ij / U_jj · U_j.

    Args:
        weight: (rows, columns). moments: (columns, columns), mean of x xᵀ over the inputs x.
        structure: "element", chosen in blocks of columns over all rows, or "2:4", chosen when its first column is
            reached. sparsity: share of the entries that is removed.

    Returns:
        The updated weight, and bool (rows, columns), True = removed.

    Raises:
        ValueError: the moments are not finite; or 2:4, and the number of columns is not a multiple of four.
    """
    values, columns = weight.clone(), weight.shape[1]
    triangle = _inverse_triangle(moments)
    removed = torch.zeros_like(values, dtype=torch.bool)
    blocks = [slice(start, min(start + BLOCK, columns)) for start in range(0, columns, BLOCK)]
    counts = apportioned([len(values) * (block.stop - block.start) for block in blocks], sparsity)
    for block, count in zip(blocks, counts, strict=True):
        part, own = values[:, block], triangle[block, block]
        number = None if structure == "2:4" else count
        mask, errors = _prune_block(part, own, number)  # changes `values` through its view `part`
        removed[:, block] = mask
        values[:, block.stop :] -= errors @ triangle[block, block.stop :]
    return values, removed


def _prune_block(
    values: torch.Tensor, triangle: torch.Tensor, count: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prune some columns in place.

    Args:
        values: (rows, columns). triangle: (columns, columns), upper.
        count: entries to remove, or None for 2:4.

    Returns:
        Bool (rows, columns), True = removed; and (rows, columns), the removed values over U_jj.
    """
    errors, scales = torch.zeros_like(values), triangle.diagonal()
    removed = torch.zeros_like(values, dtype=torch.bool)
    if count is not None:
        removed = cheapest((values / scales).square().reshape(1, -1), count[None]).view_as(values)
    for j in range(values.shape[1]):
        if count is None and j % GROUP == 0:
            group = slice(j, j + GROUP)
            removed[:, group] = two_of_four((values[:, group] / scales[group]).square())
        errors[:, j] = torch.where(removed[:, j], values[:, j] / scales[j], 0.0)
        values[:, j:] -= errors[:, j, None] * triangle[j, j:]
        values[:, j].masked_fill_(removed[:, j], 0.0)  # exactly
    return removed, errors


def _inverse_triangle(moments: torch.Tensor) -> torch.Tensor:
    """U, upper triangular, with H⁻¹ = UᵀU, where H is damped.

    Raises:
        ValueError: H is not positive definite.
    """
    damping = DAMPING * moments.diagonal().mean()
    damped = moments + damping * torch.eye(len(moments)).to(moments)
    lower, failed = torch.linalg.cholesky_ex(damped)
    if failed or not damped.isfinite().all():
        raise ValueError("the inputs of a layer are all zero or not finite on the calibration text.")
    return torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)
