"""The choice of what to remove, by one threshold over all layers, and updates of the rest (LLM Surgeon, 3.3, 3.4)."""

import torch

from baselines.llm_surgeon.curvature import Factors

TOLERANCE = 1e-3  # the rise of the loss is then that of the optimum to four digits (docs/surgeon.md)
MAX_ITERATIONS = 10_000


def cheapest_elements(costs: dict[str, torch.Tensor], count: int) -> dict[str, torch.Tensor]:
    """Masks, True = removed, of exactly `count` entries of lowest cost over all layers; ties are broken by position.

    Raises:
        ValueError: fewer than `count` entries have a finite cost.
    """
    flat = torch.cat([layer.reshape(-1) for layer in costs.values()])
    order = flat.sort(stable=True).indices[:count]
    if len(order) < count or (count and not flat[order[-1]] < torch.inf):
        raise ValueError(f"{count} entries cannot be removed from {int((flat < torch.inf).sum())}: keep more.")
    removed = torch.zeros(flat.shape, dtype=torch.bool, device=flat.device)
    removed[order] = True
    parts = removed.split([layer.numel() for layer in costs.values()])
    return {name: part.view(costs[name].shape) for name, part in zip(costs, parts, strict=True)}


def cheapest_structures(
    rows: dict[str, torch.Tensor], columns: dict[str, torch.Tensor], count: int
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Masks, True = removed, of the rows and columns of every layer, by one threshold on the costs of both.

    Rows and columns are removed in the order of their costs until at least `count` entries are removed. An entry in a
    removed row and a removed column counts once.

    Args:
        rows, columns: layer -> costs, (rows,) and (columns,).
        count: entries to remove from the weights of all layers.
    """
    removed = {name: (torch.zeros(len(rows[name])).bool(), torch.zeros(len(columns[name])).bool()) for name in rows}
    remaining = {name: [len(rows[name]), len(columns[name])] for name in rows}
    structures = [
        (cost, layer, axis, index)
        for layer, name in enumerate(rows)
        for axis, costs in enumerate((rows[name], columns[name]))
        for index, cost in enumerate(costs.tolist())
    ]
    names = list(rows)
    for _, layer, axis, index in sorted(structures):
        if count <= 0:
            break
        name = names[layer]
        removed[name][axis][index] = True
        remaining[name][axis] -= 1
        count -= remaining[name][1 - axis]
    return {name: (masks[0].to(rows[name].device), masks[1].to(rows[name].device)) for name, masks in removed.items()}


def remove_structures(
    deviation: torch.Tensor, factors: Factors, rows: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """Deviation (rows, inputs) with removed rows and columns set to 0 and the rest updated jointly.

    The change X of the kept block solves G_KK X A_JJ = (G D' A)_KJ, with D' the removed part of the deviation. This is
    the exact optimum, because the kept entries are all pairs of kept rows K and kept inputs J. If only rows R are
    removed it is D - G⁻¹[:, R] (G⁻¹[R, R])⁻¹ D[R, :]; if only columns C, D - D[:, C] (A⁻¹[C, C])⁻¹ A⁻¹[C, :].

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
    deviation: torch.Tensor, inverses: Factors, removed: torch.Tensor, tolerance: float = TOLERANCE
) -> torch.Tensor:
    """Deviation (rows, inputs) with any set of entries set to 0 and the rest updated jointly.

    D - G⁻¹ F A⁻¹, where F is zero outside the removed entries and solves (G⁻¹ F A⁻¹)_S = D_S on them: the exact
    optimum of section 3.4 for all removed entries together. The system has no explicit matrix. It is solved by
    conjugate gradients with its diagonal as preconditioner, and an iteration is the two matrix products G⁻¹ P A⁻¹.

    Args:
        inverses: G⁻¹ and A⁻¹ of damped factors.
        removed: bool (rows, inputs).
        tolerance: norm of the residual, in units of the norm of D_S, at which the iteration stops.

    Raises:
        ValueError: it does not stop.
    """
    diagonal = inverses.g.diagonal()[:, None] * inverses.a.diagonal()
    residual = deviation.masked_fill(~removed, 0.0)
    wanted = tolerance * torch.linalg.vector_norm(residual, dtype=torch.float64)
    forces, direction, before = torch.zeros_like(deviation), torch.zeros_like(deviation), 1.0
    for _ in range(MAX_ITERATIONS):
        if torch.linalg.vector_norm(residual, dtype=torch.float64) <= wanted:
            return (deviation - inverses.g @ forces @ inverses.a).masked_fill_(removed, 0.0)
        scaled = residual / diagonal
        product = _dot(residual, scaled)
        direction = scaled.add_(direction, alpha=product / before)
        image = (inverses.g @ direction @ inverses.a).masked_fill_(~removed, 0.0)
        step = product / _dot(direction, image)
        forces.add_(direction, alpha=step)
        residual.add_(image, alpha=-step)
        before = product
    raise ValueError(f"the update has not converged after {MAX_ITERATIONS} iterations: choose a larger damping.")


def _dot(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one * other).sum(dtype=torch.float64))


def remove_elements_independently(deviation: torch.Tensor, inverses: Factors, removed: torch.Tensor) -> torch.Tensor:
    """Separate updates for each removed element, as if it were the only one, added up; then 0 in removed elements."""
    scale = inverses.g.diagonal()[:, None] * inverses.a.diagonal()
    forces = (deviation / scale).masked_fill(~removed, 0.0)
    return (deviation - inverses.g @ forces @ inverses.a).masked_fill(removed, 0.0)


def remove_structures_independently(
    deviation: torch.Tensor, inverses: Factors, rows: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """Deviation with removed rows and columns set to 0, and separate updates for each of them added up.

    D - Σ_r G⁻¹[:, r] D[r, :] / [G⁻¹]_rr - Σ_c D[:, c] A⁻¹[c, :] / [A⁻¹]_cc, then 0 in removed rows and columns.
    """
    g, a = inverses.g[:, rows] / inverses.g.diagonal()[rows], inverses.a[columns] / inverses.a.diagonal()[columns, None]
    updated = deviation - g @ deviation[rows] - deviation[:, columns] @ a
    return updated.masked_fill(rows[:, None] | columns, 0.0)
