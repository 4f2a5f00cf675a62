"""Pruning in several shots, with the curvature estimated before each (LLM Surgeon, section 3.5)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from baselines.llm_surgeon import correction, costs, updates
from baselines.llm_surgeon.curvature import Batch, Factors, estimate

STRUCTURES = ("element", "2:4", "row-column")
UPDATES = ("correlated", "independent", "none")
VARIANTS = {
    "magnitude": {"costs": "magnitude"},
    "l-obd": {"costs": "l-obd"},
    "k-obd": {"costs": "obd"},
    "llm-surgeon": {"costs": "obs"},
    "llm-surgeon-independent": {"costs": "obs", "updates": "independent"},
}
"""Name -> options (`Settings.with_options`) of the methods that LLM Surgeon's paper compares."""
Layers = dict[str, torch.Tensor]
"""Layer -> (rows, inputs): its weight, with its bias, if it has one, as one more column."""


@dataclass(frozen=True)
class Settings:
    """How layers are pruned.

    Attributes:
        structure: what is removed, one of `STRUCTURES`; the bias of a removed row is removed too.
        kind: of costs, one of `costs.KINDS`.
        update: whether remaining entries are updated to compensate for removed ones.
        biases: whether biases are elements that may be removed.
        shots: number of times that the curvature is estimated and a part removed; up to 40 in the paper.
        damping_g, damping_a: in units of the factors' mean diagonals; defaults of the authors' scripts for elements.
        correlated: False adds up separate updates for each removed part.
        low_rank: rank of the correction that is trained after every shot but the last (`correction.correct`); 0: none.
        low_rank_rate: its learning rate.
        tolerance: of the joint update of elements (`updates.remove_elements`).
    """

    structure: str = "element"
    kind: str = "obs"
    update: bool = True
    biases: bool = False
    shots: int = 5
    damping_g: float = 0.1
    damping_a: float = 0.01
    correlated: bool = True
    low_rank: int = 0
    low_rank_rate: float = 0.001
    tolerance: float = updates.TOLERANCE

    def __post_init__(self):
        if self.structure not in STRUCTURES:
            raise ValueError(f"unknown structure {self.structure!r}: expected one of {', '.join(STRUCTURES)}.")
        if self.shots < 1:
            raise ValueError(f"pruning takes at least one shot, found {self.shots}.")
        if self.low_rank and not self.update:
            raise ValueError("a low-rank correction is an update of what is kept: leave it out, or update.")

    @property
    def curved(self) -> bool:
        """Whether the curvature has any influence."""
        return self.update or self.kind != "magnitude"

    def with_options(self, options: dict) -> "Settings":
        """The same with options by the names that configs use.

        Args:
            options: `costs` for `kind`, `updates` (one of `UPDATES`) for `update` and `correlated`, and any other
                attribute. Without `updates`, "obs" updates as before and the other costs do not: what OBD and magnitude
                pruning are.

        Raises:
            ValueError: an unknown value.
        """
        values = dict(options)
        if "costs" in values:
            values["kind"] = values.pop("costs")
            values.setdefault("updates", "none" if values["kind"] != "obs" else None)
        updates_of = values.pop("updates", None)
        if updates_of is not None:
            if updates_of not in UPDATES:
                raise ValueError(f"unknown updates {updates_of!r}: expected one of {', '.join(UPDATES)}.")
            values |= {"update": updates_of != "none", "correlated": updates_of != "independent"}
        return Settings(**(vars(self) | values))


def kept_counts(total: int, kept: int, shots: int) -> list[int]:
    """Entries kept after each shot: the share α_t = 1 - t (1 - α) / T of all, rounded; the last is `kept`."""
    return [total - round(t * (total - kept) / shots) for t in range(1, shots + 1)]


def prune(
    model: nn.Module,
    layers: list[str],
    batches: Iterable[Batch],
    kept: int,
    settings: Settings,
    targets: Layers | None = None,
    factors: dict[str, Factors] | None = None,
) -> Layers:
    """Prune linear layers of a live model in place, in `settings.shots` shots.

    Args:
        model, layers, batches: see `curvature.estimate`; every shot makes one pass over the batches.
        kept: entries to keep in the weights of these layers, and in their biases if these may be removed. Exact for
            elements and 2:4; with rows and columns, fewer entries are kept, by less than one row or column.
        targets: values of removed entries; None: zero.
        factors: curvature of the given model, if known; None: the first shot estimates it.

    Returns:
        Bool masks, True = removed.

    Raises:
        ValueError: `kept` is too small (2:4 keeps half), or the damping is.
    """
    counts = kept_counts(removable_entries(model, layers, settings), kept, settings.shots)
    *_, removed = shots_of(model, layers, batches, counts, settings, targets, factors)
    return removed


@torch.no_grad()
def shots_of(
    model: nn.Module,
    layers: list[str],
    batches: Iterable[Batch],
    counts: list[int],
    settings: Settings,
    targets: Layers | None = None,
    factors: dict[str, Factors] | None = None,
) -> Iterator[Layers]:
    """`prune` shot by shot, so that the caller can use the model after each.

    Args:
        counts: entries kept after each shot, in decreasing order, instead of `settings.shots`.

    Yields:
        Bool masks, True = removed so far.
    """
    modules = {name: model.get_submodule(name) for name in layers}
    targets = {name: torch.zeros_like(matrix(module)) if targets is None else targets[name].to(matrix(module))
               for name, module in modules.items()}  # fmt: skip
    removable = {name: _removable(module, settings) for name, module in modules.items()}
    removed = {name: torch.zeros_like(mask) for name, mask in removable.items()}
    total = sum(int(mask.sum()) for mask in removable.values())
    for shot, kept in enumerate(counts, 1):
        if factors is None:
            with torch.enable_grad():
                factors = estimate(model, layers, batches) if settings.curved else _identities(modules)
        removed = _shot(modules, factors, targets, removable, removed, total - kept, settings)
        if settings.low_rank and shot < len(counts):
            correction.correct(model, removed, batches, settings.low_rank, settings.low_rank_rate)
        factors = None
        yield removed


