"""Costs of removing parts of a linear layer: the second-order rise of the loss, for each part by itself.

A layer is given by its deviation D (rows, inputs): the weight, with the bias as one more column, minus the values that
removed entries take (zero, or the pre-trained values). Costs follow LLM Surgeon, section 3.2, with F = G ⊗ A.
"""

from dataclasses import dataclass

import torch

from baselines.llm_surgeon.curvature import Factors

GROUP, KEPT_OF_GROUP = 4, 2
KINDS = ("obs", "obd", "l-obd", "magnitude")


@dataclass(frozen=True)
class Curvature:
    """A layer's damped factors and the curvature along single rows and inputs.

    Attributes:
        factors: G and A.
        g, a: (rows,) and (inputs,): curvature along one row and one input while the others are fixed (OBD) or adapt
            (OBS).
    """

    factors: Factors
    g: torch.Tensor
    a: torch.Tensor


def curvature(factors: Factors, kind: str = "obs", inverses: Factors | None = None) -> Curvature:
    """Curvature for one of the `KINDS` of costs, from damped factors.

    Args:
        kind: "obs" (remaining entries adapt), "obd" (they are fixed), "l-obd" (fixed, with G = I) or "magnitude"
            (fixed, with G = A = I).
        inverses: of the factors; "obs" computes them if they are None.

    Raises:
        ValueError: another kind, or factors that are not positive definite.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of costs {kind!r}: expected one of {', '.join(KINDS)}.")
    if kind == "obs":
        inverses = inverses or factors.inverses()
        return Curvature(factors, 1 / inverses.g.diagonal(), 1 / inverses.a.diagonal())
    factors = {"obd": factors, "l-obd": factors.inputs_only(), "magnitude": factors.identity()}[kind]
    return Curvature(factors, factors.g.diagonal(), factors.a.diagonal())


def element_costs(deviation: torch.Tensor, curved: Curvature) -> torch.Tensor:
    """(rows, inputs): ½ D_ij² / ([G⁻¹]_ii [A⁻¹]_jj), or ½ D_ij² G_ii A_jj if remaining entries are fixed."""
    return 0.5 * deviation.square() * curved.g[:, None] * curved.a


def row_costs(deviation: torch.Tensor, curved: Curvature) -> torch.Tensor:
    """(rows,): ½ D_r A D_rᵀ / [G⁻¹]_rr, or times G_rr; a row includes its bias."""
    return 0.5 * ((deviation @ curved.factors.a) * deviation).sum(dim=1) * curved.g


def column_costs(deviation: torch.Tensor, curved: Curvature) -> torch.Tensor:
    """(inputs,): ½ D_cᵀ G D_c / [A⁻¹]_cc, or times A_cc; the last column is the bias, if there is one."""
    return 0.5 * ((curved.factors.g @ deviation) * deviation).sum(dim=0) * curved.a


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
    return groups.scatter(1, order[:, GROUP - KEPT_OF_GROUP :], torch.inf).reshape(costs.shape)
