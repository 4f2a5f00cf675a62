"""The contract of a compared method, and the registry of all methods.

A method turns a fine-tuned model into a stored file, and a stored file back into a model. It also estimates its costs.
Config, plan, compression, tables and figures read the registry, so they need no list of methods.
"""

import dataclasses
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from baselines.estimates import (
    FLOAT32_BYTES,
    HELD_BYTES,
    Effort,
    ModelShapes,
    coded_bytes,
    count_entries,
    kept_bytes,
)
from baselines.options import Section
from baselines.training import Fitted, Training
from ken import extraction, selection, streaming
from ken.coding.coder import Coder, Coding
from ken.errors import did_you_mean
from ken.pairing import Pair
from ken.sources import AnySource, Constant
from ken.subnetwork import Subnetwork

WIDTHS = (16, 8, 4, 3, 2, 1)  # bits of the kept updates of "<selection>-<N>bit"
_CODED = re.compile(rf"(.+)-((?:{'|'.join(map(str, WIDTHS))})bit)")
_ANY_WIDTH = re.compile(r"(.+)-(\w+bits?)")


class Registry(dict[str, "Method"]):
    """Name -> method. "<selection>-<N>bit" is that selection with kept updates of N bits, for every selection."""

    def __missing__(self, name: str) -> "Method":
        if not (variant := self._coded(name)):
            raise KeyError(name)
        return variant

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or self._coded(name) is not None

    def _coded(self, name: object) -> "Method | None":
        match = _CODED.fullmatch(name) if isinstance(name, str) else None
        selected = super().get(match[1]) if match else None
        if not isinstance(selected, Selection) or selected.scope != "all":  # others are stored in full, not in N bits
            return None
        return dataclasses.replace(selected, name=name, values=match[2])


METHODS = Registry()
MODULES: dict[str, str] = {}
"""Method -> the module that registered it."""

Tensors = dict[str, torch.Tensor]

FAMILIES = ("control", "reset", "rescaled", "other", "trained")
SCOPES = ("all", "linear", "layers", "embeddings")
UNITS = ("share", "rank", "size", "bits", "bytes")


@dataclass(frozen=True)
class Cell:
    """The input of a method from one cell.

    Attributes:
        pretrained: body tensors of the initial state, without the head.
        finetuned: all tensors of the fine-tuned model, with the head.
        seed: derived from the cell's axes, the method and the draw; the only source of randomness a method may use.
        skeleton: a model of this architecture with arbitrary values, to be inspected or copied.
        training: the cell's fine-tuning, for methods that need its data.
    """

    pretrained: Tensors
    finetuned: Tensors
    seed: int
    skeleton: nn.Module
    training: Training | None = None

    @property
    def body_size(self) -> int:
        """Entries of the body. Kept shares are shares of this number."""
        return sum(tensor.numel() for tensor in self.pretrained.values())

    @cached_property
    def base(self) -> Constant:
        """The pre-trained body as the base of sub-networks: hashed once for all budgets."""
        return Constant(self.pretrained)

    @property
    def linear_layers(self) -> list[str]:
        """Names of the linear layers of the body, in the order of the modules."""
        return [
            name
            for name, module in self.skeleton.named_modules()
            if isinstance(module, nn.Linear) and f"{name}.weight" in self.pretrained
        ]

    def in_scope(self, scope: str) -> set[str]:
        """Names of the body tensors of a scope, one of `SCOPES`; see `Selection`."""
        if scope == "linear":
            return {f"{layer}.weight" for layer in self.linear_layers}
        if scope == "embeddings":
            modules = self.skeleton.named_modules()
            embeddings = {f"{name}.weight" for name, module in modules if isinstance(module, nn.Embedding)}
            return embeddings & self.pretrained.keys()
        return {name for name in self.pretrained if extraction.in_scope(name, scope)}

    @property
    def device(self) -> torch.device:
        """The device on which entries are ranked: the skeleton's. The tensors themselves are on the CPU."""
        return next(self.skeleton.parameters()).device


@dataclass(frozen=True)
class ChosenFactor:
    """A factor on the scales of a file, and the weighted F1 on validation that it was chosen for, if it was chosen."""

    value: float
    validation_weighted_f1: float | None = None


@dataclass(frozen=True)
class Stored:
    """The report of a method about a file it has written.

    Attributes:
        kept: body parameters stored in the file.
        parameters: of the restored model, if their number differs from that of the fine-tuned model.
        fitted: the trained model, for methods that train.
        factor: on the scales, for methods that choose one on validation.
    """

    kept: int
    parameters: int | None = None
    fitted: Fitted | None = None
    factor: ChosenFactor | None = None


class NoOptions(Section):
    """Options of a method without options."""


