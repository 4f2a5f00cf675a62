"""The contract every compared method keeps, and the registry that makes a method known by its name alone.

A method turns a fine-tuned model into a stored file and a stored file back into a model. Nothing else of the study
knows how: the config schema, the compression step, the tables and the figures take what is registered here.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import ken
from ken import selection

METHODS: dict[str, "Method"] = {}

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Cell:
    """What a method sees of one cell.

    Attributes:
        pretrained: body tensors of the initial state; the head is not among them.
        finetuned: all tensors of the fine-tuned model, head included.
        seed: derived from the cell's axes, the method and the draw; the only source of randomness a method may use.
    """

    pretrained: Tensors
    finetuned: Tensors
    seed: int

    @property
    def body_size(self) -> int:
        """Entries of the body: what kept shares are shares of."""
        return sum(tensor.numel() for tensor in self.pretrained.values())


class Method(ABC):
    """A way to store a fine-tuned model in less space.

    Attributes:
        name: how configs and tables call it.
        stochastic: whether it draws at random; then it is run once for every draw of the study.
        budgets: the budgets it has of its own (controls), or None to take the study's kept shares.
    """

    name: str
    stochastic: bool = False
    budgets: tuple[float, ...] | None = None

    def decline(self, cell: Cell) -> str | None:
        """Why this method cannot treat the cell, or None."""
        return None

    def prepare(self, cell: Cell) -> object:
        """Work that serves every budget of the cell, such as one ranking."""
        return None

    @abstractmethod
    def store(self, cell: Cell, prepared: object, budget: float | int, path: Path) -> int:
        """Write the file that has to be kept at this budget; returns the number of body entries it keeps."""

    @abstractmethod
    def restore(self, pretrained: Tensors, path: Path) -> Tensors:
        """State of the compressed model from the file and the pre-trained body alone."""

    def restore_into(self, model: nn.Module, pretrained: Tensors, path: Path) -> None:
        """The same in a live model, which holds the initial state or what this method left there before.

        A method whose files hold few entries may write those alone, which is cheaper in a large model.
        """
        model.load_state_dict(self.restore(pretrained, path))


def register(method: Method) -> Method:
    """Make a method known under its name.

    Raises:
        ValueError: the name is taken.
    """
    if method.name in METHODS:
        raise ValueError(f"method {method.name!r} is registered twice: choose another name.")
    METHODS[method.name] = method
    return method


class StoredSubnetwork(Method):
    """A method whose file is a sub-network of `ken`."""

    def restore(self, pretrained: Tensors, path: Path) -> Tensors:
        return ken.Subnetwork.load(path).apply(pretrained)

    def restore_into(self, model: nn.Module, pretrained: Tensors, path: Path) -> None:
        ken.Subnetwork.load(path).inject(model)


@dataclass(frozen=True)
class Selection(StoredSubnetwork):
    """Keeps k entries of every row, chosen by a criterion, and resets all others.

    Attributes:
        criterion: name in `ken.selection.CRITERIA`.
        rule: "reset" keeps fine-tuned values, "rescale" multiplies the kept updates by n / k.
    """

    name: str
    criterion: str
    rule: str = "reset"
    stochastic: bool = False

    def prepare(self, cell: Cell) -> Tensors:
        return selection.rank_tensors(cell.finetuned, cell.pretrained, self.criterion, seed=cell.seed)

    def store(self, cell: Cell, prepared: Tensors, budget: float | int, path: Path) -> int:
        subnetwork = ken.Subnetwork.from_ranks(
            cell.pretrained, cell.finetuned, prepared, budget, method=self.name, rule=self.rule
        )
        subnetwork.save(path)
        return subnetwork.kept_body


def keep_highest(name: str, rule: str = "reset", stochastic: bool = False) -> Callable:
    """Register a method by the score of an entry: in every row the k entries of highest score are kept.

    The decorated function maps (finetuned, pretrained, generator) to scores, all of them (rows, n); `generator` is a
    seeded `torch.Generator`. Equal scores are kept in the order of their position.
    """

    def decorate(scores: selection.Criterion) -> selection.Criterion:
        selection.criterion(name)(scores)
        register(Selection(name, criterion=name, rule=rule, stochastic=stochastic))
        return scores

    return decorate


def rescaled(name: str, of: str) -> Method:
    """Register the variant of a registered selection that rescales what it keeps."""
    return register(dataclasses.replace(METHODS[of], name=name, rule="rescale"))
