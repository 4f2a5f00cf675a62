"""The choice of what to remove, by one threshold over all layers, and updates of the rest (LLM Surgeon, 3.3, 3.4)."""

from collections.abc import Mapping

import torch

from baselines.llm_surgeon.factors import Factors, cholesky

TOLERANCE = 1e-3  # the rise of the loss is then that of the optimum to four digits (docs/surgeon.md)
MAX_ITERATIONS = 10_000
FEW_KEPT = 0.25  # share of a layer below which the change of the kept entries is the unknown
INFINITE = 0x7FF << 52  # the bits of infinity in float64
DIGITS = (48, 32, 16, 0)  # shifts of the 16-bit digits of a float64


def cheapest_elements(costs: Mapping[str, torch.Tensor], count: int) -> dict[str, torch.Tensor]:
    """Masks on the host, True = removed, of exactly `count` entries of lowest cost over all layers.

    Ties are broken by position. Nothing is sorted: a radix selection finds the threshold. Only one layer's costs are
    needed at a time, five times each, so that they can be computed at each access.

    Args:
        costs: layer -> (rows, inputs), at least 0; infinite where nothing may be removed.

    Raises:
        ValueError: fewer than `count` entries have a finite cost, or a cost is not a number.
    """
    threshold, ties = _threshold(costs, count)
    removed = {}
    for name, layer in costs.items():
        bits = _bits(layer)
        mask = bits < threshold
        tied = (bits == threshold).nonzero()[:ties, 0]
        mask[tied] = True
        ties -= len(tied)
        removed[name] = mask.view(layer.shape).cpu()
    return removed


def _threshold(costs: Mapping[str, torch.Tensor], count: int) -> tuple[int, int]:
    """The `count`-th lowest cost as its bits, and how many entries of just this cost belong to the `count` lowest.

    Numbers of at least 0 have the order of their bits. Each pass counts the entries by their next 16 bits.
    """
    prefix, left = 0, count
    for shift in DIGITS:
        histogram = torch.zeros(2**16, dtype=torch.int64)
        for layer in costs.values():
            bits = _bits(layer)
            if shift != DIGITS[0]:
                bits = bits[bits >> (shift + 16) == prefix]
            histogram += torch.bincount(bits >> shift & 0xFFFF, minlength=2**16).cpu()
        if shift == DIGITS[0]:
            finite = int(histogram[: INFINITE >> shift].sum())
            if histogram[(INFINITE >> shift) + 1 :].any():
                raise ValueError("a cost of removal is negative or not a number: check the weights of the model.")
            if finite < count:
                raise ValueError(f"{count} entries cannot be removed from {finite}: keep more.")
        reached = histogram.cumsum(0)
        digit = int(torch.searchsorted(reached, left))
        left -= int(reached[digit] - histogram[digit])
        prefix = prefix << 16 | digit
    return prefix, left


def _bits(costs: torch.Tensor) -> torch.Tensor:
    return costs.double().reshape(-1).view(torch.int64)


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
    kept_rows, kept_columns = (~rows).nonzero()[:, 0], (~columns).nonzero()[:, 0]
    gone = deviation.clone()
    gone[kept_rows[:, None], kept_columns] = 0.0
    pull = factors.g[kept_rows] @ gone @ factors.a[:, kept_columns]
    by_rows = _solved(factors.g[kept_rows][:, kept_rows], pull)
    change = _solved(factors.a[kept_columns][:, kept_columns], by_rows.T).T
    updated = torch.zeros_like(deviation)
    updated[kept_rows[:, None], kept_columns] = deviation[kept_rows][:, kept_columns] + change
    return updated


def _solved(factor: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    return torch.cholesky_solve(right, cholesky(factor)) if right.numel() else right


def remove_elements(
    deviation: torch.Tensor,
    factors: Factors,
    inverses: Factors,
    removed: torch.Tensor,
    tolerance: float = TOLERANCE,
) -> torch.Tensor:
    """Deviation D (rows, inputs) with any set S of entries set to 0 and the rest updated jointly.

    D - G⁻¹ F A⁻¹, where F is zero outside S and solves (G⁻¹ F A⁻¹)_S = D_S: the exact optimum of section 3.4 for all
    removed entries together. If few entries are kept, their change X is the smaller unknown: it is zero outside the
    kept set K and solves (G X A)_K = (G D_S A)_K, which gives the same result in fewer iterations. Both systems are
    solved by `conjugate_gradients`.

    Args:
        factors: damped G and A. inverses: G⁻¹ and A⁻¹.
        removed: bool (rows, inputs).
        tolerance: see `conjugate_gradients`.

    Raises:
        ValueError: the iteration does not converge.
    """
    gone = deviation.masked_fill(~removed, 0.0)
    if 1 - float(removed.mean(dtype=torch.float32)) < FEW_KEPT:
        pull = (factors.g @ gone @ factors.a).masked_fill_(removed, 0.0)
        change = conjugate_gradients(factors, ~removed, pull, tolerance)
        return (deviation + change).masked_fill_(removed, 0.0)
    forces = conjugate_gradients(inverses, removed, gone, tolerance)
    return (deviation - inverses.g @ forces @ inverses.a).masked_fill_(removed, 0.0)


def conjugate_gradients(pair: Factors, unknown: torch.Tensor, right: torch.Tensor, tolerance: float) -> torch.Tensor:
    """X (rows, inputs), zero outside the unknown entries, with (P X Q)_unknown = right_unknown.

    The matrix of the system, a part of P ⊗ Q, is not built: an iteration is two matrix products. The preconditioner is
    the diagonal. Inner products are summed in float64.

    Args:
        pair: P and Q, positive definite.
        unknown: bool (rows, inputs).
        right: (rows, inputs), zero outside the unknown entries.
        tolerance: norm of the residual, in units of the norm of the right-hand side, at which the iteration stops.

    Raises:
        ValueError: it does not stop within `MAX_ITERATIONS`.
    """
    diagonal = pair.g.diagonal()[:, None] * pair.a.diagonal()
    residual, wanted = right.clone(), tolerance * _dot(right, right) ** 0.5
    solution, direction, before = torch.zeros_like(right), torch.zeros_like(right), 1.0
    for _ in range(MAX_ITERATIONS):
        if _dot(residual, residual) ** 0.5 <= wanted:
            return solution
        scaled = residual / diagonal
        product = _dot(residual, scaled)
        direction = scaled.add_(direction, alpha=product / before)
        image = (pair.g @ direction @ pair.a).masked_fill_(~unknown, 0.0)
        step = product / _dot(direction, image)
        solution.add_(direction, alpha=step)
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
