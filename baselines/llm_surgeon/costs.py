"""What removing a part of a linear layer costs: the second-order rise of the loss, each part by itself.

A layer is its deviation D (rows, inputs): the weight, and the bias as one more column, less what removed entries become
(zero, or the pre-trained values). Costs are those of LLM Surgeon, section 3.2, with F = G ⊗ A.
"""

from dataclasses import dataclass

import torch

from baselines.llm_surgeon.curvature import Factors

GROUP, KEPT_OF_GROUP = 4, 2
KINDS = ("obs", "obd", "l-obd", "magnitude")


@dataclass(frozen=True)
class Curvature:
    """What costs need of a layer's damped factors.

    Attributes:
        factors: G and A.
        g, a: (rows,) and (inputs,): curvature along one row and one input, the others held (OBD) or adapting (OBS).
    """

    factors: Factors
    g: torch.Tensor
    a: torch.Tensor


def curvature(factors: Factors, kind: str = "obs", inverses: Factors | None = None) -> Curvature:
    """Curvature for costs of a kind, from damped factors.

    Args:
        kind: "obs" (what remains adapts), "obd" (what remains is held), "l-obd" (held, G = I) or "magnitude" (both I).
        inverses: of the factors, which "obs" computes where they are not given.

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


def element_costs(deviation: torch.Tensor, found: Curvature) -> torch.Tensor:
    """(rows, inputs): ½ D_ij² / ([G⁻¹]_ii [A⁻¹]_jj), or ½ D_ij² G_ii A_jj where what remains is held."""
    return 0.5 * deviation.square() * found.g[:, None] * found.a


def row_costs(deviation: torch.Tensor, found: Curvature) -> torch.Tensor:
    """(rows,): ½ D_r A D_rᵀ / [G⁻¹]_rr, or times G_rr; a row's bias goes with it."""
    return 0.5 * ((deviation @ found.factors.a) * deviation).sum(dim=1) * found.g


def column_costs(deviation: torch.Tensor, found: Curvature) -> torch.Tensor:
    """(inputs,): ½ D_cᵀ G D_c / [A⁻¹]_cc, or times A_cc; the last is the bias' where there is one."""
    return 0.5 * ((found.factors.g @ deviation) * deviation).sum(dim=0) * found.a


def semi_structured_costs(costs: torch.Tensor) -> torch.Tensor:
    """Element costs (rows, columns), infinite but for the two cheapest of every four neighbours in a row.

    Raises:
        ValueError: the columns are no multiple of four.
    """
    if costs.shape[1] % GROUP:
        raise ValueError(
            f"2:4 sparsity needs a multiple of {GROUP} columns, found {costs.shape[1]}: leave the layer out."
        )
    groups = costs.reshape(-1, GROUP)
    order = groups.sort(dim=1, stable=True).indices
    return groups.scatter(1, order[:, GROUP - KEPT_OF_GROUP :], torch.inf).reshape(costs.shape)