class Method(ABC):
    """A way to store a fine-tuned model in less space.

    Attributes:
        name: its name in configs and tables.
        family: one of `FAMILIES`: what it does to the entries. Methods of a family share a panel in the figures.
        stochastic: whether it draws at random. Such a method is run once for every draw of the study.
        budgets: default budgets, which a config may replace. None: the kept shares of the study.
        unit: what a budget means, one of `UNITS`: share (or number) of entries kept in each row, rank, remaining size,
            bits an entry, or share of the dense model's bytes.
        needs_data: whether it uses training or validation examples, through `Cell.training`.
        form: the form of its restored model in the inference table: "restored", "merged" or "compiled".
        options_model: its options in a config beyond budgets, draws and rates, with descriptions and limits.
    """

    name: str
    family: str = "other"
    stochastic: bool = False
    budgets: tuple[float, ...] | None = None
    unit: str = "share"
    needs_data: bool = False
    form: str = "restored"
    options_model: type[Section] = NoOptions

    def configured(self, options: dict) -> "Method":
        """This method with the options of a config beyond budgets, draws and rates; `self` if there are none.

        Raises:
            ValueError: it does not have these options, or they have wrong values.
        """
        if options:
            raise ValueError(f"method {self.name!r} has no option {next(iter(options))!r}: take it out.")
        return self

    def decline(self, cell: Cell) -> str | None:
        """The reason why this method cannot handle the cell, or None."""
        return None

    def prepare(self, cell: Cell) -> object:
        """Work shared by all budgets of the cell, such as a ranking; its result is passed to `store`."""
        return None

    @abstractmethod
    def store(self, cell: Cell, prepared: object, budget: float | int, path: Path) -> Stored:
        """Write the file of this budget."""

    @abstractmethod
    def restore(self, pretrained: Tensors, path: Path) -> Tensors:
        """State of the compressed model, from the file and the pre-trained body alone."""

    def restore_into(self, model: nn.Module, pretrained: Tensors, path: Path) -> nn.Module:
        """The compressed model, made from a live model.

        Args:
            model: holds the initial state, or a state that this method has restored into it.

        Returns:
            `model` itself, changed in place, or a new model if shapes change. A method whose files hold few entries may
            write only those, which is faster for a large model.
        """
        model.load_state_dict(self.restore(pretrained, path))
        return model

    def unmerged_adapter(self, model: nn.Module, cell: Cell, path: Path) -> nn.Module | None:
        """The initial `model` with the stored update as an unmerged adapter, or None if the method has no adapter."""
        return None

    def stored_bytes(self, budget: float | int, shapes: ModelShapes) -> float:
        """Estimated bytes of the file of a budget.

        By default the head and k entries of every row; for a budget of another unit, the whole model.
        """
        if self.unit != "share":
            return shapes.dense_bytes
        return FLOAT32_BYTES * shapes.head + kept_bytes(shapes.body, budget)

    def memory_bytes(self, shapes: ModelShapes) -> float:
        """Estimated bytes of memory that one budget needs, Python and its libraries apart."""
        return HELD_BYTES * shapes.parameters

    def effort(self, shapes: ModelShapes, budgets: int) -> Effort:
        """Estimated work of one draw at a number of budgets; by default one ranking of all entries of the body."""
        return Effort(ranked=shapes.body_entries)


def register(method: Method) -> Method:
    """Add a method to the registry, under its name.

    Raises:
        ValueError: the name is taken.
    """
    if method.name in METHODS:
        raise ValueError(f"method {method.name!r} is registered twice: choose another name.")
    METHODS[method.name] = method
    MODULES[method.name] = _calling_module()
    return method


def module_of(name: str) -> str:
    """The module that registered a method, e.g. "baselines.magnitude"."""
    return MODULES[name] if name in MODULES else MODULES[_CODED.fullmatch(name)[1]]


def selections(methods: Mapping[str, "Method"]) -> list[str]:
    """Names of the methods that also exist with a number of bits, sorted."""
    return sorted(name for name in methods if f"{name}-{WIDTHS[0]}bit" in methods)


def unknown_method(name: str, methods: Mapping[str, "Method"]) -> str:
    """End of a sentence about a name that is no method, with the nearest valid one."""
    match, known = _ANY_WIDTH.fullmatch(name), selections(methods)
    if match and match[1] in known:
        *more, last = WIDTHS
        return f"is not known here: the kept updates of {match[1]} have {', '.join(map(str, more))} or {last} bits."
    width = match[2] if match and _CODED.fullmatch(name) else ""
    coded = [f"{selection}-{width}" for selection in known] if width else []
    return f"is not known here.{did_you_mean(name, [*methods, *coded])}"


def _calling_module() -> str:
    """Name of the module that calls into this one.

    The module of a method's class would not do, since selections are instances of a class of this module.
    """
    frame = sys._getframe()
    while frame.f_globals["__name__"] == __name__:
        frame = frame.f_back
    return frame.f_globals["__name__"]