def _shot(
    modules: dict[str, nn.Linear],
    factors: dict[str, Factors],
    targets: Layers,
    removable: Layers,
    removed: Layers,
    count: int,
    settings: Settings,
) -> Layers:
    """Remove entries until `count` are removed, and update the others; returns bool masks, True = removed."""
    damped = {name: pair.damped(settings.damping_g, settings.damping_a) for name, pair in factors.items()}
    inverted = settings.update or settings.kind == "obs"
    inverses = {name: pair.inverses() if inverted else None for name, pair in damped.items()}
    deviations = {name: matrix(module) - targets[name] for name, module in modules.items()}
    curvatures = {name: costs.curvature(damped[name], settings.kind, inverses[name]) for name in modules}
    removed = _choose(deviations, curvatures, removable, removed, count, settings)
    for name, module in modules.items():
        remaining = matrix(module)
        if settings.update:
            remaining = targets[name] + _updated(
                deviations[name], damped[name], inverses[name], removed[name], settings
            )
        write(module, torch.where(removed[name], targets[name], remaining))
    return removed


def removable_entries(model: nn.Module, layers: list[str], settings: Settings) -> int:
    """Number of entries that may be removed: of the weights, and of the biases if the settings say so."""
    return sum(int(_removable(model.get_submodule(name), settings).sum()) for name in layers)


def matrix(layer: nn.Linear) -> torch.Tensor:
    """(rows, inputs) in float64: the weight of a layer, with its bias, if any, as one more column."""
    return joined(layer.weight.detach(), None if layer.bias is None else layer.bias.detach())


def joined(weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """(rows, inputs) in float64: a weight with a bias, if any, as one more column."""
    return (weight if bias is None else torch.cat([weight, bias[:, None]], dim=1)).double()


@torch.no_grad()
def write(layer: nn.Linear, values: torch.Tensor) -> None:
    """Write (rows, inputs), as `matrix` returns them, into a layer."""
    columns = layer.weight.shape[1]
    layer.weight.copy_(values[:, :columns])
    if layer.bias is not None:
        layer.bias.copy_(values[:, columns])


def _identities(modules: dict[str, nn.Linear]) -> dict[str, Factors]:
    """Identities as factors: no curvature."""
    matrices = {name: matrix(module) for name, module in modules.items()}
    return {name: Factors(*(torch.eye(n).to(values) for n in values.shape)) for name, values in matrices.items()}


def _removable(layer: nn.Linear, settings: Settings) -> torch.Tensor:
    """Bool (rows, inputs), True = may be removed."""
    mask = torch.ones_like(matrix(layer), dtype=torch.bool)
    mask[:, layer.weight.shape[1] :] = settings.biases and settings.structure == "element"
    return mask


def _choose(
    deviations: Layers,
    curvatures: dict[str, costs.Curvature],
    removable: Layers,
    before: Layers,
    count: int,
    settings: Settings,
) -> Layers:
    """Masks of `count` removed entries, including those that were removed before."""
    if settings.structure == "row-column":
        rows = {name: costs.row_costs(deviations[name], curvatures[name]) for name in curvatures}
        columns = {name: costs.column_costs(deviations[name], curvatures[name]) for name in curvatures}
        for name, mask in before.items():
            rows[name][mask.all(dim=1)] = columns[name][mask.all(dim=0)] = -torch.inf
            columns[name] = columns[name][removable[name].any(dim=0)]
        chosen = updates.cheapest_structures(rows, columns, count)
        return {name: _union(*masks, removable[name]) for name, masks in chosen.items()}
    values = {name: costs.element_costs(deviations[name], curvatures[name]) for name in curvatures}
    for name, mask in before.items():
        values[name].masked_fill_(mask, -torch.inf).masked_fill_(~removable[name], torch.inf)
        if settings.structure == "2:4":
            weights = removable[name].any(dim=0)
            values[name][:, weights] = costs.semi_structured_costs(values[name][:, weights])
    return updates.cheapest_elements(values, count)


def _union(rows: torch.Tensor, columns: torch.Tensor, removable: torch.Tensor) -> torch.Tensor:
    """Bool (rows, inputs), True in removed rows (with their biases) and in removed columns of the weight."""
    mask = torch.zeros_like(removable)
    mask[:, : len(columns)] = columns
    mask[rows] = True
    return mask


def _updated(
    deviation: torch.Tensor, factors: Factors, inverses: Factors, removed: torch.Tensor, settings: Settings
) -> torch.Tensor:
    """The deviation (rows, inputs) after the update of remaining entries that the settings ask for."""
    if settings.structure == "row-column":
        parts = (removed.all(dim=1), removed.all(dim=0))
        if settings.correlated:
            return updates.remove_structures(deviation, factors, *parts)
        return updates.remove_structures_independently(deviation, inverses, *parts)
    if settings.correlated:
        return updates.remove_elements(deviation, inverses, removed, settings.tolerance)
    return updates.remove_elements_independently(deviation, inverses, removed)
