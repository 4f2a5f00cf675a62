"""Methods that train: what the study offers them, and what they may change in the loop of fine-tuning.

The loop itself is the study's. So every method has the optimiser, the number of steps, the order of the data and the
rule that chooses the best epoch on validation from the fine-tuning that it is compared with.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn


class TrainingHooks:
    """What a method changes in the loop of fine-tuning; these hooks change nothing."""

    def parameter_groups(self, model: nn.Module, rate: float) -> list[dict]:
        """Parameters to train, as torch's optimisers take them; `rate` is the learning rate of a group without one."""
        return [{"params": [parameter for parameter in model.parameters() if parameter.requires_grad]}]

    def penalty(self, progress: float) -> torch.Tensor | float:
        """Added to the loss of a step; `progress` is the share of the steps that are done, 0 to 1."""
        return 0.0

    def after_step(self, progress: float) -> None:
        """Called after every step of the optimiser."""

    def candidate(self, model: nn.Module, progress: float) -> nn.Module | None:
        """The model to evaluate on validation at the end of an epoch, or None where there is none to choose yet."""
        return model


@dataclass(frozen=True)
class Fitted:
    """The best model of a training by its score on validation.

    Attributes:
        model: with the values of its best epoch.
        learning_rate: peak of the learning rate.
        validation_weighted_f1: of the best epoch.
    """

    model: nn.Module
    learning_rate: float
    validation_weighted_f1: float


class Training(ABC):
    """Fine-tuning as a cell had it.

    Attributes:
        learning_rate_multipliers: learning rates to try, in units of the fine-tuning's; the best on validation counts.
    """

    learning_rate_multipliers: tuple[float, ...]

    @abstractmethod
    def initial_model(self) -> nn.Module:
        """A new model in the initial state: pre-trained body, this cell's fresh head."""

    @abstractmethod
    def fit(self, model: nn.Module, hooks: TrainingHooks, learning_rate_multiplier: float) -> Fitted:
        """Train a model; its random draws come from torch's seed, the order of the data is the cell's."""

    @abstractmethod
    def examples(self, batch_size: int) -> Iterator[dict[str, torch.Tensor]]:
        """The training set, once, in its own order, as batches of input_ids, attention_mask and labels."""


class TrainedMethod:
    """Mixed into a `Method` that trains: tries every learning rate and keeps the best on validation.

    Attributes:
        rate_factors: what `Training.learning_rate_multipliers` is where a config does not set it.
    """

    family = "trained"
    needs_data = True
    rate_factors: tuple[float, ...] = (1.0,)

    def best_fit(self, cell, build) -> Fitted:
        """Train `build() -> (model, hooks)` anew at every learning rate; the fit that is best on validation."""
        best = None
        for multiplier in cell.training.learning_rate_multipliers:
            torch.manual_seed(cell.seed)
            fitted = cell.training.fit(*build(), multiplier)
            if best is None or fitted.validation_weighted_f1 > best.validation_weighted_f1:
                best = fitted
        return best
