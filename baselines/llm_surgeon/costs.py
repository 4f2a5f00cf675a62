"""Costs of removing parts of a linear layer: the second-order rise of the loss, for each part by itself.

A layer is given by its deviation D (rows, inputs): the weight, with the bias as one more column, minus the values that
removed entries take (zero, or the pre-trained values). Costs follow LLM Surgeon, section 3.2, with F = G ⊗ A.
"""

from dataclasses import dataclass

import torch

from baselines.llm_surgeon.factors import Factors

GROUP, KEPT_OF_GROUP = 4, 2
KINDS = ("obs", "obd", "l-obd", "magnitude")


@dataclass(frozen=True)
class Curvature:
    """What the costs of a layer's parts depend on, in float64.

    Attributes:
        g, a: (rows,) and (inputs,): curvature along one row and one input while the others are fixed (OBD) or adapt
            (OBS); of one entry if it is the same for all.
        between_rows, between_inputs: G and A; None: the identity.
    """

    g: torch.Tensor
    a: torch.Tensor
    between_rows: torch.Tensor | None = None
    between_inputs: torch.Tensor | None = None


def curvature(factors: Factors, kind: str = "obs", inverses: Factors | None = None) -> Curvature:
    """Curvature for one of the `KINDS` of costs except "magnitude", which is `flat`.

    Args:
        factors: damped.
        kind: "obs" (remaining entries adapt), "obd" (they are fixed), or "l-obd" (fixed, with G = I).
        inverses: of the factors; "obs" computes them if they are None.

    Raises:
        ValueError: another kind, or factors that are not positive definite.
    """
    g, a = factors.g, factors.a
    if kind == "obs":
        inverses = inverses or factors.inverses()
        return Curvature(1 / inverses.g.diagonal(), 1 / inverses.a.diagonal(), g, a)
    if kind == "obd":
        return Curvature(g.diagonal(), a.diagonal(), g, a)
    if kind == "l-obd":
        return Curvature(torch.ones_like(g[:1, 0]), a.diagonal(), None, a)
    raise ValueError(f"unknown kind of costs {kind!r}: expected one of {', '.join(KINDS)}.")


def flat(device: torch.device | str = "cpu") -> Curvature:
    """G = A = I: no curvature, for costs of the kind "magnitude"."""
    one = torch.ones(1, dtype=torch.float64, device=device)
    return Curvature(one, one)


def element_costs(deviation: torch.Tensor, curved: Curvature) -> torch.Tensor:
    """(rows, inputs): ½ D_ij² / ([G⁻¹]_ii [A⁻¹]_jj), or ½ D_ij² G_ii A_jj if remaining entries are fixed."""
    return deviation.square().mul_(0.5).mul_(curved.g[:, None]).mul_(curved.a)


def row_costs(deviation: torch.Tensor, curved: Curvature) -> torch.Tensor:
    """(rows,): ½ D_r A D_rᵀ / [G⁻¹]_rr, or times G_rr; a row includes its bias."""
    pull = deviation if curved.between_inputs is None else deviation @ curved.between_inputs
    return 0.5 * (pull * deviation).sum(dim=1) * curved.g


def column_costs(deviation: torch.Tensor, curved: Curvature) -> torch.Tensor:
    """(inputs,): ½ D_cᵀ G D_c / [A⁻¹]_cc, or times A_cc; the last column is the bias, if there is one."""
    pull = deviation if curved.between_rows is None else curved.between_rows @ deviation
    return 0.5 * (pull * deviation).sum(dim=0) * curved.a


def semi_structured_costs(costs: torch.Tensor) -> torch.Tensor:
    """Element costs (rows, columns); infinite except for the two cheapest of every four neighbours in a row.

    Raises:
        ValueError: the number of columns is not a multiple of four.
    """
    if costs.shape[1] % GROUP:
        raise ValueError(
            f"2:4 sparsity needs a multiple of {GROUP} columns, found {costs.shape[1]}: leave the layer out."
        )
    groups = costs.reshape(-1, GROUP)
    order = groups.sort(dim=1, stable=True).indices
    return groups.scatter(1, order[:, GROUP - KEPT_OF_GROUP :], torch.inf).view(costs.shape)
