"""What is removed, by one threshold over all layers, and how what remains adapts (LLM Surgeon, 3.3 and 3.4)."""

import torch

from baselines.llm_surgeon.curvature import Factors


def cheapest_elements(costs: dict[str, torch.Tensor], count: int) -> dict[str, torch.Tensor]:
    """Masks, True = removed, of exactly `count` entries of lowest cost over all layers, the first of equal ones.

    Raises:
        ValueError: so many entries of finite cost do not exist.
    """
    flat = torch.cat([found.reshape(-1) for found in costs.values()])
    order = flat.sort(stable=True).indices[:count]
    if len(order) < count or (count and not flat[order[-1]] < torch.inf):
        raise ValueError(f"{count} entries cannot be removed from {int((flat < torch.inf).sum())}: keep more.")
    removed = torch.zeros(flat.shape, dtype=torch.bool, device=flat.device)
    removed[order] = True
    parts = removed.split([found.numel() for found in costs.values()])
    return {name: part.view(costs[name].shape) for name, part in zip(costs, parts, strict=True)}


def cheapest_structures(
    rows: dict[str, torch.Tensor], columns: dict[str, torch.Tensor], count: int
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Masks of the removed rows and columns of every layer, by one threshold on the costs of both.

    Rows and columns are removed in the order of their costs until their entries, those in a removed row and a removed
    column counted once, are `count` or more: less than one row or column above it.

    Args:
        rows, columns: layer -> costs, (rows,) and (columns,).
        count: entries to remove of all layers' weights.
    """
    removed = {name: (torch.zeros(len(rows[name])).bool(), torch.zeros(len(columns[name])).bool()) for name in rows}
    left = {name: [len(rows[name]), len(columns[name])] for name in rows}
    structures = [
        (cost, layer, axis, place)
        for layer, name in enumerate(rows)
        for axis, costs in enumerate((rows[name], columns[name]))
        for place, cost in enumerate(costs.tolist())
    ]
    names = list(rows)
    for _, layer, axis, place in sorted(structures):
        if count <= 0:
            break
        name = names[layer]
        removed[name][axis][place] = True
        left[name][axis] -= 1
        count -= left[name][1 - axis]
    return {name: (masks[0].to(rows[name].device), masks[1].to(rows[name].device)) for name, masks in removed.items()}


def remove_structures(
    deviation: torch.Tensor, factors: Factors, rows: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """Deviation (rows, inputs) after whole rows and columns became 0 and the rest was updated jointly.

    The change X of the kept block solves G_KK X A_JJ = (G D' A)_KJ, D' the removed part of the deviation: the exact
    optimum, because what is kept is a product of kept rows K and kept inputs J. With no column removed it is
    D - G⁻¹[:, R] (G⁻¹[R, R])⁻¹ D[R, :], with no row D - D[:, C] (A⁻¹[C, C])⁻¹ A⁻¹[C, :].

    Args:
        factors: damped G and A.
        rows, columns: bool (rows,) and (inputs,), True = removed.
    """
    kept_rows, kept_columns = ~rows, ~columns
    kept = kept_rows[:, None] & kept_columns
    pull = (factors.g @ deviation.masked_fill(kept, 0.0) @ factors.a)[kept_rows][:, kept_columns]
    g, a = factors.g[kept_rows][:, kept_rows], factors.a[kept_columns][:, kept_columns]
    change = torch.linalg.solve(a, torch.linalg.solve(g, pull).T).T
    updated = torch.zeros_like(deviation)
    updated[kept] = deviation[kept] + change.reshape(-1)
    return updated


def remove_elements(
    deviation: torch.Tensor, inverses: Factors, removed: torch.Tensor, max_correlate: int | None = None
) -> torch.Tensor:
    """Deviation (rows, inputs) after any set of entries became 0 and the rest was updated.

    D - F⁻¹Eᵀ (E F⁻¹ Eᵀ)⁻¹ E D with F⁻¹ = G⁻¹ ⊗ A⁻¹, of which only the entries between removed elements are formed. In
    blocks, removed elements of different blocks count as uncorrelated, in the order of rows, and their updates add up.

    Args:
        inverses: G⁻¹ and A⁻¹ of damped factors.
        removed: bool (rows, inputs).
        max_correlate: elements of a block, for a block of n takes memory n² and time n³; None: all are one block.
    """
    places = removed.nonzero()
    forces = torch.zeros_like(deviation)
    for block in places.split(max_correlate or max(1, len(places))):
        i, j = block.T
        between = inverses.g[i][:, i] * inverses.a[j][:, j]
        forces[i, j] = torch.cholesky_solve(deviation[i, j, None], torch.linalg.cholesky(between))[:, 0]
    return (deviation - inverses.g @ forces @ inverses.a).masked_fill(removed, 0.0)


def remove_elements_independently(deviation: torch.Tensor, inverses: Factors, removed: torch.Tensor) -> torch.Tensor:
    """`remove_elements` as if each removed element were the only one: what blocks of one element give."""
    scale = inverses.g.diagonal()[:, None] * inverses.a.diagonal()
    forces = (deviation / scale).masked_fill(~removed, 0.0)
    return (deviation - inverses.g @ forces @ inverses.a).masked_fill(removed, 0.0)


def remove_structures_independently(
    deviation: torch.Tensor, inverses: Factors, rows: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """Deviation after rows and columns became 0, the updates that each alone would ask for added up.

    D - Σ_r G⁻¹[:, r] D[r, :] / [G⁻¹]_rr - Σ_c D[:, c] A⁻¹[c, :] / [A⁻¹]_cc, then 0 in what is removed.
    """
    g, a = inverses.g[:, rows] / inverses.g.diagonal()[rows], inverses.a[columns] / inverses.a.diagonal()[columns, None]
    updated = deviation - g @ deviation[rows] - deviation[:, columns] @ a
    return updated.masked_fill(rows[:, None] | columns, 0.0)