class StoredSubnetwork(Method):
    """A method whose file is a sub-network of `ken`.

    Attributes:
        coding: how the file holds values and positions.
    """

    coding: Coding = Coding()

    def restore(self, pretrained: Tensors, path: Path) -> Tensors:
        return Subnetwork.load(path).apply(pretrained)

    def restore_into(self, model: nn.Module, pretrained: Tensors, path: Path) -> nn.Module:
        Subnetwork.load(path).inject(model)
        return model

    def save_kept(
        self, path: Path, base: AnySource, finetuned: Tensors, masks: Tensors, budget: float | int, rule: str = "reset"
    ) -> Stored:
        """Write the entries of a fine-tuned model that bool masks (True = kept) select, relative to a base."""
        subnetwork = Subnetwork.from_masks(base, finetuned, masks, budget, self.name, rule)
        subnetwork.save(path)
        return Stored(subnetwork.kept_body)


@dataclass(frozen=True)
class Selection(StoredSubnetwork):
    """Keeps k entries of every row, ranked by a criterion, and resets all others.

    Tensors outside its scope are kept in full. "linear" is the weights of the linear layers, "layers" all tensors of
    the numbered layers, "embeddings" the embedding matrices.

    Attributes:
        criterion: name in `ken.selection.CRITERIA`; not used where positions are not stored.
        rule: "reset" keeps fine-tuned values, "rescale" multiplies the kept updates by n / k.
        values, positions: how they are stored, see `ken.prune`.
        scope: one of `SCOPES`, for a method that stores positions.
    """

    name: str
    criterion: str
    rule: str = "reset"
    stochastic: bool = False
    values: str = "32bit"
    positions: str = "stored"
    scope: str = "all"

    @property
    def family(self) -> str:
        return "rescaled" if self.rule == "rescale" else "reset"

    @property
    def coding(self) -> Coding:
        """How values and positions are stored."""
        return Coding(self.values, self.positions)

    def prepare(self, cell: Cell) -> Tensors:
        if self.positions != "stored":
            return {}
        pruned = {name: cell.pretrained[name] for name in cell.in_scope(self.scope)}
        return selection.rank_tensors(cell.finetuned, pruned, self.criterion, seed=cell.seed, device=cell.device)

    def store(self, cell: Cell, prepared: Tensors, budget: float | int, path: Path) -> Stored:
        pair = Pair.opened(cell.base, cell.finetuned)
        masks = {name: selection.mask_from_ranks(ranks, budget) for name, ranks in prepared.items()}
        for name in cell.pretrained.keys() - cell.in_scope(self.scope):
            masks[name] = torch.ones(cell.pretrained[name].shape, dtype=torch.bool)
        choose = extraction.chooser_of_masks(pair, masks)
        coding = dataclasses.replace(self.coding, seed=cell.seed)
        return Stored(streaming.write(path, Coder(pair, coding, budget, self.rule, "all", choose), self.name).kept)

    def stored_bytes(self, budget: float | int, shapes: ModelShapes) -> float:
        pruned = shapes.in_scope(self.scope)
        in_full = count_entries(shapes.body) - count_entries(pruned)
        return FLOAT32_BYTES * in_full + coded_bytes(dataclasses.replace(shapes, body=pruned), budget, self.coding)

    def effort(self, shapes: ModelShapes, budgets: int) -> Effort:
        if self.positions == "base":
            return Effort(chosen=budgets * shapes.body_entries)
        return Effort(ranked=shapes.body_entries if self.positions == "stored" else 0)


def names_entries(method: Method) -> bool:
    """Whether the file of a method says which entries are kept, without the base: format 1 of a sub-network."""
    return isinstance(method, StoredSubnetwork) and method.coding.exact


def register_selection(method: Selection) -> Selection:
    """Register a selection, and the same choice with rescaled updates as "<name>-rescaled"."""
    register(dataclasses.replace(method, name=f"{method.name}-rescaled", rule="rescale"))
    return register(method)


def keep_highest(name: str, stochastic: bool = False) -> Callable[[selection.Criterion], selection.Criterion]:
    """Decorator that registers a method by its scores: in every row the k entries of highest score are kept.

    The decorated function maps (finetuned, pretrained, generator) to scores; tensors and scores are (rows, n), and
    `generator` is a seeded `torch.Generator`. Ties are broken by position: the first entry is kept first.
    "<name>-rescaled" is registered too: the same choice, with kept updates multiplied by n / k.
    """

    def decorate(scores: selection.Criterion) -> selection.Criterion:
        selection.criterion(name)(scores)
        register_selection(Selection(name, criterion=name, stochastic=stochastic))
        return scores

    return decorate
