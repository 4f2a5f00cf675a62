"""Pruning in several shots, with the curvature estimated before each (LLM Surgeon, section 3.5)."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from baselines.llm_surgeon import correction, costs, updates
from baselines.llm_surgeon.curvature import Batch, estimate, inputs_of, precision_of
from baselines.llm_surgeon.factors import Factors, FactorStore, damp_, inverse

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

    @property
    def solves_factors(self) -> bool:
        """Whether the update solves systems with the factors themselves and needs no inverses."""
        return self.structure == "row-column" and self.correlated

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
    factors: FactorStore | None = None,
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
    factors: FactorStore | None = None,
) -> Iterator[Layers]:
    """`prune` shot by shot, so that the caller can use the model after each.

    Args:
        counts: entries kept after each shot, in decreasing order, instead of `settings.shots`.

    Yields:
        Bool masks, True = removed so far.
    """
    modules = {name: model.get_submodule(name) for name in layers}
    removed = {name: torch.zeros(m.out_features, inputs_of(m), dtype=torch.bool) for name, m in modules.items()}
    total = removable_entries(model, layers, settings)
    for shot, kept in enumerate(counts, 1):
        if factors is None and settings.curved:
            with torch.enable_grad():
                factors = estimate(model, layers, batches)
        removed = _shot(_Opened(modules, targets, factors, settings), removed, total - kept)
        factors = None
        if settings.low_rank and shot < len(counts):
            correction.correct(model, removed, batches, settings.low_rank, settings.low_rank_rate)
        yield removed


@dataclass
class _Opened:
    """The layers of one shot; one at a time is opened in float64 on the model's device.

    Attributes:
        targets: values of removed entries; None: zero.
        factors: curvature; None: none.
    """

    modules: dict[str, nn.Linear]
    targets: Layers | None
    factors: FactorStore | None
    settings: Settings

    def target(self, name: str) -> torch.Tensor:
        """(rows, inputs), or (1,) if it is zero everywhere."""
        device = self.modules[name].weight.device
        zero = torch.zeros(1, dtype=torch.float64, device=device)
        return zero if self.targets is None else self.targets[name].to(device).double()

    def deviation(self, name: str) -> torch.Tensor:
        """(rows, inputs): the values of a layer minus those that removed entries take."""
        return matrix(self.modules[name]) - self.target(name)

    def curvatures(self, inverted: bool) -> Iterator[tuple[str, Factors, Factors | None]]:
        """Layer, damped factors and, if asked for, their inverses; layers with the same A follow each other."""
        followers: dict[str, list[str]] = {}
        for name in self.modules:
            followers.setdefault(self.factors.source_of[name], []).append(name)
        for source, names in followers.items():
            a = self._damped(source, "a", self.settings.damping_a)
            inverse_a = inverse(a) if inverted else None
            for name in names:
                g = self._damped(name, "g", self.settings.damping_g)
                yield name, Factors(g, a), Factors(inverse(g), inverse_a) if inverted else None

    def _damped(self, name: str, side: str, damping: float) -> torch.Tensor:
        device = next(iter(self.modules.values())).weight.device
        return damp_(self.factors.factor(name, side).to(device, torch.float64, copy=True), damping)

    def described(self) -> Iterator[tuple[str, costs.Curvature]]:
        """Layer, and what the costs of its parts depend on."""
        kind = self.settings.kind
        if kind == "magnitude":
            yield from ((name, costs.flat(module.weight.device)) for name, module in self.modules.items())
            return
        for name, factors, inverses in self.curvatures(inverted=kind == "obs"):
            yield name, costs.curvature(factors, kind, inverses)


class _ElementCosts(Mapping[str, torch.Tensor]):
    """Layer -> costs of its elements, computed at each access; infinite where nothing (more) may be removed."""

    def __init__(self, opened: _Opened, before: Layers):
        self.opened, self.before = opened, before
        self.curved = {name: costs.Curvature(c.g.clone(), c.a.clone()) for name, c in opened.described()}

    def __getitem__(self, name: str) -> torch.Tensor:
        settings, module = self.opened.settings, self.opened.modules[name]
        values = costs.element_costs(self.opened.deviation(name), self.curved[name])
        before, columns = self.before[name].to(values.device), _removable_columns(module, settings)
        if settings.structure == "2:4":
            first = values.masked_fill(before, -torch.inf)[:, :columns]
            values[:, :columns] = costs.semi_structured_costs(first)
        values[:, columns:] = torch.inf
        return values.masked_fill_(before, torch.inf)

    def __iter__(self) -> Iterator[str]:
        return iter(self.opened.modules)

    def __len__(self) -> int:
        return len(self.opened.modules)


def _shot(opened: _Opened, before: Layers, count: int) -> Layers:
    """Remove entries until `count` are removed, and update the others; returns bool masks, True = removed."""
    settings = opened.settings
    removed = _choose(opened, before, count)
    if not settings.update:
        for name, module in opened.modules.items():
            write(module, torch.where(removed[name].to(module.weight.device), opened.target(name), matrix(module)))
        return removed
    for name, factors, inverses in opened.curvatures(inverted=not settings.solves_factors):
        module = opened.modules[name]
        mask, precision = removed[name].to(module.weight.device), precision_of(module)
        updated = _updated(opened.deviation(name), factors, inverses, mask, settings, precision)
        write(module, updated + opened.target(name))
    return removed


def removable_entries(model: nn.Module, layers: list[str], settings: Settings) -> int:
    """Number of entries that may be removed: of the weights, and of the biases if the settings say so."""
    modules = map(model.get_submodule, layers)
    return sum(module.out_features * _removable_columns(module, settings) for module in modules)


def _removable_columns(layer: nn.Linear, settings: Settings) -> int:
    """Number of columns, the first ones, whose entries may be removed: without the bias, or with it."""
    return inputs_of(layer) if settings.biases and settings.structure == "element" else layer.in_features


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


def _choose(opened: _Opened, before: Layers, count: int) -> Layers:
    """Masks of `count` removed entries, including those that were removed before."""
    if opened.settings.structure == "row-column":
        return _choose_structures(opened, before, count)
    already = sum(int(mask.sum()) for mask in before.values())
    chosen = updates.cheapest_elements(_ElementCosts(opened, before), count - already)
    return {name: mask | before[name] for name, mask in chosen.items()}


def _choose_structures(opened: _Opened, before: Layers, count: int) -> Layers:
    """Masks of removed rows (with their biases) and columns of the weight; rows and columns stay removed."""
    rows, columns = {}, {}
    for name, curved in opened.described():
        deviation = opened.deviation(name)
        rows[name] = costs.row_costs(deviation, curved).cpu().masked_fill_(before[name].all(dim=1), -torch.inf)
        of_columns = costs.column_costs(deviation, curved).cpu().masked_fill_(before[name].all(dim=0), -torch.inf)
        columns[name] = of_columns[: opened.modules[name].in_features]
    removed = {name: torch.zeros_like(mask) for name, mask in before.items()}
    for name, (gone_rows, gone_columns) in updates.cheapest_structures(rows, columns, count).items():
        removed[name][:, : len(gone_columns)] = gone_columns
        removed[name][gone_rows] = True
    return removed


def _updated(
    deviation: torch.Tensor,
    factors: Factors,
    inverses: Factors | None,
    removed: torch.Tensor,
    settings: Settings,
    precision: torch.dtype,
) -> torch.Tensor:
    """The deviation (rows, inputs) after the update of remaining entries that the settings ask for.

    Args:
        precision: of the conjugate gradients, most of the work; everything else is computed in float64.
    """
    if settings.structure == "row-column":
        parts = (removed.all(dim=1), removed.all(dim=0))
        if settings.correlated:
            return updates.remove_structures(deviation, factors, *parts)
        return updates.remove_structures_independently(deviation, inverses, *parts)
    if settings.correlated:
        pairs = (factors.to(precision), inverses.to(precision))
        return updates.remove_elements(deviation.to(precision), *pairs, removed, settings.tolerance).double()
    return updates.remove_elements_independently(deviation, inverses, removed)
