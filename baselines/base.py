"""The contract every compared method keeps, and the registry that makes a method known by its name alone.

A method turns a fine-tuned model into a stored file and a stored file back into a model. Nothing else of the study
knows how: the config schema, the compression step, the tables and the figures take what is registered here.
"""

import dataclasses
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from baselines.training import Fitted, Training
from ken import selection
from ken.subnetwork import Subnetwork

METHODS: dict[str, "Method"] = {}
MODULES: dict[str, str] = {}  # method -> module that registered it

Tensors = dict[str, torch.Tensor]

FAMILIES = ("control", "reset", "rescaled", "other", "trained")
UNITS = ("share", "rank", "size", "bits")


@dataclass(frozen=True)
class Cell:
    """What a method sees of one cell.

    Attributes:
        pretrained: body tensors of the initial state; the head is not among them.
        finetuned: all tensors of the fine-tuned model, head included.
        seed: derived from the cell's axes, the method and the draw; the only source of randomness a method may use.
        skeleton: the architecture, holding any values; to look at its modules, or to copy.
        training: fine-tuning as the cell had it, for methods that need its data.
    """

    pretrained: Tensors
    finetuned: Tensors
    seed: int
    skeleton: nn.Module
    training: Training | None = None

    @property
    def body_size(self) -> int:
        """Entries of the body: what kept shares are shares of."""
        return sum(tensor.numel() for tensor in self.pretrained.values())

    @property
    def linear_layers(self) -> list[str]:
        """Names of the linear layers of the body, found by walking the modules."""
        modules = self.skeleton.named_modules()
        return [name for name, found in modules if isinstance(found, nn.Linear) and f"{name}.weight" in self.pretrained]

    @property
    def device(self) -> torch.device:
        """Where entries are ranked: where the skeleton lies; all tensors lie on the CPU."""
        return next(self.skeleton.parameters()).device


@dataclass(frozen=True)
class Stored:
    """What a method tells about a file it has written.

    Attributes:
        kept: numbers of the body that the file holds, instead of resetting them or doing without them.
        parameters: of the restored model, where it has not as many as the fine-tuned one.
        fitted: of a method that trains, at the rate that was best on validation.
    """

    kept: int
    parameters: int | None = None
    fitted: Fitted | None = None


class Method(ABC):
    """A way to store a fine-tuned model in less space.

    Attributes:
        name: how configs and tables call it.
        family: one of `FAMILIES`: what it does to the entries; methods of a family share a panel in the figures.
        stochastic: whether it draws at random; then it is run once for every draw of the study.
        budgets: the budgets it has of its own, which a config may replace, or None to take the study's kept shares.
        unit: what a budget means, one of `UNITS`: share (or number) of entries kept in each row, rank, size that
            remains, bits an entry.
        needs_data: whether it looks at training examples, through `Cell.training`.
        form: what its restored model is called where inference is measured.
    """

    name: str
    family: str = "other"
    stochastic: bool = False
    budgets: tuple[float, ...] | None = None
    unit: str = "share"
    needs_data: bool = False
    form: str = "restored"

    def configured(self, options: dict) -> "Method":
        """This method with what a config says of it beyond budgets, draws and rates; `self` where that is nothing.

        Raises:
            ValueError: it has no such options, or not these values.
        """
        if options:
            raise ValueError(f"method {self.name!r} has no option {next(iter(options))!r}: take it out.")
        return self

    def decline(self, cell: Cell) -> str | None:
        """Why this method cannot treat the cell, or None."""
        return None

    def prepare(self, cell: Cell) -> object:
        """Work that serves every budget of the cell, such as one ranking."""
        return None

    @abstractmethod
    def store(self, cell: Cell, prepared: object, budget: float | int, path: Path) -> Stored:
        """Write the file that has to be kept at this budget."""

    @abstractmethod
    def restore(self, pretrained: Tensors, path: Path) -> Tensors:
        """State of the compressed model from the file and the pre-trained body alone."""

    def restore_into(self, model: nn.Module, pretrained: Tensors, path: Path) -> nn.Module:
        """The compressed model, from a live one that holds the initial state or what this method left there before.

        Returns:
            `model` itself, changed in place, or a new one where the shapes change. A method whose files hold few
            entries may write those alone, which is cheaper in a large model.
        """
        model.load_state_dict(self.restore(pretrained, path))
        return model

    def beside(self, model: nn.Module, cell: Cell, path: Path) -> nn.Module | None:
        """The initial `model` with what the file holds beside its weights, not in them, if there is such a form."""
        return None


def register(method: Method) -> Method:
    """Make a method known under its name.

    Raises:
        ValueError: the name is taken.
    """
    if method.name in METHODS:
        raise ValueError(f"method {method.name!r} is registered twice: choose another name.")
    METHODS[method.name] = method
    MODULES[method.name] = _calling_module()
    return method


def module_of(method: str) -> str:
    """Module that registered a method, such as "baselines.magnitude": what a hash of its code starts from."""
    return MODULES[method]


def _calling_module() -> str:
    """The nearest caller outside this module."""
    frame = sys._getframe()
    while frame.f_globals["__name__"] == __name__:
        frame = frame.f_back
    return frame.f_globals["__name__"]


class StoredSubnetwork(Method):
    """A method whose file is a sub-network of `ken`."""

    def restore(self, pretrained: Tensors, path: Path) -> Tensors:
        return Subnetwork.load(path).apply(pretrained)

    def restore_into(self, model: nn.Module, pretrained: Tensors, path: Path) -> nn.Module:
        Subnetwork.load(path).inject(model)
        return model

    def save_kept(
        self, path: Path, base: Tensors, finetuned: Tensors, masks: Tensors, budget: float | int, rule: str = "reset"
    ) -> Stored:
        """Write the entries of a fine-tuned model that bool masks keep, relative to a base."""
        subnetwork = Subnetwork.from_masks(base, finetuned, masks, budget, self.name, rule)
        subnetwork.save(path)
        return Stored(subnetwork.kept_body)


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

    @property
    def family(self) -> str:
        return "rescaled" if self.rule == "rescale" else "reset"

    def prepare(self, cell: Cell) -> Tensors:
        return selection.rank_tensors(
            cell.finetuned, cell.pretrained, self.criterion, seed=cell.seed, device=cell.device
        )

    def store(self, cell: Cell, prepared: Tensors, budget: float | int, path: Path) -> Stored:
        subnetwork = Subnetwork.from_ranks(
            cell.pretrained, cell.finetuned, prepared, budget, method=self.name, rule=self.rule
        )
        subnetwork.save(path)
        return Stored(subnetwork.kept_body)


def register_selection(method: Selection) -> Selection:
    """Register a selection, and under "<name>-rescaled" the same choice with rescaled updates."""
    register(dataclasses.replace(method, name=f"{method.name}-rescaled", rule="rescale"))
    return register(method)


def keep_highest(name: str, stochastic: bool = False) -> Callable:
    """Register a method by the score of an entry: in every row the k entries of highest score are kept.

    The decorated function maps (finetuned, pretrained, generator) to scores, all of them (rows, n); `generator` is a
    seeded `torch.Generator`. Equal scores are kept in the order of their position. "<name>-rescaled" is registered too:
    the same choice, the kept updates multiplied by n / k.
    """

    def decorate(scores: selection.Criterion) -> selection.Criterion:
        selection.criterion(name)(scores)
        register_selection(Selection(name, criterion=name, stochastic=stochastic))
        return scores

    return decorate
